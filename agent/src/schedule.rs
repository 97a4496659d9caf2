//! When sensors run: a grid of ticks, a deadline for each; and rounds that leave in time whoever hangs.
//!
//! A coordinator thread wakes at each tick and gives the sensors that are due to a crew of workers (module `crew`).
//! The round leaves when all of them have answered, or after [`GRACE`], with whoever has. A sensor that answers later
//! but within its deadline makes a round of its own. One beyond its deadline is reported once, its series end, and it is
//! left alone until it returns.
//!
//! Invariants: a sensor never runs twice at once; a sensor never delays another by more than the grace; time stamps
//! ascend strictly, except after the system clock was set back by more than an interval, when the grid begins anew and
//! time stamps follow the clock; `veghe_agent_cycles_total` grows by one with each round at the common interval and is
//! in it. Other sensors and intervals are taken over between two rounds ([`Schedule::adopt`]); what is measured before and
//! after goes on without a gap, the rest ends. What it deliberately does not do: keep rounds (a full queue drops and counts the newest), know the wire.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use crate::clock;
use crate::crew::{Answer, Crew, Job};
use crate::footprint::{self, ESSENTIAL, Footprint, Look};
use crate::health::Health;
use crate::reading::{Reading, Round, SeriesSet, Sink};
use crate::sensors::Sensor;
use crate::sensors::agent::{Agent, SensorHealth};

/// How long a round waits for slow sensors.
pub const GRACE: Duration = Duration::from_millis(250);
/// How far from the planned tick a round may begin and still bear its time stamp.
pub const TICK_TOLERANCE_MS: i64 = 20;
/// Rounds that wait for the spool; the next one is dropped and counted.
pub const QUEUED_ROUNDS: usize = 8;
/// A difference between the system clock and the monotonic one, from one look to the next, that is a step.
const CLOCK_STEP_MS: i64 = 500;
/// A worker that is at one sensor for longer, or this part of the grace, gets company.
const STALL: Duration = Duration::from_millis(20);

/// When sensors run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// From one round to the next.
    pub interval: Duration,
    /// How long a sensor may take before its values no longer count.
    pub deadline: Duration,
    /// What differs for single sensors, by name.
    pub overrides: BTreeMap<String, Override>,
}

/// What differs for one sensor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Override {
    /// Instead of [`Settings::interval`].
    pub interval: Option<Duration>,
    /// Instead of [`Settings::deadline`].
    pub deadline: Option<Duration>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { interval: Duration::from_secs(15), deadline: Duration::from_secs(5), overrides: BTreeMap::new() }
    }
}

/// What is to be different from the next round on.
pub struct Change {
    /// The sensors that run then; `None` leaves those that do.
    pub sensors: Option<Vec<Box<dyn Sensor>>>,
    /// When they run.
    pub settings: Settings,
    /// What they may take.
    pub footprint: footprint::Settings,
}

/// Running sensors. Dropping it stops them at the next round.
pub struct Schedule {
    crew: Crew,
    change: Arc<Mutex<Option<Change>>>,
    ended: oneshot::Receiver<()>,
}

impl Schedule {
    /// Starts `sensors`; the first round is taken at once. The receiver ends when the schedule does.
    pub fn start(
        sensors: Vec<Box<dyn Sensor>>,
        settings: &Settings,
        health: Arc<Health>,
    ) -> (Self, mpsc::Receiver<Round>) {
        let (rounds, receiver) = mpsc::channel(QUEUED_ROUNDS);
        let (end, ended) = oneshot::channel();
        let mut coordinator = Coordinator::new(sensors, settings, health);
        let (crew, change) = (coordinator.crew.clone(), Arc::clone(&coordinator.change));
        let run = move || {
            coordinator.run(&rounds);
            drop(end);
        };
        // On failure the receiver is closed, which its owner sees.
        if let Err(error) =
            thread::Builder::new().name("schedule".into()).stack_size(crate::crew::STACK_BYTES).spawn(run)
        {
            tracing::error!(%error, "cannot start the schedule");
        }
        (Self { crew, change, ended }, receiver)
    }

    /// Takes `change` over before the next round.
    pub fn adopt(&self, change: Change) {
        let mut waiting = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        // One that was not taken over yet may have brought sensors that this one leaves as they are.
        let sensors = change.sensors.or_else(|| waiting.take().and_then(|before| before.sensors));
        *waiting = Some(Change { sensors, ..change });
        drop(waiting);
        self.crew.call();
    }

    /// Stops taking rounds and returns when the last one is in the queue. Does not wait for sensors that hang.
    pub async fn stop(self) {
        self.crew.dismiss();
        // Fails when the schedule has ended, which is what it says.
        self.ended.await.ok();
    }
}

/// Takes one round of `sensors`, each with its full deadline.
pub fn once(sensors: Vec<Box<dyn Sensor>>, settings: &Settings) -> Round {
    let mut coordinator = Coordinator::new(sensors, settings, Arc::default());
    let patience = coordinator.slots.iter().map(|slot| slot.deadline).max().unwrap_or_default();
    let timestamp_ms = coordinator.timeline.stamp(clock::now_ms(), None);
    coordinator.begin(timestamp_ms);
    coordinator.await_answers(patience);
    coordinator.collect(timestamp_ms, true)
}

/// One sensor as the coordinator sees it.
struct Slot {
    /// What its job is known by; never used twice.
    id: usize,
    name: &'static str,
    duty: Duty,
    /// As settings say; the grid's may be stretched.
    interval: Duration,
    /// Mean processor time of its runs.
    cost: Duration,
    deadline: Duration,
    grid: Grid,
    state: State,
    /// The series that the receiver has.
    delivered: Arc<SeriesSet>,
    health: SensorHealth,
    /// Whether its source has been there at its last answer.
    is_present: bool,
}

/// Whether a sensor is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Duty {
    Works,
    /// Left out to stay below the agent's ceilings.
    Shed,
    /// In no settings any more; leaves once its series have ended.
    Gone,
}

enum State {
    Idle(Job),
    /// At work since then, and what it says will count.
    Working(Instant),
    /// Still at work, but given up.
    Overdue,
    /// Answered, and the answer waits for its round.
    Answered(Job, Answer),
}

struct Coordinator {
    slots: Vec<Slot>,
    crew: Crew,
    timeline: Timeline,
    main: Grid,
    grace: Duration,
    agent: Agent,
    agent_sink: Sink,
    agent_delivered: Arc<SeriesSet>,
    health: Arc<Health>,
    cycles: u64,
    stopping: bool,
    change: Arc<Mutex<Option<Change>>>,
    next_id: usize,
    footprint: Footprint,
    footprint_settings: footprint::Settings,
    /// Ids of sensors that are shed, the last one last.
    shed: Vec<usize>,
    looked: (Instant, Duration),
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        self.crew.dismiss();
    }
}

impl Coordinator {
    fn new(sensors: Vec<Box<dyn Sensor>>, settings: &Settings, health: Arc<Health>) -> Self {
        let anchor_ms = clock::now_ms();
        let slots = sensors.into_iter().enumerate();
        let slots: Vec<_> = slots.map(|(id, sensor)| Slot::new(id, sensor, settings, anchor_ms)).collect();
        let next_id = slots.len();
        Self {
            slots,
            crew: Crew::default(),
            timeline: Timeline::new(clock::now_ms(), clock::instant()),
            main: Grid::new(settings.interval, anchor_ms),
            grace: GRACE.min(settings.interval / 4),
            agent: Agent::new(Arc::clone(&health)),
            agent_sink: Sink::default(),
            agent_delivered: Arc::default(),
            health,
            cycles: 0,
            stopping: false,
            change: Arc::default(),
            next_id,
            footprint: Footprint::new(footprint::Settings::boundless()),
            footprint_settings: footprint::Settings::boundless(),
            shed: Vec::new(),
            looked: (clock::instant(), Duration::ZERO),
        }
    }

    /// Takes over what is to be different.
    fn take_change(&mut self, now_ms: i64) {
        let change = self.change.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Change { sensors, settings, footprint }) = change else { return };
        if let Some(sensors) = sensors {
            self.replace(sensors, &settings, now_ms);
        }
        for slot in self.slots.iter_mut().filter(|slot| slot.duty != Duty::Gone) {
            (slot.interval, slot.deadline) = settings.of(slot.name);
        }
        if self.main.interval() != settings.interval {
            self.main.set_interval(settings.interval, now_ms);
            self.grace = GRACE.min(settings.interval / 4);
        }
        self.footprint.adopt(footprint.clone());
        self.footprint_settings = footprint;
        self.pace(now_ms);
    }

    fn replace(&mut self, sensors: Vec<Box<dyn Sensor>>, settings: &Settings, now_ms: i64) {
        let mut old = std::mem::take(&mut self.slots);
        let shed: Vec<&str> = old.iter().filter(|slot| slot.duty == Duty::Shed).map(|slot| slot.name).collect();
        let was_shed: Vec<&'static str> =
            shed.iter().filter_map(|name| sensors.iter().map(|s| s.name()).find(|n| n == name)).collect();
        for sensor in sensors {
            let mut slot = Slot::new(self.next_id, sensor, settings, now_ms);
            self.next_id += 1;
            if let Some(at) = old.iter().position(|before| before.name == slot.name) {
                let before = old.swap_remove(at);
                (slot.delivered, slot.health, slot.cost) = (before.delivered, before.health, before.cost);
            }
            self.slots.push(slot);
        }
        // Of one that hangs the thread stays until it returns; its job is known to nobody then.
        old.retain(|slot| !slot.delivered.0.is_empty());
        for slot in &mut old {
            slot.duty = Duty::Gone;
        }
        self.slots.append(&mut old);
        self.shed.clear();
        for name in was_shed {
            if let Some(slot) = self.slots.iter_mut().find(|slot| slot.name == name && slot.duty == Duty::Works) {
                slot.duty = Duty::Shed;
                self.shed.push(slot.id);
            }
        }
        self.footprint.shed_is(u32::try_from(self.shed.len()).unwrap_or(u32::MAX));
    }

    /// Gives every sensor the interval that it has now.
    fn pace(&mut self, now_ms: i64) {
        for slot in &mut self.slots {
            let is_optional = !ESSENTIAL.contains(&slot.name);
            let interval = if is_optional { self.footprint.stretched(slot.interval) } else { slot.interval };
            if slot.grid.interval() != interval {
                slot.grid.set_interval(interval, now_ms);
            }
        }
        self.health.interval_stretch.store(self.footprint.stretch().into(), Relaxed);
        self.health.shed_sensors.store(self.shed.len() as u64, Relaxed);
    }

    /// Looks at what the machine and the agent do, and makes room where need be.
    fn look(&mut self, now_ms: i64) {
        let (now, (looked, cpu_before)) = (clock::instant(), self.looked);
        let elapsed = now.saturating_duration_since(looked);
        if elapsed < self.footprint_settings.look_every {
            return;
        }
        let (cpu, resident_bytes) = self.agent.taken;
        self.looked = (now, cpu);
        let cpu_pressure = if self.footprint_settings.back_off { footprint::cpu_pressure() } else { None };
        let look = Look { elapsed, cpu_pressure, cpu: cpu.saturating_sub(cpu_before), resident_bytes };
        let is_optional = |slot: &&mut Slot| slot.duty == Duty::Works && !ESSENTIAL.contains(&slot.name);
        let can_shed = self.slots.iter_mut().filter(is_optional).count();
        match self.footprint.judge(look, can_shed) {
            footprint::Order::Stay => {}
            footprint::Order::Shed => {
                let dearest = self.slots.iter_mut().filter(is_optional).max_by(|a, b| {
                    let cost = |slot: &Slot| slot.cost.as_secs_f64() / slot.grid.interval().as_secs_f64();
                    cost(a).total_cmp(&cost(b)).then_with(|| b.name.cmp(a.name))
                });
                if let Some(slot) = dearest {
                    tracing::warn!(sensor = slot.name, "sensor is shed");
                    slot.duty = Duty::Shed;
                    self.shed.push(slot.id);
                }
            }
            footprint::Order::TakeBack => {
                let back = self.shed.pop().and_then(|id| self.slots.iter_mut().find(|slot| slot.id == id));
                if let Some(slot) = back {
                    tracing::info!(sensor = slot.name, "sensor is taken back");
                    slot.duty = Duty::Works;
                }
            }
        }
        self.pace(now_ms);
    }

    fn run(&mut self, rounds: &mpsc::Sender<Round>) {
        while !self.stopping && !rounds.is_closed() {
            let now_ms = self.look_at_clock();
            self.take_change(now_ms);
            let working = self.slots.iter().filter(|slot| slot.duty == Duty::Works);
            let grids = std::iter::once(&self.main).chain(working.map(|slot| &slot.grid));
            let planned_ms = grids.map(|grid| grid.next_ms).min().unwrap_or(now_ms);
            if planned_ms <= now_ms {
                self.round(planned_ms, now_ms, rounds);
            } else {
                let until_tick = Duration::from_millis((planned_ms - now_ms).unsigned_abs());
                let until_deadline = self.until_deadline().unwrap_or(until_tick);
                self.receive(until_tick.min(until_deadline));
                self.check_deadlines();
            }
            self.deliver_late(rounds);
        }
    }

    /// The round that was planned for `planned_ms` and begins at `now_ms`.
    fn round(&mut self, planned_ms: i64, now_ms: i64, rounds: &mpsc::Sender<Round>) {
        let timestamp_ms = self.timeline.stamp(now_ms, Some(planned_ms));
        let is_main = self.main.next_ms <= now_ms;
        self.begin(now_ms);
        self.main.advance(now_ms);
        self.await_answers(self.grace);
        if self.stopping {
            return;
        }
        let round = self.collect(timestamp_ms, is_main);
        self.deliver(round, rounds);
        if is_main {
            self.look(now_ms);
        }
    }

    /// Asks every sensor that is due and idle.
    fn begin(&mut self, now_ms: i64) {
        let mut jobs = Vec::with_capacity(self.slots.len());
        let is_due = |slot: &&mut Slot| slot.duty == Duty::Works && slot.grid.next_ms <= now_ms;
        for slot in self.slots.iter_mut().filter(is_due) {
            slot.grid.advance(now_ms);
            slot.state = match std::mem::replace(&mut slot.state, State::Overdue) {
                State::Idle(job) => {
                    jobs.push(job);
                    State::Working(clock::instant())
                }
                other => other,
            };
        }
        self.crew.order(jobs);
    }

    /// Waits until no sensor is at work, at most for `patience`.
    fn await_answers(&mut self, patience: Duration) {
        let begin = clock::instant();
        while !self.stopping && self.slots.iter().any(|slot| matches!(slot.state, State::Working(_))) {
            let Some(left) = patience.checked_sub(begin.elapsed()).filter(|left| !left.is_zero()) else { return };
            self.receive(self.until_deadline().map_or(left, |until| until.min(left)));
            self.check_deadlines();
        }
    }

    fn receive(&mut self, patience: Duration) {
        let news = self.crew.wait(patience, STALL.min(self.grace / 4));
        self.stopping |= news.is_dismissed;
        for (job, answer) in news.answers {
            let Some(slot) = self.slots.iter_mut().find(|slot| slot.id == job.slot()) else { continue };
            slot.take(job, answer);
        }
    }

    fn until_deadline(&self) -> Option<Duration> {
        let left = |slot: &Slot| match slot.state {
            State::Working(since) => Some(slot.deadline.saturating_sub(since.elapsed())),
            _ => None,
        };
        self.slots.iter().filter_map(left).min()
    }

    fn check_deadlines(&mut self) {
        for slot in &mut self.slots {
            if let State::Working(since) = slot.state
                && since.elapsed() >= slot.deadline
            {
                tracing::warn!(
                    sensor = slot.name,
                    deadline_seconds = slot.deadline.as_secs_f64(),
                    "sensor exceeded its deadline"
                );
                slot.state = State::Overdue;
                slot.health.succeeded = false;
                slot.health.is_known = true;
                slot.health.duration = since.elapsed();
                slot.health.deadline_exceeded_total += 1;
            }
        }
    }

    /// A round of everything that has been answered, and of the series that have ended without an answer.
    fn collect(&mut self, timestamp_ms: i64, is_main: bool) -> Round {
        let mut readings: Vec<_> = self.slots.iter_mut().filter_map(Slot::reading).collect();
        if is_main {
            self.cycles += 1;
            self.tell_failing();
            let told = self.slots.iter().filter(|slot| slot.is_present && slot.duty != Duty::Gone);
            let sensors = told.map(|slot| (slot.name, &slot.health));
            if let Err(error) = self.agent.read(self.cycles, sensors, &mut self.agent_sink) {
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot tell the agent's own health in full");
            }
            let (series, values) = self.agent_sink.take();
            readings.push(reading("agent", &self.agent_delivered, series, values));
        }
        Round { timestamp_ms, readings }
    }

    fn tell_failing(&self) {
        let fails = |slot: &&Slot| slot.duty == Duty::Works && slot.health.is_known && !slot.health.succeeded;
        let now = || self.slots.iter().filter(fails).map(|slot| slot.name);
        let mut failing = self.health.failing_sensors.lock().unwrap_or_else(PoisonError::into_inner);
        if !failing.iter().copied().eq(now()) {
            *failing = now().collect();
        }
    }

    /// What came after its round had left goes out on its own.
    fn deliver_late(&mut self, rounds: &mpsc::Sender<Round>) {
        if self.slots.iter().any(Slot::has_reading) {
            let timestamp_ms = self.timeline.stamp(clock::now_ms(), None);
            let round = self.collect(timestamp_ms, false);
            self.deliver(round, rounds);
        }
    }

    fn deliver(&mut self, round: Round, rounds: &mpsc::Sender<Round>) {
        let Ok(place) = rounds.try_reserve() else {
            // What ended is told with the next round that is delivered.
            self.health.rounds_dropped_total.fetch_add(1, Relaxed);
            return;
        };
        for reading in &round.readings {
            let slot = self.slots.iter_mut().find(|slot| slot.name == reading.sensor);
            let delivered = slot.map_or(&mut self.agent_delivered, |slot| &mut slot.delivered);
            if !Arc::ptr_eq(delivered, &reading.series) {
                *delivered = Arc::clone(&reading.series);
            }
        }
        place.send(round);
        self.slots.retain(|slot| slot.duty != Duty::Gone || !slot.delivered.0.is_empty());
    }

    /// The time by the system's clock; begins the grid anew if the clock was set back.
    fn look_at_clock(&mut self) -> i64 {
        let now_ms = clock::now_ms();
        let step_ms = self.timeline.look(now_ms, clock::instant());
        if step_ms.abs() > CLOCK_STEP_MS {
            self.health.clock_steps_total.fetch_add(1, Relaxed);
            tracing::warn!(step_ms, "the system clock was set");
        }
        if self.main.is_beyond(now_ms) {
            self.timeline.restart();
            let anchor_ms = self.main.anchor_apart(now_ms);
            self.main.restart(anchor_ms);
            self.slots.iter_mut().for_each(|slot| slot.grid.restart(anchor_ms));
        }
        now_ms
    }
}

impl Settings {
    /// Interval and deadline of the sensor `name`.
    fn of(&self, name: &str) -> (Duration, Duration) {
        let different = self.overrides.get(name).copied().unwrap_or_default();
        (different.interval.unwrap_or(self.interval), different.deadline.unwrap_or(self.deadline))
    }
}

impl Slot {
    fn new(id: usize, sensor: Box<dyn Sensor>, settings: &Settings, anchor_ms: i64) -> Self {
        let name = sensor.name();
        let (interval, deadline) = settings.of(name);
        let is_present = sensor.is_present();
        Self {
            id,
            name,
            duty: Duty::Works,
            interval,
            cost: Duration::ZERO,
            deadline,
            grid: Grid::new(interval, anchor_ms),
            state: State::Idle(Job::new(id, sensor)),
            delivered: Arc::default(),
            health: SensorHealth::default(),
            is_present,
        }
    }

    fn take(&mut self, job: Job, answer: Answer) {
        self.health.duration = answer.duration;
        self.is_present = job.is_present();
        self.health.is_known = true;
        self.cost = if self.cost.is_zero() { answer.cpu } else { (self.cost * 7 + answer.cpu) / 8 };
        if matches!(self.state, State::Overdue) {
            tracing::info!(sensor = self.name, seconds = answer.duration.as_secs_f64(), "overdue sensor returned");
            self.state = State::Idle(job);
            return;
        }
        match &answer.error {
            Some(error) => {
                self.health.failures_total += 1;
                if self.health.succeeded || self.health.failures_total == 1 {
                    tracing::warn!(sensor = self.name, error = error as &dyn std::error::Error, "sensor failed");
                }
            }
            None if self.health.failures_total > 0 && !self.health.succeeded => {
                tracing::info!(sensor = self.name, "sensor succeeds again");
            }
            None => {}
        }
        self.health.succeeded = answer.error.is_none();
        self.state = State::Answered(job, answer);
    }

    fn has_reading(&self) -> bool {
        if self.duty != Duty::Works {
            return !self.delivered.0.is_empty();
        }
        match self.state {
            State::Answered(..) => true,
            State::Overdue => !self.delivered.0.is_empty(),
            State::Idle(_) | State::Working(_) => false,
        }
    }

    /// What there is to tell about the sensor now; an answer is told once.
    fn reading(&mut self) -> Option<Reading> {
        if !self.has_reading() {
            return None;
        }
        match std::mem::replace(&mut self.state, State::Overdue) {
            State::Answered(job, answer) if self.duty == Duty::Works => {
                self.state = State::Idle(job);
                Some(reading(self.name, &self.delivered, answer.series, answer.values))
            }
            other => {
                self.state = match other {
                    State::Answered(job, _) => State::Idle(job),
                    other => other,
                };
                Some(reading(self.name, &self.delivered, Arc::default(), Vec::new()))
            }
        }
    }
}

fn reading(sensor: &'static str, delivered: &Arc<SeriesSet>, series: Arc<SeriesSet>, values: Vec<f64>) -> Reading {
    let ended = if Arc::ptr_eq(delivered, &series) { None } else { delivered.ended_in(&series) };
    Reading { sensor, series, values, ended }
}

/// Ticks at a fixed distance.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_field_names, reason = "units are in names")]
struct Grid {
    interval_ms: i64,
    anchor_ms: i64,
    next_ms: i64,
}

impl Grid {
    /// Ticks at `anchor_ms` and every `interval` after it.
    fn new(interval: Duration, anchor_ms: i64) -> Self {
        let interval_ms = i64::try_from(interval.as_millis()).unwrap_or(i64::MAX).max(1);
        Self { interval_ms, anchor_ms, next_ms: anchor_ms }
    }

    fn interval(&self) -> Duration {
        Duration::from_millis(self.interval_ms.unsigned_abs())
    }

    /// Ticks at another distance, the next one no later than both the planned one and that distance from now.
    fn set_interval(&mut self, interval: Duration, now_ms: i64) {
        let planned_ms = self.next_ms;
        self.interval_ms = i64::try_from(interval.as_millis()).unwrap_or(i64::MAX).max(1);
        self.advance(now_ms);
        self.next_ms = self.next_ms.min(planned_ms);
    }

    /// Goes on to the first tick after `now_ms`; ticks that were missed stay missed.
    fn advance(&mut self, now_ms: i64) {
        let since = now_ms.saturating_sub(self.anchor_ms).rem_euclid(self.interval_ms);
        self.next_ms = now_ms.saturating_add(self.interval_ms - since);
    }

    /// Whether the next tick is more than an interval away: the clock was set back.
    fn is_beyond(&self, now_ms: i64) -> bool {
        self.next_ms.saturating_sub(now_ms) > self.interval_ms
    }

    /// A new anchor at `now_ms` whose ticks are none of the present grid's, as those times may have been taken already.
    fn anchor_apart(&self, now_ms: i64) -> i64 {
        let coincides = now_ms.saturating_sub(self.anchor_ms).rem_euclid(self.interval_ms) == 0;
        now_ms + i64::from(coincides)
    }

    fn restart(&mut self, anchor_ms: i64) {
        self.anchor_ms = anchor_ms;
        self.next_ms = anchor_ms;
    }
}

/// Time stamps that ascend, and a watch on the system's clock.
#[derive(Debug)]
struct Timeline {
    last_stamp_ms: i64,
    looked_ms: i64,
    looked: Instant,
}

impl Timeline {
    fn new(now_ms: i64, instant: Instant) -> Self {
        Self { last_stamp_ms: i64::MIN, looked_ms: now_ms, looked: instant }
    }

    /// By how much the system's clock has gone ahead of the monotonic one since the last look. A machine that slept
    /// shows it as well.
    fn look(&mut self, now_ms: i64, instant: Instant) -> i64 {
        let elapsed_ms = i64::try_from((instant - self.looked).as_millis()).unwrap_or(i64::MAX);
        let step_ms = now_ms.saturating_sub(self.looked_ms).saturating_sub(elapsed_ms);
        (self.looked_ms, self.looked) = (now_ms, instant);
        step_ms
    }

    /// The time stamp of a round that begins at `now_ms`.
    fn stamp(&mut self, now_ms: i64, planned_ms: Option<i64>) -> i64 {
        let punctual = planned_ms.filter(|planned| (now_ms - planned).abs() <= TICK_TOLERANCE_MS);
        let stamp_ms = punctual.unwrap_or(now_ms).max(self.last_stamp_ms.saturating_add(1));
        self.last_stamp_ms = stamp_ms;
        stamp_ms
    }

    /// Forgets the last time stamp: the clock was set back.
    fn restart(&mut self) {
        self.last_stamp_ms = i64::MIN;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn grid() -> Grid {
        Grid::new(Duration::from_secs(15), 1_000)
    }

    #[test]
    fn missed_ticks_stay_missed_and_the_grid_stays() {
        let mut grid = grid();
        grid.advance(1_003);
        assert_eq!(grid.next_ms, 16_000);
        grid.advance(16_000);
        assert_eq!(grid.next_ms, 31_000);
        grid.advance(31_000 + 60 * 60 * 1000 + 7_000);
        assert_eq!((grid.next_ms - 1_000) % 15_000, 0);
        assert_eq!(grid.next_ms, 31_000 + 60 * 60 * 1000 + 15_000);
    }

    #[test]
    fn a_clock_that_was_set_back_begins_a_grid_without_the_times_already_taken() {
        let mut grid = grid();
        grid.advance(3_600_000);
        assert!(!grid.is_beyond(grid.next_ms - 15_000));
        assert!(grid.is_beyond(grid.next_ms - 15_001));
        assert_eq!(grid.anchor_apart(16_000), 16_001);
        assert_eq!(grid.anchor_apart(16_003), 16_003);
    }

    #[test]
    fn a_round_bears_the_planned_tick_unless_it_begins_late() {
        let mut timeline = Timeline::new(0, clock::instant());
        assert_eq!(timeline.stamp(16_020, Some(16_000)), 16_000);
        assert_eq!(timeline.stamp(31_021, Some(31_000)), 31_021);
    }

    #[test]
    fn a_step_of_the_clock_is_seen_against_the_monotonic_one() {
        let begin = clock::instant();
        let mut timeline = Timeline::new(10_000, begin);
        assert_eq!(timeline.look(25_000, begin + Duration::from_secs(15)), 0);
        assert_eq!(timeline.look(37_000, begin + Duration::from_secs(30)), -3_000);
        assert_eq!(timeline.look(3_652_000, begin + Duration::from_secs(45)), 3_600_000);
    }

    proptest! {
        #[test]
        fn time_stamps_ascend_whatever_the_clock_does(steps in prop::collection::vec(-20_000i64..40_000, 1..100)) {
            let (mut grid, mut timeline) = (grid(), Timeline::new(0, clock::instant()));
            let (mut now_ms, mut last_ms) = (0i64, i64::MIN);
            for step in steps {
                now_ms += step;
                if grid.is_beyond(now_ms) {
                    timeline.restart();
                    let anchor_ms = grid.anchor_apart(now_ms);
                    grid.restart(anchor_ms);
                    last_ms = i64::MIN;
                }
                if grid.next_ms <= now_ms {
                    let stamp_ms = timeline.stamp(now_ms, Some(grid.next_ms));
                    grid.advance(now_ms);
                    prop_assert!(stamp_ms > last_ms && grid.next_ms > now_ms && grid.next_ms - now_ms <= 15_000);
                    last_ms = stamp_ms;
                }
            }
        }
    }
}
