//! Reading the log while it is written, sealed, held and cut: every record once and in order, or counted as skipped.

use std::path::{Path, PathBuf};
use std::time::Duration;

use veghe_model::{Labels, Timestamp};
use veghe_tsdb::{Column, Commit, LogPosition, LogTail, Options, SeriesId, Store, TailError};

const WINDOW_MS: i64 = 60_000;
const NO_BOUND: u64 = u64::MAX;

fn open(dir: &Path) -> Store {
    let options = Options { dir: dir.to_owned(), window: Duration::from_millis(WINDOW_MS as u64), max_series: 100 };
    Store::open(options).expect("store").0
}

fn series(store: &Store, n: usize) -> SeriesId {
    store.series(&Labels::from_pairs([("__name__", "m".to_owned()), ("n", n.to_string())])).expect("series")
}

/// A row of two series and a sample of a third, all in the window `n`.
fn commit(store: &Store, n: i64) {
    let group = store.group(&[series(store, 0), series(store, 1)]);
    let timestamp = Timestamp(n * WINDOW_MS);
    let columns = vec![Column { group, timestamp, values: vec![n as f64, -0.0] }];
    let samples = vec![(series(store, 2), timestamp, n as f64 / 2.0)];
    store.commit(Commit { columns, samples, marks: Vec::new() }).expect("commit");
}

fn drain(tail: &mut LogTail) -> Vec<i64> {
    let mut found = Vec::new();
    while let Some(record) = tail.next_record().expect("record") {
        assert_eq!(record.position, tail.position());
        if record.samples.is_empty() {
            continue;
        }
        let n = record.samples[0].1.0 / WINDOW_MS;
        let values: Vec<u64> = record.samples.iter().map(|s| s.2.to_bits()).collect();
        assert_eq!(values, [n as f64, -0.0, n as f64 / 2.0].map(f64::to_bits));
        found.push(n);
    }
    found
}

fn seal_everything(store: &Store) {
    // The clock goes on between, so that no window counts as still growing.
    for now in [1_000, 1_001] {
        while store.seal(Timestamp(now * WINDOW_MS)).expect("seal").more {}
    }
}

/// A store of so many commits that are sealed, and held from the first one on in these files.
fn held(dir: &Path, commits: i64) -> (Store, LogPosition, Vec<PathBuf>) {
    let store = open(dir);
    let start = store.log_end();
    store.pin_log("far", start, NO_BOUND);
    for n in 0..commits {
        commit(&store, n);
    }
    seal_everything(&store);
    let held = std::fs::read_dir(dir.join("log/held")).expect("held");
    let mut files: Vec<_> = held.map(|file| file.expect("file").path()).collect();
    files.sort();
    (store, start, files)
}

#[test]
fn a_tail_reads_what_is_committed_and_nothing_twice() {
    let dir = tempfile::tempdir().expect("directory");
    let store = open(dir.path());
    commit(&store, 0);
    let mut tail = store.log_tail(store.log_end());
    assert_eq!(drain(&mut tail), [0_i64; 0]);
    for n in 1..4 {
        commit(&store, n);
        assert_eq!(drain(&mut tail), [n]);
    }
    // Within a segment too, whose records build on one another.
    let position = tail.position();
    commit(&store, 4);
    let late = Commit { samples: vec![(series(&store, 2), Timestamp(7), 1.5)], ..Commit::default() };
    store.commit(late).expect("commit");
    let mut again = store.log_tail(position);
    assert_eq!(again.next_record().expect("record").expect("one").samples.len(), 3);
    assert_eq!(again.next_record().expect("record").expect("one").samples, [(series(&store, 2), Timestamp(7), 1.5)]);
    assert!(again.next_record().expect("record").is_none());
}

#[test]
fn a_pin_holds_sealed_segments_over_restarts_until_they_are_read() {
    let dir = tempfile::tempdir().expect("directory");
    let store = open(dir.path());
    commit(&store, 0);
    let start = store.log_end();
    store.pin_log("far", start, NO_BOUND);
    for n in 1..6 {
        commit(&store, n);
        seal_everything(&store);
    }
    // A tail that has a segment open reads on after it was moved.
    let mut tail = store.log_tail(start);
    assert_eq!(tail.next_record().expect("record").expect("one").samples[0].1.0, WINDOW_MS);
    drop(store);
    assert_eq!(drain(&mut tail), [2, 3, 4, 5]);
    drop(tail);

    let store = open(dir.path());
    store.pin_log("far", start, NO_BOUND);
    assert!(store.log_end() > start, "positions never repeat");
    seal_everything(&store);
    // Sealed and held: the head has nothing of it, the tail everything.
    assert_eq!(store.stats().head_samples, 0);
    commit(&store, 6);
    let mut tail = store.log_tail(start);
    assert_eq!(drain(&mut tail), [1, 2, 3, 4, 5, 6]);
    assert_eq!(store.labels(series(&store, 1)).get("n"), Some("1"));

    store.pin_log("far", tail.position(), NO_BOUND);
    seal_everything(&store);
    assert_eq!(std::fs::read_dir(dir.path().join("log/held")).expect("held").count(), 0);
    assert_eq!(store.log_skipped("far"), 0);
}

#[test]
fn beyond_its_bound_a_pin_loses_the_oldest_and_says_how_many() {
    let dir = tempfile::tempdir().expect("directory");
    let store = open(dir.path());
    let start = store.log_end();
    store.pin_log("far", start, NO_BOUND);
    for n in 0..5 {
        commit(&store, n);
        seal_everything(&store);
    }
    let held = |dir: &Path| -> Vec<u64> {
        let files = std::fs::read_dir(dir.join("log/held")).expect("held");
        let mut sizes: Vec<_> =
            files.map(|f| f.expect("file")).map(|f| (f.file_name(), f.metadata().expect("size").len())).collect();
        sizes.sort();
        sizes.into_iter().map(|(_, bytes)| bytes).collect()
    };
    let sizes = held(dir.path());
    assert_eq!(sizes.len(), 5);
    // Room for the last two.
    store.pin_log("far", start, sizes[3] + sizes[4]);
    seal_everything(&store);
    assert_eq!(held(dir.path()), sizes[3..]);
    assert_eq!(store.log_skipped("far"), 9);
    assert_eq!(drain(&mut store.log_tail(start)), [3, 4]);
    // Another reader's larger bound is its own.
    store.pin_log("near", LogPosition(0), NO_BOUND);
    store.pin_log("far", start, 0);
    seal_everything(&store);
    assert_eq!((store.log_skipped("far"), store.log_skipped("near")), (15, 0));
    assert_eq!(drain(&mut store.log_tail(start)), [3, 4]);
}

#[test]
fn series_keep_their_labels_while_somebody_has_to_read_them() {
    let dir = tempfile::tempdir().expect("directory");
    let store = open(dir.path());
    let start = store.log_end();
    store.pin_log("far", start, NO_BOUND);
    commit(&store, 0);
    seal_everything(&store);
    store.drop_before(Timestamp(100 * WINDOW_MS)).expect("dropped");
    drop(store);
    let store = open(dir.path());
    store.pin_log("far", start, NO_BOUND);
    let mut tail = store.log_tail(start);
    let record = tail.next_record().expect("record").expect("one");
    assert_eq!(store.labels(record.samples[2].0).get("n"), Some("2"));
    store.pin_log("far", tail.position(), NO_BOUND);
    seal_everything(&store);
    store.drop_before(Timestamp(100 * WINDOW_MS)).expect("dropped");
    assert_eq!(store.stats().series, 0);
}

#[test]
fn a_damaged_record_is_told_with_its_place_and_the_rest_follows() {
    let dir = tempfile::tempdir().expect("directory");
    let (store, start, files) = held(dir.path(), 3);
    let mut bytes = std::fs::read(&files[1]).expect("segment");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&files[1], bytes).expect("damaged");
    let mut tail = store.log_tail(start);
    assert!(tail.next_record().expect("record").is_some());
    let error = tail.next_record().expect_err("damaged").to_string();
    assert!(error.contains("from byte 24: the checksum of a record does not hold"), "{error}");
    assert_eq!(drain(&mut tail), [2]);
}

#[test]
fn what_can_not_be_read_now_is_read_later_or_given_up_on_request() {
    let dir = tempfile::tempdir().expect("directory");
    let (store, start, files) = held(dir.path(), 3);
    let mut tail = store.log_tail(start);
    assert!(tail.next_record().expect("record").is_some());
    // A directory in its place opens and can't be read.
    let aside = dir.path().join("aside");
    std::fs::rename(&files[1], &aside).expect("moved");
    std::fs::create_dir(&files[1]).expect("directory");
    let mut other = store.log_tail(tail.position());
    for tail in [&mut tail, &mut other] {
        let position = tail.position();
        for _ in 0..3 {
            let error = tail.next_record().expect_err("no file");
            assert!(matches!(error, TailError::Io { .. }), "{error}");
            assert_eq!(tail.position(), position);
        }
    }
    other.skip_segment();
    assert_eq!(drain(&mut other), [2]);
    std::fs::remove_dir(&files[1]).expect("directory gone");
    std::fs::rename(&aside, &files[1]).expect("back");
    assert_eq!(drain(&mut tail), [1, 2]);
    other.skip_segment();
    assert_eq!(other.position(), tail.position(), "at the end there is nothing to skip");
}

#[test]
fn a_segment_cut_short_under_a_reader_is_damaged() {
    let dir = tempfile::tempdir().expect("directory");
    let (store, start, files) = held(dir.path(), 2);
    let bytes = std::fs::read(&files[0]).expect("segment");
    std::fs::write(&files[0], &bytes[..bytes.len() - 3]).expect("cut");
    let mut tail = store.log_tail(start);
    let error = tail.next_record().expect_err("cut").to_string();
    assert!(error.contains("shorter than what was written to it"), "{error}");
    assert_eq!(drain(&mut tail), [1]);
}
