//! Which files settings from a collector may name as secrets.
//!
//! A collector chooses targets as well as logins: without a boundary a bad one would have any file of the machine that the
//! agent can read sent to an address of its choice, as a community or a password. So secrets from afar stand in the
//! directory `secrets` beside `agent.yaml`, or in one that `remote.secrets` there permits.
//! What this does not hold back: a login that `agent.yaml` itself has, such as an `auth` of SNMP, may be used for
//! targets that the collector names.

use std::path::{Component, Path, PathBuf};

use veghe_wire::document::{Node, Problems};

/// Beside `agent.yaml`.
const DIRECTORY: &str = "secrets";
/// The keys, wherever they stand, that name a file with a secret in it.
const KEYS: [&str; 6] =
    ["auth_password_file", "community_file", "credentials_file", "key_file", "password_file", "priv_password_file"];

/// The directories whose files a collector may name: those of `permitted`, and the one beside `agent_yaml`.
pub(super) fn directories(agent_yaml: &Path, permitted: &[PathBuf]) -> Vec<PathBuf> {
    let own = agent_yaml.with_file_name(DIRECTORY);
    let own = std::path::absolute(&own).unwrap_or(own);
    [own].into_iter().chain(permitted.iter().cloned()).collect()
}

/// Notes every secret in `offered` that lies elsewhere.
pub(super) fn check(offered: &Node, directories: &[PathBuf], problems: &mut Problems) {
    let is_secret = |node: &&Node| KEYS.contains(&node.key.rsplit('.').next().unwrap_or_default());
    for node in offered.values().into_iter().filter(is_secret) {
        let path = Path::new(node.word().unwrap_or_default());
        if !directories.iter().any(|directory| lies_in(path, directory)) {
            let place = directories.first().map(|directory| directory.display().to_string()).unwrap_or_default();
            let message = format!(
                "is a secret that only agent.yaml on that machine may name; put the file into {place}, or permit its directory there with `remote.secrets`"
            );
            problems.note(node.line, &*node.key, message);
        }
    }
}

fn lies_in(path: &Path, directory: &Path) -> bool {
    let climbs = path.components().any(|part| part == Component::ParentDir);
    !climbs && path != directory && path.starts_with(directory)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_secret_lies_in_a_directory_that_is_permitted() {
        let permitted = directories(Path::new("/var/lib/veghe-agent/agent.yaml"), &["/etc/veghe".into()]);
        let problems_of = |path: &str| {
            let text = format!("sensors: {{nut: {{servers: [{{address: a, password_file: {path:?}}}]}}}}");
            let mut problems = Problems::new("offered");
            let node = Node::parse(&text, &mut problems).expect("YAML");
            check(&node, &permitted, &mut problems);
            problems.iter().map(|problem| problem.key.clone()).collect::<Vec<_>>()
        };
        for good in ["/etc/veghe/nut", "/etc/veghe/room/nut", "/var/lib/veghe-agent/secrets/nut"] {
            assert!(problems_of(good).is_empty(), "{good}");
        }
        for bad in [
            "/etc/shadow",
            "/etc/veghe",
            "/etc/veghe-other/x",
            "/etc/veghe/../shadow",
            "/var/lib/veghe-agent/agent.key",
            "etc/veghe/x",
        ] {
            assert_eq!(problems_of(bad), ["sensors.nut.servers[0].password_file"], "{bad}");
        }
    }

    /// A new key that names a file is a secret, or is listed here as none.
    #[test]
    fn every_key_of_a_file_is_judged() {
        const PUBLIC: [&str; 2] = ["ca_file", "cert_file"];
        let mut paths = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src/sensors")];
        let mut seen = 0;
        while let Some(path) = paths.pop() {
            if path.is_dir() {
                paths.extend(fs::read_dir(path).expect("directory").map(|entry| entry.expect("entry").path()));
                continue;
            }
            let source = fs::read_to_string(&path).expect("source");
            for word in source.split('"').filter(|word| word.ends_with("_file")) {
                let is_key = word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
                // Lines of /proc, not keys.
                let is_other = matches!(word, "active_file" | "inactive_file");
                assert!(!is_key || is_other || KEYS.contains(&word) || PUBLIC.contains(&word), "{word} in {path:?}");
                seen += usize::from(KEYS.contains(&word));
            }
        }
        assert!(seen > KEYS.len(), "the sources are elsewhere: mend this test");
    }
}
