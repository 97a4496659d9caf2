//! Prometheus' own query tests, and ours in the same language.

mod runner;

use std::path::Path;

use veghe_promql::NameRemoval;

fn assert_all_pass(directory: &str, names: NameRemoval, leave_out: &[&str]) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    let mut failures = Vec::new();
    let mut passed = 0;
    for (name, script) in runner::scripts(&directory).expect("the directory of test scripts") {
        if leave_out.contains(&name.as_str()) {
            continue;
        }
        let outcome = runner::run(&script, names);
        passed += outcome.passed;
        failures.extend(outcome.failures.into_iter().map(|f| format!("{name}: {f}")));
    }
    assert!(failures.is_empty(), "{} of {} failed:\n{}", failures.len(), passed + failures.len(), failures.join("\n"));
    assert!(passed > 0, "no case in {}", directory.display());
}

#[test]
fn prometheus_own_scripts_pass() {
    assert_all_pass("tests/testdata", NameRemoval::Delayed, &[]);
}

#[test]
fn prometheus_own_scripts_pass_without_delayed_name_removal() {
    // These two are about the delay itself.
    assert_all_pass("tests/testdata", NameRemoval::Immediate, &["name_label_dropping.test"]);
}
