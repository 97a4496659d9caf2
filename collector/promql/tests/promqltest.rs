//! Prometheus' own query tests, and ours in the same language.

mod memory;
mod runner;

use std::path::Path;

use veghe_promql::NameRemoval;

/// Cases that passed and cases that were skipped, where none failed.
fn assert_none_fails(directory: &str, names: NameRemoval, leave_out: &[&str]) -> (usize, usize) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    let mut failures = Vec::new();
    let (mut passed, mut skipped, mut total) = (0, 0, 0);
    for (name, script) in runner::scripts(&directory).expect("the directory of test scripts") {
        if leave_out.contains(&name.as_str()) {
            continue;
        }
        let outcome = runner::run(&script, names);
        passed += outcome.passed;
        skipped += outcome.skipped;
        total += outcome.total();
        failures.extend(outcome.failures.into_iter().map(|f| format!("{name}: {f}")));
    }
    assert!(failures.is_empty(), "{} of {total} failed:\n{}", failures.len(), failures.join("\n"));
    (passed, skipped)
}

#[test]
fn prometheus_own_scripts_pass() {
    // The rest needs native histograms. A change of these numbers is a change of the scripts or of the runner.
    assert_eq!(assert_none_fails("tests/testdata", NameRemoval::Delayed, &[]), (1074, 313));
}

#[test]
fn prometheus_own_scripts_pass_without_delayed_name_removal() {
    // Those that are left out have cases about the delay itself.
    let leave_out = ["name_label_dropping.test", "histograms.test", "type_and_unit.test"];
    assert_eq!(assert_none_fails("tests/testdata", NameRemoval::Immediate, &leave_out), (930, 253));
}

#[test]
fn our_own_scripts_pass() {
    for names in [NameRemoval::Immediate, NameRemoval::Delayed] {
        let (passed, skipped) = assert_none_fails("tests/scripts", names, &[]);
        assert!(passed > 0 && skipped == 0);
    }
}
