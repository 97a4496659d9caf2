//! A simulated year of the whole archive: 5,000 units, 180 m, 900,000 images, four stations, rework, holidays, jams, a
//! strike, and a collector that is killed on the way. Prints what was measured; fails where any number differs.
//!
//! Usage: cargo run --release -p veghe-tests --bin digitization-year

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::ensure;
use clap::Parser;
use veghe_tests::archive::Size;
use veghe_tests::digitize::{Outcome, digitize, under_way};

/// Simulate a year of the whole archive and see that every total of the collector is right.
#[derive(Parser)]
struct Arguments {
    /// Instead fill DIR/data with an archive that is under way since spring, for
    /// `veghe-collector up --data-dir DIR/data` and its page /digitization
    #[arg(long, value_name = "DIR")]
    under_way: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    if let Some(dir) = Arguments::parse().under_way {
        std::fs::create_dir_all(&dir)?;
        return under_way(&dir, Size::UNDER_WAY)?.process.interrupt().map(drop);
    }
    let dir = tempfile::tempdir()?;
    let outcome = digitize(dir.path(), Size::WHOLE, 15)?;
    let Outcome { books, ingest, restart, first_report, next_report, page, slowest_list, kills, project, ledger_bytes } =
        &outcome;
    let mut out = std::io::stdout();
    writeln!(
        out,
        "units {}, shelf {} mm, images {}, made again {}",
        books.units, books.mm, books.images, books.rescanned
    )?;
    writeln!(out, "events {}, finished {}, killed {kills} times, every total equal", books.events, books.finished)?;
    writeln!(out, "ingest {:.1} s, {:.0} events/s", ingest.as_secs_f64(), books.events as f64 / ingest.as_secs_f64())?;
    writeln!(out, "ledger {} MiB, restart until ready {:.2} s", ledger_bytes >> 20, restart.as_secs_f64())?;
    writeln!(
        out,
        "report {:.0} ms, again {:.1} ms",
        first_report.as_secs_f64() * 1e3,
        next_report.as_secs_f64() * 1e3
    )?;
    writeln!(out, "page {:.1} ms", page.as_secs_f64() * 1e3)?;
    let (list, took) = slowest_list;
    writeln!(out, "every list adds up; the slowest {:.0} ms ({list})", took.as_secs_f64() * 1e3)?;
    let honesty = &project["honesty"];
    for week in honesty["weeks"].as_array().into_iter().flatten() {
        writeln!(
            out,
            "  {}  P50 {}  P85 {}  P95 {}  {}",
            week["as_of"], week["forecast"]["p50"], week["forecast"]["p85"], week["forecast"]["p95"], week["p85_held"]
        )?;
    }
    let share = honesty["p85_share"].as_f64().unwrap_or(0.0);
    // One year has one finish, so that its weeks hold or fail together: the collector's own tests judge many years.
    writeln!(out, "P85 held in {:.0} % of the weeks of this year", share * 100.0)?;
    ensure!(ingest.as_secs() < 60, "ingest took {ingest:?}");
    ensure!(page.as_millis() < 50, "the project's page took {page:?}");
    Ok(())
}
