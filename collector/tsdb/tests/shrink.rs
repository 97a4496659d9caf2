//! Room that merging and deletion free goes back to the file system, unless the daily round needs it again.

use std::path::Path;
use std::time::Duration;

use veghe_model::{Labels, SeriesData, Timestamp};
use veghe_tsdb::{Commit, Options, Store};

const WINDOW_MS: i64 = 60_000;
const DAY_MS: i64 = 12 * WINDOW_MS;
const SAMPLES: i64 = 1_000_000;

fn open(dir: &Path) -> Store {
    let options = Options { dir: dir.to_owned(), window: Duration::from_millis(WINDOW_MS as u64), max_series: 10 };
    Store::open(options).expect("store opens").0
}

/// Values that do not compress.
fn value(n: i64) -> f64 {
    let mixed = (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    f64::from_bits((mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 2)
}

fn pages(dir: &Path) -> (i64, i64) {
    let connection = rusqlite::Connection::open(dir.join("chunks.db")).expect("database");
    let pragma =
        |name: &str| connection.query_row(&format!("PRAGMA {name}"), [], |r| r.get::<_, i64>(0)).expect("pragma");
    (pragma("freelist_count"), pragma("page_count"))
}

fn all(store: &Store) -> Vec<SeriesData> {
    store.select(&[], Timestamp::MIN, Timestamp::MAX).expect("select")
}

#[test]
fn a_load_of_the_past_leaves_no_file_full_of_free_pages() {
    let dir = tempfile::tempdir().expect("directory");
    let store = open(dir.path());
    let id = store.series(&Labels::from_pairs([("n", "1".to_owned())])).expect("series");
    for part in 0..10 {
        let of_part = part * SAMPLES / 10..(part + 1) * SAMPLES / 10;
        let samples = of_part.map(|n| (id, Timestamp(n * 20), value(n))).collect();
        store.commit(Commit { samples, ..Commit::default() }).expect("commit");
    }
    let before = all(&store);
    let end = SAMPLES * 20 + DAY_MS;
    while store.seal(Timestamp(end)).expect("seal").more {}
    let sealed = pages(dir.path());
    while store.seal(Timestamp(end + 2 * DAY_MS)).expect("merge").more {}
    let (free, left) = pages(dir.path());
    assert!(free <= 64 || free <= left / 16, "{free} of {left} pages are free");
    // Without giving back there would be the windows' pages beside those of days.
    assert!(left < sealed.1 * 3 / 2, "{left} pages, {} when sealed", sealed.1);
    assert!(std::fs::metadata(dir.path().join("chunks.db")).expect("file").len() <= 16_384 * (left as u64 + 256));
    assert!(all(&store) == before);
    // Nothing is left to do, and what is free is kept for what comes.
    assert!(!store.seal(Timestamp(end + 2 * DAY_MS)).expect("seal").more);
    // What is deleted goes too.
    store.drop_before(Timestamp(SAMPLES * 20 - DAY_MS)).expect("drop");
    while store.seal(Timestamp(end + 2 * DAY_MS)).expect("seal").more {}
    let (free, after) = pages(dir.path());
    // But for 1 MiB, which stays for what comes.
    assert!(free <= 64 && after < left * 2 / 3, "{free} of {after} pages are free, {left} before");
    assert!(all(&store)[0].values.len() > 1_000);
}
