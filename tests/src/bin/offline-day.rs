//! A day without the collector, at the rate of the default settings: how long it takes to catch up with, and how late what
//! is measured meanwhile is.

use std::time::Duration;

use clap::Parser;
use veghe_tests::offline_day::{Plan, run};

/// Give an agent a day of batches that no collector has, and tell how it catches up.
///
/// Example: cargo run --release -p veghe-tests --bin offline-day
#[derive(Parser)]
struct Arguments {
    /// How long the agent was alone, at most 24 hours at an interval of 15 s
    #[arg(long, default_value_t = 24)]
    hours: usize,
    /// Series in each batch of the day, at most 500
    #[arg(long, default_value_t = 500)]
    series: usize,
    /// Batches of the day that the agent may send in a second
    #[arg(long, default_value_t = 20)]
    rate: u32,
    /// The interval at which the agent takes fresh ones
    #[arg(long, default_value = "1s")]
    interval: String,
}

#[expect(clippy::print_stdout, reason = "a command line tool speaks on standard output")]
fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let dir = tempfile::tempdir()?;
    let plan = Plan {
        hours: arguments.hours,
        series: arguments.series,
        backfill_batches_per_second: arguments.rate,
        interval: arguments.interval,
    };
    let mut outcome = run(dir.path(), &plan, |line| println!("{line}"))?;
    outcome.fresh_late.sort_unstable();
    let late =
        |share: usize| outcome.fresh_late.get(outcome.fresh_late.len() * share / 100).or(outcome.fresh_late.last());
    let ms = |late: Option<&Duration>| late.map_or(0, Duration::as_millis);
    println!(
        "{} batches of {} series ({} bytes spooled) are stored after {:.1} s, each sample once; {} batches came again",
        outcome.batches,
        plan.series,
        outcome.spool_bytes,
        outcome.backfill.as_secs_f64(),
        outcome.repeated
    );
    println!(
        "{} fresh batches meanwhile: found after {} ms in the middle, {} ms for 99 of 100, {} ms at most",
        outcome.fresh_late.len(),
        ms(late(50)),
        ms(late(99)),
        ms(late(100))
    );
    Ok(())
}
