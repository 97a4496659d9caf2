//! The long version of the promise that nothing is lost: kills agent and collector at random moments, cuts them apart,
//! and compares what was taken with what is stored.

use anyhow::Context as _;
use clap::Parser;
use veghe_tests::nothing_lost::{Plan, run};

/// Kill agent and collector at random moments and check that every cycle is stored exactly once.
///
/// Example: cargo run --release -p veghe-tests --bin nothing-lost -- --kills 50
#[derive(Parser)]
struct Arguments {
    /// How often something is killed
    #[arg(long, default_value_t = 50)]
    kills: u32,
    /// How many cycles the agent takes while the collector is away (40 are 10 minutes at 15 s)
    #[arg(long, default_value_t = 600)]
    outage_cycles: usize,
    /// The agent's interval
    #[arg(long, default_value = "100ms")]
    interval: String,
    /// Repeats the moments and victims of an earlier run
    #[arg(long)]
    seed: Option<u64>,
}

#[expect(clippy::print_stdout, reason = "a command line tool speaks on standard output")]
fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let seed = match arguments.seed {
        Some(seed) => seed,
        None => getrandom::u64().context("no randomness")?,
    };
    println!("seed {seed}");
    let dir = tempfile::tempdir()?;
    let plan =
        Plan { kills: arguments.kills, outage_cycles: arguments.outage_cycles, interval: arguments.interval, seed };
    let outcome = run(dir.path(), &plan, |line| println!("{line}"))?;
    println!(
        "nothing lost: {} cycles of {} runs taken, {} stored, each once",
        outcome.taken, outcome.runs, outcome.stored
    );
    Ok(())
}
