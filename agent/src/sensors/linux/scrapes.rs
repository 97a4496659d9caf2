//! Prometheus exporters of this machine: asked each round, all at once, each on a thread of its own.
//!
//! As Prometheus does: every series gets the label `job`, and `up`, `scrape_duration_seconds` and
//! `scrape_samples_scraped` tell how it went; labels of the exporter that would hide ours are renamed `exported_<name>`. The
//! collector sets `instance` to the agent, so that several targets of a job are told apart by the label `target`.
//! What it deliberately does not do: TLS, time stamps of the exporter.

use std::collections::HashSet;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use super::asked::Asked;
use super::glob::Globs;
use super::{Entry, Sensor, SensorError, Sink};
use crate::clock;
use crate::openmetrics;
use crate::reading::SeriesName;

pub(crate) const ENTRY: Entry = Entry::new(
    "scrapes",
    |_| Vec::new(),
    |settings| Box::new(Scrapes::new(settings.options.scrapes.clone())),
)
.unless(|settings| {
    settings.options.scrapes.is_empty().then(|| "no exporters are set; set sensors.scrapes.scrape_configs".to_owned())
});

/// A longer answer is an error.
const MAX_BYTES: u64 = 16 << 20;
const MAX_SAMPLES: usize = 50_000;
const STACK_BYTES: usize = 256 << 10;

/// One exporter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The value of the label `job`.
    pub job: String,
    /// Host and port.
    pub address: String,
    /// Path and query, for example `/metrics`.
    pub path: String,
    /// How long all of it may take.
    pub timeout: Duration,
    /// Labels of every series, `job` not among them.
    pub labels: Vec<(String, String)>,
    /// Names of metrics that are dropped.
    pub drop: Globs,
}

/// `up`, `scrape_duration_seconds`, `scrape_samples_scraped`, and what the exporters say.
pub(crate) struct Scrapes {
    targets: Vec<(Target, Option<Asked<Scrape>>)>,
}

struct Scrape {
    samples: io::Result<Vec<(SeriesName, f64)>>,
    duration: Duration,
}

impl Scrapes {
    pub(crate) fn new(targets: Vec<Target>) -> Self {
        Self { targets: targets.into_iter().map(|target| (target, None)).collect() }
    }
}

impl Sensor for Scrapes {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        for (target, asked) in &mut self.targets {
            if asked.is_none() {
                let target = target.clone();
                *asked = Asked::start("scrape", STACK_BYTES, move || scrape(&target)).ok();
            }
            asked.iter_mut().for_each(Asked::ask);
        }
        let begin = clock::instant();
        let mut seen = HashSet::new();
        for (target, asked) in &mut self.targets {
            // One whose name is never resolved is beyond its own limit; a little more lets the others be told first.
            let patience = (target.timeout + Duration::from_millis(100)).saturating_sub(begin.elapsed());
            let scrape = asked.as_mut().and_then(|asked| asked.answer(patience));
            let duration = scrape.as_ref().map_or_else(|| begin.elapsed(), |scrape| scrape.duration);
            let samples = scrape.and_then(|scrape| scrape.samples.ok());
            sink.put_named(&labelled("up", &[], target), f64::from(u8::from(samples.is_some())));
            sink.put_named(&labelled("scrape_duration_seconds", &[], target), duration.as_secs_f64());
            let samples = samples.unwrap_or_default();
            sink.put_named(&labelled("scrape_samples_scraped", &[], target), samples.len() as f64);
            for (name, value) in samples {
                // A series can be told once, whoever has it.
                if seen.insert(name.clone()) {
                    sink.put_named(&name, value);
                }
            }
        }
        Ok(())
    }
}

/// The series `metric` with `labels` and those of `target`.
fn labelled(metric: &str, labels: &[(Box<str>, Box<str>)], target: &Target) -> SeriesName {
    let own = || target.labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let own = || own().chain([("job", target.job.as_str())]);
    let hides = |name: &str| name == "instance" || own().any(|(own, _)| own == name);
    let theirs = labels.iter().map(|(name, value)| {
        let name = if hides(name) { format!("exported_{name}").into() } else { name.clone() };
        (name, value.clone())
    });
    let mut all: Vec<(Box<str>, Box<str>)> =
        theirs.chain(own().map(|(name, value)| (name.into(), value.into()))).collect();
    all.sort();
    all.dedup_by(|(later, _), (earlier, _)| later == earlier);
    all.insert(0, ("__name__".into(), metric.into()));
    SeriesName(all.into_boxed_slice())
}

fn scrape(target: &Target) -> Scrape {
    let begin = clock::instant();
    let samples = get(&target.address, &target.path, target.timeout).and_then(|text| {
        let samples = openmetrics::parse(&text, MAX_SAMPLES).map_err(io::Error::other)?;
        let kept = samples.into_iter().filter(|sample| !target.drop.matches(sample.series.metric()));
        let named = kept.map(|sample| (labelled(sample.series.metric(), sample.series.labels(), target), sample.value));
        Ok(named.collect())
    });
    if let Err(error) = &samples {
        tracing::debug!(job = target.job, address = target.address, %error, "cannot scrape an exporter");
    }
    Scrape { samples, duration: begin.elapsed() }
}

/// The body of an answer with status 200, by HTTP/1.0, which needs no chunks.
fn get(address: &str, path: &str, timeout: Duration) -> io::Result<String> {
    let begin = clock::instant();
    let left = || {
        let left = timeout.saturating_sub(begin.elapsed());
        if left.is_zero() { Err(io::Error::from(io::ErrorKind::TimedOut)) } else { Ok(left) }
    };
    let mut connected = Err(io::Error::other("the name has no address"));
    for socket in address.to_socket_addrs()? {
        connected = TcpStream::connect_timeout(&socket, left()?);
        if connected.is_ok() {
            break;
        }
    }
    let mut stream = connected?;
    stream.set_write_timeout(Some(left()?))?;
    let accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4";
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\nAccept: {accept}\r\nUser-Agent: veghe-agent\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut piece = vec![0; 64 << 10];
    loop {
        stream.set_read_timeout(Some(left()?))?;
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => answer.extend_from_slice(piece.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if answer.len() as u64 > MAX_BYTES {
            return Err(io::Error::other(format!("the answer has more than {MAX_BYTES} bytes")));
        }
    }
    let answer = String::from_utf8(answer).map_err(io::Error::other)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    match head.split_ascii_whitespace().nth(1) {
        Some("200") => Ok(body.to_owned()),
        other => Err(io::Error::other(format!("the status is {}", other.unwrap_or("missing")))),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    const PATIENT: Duration = Duration::from_mins(1);

    /// A server that answers each connection with `answer`, or holds it open without one.
    fn server(answer: Option<&'static str>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("port");
        let address = listener.local_addr().expect("address").to_string();
        thread::spawn(move || {
            let mut held = Vec::new();
            for stream in listener.incoming().flatten() {
                let mut stream = stream;
                if let Some(answer) = answer {
                    // What is left unread would end the connection before the answer is read.
                    let lines = BufReader::new(&stream).lines().map_while(Result::ok);
                    assert!(lines.take_while(|line| !line.is_empty()).count() > 1, "a request");
                    stream.write_all(answer.as_bytes()).ok();
                } else {
                    held.push(stream);
                }
            }
        });
        address
    }

    fn target(job: &str, address: String, timeout: Duration) -> Target {
        let labels = vec![("site".to_owned(), "tm".to_owned())];
        let drop = Globs::new(vec!["go_*".to_owned()]);
        Target { job: job.to_owned(), address, path: "/metrics".to_owned(), timeout, labels, drop }
    }

    #[test]
    fn exporters_are_told_with_their_job_and_one_that_is_silent_or_gone_is_down() {
        let good = server(Some("HTTP/1.0 200 OK\r\n\r\npg_up{instance=\"x\",site=\"y\",db=\"a\"} 1\ngo_threads 7\n"));
        let bad = server(Some("HTTP/1.0 503 Unavailable\r\n\r\npg_up 1\n"));
        let silent = server(None);
        let gone = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("port").to_string();
        let mut sensor = Scrapes::new(vec![
            target("silent", silent, Duration::from_millis(50)),
            target("good", good, PATIENT),
            target("bad", bad, PATIENT),
            target("gone", gone, PATIENT),
        ]);
        let mut sink = Sink::default();
        sensor.read(&mut sink).expect("never fails");
        let (series, values) = sink.take();
        let value = |metric: &str, job: &str| {
            let is_it =
                |name: &&SeriesName| name.metric() == metric && name.labels().iter().any(|(_, value)| **value == *job);
            series.0.iter().position(|name| is_it(&name)).map(|position| values[position])
        };
        for (job, up, samples) in [("silent", 0.0, 0.0), ("good", 1.0, 1.0), ("bad", 0.0, 0.0), ("gone", 0.0, 0.0)] {
            assert_eq!((value("up", job), value("scrape_samples_scraped", job)), (Some(up), Some(samples)), "{job}");
        }
        let labels = [("db", "a"), ("exported_instance", "x"), ("exported_site", "y"), ("job", "good"), ("site", "tm")];
        assert!(series.0.contains(&SeriesName::new("pg_up", &labels)), "{series:?}");
    }
}
