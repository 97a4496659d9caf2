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
