//! Which scanners are asked: the keys of `sensors.escl`.

use std::path::PathBuf;
use std::time::Duration;

use url::Url;
use veghe_wire::document::{Node, Problems, Section, format_duration, parse_bool};

use crate::sensors::options::{absolute, labels, list, quoted, required, span, write_labels};

/// Scanners have a thread each.
pub(super) const MAX_TARGETS: usize = 64;
pub(super) const TIMEOUT: Duration = Duration::from_secs(4);

/// Keys of the section, beside those that every sensor has.
pub(crate) const KEYS: &[&str] = &["discover", "targets"];

/// Everything of the section.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Whether scanners of the local network are looked for by mDNS.
    pub discover: bool,
    /// Whom to ask.
    pub targets: Vec<Target>,
}

/// A scanner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Where its eSCL begins, for example `https://scan-1.cjt.ro/eSCL`.
    pub url: Url,
    /// The CA that its certificate is from; without one the certificate is pinned at the first use.
    pub ca_file: Option<PathBuf>,
    /// How long all of it may take in a round.
    pub timeout: Duration,
    /// Labels of every series.
    pub labels: Vec<(String, String)>,
}

impl Target {
    /// Host and port: the value of the label `instance`.
    pub(super) fn instance(&self) -> String {
        let host = self.url.host_str().unwrap_or_default();
        self.url.port_or_known_default().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }
}

/// Reads the section.
pub(crate) fn read(section: &mut Section<'_>, problems: &mut Problems) -> Settings {
    let discover = section.value("discover", problems, parse_bool).unwrap_or(false);
    let nodes = section.list("targets", problems);
    let targets: Vec<Target> = nodes.iter().filter_map(|node| target(node, problems)).collect();
    if let (true, Some(node)) = (nodes.len() > MAX_TARGETS, nodes.first()) {
        problems.note(node.line, &*node.key, format_args!("are {}; at most {MAX_TARGETS} can be", nodes.len()));
    }
    Settings { discover, targets }
}

fn target(node: &Node, problems: &mut Problems) -> Option<Target> {
    let mut section = node.section(problems);
    let url = required(&mut section, "url", problems, web_url);
    let ca_file = section.value("ca_file", problems, absolute);
    let timeout = section.value("timeout", problems, span).unwrap_or(TIMEOUT);
    let labels = labels(&mut section, problems);
    section.finish(&["url", "ca_file", "timeout", "labels"], problems);
    Some(Target { url: url?, ca_file, timeout, labels })
}

/// An address of HTTP or HTTPS without a password.
pub(crate) fn web_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let url = url.ok_or_else(|| format!("`{text}` is no address; write for example `https://scan-1.cjt.ro/eSCL`"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("has a user or password in it, which would be a secret in the settings; remove it".to_owned());
    }
    Ok(url)
}

/// One scanner, as a document has it.
pub(crate) fn write_target(target: &Target) -> String {
    let ca = target.ca_file.as_ref().map(|file| format!(", ca_file: {}", quoted(&file.to_string_lossy())));
    format!(
        "{{url: {}{}, timeout: {}, labels: {}}}",
        quoted(target.url.as_str()),
        ca.unwrap_or_default(),
        format_duration(target.timeout),
        write_labels(&target.labels),
    )
}

/// What [`read`] reads, as a document has it.
pub(crate) fn write(settings: &Settings) -> String {
    let targets = list(settings.targets.iter().map(write_target));
    format!(", discover: {}, targets: {targets}", settings.discover)
}
