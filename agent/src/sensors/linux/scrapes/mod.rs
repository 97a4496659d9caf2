//! Prometheus exporters of this machine: asked each round, all at once, each on a thread of its own.
//!
//! As Prometheus does: every series gets the label `job`, and `up`, `scrape_duration_seconds` and
//! `scrape_samples_scraped` tell how it went; labels of the exporter that would hide ours are renamed `exported_<name>`. The
//! collector sets `instance` to the agent, so that several targets of a job are told apart by the label `target`.
//! What it deliberately does not do: time stamps of the exporter, finding exporters by itself, exemplars.

pub mod settings;

use std::collections::HashSet;
use std::time::Duration;

use veghe_model::{Labels, LabelsBuilder, RelabelRule, relabel};

pub use self::settings::Target;
use super::asked::Asked;
use super::http::{self, HttpError, Login, Trust};
use super::{Entry, Sensor, SensorError, Sink};
use crate::clock;
use crate::openmetrics::{self, ParseError};
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
const MAX_BYTES: usize = 16 << 20;
const MAX_SAMPLES: usize = 50_000;
const STACK_BYTES: usize = 256 << 10;
const ACCEPT: &str = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4";

/// Why an exporter is down.
#[derive(Debug, thiserror::Error)]
enum ScrapeError {
    #[error("cannot ask it")]
    Http(#[from] HttpError),
    #[error("its answer is no text")]
    Text(#[from] std::str::Utf8Error),
    #[error("cannot read its answer")]
    Parse(#[from] ParseError),
    #[error("its answer in OpenMetrics is cut off: the line `# EOF` is missing")]
    CutOff,
    #[error("`metric_relabel_configs` leave a series without a name")]
    NoName,
}

/// `up`, `scrape_duration_seconds`, `scrape_samples_scraped`, and what the exporters say.
pub(crate) struct Scrapes {
    targets: Vec<(Target, Option<Asked<Scrape>>)>,
}

struct Scrape {
    samples: Result<Samples, ScrapeError>,
    duration: Duration,
}

struct Samples {
    /// How many there were.
    scraped: usize,
    /// Those that settings do not drop.
    kept: Vec<(SeriesName, f64)>,
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
                let mut exporter = Exporter::new(target.clone());
                *asked = Asked::start("scrape", STACK_BYTES, move || exporter.scrape()).ok();
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
            let (scraped, kept) = samples.map_or((0, Vec::new()), |samples| (samples.scraped, samples.kept));
            let count = kept.len() as f64;
            sink.put_named(&labelled("scrape_samples_post_metric_relabeling", &[], target), count);
            sink.put_named(&labelled("scrape_samples_scraped", &[], target), scraped as f64);
            for (name, value) in kept {
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

/// What a thread needs to ask one exporter, time and again.
struct Exporter {
    target: Target,
    rules: Vec<RelabelRule>,
    /// Kept while it works: certificates that were replaced are read after the first handshake that fails.
    trust: Option<Trust>,
}

impl Exporter {
    fn new(target: Target) -> Self {
        // Checked when the settings were read.
        let rules = target.rules.iter().filter_map(|rule| RelabelRule::new(rule.clone()).ok()).collect();
        Self { target, rules, trust: None }
    }

    fn scrape(&mut self) -> Scrape {
        let begin = clock::instant();
        let samples = self.samples();
        if let Err(error) = &samples {
            let (target, error) = (&self.target, error as &dyn std::error::Error);
            tracing::debug!(job = target.job, url = %target.url, error, "cannot scrape an exporter");
            self.trust = None;
        }
        Scrape { samples, duration: begin.elapsed() }
    }

    fn samples(&mut self) -> Result<Samples, ScrapeError> {
        let target = &self.target;
        let until = clock::instant() + target.timeout;
        if target.url.scheme() == "https" && self.trust.is_none() {
            self.trust = Some(Trust::new(&target.tls)?);
        }
        let authorization = target.login.as_ref().map(Login::header).transpose()?;
        let mut headers = vec![("Accept", ACCEPT)];
        headers.extend(authorization.as_deref().map(|value| ("Authorization", value)));
        let reply = http::get(&target.url, self.trust.as_ref(), &headers, MAX_BYTES, until)?;
        let text = std::str::from_utf8(&reply.body)?;
        // Only this format has an end by which one that was cut off is told.
        let has_end = reply.content_type.starts_with("application/openmetrics-text");
        if has_end && text.trim_end_matches(['\r', '\n']).lines().last() != Some("# EOF") {
            return Err(ScrapeError::CutOff);
        }
        let samples = openmetrics::parse(text, MAX_SAMPLES)?;
        let scraped = samples.len();
        let mut kept = Vec::with_capacity(scraped);
        for sample in samples {
            if target.drop.matches(sample.series.metric()) {
                continue;
            }
            let name = labelled(sample.series.metric(), sample.series.labels(), target);
            kept.extend(self.relabelled(name)?.map(|name| (name, sample.value)));
        }
        Ok(Samples { scraped, kept })
    }

    /// `name` after the rules; none where they drop it.
    fn relabelled(&self, name: SeriesName) -> Result<Option<SeriesName>, ScrapeError> {
        if self.rules.is_empty() {
            return Ok(Some(name));
        }
        let before = Labels::from_pairs(name.0.iter().map(|(name, value)| (&**name, &**value)));
        let Some(mut after) = relabel(&before, &self.rules).map(|labels| labels.to_builder()) else { return Ok(None) };
        let metric = after.get("__name__").ok_or(ScrapeError::NoName)?.to_owned();
        after.remove("__name__");
        Ok(Some(series(&metric, &after)))
    }
}

fn series(metric: &str, labels: &LabelsBuilder) -> SeriesName {
    let pair = |label: &veghe_model::Label| (Box::from(&*label.name), Box::from(&*label.value));
    let name = std::iter::once((Box::from("__name__"), Box::from(metric)));
    SeriesName(name.chain(labels.build().iter().map(pair)).collect())
}

#[cfg(test)]
mod tests;
