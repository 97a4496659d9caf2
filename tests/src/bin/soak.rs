//! An hour of the agent at an interval of a second: memory, descriptors and threads have to stay flat.
//!
//! `cargo run --release -p veghe-tests --bin soak`, or for less: `-- --minutes 5`. Each look is a line: cycle, resident KiB, KiB of its own,
//! descriptors, threads, seconds of processor time. Exit status 1 if something grew.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use veghe_tests::soak::{Until, run};

/// Run the agent for long and see that it takes no more at the end than at the beginning.
#[derive(Parser)]
struct Arguments {
    /// How long
    #[arg(long, default_value = "60")]
    minutes: u64,
    /// From one round to the next
    #[arg(long, default_value = "1s")]
    interval: String,
    /// KiB of its own memory by which the last quarter may exceed the second one
    #[arg(long, default_value = "512")]
    slack_kib: i64,
    /// Where collector and agent keep their data; a temporary directory if not said
    #[arg(long)]
    dir: Option<PathBuf>,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let temporary = tempfile::tempdir()?;
    let dir = arguments.dir.unwrap_or_else(|| temporary.path().to_owned());
    std::fs::create_dir_all(&dir)?;
    let mut out = std::io::stdout();
    let soaked = run(&dir, &arguments.interval, Until::Elapsed(Duration::from_mins(arguments.minutes)), |look| {
        // Whoever reads no more still wants the end to be known by the exit status.
        let line =
            (look.cycle, look.resident_kib, look.own_kib, look.descriptors.len(), look.threads.len(), look.cpu_seconds);
        writeln!(out, "{} {} {} {} {} {}", line.0, line.1, line.2, line.3, line.4, line.5)
            .and_then(|()| out.flush())
            .ok();
    })?;
    match soaked.judge(arguments.slack_kib) {
        Ok(text) => {
            writeln!(std::io::stdout(), "flat: {text}")?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            writeln!(std::io::stdout(), "{error}")?;
            Ok(ExitCode::FAILURE)
        }
    }
}
