//! The agent's settings: `agent.yaml` in its state directory.
//!
//! Invariant: every problem of a file is told in one run, with line, key and remedy. Defaults stand in one place,
//! [`Config::default_for`]. What it deliberately does not do: hold secrets (they are files beside it).

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::net::Ipv6Addr;
use std::path::Path;
use std::time::Duration;

use url::Url;
use veghe_wire::AgentId;
use veghe_wire::document::{Node, Problems, format_bytes, format_duration, parse_bool, parse_bytes, parse_duration};

use crate::remote::{Local, Policy};
use crate::schedule::{self, Override};
use crate::sensors::{self, SensorSettings, options};
use crate::spool::Limits;
#[cfg(target_os = "linux")]
use crate::{digitization, fixity};
use crate::{discovery, footprint};

/// Its name in the state directory.
pub const FILE: &str = "agent.yaml";
const DEFAULT_MQTT_PORT: u16 = 8883;
const INTERVAL_RANGE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_hours(1));
const SPOOL_RANGE: (u64, u64) = (1 << 20, 1 << 40);

/// What [`first`] writes out although it is the default: as long as nobody changes it, it is no decision.
pub(crate) const DEFAULTS_OF_JOIN: [(&str, &str); 3] =
    [("interval", "15s"), ("deadline", "5s"), ("uplink.backfill_batches_per_second", "20")];

/// All settings of an agent.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Who it is; must be the name in its certificate.
    pub agent: AgentId,
    /// The broker's host and port.
    pub mqtt: MqttAddress,
    /// When sensors run.
    pub schedule: schedule::Settings,
    /// Which sensors run.
    pub sensors: SensorSettings,
    /// What the spool may keep.
    pub spool: Limits,
    /// Older batches in a second, while newer ones go at once.
    pub backfill_per_second: u32,
    /// What it is called by besides its id, for groups of settings.
    pub labels: BTreeMap<String, String>,
    /// What the collector may set.
    pub remote: Policy,
    /// Whether and how often it looks for what could be watched.
    pub discovery: discovery::Settings,
    /// How much of the machine it takes.
    pub footprint: footprint::Settings,
    /// What it sees of a digitization.
    #[cfg(target_os = "linux")]
    pub digitization: digitization::Settings,
    /// Which storages it verifies.
    #[cfg(target_os = "linux")]
    pub fixity: fixity::Settings,
}

/// Where the broker is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MqttAddress {
    /// Host name or IPv4 address.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl fmt::Display for MqttAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mqtts://{}:{}", self.host, self.port)
    }
}

/// Reads `mqtts://host:port`; the port may be left out.
///
/// # Errors
/// A message that says what is wrong.
pub fn parse_mqtt_url(text: &str) -> Result<MqttAddress, String> {
    let wrong = || format!("`{text}` is not a broker's address; write for example `mqtts://veghe.cjtimis.ro:8883`");
    let url = Url::parse(text).or(Err(wrong()))?;
    let host = url.host_str().unwrap_or_default();
    if url.scheme() != "mqtts" || host.is_empty() || !matches!(url.path(), "" | "/") {
        return Err(wrong());
    }
    if host.trim_matches(['[', ']']).parse::<Ipv6Addr>().is_ok() {
        return Err(format!("`{text}` has an IPv6 address, which the MQTT client can't take; write a host name"));
    }
    Ok(MqttAddress { host: host.to_owned(), port: url.port().unwrap_or(DEFAULT_MQTT_PORT) })
}

impl Config {
    /// Every default, for `agent` at `mqtt`.
    pub fn default_for(agent: AgentId, mqtt: MqttAddress) -> Self {
        Self {
            agent,
            mqtt,
            schedule: schedule::Settings { overrides: sensors::paces(), ..schedule::Settings::default() },
            sensors: SensorSettings::default(),
            spool: Limits::default(),
            backfill_per_second: 20,
            labels: BTreeMap::new(),
            remote: Policy::default(),
            discovery: discovery::Settings::default(),
            footprint: footprint::Settings::default(),
            #[cfg(target_os = "linux")]
            digitization: digitization::Settings::default(),
            #[cfg(target_os = "linux")]
            fixity: fixity::Settings::default(),
        }
    }

    /// Reads the settings in `path`.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(path: &Path) -> Result<Self, Problems> {
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(path, &text),
            Err(error) => {
                let mut problems = Problems::new(path);
                problems.note(
                    0,
                    "",
                    format_args!("cannot be read: {error}; enrol this machine with `veghe-agent join`"),
                );
                problems.finish(None)
            }
        }
    }

    /// As [`Config::load`], as what the collector's settings are laid under.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_local(path: &Path) -> Result<Local, Problems> {
        Self::load(path)?;
        let mut problems = Problems::new(path);
        match std::fs::read_to_string(path) {
            Ok(text) => Local::parse(path, &text),
            Err(error) => {
                problems.note(0, "", format_args!("cannot be read: {error}"));
                problems.finish(None)
            }
        }
    }

    /// Reads the settings in `text`, the content of `path`.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Problems> {
        let mut problems = Problems::new(path);
        let config = Node::parse(text, &mut problems).and_then(|node| Self::read(&node, &mut problems));
        problems.finish(config)
    }

    pub(crate) fn read(node: &Node, problems: &mut Problems) -> Option<Self> {
        let mut root = node.section(problems);
        let line = root.line();
        let agent = root.value("agent", problems, str::parse::<AgentId>);
        let mqtt = root.value("mqtt", problems, parse_mqtt_url);
        let interval = root.value("interval", problems, parse_interval);
        let deadline = root.value("deadline", problems, parse_interval);
        let mut limits = Limits::default();
        if let Some(mut spool) = root.section("spool", problems) {
            limits.max_bytes = spool.value("max_size", problems, parse_spool_size).unwrap_or(limits.max_bytes);
            limits.max_age = spool.value("max_age", problems, parse_duration).unwrap_or(limits.max_age);
            spool.finish(&["max_size", "max_age"], problems);
        }
        let mut backfill_per_second = None;
        if let Some(mut uplink) = root.section("uplink", problems) {
            backfill_per_second = uplink.value("backfill_batches_per_second", problems, parse_rate);
            uplink.finish(&["backfill_batches_per_second"], problems);
        }
        let (mut settings, mut overrides) = (SensorSettings::default(), sensors::paces());
        if let Some(mut section) = root.section("sensors", problems) {
            let known: Vec<&str> = sensors::names().collect();
            for name in &known {
                let Some(mut sensor) = section.section(name, problems) else { continue };
                match sensor.value("enabled", problems, parse_bool) {
                    Some(true) if !sensors::runs_by_default(name) => {
                        settings.enabled.insert((*name).to_owned());
                    }
                    Some(false) if sensors::runs_by_default(name) => {
                        settings.disabled.insert((*name).to_owned());
                    }
                    _ => {}
                }
                let (ignored, own_keys) = options::read(name, &mut sensor, problems, &mut settings.options);
                settings.ignored.extend(ignored.map(|ignored| ((*name).to_owned(), ignored)));
                let change = Override {
                    interval: sensor.value("interval", problems, parse_interval),
                    deadline: sensor.value("deadline", problems, parse_interval),
                };
                if change.interval.is_some() || change.deadline.is_some() {
                    let pace = overrides.entry((*name).to_owned()).or_default();
                    *pace = Override {
                        interval: change.interval.or(pace.interval),
                        deadline: change.deadline.or(pace.deadline),
                    };
                }
                let keys = [&["enabled", "interval", "deadline"], own_keys].concat();
                sensor.finish(&keys, problems);
            }
            section.finish(&known, problems);
        }
        let labels = root.take("labels").map(|node| read_labels(node, problems)).unwrap_or_default();
        let remote = root.take("remote").map(|node| read_policy(node, problems)).unwrap_or_default();
        let discovery = root.take("discovery").map(|node| discovery::read(node, problems)).unwrap_or_default();
        let footprint = root.take("footprint").map(|node| footprint::read(node, problems)).unwrap_or_default();
        #[cfg(target_os = "linux")]
        let digitization = root.section("digitization", problems).map(|mut section| {
            let read = digitization::settings::read(&mut section, problems);
            section.finish(&["hot_folders", "csv", "deliveries"], problems);
            read
        });
        #[cfg(target_os = "linux")]
        let fixity = root.section("fixity", problems).map(|mut section| {
            let read = fixity::settings::read(&mut section, problems);
            section.finish(&["pace", "every", "storages"], problems);
            read
        });
        let known = [
            "agent",
            "mqtt",
            "interval",
            "deadline",
            "labels",
            "spool",
            "uplink",
            "remote",
            "discovery",
            "footprint",
            "sensors",
            "digitization",
            "fixity",
        ];
        root.finish(&known, problems);
        for (key, is_missing) in [("agent", agent.is_none()), ("mqtt", mqtt.is_none())] {
            if is_missing && !problems.iter().any(|problem| problem.key == key) {
                problems.note(line, key, "is missing; `veghe-agent join` writes it");
            }
        }
        let mut config = Self::default_for(agent?, mqtt?);
        config.schedule.interval = interval.unwrap_or(config.schedule.interval);
        config.schedule.deadline = deadline.unwrap_or(config.schedule.deadline);
        config.schedule.overrides = overrides;
        config.sensors = settings;
        config.spool = limits;
        config.backfill_per_second = backfill_per_second.unwrap_or(config.backfill_per_second);
        (config.labels, config.remote) = (labels, remote);
        (config.discovery, config.footprint) = (discovery, footprint);
        #[cfg(target_os = "linux")]
        {
            config.digitization = digitization.unwrap_or_default();
            config.fixity = fixity.unwrap_or_default();
        }
        Some(config)
    }

    /// The settings as a document, defaults included.
    pub fn to_yaml(&self) -> String {
        let mut text = format!(
            "agent: {}\nmqtt: {}\ninterval: {}\ndeadline: {}\nspool:\n  max_size: {}\n  max_age: {}\nuplink:\n  backfill_batches_per_second: {}\n{}{}{}labels: {{{}}}\nsensors:\n",
            self.agent,
            self.mqtt,
            format_duration(self.schedule.interval),
            format_duration(self.schedule.deadline),
            format_bytes(self.spool.max_bytes),
            format_duration(self.spool.max_age),
            self.backfill_per_second,
            write_policy(&self.remote),
            discovery::write(&self.discovery),
            footprint::write(&self.footprint),
            self.labels.iter().map(|(name, value)| format!("{name}: {value:?}")).collect::<Vec<_>>().join(", "),
        );
        for name in sensors::names() {
            let change = self.schedule.overrides.get(name).copied().unwrap_or_default();
            let interval = format_duration(change.interval.unwrap_or(self.schedule.interval));
            let deadline = format_duration(change.deadline.unwrap_or(self.schedule.deadline));
            let enabled = if sensors::runs_by_default(name) {
                !self.sensors.disabled.contains(name)
            } else {
                self.sensors.enabled.contains(name)
            };
            let own = options::write(name, self.sensors.ignored.get(name), &self.sensors.options);
            writeln!(text, "  {name}: {{enabled: {enabled}, interval: {interval}, deadline: {deadline}{own}}}")
                .expect("invariant: a string takes every write");
        }
        #[cfg(target_os = "linux")]
        {
            text.push_str(&digitization::settings::write(&self.digitization));
            text.push_str(&fixity::settings::write(&self.fixity));
        }
        text
    }
}

/// The commented settings that an enrolment begins with.
pub fn first(agent: &AgentId, mqtt: &str) -> String {
    format!(
        "# Settings of the Veghe agent on this machine. After a change: veghe-agent check-config FILE, then restart it.
# Key and certificates are beside this file; batches that the collector does not have yet are in spool/.

# Who this machine is. It must be the name in agent.crt.
agent: {agent}

# The collector's MQTT address.
mqtt: {mqtt}

# From one round of measurements to the next, at least 50ms.
interval: 15s

# How long a sensor may take before its values no longer count.
deadline: 5s

# What is kept on disk while the collector is away. When it is full or too old, the oldest is dropped and counted in
# veghe_agent_spool_dropped_batches_total.
spool:
  max_size: 512MiB
  max_age: 30d

# After a time away, older batches follow at this rate; new ones go at once.
uplink:
  backfill_batches_per_second: 20

# The collector may change what is measured and how often, within what this file leaves open: what is set here wins, apart
# from interval, deadline and backfill above as long as they are unchanged. It can't name programs to run, nor secrets
# outside the directory secrets beside this file (remote: {{secrets: [/etc/veghe]}} permits another). To keep it out:
# remote:
#   accept: false
# To keep single keys as they are here: remote: {{keep: [interval, sensors.scrapes]}}
# By labels the collector tells groups of agents apart:
# labels: {{site: timisoara, role: scanner}}

# Every sensor that can run here does, but for those that are off by default (see: veghe-agent sensors). Each can be told
# otherwise, for example:
# sensors:
#   diskstats:
#     enabled: false
#   filesystem:
#     interval: 1m
#     deadline: 10s
#     ignore: [/srv/scratch]
#   netdev:
#     ignore: [veth*, docker0]
#   textfile:
#     directories: [/var/lib/prometheus/node-exporter]
#   certificates:
#     files: [/etc/ssl/private/*.pem]
#   backups:
#     sets:
#       - name: nas
#         files: /srv/backup/*.tar.zst
#   smart:
#     enabled: true
#   systemd:
#     enabled: true
#     exclude: ['*.scope', '*.slice', '*.device', '*.mount']
#   logs:
#     enabled: true
#     watch:
#       - name: auth
#         file: /var/log/auth.log
#         rules: {{refused: 'Failed password'}}
#   programs:
#     run:
#       - name: raid
#         command: [/usr/local/bin/raid-metrics]
#         interval: 5m
#         timeout: 20s
#   scrapes:
#     scrape_configs:
#       - job_name: postgres
#         static_configs:
#           - targets: [127.0.0.1:9187]
"
    )
}

fn read_labels(node: &Node, problems: &mut Problems) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    for (name, node) in node.section(problems).take_all() {
        let Some(value) = node.text(problems) else { continue };
        if !veghe_wire::remote::is_label(name, value) {
            let form = "is no label; write a name of letters, digits and `_`, and a short value";
            problems.note(node.line, &*node.key, form);
        } else if labels.len() == veghe_wire::remote::MAX_LABELS {
            problems.note(node.line, &*node.key, format_args!("is one too many; at most {} are", labels.len()));
        } else {
            labels.insert(name.to_owned(), value.to_owned());
        }
    }
    labels
}

fn read_policy(node: &Node, problems: &mut Problems) -> Policy {
    let mut section = node.section(problems);
    let mut policy = Policy::default();
    policy.accept = section.value("accept", problems, parse_bool).unwrap_or(policy.accept);
    policy.programs = section.value("programs", problems, parse_bool).unwrap_or(policy.programs);
    let secrets = section.list("secrets", problems);
    policy.secrets = options::texts(secrets, problems, options::absolute).unwrap_or_default();
    let keep = section.list("keep", problems);
    policy.keep = keep.iter().filter_map(|node| node.text(problems).map(str::to_owned)).collect();
    section.finish(&["accept", "programs", "secrets", "keep"], problems);
    policy
}

fn write_policy(policy: &Policy) -> String {
    let keep = policy.keep.iter().map(|key| format!("{key:?}")).collect::<Vec<_>>().join(", ");
    let secrets = options::list(policy.secrets.iter().map(|directory| options::quoted(&directory.to_string_lossy())));
    let Policy { accept, programs, .. } = policy;
    format!("remote:\n  accept: {accept}\n  programs: {programs}\n  secrets: {secrets}\n  keep: [{keep}]\n")
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    let interval = parse_duration(text)?;
    let (least, most) = INTERVAL_RANGE;
    if (least..=most).contains(&interval) {
        Ok(interval)
    } else {
        Err(format!("`{text}` is outside {} to {}", format_duration(least), format_duration(most)))
    }
}

fn parse_spool_size(text: &str) -> Result<u64, String> {
    let bytes = parse_bytes(text)?;
    let (least, most) = SPOOL_RANGE;
    if (least..=most).contains(&bytes) {
        Ok(bytes)
    } else {
        Err(format!("`{text}` is outside {} to {}", format_bytes(least), format_bytes(most)))
    }
}

fn parse_rate(text: &str) -> Result<u32, String> {
    let rate = text.parse().ok().filter(|rate| (1..=10_000).contains(rate));
    rate.ok_or_else(|| format!("`{text}` is not a whole number from 1 to 10000"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_settings_are_the_defaults() {
        let agent: AgentId = "scan-1".parse().expect("id");
        let text = first(&agent, "mqtts://veghe.cjtimis.ro:8883");
        let config = Config::parse(Path::new("agent.yaml"), &text).expect("valid");
        let mqtt = parse_mqtt_url("mqtts://veghe.cjtimis.ro").expect("address");
        assert_eq!(config, Config::default_for(agent, mqtt));
        assert!(text.contains("interval: 15s"));
        assert_eq!(Config::parse(Path::new("x"), &config.to_yaml()).expect("valid").mqtt, config.mqtt);
    }

    #[test]
    fn every_problem_is_told_with_its_line_and_key() {
        let text = "agent: Scan 1\nmqtt: mqtts://[::1]:8883\ninterval: 10ms\nspool:\n  max_size: 5\n  max_agee: 3d\nsensors:\n  meminfo:\n    enabled: yes\n  mminfo: {}\n";
        let problems = Config::parse(Path::new("agent.yaml"), text).expect_err("problems").to_string();
        insta::assert_snapshot!(problems);
    }

    #[cfg(target_os = "linux")]
    const OWN_SETTINGS: &str = "agent: scan-1
mqtt: mqtts://veghe.cjtimis.ro
sensors:
  processes: {enabled: true}
  netdev: {ignore: [veth*, docker0]}
  textfile: {directories: [/var/lib/prometheus/node-exporter]}
  certificates: {files: [/etc/ssl/private/*.pem]}
  backups:
    sets: [{name: nas, files: /srv/backup/*.tar.zst}]
    repositories:
      - {name: vault, restic: /srv/restic, password_file: /etc/veghe/restic, every: 2h}
      - {name: old, borg: backup@nas:repo}
  logs:
    enabled: true
    watch:
      - {name: auth, file: /var/log/auth.log, rules: {refused: \"Failed password|refused\"}}
      - {name: ssh, journal: ssh.service, rules: {error: error}}
  smart: {enabled: true, devices: [/dev/sda, /dev/nvme0], every: 30m, program: /opt/smartctl}
  systemd: {enabled: true, include: [ssh.service, '*.timer'], exclude: ['user@*'], socket: /run/bus}
  timesync: {enabled: true, chrony: '127.0.0.1:3323'}
  programs:
    run:
      - {name: raid, command: [/usr/local/bin/raid, --metrics], interval: 5m, memory: 64MiB, keep_capabilities: true}
  scrapes:
    scrape_configs:
      - job_name: postgres
        drop: [go_*]
        static_configs:
          - {targets: [127.0.0.1:9187, 127.0.0.1:9188], labels: {site: tm}}
";

    #[cfg(target_os = "linux")]
    #[test]
    fn the_settings_of_single_sensors_are_read_and_shown_as_they_are() {
        let config = Config::parse(Path::new("agent.yaml"), OWN_SETTINGS).expect("valid");
        assert!(config.sensors.enabled.contains("processes"));
        assert!(config.sensors.ignored("netdev").matches("veth7") && !config.sensors.ignored("netdev").matches("eth0"));
        let [program] = config.sensors.options.programs.as_slice() else { panic!("a program") };
        assert_eq!((program.memory_bytes, program.keeps_capabilities), (64 << 20, true));
        let [first, second] = config.sensors.options.scrapes.as_slice() else { panic!("two targets") };
        assert_eq!(
            (first.job.as_str(), first.url.as_str(), second.url.as_str()),
            ("postgres", "http://127.0.0.1:9187/metrics", "http://127.0.0.1:9188/metrics")
        );
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(second.labels, [pair("site", "tm"), pair("target", "127.0.0.1:9188")]);
        let again = Config::parse(Path::new("agent.yaml"), &config.to_yaml()).expect("valid");
        assert_eq!(again.sensors, config.sensors);
    }

    #[test]
    fn every_problem_of_a_sensors_own_settings_is_told() {
        let text = "agent: scan-1
mqtt: mqtts://veghe.cjtimis.ro
sensors:
  netdev: {ignore: [\"\"], ignored: x}
  textfile: {directories: [relative]}
  backups: {sets: [{name: a, files: /a}, {name: a, files: b}, {file: /c}, {name: a, files: /d}], repositories: [{name: r}, {name: s, restic: /a, borg: /b}]}
  programs:
    run: [{name: raid, command: [raid]}, {name: x, command: [/x], timeout: 48h}]
  logs:
    watch: [{name: a, rules: {bad: (}}, {name: b, file: relative, rules: {}}]
  smart: {devices: [sda], every: 5}
  systemd: {include: [\"\"]}
  timesync: {chrony: localhost}
  scrapes:
    scrape_configs: [{job_name: pg, metrics_path: metrics, static_configs: [{targets: [localhost], labels: {job: x, 1a: y}}]}]
";
        let problems = Config::parse(Path::new("agent.yaml"), text).expect_err("problems").to_string();
        insta::assert_snapshot!(problems);
    }

    #[test]
    fn what_only_a_person_can_know_must_be_there() {
        let problems = Config::parse(Path::new("agent.yaml"), "interval: 15s\n").expect_err("problems").to_string();
        insta::assert_snapshot!(problems);
    }
}
