//! Storages that rot, as far as tests can make them.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use sha2::{Digest as _, Sha256, Sha512};
use tokio_util::sync::CancellationToken;

use super::database::{Counts, Database, Outcome};
use super::pass::{Ending, PassError, Plan, Progress, manifest_line, run};
use crate::sensors::glob::Globs;

struct World {
    state: tempfile::TempDir,
    root: tempfile::TempDir,
}

type Told = Vec<(String, &'static str, &'static str, Option<String>)>;

impl World {
    fn new() -> Self {
        Self { state: tempfile::tempdir().expect("state"), root: tempfile::tempdir().expect("root") }
    }

    fn database(&self) -> Database {
        Database::open(&self.state.path().join("fixity.db")).expect("database")
    }

    fn write(&self, name: &str, content: &[u8]) {
        let path = self.root.path().join(name);
        fs::create_dir_all(path.parent().expect("folder")).expect("folder");
        fs::write(path, content).expect("write");
    }

    fn pass(&self) -> (Told, Counts) {
        self.pass_of("nas-1", self.root.path(), None, &CancellationToken::new()).expect("pass")
    }

    fn pass_of(
        &self,
        name: &str,
        root: &Path,
        copies: Option<&str>,
        stop: &CancellationToken,
    ) -> Result<(Told, Counts), PassError> {
        let mut database = self.database();
        let mut row = database.storage(name, root.as_os_str().as_bytes(), copies).expect("storage");
        let plan = Plan { root: root.to_owned(), exclude: Globs::default(), pace: None };
        let (mut told, progress) = (Vec::new(), Arc::new(Progress::default()));
        run(&mut database, &mut row, &plan, &progress, stop, &mut |_, finding| {
            let name = String::from_utf8_lossy(&finding.path).into_owned();
            told.push((name, finding.outcome.name(), finding.reason, finding.good_copy.clone()));
            Ok(())
        })?;
        told.sort();
        Ok((told, database.counts(row.id).expect("counts")))
    }
}

/// Turns one bit of a file without anybody seeing it by its time.
fn rot(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).expect("open");
    let modified = file.metadata().expect("metadata").modified().expect("time");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("read");
    file.write_all_at(&[byte[0] ^ 1], at).expect("write");
    file.set_modified(modified).expect("time");
}

#[test]
fn one_bit_is_found_and_named_within_a_pass_and_told_until_it_is_mended() {
    let world = World::new();
    for name in ["A/1.tif", "A/2.tif", "B/3.tif"] {
        world.write(name, name.repeat(40_000).as_bytes());
    }
    let (told, counts) = world.pass();
    assert_eq!((told, counts.objects, counts.good), (vec![], 3, 3));
    rot(&world.root.path().join("A/2.tif"), 123_456);
    let damaged = vec![("A/2.tif".to_owned(), "mismatch", "damaged", None)];
    let (told, counts) = world.pass();
    assert_eq!((told, counts.good, counts.mismatch), (damaged.clone(), 2, 1));
    assert_eq!(world.pass().0, damaged, "it is no new truth");
    rot(&world.root.path().join("A/2.tif"), 123_456);
    assert_eq!(
        world.pass(),
        (vec![("A/2.tif".to_owned(), "ok", "good", None)], Counts { objects: 3, good: 3, ..Counts::default() })
    );
    assert_eq!(world.pass().0, vec![]);
}

#[test]
fn new_rewritten_missing_and_unreadable_objects_are_told_apart() {
    let world = World::new();
    for name in ["1.tif", "2.tif", "3.tif"] {
        world.write(name, name.as_bytes());
    }
    world.pass();
    world.write("1.tif", b"another image");
    fs::remove_file(world.root.path().join("2.tif")).expect("remove");
    world.write("4.tif", b"new");
    let (told, counts) = world.pass();
    let expected = [("1.tif".to_owned(), "mismatch", "rewritten", None), ("2.tif".to_owned(), "missing", "gone", None)];
    assert_eq!(told, expected);
    assert_eq!(counts, Counts { objects: 4, good: 2, mismatch: 1, missing: 1, failed: 0 });
    let database = world.database();
    let id = database.storages().expect("storages")[0].id;
    assert_eq!(database.accept(id, b"1.tif").expect("accept"), 1);
    world.write("2.tif", b"2.tif");
    assert_eq!(world.pass().0, vec![("2.tif".to_owned(), "ok", "good", None)]);
}

/// A line of a manifest.
fn line(digest: &[u8], name: &str) -> String {
    let mut text = String::new();
    for byte in digest {
        write!(text, "{byte:02x}").expect("string");
    }
    format!("{text}  {name}\n")
}

#[test]
fn manifests_of_bags_are_believed_from_the_first_pass_on() {
    let world = World::new();
    world.write("bag/data/a b.tif", b"good");
    world.write("bag/data/100%.tif", b"good too");
    world.write("bag/data/c.tif", b"damaged before anybody looked");
    let mut sha256 = line(&Sha256::digest(b"good"), "data/a b.tif");
    sha256 += &line(&Sha256::digest(b"as it was"), "data/c.tif");
    world.write("bag/manifest-sha256.txt", sha256.as_bytes());
    world.write("bag/manifest-sha512.txt", line(&Sha512::digest(b"good too"), "data/100%25.tif").as_bytes());
    let wrong = vec![("bag/data/c.tif".to_owned(), "mismatch", "manifest", None)];
    assert_eq!(world.pass().0, wrong);
    assert_eq!(world.pass().0, wrong);
    world.write("bag/data/c.tif", b"as it was");
    let database = world.database();
    database.accept(database.storages().expect("storages")[0].id, b"bag/data/c.tif").expect("accept");
    assert_eq!(world.pass().0, vec![]);
}

#[test]
fn a_pass_goes_on_where_it_was_stopped() {
    let world = World::new();
    // The manifest is wrong about each file, so that each is told once it is read.
    let mut manifest = String::new();
    for number in 0..300 {
        let name = format!("{}/{number}.tif", number % 7);
        world.write(&name, &[number as u8; 5000]);
        manifest.push_str(&line(&Sha256::digest(b"another"), &name));
    }
    world.write("manifest-sha256.txt", manifest.as_bytes());
    let mut database = world.database();
    let mut row = database.storage("nas-1", world.root.path().as_os_str().as_bytes(), None).expect("storage");
    let plan = Plan { root: world.root.path().to_owned(), exclude: Globs::default(), pace: None };
    let (progress, stop, mut told) = (Arc::new(Progress::default()), CancellationToken::new(), 0);
    let ending = run(&mut database, &mut row, &plan, &progress, &stop, &mut |_, _| {
        told += 1;
        if told == 50 {
            stop.cancel();
        }
        Ok(())
    });
    assert_eq!(ending.expect("pass"), Ending::Stopped);
    let before = database.counts(row.id).expect("counts").objects;
    assert!((50..300).contains(&before), "{before}");
    let progress = Arc::new(Progress::default());
    let ending = run(&mut database, &mut row, &plan, &progress, &CancellationToken::new(), &mut |_, _| Ok(()));
    assert_eq!(ending.expect("pass"), Ending::Finished);
    assert_eq!((row.pass, database.counts(row.id).expect("counts").objects), (1, 301));
    assert_eq!(progress.objects.load(Relaxed), 301 - before, "what was verified is not read again");
}

#[test]
fn a_storage_that_is_not_mounted_is_no_loss_of_everything() {
    let world = World::new();
    world.write("1.tif", b"1");
    world.pass();
    fs::remove_file(world.root.path().join("1.tif")).expect("remove");
    let empty = world.pass_of("nas-1", world.root.path(), None, &CancellationToken::new());
    assert!(matches!(empty, Err(PassError::Empty { objects: 1, .. })), "{empty:?}");
}

#[test]
fn copies_are_compared_and_the_good_one_is_named() {
    let world = World::new();
    let other = tempfile::tempdir().expect("other");
    let never = CancellationToken::new();
    for root in [world.root.path(), other.path()] {
        fs::write(root.join("1.tif"), b"the same on both").expect("write");
        fs::write(root.join("2.tif"), root.as_os_str().as_bytes()).expect("write");
    }
    for _ in 0..2 {
        for (name, root) in [("nas-1", world.root.path()), ("nas-2", other.path())] {
            world.pass_of(name, root, Some("masters"), &never).expect("pass");
        }
    }
    let database = world.database();
    let row = &database.storages().expect("storages")[0];
    let differing = database.differing_copies(row, 10).expect("copies");
    assert_eq!(differing, (vec![(b"2.tif".to_vec(), "nas-2".to_owned())], 1));
    rot(&other.path().join("1.tif"), 3);
    let (told, _) = world.pass_of("nas-2", other.path(), Some("masters"), &never).expect("pass");
    assert_eq!(told, [("1.tif".to_owned(), "mismatch", "damaged", Some("nas-1".to_owned()))]);
    fs::remove_file(other.path().join("1.tif")).expect("remove");
    let (told, _) = world.pass_of("nas-2", other.path(), Some("masters"), &never).expect("pass");
    assert_eq!(told[0].3.as_deref(), Some("nas-1"));
    assert_eq!(database.wrong(2, 10).expect("wrong")[0].outcome, Outcome::Missing);
}

#[test]
fn lines_of_manifests_are_read_as_bagit_writes_them() {
    let hex = "ab".repeat(32);
    let read = |rest: &str| manifest_line(format!("{hex}{rest}").as_bytes(), 64);
    let told = |path: &[u8]| Some((vec![0xab; 32], path.to_vec()));
    assert_eq!(read("  data/a b.tif\r\n"), told(b"data/a b.tif"));
    assert_eq!(read(" *./data/a%0Ab%25.tif\n"), told(b"data/a\nb%.tif"));
    assert_eq!(read("data/x\n"), None);
    assert_eq!(read("  \n"), None);
    assert_eq!(manifest_line(b"zz", 64), None);
    assert_eq!(manifest_line("ăăăăăăăăăăăăăăăăăăăăăăăăăăăăăăăăă  x".as_bytes(), 64), None);
}

#[test]
fn a_sparse_file_larger_than_memory_takes_little_of_it() {
    let world = World::new();
    let path = world.root.path().join("large.tif");
    let mut file = File::create(&path).expect("file");
    file.write_all(b"II*\0").expect("write");
    file.set_len(256 << 20).expect("length");
    drop(file);
    assert_eq!(world.pass().1.good, 1);
    rot(&path, (200 << 20) + 7);
    assert_eq!(world.pass().0, vec![("large.tif".to_owned(), "mismatch", "damaged", None)]);
}
