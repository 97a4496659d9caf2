//! The agent takes no more after many cycles than after a few. An hour of it is `--bin soak`.

use veghe_tests::soak::{Until, run};

#[test]
fn memory_descriptors_and_threads_stay_flat_over_many_cycles() {
    let dir = tempfile::tempdir().expect("directory");
    let soaked = run(dir.path(), "50ms", Until::Cycles(600), |_| {}).expect("run");
    // A build for debugging settles more slowly than the one that is measured for an hour.
    soaked.judge(1024).expect("flat");
}
