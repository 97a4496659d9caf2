//! Data directories of earlier formats, checked in, that every later program opens with all they hold.
//!
//! `tests/golden/v1` and so on: made by `VEGHE_GOLDEN_MAKE=DIR cargo test -p veghe-tsdb --test golden` with the program of
//! that format, and never edited after; with `VEGHE_GOLDEN_EXPIRED=1` retention took the samples and left roll-ups. What they hold follows from [`rows`], [`late`] and [`odd`] alone.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use veghe_model::{Bucket, Labels, MatchOp, Matcher, RollupSeries, Timestamp, stale_nan};
use veghe_tsdb::{Ages, Column, Commit, Options, Retention, Store};

const ROWS: i64 = 110;
const MEMBERS: usize = 4;

type Contents = BTreeMap<Labels, BTreeMap<i64, u64>>;

fn options(dir: &Path) -> Options {
    Options { dir: dir.to_owned(), window: Duration::from_mins(1), max_series: 1_000 }
}

fn labels(n: usize) -> Labels {
    Labels::from_pairs([("__name__", format!("golden_{n}")), ("instance", "ăâîșț \"1\"\\".to_owned())])
}

/// Rows of one group: a constant, a counter that is reset, decimals, and a series that ends and comes back.
fn rows() -> Vec<(i64, [f64; MEMBERS])> {
    (0..ROWS)
        .map(|row| {
            // The second half has jitter, so that its time stamps are packed.
            let time = row * 5_000 + if row > 50 { row * row % 7 } else { 0 };
            let ended = row % 40 == 30;
            (
                time,
                [2.5, (row % 70 * 3) as f64, (row * row % 91) as f64 / 100.0, if ended { stale_nan() } else { -0.0 }],
            )
        })
        .collect()
}

/// Samples that come after their window is sealed, one of them a repeat with another value.
fn late() -> Vec<(usize, i64, f64)> {
    vec![(1, 61_234, 7.75), (1, 60_000, -1.0), (2, 119_999, 0.125), (5, 3, 1e300)]
}

/// Values that only bits tell apart, of a series of its own.
fn odd() -> Vec<(usize, i64, f64)> {
    let bits = [0x7ff8_0000_dead_beef, 0x8000_0000_0000_0000, 1, 0x7ff0_0000_0000_0000, 0x7ff0_0000_0000_0002];
    (0..60).map(|i| (4, 100_000 + i * 3_331, f64::from_bits(bits[i as usize % bits.len()]))).collect()
}

fn expected() -> Contents {
    let rows = rows().into_iter().flat_map(|(t, values)| (0..MEMBERS).map(move |n| (n, t, values[n])));
    let mut contents = Contents::new();
    for (n, t, v) in rows.chain(odd()).chain(late()) {
        contents.entry(labels(n)).or_default().entry(t).or_insert(v.to_bits());
    }
    contents
}

fn contents(store: &Store) -> Contents {
    let all = Matcher::new("__name__", MatchOp::Regex, "golden_.*").expect("pattern");
    let series = store.select(&[all], Timestamp::MIN, Timestamp::MAX).expect("select");
    series
        .into_iter()
        .map(|s| (s.labels.clone(), s.iter().map(|x| (x.timestamp.0, x.value.to_bits())).collect()))
        .collect()
}

fn fill(dir: &Path) {
    let (store, _) = Store::open(options(dir)).expect("store opens");
    let id = |n: usize| store.series(&labels(n)).expect("series");
    let group = store.group(&(0..MEMBERS).map(id).collect::<Vec<_>>());
    let samples = |list: Vec<(usize, i64, f64)>| list.into_iter().map(|(n, t, v)| (id(n), Timestamp(t), v)).collect();
    for (row, (time, values)) in rows().into_iter().enumerate() {
        let columns = vec![Column { group, timestamp: Timestamp(time), values: values.to_vec() }];
        let marks = vec![(b"row".to_vec(), row.to_string().into_bytes())];
        store.commit(Commit { columns, marks, ..Commit::default() }).expect("commit");
    }
    store.commit(Commit { samples: samples(odd()), ..Commit::default() }).expect("commit");
    // Since format 2: days are merged after a rest, one late sample is in a window of a merged day, others in the log.
    for now in [400_000, 2_000_000, 4_000_000] {
        while store.seal(Timestamp(now)).expect("seal").more {}
    }
    let mut late = late();
    let last = late.split_off(1);
    store.commit(Commit { samples: samples(late), ..Commit::default() }).expect("commit");
    while store.seal(Timestamp(5_000_000)).expect("seal").more {}
    store.commit(Commit { samples: samples(last), ..Commit::default() }).expect("commit");
}

#[test]
fn a_golden_directory_is_made_where_one_is_asked_for() {
    let Some(dir) = std::env::var_os("VEGHE_GOLDEN_MAKE").map(PathBuf::from) else { return };
    fill(&dir);
    if std::env::var_os("VEGHE_GOLDEN_EXPIRED").is_some() {
        expire(&Store::open(options(&dir)).expect("store opens").0);
    }
    fs::remove_file(dir.join("lock")).expect("lock");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("directory");
    for entry in fs::read_dir(from).expect("golden directory").map(|e| e.expect("entry").path()) {
        let name = entry.file_name().expect("name");
        if entry.is_dir() {
            copy(&entry, &to.join(name));
        } else {
            fs::copy(&entry, to.join(name)).expect("copy");
        }
    }
}

fn opens_whole(version: &str) {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(version);
    let work = tempfile::tempdir().expect("directory");
    copy(&golden, work.path());
    let whole = expected();
    let (store, _) = Store::open(options(work.path())).expect("golden directory opens");
    store.roll_up_from(1);
    assert_eq!(contents(&store), whole, "{version}");
    assert_eq!(store.mark(b"row"), Some((ROWS - 1).to_string().into_bytes()));
    // It goes on as a store of today: everything is sealed, and nothing changes by that.
    for days in [1, 2, 60, 90] {
        while store.seal(Timestamp(days * 86_400_000)).expect("seal").more {}
        assert_eq!(contents(&store), whole, "{version}, {days} days on");
    }
    // Roll-ups were made, and compare with the samples.
    let report = store.verify(&mut |_| ControlFlow::Continue(())).expect("verification");
    assert!(report.damaged == 0 && report.rollups > 0, "{version}: {report:?}");
    drop(store);
    let (store, recovery) = Store::open(options(work.path())).expect("opens again");
    assert_eq!((recovery.replayed_records, contents(&store) == whole), (0, true), "{version}");
}

/// Roll-ups at both resolutions.
fn rollups(store: &Store) -> Vec<RollupSeries> {
    let all = Matcher::new("__name__", MatchOp::Regex, "golden_.*").expect("pattern");
    let of = |resolution| {
        let matchers = std::slice::from_ref(&all);
        store.rollups(matchers, Timestamp::MIN, Timestamp::MAX, resolution).expect("read").expect("covered")
    };
    Store::resolutions().into_iter().flat_map(of).collect()
}

/// Takes the samples of everything that is merged, and leaves roll-ups.
fn expire(store: &Store) {
    while store.seal(Timestamp(100_000_000)).expect("seal").more {}
    while store.seal(Timestamp(200_000_000)).expect("merge").more {}
    let long = Duration::from_hours(24 * 365 * 100);
    let ages = Ages { raw: Duration::from_millis(1), rollup_5m: long, rollup_1h: long };
    let retention = Retention { classes: Vec::new(), ages, max_bytes: None };
    store.retain(&retention, Timestamp(200_000_000)).expect("retain");
}

#[test]
fn format_6_opens_for_ever() {
    opens_whole("v6");
}

#[test]
fn format_5_opens_for_ever() {
    opens_whole("v5");
}

#[test]
fn roll_ups_of_format_5_open_for_ever() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v5-expired");
    let [work, fresh] = [(); 2].map(|()| tempfile::tempdir().expect("directory"));
    copy(&golden, work.path());
    fill(fresh.path());
    let (store, _) = Store::open(options(work.path())).expect("golden directory opens");
    assert!(contents(&store).is_empty());
    let expected = rollups(&Store::open(options(fresh.path())).expect("store opens").0);
    let found = rollups(&store);
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!((&found.labels, &found.ends), (&expected.labels, &expected.ends));
        for (a, b) in found.buckets.iter().zip(&expected.buckets) {
            let bits = |b: &Bucket| [b.first, b.last, b.min, b.max, b.resets].map(f64::to_bits);
            assert_eq!((a.count, a.stale, a.first_time, a.last_time), (b.count, b.stale, b.first_time, b.last_time));
            assert_eq!(bits(a), bits(b), "{}", found.labels);
            // Sums are decimals as short as the values.
            assert!((a.sum - b.sum).abs() <= b.sum.abs() * 1e-14 || a.sum.is_nan() && b.sum.is_nan() || a.sum == b.sum);
        }
    }
    let report = store.verify(&mut |_| ControlFlow::Continue(())).expect("verification");
    assert_eq!((report.damaged, report.samples, report.rollups), (0, 0, 12), "{report:?}");
}

#[test]
fn format_3_opens_for_ever() {
    opens_whole("v3");
}

#[test]
fn format_4_opens_for_ever() {
    opens_whole("v4");
}

#[test]
fn format_2_opens_for_ever() {
    opens_whole("v2");
}

#[test]
fn format_1_opens_for_ever() {
    opens_whole("v1");
}
