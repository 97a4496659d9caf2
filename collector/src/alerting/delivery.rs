//! From the outbox to receivers: one task per receiver, at least once, with back-off for days.
//!
//! Invariants: a message leaves the outbox only together with the log's entry that says how it ended; messages of one
//! group reach a receiver in order; an attempt has a time limit. What it deliberately does not do: decide what to tell.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use veghe_model::Timestamp;

use super::journal::{Due, Journal, NotificationOutcome, Queued};
use super::metrics::AlertingMetrics;
use super::notify::Message;
use super::{mail, webhook};
use crate::clock;

/// How long a running attempt may go on after the collector was told to stop.
const DRAIN: Duration = Duration::from_secs(3);

/// How long to wait after the ledger failed.
const LEDGER_PAUSE: Duration = Duration::from_secs(5);

/// Somebody who is told.
#[derive(Clone, Debug)]
pub struct Receiver {
    /// Its name in settings, logs and metrics.
    pub name: String,
    /// How it is told.
    pub channel: Channel,
}

/// How a receiver is told.
#[derive(Clone, Debug)]
pub enum Channel {
    /// By HTTP.
    Webhook(webhook::Settings),
    /// By mail.
    Mail(mail::Settings),
}

/// How failed attempts are repeated.
#[derive(Clone, Debug)]
pub struct Retry {
    /// The wait after the first failure; 5 s. It doubles each time.
    pub first: Duration,
    /// The longest wait; 30 min.
    pub longest: Duration,
    /// When a message is given up; 3 days after it was made.
    pub give_up: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { first: Duration::from_secs(5), longest: Duration::from_mins(30), give_up: Duration::from_hours(72) }
    }
}

impl Retry {
    /// The wait after `attempts` failures, spread by `random` over 80 to 120 %.
    pub fn wait(&self, attempts: u32, random: u32) -> Duration {
        let doubled = self.first.saturating_mul(1_u32.checked_shl(attempts.saturating_sub(1)).unwrap_or(u32::MAX));
        let spread = 0.8 + 0.4 * f64::from(random) / f64::from(u32::MAX);
        doubled.min(self.longest).mul_f64(spread)
    }
}

/// Why a receiver did not take a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// It said no, and would again.
    #[error("the receiver refused: {0}")]
    Refused(String),
    /// It may take it later.
    #[error("the receiver is not available: {0}")]
    Unavailable(String),
}

/// The content of a file that holds one secret, without the line's end.
///
/// # Errors
/// [`SendError::Unavailable`] names the file: it may come back.
pub(super) async fn read_secret(path: &Path) -> Result<String, SendError> {
    crate::secret::read(path).await.map_err(|error| SendError::Unavailable(super::chain(&error)))
}

/// Makes one attempt.
///
/// # Errors
/// [`SendError`].
pub(super) async fn send(receiver: &Receiver, message: &Message, external_url: &str) -> Result<String, SendError> {
    match &receiver.channel {
        Channel::Webhook(settings) => webhook::send(settings, &receiver.name, message, external_url).await,
        Channel::Mail(settings) => mail::send(settings, message, external_url).await,
    }
}

/// Delivers what the outbox has for one receiver.
pub(super) struct Courier {
    pub(super) receiver: Receiver,
    pub(super) journal: Journal,
    pub(super) retry: Retry,
    pub(super) external_url: String,
    pub(super) metrics: AlertingMetrics,
    /// Rung when the outbox has something new.
    pub(super) bell: Arc<Notify>,
}

impl Courier {
    /// Delivers until `stop`.
    pub(super) async fn run(self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let (journal, name) = (self.journal.clone(), self.receiver.name.clone());
            let now = clock::now();
            let longest = self.retry.longest * 2;
            let found =
                super::blocking(move || Ok((journal.next_due(&name, now, longest)?, journal.waiting(&name)?))).await;
            let wait = match found {
                Ok((due, waiting)) => {
                    self.metrics.outbox.with_label_values(&[&self.receiver.name]).set(f64::from(waiting));
                    match due {
                        Due::Now(queued) => {
                            if self.attempt(&queued, &stop).await {
                                None
                            } else {
                                Some(LEDGER_PAUSE)
                            }
                        }
                        Due::At(at) => Some(at.since(now)),
                        Due::Nothing => Some(Duration::from_hours(1)),
                    }
                }
                Err(error) => {
                    tracing::error!(receiver = self.receiver.name, error = %super::chain(&error), "cannot read the outbox");
                    Some(LEDGER_PAUSE)
                }
            };
            if let Some(wait) = wait {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = self.bell.notified() => {}
                    () = tokio::time::sleep(wait) => {}
                }
            }
        }
    }

    /// Makes one attempt and keeps its result; `false` if the ledger did not take that.
    async fn attempt(&self, queued: &Queued, stop: &CancellationToken) -> bool {
        let drained = async {
            stop.cancelled().await;
            tokio::time::sleep(DRAIN).await;
        };
        let result = tokio::select! {
            result = send(&self.receiver, &queued.message, &self.external_url) => result,
            // Still in the outbox: the next start tries again.
            () = drained => return true,
        };
        let now = clock::now();
        let attempt = queued.attempts + 1;
        let (outcome, detail, again) = self.judge(queued, &result, now);
        let name = &self.receiver.name;
        let (group, status) = (&queued.message.group_key, queued.message.status());
        match outcome {
            NotificationOutcome::Delivered => {
                tracing::info!(receiver = name, group, status, attempt, detail, "notification delivered");
            }
            NotificationOutcome::Retry => {
                tracing::warn!(
                    receiver = name,
                    group,
                    status,
                    attempt,
                    detail,
                    "notification failed, will be repeated"
                );
            }
            _ => tracing::error!(receiver = name, group, status, attempt, detail, "notification given up"),
        }
        self.metrics.notifications.with_label_values(&[name.as_str(), outcome.as_str()]).inc();
        let record = queued.message.record(name, now, attempt, outcome, &detail);
        let (journal, name, queued) = (self.journal.clone(), name.clone(), queued.clone());
        match super::blocking(move || journal.finish_attempt(&queued, &name, &record, again)).await {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(receiver = self.receiver.name, error = %super::chain(&error), "cannot log a notification");
                false
            }
        }
    }

    fn judge(
        &self,
        queued: &Queued,
        result: &Result<String, SendError>,
        now: Timestamp,
    ) -> (NotificationOutcome, String, Option<Timestamp>) {
        match result {
            Ok(answer) => (NotificationOutcome::Delivered, answer.clone(), None),
            Err(error @ SendError::Refused(_)) => (NotificationOutcome::Failed, error.to_string(), None),
            Err(error) => {
                let wait = self.retry.wait(queued.attempts + 1, getrandom::u32().unwrap_or(u32::MAX / 2));
                let again = now.saturating_add(wait);
                if again.since(queued.created) > self.retry.give_up {
                    (NotificationOutcome::Expired, error.to_string(), None)
                } else {
                    (NotificationOutcome::Retry, error.to_string(), Some(again))
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_are_spread() {
        let retry = Retry::default();
        let middle = u32::MAX / 2;
        let seconds: Vec<u64> = (1..=12).map(|n| retry.wait(n, middle).as_secs_f64().round() as u64).collect();
        assert_eq!(seconds, [5, 10, 20, 40, 80, 160, 320, 640, 1280, 1800, 1800, 1800]);
        assert_eq!(retry.wait(1, 0), Duration::from_secs(4));
        assert_eq!(retry.wait(1, u32::MAX), Duration::from_secs(6));
        assert!(retry.wait(u32::MAX, u32::MAX) <= Duration::from_mins(36));
    }
}
