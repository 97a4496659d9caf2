//! The sender's loop on a clock of its own: it turns only while the sender waits, so that a fortnight takes a moment and
//! nothing depends on how fast the machine is.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use url::Url;
use veghe_model::Timestamp;
use veghe_tsdb::Options;

use super::super::decode::{Decoded, label_pairs};
use super::*;

const MINUTE_MS: i64 = 60_000;
const STEP_MS: i64 = 5 * MINUTE_MS;
const HOUR_MS: i64 = 60 * MINUTE_MS;
const DAY_MS: i64 = 24 * HOUR_MS;
const SERIES: usize = 5;

/// What happens as time goes by.
struct World {
    store: Store,
    now_ms: i64,
    /// The receiver takes nothing before.
    back_ms: i64,
    /// Then the test is over.
    end_ms: i64,
    /// The log that is held can't be read from the first moment to the second.
    unreadable: Option<(i64, i64)>,
    /// Samples are taken until then.
    fed_until_ms: i64,
    /// Waits after attempts in vain.
    waits: Vec<Duration>,
    waiting_for_receiver: bool,
    delivered: BTreeMap<(String, i64), f64>,
    repeated: usize,
    most_log_bytes: u64,
    stop: CancellationToken,
}

impl World {
    /// Every five minutes each series has one more sample; each hour what is past is sealed.
    fn minute(&mut self) {
        let now = self.now_ms;
        if now <= self.fed_until_ms && now % STEP_MS == 0 {
            let samples = (0..SERIES).map(|n| {
                let labels = Labels::from_pairs([("__name__", "up".to_owned()), ("n", n.to_string())]);
                (self.store.series(&labels).expect("series"), Timestamp(now), value(n, now))
            });
            self.store.commit(Commit { samples: samples.collect(), ..Commit::default() }).expect("commit");
        }
        let held = self.store.dir().join("log/held");
        let away = self.store.dir().join("log/away");
        if let Some((from, until)) = self.unreadable {
            if now >= from && now < until && !away.exists() && held.exists() {
                fs::rename(&held, &away).expect("away");
            }
            if now >= until && away.exists() {
                fs::rename(&away, &held).expect("back");
            }
        }
        if now % HOUR_MS == 0 && !away.exists() {
            while self.store.seal(Timestamp(now)).expect("sealed").more {}
            self.most_log_bytes = self.most_log_bytes.max(self.store.stats().log_bytes);
        }
        if now >= self.end_ms {
            self.stop.cancel();
        }
    }

    fn pass(&mut self, span: Duration) {
        if self.waiting_for_receiver {
            self.waits.push(span);
        }
        let until = self.now_ms + span.as_millis() as i64;
        while self.now_ms / MINUTE_MS < until / MINUTE_MS {
            self.now_ms = (self.now_ms / MINUTE_MS + 1) * MINUTE_MS;
            self.minute();
        }
        self.now_ms = until;
    }

    fn take(&mut self, body: &[u8]) -> Answer {
        self.waiting_for_receiver = self.now_ms < self.back_ms;
        if self.waiting_for_receiver {
            return Answer::Later { why: "nobody answers".to_owned(), after: None };
        }
        let raw = snap::raw::Decoder::new().decompress_vec(body).expect("snappy");
        let mut decoded = Decoded::default();
        decoded.version_1(&raw, |_| None).expect("request");
        for series in &decoded.series {
            let labels = Labels::from_pairs(label_pairs(decoded.labels(&raw, series)).expect("labels")).to_string();
            for &(time, value) in &decoded.samples[series.samples.clone()] {
                let before = self.delivered.insert((labels.clone(), time), value);
                self.repeated += usize::from(before.is_some());
            }
        }
        Answer::Taken { written: None }
    }

    fn fed(&self) -> BTreeMap<(String, i64), f64> {
        let times = (1..=self.fed_until_ms / STEP_MS).map(|step| step * STEP_MS);
        times.flat_map(|t| (0..SERIES).map(move |n| ((format!("up{{n=\"{n}\"}}"), t), value(n, t)))).collect()
    }
}

fn value(n: usize, time_ms: i64) -> f64 {
    (time_ms / MINUTE_MS * 31 % 977) as f64 + n as f64
}

/// Lives through it; gives the world after it and what the sender counted as places of the log that it left out.
async fn live(dir: &Path, max_backlog_bytes: u64, set: impl FnOnce(&mut World)) -> (Arc<Mutex<World>>, f64) {
    let options = Options { dir: dir.to_owned(), window: Duration::from_hours(2), max_series: 100 };
    let (store, _) = Store::open(options).expect("store");
    let mut target = Target::new(Url::parse("http://receiver.invalid/write").expect("url"));
    target.name = "peer".to_owned();
    target.max_backlog_bytes = max_backlog_bytes;
    // One after the other: the clock is the sender's alone.
    target.queue.max_shards = 1;
    let target = Arc::new(target);
    let done = store.log_end();
    let mark = Mark { done, end: done };
    mark.commit(&store, "peer").expect("mark");
    store.pin_log("peer", done, max_backlog_bytes);
    let stop = CancellationToken::new();
    let mut world = World {
        store: store.clone(),
        now_ms: 0,
        back_ms: 14 * DAY_MS,
        end_ms: 15 * DAY_MS,
        unreadable: None,
        fed_until_ms: 14 * DAY_MS + 6 * HOUR_MS,
        waits: Vec::new(),
        waiting_for_receiver: false,
        delivered: BTreeMap::new(),
        repeated: 0,
        most_log_bytes: 0,
        stop: stop.clone(),
    };
    set(&mut world);
    let world = Arc::new(Mutex::new(world));
    let (posted, waited) = (Arc::clone(&world), Arc::clone(&world));
    let means = Means {
        post: Box::new(move |body, _| {
            let answer = posted.lock().expect("world").take(&body);
            Box::pin(std::future::ready(answer))
        }),
        wait: Box::new(move |span| {
            waited.lock().expect("world").pass(span);
            Box::pin(tokio::task::yield_now())
        }),
    };
    let metrics = SenderMetrics::new(&Registry::new()).expect("metrics").of(&target);
    let log_errors = metrics.log_errors.clone();
    let courier = Arc::new(Courier { target, means, metrics, trouble: Mutex::default() });
    Sender { courier, store, external: Labels::default(), stop }.run(mark).await;
    let left_out = log_errors.get();
    (world, left_out)
}

#[tokio::test]
async fn a_receiver_that_is_dead_for_a_fortnight_is_tried_ever_more_seldom_and_gets_everything_once() {
    const BOUND: u64 = 64 << 20;
    let dir = tempfile::tempdir().expect("directory");
    let (world, left_out) = live(dir.path(), BOUND, |_| {}).await;
    let world = world.lock().expect("world");
    assert_eq!(world.delivered, world.fed());
    assert_eq!((world.repeated, world.store.log_skipped("peer"), left_out), (0, 0, 0.0));
    assert!(world.most_log_bytes > 0 && world.most_log_bytes < BOUND, "{} bytes", world.most_log_bytes);
    // What was held is gone once it is delivered.
    assert!(world.store.stats().log_bytes < world.most_log_bytes / 4, "{:?}", world.store.stats());
    let queue = Target::new(Url::parse("http://receiver.invalid/").expect("url")).queue;
    let mut expected = queue.min_backoff;
    for (nth, wait) in world.waits.iter().enumerate() {
        assert_eq!(*wait, expected, "after attempt {nth}");
        expected = (expected * 2).min(queue.max_backoff);
    }
    let fortnight = (14 * DAY_MS) as u128 / queue.max_backoff.as_millis();
    assert!(world.waits.len() as u128 >= fortnight * 9 / 10, "{} attempts in a fortnight", world.waits.len());
}

#[tokio::test]
async fn beyond_the_bound_the_oldest_goes_and_is_counted() {
    const BOUND: u64 = 64 << 10;
    let dir = tempfile::tempdir().expect("directory");
    let (world, left_out) = live(dir.path(), BOUND, |_| {}).await;
    let world = world.lock().expect("world");
    let (fed, skipped) = (world.fed(), world.store.log_skipped("peer"));
    assert_eq!((world.repeated, left_out), (0, 0.0));
    let missing: Vec<_> = fed.keys().filter(|key| !world.delivered.contains_key(*key)).collect();
    // A part that was on its way already is delivered although its segment went.
    assert!(!missing.is_empty() && skipped >= missing.len() as u64, "{} missing, {skipped} counted", missing.len());
    assert!(skipped <= missing.len() as u64 + 500, "{} missing, {skipped} counted", missing.len());
    // The newest are there without a gap.
    let last_missing = missing.iter().map(|(_, time)| *time).max().expect("one");
    assert!(last_missing < 14 * DAY_MS, "missing until {last_missing}");
    assert!(world.delivered.iter().all(|(key, value)| fed.get(key) == Some(value)));
    // The bound, and what the store itself needs until it is sealed.
    assert!(world.most_log_bytes < 3 * BOUND, "{} bytes", world.most_log_bytes);
}

#[tokio::test]
async fn a_log_that_can_not_be_read_for_a_while_costs_nothing() {
    let dir = tempfile::tempdir().expect("directory");
    // From when the receiver is back on, ten minutes.
    let (world, left_out) = live(dir.path(), 64 << 20, |world| {
        (world.back_ms, world.end_ms, world.fed_until_ms) = (2 * DAY_MS, 3 * DAY_MS, 2 * DAY_MS + HOUR_MS);
        world.unreadable = Some((2 * DAY_MS - 5 * MINUTE_MS, 2 * DAY_MS + 10 * MINUTE_MS));
    })
    .await;
    let world = world.lock().expect("world");
    assert_eq!(world.delivered, world.fed());
    assert_eq!((world.repeated, left_out), (0, 0.0));
}

#[tokio::test]
async fn a_log_that_can_not_be_read_for_long_costs_a_segment_for_each_quarter_of_an_hour() {
    let dir = tempfile::tempdir().expect("directory");
    let (world, left_out) = live(dir.path(), 64 << 20, |world| {
        (world.back_ms, world.end_ms, world.fed_until_ms) = (2 * DAY_MS, 3 * DAY_MS, 2 * DAY_MS + 6 * HOUR_MS);
        world.unreadable = Some((2 * DAY_MS - 5 * MINUTE_MS, 2 * DAY_MS + 55 * MINUTE_MS));
    })
    .await;
    let world = world.lock().expect("world");
    let fed = world.fed();
    let missing = fed.keys().filter(|key| !world.delivered.contains_key(*key)).count();
    assert!((1.0..=4.0).contains(&left_out), "{left_out} segments were left out");
    // A segment is closed with each window, two hours: 120 samples.
    assert!(missing > 0 && missing < fed.len() / 4, "{missing} of {} are missing", fed.len());
    assert_eq!(world.repeated, 0);
    assert!(world.delivered.iter().all(|(key, value)| fed.get(key) == Some(value)));
}
