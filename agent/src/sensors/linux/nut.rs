//! UPS by NUT (RFC 9271): every variable of every UPS of a server. Names are those of `nut_exporter`.
//!
//! `STARTTLS` is used where a CA is set, and then required: a password is never sent in the clear to another machine.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use veghe_dialects::nut::{MAX_LINE, words};
use veghe_wire::document::{Node, Problems, Section, format_duration};

use super::super::options::{absolute, few, label_value, labels, list, login, quoted, required, span, write_labels};
use super::http::{HttpError, Timed, Trust};
use super::polled::{Origin, Polled, Question};
use super::{Entry, Sensor, SensorError, Sink};
use crate::clock;

pub(crate) const ENTRY: Entry =
    Entry::new("nut", |_| Vec::new(), |settings| Box::new(Nut::new(settings.options.nut.clone()))).unless(|settings| {
        settings.options.nut.is_empty().then(|| "no servers are set; set sensors.nut.servers".to_owned())
    });

/// Keys of the section, beside those that every sensor has.
pub(crate) const KEYS: &[&str] = &["servers"];

const PORT: u16 = 3493;
const TIMEOUT: Duration = Duration::from_secs(4);
const MAX_UPS: usize = 32;
const MAX_VARIABLES: usize = 500;
const MAX_SECRET_BYTES: u64 = 1024;
/// Flags of `ups.status` that are always told, as `nut_exporter` does.
const FLAGS: [&str; 15] =
    ["BOOST", "BYPASS", "CAL", "CHRG", "DISCHRG", "FSD", "HB", "LB", "OB", "OFF", "OL", "OVER", "RB", "SD", "TRIM"];

/// One server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Host, or host and port; the value of the label `instance`.
    pub address: String,
    /// The CA of its certificate: with it TLS is required.
    pub ca_file: Option<PathBuf>,
    /// Who asks, and the file with the password; few servers want that.
    pub login: Option<(String, PathBuf)>,
    /// How long all of it may take in a round.
    pub timeout: Duration,
    /// Labels of every series.
    pub labels: Vec<(String, String)>,
}

impl Server {
    fn host_and_port(&self) -> (&str, u16) {
        let pair = self.address.rsplit_once(':').filter(|(host, _)| !host.contains(':') || host.ends_with(']'));
        pair.and_then(|(host, port)| Some((host, port.parse().ok()?))).unwrap_or((&self.address, PORT))
    }
}

/// Reads the section.
pub(crate) fn read(section: &mut Section<'_>, problems: &mut Problems) -> Vec<Server> {
    let nodes = section.list("servers", problems);
    let servers: Vec<Server> = nodes.iter().filter_map(|node| server(node, problems)).collect();
    few(nodes, nodes.len(), problems);
    servers
}

fn server(node: &Node, problems: &mut Problems) -> Option<Server> {
    let mut section = node.section(problems);
    let address = required(&mut section, "address", problems, label_value);
    let ca_file = section.value("ca_file", problems, absolute);
    let login = login(&mut section, problems);
    let timeout = section.value("timeout", problems, span).unwrap_or(TIMEOUT);
    let labels = labels(&mut section, problems);
    section.finish(&["address", "ca_file", "username", "password_file", "timeout", "labels"], problems);
    Some(Server { address: address?, ca_file, login, timeout, labels })
}

/// What [`read`] reads, as a document has it.
pub(crate) fn write(servers: &[Server]) -> String {
    let path = |path: &Path| quoted(&path.to_string_lossy());
    let servers = list(servers.iter().map(|server| {
        let ca = server.ca_file.as_ref().map(|file| format!(", ca_file: {}", path(file))).unwrap_or_default();
        let login = server.login.as_ref();
        let login = login.map(|(name, file)| format!(", username: {}, password_file: {}", quoted(name), path(file)));
        format!(
            "{{address: {}{ca}{}, timeout: {}, labels: {}}}",
            quoted(&server.address),
            login.unwrap_or_default(),
            format_duration(server.timeout),
            write_labels(&server.labels),
        )
    }));
    format!(", servers: {servers}")
}

/// Why a server says nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NutError {
    #[error("cannot connect")]
    Connect(#[source] HttpError),
    #[error("cannot send or receive")]
    Io(#[from] io::Error),
    #[error("the server answers {0}")]
    Refused(String),
    #[error("the answer is no list")]
    Malformed,
    #[error("cannot read the password in {}", path.display())]
    Secret { path: PathBuf, source: io::Error },
}

/// One UPS: its name and its variables.
type Ups = (String, Vec<(String, String)>);

/// `network_ups_tools_*`, with `up` and `scrape_duration_seconds` of each server.
pub(crate) struct Nut {
    servers: Polled<Server, (Result<Vec<Ups>, NutError>, Duration)>,
}

impl Nut {
    fn new(servers: Vec<Server>) -> Self {
        Self { servers: Polled::new("nut", servers, question) }
    }
}

impl Sensor for Nut {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        for outcome in self.servers.round(|server| server.timeout, |(found, _)| found.is_err()) {
            let origin = Origin::new("nut", &outcome.target.address, &outcome.target.labels);
            let (found, duration) = match outcome.answer {
                Some((found, duration)) => (found.ok(), duration),
                None => (None, outcome.waited),
            };
            sink.put_named(&origin.series("up", []), f64::from(u8::from(found.is_some())));
            sink.put_named(&origin.series("scrape_duration_seconds", []), duration.as_secs_f64());
            for (name, variables) in found.unwrap_or_default() {
                tell(&origin, &name, &variables, sink);
            }
        }
        Ok(())
    }
}

fn tell(origin: &Origin, ups: &str, variables: &[(String, String)], sink: &mut Sink) {
    let value = |name: &str| variables.iter().find(|(other, _)| other == name).map_or("", |(_, value)| value);
    let info = [
        ("mfr", value("device.mfr")),
        ("model", value("device.model")),
        ("serial", value("device.serial")),
        ("type", value("device.type")),
        ("ups", ups),
    ];
    sink.put_named(&origin.series("network_ups_tools_device_info", info), 1.0);
    for (name, value) in variables {
        if name == "ups.status" {
            let given: Vec<&str> = value.split_ascii_whitespace().collect();
            let others = given.iter().copied().filter(|flag| !FLAGS.contains(flag));
            for flag in FLAGS.into_iter().chain(others) {
                let is_set = f64::from(u8::from(given.contains(&flag)));
                let labels = [("flag", flag), ("ups", ups)];
                sink.put_named(&origin.series("network_ups_tools_ups_status", labels), is_set);
            }
        } else if !name.starts_with("device.") || name == "device.uptime" {
            let Some(number) = number(value) else { continue };
            let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
            sink.put_named(&origin.series(&format!("network_ups_tools_{name}"), [("ups", ups)]), number);
        }
    }
}

/// A number, or one of the words that stand for yes and no.
fn number(value: &str) -> Option<f64> {
    match value.to_ascii_lowercase().as_str() {
        "enable" | "enabled" | "on" | "true" | "active" | "activated" | "yes" => Some(1.0),
        "disable" | "disabled" | "off" | "false" | "inactive" | "deactivated" | "no" => Some(0.0),
        text => text.trim().parse().ok().filter(|number: &f64| number.is_finite()),
    }
}

fn question(server: Arc<Server>) -> Question<(Result<Vec<Ups>, NutError>, Duration)> {
    let mut was_told = false;
    Box::new(move || {
        let begin = clock::instant();
        let found = ask(&server, begin + server.timeout);
        if let (Err(error), false) = (&found, was_told) {
            let error = error as &dyn std::error::Error;
            tracing::warn!(server = server.address, error, "cannot ask a NUT server");
        } else if found.is_ok() && was_told {
            tracing::info!(server = server.address, "a NUT server answers again");
        }
        was_told = found.is_err();
        (found, begin.elapsed())
    })
}

fn ask(server: &Server, until: Instant) -> Result<Vec<Ups>, NutError> {
    let (host, port) = server.host_and_port();
    let mut stream = Timed::connect(host, port, until).map_err(NutError::Connect)?;
    let Some(ca) = &server.ca_file else { return Talk(BufReader::new(stream)).all(server) };
    // Byte by byte: what follows the answer is TLS.
    stream.write_all(b"STARTTLS\n")?;
    let mut line = Vec::new();
    while !line.ends_with(b"\n") && line.len() < MAX_LINE {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        line.extend(byte);
    }
    let line = String::from_utf8_lossy(&line);
    if !line.starts_with("OK") {
        return Err(NutError::Refused(line.trim_end().to_owned()));
    }
    let tls = Trust::ca(ca).and_then(|trust| trust.wrap(stream, host)).map_err(NutError::Connect)?;
    Talk(BufReader::new(tls)).all(server)
}

/// A conversation.
struct Talk<S: Read>(BufReader<S>);

impl<S: Read + Write> Talk<S> {
    fn all(&mut self, server: &Server) -> Result<Vec<Ups>, NutError> {
        if let Some((name, file)) = &server.login {
            let wrong = |source| NutError::Secret { path: file.clone(), source };
            let mut password = String::new();
            let file = fs::File::open(file).map_err(wrong)?;
            file.take(MAX_SECRET_BYTES).read_to_string(&mut password).map_err(wrong)?;
            for line in [format!("USERNAME {}", quote(name)), format!("PASSWORD {}", quote(password.trim_end()))] {
                self.say(&line)?;
                let answer = self.line()?;
                if answer.first().is_none_or(|word| word != "OK") {
                    return Err(NutError::Refused(answer.join(" ")));
                }
            }
        }
        let names: Vec<String> =
            self.list("UPS", MAX_UPS)?.into_iter().filter_map(|mut words| words.drain(..).next()).collect();
        let mut all = Vec::with_capacity(names.len());
        for name in names {
            let variables = match self.list(&format!("VAR {}", quote(&name)), MAX_VARIABLES) {
                Ok(variables) => variables,
                // Its driver does not run; the others' do.
                Err(NutError::Refused(why)) if why.contains("DATA-STALE") || why.contains("DRIVER-NOT-CONNECTED") => {
                    continue;
                }
                Err(error) => return Err(error),
            };
            let pair = |words: Vec<String>| match words.as_slice() {
                [_, name, value, ..] => Some((name.clone(), value.clone())),
                _ => None,
            };
            all.push((name, variables.into_iter().filter_map(pair).collect()));
        }
        // Whoever says nothing is logged as lost.
        self.say("LOGOUT")?;
        Ok(all)
    }

    fn say(&mut self, line: &str) -> io::Result<()> {
        let stream = self.0.get_mut();
        stream.write_all(format!("{line}\n").as_bytes())?;
        stream.flush()
    }

    fn line(&mut self) -> Result<Vec<String>, NutError> {
        let mut line = Vec::new();
        (&mut self.0).take(MAX_LINE as u64).read_until(b'\n', &mut line)?;
        if !line.ends_with(b"\n") {
            return Err(NutError::Malformed);
        }
        words(&String::from_utf8_lossy(&line)).ok_or(NutError::Malformed)
    }

    /// The items of `LIST what`, each without its first word.
    fn list(&mut self, what: &str, max: usize) -> Result<Vec<Vec<String>>, NutError> {
        self.say(&format!("LIST {what}"))?;
        let first = self.line()?;
        match first.first().map(String::as_str) {
            Some("BEGIN") => {}
            Some("ERR") => return Err(NutError::Refused(first.join(" "))),
            _ => return Err(NutError::Malformed),
        }
        let mut items = Vec::new();
        loop {
            let mut line = self.line()?;
            match line.first().map(String::as_str) {
                Some("END") => return Ok(items),
                Some(_) if items.len() < max => {
                    line.remove(0);
                    items.push(line);
                }
                _ => return Err(NutError::Malformed),
            }
        }
    }
}

/// As one word.
fn quote(text: &str) -> String {
    let text: String = text.chars().filter(|c| !c.is_control()).collect();
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_and_written_as_they_are() {
        let parse = |text: &str| {
            let mut problems = Problems::new("agent.yaml");
            let servers =
                Node::parse(text, &mut problems).map(|node| read(&mut node.section(&mut problems), &mut problems));
            problems.finish(servers).map_err(|problems| problems.to_string())
        };
        let text = "servers: [{address: ups-1, labels: {room: s1}}, {address: \"10.0.0.9:3494\", ca_file: /ca.pem, username: v, password_file: /p}]";
        let servers = parse(text).expect("valid");
        assert_eq!(servers[0].host_and_port(), ("ups-1", 3493));
        assert_eq!(servers[1].host_and_port(), ("10.0.0.9", 3494));
        let written = format!("{{{}}}", write(&servers).trim_start_matches(", "));
        assert_eq!(parse(&written), Ok(servers));
        let problems = parse("servers: [{username: v}]").expect_err("problems");
        assert!(problems.contains("servers[0].password_file: is missing beside username"), "{problems}");
    }
}
