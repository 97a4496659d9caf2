//! Copies of a store that goes on, and verification: a copy is the store at one moment, whatever happened while it was
//! made; damage is found where it is.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use veghe_model::{Labels, MatchOp, Matcher, Timestamp};
use veghe_tsdb::{
    Ages, BackupError, Column, Commit, Damage, LogPosition, Options, Retention, Store, VerifyError, VerifyReport,
    verify_directory,
};

const SERIES: usize = 40;
const WINDOW_MS: i64 = 60_000;
/// One block of labels has them all.
const ALL: [usize; SERIES] = {
    let mut all = [0; SERIES];
    let mut n = 0;
    while n < SERIES {
        all[n] = n;
        n += 1;
    }
    all
};
const STEP_MS: i64 = 5_000;

type Contents = BTreeMap<(usize, i64), u64>;

fn options(dir: &Path) -> Options {
    Options { dir: dir.to_owned(), window: Duration::from_millis(WINDOW_MS as u64), max_series: 1_000 }
}

fn labels(n: usize) -> Labels {
    Labels::from_pairs([("__name__", "m".to_owned()), ("n", n.to_string())])
}

fn value(n: usize, row: i64) -> f64 {
    n as f64 + (row * row % 17) as f64 / 10.0
}

/// Row `row` of every series, and the mark that says so.
fn commit(store: &Store, row: i64) {
    let ids: Vec<_> = (0..SERIES).map(|n| store.series(&labels(n)).expect("series")).collect();
    let columns = vec![Column {
        group: store.group(&ids),
        timestamp: Timestamp(row * STEP_MS + row % 3),
        values: (0..SERIES).map(|n| value(n, row)).collect(),
    }];
    let marks = vec![(b"rows".to_vec(), (row + 1).to_string().into_bytes())];
    store.commit(Commit { columns, marks, ..Commit::default() }).expect("commit");
}

fn seal(store: &Store, now: i64) {
    while store.seal(Timestamp(now)).expect("seal").more {}
}

/// A store with a merged day, sealed windows and a part of the log.
fn fill(dir: &Path) -> Store {
    let store = Store::open(options(dir)).expect("store opens").0;
    for row in 0..200 {
        commit(&store, row);
    }
    for now in [720_000 + WINDOW_MS, 720_000 + 3 * WINDOW_MS] {
        seal(&store, now);
    }
    for row in 200..230 {
        commit(&store, row);
    }
    store
}

fn contents(store: &Store) -> Contents {
    let all = Matcher::new("n", MatchOp::Regex, ".+").expect("pattern");
    let found = store.select(&[all], Timestamp::MIN, Timestamp::MAX).expect("select");
    let of = |s: &veghe_model::SeriesData| {
        let n: usize = s.labels.get("n").and_then(|n| n.parse().ok()).expect("label");
        s.iter().map(|x| ((n, x.timestamp.0), x.value.to_bits())).collect::<Vec<_>>()
    };
    found.iter().flat_map(of).collect()
}

fn model(rows: i64) -> Contents {
    (0..rows)
        .flat_map(|row| (0..SERIES).map(move |n| ((n, row * STEP_MS + row % 3), value(n, row).to_bits())))
        .collect()
}

fn verify(dir: &Path) -> VerifyReport {
    verify_directory(dir, &mut |_| ControlFlow::Continue(())).expect("verification")
}

#[test]
fn a_backup_is_the_store_at_one_moment_while_commits_seals_and_merges_go_on() {
    let work = tempfile::tempdir().expect("directory");
    let store = fill(&work.path().join("store"));
    let before = contents(&store);
    assert_eq!(before, model(230));
    let copy = work.path().join("copy");
    let (mut row, mut steps, mut last) = (230, 0, 0);
    let done = store
        .backup(&copy, &mut |progress| {
            // Everything that takes files and rows away happens in the middle of it.
            for _ in 0..30 {
                commit(&store, row);
                row += 1;
            }
            seal(&store, row * STEP_MS + 10 * WINDOW_MS);
            seal(&store, row * STEP_MS + 50 * WINDOW_MS);
            assert!(progress.done_bytes >= last && progress.done_bytes <= progress.total_bytes);
            (steps, last) = (steps + 1, progress.done_bytes);
            ControlFlow::Continue(())
        })
        .expect("backup");
    assert!(steps >= 2, "{steps} steps");
    assert_eq!(done.done_bytes, done.total_bytes);
    assert_eq!(contents(&store), model(row));
    // Nothing that was held for the copy stays.
    seal(&store, row * STEP_MS + 90 * WINDOW_MS);
    assert_eq!(store.stats().log_segments, 0);
    let report = verify(&copy);
    assert_eq!((report.damaged, report.torn_bytes, report.series), (0, 0, SERIES as u64), "{report:?}");
    assert!(report.log_records >= 30 && report.samples >= 6_000, "{report:?}");
    assert!(!copy.join("chunks.db-wal").exists() && !copy.join("lock").exists(), "verification wrote to the copy");
    let (restored, _) = Store::open(options(&copy)).expect("copy opens");
    assert!(contents(&restored) == before, "the copy holds something else");
    assert_eq!(restored.mark(b"rows"), Some(b"230".to_vec()));
    commit(&restored, 230);
    seal(&restored, 100_000_000);
    assert!(contents(&restored) == model(231), "the copy does not go on");
}

/// What targets of remote write have not got yet reaches them from a restored backup.
#[test]
fn a_backup_has_the_log_that_readers_still_need() {
    let work = tempfile::tempdir().expect("directory");
    let store = fill(&work.path().join("store"));
    store.pin_log("reader", LogPosition(0), 1 << 30);
    seal(&store, 100_000_000);
    let held = store.stats();
    assert!(held.log_segments > 0 && held.head_samples == 0, "{held:?}");
    let read = |store: &Store| {
        let mut tail = store.log_tail(LogPosition(0));
        let mut samples = Vec::new();
        while let Some(record) = tail.next_record().expect("record") {
            samples.extend(record.samples.iter().map(|(id, t, v)| (store.labels(*id), *t, v.to_bits())));
        }
        samples
    };
    let expected = read(&store);
    assert!(expected.len() >= 30 * SERIES, "{} samples are still to be read", expected.len());
    let copy = work.path().join("copy");
    // Its bound is passed while the copy is made: what is held then still stays for it.
    let done = store
        .backup(&copy, &mut |_| {
            store.pin_log("reader", LogPosition(0), 1);
            commit(&store, 230);
            seal(&store, 200_000_000);
            ControlFlow::Continue(())
        })
        .expect("backup");
    assert!(done.total_bytes > held.log_bytes, "{done:?}");
    seal(&store, 300_000_000);
    assert!(read(&store).len() < expected.len(), "the bound holds again after the copy");
    assert_eq!(verify(&copy).damaged, 0);
    let (restored, _) = Store::open(options(&copy)).expect("copy opens");
    restored.pin_log("reader", LogPosition(0), 1 << 30);
    seal(&restored, 100_000_000);
    assert!(read(&restored) == expected, "the copy passes something else on");
    assert!(contents(&restored) == model(230));
}

/// Of samples that retention took, roll-ups are all there is: a restored backup answers from them.
#[test]
fn a_backup_has_roll_ups_and_a_restored_one_answers_from_them() {
    let work = tempfile::tempdir().expect("directory");
    let store = fill(&work.path().join("store"));
    store.roll_up_from(1);
    let rollups = |store: &Store| -> Vec<_> {
        let of = |resolution| store.rollups(&[], Timestamp::MIN, Timestamp::MAX, resolution).expect("read");
        Store::resolutions().into_iter().filter_map(of).flatten().collect()
    };
    seal(&store, 100_000_000);
    seal(&store, 200_000_000);
    let before = rollups(&store);
    assert_eq!(before.len(), 2 * SERIES);
    let long = Duration::from_hours(24 * 365);
    let ages = Ages { raw: Duration::from_millis(1), rollup_5m: long, rollup_1h: long };
    store.retain(&Retention { classes: Vec::new(), ages, max_bytes: None }, Timestamp(200_000_000)).expect("retain");
    assert!(contents(&store).is_empty());
    let left = rollups(&store);
    let counts = |all: &[veghe_model::RollupSeries]| -> Vec<u32> {
        all.iter().flat_map(|series| series.buckets.iter().map(|bucket| bucket.count)).collect()
    };
    assert_eq!(counts(&left), counts(&before));
    let copy = work.path().join("copy");
    store.backup(&copy, &mut |_| ControlFlow::Continue(())).expect("backup");
    let report = verify(&copy);
    assert!(report.damaged == 0 && report.samples == 0 && report.rollups >= 2 * SERIES as u64, "{report:?}");
    let (restored, _) = Store::open(options(&copy)).expect("copy opens");
    assert!(rollups(&restored) == left, "roll-ups of the copy say something else");
    assert!(restored.expired(&[], Timestamp::MIN, Timestamp::MAX).is_some());
}

#[test]
fn a_backup_that_is_stopped_says_so_and_holds_nothing_back() {
    let work = tempfile::tempdir().expect("directory");
    let store = fill(&work.path().join("store"));
    let error = store.backup(&work.path().join("copy"), &mut |_| ControlFlow::Break(())).expect_err("stopped");
    assert!(matches!(error, BackupError::Stopped), "{error}");
    seal(&store, 100_000_000);
    assert_eq!(store.stats().log_segments, 0);
    let error = store.backup(&work.path().join("copy"), &mut |_| ControlFlow::Continue(())).expect_err("exists");
    assert!(matches!(&error, BackupError::Write { path, .. } if path.ends_with("copy")), "{error}");
}

#[test]
fn a_healthy_store_verifies_clean_running_and_at_rest() {
    let dir = tempfile::tempdir().expect("directory");
    let store = fill(dir.path());
    let running = store.verify(&mut |_| ControlFlow::Continue(())).expect("verification");
    assert_eq!((running.damaged, running.series), (0, SERIES as u64), "{running:?}");
    assert_eq!(running.samples, (SERIES * 200) as u64 - head_samples(&store) + (SERIES * 30) as u64);
    let held = verify_directory(dir.path(), &mut |_| ControlFlow::Continue(())).expect_err("held");
    assert!(matches!(held, VerifyError::Held { .. }), "{held}");
    drop(store);
    assert_eq!(verify(dir.path()), running);
}

fn head_samples(store: &Store) -> u64 {
    store.stats().head_samples
}

/// Changes the database of a closed store.
fn damage(dir: &Path, statement: &str) {
    let database = rusqlite::Connection::open(dir.join("chunks.db")).expect("database");
    assert!(database.execute(statement, []).expect("damage") > 0, "{statement} changes nothing");
}

#[test]
fn each_damaged_row_is_named_with_its_place_and_the_rest_answers() {
    let dir = tempfile::tempdir().expect("directory");
    drop(fill(dir.path()));
    let whole = model(230);
    let cases: [(&str, &str, &[usize]); 8] = [
        ("UPDATE meta SET value = 0 WHERE key = 'next_series'", "table meta, row next_series", &[]),
        ("UPDATE mark SET value = x'0102030405'", "table mark, row rows", &[]),
        ("UPDATE window SET through = through + 1 WHERE window = 13", "table window, row 13", &[]),
        ("UPDATE series_4096 SET data = zeroblob(9) WHERE block = 0", "table series_4096, row 0", &ALL),
        ("UPDATE window SET series = x'00' WHERE window = 13", "table window, row 13", &[]),
        ("UPDATE day SET series = zeroblob(30) WHERE day = 0", "table day, row 0", &[]),
        ("UPDATE day_chunk SET data = zeroblob(20) WHERE id = 5", "table day_chunk, row 5", &[5]),
        ("UPDATE day_times SET data = zeroblob(20) WHERE id = 0", "table day_times, row 0", &[]),
    ];
    for (statement, place, lost) in cases {
        let work = tempfile::tempdir().expect("directory");
        copy(dir.path(), work.path());
        damage(work.path(), statement);
        let report = verify(work.path());
        let named: Vec<&Damage> = report.damages.iter().filter(|damage| damage.place == place).collect();
        let [named] = named[..] else { panic!("{statement}: {report:?}") };
        assert!(named.path.ends_with("chunks.db"), "{named}");
        if place.starts_with("table day_chunk") {
            assert_eq!(named.series, Some(labels(5)));
            assert_eq!(named.range, Some((Timestamp(0), Timestamp(12 * WINDOW_MS - 1))));
        }
        let (store, recovery) = Store::open(options(work.path())).expect("store opens");
        let at_start = !place.contains("_chunk") && !place.contains("_times");
        assert_eq!(recovery.damages.iter().any(|damage| damage.place == place), at_start, "{recovery:?}");
        if place.contains("_times") {
            // Whole series shared it: what they have elsewhere is still there.
            let later = store.select(&[Matcher::equal("n", "3")], Timestamp(12 * WINDOW_MS), Timestamp::MAX);
            assert_eq!(later.expect("select")[0].len() as i64, 230 - 144);
            continue;
        }
        for n in (0..SERIES).filter(|n| !lost.contains(n)) {
            let found = store.select(&[Matcher::equal("n", n.to_string())], Timestamp::MIN, Timestamp::MAX);
            assert_eq!(found.expect("select")[0].len(), 230, "{statement}: series {n}");
        }
        // A lost series' number is not given to another, and the store goes on.
        commit(&store, 230);
        seal(&store, 100_000_000);
        if lost.len() == SERIES {
            assert_eq!(contents(&store).len(), SERIES, "another series took a lost one's samples");
        }
        let expected: Contents = model(231).into_iter().filter(|((n, _), _)| !lost.contains(n)).collect();
        let rest =
            Matcher::new("n", MatchOp::NotRegex, lost.iter().map(usize::to_string).collect::<Vec<_>>().join("|"));
        let found = store.select(&[rest.expect("matcher")], Timestamp::MIN, Timestamp::MAX).expect("select");
        assert_eq!(found.iter().map(veghe_model::SeriesData::len).sum::<usize>(), expected.len(), "{statement}");
    }
    assert_eq!(whole.len(), 230 * SERIES);
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

#[test]
fn a_flipped_bit_of_the_log_is_found_at_its_record() {
    let dir = tempfile::tempdir().expect("directory");
    let store = fill(dir.path());
    let segment = fs::read_dir(dir.path().join("log"))
        .expect("log")
        .map(|e| e.expect("entry").path())
        .filter(|path| path.is_file())
        .max_by_key(|path| fs::metadata(path).expect("file").len())
        .expect("segment");
    let mut bytes = fs::read(&segment).expect("file");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&segment, bytes).expect("file");
    let report = store.verify(&mut |_| ControlFlow::Continue(())).expect("verification");
    assert_eq!(report.damaged, 1, "{report:?}");
    assert_eq!(report.damages[0].path, segment);
    let place = &report.damages[0].place;
    let (from, to) = place.strip_prefix("bytes ").and_then(|place| place.split_once(" to ")).expect("bytes");
    let (from, to): (usize, usize) = (from.parse().expect("byte"), to.parse().expect("byte"));
    assert!(24 <= from && from <= middle && middle < to, "{report:?}");
}

#[test]
fn segments_that_only_readers_of_the_log_need_are_looked_at_too() {
    let dir = tempfile::tempdir().expect("directory");
    let store = fill(dir.path());
    store.pin_log("reader", LogPosition(0), 1 << 30);
    seal(&store, 100_000_000);
    let held = fs::read_dir(dir.path().join("log/held")).expect("held").next().expect("segment").expect("entry").path();
    assert_eq!(store.verify(&mut |_| ControlFlow::Continue(())).expect("verification").damaged, 0);
    let mut bytes = fs::read(&held).expect("file");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&held, bytes).expect("file");
    let running = store.verify(&mut |_| ControlFlow::Continue(())).expect("verification");
    assert!(running.damages.iter().any(|damage| damage.path == held), "{running:?}");
    drop(store);
    assert!(verify(dir.path()).damages.iter().any(|damage| damage.path == held));
}
