//! Hours without the collector, caught up with faster than by default: see `src/offline_day.rs`, and `--bin offline-day` for the
//! whole day.

use veghe_tests::offline_day::{Plan, run};

#[test]
fn what_was_measured_alone_arrives_whole_and_delays_nothing_that_is_measured_meanwhile() {
    let dir = tempfile::tempdir().expect("directory");
    let plan = Plan { hours: 2, series: 60, backfill_batches_per_second: 40, interval: "500ms".into() };
    let outcome = run(dir.path(), &plan, |line| println!("{line}")).expect("nothing lost or delayed");
    println!("{outcome:?}");
    // The rate leaves 12 s for it on every machine; behind the backlog not one would be there before its end.
    assert!(outcome.fresh_late.len() >= 5, "{outcome:?}");
}
