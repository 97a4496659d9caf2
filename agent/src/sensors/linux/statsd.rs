//! StatsD's lines by UDP from programs of this machine: counters, gauges, timers (as sum and count, in seconds).
//!
//! Off by default, and only on the loopback, as the protocol knows nobody. Metrics that nobody sends any more end after
//! a while; beyond the most that are kept, new ones are refused and counted.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use veghe_dialects::statsd::{self, Action, Line};
use veghe_wire::document::{Problems, Section, format_duration};

use super::super::options::span;
use super::polled::Origin;
use super::{Entry, Sensor, SensorError, Sink};
use crate::clock;
use crate::reading::SeriesName;

pub(crate) const ENTRY: Entry =
    Entry::new("statsd", |_| Vec::new(), |settings| Box::new(Statsd::new(settings.options.statsd.clone()))).unless(
        |settings| {
            let is_off = settings.options.statsd.listen.is_none();
            is_off.then(|| "no address is set; set sensors.statsd.listen, for example to 127.0.0.1:8125".to_owned())
        },
    );

/// Keys of the section, beside those that every sensor has.
pub(crate) const KEYS: &[&str] = &["listen", "max_metrics", "expire"];

const STACK_BYTES: usize = 128 << 10;
/// How often the thread looks whether it is still wanted.
const LOOK: Duration = Duration::from_secs(1);
const MAX_PACKET: usize = 65_535;

/// Where lines come from and what is kept of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// An address of the loopback; nobody listens without one.
    pub listen: Option<SocketAddr>,
    /// The most metrics that are kept, each with its labels.
    pub max_metrics: usize,
    /// When a metric that nobody sends any more ends.
    pub expire: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { listen: None, max_metrics: 1000, expire: Duration::from_mins(10) }
    }
}

/// Reads the section.
pub(crate) fn read(section: &mut Section<'_>, problems: &mut Problems) -> Settings {
    let default = Settings::default();
    let listen = section.value("listen", problems, |text| {
        let address: Option<SocketAddr> = text.parse().ok().filter(|address: &SocketAddr| address.ip().is_loopback());
        address.ok_or_else(|| format!("`{text}` is no address of the loopback; write for example `127.0.0.1:8125`"))
    });
    let max_metrics = section.value("max_metrics", problems, |text| {
        let number = text.parse().ok().filter(|number| (1..=10_000).contains(number));
        number.ok_or_else(|| format!("`{text}` is not a whole number from 1 to 10000"))
    });
    Settings {
        listen,
        max_metrics: max_metrics.unwrap_or(default.max_metrics),
        expire: section.value("expire", problems, span).unwrap_or(default.expire),
    }
}

/// What [`read`] reads, as a document has it.
pub(crate) fn write(settings: &Settings) -> String {
    let Settings { listen, max_metrics, expire } = settings;
    let listen = listen.map(|listen| format!(", listen: \"{listen}\"")).unwrap_or_default();
    format!("{listen}, max_metrics: {max_metrics}, expire: {}", format_duration(*expire))
}

/// What programs sent, `statsd_lines_total`, `statsd_lines_refused_total`, `statsd_metrics`.
struct Statsd {
    settings: Settings,
    table: Arc<Mutex<Table>>,
    is_started: bool,
}

/// A metric's name and its labels.
type Key = (String, Vec<(String, String)>);

#[derive(Default)]
struct Table {
    /// Value, and when it was sent last.
    metrics: BTreeMap<Key, (f64, Instant)>,
    lines: u64,
    refused: u64,
}

impl Table {
    fn take(&mut self, line: Option<Line>, max_metrics: usize, now: Instant) {
        let Some(Line { name, tags, action }) = line.filter(|line| !is_ours(&line.name)) else {
            self.refused += 1;
            return;
        };
        let is_known = |name: &str| self.metrics.contains_key(&(name.to_owned(), tags.clone()));
        let parts: Vec<(String, f64, bool)> = match action {
            Action::Count(by) | Action::Change(by) => vec![(name, by, true)],
            Action::Set(to) => vec![(name, to, false)],
            Action::Observe { seconds, times } => {
                vec![(format!("{name}_sum"), seconds * times, true), (format!("{name}_count"), times, true)]
            }
        };
        let new = parts.iter().filter(|(name, ..)| !is_known(name)).count();
        if self.metrics.len() + new > max_metrics {
            self.refused += 1;
            return;
        }
        self.lines += 1;
        for (name, by, adds) in parts {
            let (value, last) = self.metrics.entry((name, tags.clone())).or_insert((0.0, now));
            *value = if adds { *value + by } else { by };
            *last = now;
        }
    }
}

fn is_ours(name: &str) -> bool {
    name.starts_with("veghe_") || name.starts_with("statsd_") || name == "up"
}

fn locked(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Statsd {
    fn new(settings: Settings) -> Self {
        Self { settings, table: Arc::default(), is_started: false }
    }

    fn start(&self) -> std::io::Result<SocketAddr> {
        let own = self.settings.listen.ok_or(std::io::ErrorKind::AddrNotAvailable)?;
        let socket = UdpSocket::bind(own)?;
        socket.set_read_timeout(Some(LOOK))?;
        let address = socket.local_addr()?;
        let (table, max_metrics) = (Arc::downgrade(&self.table), self.settings.max_metrics);
        let run = move || listen(&socket, &table, max_metrics);
        thread::Builder::new().name("statsd".into()).stack_size(STACK_BYTES).spawn(run)?;
        Ok(address)
    }
}

fn listen(socket: &UdpSocket, table: &Weak<Mutex<Table>>, max_metrics: usize) {
    let mut packet = vec![0; MAX_PACKET];
    loop {
        let received = socket.recv(&mut packet);
        // The sensor is no more.
        let Some(table) = table.upgrade() else { return };
        let Ok(length) = received else { continue };
        let now = clock::instant();
        let mut table = locked(&table);
        for line in packet.get(..length).unwrap_or_default().split(|byte| *byte == b'\n') {
            if line.is_empty() {
                continue;
            }
            let line = std::str::from_utf8(line).ok().map(|line| line.trim_end_matches('\r'));
            table.take(line.and_then(statsd::line), max_metrics, now);
        }
    }
}

impl Sensor for Statsd {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        if !self.is_started {
            let refused = |source| SensorError::Ask { call: "bind", source };
            self.start().map_err(refused)?;
            self.is_started = true;
        }
        let origin = Origin::of_host("statsd");
        let mut table = locked(&self.table);
        table.metrics.retain(|_, (_, last)| last.elapsed() < self.settings.expire);
        let own = [
            ("statsd_lines_refused_total", table.refused as f64),
            ("statsd_lines_total", table.lines as f64),
            ("statsd_metrics", table.metrics.len() as f64),
        ];
        let mut told: Vec<(SeriesName, f64)> =
            own.into_iter().map(|(metric, value)| (origin.series(metric, []), value)).collect();
        told.extend(table.metrics.iter().map(|((name, tags), (value, _))| {
            let tags = tags.iter().map(|(name, value)| (name.as_str(), value.as_str()));
            (origin.series(name, tags), *value)
        }));
        drop(table);
        // Two that differ only in a label without a value are the same.
        let mut seen = std::collections::HashSet::new();
        for (name, value) in &told {
            if seen.insert(name) {
                sink.put_named(name, *value);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_metrics_within_their_bounds() {
        let settings =
            Settings { listen: Some(SocketAddr::from(([127, 0, 0, 1], 0))), max_metrics: 4, ..Settings::default() };
        let mut sensor = Statsd::new(settings);
        let address = sensor.start().expect("a port");
        sensor.is_started = true;
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let lines = b"pages:2|c|#station:S01\npages:3|c|#station:S01\nqueue:5|g\nqueue:-1|g\nocr:250|ms\nocr:750|ms\nmore:1|c\nveghe_x:1|g\nnonsense\n";
        socket.send_to(lines, address).expect("send");
        // The bound only ends a test that has failed.
        let is_read = |_| {
            thread::sleep(Duration::from_millis(5));
            locked(&sensor.table).refused >= 3
        };
        assert!((0..20_000).any(is_read), "the datagram never came");
        let mut sink = Sink::default();
        sensor.read(&mut sink).expect("never fails");
        let (series, values) = sink.take();
        let value = |metric: &str, labels: &[(&str, &str)]| {
            let wanted = SeriesName::new(metric, labels);
            series.0.iter().position(|name| *name == wanted).map(|position| values[position])
        };
        assert_eq!(value("pages", &[("job", "statsd"), ("station", "S01")]), Some(5.0));
        let of = |metric| value(metric, &[("job", "statsd")]);
        assert_eq!((of("queue"), of("ocr_sum"), of("ocr_count")), (Some(4.0), Some(1.0), Some(2.0)));
        assert_eq!((of("statsd_lines_total"), of("statsd_lines_refused_total")), (Some(6.0), Some(3.0)));
        assert_eq!(of("more"), None, "beyond the most that are kept");
        sensor.settings.expire = Duration::ZERO;
        sensor.read(&mut sink).expect("never fails");
        assert_eq!(sink.take().0.0.len(), 3);
    }
}
