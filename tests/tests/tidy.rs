//! Rules of the house that the compiler can't hold: directions of imports, licences, runbooks, names of metrics.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("workspace").to_owned()
}

/// Every file below `dir` with that ending.
fn files(dir: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(dir) else { return found };
    for entry in entries.map(|e| e.expect("entry").path()) {
        let name = entry.file_name().expect("name").to_string_lossy().into_owned();
        if entry.is_dir() && !matches!(name.as_str(), "target" | "node_modules" | "venv" | ".git") {
            found.extend(files(&entry, ending));
        } else if name.ends_with(ending) {
            found.push(entry);
        }
    }
    found.sort();
    found
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The platform that Debian's machines have.
const HOST: &str = "x86_64-unknown-linux-gnu";

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        // Only what this machine builds: the rest may never have been downloaded.
        .args(["--filter-platform", HOST])
        .current_dir(root())
        .output()
        .expect("cargo metadata");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn crates_import_downward_only() {
    let allowed: &[(&str, &[&str])] = &[
        ("veghe-wire", &[]),
        ("veghe-model", &[]),
        ("veghe-tsdb", &["veghe-model"]),
        ("veghe-promql", &["veghe-model"]),
        ("veghe-dialects", &[]),
        ("veghe-imagefile", &[]),
        ("veghe-agent", &["veghe-wire", "veghe-model", "veghe-dialects", "veghe-imagefile"]),
    ];
    let metadata = metadata();
    for (name, may) in allowed {
        let package =
            metadata["packages"].as_array().expect("packages").iter().find(|p| p["name"] == *name).expect(name);
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let other = dependency["name"].as_str().expect("name");
            assert!(!other.starts_with("veghe-") || may.contains(&other), "{name} must not import {other}");
        }
    }
}

#[test]
fn modules_of_the_collector_import_downward_only() {
    let source = root().join("collector/src");
    let rules: &[(&str, &[&str])] = &[
        ("ingest", &["crate::web", "crate::app", "crate::alerting", "crate::status"]),
        ("alerting", &["crate::web", "crate::app", "veghe_wire::batch", "rmqtt"]),
        ("status", &["crate::web", "crate::app", "veghe_wire::batch", "rmqtt"]),
        ("digitization", &["crate::web", "crate::app", "crate::ingest", "veghe_wire", "rmqtt"]),
        ("web", &["crate::app", "rmqtt", "veghe_wire::batch"]),
        ("remote", &["crate::web", "crate::app", "crate::alerting", "crate::status", "crate::ingest"]),
        ("import", &["crate::web", "crate::app", "crate::alerting", "crate::status", "crate::ingest"]),
        ("terminal", &["crate::web", "crate::app", "crate::alerting", "crate::status", "crate::ingest"]),
        ("query.rs", &["crate::web", "crate::app", "crate::alerting", "crate::status", "crate::ingest"]),
        ("ledger.rs", &["crate::app"]),
    ];
    for (module, forbidden) in rules {
        let path = source.join(module);
        let files = if path.is_dir() { files(&path, ".rs") } else { vec![path] };
        assert!(!files.is_empty(), "{module} is gone: mend this rule");
        for file in files {
            let text = read(&file);
            for name in *forbidden {
                assert!(!text.contains(name), "{} must not use {name}", file.display());
            }
        }
    }
}

#[test]
fn every_dependency_has_a_licence_that_we_accept() {
    let deny = read(&root().join("deny.toml"));
    let list = deny.split("allow = [").nth(1).and_then(|rest| rest.split(']').next()).expect("licence list");
    let allowed: BTreeSet<&str> = list.split('"').skip(1).step_by(2).collect();
    for package in metadata()["packages"].as_array().expect("packages") {
        let name = &package["name"];
        let licence = package["license"].as_str().unwrap_or_else(|| panic!("{name} states no licence"));
        // SPDX: one alternative must be acceptable in all of its parts.
        let acceptable = licence
            .replace('/', " OR ")
            .replace(['(', ')'], " ")
            .split(" OR ")
            .any(|alternative| alternative.split(" AND ").all(|part| allowed.contains(part.trim())));
        assert!(acceptable, "{name}: {licence} is not in deny.toml");
    }
}

#[test]
fn every_alert_has_a_runbook_and_uses_metrics_of_the_catalogue() {
    let mut alerts = 0;
    for file in files(&root().join("collector/rules"), ".yaml") {
        let text = read(&file);
        for line in text.lines().map(str::trim) {
            if let Some(alert) = line.strip_prefix("- alert: ") {
                alerts += 1;
                let runbook = root().join("playbooks").join(format!("{alert}.md"));
                assert!(runbook.is_file(), "{alert} has no playbook {}", runbook.display());
            }
        }
        assert_known_metrics(&file, &text);
    }
    assert!(alerts >= 7, "only {alerts} shipped alerts");
}

#[test]
fn documents_use_metrics_of_the_catalogue() {
    for file in files(&root(), ".md") {
        // The load that peers are compared by is node_exporter's, with what only that has.
        if !file.ends_with("tests/PEERS.md") {
            assert_known_metrics(&file, &read(&file));
        }
    }
    for file in files(&root().join("dashboards"), ".json") {
        assert_known_metrics(&file, &read(&file));
    }
}

fn assert_known_metrics(file: &Path, text: &str) {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    for name in text.split(|c| !word(c)).filter(|name| name.starts_with("node_") || name.starts_with("veghe_")) {
        // Crates, and prefixes as in `node_memory_*`, are no metrics.
        let is_crate = [
            "veghe_wire",
            "veghe_model",
            "veghe_tsdb",
            "veghe_promql",
            "veghe_agent",
            "veghe_dialects",
            "veghe_imagefile",
            "veghe_collector",
            "veghe_tests",
        ]
        .contains(&name);
        let known =
            is_crate || name.ends_with('_') || name == "node_exporter" || veghe_wire::catalogue::lookup(name).is_some();
        assert!(known, "{}: `{name}` is not in the catalogue", file.display());
    }
}

#[test]
fn nothing_is_left_for_later_and_no_file_is_endless() {
    for file in files(&root(), ".rs") {
        let text = read(&file);
        let lines = text.lines().count();
        assert!(lines <= 1500, "{} has {lines} lines: does it still have one subject?", file.display());
        for mark in ["TO".to_owned() + "DO", "FIX".to_owned() + "ME", "#[ig".to_owned() + "nore"] {
            assert!(!text.contains(&mark), "{} has a {mark}", file.display());
        }
        assert!(text.starts_with("//!") || text.starts_with("#!"), "{} has no header", file.display());
    }
}

#[test]
fn romanian_is_written_with_commas_below() {
    for ending in [".ftl", ".md", ".html", ".yaml", ".rs"] {
        for file in files(&root(), ending) {
            let text = read(&file);
            for cedilla in ['\u{15f}', '\u{15e}', '\u{163}', '\u{162}'] {
                assert!(!text.contains(cedilla), "{}: `{cedilla}` has a cedilla", file.display());
            }
        }
    }
}
