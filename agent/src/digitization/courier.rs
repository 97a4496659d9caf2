//! Carries events from the database to the uplink, one message at a time, and takes away what the collector has on disk.
//!
//! Invariant: a message is taken away only after the collector acknowledged it; whatever else happens, it is sent again.
//! What it deliberately does not do: know MQTT.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::Digitization;
use super::status::Status;
use super::store::Store;
use crate::database::DatabaseError;
use crate::uplink::EventMessage;

/// How long to wait where the database failed, or the message was not acknowledged.
const RETRY: Duration = Duration::from_secs(1);
/// Looks for events at least this often.
const LOOK: Duration = Duration::from_secs(30);

/// Carries events until it is stopped.
#[derive(Debug)]
pub struct Courier {
    state_dir: PathBuf,
    status: Arc<Status>,
    news: Arc<Notify>,
    stop: CancellationToken,
    messages: mpsc::Sender<EventMessage>,
}

impl Courier {
    /// A courier for the events of `digitization` in `state_dir`, and where they come out.
    pub fn new(
        digitization: &Digitization,
        state_dir: PathBuf,
        stop: CancellationToken,
    ) -> (Self, mpsc::Receiver<EventMessage>) {
        let (messages, receiver) = mpsc::channel(1);
        let (status, news) = (digitization.status(), digitization.news());
        (Self { state_dir, status, news, stop, messages }, receiver)
    }

    /// Carries until it is stopped or nobody takes anything any more.
    pub async fn run(self) {
        while !self.stop.is_cancelled() {
            let message = self.with_store(|store| store.message()).await;
            let Ok(message) = message else {
                self.rest(RETRY).await;
                continue;
            };
            let Some((last, body)) = message else {
                tokio::select! {
                    () = self.news.notified() => {}
                    () = self.rest(LOOK) => {}
                }
                continue;
            };
            let (kept, is_kept) = oneshot::channel();
            let sent = tokio::select! {
                sent = self.messages.send(EventMessage { body, kept }) => sent.is_ok(),
                () = self.stop.cancelled() => false,
            };
            if !sent {
                return;
            }
            // The connection that it was sent on answers or ends.
            if is_kept.await.is_err() {
                self.rest(RETRY).await;
                continue;
            }
            let settled = self.with_store(move |store| {
                let before = store.waiting()?;
                store.settle(last)?;
                Ok((before, store.waiting()?))
            });
            if let Ok((before, left)) = settled.await {
                self.status.waiting.store(left, Relaxed);
                self.status.told_total.fetch_add(before.saturating_sub(left), Relaxed);
            }
        }
    }

    async fn rest(&self, time: Duration) {
        tokio::select! {
            () = tokio::time::sleep(time) => {}
            () = self.stop.cancelled() => {}
        }
    }

    /// On another thread: the disk may take its time.
    async fn with_store<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Store) -> Result<T, DatabaseError> + Send + 'static,
    ) -> Result<T, ()> {
        let state_dir = self.state_dir.clone();
        let done = tokio::task::spawn_blocking(move || work(&mut Store::open(&state_dir)?)).await;
        match done {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                tracing::error!(error = &error as &dyn std::error::Error, "cannot read events; it is tried again");
                Err(())
            }
            Err(panicked) => {
                tracing::error!(error = &panicked as &dyn std::error::Error, "reading events failed unexpectedly");
                Err(())
            }
        }
    }
}
