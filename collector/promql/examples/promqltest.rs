//! Runs every `.test` file of a directory and prints what passed.
//!
//! `cargo run --release -p veghe-promql --example promqltest -- DIR`

#![expect(clippy::print_stdout, reason = "a command-line program")]

#[path = "../tests/memory/mod.rs"]
mod memory;
#[path = "../tests/runner/mod.rs"]
mod runner;

use std::path::PathBuf;
use std::process::ExitCode;

use veghe_promql::NameRemoval;

fn main() -> ExitCode {
    let Some(directory) = std::env::args_os().nth(1).map(PathBuf::from) else {
        println!("usage: promqltest DIR");
        return ExitCode::from(64);
    };
    let scripts = match runner::scripts(&directory) {
        Ok(scripts) => scripts,
        Err(error) => {
            println!("cannot read {}: {error}", directory.display());
            return ExitCode::FAILURE;
        }
    };
    let mut failures = Vec::new();
    for (name, script) in scripts {
        // Prometheus runs its scripts with delayed name removal.
        let outcome = runner::run(&script, NameRemoval::Delayed);
        let (passed, total, skipped) = (outcome.passed, outcome.total(), outcome.skipped);
        println!("{name} {passed}/{total} (skipped {skipped} native-histogram cases)");
        failures.extend(outcome.failures.into_iter().map(|f| format!("{name}: {f}")));
    }
    for failure in &failures {
        println!("{failure}");
    }
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
