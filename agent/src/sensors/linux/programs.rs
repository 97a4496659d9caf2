//! Programs whose output is metrics: run now and then, each for a limited time.
//!
//! A program runs in the sandbox of the module `run`. Its output counts if it ends in time with success and breaks no
//! format; what it said last counts until it is run again.

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use super::asked::Asked;
use super::run::{self, Limits, Privileges};
use super::{Entry, Sensor, SensorError, Sink};
use crate::clock;
use crate::openmetrics::{self, Sample};
use crate::reading::SeriesName;

pub(crate) const ENTRY: Entry =
    Entry::new("programs", |_| Vec::new(), |settings| Box::new(Programs::new(settings.options.programs.clone())))
        .unless(|settings| {
            settings.options.programs.is_empty().then(|| "no programs are set; set sensors.programs.run".to_owned())
        });

/// More output is an error.
const MAX_BYTES: usize = 1 << 20;
const MAX_SAMPLES: usize = 5000;
/// How long a round waits for programs that just began.
const PATIENCE: Duration = Duration::from_millis(150);
const STACK_BYTES: usize = 256 << 10;

/// One program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The value of the label `program`.
    pub name: String,
    /// Path and arguments.
    pub command: Vec<String>,
    /// From one run to the next.
    pub interval: Duration,
    /// How long it may run before it is killed.
    pub timeout: Duration,
    /// How much memory each of its processes may write to.
    pub memory_bytes: u64,
    /// Whether it has the agent's capabilities; otherwise it has none.
    pub keeps_capabilities: bool,
}

/// What the programs say, `veghe_program_success`, `veghe_program_duration_seconds`.
pub(crate) struct Programs {
    programs: Vec<Running>,
}

struct Running {
    program: Program,
    asked: Option<Asked<Outcome>>,
    began: Option<Instant>,
    last: Option<Outcome>,
}

struct Outcome {
    samples: Result<Vec<(SeriesName, f64)>, String>,
    duration: Duration,
}

impl Programs {
    pub(crate) fn new(programs: Vec<Program>) -> Self {
        let running = |program| Running { program, asked: None, began: None, last: None };
        Self { programs: programs.into_iter().map(running).collect() }
    }
}

impl Sensor for Programs {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        self.programs.iter_mut().for_each(Running::begin);
        let begin = clock::instant();
        for running in &mut self.programs {
            running.take(PATIENCE.saturating_sub(begin.elapsed()));
        }
        let mut seen = HashSet::new();
        for Running { program, last, .. } in &self.programs {
            let Some(outcome) = last else { continue };
            let label = [("program", program.name.as_str())];
            sink.put("veghe_program_success", &label, f64::from(u8::from(outcome.samples.is_ok())));
            sink.put("veghe_program_duration_seconds", &label, outcome.duration.as_secs_f64());
            // Of a series that two programs have, the first one's counts.
            for (name, value) in outcome.samples.iter().flatten().filter(|(name, _)| seen.insert(name)) {
                sink.put_named(name, *value);
            }
        }
        Ok(())
    }
}

impl Running {
    /// Runs it, if it is time.
    fn begin(&mut self) {
        if self.began.is_some_and(|began| began.elapsed() < self.program.interval) {
            return;
        }
        if self.asked.is_none() {
            let program = self.program.clone();
            self.asked = Asked::start("program", STACK_BYTES, move || ask(&program)).ok();
        }
        if let Some(asked) = &mut self.asked {
            asked.ask();
            self.began = Some(clock::instant());
        }
    }

    fn take(&mut self, patience: Duration) {
        let Some(outcome) = self.asked.as_mut().and_then(|asked| asked.answer(patience)) else { return };
        let failed_before = self.last.as_ref().is_some_and(|last| last.samples.is_err());
        match &outcome.samples {
            Err(why) if !failed_before => {
                tracing::warn!(program = self.program.name, why, "a program gave no metrics");
            }
            _ => {}
        }
        self.last = Some(outcome);
    }
}

fn ask(program: &Program) -> Outcome {
    let begin = clock::instant();
    let output = output(program).map_err(|error| error.to_string());
    let duration = begin.elapsed();
    let parse = |text: String| {
        let samples = openmetrics::parse(&text, MAX_SAMPLES).map_err(|error| error.to_string())?;
        let ours = |sample: &Sample| sample.series.metric().starts_with("veghe_") || sample.series.metric() == "up";
        if samples.iter().any(ours) {
            return Err("it has a metric of the agent itself".to_owned());
        }
        Ok(samples.into_iter().map(|sample| (sample.series, sample.value)).collect())
    };
    Outcome { samples: output.and_then(parse), duration }
}

/// What it writes to its standard output, if it ends in time with success.
fn output(program: &Program) -> io::Result<String> {
    let (path, arguments) = program.command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let privileges = if program.keeps_capabilities { Privileges::Kept } else { Privileges::Dropped };
    let limits =
        Limits { timeout: program.timeout, output_bytes: MAX_BYTES, memory_bytes: program.memory_bytes, privileges };
    let output = run::run(Path::new(path), arguments, &[], &limits)?;
    if !output.status.success() {
        return Err(io::Error::other(format!("it ended with {}", output.status)));
    }
    String::from_utf8(output.text).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(name: &str, script: &str) -> Program {
        Program {
            name: name.to_owned(),
            command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            interval: Duration::from_hours(1),
            timeout: Duration::from_mins(2),
            memory_bytes: 256 << 20,
            keeps_capabilities: false,
        }
    }

    /// On a thread of its own, as the sandbox stays with the thread.
    fn of(program: Program) -> Outcome {
        std::thread::spawn(move || ask(&program)).join().expect("no panic")
    }

    fn shell(script: &str, timeout: Duration) -> Outcome {
        let command = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        of(Program { command, timeout, ..program("test", "") })
    }

    #[test]
    fn output_counts_only_of_a_program_that_ends_well_and_in_time() {
        let patient = Duration::from_mins(1);
        let outcome = shell("echo 'raid_free_bytes{raid=\"a\"} 5'", patient);
        assert_eq!(outcome.samples, Ok(vec![(SeriesName::new("raid_free_bytes", &[("raid", "a")]), 5.0)]));
        for (script, timeout, why) in [
            ("echo a 1; exit 3", patient, "exit status: 3"),
            ("echo a", patient, "cannot parse line 1: expected a value"),
            ("echo veghe_x 1", patient, "a metric of the agent itself"),
            ("yes 'a 1'", patient, "more than 1048576 bytes"),
            // The grandchild would hold the pipe open.
            ("echo a 1; sleep 600 & sleep 600", Duration::from_millis(50), "it ran longer than 0.05 s"),
        ] {
            let error = shell(script, timeout).samples.expect_err(script);
            assert!(error.contains(why), "{script}: {error}");
        }
        let missing = Program { command: vec!["/nowhere/x".to_owned()], ..program("missing", "") };
        assert!(of(missing).samples.is_err());
    }

    #[test]
    fn a_program_keeps_its_values_until_it_is_run_again_and_one_that_hangs_delays_nobody() {
        let directory = tempfile::tempdir().expect("directory");
        let release = directory.path().join("release");
        let hangs = format!("until [ -e {} ]; do sleep 0.02; done", release.display());
        let mut sensor = Programs::new(vec![program("good", "echo a 1"), program("hangs", &hangs)]);
        let mut sink = Sink::default();
        loop {
            sensor.read(&mut sink).expect("never fails");
            let (series, _) = sink.take();
            let names: Vec<_> = series.0.iter().map(SeriesName::metric).collect();
            if names == ["veghe_program_success", "veghe_program_duration_seconds", "a"] {
                break;
            }
            assert!(names.is_empty(), "{names:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
        sensor.read(&mut sink).expect("never fails");
        assert_eq!(sink.take().1.last(), Some(&1.0));
        // Its directory goes with it, and not if this process ends before.
        std::fs::write(release, "").expect("release");
        while sensor.programs.iter().any(|running| running.last.is_none()) {
            sensor.read(&mut sink).expect("never fails");
            sink.take();
        }
    }
}
