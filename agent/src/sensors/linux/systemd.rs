//! What systemd's manager tells about its units, over the system bus.
//!
//! One question lists all units; then each chosen one costs one to three more, sent without waiting for each answer. The
//! connection stays open, and is made anew after an error. Names and values are `node_exporter`'s with its start time and
//! restart metrics enabled.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::dbus::{Call, Connection, Reader};
use super::glob::Globs;
use super::{Entry, Sensor, SensorError, Sink};
use crate::clock;

pub(crate) const ENTRY: Entry = Entry::new(
    "systemd",
    |settings| vec![settings.options.host.units.socket.clone()],
    |settings| Box::new(Systemd::new(settings.options.host.units.clone())),
)
.on_request();

const DESTINATION: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
const STATES: [&str; 5] = ["active", "activating", "deactivating", "failed", "inactive"];
/// More answers may not be outstanding at once: the bus has a limit, of 128 by default.
const WINDOW: usize = 64;
const MAX_UNITS: usize = 5000;
/// Below a sensor's deadline.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long a unit's type is taken to be the same.
const TYPES_INTERVAL: Duration = Duration::from_hours(1);

/// Which units.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Units {
    /// Where the system bus listens.
    pub socket: PathBuf,
    /// Units that are told about one by one.
    pub include: Globs,
    /// Units that are not, although they are in `include`.
    pub exclude: Globs,
}

impl Default for Units {
    fn default() -> Self {
        let globs = |patterns: &[&str]| Globs::new(patterns.iter().map(|&pattern| pattern.to_owned()).collect());
        Self {
            socket: "/run/dbus/system_bus_socket".into(),
            include: globs(&["*"]),
            exclude: globs(&["*.automount", "*.device", "*.mount", "*.scope", "*.slice", "*.target"]),
        }
    }
}

/// `node_systemd_*`.
pub(crate) struct Systemd {
    settings: Units,
    connection: Option<Connection>,
    /// Of this connection's manager.
    version: Option<(String, f64)>,
    /// The answer to `ListUnits`.
    listing: Vec<u8>,
    units: Vec<Unit>,
    answer: Vec<u8>,
    questions: Vec<Question>,
    answers: Vec<Option<u64>>,
    /// By unit, what kind of a service it is.
    types: HashMap<String, String>,
    types_began: Instant,
}

/// A chosen unit; texts are places in the listing.
struct Unit {
    name: Range<usize>,
    path: Range<usize>,
    state: &'static str,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Service,
    Socket,
    Timer,
    Mount,
    Other,
}

impl Kind {
    fn of(name: &str) -> Self {
        match name.rsplit_once('.') {
            Some((_, "service")) => Self::Service,
            Some((_, "socket")) => Self::Socket,
            Some((_, "timer")) => Self::Timer,
            Some((_, "mount")) => Self::Mount,
            _ => Self::Other,
        }
    }

    fn interface(self) -> &'static str {
        match self {
            Self::Service => "org.freedesktop.systemd1.Service",
            Self::Socket => "org.freedesktop.systemd1.Socket",
            Self::Timer => "org.freedesktop.systemd1.Timer",
            Self::Mount => "org.freedesktop.systemd1.Mount",
            Self::Other => "org.freedesktop.systemd1.Unit",
        }
    }
}

/// A property of a unit.
#[derive(Clone, Copy)]
struct Question {
    unit: usize,
    interface: &'static str,
    property: &'static str,
    metric: &'static str,
    scale: f64,
}

const UNIT: &str = "org.freedesktop.systemd1.Unit";
const MICROSECONDS: f64 = 1e6;

impl Systemd {
    pub(crate) fn new(settings: Units) -> Self {
        Self {
            settings,
            connection: None,
            version: None,
            listing: Vec::new(),
            units: Vec::new(),
            answer: Vec::new(),
            questions: Vec::new(),
            answers: Vec::new(),
            types: HashMap::new(),
            types_began: clock::instant(),
        }
    }

    fn tell(&mut self, sink: &mut Sink) -> io::Result<()> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => self.connection.insert(Connection::open(&self.settings.socket, PATIENCE)?),
        };
        if self.version.is_none() {
            let mut version = property(connection, MANAGER_PATH, MANAGER, "Version", &mut self.answer)?;
            let version = version.variant_string()?;
            self.version = Some((version.to_owned(), leading_number(version)));
        }
        let list = Call {
            destination: DESTINATION,
            path: MANAGER_PATH,
            interface: MANAGER,
            member: "ListUnits",
            arguments: &[],
        };
        connection.call(&list, &mut self.listing)?;
        let mut state = property(connection, MANAGER_PATH, MANAGER, "SystemState", &mut self.answer)?;
        let is_running = state.variant_string()? == "running";
        let counts = self.choose()?;
        self.learn_types()?;
        self.ask()?;
        self.put(is_running, counts, sink);
        Ok(())
    }

    /// Goes through the listing: how many units are in which state, and which ones are chosen.
    fn choose(&mut self) -> io::Result<[u64; STATES.len()]> {
        let mut counts = [0; STATES.len()];
        self.units.clear();
        let mut reader = Reader::new(&self.listing);
        reader.size()?;
        while !reader.is_at_end() {
            reader.align(8)?;
            let name = reader.string()?;
            let (_description, load, active) = (reader.string()?, reader.string()?, reader.string()?);
            let (_sub, _following) = (reader.string()?, reader.string()?);
            let path = reader.string()?;
            let (_job, _job_type, _job_path) = (reader.u32()?, reader.string()?, reader.string()?);
            // A state that a newer version has is in none of these.
            let Some((index, state)) = STATES.iter().enumerate().find(|(_, state)| **state == active) else { continue };
            if let Some(count) = counts.get_mut(index) {
                *count += 1;
            }
            let is_chosen = load == "loaded"
                && self.settings.include.matches(name)
                && !self.settings.exclude.matches(name)
                && self.units.len() < MAX_UNITS;
            if is_chosen {
                let place = |text: &str| place_in(&self.listing, text);
                self.units.push(Unit { name: place(name), path: place(path), state, kind: Kind::of(name) });
            }
        }
        Ok(counts)
    }

    /// Asks for the types of services and mounts that are new.
    fn learn_types(&mut self) -> io::Result<()> {
        if self.types_began.elapsed() >= TYPES_INTERVAL {
            self.types.clear();
            self.types_began = clock::instant();
        }
        let Some(connection) = &mut self.connection else { return Ok(()) };
        for unit in self.units.iter().filter(|unit| matches!(unit.kind, Kind::Service | Kind::Mount)) {
            let name = text_at(&self.listing, &unit.name);
            if self.types.contains_key(name) {
                continue;
            }
            let path = text_at(&self.listing, &unit.path);
            let answer = property(connection, path, unit.kind.interface(), "Type", &mut self.answer);
            // It may be gone by now; then it has none, as `node_exporter` has it.
            let kind = match answer {
                Ok(mut answer) => answer.variant_string()?.to_owned(),
                Err(error) if error.kind() == io::ErrorKind::Other => String::new(),
                Err(error) => return Err(error),
            };
            self.types.insert(name.to_owned(), kind);
        }
        if self.types.len() > 2 * MAX_UNITS {
            self.types.clear();
        }
        Ok(())
    }

    /// Asks for all numbers of all chosen units.
    fn ask(&mut self) -> io::Result<()> {
        self.questions.clear();
        for (unit, Unit { state, kind, .. }) in self.units.iter().enumerate() {
            let interface = kind.interface();
            let mut ask = |interface, property, metric, scale| {
                self.questions.push(Question { unit, interface, property, metric, scale });
            };
            match kind {
                Kind::Service => ask(interface, "NRestarts", "node_systemd_service_restart_total", 1.0),
                Kind::Timer => {
                    ask(interface, "LastTriggerUSec", "node_systemd_timer_last_trigger_seconds", MICROSECONDS);
                }
                Kind::Socket => {
                    ask(interface, "NAccepted", "node_systemd_socket_accepted_connections_total", 1.0);
                    ask(interface, "NConnections", "node_systemd_socket_current_connections", 1.0);
                    ask(interface, "NRefused", "node_systemd_socket_refused_connections_total", 1.0);
                }
                Kind::Mount | Kind::Other => {}
            }
            if *state == "active" {
                ask(UNIT, "ActiveEnterTimestamp", "node_systemd_unit_start_time_seconds", MICROSECONDS);
            }
        }
        let Some(connection) = &mut self.connection else { return Ok(()) };
        self.answers.clear();
        self.answers.resize(self.questions.len(), None);
        for (window, questions) in self.questions.chunks(WINDOW).enumerate() {
            let mut first = None;
            for question in questions {
                let path = self.units.get(question.unit).map_or("/", |unit| text_at(&self.listing, &unit.path));
                let arguments = [question.interface, question.property];
                let serial = connection.send(&get(path, &arguments))?;
                first.get_or_insert(serial);
            }
            connection.flush()?;
            let mut missing = questions.len();
            while missing > 0 {
                let answer = connection.receive(&mut self.answer)?;
                let index = first.and_then(|first| usize::try_from(answer.serial.checked_sub(first)?).ok());
                let Some(index) = index.filter(|index| *index < questions.len()) else { continue };
                missing -= 1;
                if !answer.is_error
                    && let Some(place) = self.answers.get_mut(window * WINDOW + index)
                {
                    *place = Some(Reader::new(&self.answer).variant_number()?);
                }
            }
        }
        Ok(())
    }

    fn put(&self, is_running: bool, counts: [u64; STATES.len()], sink: &mut Sink) {
        if let Some((version, number)) = &self.version {
            sink.put("node_systemd_version", &[("version", version)], *number);
        }
        sink.put("node_systemd_system_running", &[], f64::from(u8::from(is_running)));
        for (state, count) in STATES.iter().zip(counts) {
            sink.put("node_systemd_units", &[("state", state)], count as f64);
        }
        let mut answers = self.questions.iter().zip(&self.answers).peekable();
        for (index, unit) in self.units.iter().enumerate() {
            let name = text_at(&self.listing, &unit.name);
            let kind = self.types.get(name).map_or("", String::as_str);
            for state in STATES {
                let labels = [("name", name), ("state", state), ("type", kind)];
                sink.put("node_systemd_unit_state", &labels, f64::from(u8::from(state == unit.state)));
            }
            while let Some((question, answer)) = answers.next_if(|(question, _)| question.unit == index) {
                if let Some(answer) = answer {
                    sink.put(question.metric, &[("name", name)], *answer as f64 / question.scale);
                }
            }
            if unit.state != "active" {
                sink.put("node_systemd_unit_start_time_seconds", &[("name", name)], 0.0);
            }
        }
    }
}

impl Sensor for Systemd {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        self.tell(sink).map_err(|source| {
            (self.connection, self.version) = (None, None);
            SensorError::Read { path: self.settings.socket.clone(), source }
        })
    }
}

fn get<'a>(path: &'a str, arguments: &'a [&'a str; 2]) -> Call<'a> {
    Call { destination: DESTINATION, path, interface: PROPERTIES, member: "Get", arguments }
}

fn property<'a>(
    connection: &mut Connection,
    path: &str,
    interface: &str,
    property: &str,
    answer: &'a mut Vec<u8>,
) -> io::Result<Reader<'a>> {
    connection.call(&get(path, &[interface, property]), answer)?;
    Ok(Reader::new(answer))
}

/// Where `text`, a part of `listing`, is in it.
fn place_in(listing: &[u8], text: &str) -> Range<usize> {
    let begin = text.as_ptr().addr().saturating_sub(listing.as_ptr().addr());
    begin..begin + text.len()
}

fn text_at<'a>(listing: &'a [u8], place: &Range<usize>) -> &'a str {
    listing.get(place.clone()).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
}

/// The first number of three digits or more, as `node_exporter` finds it: 252 of `252.39-1~deb12u2` with its minor.
fn leading_number(version: &str) -> f64 {
    let begin = version.find(|c: char| c.is_ascii_digit()).unwrap_or(version.len());
    let rest = version.get(begin..).unwrap_or_default();
    let digits = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let whole = digits(rest);
    let minor = rest.get(whole..).and_then(|rest| rest.strip_prefix('.')).map_or(0, digits);
    let end = if minor > 0 { whole + 1 + minor } else { whole };
    rest.get(..end).filter(|_| whole >= 3).and_then(|number| number.parse().ok()).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_a_number_with_its_minor() {
        for (version, number) in
            [("252.39-1~deb12u2", 252.39), ("v255-rc1", 255.0), ("249", 249.0), ("7", 0.0), ("", 0.0)]
        {
            assert_eq!(leading_number(version), number, "{version}");
        }
    }
}
