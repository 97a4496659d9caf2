//! Retention: by age, by class of series and by size, in chunks of windows and of days.

use std::path::Path;
use std::time::Duration;

use veghe_model::{Labels, MatchOp, Matcher, Timestamp};
use veghe_tsdb::{Ages, Commit, Options, Retention, RetentionClass, Store};

const WINDOW_MS: i64 = 60_000;
const DAY_MS: i64 = 12 * WINDOW_MS;
const STEP_MS: i64 = 500;

fn open(dir: &Path) -> Store {
    let options = Options { dir: dir.to_owned(), window: Duration::from_millis(WINDOW_MS as u64), max_series: 10_000 };
    Store::open(options).expect("store opens").0
}

fn span(days: i64) -> Duration {
    Duration::from_millis((days * DAY_MS) as u64)
}

/// Ten days of two series of each job, everything sealed; merged too where `now` goes on.
fn fill(dir: &Path, merge: bool) -> Store {
    let store = open(dir);
    for job in ["debug", "node", "web"] {
        for n in 0..2 {
            let id =
                store.series(&Labels::from_pairs([("job", job.to_owned()), ("n", n.to_string())])).expect("series");
            // Values that do not compress, so that sizes are those of samples.
            let values = |t: i64| {
                let mixed = (t as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let mixed = (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                f64::from_bits((mixed ^ mixed >> 32) >> 2)
            };
            let samples =
                (0..10 * DAY_MS / STEP_MS).map(|row| (id, Timestamp(row * STEP_MS), values(row + n * 7_919))).collect();
            store.commit(Commit { samples, ..Commit::default() }).expect("commit");
        }
    }
    while store.seal(Timestamp(10 * DAY_MS + WINDOW_MS)).expect("seal").more {}
    if merge {
        while store.seal(Timestamp(12 * DAY_MS)).expect("merge").more {}
    }
    store
}

/// The oldest sample of each job and whether all after it are there.
fn oldest(store: &Store, job: &str) -> Option<i64> {
    let found = store.select(&[Matcher::equal("job", job)], Timestamp::MIN, Timestamp::MAX).expect("select");
    let first = found.first()?.timestamps[0];
    for series in &found {
        assert_eq!(series.timestamps[0], first);
        assert_eq!(series.len() as i64, (10 * DAY_MS - first) / STEP_MS, "{job} has gaps");
    }
    Some(first)
}

#[test]
fn each_class_keeps_what_it_says_and_the_first_that_matches_decides() {
    for merge in [false, true] {
        let dir = tempfile::tempdir().expect("directory");
        let store = fill(dir.path(), merge);
        let class = |job: &str, days| RetentionClass {
            matchers: vec![Matcher::new("job", MatchOp::Regex, job).expect("pattern")],
            ages: Ages::alike(span(days)),
        };
        let retention = Retention {
            classes: vec![class("debug", 2), class("debug|web", 8)],
            ages: Ages::alike(span(4)),
            max_bytes: None,
        };
        let now = Timestamp(10 * DAY_MS);
        let report = store.retain(&retention, now).expect("retain");
        // Two series each: 8, 6 and 2 days.
        assert_eq!(report.aged_chunks, (8 + 6 + 2) * 2 * if merge { 1 } else { 12 });
        let expected = [("debug", 8 * DAY_MS), ("node", 6 * DAY_MS), ("web", 2 * DAY_MS)];
        for (job, first) in expected {
            assert_eq!(oldest(&store, job), Some(first), "{job}, merged: {merge}");
        }
        assert_eq!(store.retain(&retention, now).expect("retain").aged_chunks, 0);
        drop(store);
        let store = open(dir.path());
        for (job, first) in expected {
            assert_eq!(oldest(&store, job), Some(first), "{job}, reopened");
        }
        // Series without samples are gone.
        store.retain(&retention, Timestamp(13 * DAY_MS)).expect("retain");
        assert_eq!((oldest(&store, "debug"), store.stats().series), (None, 4));
    }
}

#[test]
fn the_oldest_goes_first_where_the_store_is_too_large() {
    let dir = tempfile::tempdir().expect("directory");
    let store = fill(dir.path(), true);
    let retention = |max_bytes| Retention { classes: Vec::new(), ages: Ages::alike(span(1_000)), max_bytes };
    let now = Timestamp(12 * DAY_MS);
    let whole = store.retain(&retention(None), now).expect("retain");
    assert_eq!((whole.aged_chunks, whole.surplus_chunks), (0, 0));
    let limit = whole.used_bytes / 2;
    let report = store.retain(&retention(Some(limit)), now).expect("retain");
    assert!(report.used_bytes <= limit && report.used_bytes > limit / 2, "{report:?} of {limit}");
    let first = oldest(&store, "node").expect("samples");
    assert!((3 * DAY_MS..=8 * DAY_MS).contains(&first) && first % DAY_MS == 0, "{first}");
    assert_eq!((oldest(&store, "web"), report.surplus_chunks as i64), (Some(first), 6 * first / DAY_MS));
    // The last day stays, however little room there is.
    store.retain(&retention(Some(1)), Timestamp(10 * DAY_MS)).expect("retain");
    assert_eq!(oldest(&store, "node"), Some(9 * DAY_MS));
}
