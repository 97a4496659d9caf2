//! Records a `node_exporter`, so that the benchmarks replay how a real host behaves.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Parser;
use url::Url;
use veghe_tests::{http, recording};

/// Record what a `node_exporter` exposes, for `--bin bench -- --recording FILE`.
///
/// Two hours, as in the recording of the repository, take two hours.
///
/// Example: cargo run --release -p veghe-tests --bin record -- `http://127.0.0.1:9100/metrics` host.tsv.zst
#[derive(Parser)]
struct Arguments {
    /// Where it answers
    url: Url,
    /// The file to make
    file: PathBuf,
    /// How many scrapes
    #[arg(long, default_value_t = 480)]
    scrapes: u32,
    /// Seconds from one to the next
    #[arg(long, default_value_t = 15)]
    interval_seconds: u32,
}

#[expect(clippy::print_stdout, reason = "a command line tool speaks on standard output")]
#[expect(clippy::disallowed_methods, reason = "a scrape is due at a moment of the clock")]
fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let interval = Duration::from_secs(arguments.interval_seconds.into());
    let begin = Instant::now();
    let mut scrapes = Vec::new();
    for number in 0..arguments.scrapes {
        std::thread::sleep((begin + interval * number).saturating_duration_since(Instant::now()));
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        scrapes.push((now.tv_sec * 1000 + now.tv_nsec / 1_000_000, http::get(&arguments.url)?));
        println!("{} of {}", number + 1, arguments.scrapes);
    }
    let series = recording::write(&scrapes, &arguments.file).context("nothing is recorded")?;
    println!("{}: {series} series", arguments.file.display());
    Ok(())
}
