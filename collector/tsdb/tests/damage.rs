//! Files with flipped, cut and random bytes: the store opens with a consistent part or says what is wrong, and a damaged
//! chunk stays the problem of its own series.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;
use veghe_model::{Labels, MatchOp, Matcher, Timestamp};
use veghe_tsdb::{Commit, OpenError, Options, ReadError, Store};

const ROWS: i64 = 40;

fn options(dir: &Path) -> Options {
    Options { dir: dir.to_owned(), window: Duration::from_mins(1), max_series: 1_000 }
}

fn value(n: usize, row: i64) -> f64 {
    n as f64 + (row * row % 17) as f64 / 10.0
}

/// A store with two sealed windows, the rest in the log.
fn fill(dir: &Path) {
    let (store, _) = Store::open(options(dir)).expect("store opens");
    let ids: Vec<_> =
        (0..20).map(|n| store.series(&Labels::from_pairs([("n", n.to_string())])).expect("series")).collect();
    for row in 0..ROWS {
        let time = Timestamp(row * 5_000 + row % 3);
        let samples = ids.iter().enumerate().map(|(n, id)| (*id, time, value(n, row))).collect();
        let marks = vec![(b"row".to_vec(), vec![row as u8 + 1])];
        store.commit(Commit { samples, marks, ..Commit::default() }).expect("commit");
    }
    while store.seal(Timestamp(130_000)).expect("seal").more {}
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files = vec![dir.join("chunks.db"), dir.join("chunks.db-wal")];
    files.extend(fs::read_dir(dir.join("log")).expect("log").map(|e| e.expect("entry").path()));
    files.retain(|path| path.exists());
    files.sort();
    files
}

/// Every sample that is found must be one that was committed.
fn check(dir: &Path) {
    let Ok((store, _)) = Store::open(options(dir)) else { return };
    for n in 0..20_usize {
        match store.select(&[Matcher::equal("n", n.to_string())], Timestamp::MIN, Timestamp::MAX) {
            Ok(found) => {
                for sample in found.iter().flat_map(veghe_model::SeriesData::iter) {
                    let row = sample.timestamp.0 / 5_000;
                    assert_eq!(sample.timestamp.0, row * 5_000 + row % 3);
                    assert_eq!(sample.value.to_bits(), value(n, row).to_bits());
                }
            }
            Err(ReadError::Corrupt { .. } | ReadError::Database(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    // Errors are answers here; panics are not.
    drop(store.seal(Timestamp(10_000_000)));
    drop(store.drop_before(Timestamp(60_000)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    #[test]
    fn damaged_files_give_an_error_or_a_consistent_part(
        which in any::<prop::sample::Index>(),
        hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let dir = tempfile::tempdir().expect("directory");
        fill(dir.path());
        let files = files(dir.path());
        let path = which.get(&files);
        let mut bytes = fs::read(path).expect("file");
        if !bytes.is_empty() {
            for (at, byte) in &hits {
                let at = at.index(bytes.len());
                bytes[at] ^= byte;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
        }
        fs::write(path, bytes).expect("damage");
        check(dir.path());
    }

    #[test]
    fn random_record_payloads_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        // Only that it returns matters here.
        let _: bool = veghe_tsdb::fuzz_log_record(&bytes);
    }
}

#[test]
fn a_damaged_chunk_leaves_the_other_series_readable() {
    let dir = tempfile::tempdir().expect("directory");
    fill(dir.path());
    let database = rusqlite::Connection::open(dir.path().join("chunks.db")).expect("database");
    database.execute("UPDATE chunk SET data = zeroblob(length(data)) WHERE id = 7", []).expect("damage");
    drop(database);
    let (store, _) = Store::open(options(dir.path())).expect("store opens");
    let select = |n: &str| store.select(&[Matcher::equal("n", n)], Timestamp(0), Timestamp::MAX);
    let error = select("7").expect_err("damaged");
    assert!(error.to_string().contains(r#"{n="7"} from 0"#), "{error}");
    assert_eq!(select("8").expect("select")[0].len() as i64, ROWS);
    let rest = Matcher::new("n", MatchOp::NotEqual, "7").expect("matcher");
    assert_eq!(store.select(&[rest], Timestamp::MIN, Timestamp::MAX).expect("select").len(), 19);
    // Behind the damaged window the series reads on.
    let later = store.select(&[Matcher::equal("n", "7")], Timestamp(60_000), Timestamp::MAX).expect("select");
    assert_eq!(later[0].len() as i64, ROWS - 12);
}

#[test]
fn a_damaged_record_costs_those_that_refer_to_it_and_no_more() {
    let dir = tempfile::tempdir().expect("directory");
    let open = || Store::open(options(dir.path())).expect("store opens");
    let (store, _) = open();
    let ids: Vec<_> =
        (0..20).map(|n| store.series(&Labels::from_pairs([("n", n.to_string())])).expect("series")).collect();
    let group = store.group(&ids);
    for row in 0..400_i64 {
        let values = (0..20).map(|n| value(n, row)).collect();
        let columns = vec![veghe_tsdb::Column { group, timestamp: Timestamp(row), values }];
        store.commit(Commit { columns, ..Commit::default() }).expect("commit");
    }
    drop(store);
    let segment = fs::read_dir(dir.path().join("log")).expect("log").next().expect("segment").expect("entry").path();
    let whole = fs::read(&segment).expect("file");
    let count = |store: &Store| {
        store.select(&[Matcher::equal("n", "7")], Timestamp::MIN, Timestamp::MAX).expect("select")[0].len()
    };
    // A flipped bit of a record, one of a length that then leads nowhere, and zeros over a whole block.
    let middle = whole.len() / 2;
    let damages: [fn(&mut [u8]); 3] = [|bytes| bytes[0] ^= 0x10, |bytes| bytes[..64].fill(0xff), |bytes| bytes.fill(0)];
    for damage in damages {
        let mut bytes = whole.clone();
        damage(&mut bytes[middle..middle + 512]);
        fs::write(&segment, &bytes).expect("file");
        let (store, recovery) = open();
        let found = count(&store);
        assert!((400 - 64 - 20..400).contains(&found), "{found} of 400 are left");
        let [named] = &recovery.damages[..] else { panic!("{recovery:?}") };
        assert!(named.path == segment && named.place.starts_with("bytes "), "{named}");
        assert_eq!(recovery.torn_bytes, 0);
        assert_eq!(fs::metadata(&segment).expect("file").len(), whole.len() as u64, "what follows was cut");
        // The last row is there, and the store goes on.
        let last = store.select(&[Matcher::equal("n", "7")], Timestamp(399), Timestamp(399)).expect("select");
        assert_eq!(last[0].values, [value(7, 399)]);
        drop(store);
        assert_eq!(count(&open().0), found);
        for entry in fs::read_dir(dir.path().join("log")).expect("log").map(|e| e.expect("entry").path()) {
            if entry != segment && entry.is_file() {
                fs::remove_file(entry).expect("later segment");
            }
        }
    }
    // An end without a whole record behind it is what a kill leaves.
    fs::write(&segment, &whole[..whole.len() - 3]).expect("file");
    let (store, recovery) = open();
    assert!(recovery.torn_bytes > 0 && recovery.damages.is_empty(), "{recovery:?}");
    assert_eq!(count(&store), 399);
}

#[test]
fn a_newer_format_is_refused_by_name() {
    let dir = tempfile::tempdir().expect("directory");
    fill(dir.path());
    let segment = fs::read_dir(dir.path().join("log")).expect("log").next().expect("segment").expect("entry").path();
    let whole = fs::read(&segment).expect("file");
    let mut newer = whole.clone();
    newer[8] = 9;
    fs::write(&segment, newer).expect("file");
    let error = Store::open(options(dir.path())).map(drop).expect_err("newer");
    assert!(matches!(&error, OpenError::Newer { path, found: 9, .. } if *path == segment), "{error}");
    fs::write(&segment, whole).expect("file");
    let database = rusqlite::Connection::open(dir.path().join("chunks.db")).expect("database");
    database.pragma_update(None, "user_version", 77).expect("version");
    drop(database);
    let error = Store::open(options(dir.path())).map(drop).expect_err("newer");
    assert!(matches!(error, OpenError::Newer { found: 77, .. }), "{error}");
}
