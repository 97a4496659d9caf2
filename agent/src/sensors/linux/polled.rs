//! Devices that are asked all at once, each on a thread of its own, so that one that is silent delays the others once.
//!
//! A round waits for whoever answered the round before, up to the device's own time limit; whoever was down then gets
//! only [`RECOVERY`], which a device that is back needs no more than. Every series bears the labels of its [`Origin`].

use std::sync::Arc;
use std::time::Duration;

use super::asked::Asked;
use crate::clock;
use crate::reading::SeriesName;

/// How long a round waits for devices that were down the round before.
const RECOVERY: Duration = Duration::from_millis(500);
/// What a device may take beyond its own limit, which its thread keeps.
const SLACK: Duration = Duration::from_millis(100);
/// Signatures, ciphers and documents need no more; only touched pages are resident.
const STACK_BYTES: usize = 256 << 10;
/// A collector refuses labels that are much longer.
const MAX_LABEL_BYTES: usize = 512;

/// What is asked of one device, each time anew; it may keep a connection.
pub(crate) type Question<A> = Box<dyn FnMut() -> A + Send>;

/// Devices `T` that give answers `A`.
pub(crate) struct Polled<T, A> {
    thread: &'static str,
    question: fn(Arc<T>) -> Question<A>,
    devices: Vec<Device<T, A>>,
}

struct Device<T, A> {
    target: Arc<T>,
    asked: Option<Asked<A>>,
    is_down: bool,
}

/// What can be told of one device.
pub(crate) struct Outcome<T, A> {
    pub(crate) target: Arc<T>,
    /// `None` if it did not come in time.
    pub(crate) answer: Option<A>,
    /// How long the round has waited so far.
    pub(crate) waited: Duration,
}

impl<T: Send + Sync + 'static, A: Send + 'static> Polled<T, A> {
    /// Asks `targets` what `question` makes of each, on threads called `thread`, which start with the first round.
    pub(crate) fn new(thread: &'static str, targets: Vec<T>, question: fn(Arc<T>) -> Question<A>) -> Self {
        let device = |target| Device { target: Arc::new(target), asked: None, is_down: false };
        Self { thread, question, devices: targets.into_iter().map(device).collect() }
    }

    /// Another device, from the next round on.
    pub(crate) fn add(&mut self, target: T) {
        self.devices.push(Device { target: Arc::new(target), asked: None, is_down: false });
    }

    /// The devices that are asked.
    pub(crate) fn targets(&self) -> impl Iterator<Item = &T> {
        self.devices.iter().map(|device| &*device.target)
    }

    /// Asks all of them and gives what there is within the `limit` of each.
    pub(crate) fn round(&mut self, limit: impl Fn(&T) -> Duration, is_down: impl Fn(&A) -> bool) -> Vec<Outcome<T, A>> {
        for device in &mut self.devices {
            if device.asked.is_none() {
                let question = (self.question)(Arc::clone(&device.target));
                device.asked = Asked::start(self.thread, STACK_BYTES, question).ok();
            }
            let Some(asked) = &mut device.asked else { continue };
            // Too late for its round, but it tells whether this one is worth waiting for.
            if let Some(late) = asked.answer(Duration::ZERO) {
                device.is_down = is_down(&late);
            }
            asked.ask();
        }
        let begin = clock::instant();
        let mut order: Vec<usize> = (0..self.devices.len()).collect();
        order.sort_by_key(|index| self.devices.get(*index).is_some_and(|device| device.is_down));
        let mut outcomes: Vec<(usize, Outcome<T, A>)> = Vec::with_capacity(order.len());
        for index in order {
            let Some(device) = self.devices.get_mut(index) else { continue };
            let patience = if device.is_down { RECOVERY } else { limit(&device.target) + SLACK };
            let patience = patience.saturating_sub(begin.elapsed());
            let answer = device.asked.as_mut().and_then(|asked| asked.answer(patience));
            device.is_down = answer.as_ref().is_none_or(&is_down);
            outcomes.push((index, Outcome { target: Arc::clone(&device.target), answer, waited: begin.elapsed() }));
        }
        outcomes.sort_by_key(|(index, _)| *index);
        outcomes.into_iter().map(|(_, outcome)| outcome).collect()
    }
}

/// Where series come from: the labels `instance` and `job`, and those that settings add.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin(Vec<(String, String)>);

impl Origin {
    /// Of `instance`, as `job`, with labels of the settings.
    pub(crate) fn new(job: &str, instance: &str, labels: &[(String, String)]) -> Self {
        let own = [("instance", instance), ("job", job)].map(|(name, value)| (name.to_owned(), value.to_owned()));
        Self(own.into_iter().chain(labels.iter().cloned()).collect())
    }

    /// Of this machine, as `job`; the collector sets `instance`.
    pub(crate) fn of_host(job: &str) -> Self {
        Self(vec![("job".to_owned(), job.to_owned())])
    }

    /// The series `metric` with `labels` and these; one of theirs that these would hide is renamed `exported_<name>`, as
    /// Prometheus does. A label without a value is none.
    pub(crate) fn series<'a>(&self, metric: &str, labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> SeriesName {
        let theirs = labels.into_iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| {
            let is_hidden = name == "instance" || self.0.iter().any(|(own, _)| own == name);
            let name = if is_hidden { format!("exported_{name}").into() } else { Box::from(name) };
            (name, Box::from(shortened(value)))
        });
        let own = self.0.iter().map(|(name, value)| (Box::from(name.as_str()), Box::from(shortened(value))));
        let mut all: Vec<(Box<str>, Box<str>)> = theirs.chain(own).collect();
        all.sort();
        all.dedup_by(|(later, _), (earlier, _)| later == earlier);
        all.insert(0, ("__name__".into(), metric.into()));
        SeriesName(all.into_boxed_slice())
    }
}

/// At most [`MAX_LABEL_BYTES`] of it.
fn shortened(value: &str) -> &str {
    value.get(..value.floor_char_boundary(MAX_LABEL_BYTES)).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::{Receiver, sync_channel};

    use super::*;

    /// Answers when it is released.
    struct Slow(Mutex<Receiver<bool>>);

    fn question(slow: Arc<Slow>) -> Question<bool> {
        Box::new(move || slow.0.lock().expect("lock").recv().unwrap_or(false))
    }

    #[test]
    fn a_silent_device_is_waited_for_once_and_again_after_it_is_back() {
        let (good, good_receiver) = sync_channel(8);
        let (hung, hung_receiver) = sync_channel(8);
        let targets = vec![Slow(Mutex::new(hung_receiver)), Slow(Mutex::new(good_receiver))];
        let mut polled = Polled::new("test", targets, question);
        let mut round = |limit: Duration| {
            good.send(true).expect("the thread");
            let outcomes = polled.round(|_| limit, |is_up| !is_up);
            outcomes.into_iter().map(|outcome| (outcome.answer, outcome.waited)).collect::<Vec<_>>()
        };
        // The thread of the good one is waited for with what the hung one has left over: the slack.
        let first = round(Duration::from_secs(2));
        assert!(first[0].0.is_none() && first[0].1 >= Duration::from_secs(2));
        // Were it waited for again, this would take an hour.
        let second = round(Duration::from_hours(1));
        assert_eq!((second[0].0, second[1].0), (None, Some(true)));
        hung.send(true).expect("the thread");
        hung.send(true).expect("the thread");
        let third = round(Duration::from_hours(1));
        assert_eq!((third[0].0, third[1].0), (Some(true), Some(true)));
    }

    #[test]
    fn series_bear_where_they_come_from() {
        let origin = Origin::new("snmp", "nas-1", &[("site".to_owned(), "tm".to_owned())]);
        let long = "ș".repeat(1000);
        let series = origin.series("x", [("site", "y"), ("ifDescr", ""), ("name", long.as_str())]);
        let labels = [
            ("exported_site", "y"),
            ("instance", "nas-1"),
            ("job", "snmp"),
            ("name", &"ș".repeat(MAX_LABEL_BYTES / 2)),
            ("site", "tm"),
        ];
        assert_eq!(series, SeriesName::new("x", &labels));
    }
}
