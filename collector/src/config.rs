//! The collector's configuration file: YAML in, checked and typed values out, every problem in one run.
//!
//! Each module owns its settings and their defaults; this file owns their place in the file. [`Config::show`] prints
//! the configuration in force, in the form of a file.

mod alerting;
mod show;
mod status;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use url::Url;
use veghe_wire::document::{Node, Problems, Section, parse_duration};

use crate::query;

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
}

/// The operations listener: queries, metrics, console, enrolment.
#[derive(Clone, Debug)]
pub struct Ops {
    /// Its address; outside loopback it speaks TLS only.
    pub listen: SocketAddr,
    /// Host names and addresses by which people and agents reach it; they go into its certificate.
    pub names: Vec<String>,
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
}

/// The time-series store.
#[derive(Clone, Debug)]
pub struct Storage {
    /// How long samples are kept.
    pub retention: Duration,
    /// How many series may exist in all.
    pub max_series: usize,
}

impl Config {
    /// Everything on loopback in `data_dir`, nothing else set.
    pub fn defaults(data_dir: PathBuf) -> Self {
        let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Self {
            data_dir,
            ops: Ops { listen: loopback(9090), names: Vec::new(), tls: None },
            status_listen: loopback(8080),
            mqtt: Mqtt { listen: loopback(8883), advertise: None },
            storage: Storage { retention: Duration::from_hours(400 * 24), max_series: 2_000_000 },
            agents: Agents { certificate_lifetime: Duration::from_hours(90 * 24), max_series: 50_000 },
            query: query::Settings::default(),
            alerting: crate::alerting::Settings::default(),
            status: crate::status::Settings::default(),
        }
    }

    /// Reads the file at `path`.
    ///
    /// # Errors
    /// Every problem with file, line, key and remedy. A file that can't be read is one problem of the whole file.
    pub fn load(path: &Path) -> Result<Self, Problems> {
        let mut problems = Problems::new(path);
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(&text, problems),
            Err(error) => {
                problems.note(0, "", format_args!("cannot be read: {error}"));
                Err(problems)
            }
        }
    }

    /// Reads `text`; `problems` names its file.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &str, mut problems: Problems) -> Result<Self, Problems> {
        let config = Node::parse(text, &mut problems).map(|root| read(&root, &mut problems));
        problems.finish(config)
    }

    /// The configuration in force, as a file that gives the same.
    pub fn show(&self) -> String {
        show::file(self)
    }
}

fn read(root: &Node, problems: &mut Problems) -> Config {
    let mut file = root.section(problems);
    let mut config = Config::defaults(PathBuf::from("/var/lib/veghe"));
    let p = problems;
    set(&mut config.data_dir, file.value("data_dir", p, parse_path));
    if let Some(mut ops) = file.section("ops", p) {
        set(&mut config.ops.listen, ops.value("listen", p, parse_address));
        config.ops.names = texts(&mut ops, "names", p);
        if let Some(mut tls) = ops.section("tls", p) {
            let certificate = required(&mut tls, "certificate", p, parse_path);
            let key = required(&mut tls, "key", p, parse_path);
            config.ops.tls = certificate.zip(key);
            tls.finish(&["certificate", "key"], p);
        }
        ops.finish(&["listen", "names", "tls"], p);
    }
    if let Some(mut mqtt) = file.section("mqtt", p) {
        set(&mut config.mqtt.listen, mqtt.value("listen", p, parse_address));
        config.mqtt.advertise = mqtt.value("advertise", p, parse_mqtt_url);
        mqtt.finish(&["listen", "advertise"], p);
    }
    if let Some(mut agents) = file.section("agents", p) {
        let lifetime = agents.value("certificate_lifetime", p, at_least(Duration::from_hours(1)));
        set(&mut config.agents.certificate_lifetime, lifetime);
        set(&mut config.agents.max_series, agents.value("max_series", p, parse_count));
        agents.finish(&["certificate_lifetime", "max_series"], p);
    }
    if let Some(mut storage) = file.section("storage", p) {
        set(&mut config.storage.retention, storage.value("retention", p, at_least(Duration::from_hours(2))));
        set(&mut config.storage.max_series, storage.value("max_series", p, parse_count));
        storage.finish(&["retention", "max_series"], p);
    }
    if let Some(mut query) = file.section("query", p) {
        set(&mut config.query.timeout, query.value("timeout", p, at_least(Duration::from_secs(1))));
        set(&mut config.query.max_concurrency, query.value("max_concurrency", p, parse_count));
        set(&mut config.query.max_samples, query.value("max_samples", p, parse_count));
        set(&mut config.query.lookback, query.value("lookback", p, at_least(Duration::from_secs(1))));
        query.finish(&["timeout", "max_concurrency", "max_samples", "lookback"], p);
    }
    if let Some(mut alerting) = file.section("alerting", p) {
        config.alerting = alerting::read(&mut alerting, p);
        alerting.finish(alerting::KEYS, p);
    }
    if let Some(mut status) = file.section("status", p) {
        set(&mut config.status_listen, status.value("listen", p, parse_address));
        config.status = status::read(&mut status, p);
        status.finish(status::KEYS, p);
    }
    file.finish(&["data_dir", "ops", "mqtt", "agents", "storage", "query", "alerting", "status"], p);
    config
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

/// The texts of a list.
fn texts(section: &mut Section<'_>, key: &str, problems: &mut Problems) -> Vec<String> {
    let items = section.list(key, problems);
    items.iter().filter_map(|item| item.text(problems).map(str::to_owned)).collect()
}

fn parse_text(text: &str) -> Result<String, String> {
    if text.trim().is_empty() { Err("is empty".to_owned()) } else { Ok(text.to_owned()) }
}

fn parse_path(text: &str) -> Result<PathBuf, String> {
    parse_text(text).map(PathBuf::from)
}

fn parse_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().or_else(|_unreadable: std::net::AddrParseError| {
        Err(format!("`{text}` is not an address and port; write for example `127.0.0.1:9090` or `[::]:9090`"))
    })
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
