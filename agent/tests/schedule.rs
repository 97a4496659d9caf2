//! The schedule with real threads: sensors that hang, panic, come late; and rounds that leave regardless.

#![cfg(target_os = "linux")]

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use veghe_agent::footprint;
use veghe_agent::health::Health;
use veghe_agent::reading::{Round, SeriesName, Sink};
use veghe_agent::schedule::{Change, Override, QUEUED_ROUNDS, Schedule, Settings, once};
use veghe_agent::sensors::{self, Roots, Sensor, SensorError, SensorSettings};

const INTERVAL: Duration = Duration::from_millis(200);
const NEVER: Duration = Duration::from_mins(10);

fn settings(deadline: Duration) -> Settings {
    Settings { interval: INTERVAL, deadline, overrides: BTreeMap::new() }
}

/// A sensor that does what a function says, with the number of the round from 1.
struct Acting<F>(&'static str, u64, F);

impl<F: FnMut(u64, &mut Sink) -> Result<(), SensorError> + Send> Sensor for Acting<F> {
    fn name(&self) -> &'static str {
        self.0
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        self.1 += 1;
        (self.2)(self.1, sink)
    }
}

fn acting<F>(name: &'static str, act: F) -> Box<dyn Sensor>
where
    F: FnMut(u64, &mut Sink) -> Result<(), SensorError> + Send + 'static,
{
    Box::new(Acting(name, 0, act))
}

fn steady() -> Box<dyn Sensor> {
    acting("steady", |round, sink| {
        sink.put("steady_total", &[], round as f64);
        Ok(())
    })
}

fn value(round: &Round, metric: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let wanted = SeriesName::new(metric, labels);
    round.readings.iter().find_map(|reading| {
        let position = reading.series.0.iter().position(|name| *name == wanted)?;
        Some(reading.values[position])
    })
}

fn of_sensor(round: &Round, metric: &str, sensor: &str) -> Option<f64> {
    value(round, metric, &[("sensor", sensor)])
}

fn is_main(round: &Round) -> bool {
    value(round, "veghe_agent_cycles_total", &[]).is_some()
}

fn has(round: &Round, sensor: &str) -> bool {
    round.readings.iter().any(|reading| reading.sensor == sensor && !reading.values.is_empty())
}

#[tokio::test]
async fn cycles_count_every_main_round_and_time_stamps_ascend_on_the_grid() {
    let (schedule, mut rounds) = Schedule::start(vec![steady()], &settings(NEVER), Arc::default());
    let (mut last_ms, mut cycles, mut steady_rounds) = (0, 0.0, 0.0);
    while cycles < 5.0 || steady_rounds < 5.0 {
        let round = rounds.recv().await.expect("a round");
        assert!(round.timestamp_ms > last_ms);
        last_ms = round.timestamp_ms;
        if let Some(cycle) = value(&round, "veghe_agent_cycles_total", &[]) {
            assert_eq!(cycle, cycles + 1.0);
            cycles = cycle;
        }
        if let Some(steady) = value(&round, "steady_total", &[]) {
            assert_eq!(steady, steady_rounds + 1.0);
            steady_rounds = steady;
        }
    }
    schedule.stop().await;
    while rounds.recv().await.is_some() {}
}

#[tokio::test]
async fn a_sensor_that_hangs_on_its_file_neither_delays_nor_loses_the_others() {
    let directory = tempfile::tempdir().expect("directory");
    let path = |name: &str| directory.path().join(name);
    fs::write(path("meminfo"), "MemTotal: 16 kB\n").expect("write");
    // Nobody writes to it: opening it waits for ever.
    mknodat(CWD, path("loadavg"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("fifo");
    let roots = Roots { proc: directory.path().to_owned(), ..Roots::default() };
    let disabled = sensors::names().filter(|name| !["loadavg", "meminfo"].contains(name)).map(str::to_owned).collect();
    let all = sensors::all(&SensorSettings { roots, disabled, ..SensorSettings::default() });
    assert_eq!(all.len(), 2);
    let settings = settings(INTERVAL / 2);
    let (schedule, mut rounds) = Schedule::start(all, &settings, Arc::default());

    let (mut with_meminfo, mut exceeded) = (0, None);
    while with_meminfo < 5 || exceeded != Some(1.0) {
        let round = rounds.recv().await.expect("a round");
        assert!(!has(&round, "loadavg"));
        if let Some(bytes) = value(&round, "node_memory_MemTotal_bytes", &[]) {
            assert_eq!(bytes, 16384.0);
            with_meminfo += 1;
        }
        if is_main(&round) {
            assert_eq!(of_sensor(&round, "veghe_sensor_success", "loadavg"), Some(0.0));
            exceeded = of_sensor(&round, "veghe_sensor_deadline_exceeded_total", "loadavg");
            assert!(exceeded <= Some(1.0), "it is asked once while it hangs");
        }
    }

    // The file comes back, and whoever waits for the old one is let go, also one that came to it late.
    fs::rename(path("loadavg"), path("old")).expect("rename");
    fs::write(path("loadavg"), "0.5 0.25 0.125 1/100 4242\n").expect("write");
    loop {
        // To open it for both never waits.
        drop(OpenOptions::new().read(true).write(true).open(path("old")).expect("open"));
        let round = rounds.recv().await.expect("a round");
        if has(&round, "loadavg") {
            assert_eq!(value(&round, "node_load1", &[]), Some(0.5));
            break;
        }
    }
    schedule.stop().await;
}

#[tokio::test]
async fn a_schedule_with_a_hanging_sensor_stops() {
    let (keep, wait) = sync_channel::<()>(0);
    let hanging = acting("hanging", move |_, _| {
        wait.recv().ok();
        Ok(())
    });
    let (schedule, mut rounds) = Schedule::start(vec![hanging], &settings(NEVER), Arc::default());
    rounds.recv().await.expect("a round");
    schedule.stop().await;
    drop(keep);
}

#[tokio::test]
async fn a_panic_is_a_failure_of_that_sensor_in_that_round() {
    // Each round after the first waits until the outcome of the one before was told: on a busy machine an answer may
    // miss its round, and the next one would hide it.
    let (go_on, wait) = sync_channel(1);
    let panicking = acting("panicking", move |round, sink| {
        if round > 1 {
            wait.recv().ok();
        }
        sink.put("panicking_total", &[], round as f64);
        assert_ne!(round, 2, "as the test wants it");
        Ok(())
    });
    let (schedule, mut rounds) = Schedule::start(vec![panicking, steady()], &settings(NEVER), Arc::default());
    let mut steady_rounds = 0.0;
    let mut told = Vec::new();
    while told.last() != Some(&(1.0, 1.0)) {
        let round = rounds.recv().await.expect("a round");
        if let Some(steady) = value(&round, "steady_total", &[]) {
            assert_eq!(steady, steady_rounds + 1.0);
            steady_rounds = steady;
        }
        let of = |metric| of_sensor(&round, metric, "panicking");
        if let (Some(success), Some(failures)) = (of("veghe_sensor_success"), of("veghe_sensor_failures_total"))
            && told.last() != Some(&(success, failures))
        {
            told.push((success, failures));
            // Before the first answer is told, the sensor is not asked to wait yet.
            if (success, failures) != (0.0, 0.0) {
                go_on.send(()).expect("the sensor lives");
            }
        }
    }
    assert!(told.ends_with(&[(1.0, 0.0), (0.0, 1.0), (1.0, 1.0)]), "{told:?}");
    drop(go_on);
    schedule.stop().await;
}

/// A sensor that takes as long as the test wants.
fn released(release: Receiver<()>) -> Box<dyn Sensor> {
    acting("late", move |round, sink| {
        release.recv().ok();
        sink.put("late_total", &[], round as f64);
        Ok(())
    })
}

#[tokio::test]
async fn a_late_sensor_makes_a_round_of_its_own_with_its_own_time() {
    let (release, wait) = sync_channel(1);
    let (schedule, mut rounds) = Schedule::start(vec![released(wait), steady()], &settings(NEVER), Arc::default());
    let first = rounds.recv().await.expect("a round");
    assert!(is_main(&first) && !has(&first, "late"));
    release.send(()).expect("sensor");
    let mut last_ms = first.timestamp_ms;
    loop {
        let round = rounds.recv().await.expect("a round");
        assert!(round.timestamp_ms > last_ms);
        last_ms = round.timestamp_ms;
        if has(&round, "late") {
            assert_eq!(value(&round, "late_total", &[]), Some(1.0));
            assert!(!is_main(&round));
            break;
        }
    }
    schedule.stop().await;
}

#[tokio::test]
async fn series_of_a_sensor_beyond_its_deadline_end() {
    let is_hanging = Arc::new(AtomicBool::new(false));
    let (keep, wait) = sync_channel::<()>(0);
    let until = Arc::clone(&is_hanging);
    let sensor = acting("failing", move |_, sink| {
        if until.load(Relaxed) {
            wait.recv().ok();
        }
        sink.put("failing_total", &[], 1.0);
        Ok(())
    });
    let (schedule, mut rounds) = Schedule::start(vec![sensor], &settings(INTERVAL / 2), Arc::default());
    loop {
        let round = rounds.recv().await.expect("a round");
        if has(&round, "failing") {
            is_hanging.store(true, Relaxed);
        }
        let mut of_sensor = round.readings.iter().filter(|reading| reading.sensor == "failing");
        if let Some(ended) = of_sensor.find_map(|reading| reading.ended.as_ref()) {
            assert_eq!(ended.0, [SeriesName::new("failing_total", &[])]);
            break;
        }
    }
    drop(keep);
    schedule.stop().await;
}

#[tokio::test]
async fn sensors_have_intervals_of_their_own() {
    let mut settings = settings(NEVER);
    let own = Override { interval: Some(INTERVAL * 3), deadline: None };
    settings.overrides.insert("rare".to_owned(), own);
    let rare = acting("rare", |round, sink| {
        sink.put("rare_total", &[], round as f64);
        Ok(())
    });
    let (schedule, mut rounds) = Schedule::start(vec![rare, steady()], &settings, Arc::default());
    let mut with_rare = 0;
    let mut steady_rounds = 0;
    while with_rare < 3 {
        let round = rounds.recv().await.expect("a round");
        with_rare += u32::from(has(&round, "rare"));
        steady_rounds += u32::from(has(&round, "steady"));
    }
    assert!(steady_rounds > with_rare, "{steady_rounds} {with_rare}");
    schedule.stop().await;
}

#[tokio::test]
async fn rounds_that_nobody_takes_are_counted_and_what_ended_in_them_is_told_later() {
    let health = Arc::new(Health::default());
    let once = acting("once", |round, sink| {
        if round == 1 {
            sink.put("once_total", &[], 1.0);
        }
        // Changes after the queue is full.
        sink.put(if round > QUEUED_ROUNDS as u64 { "after_total" } else { "before_total" }, &[], 1.0);
        Ok(())
    });
    let (schedule, mut rounds) = Schedule::start(vec![once], &settings(NEVER), Arc::clone(&health));
    while health.rounds_dropped_total.load(Relaxed) < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut names = Vec::new();
    let mut last_cycle = 0.0;
    while names.len() < 2 {
        let round = rounds.recv().await.expect("a round");
        // On a busy machine an answer may come in a round of its own.
        if let Some(cycle) = value(&round, "veghe_agent_cycles_total", &[]) {
            assert!(cycle > last_cycle);
            last_cycle = cycle;
        }
        let ended = round.readings.iter().filter_map(|reading| reading.ended.as_ref());
        names.extend(ended.flat_map(|set| set.0.iter().map(|name| name.metric().to_owned())));
    }
    assert_eq!(names, ["once_total", "before_total"]);
    schedule.stop().await;
}

#[test]
fn one_round_waits_for_the_slow_and_leaves_out_who_hangs() {
    let (keep, wait) = sync_channel::<()>(0);
    let hanging = acting("hanging", move |_, _| {
        wait.recv().ok();
        Ok(())
    });
    let mut settings = settings(NEVER);
    settings.overrides.insert("hanging".to_owned(), Override { interval: None, deadline: Some(INTERVAL) });
    let round = once(vec![hanging, steady()], &settings);
    assert_eq!(of_sensor(&round, "veghe_sensor_success", "hanging"), Some(0.0));
    assert_eq!(of_sensor(&round, "veghe_sensor_deadline_exceeded_total", "hanging"), Some(1.0));
    assert_eq!(value(&round, "steady_total", &[]), Some(1.0));
    drop(keep);
}

#[tokio::test]
async fn other_sensors_and_intervals_are_taken_over_without_a_gap_and_what_leaves_ends() {
    let leaving = acting("leaving", |round, sink| {
        sink.put("leaving_total", &[], round as f64);
        Ok(())
    });
    let (schedule, mut rounds) = Schedule::start(vec![steady(), leaving], &settings(NEVER), Arc::default());
    let first = rounds.recv().await.expect("a round");
    assert!(has(&first, "steady") && has(&first, "leaving"));
    let coming = acting("coming", |_, sink| {
        sink.put("coming_up", &[], 1.0);
        Ok(())
    });
    let faster = Settings { interval: INTERVAL / 2, ..settings(NEVER) };
    let bounds = footprint::Settings::boundless();
    schedule.adopt(Change {
        sensors: Some(vec![steady(), coming]),
        settings: faster.clone(),
        footprint: bounds.clone(),
    });
    let (mut last_ms, mut last_cycle, mut ended, mut came) = (first.timestamp_ms, 1.0, 0, 0);
    let mut distances = Vec::new();
    // A busy machine may skip ticks of the grid for a while.
    let is_fast = |distances: &[i64]| distances.iter().any(|ms| *ms < 150);
    while came < 8 || came < 200 && !is_fast(&distances) {
        let round = rounds.recv().await.expect("a round");
        assert!(round.timestamp_ms > last_ms);
        if let Some(cycle) = value(&round, "veghe_agent_cycles_total", &[]) {
            assert_eq!(cycle, last_cycle + 1.0, "cycles go on");
            last_cycle = cycle;
            distances.push(round.timestamp_ms - last_ms);
        }
        last_ms = round.timestamp_ms;
        for reading in round.readings.iter().filter(|reading| reading.sensor == "leaving") {
            let ends = reading.ended.as_ref().is_some_and(|ended| ended.0.len() == 1);
            ended += u32::from(ends);
        }
        came += u32::from(has(&round, "coming"));
        assert!(came == 0 || of_sensor(&round, "veghe_sensor_success", "leaving").is_none());
    }
    assert_eq!(ended, 1, "told once");
    assert!(is_fast(&distances), "{distances:?}");
    // Only when they run changes: the sensors stay, with what they know.
    schedule.adopt(Change { sensors: None, settings: settings(NEVER), footprint: bounds });
    let mut steady_count = 0.0;
    for _ in 0..4 {
        let round = rounds.recv().await.expect("a round");
        let now = value(&round, "steady_total", &[]).unwrap_or(steady_count);
        assert!(now >= steady_count);
        steady_count = now;
    }
    assert!(steady_count > 8.0, "{steady_count}");
    schedule.stop().await;
}

/// Spends processor time, as a sensor that has much to read.
fn costly(name: &'static str, time: Duration) -> Box<dyn Sensor> {
    acting(name, move |_, sink| {
        let begin = veghe_agent::clock::thread_cpu();
        while veghe_agent::clock::thread_cpu().saturating_sub(begin) < time {
            std::hint::spin_loop();
        }
        sink.put("spent_seconds", &[("sensor", name)], time.as_secs_f64());
        Ok(())
    })
}

#[tokio::test]
async fn above_its_ceiling_of_processor_time_the_agent_sheds_the_dearest_optional_sensor_and_takes_it_back() {
    let ms = Duration::from_millis;
    // `cpu` is one that alerts stand on: it stays, whatever it costs.
    let all = vec![costly("cheap", ms(1)), costly("dear", ms(60)), costly("dearer", ms(90)), costly("cpu", ms(5))];
    let health = Arc::new(Health::default());
    let (schedule, mut rounds) = Schedule::start(all, &settings(NEVER), Arc::clone(&health));
    // They ask for 78 % of a processor, without the two dear ones for 3 %.
    let bounds = footprint::Settings { max_cpu_ratio: 0.1, look_every: ms(1), ..footprint::Settings::boundless() };
    schedule.adopt(Change { sensors: None, settings: settings(NEVER), footprint: bounds.clone() });
    let mut order = Vec::new();
    while order.len() < 2 {
        let round = rounds.recv().await.expect("a round");
        let ended = round.readings.iter().filter(|reading| reading.ended.is_some() && reading.values.is_empty());
        order.extend(ended.map(|reading| reading.sensor));
    }
    assert_eq!(order, ["dearer", "dear"]);
    assert!(health.shed_sensors.load(Relaxed) >= 2);
    // With room they come back, the last one first.
    let roomy = footprint::Settings { max_cpu_ratio: 5.0, ..bounds };
    schedule.adopt(Change { sensors: None, settings: settings(NEVER), footprint: roomy });
    let mut back = Vec::new();
    while back.len() < 2 {
        let round = rounds.recv().await.expect("a round");
        let came = ["dear", "dearer"].into_iter().filter(|name| has(&round, name));
        let came: Vec<_> = came.filter(|name| !back.contains(name)).collect();
        back.extend(came);
    }
    assert_eq!(back, ["dear", "dearer"]);
    assert_eq!(health.shed_sensors.load(Relaxed), 0);
    schedule.stop().await;
}
