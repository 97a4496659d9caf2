//! The one alert that no rule can give: while nothing can be stored, rules see nothing of it and no outbox keeps messages.
//!
//! Receivers are told directly, at least once, repeated as any other alert, and told again when it is over. What this
//! deliberately does not do: outlive a restart or write to the log of notifications; both need the disk.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use veghe_model::{Labels, Timestamp};

use super::delivery::{self, Receiver, Retry};
use super::notify::{Message, Notice};
use super::state;
use crate::clock;

/// Since when nothing could be stored; `None` while all is well.
pub type UnstoredSince = watch::Receiver<Option<Timestamp>>;

/// Same name and playbook as the rule's, which tells of failures that ended within its minutes.
const ALERT: &str = "VegheCollectorStoreFailing";

/// Tells one receiver.
pub(super) struct Teller {
    pub(super) receiver: Receiver,
    pub(super) retry: Retry,
    pub(super) repeat: Duration,
    pub(super) external_url: String,
    pub(super) since: UnstoredSince,
    /// How long it must have lasted.
    pub(super) patience: Duration,
}

impl Teller {
    /// Tells until `stop`, or until nobody watches the store any more.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.watch() => {}
        }
    }

    async fn watch(&mut self) {
        loop {
            let Ok(began) = self.since.wait_for(Option::is_some).await.map(|since| *since) else { return };
            let Some(began) = began else { continue };
            let wait = self.patience.saturating_sub(clock::now().since(began));
            if !self.well_within(wait).await && self.tell_until_well(began).await {
                self.tell_end(began).await;
            }
        }
    }

    /// Whether all is well again before `wait` is over.
    async fn well_within(&mut self, wait: Duration) -> bool {
        tokio::time::timeout(wait, self.since.wait_for(Option::is_none)).await.is_ok()
    }

    /// Returns when all is well again: whether the receiver took a message.
    async fn tell_until_well(&mut self, began: Timestamp) -> bool {
        let (mut attempts, mut told) = (0, false);
        loop {
            let wait = if self.send(began, None).await {
                (attempts, told) = (0, true);
                self.repeat
            } else {
                attempts += 1;
                self.retry.wait(attempts, u32::MAX / 2)
            };
            if self.well_within(wait).await {
                return told;
            }
        }
    }

    /// Tells that it is over, unless it begins again or the time is up first.
    async fn tell_end(&mut self, began: Timestamp) {
        let (mut attempts, ended) = (0, clock::now());
        while clock::now().since(ended) < self.retry.give_up && !self.send(began, Some(ended)).await {
            attempts += 1;
            let wait = self.retry.wait(attempts, u32::MAX / 2);
            if tokio::time::timeout(wait, self.since.wait_for(Option::is_some)).await.is_ok() {
                return;
            }
        }
    }

    async fn send(&self, began: Timestamp, ended: Option<Timestamp>) -> bool {
        let sent = delivery::send(&self.receiver, &message(began, ended), &self.external_url).await;
        let receiver = &self.receiver.name;
        match &sent {
            Ok(_) => tracing::warn!(receiver, "told directly that nothing can be stored, or that it is over"),
            Err(error) => tracing::error!(receiver, %error, "cannot tell that nothing can be stored"),
        }
        sent.is_ok()
    }
}

fn message(began: Timestamp, ended: Option<Timestamp>) -> Message {
    let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
    };
    let labels = map(&[("alertname", ALERT), ("severity", "critical")]);
    Message {
        group_key: format!("{{}}:{{alertname={ALERT:?}}}"),
        group_labels: map(&[("alertname", ALERT)]),
        alerts: vec![Notice {
            fingerprint: state::fingerprint(&Labels::from_pairs(labels.clone())),
            labels,
            annotations: map(&[
                ("summary", "The collector can store nothing"),
                (
                    "description",
                    "Every write to the collector's disk fails. Other alerts may be late or missing, and pages old. Agents keep their readings and send them again, as long as their spools last. This message is not in the log of notifications, which is on the same disk.",
                ),
                ("summary_ro", "Colectorul nu poate stoca nimic"),
                (
                    "description_ro",
                    "Orice scriere pe discul colectorului eșuează. Alte alerte pot întârzia sau lipsi, iar paginile pot fi vechi. Agenții își păstrează citirile și le retrimit, cât timp le ajunge coada de pe disc. Acest mesaj nu este în jurnalul notificărilor, care se află pe același disc.",
                ),
                ("runbook", "playbooks/VegheCollectorStoreFailing.md"),
            ]),
            starts_ms: began.0,
            ends_ms: ended.map(|ended| ended.0),
            generator_url: String::new(),
        }],
        truncated: 0,
        test: false,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use tokio_util::task::TaskTracker;

    use super::*;
    use crate::alerting::delivery::Channel;
    use crate::alerting::delivery_tests::{hook, http};

    #[tokio::test]
    async fn while_nothing_is_stored_a_receiver_is_told_in_spite_of_refusals_and_again_when_it_is_over() {
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            drop(rustls::crypto::ring::default_provider().install_default());
        }
        let (url, mut requests) =
            http(|nth| Some(if nth == 0 { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK })).await;
        let (health, since) = watch::channel(None);
        let teller = Teller {
            receiver: Receiver { name: "ops".to_owned(), channel: Channel::Webhook(hook(url)) },
            retry: Retry { first: Duration::from_millis(5), longest: Duration::from_millis(5), ..Retry::default() },
            repeat: Duration::from_hours(4),
            external_url: "http://veghe.example".to_owned(),
            since,
            patience: Duration::from_millis(1),
        };
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        tasks.spawn(teller.run(stop.clone()));
        let began = clock::now();
        health.send_replace(Some(began));
        let first = requests.recv().await.expect("a message").1;
        let again = requests.recv().await.expect("the same once more").1;
        assert_eq!(first, again);
        assert_eq!(
            (&first["status"], &first["alerts"][0]["labels"]["alertname"]),
            (&"firing".into(), &"VegheCollectorStoreFailing".into())
        );
        health.send_replace(None);
        let end = requests.recv().await.expect("the end is told").1;
        assert_eq!(end["status"], "resolved");
        assert_eq!(end["alerts"][0]["startsAt"], first["alerts"][0]["startsAt"]);
        assert_eq!(end["alerts"][0]["fingerprint"], first["alerts"][0]["fingerprint"]);
        stop.cancel();
        tasks.close();
        tasks.wait().await;
        assert!(requests.try_recv().is_err(), "nothing else was told");
    }

    #[tokio::test]
    async fn what_ends_soon_is_not_told() {
        let (url, mut requests) = http(|_| Some(StatusCode::OK)).await;
        let (health, since) = watch::channel(None);
        let mut teller = Teller {
            receiver: Receiver { name: "ops".to_owned(), channel: Channel::Webhook(hook(url)) },
            retry: Retry::default(),
            repeat: Duration::from_hours(4),
            external_url: String::new(),
            since,
            patience: Duration::from_mins(2),
        };
        let tasks = TaskTracker::new();
        tasks.spawn(async move { teller.watch().await });
        for _ in 0..3 {
            health.send_replace(Some(clock::now()));
            tokio::task::yield_now().await;
            health.send_replace(None);
            tokio::task::yield_now().await;
        }
        drop(health);
        tasks.close();
        tasks.wait().await;
        assert!(requests.try_recv().is_err());
    }
}
