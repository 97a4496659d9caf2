//! Discovery: what there is on this machine that could be watched. It proposes; nothing is watched by being found.
//!
//! Looks once after the start and then daily, on a thread of its own, at names of files and directories, at the kernel's
//! table of listening sockets, and at `/metrics` of exporters on loopback ports that are known for one. Where
//! settings say so it asks the local network, by mDNS, for scanners.
//! What it deliberately does not do: send anything but those requests, scan ports or networks, read contents.

#[cfg(target_os = "linux")]
mod exporters;
#[cfg(target_os = "linux")]
mod machine;
#[cfg(target_os = "linux")]
mod scanners;

use std::time::Duration;

use tokio::sync::mpsc;
use veghe_wire::document::{Node, Problems, format_duration, parse_bool, parse_duration};
#[cfg(target_os = "linux")]
use veghe_wire::remote::FOUND_WORDS;
use veghe_wire::remote::{Finding, Findings, MAX_FINDINGS, cut};

use crate::clock;

/// The start belongs to what is measured.
const FIRST_AFTER: Duration = Duration::from_secs(5);
const SHORTEST_INTERVAL: Duration = Duration::from_mins(1);

/// Whether and how often it looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Whether it looks at all.
    pub enabled: bool,
    /// From one look to the next.
    pub interval: Duration,
    /// Whether it asks the local network for scanners.
    pub scanners: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { enabled: true, interval: Duration::from_hours(24), scanners: false }
    }
}

/// Reads the section `discovery`.
pub(crate) fn read(node: &Node, problems: &mut Problems) -> Settings {
    let mut section = node.section(problems);
    let mut settings = Settings::default();
    settings.enabled = section.value("enabled", problems, parse_bool).unwrap_or(settings.enabled);
    let interval = |text: &str| match parse_duration(text)? {
        interval if interval >= SHORTEST_INTERVAL => Ok(interval),
        _ => Err(format!("`{text}` is too short; at least {}", format_duration(SHORTEST_INTERVAL))),
    };
    settings.interval = section.value("interval", problems, interval).unwrap_or(settings.interval);
    settings.scanners = section.value("scanners", problems, parse_bool).unwrap_or(settings.scanners);
    section.finish(&["enabled", "interval", "scanners"], problems);
    settings
}

/// What [`read`] reads.
pub(crate) fn write(settings: &Settings) -> String {
    let Settings { enabled, interval, scanners } = settings;
    let interval = format_duration(*interval);
    format!("discovery:\n  enabled: {enabled}\n  interval: {interval}\n  scanners: {scanners}\n")
}

/// All that can be watched here, in a steady order.
pub fn look(settings: &Settings) -> Findings {
    #[cfg(target_os = "linux")]
    let found = {
        let mut found = machine::look(&crate::sensors::Roots::default());
        if settings.scanners {
            found.extend(scanners::look());
        }
        found.extend(exporters::look(&crate::sensors::Roots::default().proc, exporters::KNOWN));
        found
    };
    #[cfg(not(target_os = "linux"))]
    let (found, _) = (Vec::new(), settings);
    Findings { minor: veghe_wire::MINOR, looked_ms: clock::now_ms(), found: bounded(found) }
}

fn bounded(mut found: Vec<Finding>) -> Vec<Finding> {
    for finding in &mut found {
        finding.name = cut(&finding.name);
        finding.detail = cut(finding.detail.trim());
    }
    found.sort_by(|a, b| (&a.kind, &a.name).cmp(&(&b.kind, &b.name)));
    found.dedup_by(|a, b| (&a.kind, &a.name) == (&b.kind, &b.name));
    found.truncate(MAX_FINDINGS);
    found
}

/// Looks as `settings` say until the task is dropped; what it finds goes to `found`. A look that hangs, as on a stuck
/// mount, costs its thread and nothing else.
pub async fn run(settings: Settings, found: mpsc::Sender<Findings>) {
    if !settings.enabled {
        return;
    }
    let mut pause = FIRST_AFTER;
    loop {
        tokio::time::sleep(pause).await;
        pause = settings.interval;
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let asked = settings.clone();
        let work = move || drop(sender.send(look(&asked)));
        // Not a blocking task of the runtime, whose end would wait for it.
        let started = std::thread::Builder::new().name("discovery".into()).stack_size(1 << 20).spawn(work);
        if let Err(error) = started {
            tracing::warn!(%error, "cannot look for what could be watched");
            continue;
        }
        let Ok(findings) = receiver.await else { continue };
        tracing::debug!(found = findings.found.len(), "looked for what could be watched");
        if found.send(findings).await.is_err() {
            return;
        }
    }
}

/// A finding that needs no settings; its kind is one of [`FOUND_WORDS`].
#[cfg(target_os = "linux")]
fn plain(kind: &str, name: impl Into<String>, detail: impl Into<String>) -> Finding {
    debug_assert!(FOUND_WORDS.contains(&kind), "pages have no word for {kind}");
    Finding { kind: kind.to_owned(), name: name.into(), detail: detail.into(), settings: String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_steady_bounded_and_has_each_thing_once() {
        let finding = |kind: &str, name: String| Finding { kind: kind.into(), name, ..Finding::default() };
        let mut many: Vec<Finding> = (0..300).rev().map(|i| finding("b", format!("{i:03}"))).collect();
        many.extend([finding("a", "x".to_owned()), finding("a", "x".to_owned()), finding("a", "\n".repeat(900))]);
        let found = bounded(many);
        assert_eq!(found.len(), MAX_FINDINGS);
        assert_eq!((found[0].name.as_str(), found[1].name.as_str(), found[2].name.as_str()), ("", "x", "000"));
    }
}
