//! Power cuts, kills and failing disks while the store does what nobody asked for at that moment: gives room of its file
//! back, rolls up the days of an earlier format, and is written anew so that it can shrink. Everything stays, and what was begun is done after the next start.
//!
//! As `crash.rs`, which strikes at commits, sealing, merging, deletion and copies; `VEGHE_CRASH_ALL=1` strikes at every call.

mod shim;

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use veghe_model::{Labels, MatchOp, Matcher, Timestamp};
use veghe_tsdb::{Column, Commit, CompactError, OpenError, Options, Store, can_shrink, compact};

const CHILD: &str = "child_does_what_is_left_to_do";
const WINDOW_MS: i64 = 60_000;
/// Long after every sample, and after every rest.
const LATER: [i64; 3] = [100 * 86_400_000, 200 * 86_400_000, 300 * 86_400_000];
/// Strikes at each mode, spread over the calls, unless all are asked for.
const STRIKES: u64 = 16;

fn open(dir: &Path) -> Store {
    let options =
        || Options { dir: dir.to_owned(), window: Duration::from_millis(WINDOW_MS as u64), max_series: 1_000 };
    let held = |error: &OpenError| matches!(error, OpenError::Held { .. });
    let store = unless_held(|| Store::open(options()), held);
    let store = store.unwrap_or_else(|error| panic!("{}: {error:?}", dir.display())).0;
    store.roll_up_from(1);
    store
}

/// A child that another thread just started has this process's files for the moment until it is its own program: what
/// was closed then still counts as held.
fn unless_held<T, E>(mut attempt: impl FnMut() -> Result<T, E>, held: impl Fn(&E) -> bool) -> Result<T, E> {
    for _ in 0..1_000 {
        match attempt() {
            Err(error) if held(&error) => std::thread::sleep(Duration::from_millis(10)),
            outcome => return outcome,
        }
    }
    attempt()
}

/// Seals, merges, rolls up and shrinks all that may be; of calls that fail, the next goes on.
fn settle(store: &Store) {
    let mut failed = 0;
    for now in LATER {
        loop {
            match store.seal(Timestamp(now)) {
                Ok(report) if !report.more => break,
                Ok(_) => {}
                Err(error) => {
                    failed += 1;
                    assert!(failed < 3, "the failure comes once: {error}");
                }
            }
        }
    }
}

/// The child: not a test of its own, it does nothing unless a test below starts it.
#[test]
fn child_does_what_is_left_to_do() {
    let Some(dir) = std::env::var_os("VEGHE_SHIM_DIR").map(PathBuf::from) else { return };
    let options = Options { dir, window: Duration::from_millis(WINDOW_MS as u64), max_series: 1_000 };
    // A failing disk may keep it from starting.
    let Ok((store, _)) = Store::open(options) else { return };
    store.roll_up_from(1);
    settle(&store);
}

/// The child that writes a database anew, once more where a call of the disk fails.
#[test]
fn child_compacts() {
    let Some(dir) = std::env::var_os("VEGHE_SHIM_DIR").map(PathBuf::from) else { return };
    for _ in 0..2 {
        if compact(&dir, &mut |_| ControlFlow::Continue(())).is_ok() {
            return;
        }
    }
    panic!("the failure comes once");
}

/// Count, whether it ends with a marker, and the bits of first, last, least, greatest and lost.
type Rolled = (u32, bool, [u64; 5]);

/// Every sample, every bucket but for their sums, and every mark.
#[derive(Debug, PartialEq)]
struct Contents {
    samples: BTreeMap<(Labels, i64), u64>,
    /// By series, length and end.
    buckets: BTreeMap<(Labels, i64, i64), Rolled>,
    marks: Vec<(Vec<u8>, Vec<u8>)>,
}

fn contents(store: &Store) -> Contents {
    let all = [Matcher::new("__name__", MatchOp::Regex, ".+").expect("pattern")];
    let mut samples = BTreeMap::new();
    for series in store.select(&all, Timestamp::MIN, Timestamp::MAX).expect("select") {
        for sample in series.iter() {
            samples.insert((series.labels.clone(), sample.timestamp.0), sample.value.to_bits());
        }
    }
    let mut buckets = BTreeMap::new();
    for resolution in Store::resolutions() {
        let found = store.rollups(&all, Timestamp::MIN, Timestamp::MAX, resolution).expect("read").expect("covered");
        for series in found {
            for (end, b) in series.ends.iter().zip(&series.buckets) {
                let place = (series.labels.clone(), resolution.as_millis() as i64, *end);
                buckets.insert(place, (b.count, b.stale, [b.first, b.last, b.min, b.max, b.resets].map(f64::to_bits)));
            }
        }
    }
    Contents { samples, buckets, marks: store.marks(b"") }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("directory");
    for entry in fs::read_dir(from).expect("directory").map(|e| e.expect("entry").path()) {
        let name = entry.file_name().expect("name");
        if entry.is_dir() {
            copy(&entry, &to.join(name));
        } else {
            fs::copy(&entry, to.join(name)).expect("copy");
        }
    }
}

/// Strikes at calls of a child on copies of `begin`; `done` looks at the directory when all is done at last.
fn strike(child: &str, begin: &Path, done: &(dyn Fn(&Path, &str) + Sync)) {
    let work = tempfile::tempdir().expect("directory");
    let shim = shim::compile(work.path());
    let [reference, whole, count] = ["reference", "whole", "count"].map(|name| work.path().join(name));
    copy(begin, &reference);
    let expected = contents(&open(&reference));
    copy(begin, &whole);
    assert!(!expected.samples.is_empty() && !expected.buckets.is_empty());
    let ended = shim::run(child, &whole, &shim, "none", 0, Some(&count));
    assert_eq!(ended.code, Some(0), "{}", ended.output);
    let calls: u64 = fs::read_to_string(&count).expect("count").trim().parse().expect("number");
    assert!(calls > 20, "the shim counted only {calls} calls");
    let check = |dir: &Path, what: &str| {
        let store = open(dir);
        for state in ["at once", "later"] {
            let report = store.verify(&mut |_| ControlFlow::Continue(())).expect("verification");
            assert_eq!(report.damaged, 0, "{what}, {state}: {report:?}");
            assert!(contents(&store) == expected, "{what}, {state}: something else is there");
            settle(&store);
        }
        drop(store);
        done(dir, what);
    };
    check(&whole, "undisturbed");
    let every = std::env::var_os("VEGHE_CRASH_ALL").is_some();
    std::thread::scope(|scope| {
        for (offset, mode) in ["cut", "kill", "eio", "enospc"].into_iter().enumerate() {
            let stopped = matches!(mode, "cut" | "kill");
            let strikes = if stopped { STRIKES } else { STRIKES / 4 };
            let stride = if every { 1 } else { (calls / strikes).max(1) };
            let (work, shim, check) = (work.path(), &*shim, &check);
            scope.spawn(move || {
                for at in (1 + if every { 0 } else { offset as u64 }..=calls).step_by(stride as usize) {
                    let what = format!("{mode} at call {at} of {calls}");
                    let dir = work.join(format!("{mode}-{at}"));
                    copy(begin, &dir);
                    let ended = shim::run(child, &dir, shim, mode, at, None);
                    assert_eq!(ended.code, Some(if stopped { shim::STRUCK } else { 0 }), "{what}\n{}", ended.output);
                    check(&dir, &what);
                    fs::remove_dir_all(&dir).expect("clean");
                }
            });
        }
    });
}

fn pragma(dir: &Path, name: &str) -> i64 {
    let connection = rusqlite::Connection::open(dir.join("chunks.db")).expect("database");
    connection.query_row(&format!("PRAGMA {name}"), [], |r| r.get(0)).expect("pragma")
}

/// Most of the file is free, and what is not lies at its end, so that giving room back moves it.
#[test]
fn whatever_stops_it_while_room_is_given_back_everything_stays() {
    const MARKS: u64 = 800;
    let begin = tempfile::tempdir().expect("directory");
    let store = open(begin.path());
    let key = |n: u64| format!("large {n}").into_bytes();
    let large = (0..MARKS).map(|n| (key(n), vec![n as u8; 8_000])).collect();
    store.commit(Commit { marks: large, ..Commit::default() }).expect("commit");
    store.seal(Timestamp(0)).expect("catalog");
    let series: Vec<_> = (0..200)
        .map(|n| store.series(&Labels::from_pairs([("__name__", "m".to_owned()), ("n", n.to_string())])))
        .collect::<Result<_, _>>()
        .expect("series");
    let group = store.group(&series);
    for row in 0..150_i64 {
        // Values that do not compress: some hundred pages have to move.
        let value = |n: i64| f64::from_bits(((row * 200 + n) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 2);
        let columns = vec![Column { group, timestamp: Timestamp(row * 9_000), values: (0..200).map(value).collect() }];
        store.commit(Commit { columns, ..Commit::default() }).expect("commit");
    }
    for now in [20 * WINDOW_MS, 80 * WINDOW_MS] {
        while store.seal(Timestamp(now)).expect("seal").more {}
    }
    let none = (0..MARKS).map(|n| (key(n), Vec::new())).collect();
    let kept = vec![(b"kept".to_vec(), b"mark".to_vec())];
    store.commit(Commit { marks: none, ..Commit::default() }).expect("commit");
    store.commit(Commit { marks: kept, ..Commit::default() }).expect("commit");
    drop(store);
    let before = pragma(begin.path(), "page_count");
    assert!(before > 1_600 / 2, "{before} pages");
    strike(CHILD, begin.path(), &|dir, what| {
        let (free, pages) = (pragma(dir, "freelist_count"), pragma(dir, "page_count"));
        assert!(free <= 128 && pages < before * 3 / 4, "{what}: {free} of {pages} pages are free, {before} before");
        let check: String = rusqlite::Connection::open(dir.join("chunks.db"))
            .and_then(|c| c.query_row("PRAGMA integrity_check", [], |r| r.get(0)))
            .expect("check");
        assert_eq!(check, "ok", "{what}");
    });
}

/// Directories as earlier programs left them, whose days have no roll-ups yet.
#[test]
fn whatever_stops_it_while_an_earlier_format_is_rolled_up_everything_stays() {
    for version in ["v2", "v4"] {
        let begin = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(version);
        strike(CHILD, &begin, &|dir, what| {
            let rows = |table: &str| -> i64 {
                let connection = rusqlite::Connection::open(dir.join("chunks.db")).expect("database");
                connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |r| r.get(0)).expect("count")
            };
            let (chunks, rolled) = (rows("day_chunk"), rows("rollup60_chunk"));
            assert!(chunks > 0 && rolled == chunks, "{what}, {version}: {rolled} of {chunks} chunks are rolled up");
        });
    }
}

/// Databases of earlier formats, which can't shrink until they are written anew.
#[test]
fn whatever_stops_it_while_a_database_is_written_anew_everything_stays() {
    // A copy: to ask makes files beside the database for a moment, and other tests read that directory.
    let begin = tempfile::tempdir().expect("directory");
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v4"), begin.path());
    assert!(!can_shrink(begin.path()).expect("database"));
    strike("child_compacts", begin.path(), &|dir, what| {
        // Struck before its end, it is begun again.
        let again = || compact(dir, &mut |_| ControlFlow::Continue(()));
        let again = unless_held(again, |error| matches!(error, CompactError::Open(OpenError::Held { .. })));
        let again = again.unwrap_or_else(|error| panic!("{what}: {error:?}"));
        // Small as it is, what pages can shrink by takes one more.
        assert!(again.after_bytes <= again.before_bytes + 8_192, "{what}: {again:?}");
        assert!(can_shrink(dir).expect("database") && !dir.join("chunks.db.part").exists(), "{what}");
        let store = open(dir);
        let report = store.verify(&mut |_| ControlFlow::Continue(())).expect("verification");
        assert!(report.damaged == 0 && report.samples > 0, "{what}: {report:?}");
    });
}

#[test]
fn a_database_in_use_is_left_alone() {
    let dir = tempfile::tempdir().expect("directory");
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v4"), dir.path());
    let store = open(dir.path());
    let before = contents(&store);
    let error = compact(dir.path(), &mut |_| ControlFlow::Continue(())).expect_err("held");
    assert!(matches!(error, CompactError::Open(OpenError::Held { .. })), "{error}");
    assert!(contents(&store) == before);
}
