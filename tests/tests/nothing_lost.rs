//! The short version of the long run: see `src/nothing_lost.rs`.

use veghe_tests::nothing_lost::{Plan, run};

#[test]
fn every_cycle_is_stored_once_whatever_is_killed() {
    let dir = tempfile::tempdir().expect("directory");
    let plan = Plan { kills: 8, outage_cycles: 40, interval: "100ms".into(), seed: getrandom::u64().expect("random") };
    println!("{plan:?}");
    let outcome = run(dir.path(), &plan, |line| println!("{line}")).expect("nothing lost");
    assert!(outcome.taken >= plan.outage_cycles && outcome.stored >= outcome.taken, "{outcome:?}");
}
