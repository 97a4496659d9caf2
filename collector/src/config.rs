//! The collector's configuration file: YAML in, checked and typed values out, every problem in one run.
//!
//! Each module owns its settings and their defaults; this file owns their place in the file. [`Config::show`] prints
//! the configuration in force, in the form of a file. [`Config::load`] also reads the files that it names, rules,
//! certificates and secrets, so that what is wrong with them is told in the same run.

mod alerting;
mod digitization;
mod files;
mod remote_write;
mod show;
mod status;
mod storage;
#[cfg(test)]
mod tests;
mod workflow;

use std::fmt;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use url::Url;
use veghe_wire::document::{Node, Problems, Section, parse_bytes, parse_duration};

use self::files::{Kind, NamedFile};
pub use self::storage::{Class, Retention};
use crate::alerting::{RuleProblems, RuleSet, Sources};
use crate::query;

/// The keys of every section by its path; `[]` stands for each item of a list. A text in two languages has its own,
/// [`status::LANGUAGES`].
const KEYS: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "data_dir",
            "ops",
            "mqtt",
            "agents",
            "storage",
            "query",
            "alerting",
            "status",
            "digitization",
            "external_labels",
            "remote_write",
        ],
    ),
    ("ops", &["listen", "names", "cors_origin", "tls"]),
    ("ops.tls", &["certificate", "key"]),
    ("mqtt", &["listen", "advertise"]),
    ("agents", &["certificate_lifetime", "max_series", "groups", "rollout"]),
    ("agents.rollout", &["first", "soak"]),
    ("storage", &["retention", "max_series", "min_free"]),
    ("storage.retention", &["raw", "rollup_5m", "rollup_1h", "max_size", "classes"]),
    ("storage.retention.classes[]", &["match", "raw", "rollup_5m", "rollup_1h"]),
    ("query", &["timeout", "max_concurrency", "max_samples", "lookback"]),
    (
        "alerting",
        &["rule_files", "shipped_rules", "disabled_rules", "evaluation_interval", "external_url", "route", "receivers"],
    ),
    ("alerting.route", &["group_by", "group_wait", "group_interval", "repeat_interval", "receivers"]),
    ("alerting.receivers[]", &["name", "webhook", "mail"]),
    ("alerting.receivers[].webhook", &["url", "bearer_token_file", "ca_file", "timeout"]),
    (
        "alerting.receivers[].mail",
        &[
            "host",
            "port",
            "security",
            "ca_file",
            "username",
            "password_file",
            "from",
            "to",
            "language",
            "time_zone",
            "timeout",
        ],
    ),
    ("status", &["listen", "name", "url", "time_zone", "evaluation_interval", "components"]),
    ("status.components[]", &["id", "name", "description", "group", "expr", "degraded", "need"]),
    (
        "digitization",
        &[
            "project",
            "time_zone",
            "days_off",
            "working_days",
            "shifts",
            "stations",
            "plan",
            "pages_per_metre",
            "pages_per_day",
            "reports",
            "quality",
            "privacy",
            "storages",
            "workflows",
        ],
    ),
    (
        "digitization.workflows[]",
        &[
            "name",
            "system",
            "host",
            "port",
            "security",
            "ca_file",
            "database",
            "username",
            "password_file",
            "time_zone",
            "projects",
            "unit_property",
            "unit_pattern",
            "steps",
            "every",
        ],
    ),
    ("digitization.shifts[]", &["name", "from", "to"]),
    ("digitization.plan", &["from", "finish"]),
    ("digitization.pages_per_day", &["low", "likely", "high"]),
    (
        "digitization.quality[]",
        &["series", "binding", "min_ppi", "level", "min_bits", "formats", "compressions", "icc"],
    ),
    ("digitization.storages[]", &["name", "instance", "mountpoint", "free", "reserve", "ratio"]),
    ("digitization.privacy", &["operators", "keep", "key_file"]),
    ("digitization.reports", &["weekly", "monthly", "at", "languages", "mail"]),
    (
        "remote_write[]",
        &[
            "url",
            "name",
            "protobuf_message",
            "remote_timeout",
            "headers",
            "write_relabel_configs",
            "basic_auth",
            "authorization",
            "tls_config",
            "queue_config",
            "max_backlog",
        ],
    ),
    (
        "remote_write[].write_relabel_configs[]",
        &["source_labels", "separator", "regex", "modulus", "target_label", "replacement", "action"],
    ),
    ("remote_write[].basic_auth", &["username", "password_file"]),
    ("remote_write[].authorization", &["type", "credentials_file"]),
    ("remote_write[].tls_config", &["ca_file", "cert_file", "key_file"]),
    (
        "remote_write[].queue_config",
        &["max_shards", "max_samples_per_send", "batch_send_deadline", "min_backoff", "max_backoff"],
    ),
];

/// The keys of the section at `path` of [`KEYS`].
fn keys(path: &str) -> &'static [&'static str] {
    KEYS.iter().find(|(section, _)| *section == path).map(|(_, keys)| *keys).expect("invariant: a section of KEYS")
}

/// Everything that is wrong with a configuration: with its own file first, then with the rule files that it names.
#[derive(Debug)]
pub struct ConfigProblems(pub Vec<Problems>);

/// One line per problem: `file:line: key: message`.
impl fmt::Display for ConfigProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problems) in self.0.iter().enumerate() {
            write!(f, "{}{problems}", if i == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigProblems {}

/// Everything that can be set.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// The operations listener.
    pub ops: Ops,
    /// The address of the public pages.
    pub status_listen: SocketAddr,
    /// The broker.
    pub mqtt: Mqtt,
    /// The time-series store.
    pub storage: Storage,
    /// What agents are given and may send.
    pub agents: Agents,
    /// Bounds on queries.
    pub query: query::Settings,
    /// Rules, routes and receivers.
    pub alerting: crate::alerting::Settings,
    /// The public pages.
    pub status: crate::status::Settings,
    /// The digitization project.
    pub digitization: crate::digitization::Settings,
    /// Labels that samples get when they leave the collector.
    pub external_labels: veghe_model::Labels,
    /// Who else gets everything that is stored.
    pub remote_write: Vec<crate::remote::Target>,
}

/// The operations listener: queries, metrics, console, enrolment.
#[derive(Clone, Debug)]
pub struct Ops {
    /// Its address; outside loopback it speaks TLS only.
    pub listen: SocketAddr,
    /// Host names and addresses by which people and agents reach it; they go into its certificate.
    pub names: Vec<String>,
    /// Pages of which other origins may read the API; none if not set.
    pub cors_origin: Option<crate::web::cors::Origins>,
    /// A certificate of the administration's own, with its key; otherwise one of the collector's CA serves.
    pub tls: Option<(PathBuf, PathBuf)>,
}

/// The broker.
#[derive(Clone, Debug)]
pub struct Mqtt {
    /// Its address.
    pub listen: SocketAddr,
    /// The address that agents are told; without it they take the host by which they enrolled.
    pub advertise: Option<String>,
}

/// What agents are given and may send.
#[derive(Clone, Debug)]
pub struct Agents {
    /// How long an agent's certificate lasts; it renews itself at two thirds.
    pub certificate_lifetime: Duration,
    /// How many series one agent may have.
    pub max_series: usize,
    /// The directory of group files; `agents.d` in the data directory if not set.
    pub groups: PathBuf,
    /// How their settings are rolled out.
    pub rollout: crate::fleet::rollout::Settings,
}

/// The time-series store.
#[derive(Clone, Debug)]
pub struct Storage {
    /// How long samples are kept.
    pub retention: Retention,
    /// How many series may exist in all.
    pub max_series: usize,
    /// Below so many free bytes of its file system, or a twentieth of it, readings are refused.
    pub min_free_bytes: u64,
}

impl Config {
    /// Everything on loopback in `data_dir`, nothing else set.
    pub fn defaults(data_dir: PathBuf) -> Self {
        let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let groups = data_dir.join("agents.d");
        Self {
            data_dir,
            ops: Ops { listen: loopback(9090), names: Vec::new(), cors_origin: None, tls: None },
            status_listen: loopback(8080),
            mqtt: Mqtt { listen: loopback(8883), advertise: None },
            storage: Storage { retention: Retention::default(), max_series: 2_000_000, min_free_bytes: 1 << 30 },
            agents: Agents {
                certificate_lifetime: Duration::from_hours(90 * 24),
                max_series: 50_000,
                groups,
                rollout: crate::fleet::rollout::Settings::default(),
            },
            query: query::Settings::default(),
            alerting: crate::alerting::Settings::default(),
            status: crate::status::Settings::default(),
            digitization: crate::digitization::Settings::default(),
            external_labels: veghe_model::Labels::default(),
            remote_write: Vec::new(),
        }
    }

    /// Reads the file at `path` and checks the files that it names.
    ///
    /// # Errors
    /// Every problem of the file, and of every file that it names, with file, line, key and remedy. A file that can't
    /// be read is one problem of the whole file.
    pub fn load(path: &Path) -> Result<Self, ConfigProblems> {
        let mut problems = Problems::new(path);
        let text = match fs::read(path).map(String::from_utf8) {
            Ok(Ok(text)) => Some(text),
            Ok(Err(error)) => {
                let good = error.as_bytes().iter().take(error.utf8_error().valid_up_to());
                let line = 1 + good.filter(|byte| **byte == b'\n').count();
                problems.note(line, "", "is not UTF-8; save the file in that encoding");
                None
            }
            Err(error) => {
                problems.note(0, "", format_args!("cannot be read: {error}; check path and permissions"));
                None
            }
        };
        let mut named = Vec::new();
        let root = text.and_then(|text| Node::parse(&text, &mut problems));
        let config = root.map(|root| read(&root, &mut named, &mut problems));
        let unreadable = files::check(&named, &mut problems);
        let rules = config.as_ref().map_or(Ok(()), |config| check_rules(config, &unreadable));
        let mut wrong_rules = rules.map_or_else(|RuleProblems(list)| list, |()| Vec::new());
        let groups = config.as_ref().map_or(Ok(()), |config| check_groups(&config.agents.groups));
        wrong_rules.extend(groups.err().unwrap_or_default());
        match problems.finish(config) {
            Ok(config) if wrong_rules.is_empty() => Ok(config),
            Ok(_) => Err(ConfigProblems(wrong_rules)),
            Err(problems) => Err(ConfigProblems(std::iter::once(problems).chain(wrong_rules).collect())),
        }
    }

    /// Reads `text` alone, without the files that it names; `problems` names its file.
    ///
    /// # Errors
    /// Every problem with file, line, key and remedy.
    pub fn parse(text: &str, mut problems: Problems) -> Result<Self, Problems> {
        let config = Node::parse(text, &mut problems).map(|root| read(&root, &mut Vec::new(), &mut problems));
        problems.finish(config)
    }

    /// The configuration in force, as a file that gives the same.
    pub fn show(&self) -> String {
        show::file(self, show::Secrets::Shown)
    }

    /// The same for whoever may read the API: what may be a secret in headers and addresses is `<secret>`.
    pub fn show_without_secrets(&self) -> String {
        show::file(self, show::Secrets::Hidden)
    }
}

/// Checks the rule files that are there; of the others it is told where they are named.
fn check_rules(config: &Config, unreadable: &[PathBuf]) -> Result<(), RuleProblems> {
    let sources = config.alerting.sources();
    let files: Vec<PathBuf> = sources.files.iter().filter(|file| !unreadable.contains(file)).cloned().collect();
    // Names of shipped rules were checked where they stand.
    RuleSet::load(&Sources { files: &files, disabled: &[], ..sources }).map(drop)
}

fn check_groups(directory: &Path) -> Result<(), Vec<Problems>> {
    crate::fleet::groups::Groups::load(directory).map(drop)
}

fn read(root: &Node, named: &mut Vec<NamedFile>, problems: &mut Problems) -> Config {
    let mut file = root.section(problems);
    let mut config = Config::defaults(PathBuf::from("/var/lib/veghe"));
    let (mut ops_line, mut status_line, mut mqtt_line) = (0, 0, 0);
    let p = problems;
    set(&mut config.data_dir, file.value("data_dir", p, parse_path));
    config.agents.groups = config.data_dir.join("agents.d");
    if let Some(mut ops) = file.section("ops", p) {
        ops_line = listen(&mut ops, &mut config.ops.listen, p);
        config.ops.names = values(&mut ops, "names", p, parse_host_name);
        config.ops.cors_origin = ops.value("cors_origin", p, crate::web::cors::Origins::parse);
        if let Some(mut tls) = ops.section("tls", p) {
            let certificate = required_file(&mut tls, "certificate", Kind::Certificates, named, p);
            let key = required_file(&mut tls, "key", Kind::Key, named, p);
            config.ops.tls = certificate.zip(key);
            tls.finish(keys("ops.tls"), p);
        }
        ops.finish(keys("ops"), p);
    }
    if let Some(mut mqtt) = file.section("mqtt", p) {
        mqtt_line = listen(&mut mqtt, &mut config.mqtt.listen, p);
        config.mqtt.advertise = mqtt.value("advertise", p, parse_mqtt_url);
        mqtt.finish(keys("mqtt"), p);
    }
    if let Some(mut agents) = file.section("agents", p) {
        let lifetime = agents.value("certificate_lifetime", p, at_least(Duration::from_hours(1)));
        set(&mut config.agents.certificate_lifetime, lifetime);
        set(&mut config.agents.max_series, agents.value("max_series", p, parse_count));
        set(&mut config.agents.groups, agents.value("groups", p, parse_path));
        if let Some(mut rollout) = agents.section("rollout", p) {
            set(&mut config.agents.rollout.first_ratio, rollout.value("first", p, parse_share));
            set(&mut config.agents.rollout.soak, rollout.value("soak", p, at_least(Duration::from_secs(1))));
            rollout.finish(keys("agents.rollout"), p);
        }
        agents.finish(keys("agents"), p);
    }
    if let Some(mut storage) = file.section("storage", p) {
        if let Some(retention) = storage.take("retention") {
            config.storage.retention = storage::read(retention, p);
        }
        set(&mut config.storage.max_series, storage.value("max_series", p, parse_count));
        set(&mut config.storage.min_free_bytes, storage.value("min_free", p, parse_bytes));
        storage.finish(keys("storage"), p);
    }
    if let Some(mut query) = file.section("query", p) {
        set(&mut config.query.timeout, query.value("timeout", p, at_least(Duration::from_secs(1))));
        set(&mut config.query.max_concurrency, query.value("max_concurrency", p, parse_count));
        set(&mut config.query.max_samples, query.value("max_samples", p, parse_count));
        set(&mut config.query.lookback, query.value("lookback", p, at_least(Duration::from_secs(1))));
        query.finish(keys("query"), p);
    }
    if let Some(mut alerting) = file.section("alerting", p) {
        config.alerting = alerting::read(&mut alerting, named, p);
        alerting.finish(keys("alerting"), p);
    }
    if let Some(mut status) = file.section("status", p) {
        status_line = listen(&mut status, &mut config.status_listen, p);
        config.status = status::read(&mut status, p);
        status.finish(keys("status"), p);
    }
    if let Some(mut digitization) = file.section("digitization", p) {
        config.digitization = digitization::read(&mut digitization, &config.alerting.receivers, named, p);
        digitization.finish(keys("digitization"), p);
    }
    if let Some(mut labels) = file.section("external_labels", p) {
        config.external_labels = remote_write::external_labels(&mut labels, p);
    }
    config.remote_write = remote_write::read(file.list("remote_write", p), named, p);
    file.finish(keys(""), p);
    check_listeners(
        [
            ("ops.listen", ops_line, config.ops.listen),
            ("status.listen", status_line, config.status_listen),
            ("mqtt.listen", mqtt_line, config.mqtt.listen),
        ],
        p,
    );
    config
}

/// Reads a listener's address into `slot`; the line that sets it, 0 where the default stays.
fn listen(section: &mut Section<'_>, slot: &mut SocketAddr, problems: &mut Problems) -> usize {
    let Some(node) = section.take("listen") else { return 0 };
    let address = node.text(problems).map(parse_address);
    set(slot, address.and_then(|address| problems.check(node.line, &node.key, address)));
    node.line
}

/// Notes listeners that would take one another's address; `(key, line, address)` each.
fn check_listeners(listeners: [(&str, usize, SocketAddr); 3], problems: &mut Problems) {
    for (i, one) in listeners.iter().enumerate() {
        for other in listeners.iter().skip(i + 1).filter(|other| overlap(one.2, other.2)) {
            // Told where a person wrote something; a default has no line.
            let ((key, line, address), (taken_by, _, taken)) =
                if one.1 > other.1 { (one, other) } else { (other, one) };
            problems.note(
                *line,
                *key,
                format_args!("`{address}` is taken by `{taken_by}` ({taken}); choose another port for one of them"),
            );
        }
    }
}

/// Whether only one of two sockets can listen; port 0 is a free one each time.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let takes_all = |one: IpAddr, other: IpAddr| match one {
        IpAddr::V6(one) => one.is_unspecified(),
        IpAddr::V4(one) => one.is_unspecified() && other.is_ipv4(),
    };
    a.port() == b.port()
        && a.port() != 0
        && (a.ip() == b.ip() || takes_all(a.ip(), b.ip()) || takes_all(b.ip(), a.ip()))
}

/// Keeps the default where nothing is set, or something wrong that is already noted.
fn set<T>(slot: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *slot = value;
    }
}

/// The value of a key that must be there.
fn required<T, E: std::fmt::Display>(
    section: &mut Section<'_>,
    key: &str,
    problems: &mut Problems,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Option<T> {
    section.require(key, problems)?;
    section.value(key, problems, parse)
}

/// The file that a key names, to be checked later.
fn file(
    section: &mut Section<'_>,
    key: &str,
    kind: Kind,
    named: &mut Vec<NamedFile>,
    problems: &mut Problems,
) -> Option<PathBuf> {
    let node = section.take(key)?;
    let text = node.text(problems)?;
    let path = problems.check(node.line, &node.key, parse_path(text))?;
    named.push(NamedFile { kind, path: path.clone(), line: node.line, key: node.key.clone() });
    Some(path)
}

/// As [`file`], of a key that must be there.
fn required_file(
    section: &mut Section<'_>,
    key: &str,
    kind: Kind,
    named: &mut Vec<NamedFile>,
    problems: &mut Problems,
) -> Option<PathBuf> {
    section.require(key, problems)?;
    file(section, key, kind, named, problems)
}

/// The values of a list.
fn values<T, E: fmt::Display>(
    section: &mut Section<'_>,
    key: &str,
    problems: &mut Problems,
    parse: impl Fn(&str) -> Result<T, E>,
) -> Vec<T> {
    let mut values = Vec::new();
    for item in section.list(key, problems) {
        let value = item.text(problems).map(&parse);
        values.extend(value.and_then(|value| problems.check(item.line, &item.key, value)));
    }
    values
}

fn parse_text(text: &str) -> Result<String, String> {
    if text.trim().is_empty() { Err("is empty".to_owned()) } else { Ok(text.to_owned()) }
}

fn parse_path(text: &str) -> Result<PathBuf, String> {
    parse_text(text).map(PathBuf::from)
}

fn parse_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_unreadable: std::net::AddrParseError| {
        format!("`{text}` is not an address and port; write for example `127.0.0.1:9090` or `[::]:9090`")
    })
}

/// Reads what a certificate can be made for.
fn parse_host_name(text: &str) -> Result<String, String> {
    let is_word = |word: &str| {
        (1..=63).contains(&word.len())
            && word.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
            && !word.starts_with('-')
            && !word.ends_with('-')
    };
    if text.parse::<IpAddr>().is_ok() || (text.len() <= 253 && text.split('.').all(is_word)) {
        return Ok(text.to_owned());
    }
    Err(format!("`{text}` is not a host name or address; write for example `veghe.example` or `192.0.2.7`"))
}

fn parse_port(text: &str) -> Result<u16, String> {
    let port = text.parse().ok().filter(|port| *port > 0);
    port.ok_or_else(|| format!("`{text}` is not a port, 1 to 65535"))
}

fn parse_time_zone(text: &str) -> Result<jiff::tz::TimeZone, String> {
    jiff::tz::TimeZone::get(text)
        .map_err(|_unknown| format!("`{text}` is not a known time zone; write for example `Europe/Bucharest`"))
}

fn parse_mqtt_url(text: &str) -> Result<String, String> {
    let wrong = || format!("`{text}` is not a broker's address; write for example `mqtts://veghe.example:8883`");
    let url = Url::parse(text).or(Err(wrong()))?;
    if url.scheme() == "mqtts" && url.host().is_some() { Ok(text.to_owned()) } else { Err(wrong()) }
}

fn parse_http_url(text: &str) -> Result<Url, String> {
    let wrong = || format!("`{text}` is not a web address; write for example `https://veghe.example/`");
    let url = Url::parse(text).or(Err(wrong()))?;
    if matches!(url.scheme(), "http" | "https") && url.host().is_some() { Ok(url) } else { Err(wrong()) }
}

/// Reads a share of all, `10%`.
fn parse_share(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
    let number = number.filter(|number| (0.1..=100.0).contains(number));
    number.map(|number| number / 100.0).ok_or_else(|| format!("`{text}` is no share; write for example `10%`"))
}

fn parse_count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count) if count > 0 => Ok(count),
        _ => Err(format!("`{text}` is not a whole number above 0")),
    }
}

/// Reads a duration of at least `least`.
fn at_least(least: Duration) -> impl Fn(&str) -> Result<Duration, String> {
    move |text| match parse_duration(text)? {
        span if span >= least => Ok(span),
        _ => Err(format!("`{text}` is too short; at least `{}`", veghe_wire::document::format_duration(least))),
    }
}
