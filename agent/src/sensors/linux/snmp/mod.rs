//! Devices by SNMP: switches, printers and scanners, storage, UPS, probes; v2c, and v3 with passwords from files.
//!
//! As behind `snmp_exporter`: modules and names of metrics are its, `instance` is the target's address, and `up`,
//! `scrape_duration_seconds` and `snmp_scrape_*` tell how it went. A module that fails leaves the others of its target.
//! What it deliberately does not do: traps, writing, MIB files.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use veghe_dialects::snmp::Value;

use self::client::{Client, ClientError};
pub use self::module::{Module, Sample};
use self::settings::Target;
use super::polled::{Origin, Polled, Question};
use super::{Entry, Sensor, SensorError, Sink};
use crate::clock;
use crate::reading::SeriesName;

mod client;
mod mibs;
mod module;
pub mod settings;

pub(crate) const ENTRY: Entry =
    Entry::new("snmp", |_| Vec::new(), |settings| Box::new(Snmp::new(settings.options.snmp.targets.clone())))
        .unless(|settings| {
            settings.options.snmp.targets.is_empty().then(|| "no devices are set; set sensors.snmp.targets".to_owned())
        })
        .every(Duration::from_mins(1), Duration::from_secs(30));

/// `up`, `scrape_duration_seconds`, `snmp_scrape_*`, and what the modules of each target say.
pub(crate) struct Snmp {
    targets: Polled<Target, Vec<Walked>>,
}

/// What one module gave.
pub(crate) struct Walked {
    module: String,
    samples: Result<Vec<Sample>, ClientError>,
    values: usize,
    sent: u32,
    repeated: u32,
    walk: Duration,
    total: Duration,
}

impl Snmp {
    /// Asks these.
    pub(crate) fn new(targets: Vec<Target>) -> Self {
        Self { targets: Polled::new("snmp", targets, question) }
    }
}

impl Sensor for Snmp {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        let mut seen = HashSet::new();
        for outcome in self.targets.round(|target| target.timeout, |walked| is_down(walked)) {
            let origin = Origin::new("snmp", &outcome.target.address, &outcome.target.labels);
            let is_up = outcome.answer.as_ref().is_some_and(|walked| !is_down(walked));
            let walked = outcome.answer.unwrap_or_default();
            let duration =
                if walked.is_empty() { outcome.waited } else { walked.iter().map(|walked| walked.total).sum() };
            sink.put_named(&origin.series("up", []), f64::from(u8::from(is_up)));
            sink.put_named(&origin.series("scrape_duration_seconds", []), duration.as_secs_f64());
            let mut put = |name: SeriesName, value: f64| {
                // Two modules may have the same column, and a device the same row twice.
                if seen.insert(name.clone()) {
                    sink.put_named(&name, value);
                }
            };
            for Walked { module, samples, values, sent, repeated, walk, total } in walked {
                let module = [("module", module.as_str())];
                for (metric, value) in [
                    ("snmp_scrape_duration_seconds", total.as_secs_f64()),
                    ("snmp_scrape_packets_retried", f64::from(repeated)),
                    ("snmp_scrape_packets_sent", f64::from(sent)),
                    ("snmp_scrape_pdus_returned", values as f64),
                    ("snmp_scrape_walk_duration_seconds", walk.as_secs_f64()),
                ] {
                    put(origin.series(metric, module), value);
                }
                for sample in samples.into_iter().flatten() {
                    let labels = sample.labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
                    put(origin.series(&sample.metric, labels), sample.value);
                }
            }
        }
        Ok(())
    }
}

/// A target whose modules all failed.
fn is_down(walked: &[Walked]) -> bool {
    walked.iter().all(|walked| walked.samples.is_err())
}

fn question(target: Arc<Target>) -> Question<Vec<Walked>> {
    let mut client: Option<Client> = None;
    let mut was_told = None;
    Box::new(move || {
        let until = clock::instant() + target.timeout;
        let mut walked = Vec::with_capacity(target.modules.len());
        for module in &target.modules {
            let is_hopeless =
                walked.iter().any(|walked: &Walked| !matches!(walked.samples, Ok(_) | Err(ClientError::Status { .. })));
            if is_hopeless && clock::instant() >= until {
                break;
            }
            let begin = clock::instant();
            let opened = match &mut client {
                Some(client) => Ok(client),
                None => Client::new(&target).map(|opened| client.insert(opened)),
            };
            let mut result = Walked {
                module: module.name.clone(),
                samples: Ok(Vec::new()),
                values: 0,
                sent: 0,
                repeated: 0,
                walk: Duration::ZERO,
                total: Duration::ZERO,
            };
            let values = opened.and_then(|client| {
                (client.sent, client.repeated) = (0, 0);
                let values = client.walk(&module.walks, until);
                (result.sent, result.repeated) = (client.sent, client.repeated);
                values
            });
            result.walk = begin.elapsed();
            result.samples = values.map(|values| {
                let is_there = |(_, value): &&(_, Value)| !matches!(value, Value::Missing | Value::Null);
                result.values = values.iter().filter(is_there).count();
                module.samples(&values)
            });
            result.total = begin.elapsed();
            walked.push(result);
        }
        let error = walked.iter().find_map(|walked| Some((walked.module.clone(), walked.samples.as_ref().err()?)));
        if let Some((module, error)) = &error
            && was_told.is_none()
        {
            let error = *error as &dyn std::error::Error;
            tracing::warn!(target = target.address, module, error, "cannot ask a device by SNMP");
        } else if error.is_none() && was_told.is_some() {
            tracing::info!(target = target.address, "a device answers by SNMP again");
        }
        was_told = error.map(|(module, _)| module);
        if is_down(&walked) {
            // Its address or the password may be another by now.
            client = None;
        }
        walked
    })
}
