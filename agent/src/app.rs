//! Wiring: sensors feed the uplink until the token is cancelled, and settings from the collector change both. Holds no
//! state of its own and may run several times in one process, as in the collector's `up`.

use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use veghe_wire::remote::Findings;
use veghe_wire::{Topic, ack};

use crate::config::{self, Config, MqttAddress};
use crate::delivery::Pace;
use crate::health::Health;
use crate::remote::{Effective, Local, Remote, Verdict};
use crate::schedule::{Change, Schedule};
use crate::spool::Spool;
use crate::uplink::{Desk, Order, Settings, Uplink};
use crate::{clock, discovery, log_budget, sensors};

/// New settings have proven good after so many intervals without a crash, within these bounds.
const TRIAL_INTERVALS: u32 = 3;
const TRIAL_RANGE: (Duration, Duration) = (Duration::from_secs(3), Duration::from_mins(1));
/// Messages of the collector and orders to the uplink that wait.
const QUEUED: usize = 8;
const MINUTE: Duration = Duration::from_mins(1);

/// Reads `agent.yaml` in `state_dir` and runs the agent until `stop` is cancelled: then the last round is spooled, the
/// uplink gets a few seconds to deliver, and the collector is told.
///
/// # Errors
/// Where the settings, the identity or the spool can't be used. Troubles of the network are no errors.
pub async fn run(state_dir: &Path, stop: CancellationToken) -> anyhow::Result<()> {
    run_local(Config::load_local(&state_dir.join(config::FILE))?, None, state_dir, stop).await
}

/// What whoever runs the agent knows better than `agent.yaml`.
#[derive(Clone, Debug)]
pub struct Given {
    /// Where the broker is.
    pub mqtt: MqttAddress,
    /// Hot folders to watch besides.
    #[cfg(target_os = "linux")]
    pub hot_folders: Vec<crate::digitization::settings::HotFolder>,
}

impl Given {
    fn apply(&self, config: &mut Config) {
        config.mqtt = self.mqtt.clone();
        #[cfg(target_os = "linux")]
        config.digitization.hot_folders.extend(self.hot_folders.iter().cloned());
    }
}

/// As [`run`], with what is given.
///
/// # Errors
/// As [`run`].
pub async fn run_given(given: Given, state_dir: &Path, stop: CancellationToken) -> anyhow::Result<()> {
    run_local(Config::load_local(&state_dir.join(config::FILE))?, Some(given), state_dir, stop).await
}

async fn run_local(
    local: Local,
    given: Option<Given>,
    state_dir: &Path,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    loop {
        let (remote, effective) = Remote::open(state_dir, local.clone())?;
        let is_on_trial = remote.is_on_trial();
        match run_with(remote, effective.config, given.clone(), state_dir, &stop).await {
            Ok(End::Stopped) => return Ok(()),
            Ok(End::Again) => tracing::info!("agent begins anew with other settings"),
            // What a person wrote is for that person to mend; what came from afar must not stop the agent.
            Err(error) if is_on_trial => {
                Remote::give_up(state_dir, local.clone(), &format!("the agent cannot run with them: {error:#}"));
            }
            Err(error) => return Err(error),
        }
    }
}

/// Why a run ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// It was told to.
    Stopped,
    /// Settings came that only a new start takes over.
    #[cfg_attr(
        not(target_os = "linux"),
        expect(dead_code, reason = "all settings of other platforms change on the run")
    )]
    Again,
}

async fn run_with(
    remote: Remote,
    mut config: Config,
    given: Option<Given>,
    state_dir: &Path,
    stop: &CancellationToken,
) -> anyhow::Result<End> {
    if let Some(given) = &given {
        given.apply(&mut config);
    }
    let health = Arc::new(Health::default());
    let spool_dir = state_dir.join("spool");
    let spool = Spool::open(&spool_dir, config.spool)?;
    let repairs = spool.repairs();
    if repairs != crate::spool::Repairs::default() {
        let (torn_segments, corrupt_records) = (repairs.torn_segments, repairs.corrupt_records);
        tracing::warn!(torn_segments, corrupt_records, "the spool was damaged, as after a power cut; the rest is kept");
    }
    tracing::info!(
        agent = %config.agent,
        collector = %config.mqtt,
        interval_seconds = config.schedule.interval.as_secs_f64(),
        spooled_batches = spool.batches(),
        "agent starts"
    );
    let tasks = TaskTracker::new();
    let settings = Settings {
        state_dir: state_dir.to_owned(),
        agent: config.agent.clone(),
        host: config.mqtt.host.clone(),
        port: config.mqtt.port,
        interval: config.schedule.interval,
        pace: Pace { backfill_per_second: config.backfill_per_second.into(), ..Pace::default() },
    };
    let (orders, ordered) = mpsc::channel(QUEUED);
    let (offers, mut offered) = mpsc::channel(QUEUED);
    let uplink = Uplink::new(settings, spool, Arc::clone(&health), tasks.clone())
        .with_context(|| format!("cannot start the uplink to {}", config.mqtt))?
        .with_desk(Desk { orders: ordered, offers });
    let began = clock::instant();
    config.sensors.state_dir = Some(state_dir.to_owned());
    let sensors = sensors::all_in_time(&config.sensors);
    #[cfg(target_os = "linux")]
    let (sources, sensors, uplink) = sources::start(&config, state_dir, &tasks, sensors, uplink)?;
    let (schedule, rounds) = Schedule::start(sensors, &config.schedule, Arc::clone(&health));
    let footprint = config.footprint.clone();
    schedule.adopt(Change { sensors: None, settings: config.schedule.clone(), footprint });
    let (found_to, mut found) = mpsc::channel(1);
    let mut steward = Steward {
        given,
        remote,
        config,
        health,
        schedule,
        orders,
        found_to,
        tasks,
        #[cfg(target_os = "linux")]
        sources,
        trial_ends: None,
        look: None,
        end: End::Stopped,
    };
    steward.begin();
    let uplink = uplink.run(rounds);
    tokio::pin!(uplink);
    let mut minutes = tokio::time::interval(MINUTE);
    let mut told_dropped = log_budget::dropped_total();
    while steward.end == End::Stopped {
        let trial_ends = steward.trial_ends;
        tokio::select! {
            () = stop.cancelled() => break,
            () = &mut uplink => anyhow::bail!("the schedule ended by itself"),
            Some(payload) = offered.recv() => steward.consider(&payload),
            Some(findings) = found.recv() => steward.announce(Topic::Findings, ack::encode(&findings)),
            () = until(trial_ends) => steward.settle(),
            _ = minutes.tick() => {
                let dropped = log_budget::dropped_total();
                if dropped > told_dropped {
                    tracing::warn!(lines = dropped - told_dropped, "log lines were left out: more than the budget of a minute");
                    told_dropped = dropped;
                }
            }
        }
    }
    if steward.end == End::Stopped {
        steward.remote.stop();
    }
    let end = steward.end;
    drop(steward.look);
    tokio::join!(steward.schedule.stop(), uplink);
    #[cfg(target_os = "linux")]
    steward.sources.stop().await;
    let tasks = steward.tasks;
    tasks.close();
    tasks.wait().await;
    tracing::info!(seconds = began.elapsed().as_secs_f64(), "agent ended");
    Ok(end)
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

/// Carries settings from the collector to whoever they are for.
struct Steward {
    given: Option<Given>,
    remote: Remote,
    /// In force.
    config: Config,
    health: Arc<Health>,
    schedule: Schedule,
    orders: mpsc::Sender<Order>,
    found_to: mpsc::Sender<Findings>,
    tasks: TaskTracker,
    #[cfg(target_os = "linux")]
    sources: sources::Sources,
    trial_ends: Option<Instant>,
    /// Ends the look-out for what could be watched.
    look: Option<tokio_util::sync::DropGuard>,
    end: End,
}

impl Steward {
    fn begin(&mut self) {
        self.begin_trial();
        self.look_out();
        self.tell();
    }

    fn begin_trial(&mut self) {
        let (least, most) = TRIAL_RANGE;
        let trial = (self.config.schedule.interval * TRIAL_INTERVALS).clamp(least, most);
        self.trial_ends = self.remote.is_on_trial().then(|| clock::instant() + trial);
    }

    fn look_out(&mut self) {
        let stop = CancellationToken::new();
        let look = discovery::run(self.config.discovery.clone(), self.found_to.clone());
        self.look = Some(stop.clone().drop_guard());
        self.tasks.spawn(async move { stop.run_until_cancelled_owned(look).await });
    }

    fn consider(&mut self, payload: &[u8]) {
        match self.remote.consider(payload) {
            None => return,
            Some(Verdict::Tell) => {}
            Some(Verdict::Adopt(effective)) => self.adopt(*effective),
        }
        self.tell();
    }

    fn adopt(&mut self, effective: Effective) {
        let before = std::mem::replace(&mut self.config, effective.config);
        let config = &mut self.config;
        // Not the collector's to change.
        config.sensors.state_dir.clone_from(&before.sensors.state_dir);
        if let Some(given) = &self.given {
            given.apply(config);
        }
        #[cfg(target_os = "linux")]
        if config.digitization != before.digitization || config.fixity != before.fixity {
            // Folders are watched by threads with a memory of their own.
            self.end = End::Again;
            return;
        }
        let sensors = (config.sensors != before.sensors).then(|| {
            let sensors = sensors::all_in_time(&config.sensors);
            #[cfg(target_os = "linux")]
            let sensors = self.sources.added_to(config, sensors);
            sensors
        });
        let (settings, footprint) = (config.schedule.clone(), config.footprint.clone());
        self.schedule.adopt(Change { sensors, settings, footprint });
        let pace = Order::Pace(config.schedule.interval, config.backfill_per_second.into());
        self.order(pace);
        if self.config.discovery != before.discovery {
            self.look_out();
        }
        self.begin_trial();
    }

    /// What was on trial has lasted.
    fn settle(&mut self) {
        self.trial_ends = None;
        self.remote.settle();
        self.tell();
    }

    fn tell(&mut self) {
        let failing = self.health.failing_sensors.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let report = self.remote.report(failing.into_iter().map(str::to_owned).collect());
        self.health.config_number.store(report.number, Relaxed);
        self.health.config_on_trial.store(report.on_trial.into(), Relaxed);
        self.health.config_refused_total.store(self.remote.refused_total(), Relaxed);
        self.announce(Topic::Report, ack::encode(&report));
    }

    fn announce(&self, topic: Topic, payload: Vec<u8>) {
        self.order(Order::Announce(topic, payload));
    }

    fn order(&self, order: Order) {
        // Full only while the uplink is busy with more important things; the next report tells the same.
        if let Err(error) = self.orders.try_send(order) {
            tracing::debug!(%error, "the uplink takes no orders now");
        }
    }
}

/// What is not measured in rounds: files and the events about them.
#[cfg(target_os = "linux")]
mod sources {
    use std::path::Path;

    use anyhow::Context as _;
    use tokio_util::sync::CancellationToken;
    use tokio_util::task::TaskTracker;

    use crate::config::Config;
    use crate::digitization::Digitization;
    use crate::digitization::courier::Courier;
    use crate::fixity::Fixity;
    use crate::sensors::Sensor;
    use crate::uplink::Uplink;

    /// What runs, the sensors with those that tell of it, and the uplink that takes its events.
    pub(super) type Started = (Sources, Vec<Box<dyn Sensor>>, Uplink);

    #[derive(Default)]
    pub(super) struct Sources {
        digitization: Option<Digitization>,
        fixity: Option<Fixity>,
        stop: CancellationToken,
    }

    pub(super) fn start(
        config: &Config,
        state_dir: &Path,
        tasks: &TaskTracker,
        sensors: Vec<Box<dyn Sensor>>,
        uplink: Uplink,
    ) -> anyhow::Result<Started> {
        let stop = CancellationToken::new();
        if config.digitization.is_empty() && config.fixity.storages.is_empty() {
            return Ok((Sources::default(), sensors, uplink));
        }
        let digitization = Digitization::start(&config.digitization, &config.agent, state_dir, &stop)
            .context("cannot watch the digitization")?;
        let fixity = Fixity::start(&config.fixity, &config.agent, state_dir, &digitization.news(), &stop)
            .context("cannot verify storages")?;
        let (courier, events) = Courier::new(&digitization, state_dir.to_owned(), stop.clone());
        tasks.spawn(courier.run());
        let sources = Sources { digitization: Some(digitization), fixity: Some(fixity), stop };
        let sensors = sources.added_to(config, sensors);
        Ok((sources, sensors, uplink.with_events(events)))
    }

    impl Sources {
        /// `sensors` with those that tell about it.
        pub(super) fn added_to(&self, config: &Config, mut sensors: Vec<Box<dyn Sensor>>) -> Vec<Box<dyn Sensor>> {
            let digitization = self.digitization.as_ref().filter(|_| !config.digitization.is_empty());
            let fixity = self.fixity.as_ref().filter(|_| !config.fixity.storages.is_empty());
            sensors.extend(digitization.map(Digitization::sensor));
            sensors.extend(fixity.map(Fixity::sensor));
            sensors
        }

        pub(super) async fn stop(self) {
            self.stop.cancel();
            let (digitization, fixity) = (self.digitization, self.fixity);
            // They end within the time of one look, or of one part of a file.
            let ended = tokio::task::spawn_blocking(move || {
                digitization.into_iter().for_each(Digitization::join);
                fixity.into_iter().for_each(Fixity::join);
            });
            if ended.await.is_err() {
                tracing::error!("ending the digitization failed unexpectedly");
            }
        }
    }
}
