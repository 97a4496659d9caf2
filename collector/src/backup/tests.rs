//! Copies and restores of a data directory in use: what is in them, what is not, and what is refused.

use std::os::unix::fs::symlink;

use veghe_model::Labels;
use veghe_tsdb::{Commit, Options};

use super::*;
use crate::ledger::Ledger;

fn go_on(_: Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn open(data_dir: &Path) -> Store {
    let dir = data_dir.join("tsdb");
    let window = std::time::Duration::from_hours(2);
    Store::open(Options { dir, window, max_series: 1_000 }).expect("store opens").0
}

fn samples(store: &Store) -> usize {
    let all = veghe_model::Matcher::new("__name__", veghe_model::MatchOp::Regex, ".+").expect("matcher");
    let found = store.select(&[all], Timestamp::MIN, Timestamp::MAX).expect("select");
    found.iter().map(veghe_model::SeriesData::len).sum()
}

/// A data directory as a running collector has it.
fn fill(data_dir: &Path) -> (Store, Ledger) {
    fs::create_dir_all(data_dir.join("agent/spool")).expect("directory");
    fs::create_dir_all(data_dir.join("ca")).expect("directory");
    fs::create_dir_all(data_dir.join("rules/night")).expect("directory");
    let write = |path: &str, text: &str| fs::write(data_dir.join(path), text).expect("file");
    write("ca/key.pem", "secret");
    fs::set_permissions(data_dir.join("ca/key.pem"), fs::Permissions::from_mode(0o600)).expect("mode");
    write("rules/night/disk.yaml", "groups: []\n");
    write("agent/agent.yaml", "interval: 15s\n");
    write("agent/spool/0000000001.seg", "undelivered");
    write("listeners.json", "{}");
    symlink("/etc/hostname", data_dir.join("link")).expect("link");
    let store = open(data_dir);
    let series = store.series(&Labels::from_pairs([("__name__", "up")])).expect("series");
    for n in 0..500 {
        let samples = vec![(series, Timestamp(n * 60_000), n as f64)];
        store.commit(Commit { samples, ..Commit::default() }).expect("commit");
    }
    while store.seal(Timestamp(20_000_000)).expect("seal").more {}
    let ledger = Ledger::open(&data_dir.join("ledger.db")).expect("ledger");
    let fill = "CREATE TABLE test_note (text TEXT); INSERT INTO test_note VALUES ('kept')";
    ledger.with(|connection| connection.execute_batch(fill)).expect("statement");
    (store, ledger)
}

#[test]
fn a_restored_backup_is_the_data_directory_without_what_belongs_to_a_run() {
    let work = tempfile::tempdir().expect("directory");
    let (data_dir, dir, new) = (work.path().join("data"), work.path().join("backup"), work.path().join("new"));
    let (store, _ledger) = fill(&data_dir);
    let manifest = backup(&data_dir, &store, &dir, Timestamp(5), &mut go_on).expect("backup");
    let has = |path: &str| manifest.files.iter().any(|file| file.path == Path::new(path));
    for path in ["tsdb/chunks.db", "ledger.db", "ca/key.pem", "rules/night/disk.yaml", "agent/agent.yaml"] {
        assert!(has(path), "{path} is missing: {manifest:?}");
    }
    for path in ["agent/spool/0000000001.seg", "listeners.json", "tsdb/lock", "ledger.db-wal", "link"] {
        assert!(!has(path), "{path} is in it");
    }
    let verified = verify_directory(&dir, &mut go_on).expect("verification");
    assert_eq!((verified.damaged, verified.files), (0, manifest.files.len() as u64), "{verified:?}");
    assert!(verify_running(&data_dir, &store, &mut go_on).expect("verification").damages.is_empty());
    // A copy goes on where the first one ended.
    assert_eq!(restore(&dir, &new, &mut go_on).expect("restore"), manifest);
    let mode = fs::metadata(new.join("ca/key.pem")).expect("key").permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let restored = open(&new);
    assert_eq!(samples(&restored), 500);
    let ledger = Ledger::open(&new.join("ledger.db")).expect("ledger");
    let note: String = ledger.with(|c| c.query_row("SELECT text FROM test_note", [], |r| r.get(0))).expect("statement");
    assert_eq!(note, "kept");
}

#[test]
fn nothing_is_overwritten_by_either() {
    let work = tempfile::tempdir().expect("directory");
    let (data_dir, dir) = (work.path().join("data"), work.path().join("backup"));
    let (store, _ledger) = fill(&data_dir);
    backup(&data_dir, &store, &dir, Timestamp(5), &mut go_on).expect("backup");
    let again = backup(&data_dir, &store, &dir, Timestamp(6), &mut go_on).expect_err("not empty");
    assert!(matches!(&again, BackupError::NotEmpty { dir: named } if *named == dir), "{again}");
    let inside = backup(&data_dir, &store, &data_dir.join("copy"), Timestamp(6), &mut go_on).expect_err("inside");
    assert!(matches!(inside, BackupError::Inside { .. }), "{inside}");
    assert!(!data_dir.join("copy").exists(), "nothing of it is left in the data directory");
    let over = restore(&dir, &data_dir, &mut go_on).expect_err("not empty");
    assert!(matches!(over, BackupError::NotEmpty { .. }), "{over}");
    assert_eq!(samples(&store), 500);
}

#[test]
fn a_backup_that_was_cut_off_is_refused_and_begun_anew() {
    let work = tempfile::tempdir().expect("directory");
    let (data_dir, dir, new) = (work.path().join("data"), work.path().join("backup"), work.path().join("new"));
    let (store, _ledger) = fill(&data_dir);
    // Stopped at each step in turn, as a kill would.
    for steps in 0..3 {
        let mut left = steps;
        let stopped = backup(&data_dir, &store, &dir, Timestamp(5), &mut |_| {
            left -= 1;
            if left < 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert!(matches!(stopped, Err(BackupError::Stopped)), "{stopped:?}");
        let refused = restore(&dir, &new, &mut go_on).expect_err("no backup");
        assert!(matches!(refused, BackupError::NoBackup { unfinished: true, .. }), "{refused}");
        let refused = verify_directory(&dir, &mut go_on).expect_err("no backup");
        assert!(matches!(refused, BackupError::NoBackup { unfinished: true, .. }), "{refused}");
    }
    backup(&data_dir, &store, &dir, Timestamp(6), &mut go_on).expect("backup");
    restore(&dir, &new, &mut go_on).expect("restore");
}

#[test]
fn a_damaged_backup_is_named_and_not_restored() {
    let work = tempfile::tempdir().expect("directory");
    let (data_dir, dir, new) = (work.path().join("data"), work.path().join("backup"), work.path().join("new"));
    let (store, _ledger) = fill(&data_dir);
    backup(&data_dir, &store, &dir, Timestamp(5), &mut go_on).expect("backup");
    let key = dir.join("data/ca/key.pem");
    fs::write(&key, "sEcret").expect("file");
    let verified = verify_directory(&dir, &mut go_on).expect("verification");
    assert_eq!(verified.damages, [format!("{}: its SHA-256 differs", key.display())]);
    let refused = restore(&dir, &new, &mut go_on).expect_err("damaged");
    assert!(matches!(&refused, BackupError::Damaged { path, .. } if *path == key), "{refused}");
    assert!(new.join(UNFINISHED_RESTORE).exists(), "a collector could start on it");
    // Mended, the same command goes through.
    fs::write(&key, "secret").expect("file");
    restore(&dir, &new, &mut go_on).expect("restore");
    assert!(!new.join(UNFINISHED_RESTORE).exists());
}

#[test]
fn a_manifest_names_nothing_outside() {
    let work = tempfile::tempdir().expect("directory");
    for path in ["../x", "/etc/x", "", "a/../../x"] {
        let file = Entry { path: path.into(), bytes: 0, mode: 0o600, sha256: String::new() };
        let manifest = Manifest { format: FORMAT, version: String::new(), taken_ms: 0, files: vec![file] };
        fs::write(work.path().join(MANIFEST), serde_json::to_vec(&manifest).expect("json")).expect("file");
        let refused = restore(work.path(), &work.path().join("new"), &mut go_on).expect_err("outside");
        assert!(matches!(refused, BackupError::Manifest { .. }), "{path}: {refused}");
    }
}

/// A database as programs before format 5 made them.
#[test]
fn a_restored_database_that_could_not_shrink_can_and_so_can_one_that_is_compacted() {
    let work = tempfile::tempdir().expect("directory");
    let (data_dir, dir, new) = (work.path().join("data"), work.path().join("backup"), work.path().join("new"));
    let (store, _ledger) = fill(&data_dir);
    let in_use = compact_command(&data_dir).expect_err("in use");
    assert!(format!("{in_use:#}").contains("held by process"), "{in_use:#}");
    drop(store);
    let database = rusqlite::Connection::open(data_dir.join("tsdb/chunks.db")).expect("database");
    database.execute_batch("PRAGMA journal_mode=DELETE; PRAGMA auto_vacuum=NONE; VACUUM").expect("older database");
    drop(database);
    let shrinks = |data_dir: &Path| veghe_tsdb::can_shrink(&data_dir.join("tsdb")).expect("database");
    assert!(!shrinks(&data_dir));
    let store = open(&data_dir);
    backup(&data_dir, &store, &dir, Timestamp(5), &mut go_on).expect("backup");
    drop(store);
    let told = restore_command(&dir, &new).expect("restore");
    assert!(told.contains("written anew") && shrinks(&new), "{told}");
    assert_eq!(samples(&open(&new)), 500);
    let told = compact_command(&data_dir).expect("compacted");
    assert!(told.contains("before,") && shrinks(&data_dir), "{told}");
    assert_eq!(samples(&open(&data_dir)), 500);
    let missing = compact_command(&work.path().join("none")).expect_err("no directory");
    assert!(missing.to_string().contains("--data-dir"), "{missing}");
}
