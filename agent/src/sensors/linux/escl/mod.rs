//! Scanners by eSCL (AirScan): state, document feeder, jobs, images; set in the settings or found by mDNS.
//!
//! Counters go over all jobs that a scanner tells of: an image counts once, whichever job it is of, and what was made
//! before the agent started does not. What it deliberately does not do: scan.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use url::Url;
use veghe_dialects::escl::{self, Capabilities, EsclError, Status};

use self::jobs::Jobs;
use self::settings::Target;
use super::http::{self, HttpError, Trust};
use super::polled::{Origin, Polled, Question};
use super::{Entry, Sensor, SensorError, Sink};
use crate::clock;

mod discovery;
mod jobs;
pub mod settings;

pub(crate) const ENTRY: Entry = Entry::new(
    "escl",
    |_| Vec::new(),
    |settings| Box::new(Escl::new(&settings.options.escl, settings.state_dir.clone())),
)
.unless(|settings| {
    let escl = &settings.options.escl;
    let is_empty = escl.targets.is_empty() && !escl.discover;
    is_empty.then(|| "no scanners are set; set sensors.escl.targets or sensors.escl.discover".to_owned())
})
.every(Duration::from_secs(15), Duration::from_secs(10));

const STATES: [&str; 5] = ["Idle", "Processing", "Testing", "Stopped", "Down"];
const ADF_STATES: [&str; 11] = [
    "ScannerAdfDuplexPageTooLong",
    "ScannerAdfDuplexPageTooShort",
    "ScannerAdfEmpty",
    "ScannerAdfHatchOpen",
    "ScannerAdfInputTrayFailed",
    "ScannerAdfInputTrayOverloaded",
    "ScannerAdfJam",
    "ScannerAdfLoaded",
    "ScannerAdfMispick",
    "ScannerAdfMultipickDetected",
    "ScannerAdfProcessing",
];

/// Scanners of the local network that answer now; takes some seconds.
pub(crate) fn neighbours() -> Vec<Target> {
    discovery::neighbours()
}

/// `escl_*`, with `up` and `scrape_duration_seconds` of each scanner.
pub(crate) struct Escl {
    scanners: Polled<Scanner, Asked>,
    discovery: Option<discovery::Discovery>,
    state_dir: Option<PathBuf>,
}

/// A scanner, and where the pin of its certificate is kept.
pub(crate) struct Scanner {
    target: Target,
    state_dir: Option<PathBuf>,
}

/// What a scanner said.
pub(crate) struct Asked {
    status: Result<Status, AskError>,
    capabilities: Option<Arc<Capabilities>>,
    jobs: jobs::Counts,
    duration: Duration,
}

/// Why a scanner says nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    #[error("cannot ask for {path}")]
    Http { path: String, source: HttpError },
    #[error("cannot read {path}")]
    Document { path: String, source: EsclError },
}

impl AskError {
    fn is_certificate(&self) -> bool {
        matches!(self, Self::Http { source: HttpError::CertificateChanged { .. }, .. })
    }
}

impl Escl {
    fn new(settings: &settings::Settings, state_dir: Option<PathBuf>) -> Self {
        let scanner = |target: &Target| Scanner { target: target.clone(), state_dir: state_dir.clone() };
        let scanners = settings.targets.iter().map(scanner).collect();
        let discovery = settings.discover.then(discovery::Discovery::default);
        Self { scanners: Polled::new("escl", scanners, question), discovery, state_dir }
    }

    /// Scanners that answered meanwhile are asked from now on.
    fn discover(&mut self) {
        let Some(discovery) = &mut self.discovery else { return };
        for target in discovery.found() {
            let is_known = self.scanners.targets().any(|known| known.target.instance() == target.instance());
            if !is_known && self.scanners.targets().count() < settings::MAX_TARGETS {
                tracing::info!(url = %target.url, "found a scanner");
                self.scanners.add(Scanner { target, state_dir: self.state_dir.clone() });
            }
        }
    }
}

impl Sensor for Escl {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        self.discover();
        for outcome in self.scanners.round(|scanner| scanner.target.timeout, |asked| asked.status.is_err()) {
            let target = &outcome.target.target;
            let origin = Origin::new("escl", &target.instance(), &target.labels);
            let mut put = |metric: &str, labels: &[(&str, &str)], value: f64| {
                sink.put_named(&origin.series(metric, labels.iter().copied()), value);
            };
            let flag = |is: bool| f64::from(u8::from(is));
            let duration = outcome.answer.as_ref().map_or(outcome.waited, |asked| asked.duration);
            let is_up = outcome.answer.as_ref().is_some_and(|asked| asked.status.is_ok());
            put("up", &[], flag(is_up));
            put("escl_up", &[], flag(is_up));
            put("scrape_duration_seconds", &[], duration.as_secs_f64());
            let Some(asked) = outcome.answer else { continue };
            if target.url.scheme() == "https" {
                let is_changed = asked.status.as_ref().is_err_and(AskError::is_certificate);
                put("escl_certificate_changed", &[], flag(is_changed));
            }
            let Ok(status) = &asked.status else { continue };
            if let Some(found) = &asked.capabilities {
                let labels = [
                    ("make_and_model", found.make_and_model.as_str()),
                    ("serial_number", &found.serial_number),
                    ("uuid", &found.uuid),
                    ("version", &status.version),
                ];
                put("escl_scanner_info", &labels, 1.0);
            }
            for (metric, known, state) in [
                ("escl_scanner_state", &STATES[..], &status.state),
                ("escl_adf_state", &ADF_STATES[..], &status.adf_state),
            ] {
                if state.is_empty() {
                    continue;
                }
                for name in known {
                    put(metric, &[("state", name)], flag(name == state));
                }
                if !known.contains(&state.as_str()) {
                    put(metric, &[("state", state)], 1.0);
                }
            }
            let job = status.jobs.iter().find(|job| job.state == "Processing");
            let of_job = |number: fn(&escl::Job) -> u64| job.map_or(0.0, |job| number(job) as f64);
            put("escl_job_age_seconds", &[], of_job(|job| job.age_seconds));
            put("escl_job_images_completed", &[], of_job(|job| job.images_completed));
            put("escl_job_images_to_transfer", &[], of_job(|job| job.images_to_transfer));
            for state in jobs::STATES {
                let count = status.jobs.iter().filter(|job| job.state == state).count();
                put("escl_jobs", &[("state", state)], count as f64);
            }
            put("escl_images_completed_total", &[], asked.jobs.images as f64);
            for (state, count) in jobs::ENDS.iter().zip(asked.jobs.ended) {
                put("escl_jobs_ended_total", &[("state", state)], count as f64);
            }
        }
        Ok(())
    }
}

fn trust(target: &Target, state_dir: Option<&Path>) -> Result<Option<Trust>, HttpError> {
    match (target.url.scheme(), &target.ca_file, state_dir) {
        ("https", Some(file), _) => Trust::ca(file).map(Some),
        // Without a state directory, as in `once`, nothing is kept from one start to the next.
        ("https", None, directory) => {
            let directory = directory.map_or_else(|| std::env::temp_dir().join("veghe-agent"), Path::to_owned);
            Trust::first_use(&directory, &target.instance()).map(Some)
        }
        _ => Ok(None),
    }
}

fn question(scanner: Arc<Scanner>) -> Question<Asked> {
    let mut jobs = Jobs::default();
    let mut capabilities: Option<Arc<Capabilities>> = None;
    let mut was_told = false;
    Box::new(move || {
        let begin = clock::instant();
        let until = begin + scanner.target.timeout;
        let ask = |path: &str| {
            let url = scanner.target.below(path);
            let wrong = |source| AskError::Http { path: path.to_owned(), source };
            let trust = trust(&scanner.target, scanner.state_dir.as_deref()).map_err(wrong)?;
            let accept = [("Accept", "text/xml, application/xml")];
            http::get(&url, trust.as_ref(), &accept, escl::MAX_BYTES, until).map(|reply| reply.body).map_err(wrong)
        };
        let path = "ScannerStatus";
        let status = ask(path).and_then(|document| {
            escl::status(&document).map_err(|source| AskError::Document { path: path.to_owned(), source })
        });
        match &status {
            Ok(status) => {
                jobs.hear(&status.jobs);
                if was_told {
                    tracing::info!(url = %scanner.target.url, "a scanner answers again");
                }
                was_told = false;
                // It may have been replaced while it was away.
                if capabilities.is_none()
                    && let Ok(document) = ask("ScannerCapabilities")
                {
                    capabilities = escl::capabilities(&document).ok().map(Arc::new);
                }
            }
            Err(error) => {
                if !was_told {
                    let error = error as &dyn std::error::Error;
                    tracing::warn!(url = %scanner.target.url, error, "cannot ask a scanner");
                }
                was_told = true;
                capabilities = None;
            }
        }
        Asked { status, capabilities: capabilities.clone(), jobs: jobs.counts, duration: begin.elapsed() }
    })
}

impl Target {
    /// The address of the document `name`.
    fn below(&self, name: &str) -> Url {
        let mut url = self.url.clone();
        url.set_path(&format!("{}/{name}", self.url.path().trim_end_matches('/')));
        url
    }
}
