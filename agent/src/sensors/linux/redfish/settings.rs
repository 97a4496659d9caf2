//! Which management controllers are asked: the keys of `sensors.redfish`.

use std::path::PathBuf;
use std::time::Duration;

use url::Url;
use veghe_wire::document::{Node, Problems, Section, format_duration};

use super::super::escl::settings::web_url;
use crate::sensors::options::{absolute, few, labels, list, login, quoted, required, span, write_labels};

const TIMEOUT: Duration = Duration::from_secs(40);

/// Keys of the section, beside those that every sensor has.
pub(crate) const KEYS: &[&str] = &["targets"];

/// A controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Where it is, for example `https://bmc-server-1.cjt.ro`.
    pub url: Url,
    /// The CA that its certificate is from; without one the certificate is pinned at the first use.
    pub ca_file: Option<PathBuf>,
    /// The name, and the file with the password.
    pub login: Option<(String, PathBuf)>,
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
pub(crate) fn read(section: &mut Section<'_>, problems: &mut Problems) -> Vec<Target> {
    let nodes = section.list("targets", problems);
    let targets: Vec<Target> = nodes.iter().filter_map(|node| target(node, problems)).collect();
    few(nodes, nodes.len(), problems);
    targets
}

fn target(node: &Node, problems: &mut Problems) -> Option<Target> {
    let mut section = node.section(problems);
    let url = required(&mut section, "url", problems, web_url);
    let ca_file = section.value("ca_file", problems, absolute);
    let login = login(&mut section, problems);
    if let (Some(url), true) = (&url, login.is_some())
        && url.scheme() == "http"
        && !matches!(url.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"))
    {
        problems.note(node.line, section.path("url"), "would send the password in the clear; write `https://`");
    }
    let timeout = section.value("timeout", problems, span).unwrap_or(TIMEOUT);
    let labels = labels(&mut section, problems);
    section.finish(&["url", "ca_file", "username", "password_file", "timeout", "labels"], problems);
    Some(Target { url: url?, ca_file, login, timeout, labels })
}

/// What [`read`] reads, as a document has it.
pub(crate) fn write(targets: &[Target]) -> String {
    let path = |path: &PathBuf| quoted(&path.to_string_lossy());
    let targets = list(targets.iter().map(|target| {
        let ca = target.ca_file.as_ref().map(|file| format!(", ca_file: {}", path(file)));
        let login = target.login.as_ref();
        let login = login.map(|(name, file)| format!(", username: {}, password_file: {}", quoted(name), path(file)));
        format!(
            "{{url: {}{}{}, timeout: {}, labels: {}}}",
            quoted(target.url.as_str()),
            ca.unwrap_or_default(),
            login.unwrap_or_default(),
            format_duration(target.timeout),
            write_labels(&target.labels),
        )
    }));
    format!(", targets: {targets}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_written_and_their_problems_told() {
        let parse = |text: &str| {
            let mut problems = Problems::new("agent.yaml");
            let node = Node::parse(text, &mut problems).expect("YAML");
            let targets = read(&mut node.section(&mut problems), &mut problems);
            (targets, problems.finish(Some(())).err().map(|problems| problems.to_string()).unwrap_or_default())
        };
        let (targets, problems) = parse(
            "targets: [{url: \"https://bmc-1\", username: v, password_file: /p, ca_file: /ca, labels: {rack: a}}, {url: \"http://127.0.0.1:8000\", username: v, password_file: /p}]",
        );
        assert_eq!((targets.len(), problems.as_str()), (2, ""));
        assert_eq!(parse(write(&targets).trim_start_matches(", ")).0, targets);
        let (_, problems) = parse("targets: [{url: \"http://bmc-1\", username: v, password_file: /p}, {user: x}]");
        for expected in
            ["targets[0].url: would send the password in the clear", "targets[1].url: is missing", "targets[1].user:"]
        {
            assert!(problems.contains(expected), "{problems}");
        }
    }
}
