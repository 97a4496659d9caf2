//! Values in JSON messages of an MQTT broker, for temperature and humidity of rooms and whatever else publishes there.
//!
//! A rule says which topics, which value in the message, and what metric it becomes; the label `topic` tells them apart.
//! A value ends some time after its last message. Off unless brokers are set.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use rumqttc::{Client, Event, MqttOptions, Packet, Publish, QoS, TlsConfiguration, Transport};
use serde_json::Value;
use veghe_wire::document::{Node, Problems, Section, format_duration};

use super::super::options::{
    absolute, few, host_and_port, labels, list, login, metric_name, quoted, required, span, write_labels,
};
use super::polled::Origin;
use super::{Entry, Sensor, SensorError, Sink};
use crate::clock;
use crate::reading::SeriesName;

pub(crate) const ENTRY: Entry =
    Entry::new("mqtt_json", |_| Vec::new(), |settings| Box::new(MqttJson::new(settings.options.mqtt_json.clone())))
        .unless(|settings| {
            let is_empty = settings.options.mqtt_json.is_empty();
            is_empty.then(|| "no brokers are set; set sensors.mqtt_json.brokers".to_owned())
        });

/// Keys of the section, beside those that every sensor has.
pub(crate) const KEYS: &[&str] = &["brokers"];

const STALE_AFTER: Duration = Duration::from_mins(15);
const MAX_MESSAGE_BYTES: usize = 64 << 10;
/// Values of one broker.
const MAX_VALUES: usize = 2000;
const STACK_BYTES: usize = 512 << 10;
/// From one attempt to connect to the next.
const PAUSE: Duration = Duration::from_secs(2);

/// A broker.
#[derive(Clone, Debug, PartialEq)]
pub struct Broker {
    /// Host and port.
    pub address: String,
    /// The CA of its certificate; without one the connection is plain.
    pub ca_file: Option<PathBuf>,
    /// Who subscribes, and the file with the password.
    pub login: Option<(String, PathBuf)>,
    /// When a value ends after its last message.
    pub stale_after: Duration,
    /// What messages become.
    pub rules: Vec<Rule>,
}

// Scales are finite numbers.
impl Eq for Broker {}

/// What a message becomes.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Topics, where `+` stands for one level and `#` for the rest.
    pub topic: String,
    /// Keys and positions with dots between, for example `sensors.0.temperature`; empty where the message is the value.
    pub path: String,
    /// The metric's name.
    pub metric: String,
    /// What the value is multiplied with.
    pub scale: f64,
    /// Labels of its series.
    pub labels: Vec<(String, String)>,
}

/// Reads the section.
pub(crate) fn read(section: &mut Section<'_>, problems: &mut Problems) -> Vec<Broker> {
    let nodes = section.list("brokers", problems);
    let brokers: Vec<Broker> = nodes.iter().filter_map(|node| broker(node, problems)).collect();
    few(nodes, nodes.len(), problems);
    brokers
}

fn broker(node: &Node, problems: &mut Problems) -> Option<Broker> {
    let mut section = node.section(problems);
    let address = required(&mut section, "address", problems, host_and_port);
    let ca_file = section.value("ca_file", problems, absolute);
    let login = login(&mut section, problems);
    let stale_after = section.value("stale_after", problems, span).unwrap_or(STALE_AFTER);
    let nodes = section.list("rules", problems);
    let rules: Vec<Rule> = nodes.iter().filter_map(|node| rule(node, problems)).collect();
    if nodes.is_empty() {
        problems.note(
            section.line(),
            section.path("rules"),
            "is missing; write for example [{topic: room/+, path: temperature, metric: room_temperature_celsius}]",
        );
    }
    section.finish(&["address", "ca_file", "username", "password_file", "stale_after", "rules"], problems);
    Some(Broker { address: address?, ca_file, login, stale_after, rules })
}

fn rule(node: &Node, problems: &mut Problems) -> Option<Rule> {
    let mut section = node.section(problems);
    let topic = required(&mut section, "topic", problems, |text| {
        if rumqttc::valid_filter(text) {
            Ok(text.to_owned())
        } else {
            Err(format!("`{text}` is no topic; write for example `room/+/climate`"))
        }
    });
    let path = section.value("path", problems, |text| Ok::<_, String>(text.to_owned())).unwrap_or_default();
    let metric = required(&mut section, "metric", problems, metric_name);
    let scale = section.value("scale", problems, |text| {
        let scale = text.parse().ok().filter(|scale: &f64| scale.is_finite());
        scale.ok_or_else(|| format!("`{text}` is no number; write for example 0.1"))
    });
    let labels = labels(&mut section, problems);
    section.finish(&["topic", "path", "metric", "scale", "labels"], problems);
    Some(Rule { topic: topic?, path, metric: metric?, scale: scale.unwrap_or(1.0), labels })
}

/// What [`read`] reads, as a document has it.
pub(crate) fn write(brokers: &[Broker]) -> String {
    let path = |path: &PathBuf| quoted(&path.to_string_lossy());
    let brokers = list(brokers.iter().map(|broker| {
        let ca = broker.ca_file.as_ref().map(|file| format!(", ca_file: {}", path(file))).unwrap_or_default();
        let login = broker.login.as_ref();
        let login = login.map(|(name, file)| format!(", username: {}, password_file: {}", quoted(name), path(file)));
        let rules = list(broker.rules.iter().map(|rule| {
            format!(
                "{{topic: {}, path: {}, metric: {}, scale: {}, labels: {}}}",
                quoted(&rule.topic),
                quoted(&rule.path),
                rule.metric,
                rule.scale,
                write_labels(&rule.labels),
            )
        }));
        format!(
            "{{address: {}{ca}{}, stale_after: {}, rules: {rules}}}",
            quoted(&broker.address),
            login.unwrap_or_default(),
            format_duration(broker.stale_after),
        )
    }));
    format!(", brokers: {brokers}")
}

/// What rules find, and `mqtt_json_connected`, `mqtt_json_messages_total`, `mqtt_json_messages_refused_total`.
struct MqttJson {
    brokers: Vec<(Broker, Option<Arc<Mutex<Heard>>>)>,
}

#[derive(Default)]
struct Heard {
    values: BTreeMap<(usize, String), (f64, Instant)>,
    is_connected: bool,
    messages: u64,
    refused: u64,
}

impl MqttJson {
    fn new(brokers: Vec<Broker>) -> Self {
        Self { brokers: brokers.into_iter().map(|broker| (broker, None)).collect() }
    }
}

fn locked(heard: &Mutex<Heard>) -> MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sensor for MqttJson {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        let origin = Origin::of_host("mqtt");
        let mut seen = std::collections::HashSet::new();
        for (broker, heard) in &mut self.brokers {
            let heard = heard.get_or_insert_with(|| start(broker));
            let mut heard = locked(heard);
            heard.values.retain(|_, (_, last)| last.elapsed() < broker.stale_after);
            let label = [("broker", broker.address.as_str())];
            sink.put_named(&origin.series("mqtt_json_connected", label), f64::from(u8::from(heard.is_connected)));
            sink.put_named(&origin.series("mqtt_json_messages_refused_total", label), heard.refused as f64);
            sink.put_named(&origin.series("mqtt_json_messages_total", label), heard.messages as f64);
            for ((rule, topic), (value, _)) in &heard.values {
                let Some(rule) = broker.rules.get(*rule) else { continue };
                let labels = rule.labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
                let name: SeriesName = origin.series(&rule.metric, labels.chain([("topic", topic.as_str())]));
                if seen.insert(name.clone()) {
                    sink.put_named(&name, *value);
                }
            }
        }
        Ok(())
    }
}

/// Listens to `broker` on a thread of its own for as long as somebody has what it hears.
fn start(broker: &Broker) -> Arc<Mutex<Heard>> {
    let heard: Arc<Mutex<Heard>> = Arc::default();
    let (broker, weak) = (broker.clone(), Arc::downgrade(&heard));
    let run = move || listen(&broker, &weak);
    if let Err(error) = thread::Builder::new().name("mqtt-json".into()).stack_size(STACK_BYTES).spawn(run) {
        tracing::error!(%error, "cannot start a thread for an MQTT broker");
    }
    heard
}

fn options(broker: &Broker) -> Result<MqttOptions, String> {
    let (host, port) = broker.address.rsplit_once(':').ok_or("the address has no port")?;
    let port = port.parse().map_err(|error| format!("cannot read the port: {error}"))?;
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|error| format!("cannot draw random numbers: {error}"))?;
    let id: Vec<String> = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut options = MqttOptions::new(format!("veghe-{}", id.concat()), host.trim_matches(['[', ']']), port);
    options.set_keep_alive(Duration::from_secs(30)).set_max_packet_size(MAX_MESSAGE_BYTES, MAX_MESSAGE_BYTES);
    let read = |file: &PathBuf| fs::read(file).map_err(|error| format!("cannot read {}: {error}", file.display()));
    if let Some((name, file)) = &broker.login {
        let password = read(file)?;
        options.set_credentials(name.clone(), String::from_utf8_lossy(&password).trim_end());
    }
    if let Some(file) = &broker.ca_file {
        let ca = read(file)?;
        let tls = TlsConfiguration::Simple { ca, alpn: None, client_auth: None };
        options.set_transport(Transport::tls_with_config(tls));
    }
    Ok(options)
}

fn listen(broker: &Broker, heard: &Weak<Mutex<Heard>>) {
    let mut was_told = false;
    while heard.strong_count() > 0 {
        let error = match options(broker) {
            Ok(options) => converse(broker, options, heard, &mut was_told),
            Err(error) => error,
        };
        if let Some(heard) = heard.upgrade() {
            locked(&heard).is_connected = false;
        }
        if !was_told {
            tracing::warn!(broker = broker.address, error, "no connection to an MQTT broker");
            was_told = true;
        }
        thread::sleep(PAUSE);
    }
}

/// Until the connection ends; says why.
fn converse(broker: &Broker, options: MqttOptions, heard: &Weak<Mutex<Heard>>, was_told: &mut bool) -> String {
    let (client, mut connection) = Client::new(options, 64);
    for event in connection.iter() {
        let Some(heard) = heard.upgrade() else { return String::new() };
        match event {
            Ok(Event::Incoming(Packet::ConnAck(_))) => {
                for rule in &broker.rules {
                    if let Err(error) = client.try_subscribe(&rule.topic, QoS::AtMostOnce) {
                        return format!("cannot subscribe to {}: {error}", rule.topic);
                    }
                }
            }
            Ok(Event::Incoming(Packet::SubAck(_))) => {
                locked(&heard).is_connected = true;
                *was_told = false;
            }
            Ok(Event::Incoming(Packet::Publish(message))) => {
                locked(&heard).take(&broker.rules, &message, clock::instant());
            }
            Ok(_) => {}
            Err(error) => return error.to_string(),
        }
    }
    "the connection ended".to_owned()
}

impl Heard {
    fn take(&mut self, rules: &[Rule], message: &Publish, now: Instant) {
        self.messages += 1;
        let Ok(json) = serde_json::from_slice::<Value>(&message.payload) else {
            self.refused += 1;
            return;
        };
        let mut is_used = false;
        for (index, rule) in rules.iter().enumerate().filter(|(_, rule)| rumqttc::matches(&message.topic, &rule.topic))
        {
            let Some(value) = found(&json, &rule.path) else { continue };
            let key = (index, message.topic.clone());
            if self.values.len() < MAX_VALUES || self.values.contains_key(&key) {
                self.values.insert(key, (value * rule.scale, now));
                is_used = true;
            }
        }
        self.refused += u64::from(!is_used);
    }
}

/// The number at `path`; texts with a number and true and false are numbers, too.
fn found(json: &Value, path: &str) -> Option<f64> {
    let value = path.split('.').filter(|key| !key.is_empty()).try_fold(json, |value, key| match value {
        Value::Array(items) => items.get(key.parse::<usize>().ok()?),
        value => value.get(key),
    })?;
    match value {
        Value::Number(number) => number.as_f64(),
        Value::Bool(is) => Some(f64::from(u8::from(*is))),
        Value::String(text) => text.trim().parse().ok().filter(|number: &f64| number.is_finite()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<Broker>, String> {
        let mut problems = Problems::new("agent.yaml");
        let brokers =
            Node::parse(text, &mut problems).map(|node| read(&mut node.section(&mut problems), &mut problems));
        problems.finish(brokers).map_err(|problems| problems.to_string())
    }

    #[test]
    fn settings_are_read_and_written_as_they_are() {
        let text = "brokers: [{address: \"127.0.0.1:1883\", username: v, password_file: /p, rules: [{topic: room/+, path: a.0, metric: x, scale: 0.1, labels: {l: m}}]}]";
        let brokers = parse(text).expect("valid");
        let written = format!("{{{}}}", write(&brokers).trim_start_matches(", "));
        assert_eq!(parse(&written), Ok(brokers));
        let problems = parse("brokers: [{address: x, rules: [{topic: a#, metric: 1, scale: y}]}, {address: \"b:1\"}]")
            .expect_err("problems");
        for key in ["[0].address", "[0].rules[0].topic", "[0].rules[0].metric", "[0].rules[0].scale", "[1].rules"] {
            assert!(problems.contains(&format!("brokers{key}: ")), "{key}: {problems}");
        }
    }

    #[test]
    fn values_are_found_where_a_rule_says() {
        let json = serde_json::json!({"temperature": 21.5, "a": [{"b": "48"}], "on": true, "x": null});
        assert_eq!(found(&json, "temperature"), Some(21.5));
        assert_eq!((found(&json, "a.0.b"), found(&json, "on"), found(&json, "x")), (Some(48.0), Some(1.0), None));
        assert_eq!((found(&json, "a.1.b"), found(&json, "temperature.b"), found(&json, "")), (None, None, None));
        assert_eq!(found(&serde_json::json!(7), ""), Some(7.0));
    }
}
