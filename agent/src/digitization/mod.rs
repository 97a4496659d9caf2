//! What this machine sees of a digitization: images that come into hot folders, rows of capture software's exports, packages
//! that are delivered. Each becomes events for the collector's ledger, and metrics.
//!
//! Invariants: an event is on disk, with what is remembered of its file, before anybody may send it, and stays until the
//! collector has it on disk; no path leaves the machine but what a template takes out of it.
//! What it deliberately does not do: judge the quality of images beyond empty pages and repeated ones, write to the folders, or speak MQTT (see `uplink`).

mod content;
pub mod courier;
mod csv_export;
mod delivery;
pub(crate) mod event;
#[doc(hidden)]
pub mod fuzz;
mod glance;
#[cfg(test)]
mod hostile_tests;
mod hotfolder;
mod judge;
mod package;
pub(crate) mod polite;
pub mod settings;
mod status;
pub mod store;
pub mod template;
#[cfg(test)]
mod tests;
mod watch;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use veghe_wire::AgentId;

use self::csv_export::Importer;
use self::delivery::Receiver;
use self::hotfolder::{Moment, NAP, Worker};
use self::judge::Judge;
pub use self::settings::Settings;
use self::status::{DeliveryStatus, DigitizationSensor, ExportStatus, FolderStatus, Status};
use self::store::Store;
use crate::clock;
use crate::database::DatabaseError;
use crate::sensors::Sensor;

/// Why a file can't be judged now.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("cannot read a file")]
    Read(#[from] io::Error),
    #[error(transparent)]
    Store(#[from] DatabaseError),
}

/// How long an end waits for the sources, and from one look at them to the next.
pub(crate) const LAST_WAIT: Duration = Duration::from_secs(10);
const LAST_NAP: Duration = Duration::from_millis(20);

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
    ) -> Result<Self, DatabaseError> {
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
        for (source, export) in settings.csv.iter().zip(&status.exports) {
            let store = Store::open(state_dir)?;
            for (name, counter) in [("csv rows", &export.rows_total), ("csv bad rows", &export.bad_rows_total)] {
                let known = store.tallies(name)?.into_iter().find(|(label, _)| *label == source.name);
                counter.store(known.map_or(0, |(_, count)| count), Relaxed);
            }
            let mut importer =
                Importer::new(source.clone(), agent.clone(), store, Arc::clone(export), Arc::clone(&status));
            let (stop, news, scan) = (stop.clone(), Arc::clone(&news), source.scan);
            threads.extend(start(&format!("csv-{}", source.name), move || {
                every(scan, &stop, || importer.look(clock::now_ms()).then(|| news.notify_one()));
            }));
        }
        for (source, delivery) in settings.deliveries.iter().zip(&status.deliveries) {
            let store = Store::open(state_dir)?;
            let (delivery, all) = (Arc::clone(delivery), Arc::clone(&status));
            let mut receiver = Receiver::new(source.clone(), agent.clone(), store, delivery, all);
            let (stop, news, scan) = (stop.clone(), Arc::clone(&news), source.scan);
            threads.extend(start(&format!("packages-{}", source.name), move || {
                every(scan, &stop, || receiver.look(moment()).then(|| news.notify_one()));
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
        join_soon(self.threads, clock::instant() + LAST_WAIT);
    }
}

/// Waits for the threads until `end`. One that hangs in a file system which does not answer ends with the process.
pub(crate) fn join_soon(threads: Vec<JoinHandle<()>>, end: Instant) {
    for thread in threads {
        while !thread.is_finished() && clock::instant() < end {
            thread::sleep(LAST_NAP);
        }
        let name = thread.thread().name().unwrap_or_default().to_owned();
        if !thread.is_finished() {
            tracing::warn!(name, "a source of the digitization hangs in its file system; it is left behind");
        } else if thread.join().is_err() {
            tracing::error!(name, "a source of the digitization failed unexpectedly");
        }
    }
}

/// Does `work` at that distance until it is told to stop.
fn every(distance: Duration, stop: &CancellationToken, mut work: impl FnMut() -> Option<()>) {
    while !stop.is_cancelled() {
        work();
        let end = clock::instant() + distance;
        while !stop.is_cancelled() && clock::instant() < end {
            thread::sleep(end.saturating_duration_since(clock::instant()).min(NAP));
        }
    }
}

/// What does not count and why, and what waits to be told, for a person on this machine.
///
/// # Errors
/// Where the database can't be used.
pub fn report(state_dir: &Path) -> Result<String, DatabaseError> {
    use std::fmt::Write as _;
    if !state_dir.join(store::FILE).exists() {
        let place = state_dir.display();
        return Ok(format!("Nothing of a digitization was seen yet: {place} has no {}.\n", store::FILE));
    }
    let store = Store::open(state_dir)?;
    let mut text = String::new();
    for (source, place, what, at_ms) in store.problems()? {
        let at = jiff::Timestamp::from_millisecond(at_ms).unwrap_or_default();
        writeln!(text, "{at:.0}  {source}  {place}: {what}").expect("invariant: a string takes every write");
    }
    for (station, images) in store.tallies("images")? {
        writeln!(text, "{station}: {images} images").expect("invariant: a string takes every write");
    }
    writeln!(text, "{} events wait for the collector", store.waiting()?)
        .expect("invariant: a string takes every write");
    Ok(text)
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
