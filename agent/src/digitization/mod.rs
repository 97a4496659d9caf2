//! What this machine sees of a digitization: images that come into hot folders, rows of capture software's exports, packages
//! that are delivered. Each becomes events for the collector's ledger, and metrics.
//!
//! Invariants: an event is on disk, with what is remembered of its file, before anybody may send it, and stays until the
//! collector has it on disk; no path leaves the machine but what a template takes out of it.
//! What it deliberately does not do: judge the quality of images, write to the folders, or speak MQTT (see `uplink`).

mod content;
pub mod courier;
mod event;
mod hotfolder;
mod judge;
pub(crate) mod polite;
pub mod settings;
mod status;
pub mod store;
pub mod template;
#[cfg(test)]
mod tests;
mod watch;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::{self, JoinHandle};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use veghe_wire::AgentId;

use self::hotfolder::{Moment, Worker};
use self::judge::Judge;
pub use self::settings::Settings;
use self::status::{DeliveryStatus, DigitizationSensor, ExportStatus, FolderStatus, Status};
use self::store::{Store, StoreError};
use crate::clock;
use crate::sensors::Sensor;

/// Running sources of events.
#[derive(Debug)]
pub struct Digitization {
    threads: Vec<JoinHandle<()>>,
    status: Arc<Status>,
    news: Arc<Notify>,
}

pub(crate) fn moment() -> Moment {
    Moment { at: clock::instant(), ms: clock::now_ms() }
}

impl Digitization {
    /// Starts a thread for each source in `settings`; they end when `stop` is cancelled.
    ///
    /// # Errors
    /// Where the database can't be used.
    pub fn start(
        settings: &Settings,
        agent: &AgentId,
        state_dir: &Path,
        stop: &CancellationToken,
    ) -> Result<Self, StoreError> {
        let folder = |name: &str| Arc::new(FolderStatus { name: name.to_owned(), ..FolderStatus::default() });
        let export = |name: &str| Arc::new(ExportStatus { name: name.to_owned(), ..ExportStatus::default() });
        let delivery = |name: &str| Arc::new(DeliveryStatus { name: name.to_owned(), ..DeliveryStatus::default() });
        let status = Arc::new(Status {
            folders: settings.hot_folders.iter().map(|source| folder(&source.name)).collect(),
            exports: settings.csv.iter().map(|source| export(&source.name)).collect(),
            deliveries: settings.deliveries.iter().map(|source| delivery(&source.name)).collect(),
            ..Status::default()
        });
        let news = Arc::new(Notify::new());
        let store = Store::open(state_dir)?;
        for (station, count) in store.tallies("images")? {
            status.add_images(&station, count);
        }
        status.waiting.store(store.waiting()?, Relaxed);
        let mut threads = Vec::new();
        for (source, folder) in settings.hot_folders.iter().zip(&status.folders) {
            let store = Store::open(state_dir)?;
            Judge::restore(&store, folder)?;
            let (folder, all) = (Arc::clone(folder), Arc::clone(&status));
            let mut worker = Worker::new(source.clone(), agent.clone(), store, folder, all, clock::instant());
            let (stop, news) = (stop.clone(), Arc::clone(&news));
            threads.extend(start(&format!("hot-{}", source.name), move || {
                while !stop.is_cancelled() {
                    if worker.look(moment()) {
                        news.notify_one();
                    }
                    worker.wait(clock::instant());
                }
            }));
        }
        Ok(Self { threads, status, news })
    }

    /// What tells of it as metrics.
    pub fn sensor(&self) -> Box<dyn Sensor> {
        Box::new(DigitizationSensor(Arc::clone(&self.status)))
    }

    /// Told whenever there is something to send.
    pub fn news(&self) -> Arc<Notify> {
        Arc::clone(&self.news)
    }

    pub(crate) fn status(&self) -> Arc<Status> {
        Arc::clone(&self.status)
    }

    /// Waits until every source has ended, which it does soon after it was told to.
    pub fn join(self) {
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a source of the digitization failed unexpectedly");
            }
        }
    }
}

/// A polite thread of that name.
pub(crate) fn start(name: &str, work: impl FnOnce() + Send + 'static) -> Option<JoinHandle<()>> {
    let polite = move || {
        polite::yield_to_others();
        work();
    };
    thread::Builder::new()
        .name(name.to_owned())
        .stack_size(crate::crew::STACK_BYTES)
        .spawn(polite)
        .inspect_err(|error| tracing::error!(%error, name, "cannot start a thread of the digitization"))
        .ok()
}
