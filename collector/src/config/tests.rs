//! The configuration file against its parser, its printer and the file that is shipped as an example.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use super::*;
use veghe_tsdb::Ages;

const SHIPPED: &str = include_str!("../../../packaging/collector.yaml");

/// The shipped file with every example in force. A `#` before a key or before indentation holds one; a `#` and a space
/// before a word explain.
fn with_examples(text: &str) -> String {
    let uncommented = text.lines().map(|line| {
        let bare = line.trim_start();
        let indent = " ".repeat(line.len() - bare.len());
        match bare.strip_prefix('#') {
            Some(rest) if !rest.is_empty() && (!rest.starts_with(' ') || rest.starts_with("  ")) => {
                format!("{indent}{rest}")
            }
            _ => line.to_owned(),
        }
    });
    uncommented.collect::<Vec<_>>().join("\n")
}

fn parse(text: &str) -> Config {
    Config::parse(text, Problems::new("collector.yaml")).unwrap_or_else(|problems| panic!("{problems}"))
}

/// Sections whose keys are the user's own.
const OWN: &[&str] = &["external_labels", "remote_write[].headers", "digitization.workflows[].steps"];

/// Keys of every section by its path as in [`KEYS`]; a text in two languages counts as a value.
fn keys_of(node: &Node, path: &str, found: &mut BTreeMap<String, BTreeSet<String>>) {
    let mut quiet = Problems::new("");
    if OWN.contains(&path) {
        return;
    }
    if !node.is_section() {
        let items = node.list(&mut quiet);
        return items
            .iter()
            .filter(|item| item.is_section())
            .for_each(|item| keys_of(item, &format!("{path}[]"), found));
    }
    let entries: Vec<_> = node.section(&mut quiet).take_all().collect();
    if entries.iter().all(|(key, _)| status::LANGUAGES.contains(key)) {
        return;
    }
    for (key, below) in entries {
        found.entry(path.to_owned()).or_default().insert(key.to_owned());
        let path = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
        keys_of(below, &path, found);
    }
}

#[test]
fn the_shipped_file_says_what_holds_without_it() {
    let config = parse(SHIPPED);
    assert_eq!(config.show(), Config::defaults(PathBuf::from("/var/lib/veghe")).show());
}

#[test]
fn every_example_of_the_shipped_file_is_right_and_every_key_has_one() {
    let whole = with_examples(SHIPPED);
    let config = parse(&whole);
    assert_eq!((config.alerting.receivers.len(), config.alerting.route.receivers.len()), (2, 2));
    let root = Node::parse(&whole, &mut Problems::new("collector.yaml")).expect("yaml");
    let mut found = BTreeMap::new();
    keys_of(&root, "", &mut found);
    let known: BTreeMap<String, BTreeSet<String>> = KEYS
        .iter()
        .map(|(section, keys)| ((*section).to_owned(), keys.iter().map(|key| (*key).to_owned()).collect()))
        .collect();
    assert_eq!(found, known);
}

/// For each key of a file in block style, by its path: its value, and the default that the comment above it names.
fn values_by_path(text: &str) -> BTreeMap<String, (String, Option<String>)> {
    let (mut found, mut above, mut default) = (BTreeMap::new(), Vec::<(usize, String)>::new(), None);
    for line in text.lines() {
        let line = line.replacen("- ", "  ", 1);
        let bare = line.trim_start();
        if let Some(comment) = bare.strip_prefix("# Default: ") {
            default = Some(comment.to_owned());
        } else if let Some((key, value)) = bare.split_once(':').filter(|_| !bare.starts_with('#')) {
            let depth = line.len() - bare.len();
            above.retain(|(other, _)| *other < depth);
            above.push((depth, key.to_owned()));
            let path: Vec<&str> = above.iter().map(|(_, key)| key.as_str()).collect();
            let value = value.trim().replace('"', "");
            found.entry(path.join(".")).or_insert((value, default.take()));
        }
    }
    found
}

#[test]
fn every_default_that_the_shipped_file_names_is_the_default() {
    let least = "alerting:\n  receivers:\n    - {name: a, mail: {host: localhost, from: a@b.ro, to: [c@d.ro]}}\n    - {name: b, webhook: {url: 'http://b/'}}\nremote_write:\n  - url: http://a/\n";
    let in_force = values_by_path(&parse(least).show());
    let named = values_by_path(&with_examples(SHIPPED));
    let mut compared = 0;
    for (path, (_, default)) in &named {
        let (Some(default), Some((value, _))) = (default, in_force.get(path)) else { continue };
        // Some defaults need more words than a value.
        let value = match (path.as_str(), value.as_str()) {
            (_, "[]" | "{}") if matches!(default.as_str(), "none" | "nobody") => continue,
            ("alerting.receivers.mail.port", "587") => "587, with `security: tls` 465",
            ("status.name", "") => "Starea serviciilor, Service status",
            ("digitization.shifts", "") => "day, 08:00 to 16:00",
            ("alerting.receivers" | "remote_write", "") => "none",
            ("remote_write.name", "http://a/") => "the address without its query",
            (_, value) => value,
        };
        assert_eq!(default, value, "{path}");
        compared += 1;
    }
    assert!(compared >= 32, "only {compared} defaults could be compared");
}

#[test]
fn a_shown_configuration_is_the_same_again() {
    let defaults = Config::defaults(PathBuf::from("/srv/veghe \"2\"\\tț"));
    let mut no_components = defaults.clone();
    no_components.status.components = crate::status::ComponentSource::Configured(Vec::new());
    no_components.alerting.route.group_by.clear();
    for config in [defaults, no_components, parse(&with_examples(SHIPPED))] {
        let again = parse(&config.show());
        assert_eq!(format!("{again:#?}"), format!("{config:#?}"));
        assert_eq!(again.show(), config.show());
    }
}

#[test]
fn ten_mistakes_are_ten_problems() {
    let text = "\
data_dir: ''
ops:
  listen: localhost:9090
  names: ['https://veghe.example/']
mqtt:
  listen: 127.0.0.1:8080
storage:
  retention: 90
  max_serie: 5
alerting:
  disabled_rules: [HostLoadHi]
  receivers:
    - name: chat
      mail: {host: mail.example, from: veghe@example.ro, to: [it@example.ro], time_zone: Bucharest}
  route:
    receivers: [cat]
status:
  components:
    - {id: portal, name: Portal, expr: 'up{'}
";
    let problems = Config::parse(text, Problems::new("collector.yaml")).expect_err("problems");
    assert_eq!(problems.iter().count(), 10);
    insta::assert_snapshot!(problems);
}

#[test]
fn retention_is_an_age_or_ages_by_class_and_a_size() {
    let days = |n: u64| Duration::from_hours(24 * n);
    let alone = parse("storage: {retention: 90d}").storage.retention;
    let ages =
        |raw, rollup_5m, rollup_1h| Ages { raw: days(raw), rollup_5m: days(rollup_5m), rollup_1h: days(rollup_1h) };
    assert_eq!((alone.ages, alone.max_bytes, alone.classes.len()), (ages(90, 90, 3650), None, 0));
    let text = r#"
storage:
  retention:
    max_size: 200GiB
    classes:
      - {match: '{job="node"}', raw: 30d}
      - {match: 'up{job=~"a|b"}', raw: 10y}
      - {match: http_requests_total, raw: 30d, rollup_5m: 1y, rollup_1h: 20y}
"#;
    let config = parse(text);
    let retention = &config.storage.retention;
    assert_eq!((retention.ages, retention.max_bytes), (ages(400, 400, 3650), Some(200 << 30)));
    assert_eq!(retention.to_string(), "400d or 200GiB");
    let classes: Vec<_> = retention.classes.iter().map(|c| (c.selector.as_str(), c.matchers.len(), c.ages)).collect();
    let expected = [
        (r#"{job="node"}"#, 1, ages(30, 30, 30)),
        (r#"up{job=~"a|b"}"#, 2, ages(3650, 3650, 3650)),
        ("http_requests_total", 1, ages(30, 365, 20 * 365)),
    ];
    assert_eq!(classes, expected);
    assert_eq!(parse(&config.show()).show(), config.show());
    let wrong = "
storage:
  retention:
    raw: 1h
    max_size: 1MiB
    classes:
      - {match: '{job=', raw: 30d}
      - {raw: 5}
      - {match: up, raw: 5d, age: 1}
      - {match: up, raw: 5d, rollup_5m: 4d, rollup_1h: 1h}
      - {match: up, raw: 5d, rollup_5m: 50d, rollup_1h: 49d}
";
    let problems = Config::parse(wrong, Problems::new("collector.yaml")).expect_err("problems");
    insta::assert_snapshot!(problems);
}

#[test]
fn what_is_wrong_with_remote_write_is_told_by_line_and_key() {
    let text = "\
external_labels: {county: cluj, bad-name: x}
remote_write:
  - {name: a}
  - {url: 'http://u:p@b/write', name: a}
  - {url: 'http://c/write', name: a}
  - url: http://d/write
    name: a
    protobuf_message: v2
    headers: {X-Scope-OrgID: tenant, content-type: text/plain, 'a b': c}
    write_relabel_configs:
      - {action: teleport}
      - {action: hashmod, target_label: shard}
      - {source_labels: [job], regex: '(', action: keep}
      - {source_labels: [job], target: x}
    basic_auth: {username: u}
    authorization: {type: Digest, credentials_file: /t}
    tls_config: {cert_file: /c, insecure_skip_verify: true}
    queue_config: {max_shards: 1000, min_backoff: 9s, max_backoff: 1s, capacity: 5}
    max_backlog: 1MiB
";
    let problems = Config::parse(text, Problems::new("collector.yaml")).expect_err("problems");
    insta::assert_snapshot!(problems);
}

#[test]
fn a_file_that_is_not_there_is_one_problem() {
    let dir = tempfile::tempdir().expect("a directory");
    let problems = Config::load(&dir.path().join("collector.yaml")).expect_err("problems").to_string();
    let expected = "collector.yaml: cannot be read: No such file or directory (os error 2); check path and permissions";
    assert!(problems.ends_with(expected) && problems.lines().count() == 1, "{problems}");
}

#[test]
fn a_file_that_is_not_utf8_names_the_line() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("collector.yaml");
    fs::write(&path, b"data_dir: /srv\nstatus:\n  name: Arhiv\xe3\n").expect("written");
    let problems = Config::load(&path).expect_err("problems").to_string();
    assert_eq!(problems, format!("{}:3: is not UTF-8; save the file in that encoding", path.display()));
}

#[test]
fn problems_of_named_files_are_told_with_those_of_the_file_itself() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name);
    fs::write(at("rules.yaml"), "groups:\n  - name: a\n    rules:\n      - {alert: A, expr: 'up ='}\n")
        .expect("written");
    fs::write(at("empty"), "\n").expect("written");
    let file = "\
ops:
  tls: {certificate: DIR/empty, key: DIR/missing.key}
storage: {retention: 1}
alerting:
  rule_files: [DIR/rules.yaml, DIR/missing.yaml]
  receivers:
    - name: chat
      webhook: {url: 'https://chat.example/', bearer_token_file: DIR/missing.token}
    - name: mail
      mail: {host: localhost, from: a@b.ro, to: [c@d.ro], username: veghe, password_file: DIR/empty, ca_file: DIR/rules.yaml}
";
    fs::write(at("collector.yaml"), file.replace("DIR", &dir.path().display().to_string())).expect("written");
    let problems = Config::load(&at("collector.yaml")).expect_err("problems").to_string();
    insta::assert_snapshot!(problems.replace(&dir.path().display().to_string(), "DIR"));
}

#[test]
fn a_rule_file_alone_can_be_wrong() {
    let dir = tempfile::tempdir().expect("a directory");
    let (rules, path) = (dir.path().join("rules.yaml"), dir.path().join("collector.yaml"));
    fs::write(&rules, "groups: 5\n").expect("written");
    fs::write(&path, format!("alerting: {{rule_files: [{}]}}\n", rules.display())).expect("written");
    let problems = Config::load(&path).expect_err("problems").to_string();
    assert_eq!(problems, format!("{}:1: groups: is a value, needs a list", rules.display()));
    fs::write(&rules, "groups: []\n").expect("written");
    Config::load(&path).expect("right now");
}

#[test]
fn two_listeners_need_two_addresses() {
    let problems = |text: &str| {
        Config::parse(text, Problems::new("c")).map_or_else(|problems| problems.to_string(), |_| String::new())
    };
    let taken = "c:1: mqtt.listen: `0.0.0.0:9090` is taken by `ops.listen` (127.0.0.1:9090); choose another port for one of them";
    assert_eq!(problems("mqtt: {listen: '0.0.0.0:9090'}"), taken);
    assert!(
        problems("ops: {listen: '[::]:8080'}").starts_with("c:1: ops.listen: `[::]:8080` is taken by `status.listen`")
    );
    for good in [
        "{ops: {listen: '127.0.0.1:0'}, mqtt: {listen: '127.0.0.1:0'}}",
        "{ops: {listen: '192.0.2.1:9000'}, mqtt: {listen: '192.0.2.2:9000'}}",
        "{ops: {listen: '[::1]:9000'}, mqtt: {listen: '0.0.0.0:9000'}}",
        "status: {listen: '0.0.0.0:80'}",
    ] {
        assert_eq!(problems(good), "", "{good}");
    }
}

#[test]
fn it_is_shown_where_operations_speak_tls() {
    assert!(!parse("").show().contains("TLS"));
    assert!(parse("ops: {listen: '0.0.0.0:9090'}").show().contains("listen: 0.0.0.0:9090  # speaks TLS"));
}

#[test]
fn what_may_be_secret_is_hidden_from_readers_of_the_api() {
    let text = r"
remote_write:
  - url: https://metrics.example:8443/write/path?token=hunter2&x=1
    name: far
    headers: {X-Scope-OrgID: hunter2, X-Other: hunter2}
  - url: http://plain.example/write
alerting:
  receivers:
    - name: chat
      webhook: {url: 'https://chat.example/hooks/hunter2'}
";
    let config = parse(text);
    let shown = config.show_without_secrets();
    assert!(!shown.contains("hunter2"), "{shown}");
    for line in [
        r#"- url: "https://metrics.example:8443/write/path?<secret>""#,
        r#"X-Scope-OrgID: "<secret>""#,
        r#"- url: "http://plain.example/write""#,
        r#"url: "<secret>""#,
    ] {
        assert!(shown.contains(line), "{line} is not in\n{shown}");
    }
    assert!(config.show().matches("hunter2").count() == 4, "{}", config.show());
}
