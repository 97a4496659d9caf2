//! Wiring: sensors feed the uplink until the token is cancelled. Holds no state of its own and may run several times in
//! one process, as in the collector's `up`.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{self, Config};
use crate::delivery::Pace;
use crate::health::Health;
use crate::schedule::Schedule;
use crate::sensors::SensorSettings;
use crate::spool::Spool;
use crate::uplink::{Settings, Uplink};
use crate::{clock, sensors};

/// Reads `agent.yaml` in `state_dir` and runs the agent until `stop` is cancelled: then the last round is spooled, the
/// uplink gets a few seconds to deliver, and the collector is told.
///
/// # Errors
/// Where the settings, the identity or the spool can't be used. Troubles of the network are no errors.
pub async fn run(state_dir: &Path, stop: CancellationToken) -> anyhow::Result<()> {
    let config = Config::load(&state_dir.join(config::FILE))?;
    run_with(&config, state_dir, stop).await
}

/// As [`run`], with settings that were read already.
///
/// # Errors
/// As [`run`].
pub async fn run_with(config: &Config, state_dir: &Path, stop: CancellationToken) -> anyhow::Result<()> {
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
    let uplink = Uplink::new(settings, spool, Arc::clone(&health), tasks.clone())
        .with_context(|| format!("cannot start the uplink to {}", config.mqtt))?;
    let began = clock::instant();
    let settings = SensorSettings { state_dir: Some(state_dir.to_owned()), ..config.sensors.clone() };
    let (schedule, rounds) = Schedule::start(sensors::all(&settings), &config.schedule, health);
    let uplink = uplink.run(rounds);
    tokio::pin!(uplink);
    let early = tokio::select! {
        () = stop.cancelled() => false,
        () = &mut uplink => true,
    };
    anyhow::ensure!(!early, "the schedule ended by itself");
    tokio::join!(schedule.stop(), uplink);
    tasks.close();
    tasks.wait().await;
    tracing::info!(seconds = began.elapsed().as_secs_f64(), "agent ended");
    Ok(())
}
