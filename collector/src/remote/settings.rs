//! Who is written to, and how.
//!
//! What it deliberately does not do: read configuration (`config`), or hold a secret: files are read when they are needed.

use std::path::PathBuf;
use std::time::Duration;

use url::Url;
use veghe_model::RelabelRule;

use super::Protocol;

/// A receiver of everything that is stored.
#[derive(Clone, Debug)]
pub struct Target {
    /// Tells it apart in metrics, logs and in the store, which keeps by it how far the target has got.
    pub name: String,
    /// Where to post; `http` or `https`.
    pub url: Url,
    /// Which message it is sent.
    pub protocol: Protocol,
    /// How long one attempt may take.
    pub timeout: Duration,
    /// Further headers, names in the form of HTTP.
    pub headers: Vec<(String, String)>,
    /// What becomes of labels, after external labels were added.
    pub relabel: Vec<RelabelRule>,
    /// How the collector proves who it is.
    pub credentials: Option<Credentials>,
    /// Certificates in PEM to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Certificate and key in PEM that the collector shows.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// How requests are cut and repeated.
    pub queue: Queue,
    /// Bytes on disk of log that is kept for this target only; beyond, the oldest is given up.
    pub max_backlog_bytes: u64,
}

impl Target {
    /// A target at `url` with every default.
    pub fn new(url: Url) -> Self {
        Self {
            name: shown(&url),
            url,
            protocol: Protocol::Version1,
            timeout: Duration::from_secs(30),
            headers: Vec::new(),
            relabel: Vec::new(),
            credentials: None,
            ca_file: None,
            certificate: None,
            queue: Queue::default(),
            max_backlog_bytes: 4 << 30,
        }
    }

    /// The address without what may hold secrets.
    pub fn shown_url(&self) -> String {
        shown(&self.url)
    }
}

fn shown(url: &Url) -> String {
    url[..url::Position::AfterPath].to_owned()
}

/// What a request proves who it is with.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// `Authorization: Basic`
    Basic {
        /// The name.
        username: String,
        /// A file that holds the password alone.
        password_file: PathBuf,
    },
    /// `Authorization: Bearer`, of a file that holds the token alone.
    Bearer(PathBuf),
}

/// How requests are cut and repeated; the defaults of times and sizes are Prometheus'.
#[derive(Clone, Debug)]
pub struct Queue {
    /// Requests on the way at the same time.
    pub max_shards: usize,
    /// Samples in one request.
    pub max_samples_per_send: usize,
    /// How long samples wait at most until they are sent.
    pub batch_send_deadline: Duration,
    /// The wait after a first failure. It doubles each time.
    pub min_backoff: Duration,
    /// The longest wait.
    pub max_backoff: Duration,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            max_shards: 4,
            max_samples_per_send: 2_000,
            batch_send_deadline: Duration::from_secs(5),
            min_backoff: Duration::from_millis(30),
            max_backoff: Duration::from_secs(5),
        }
    }
}
