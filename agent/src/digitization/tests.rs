//! A hot folder whose writer and clock the test moves; the files are real ones, made by `ImageMagick`.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::hotfolder::{Moment, Worker};
use super::settings::{Deletions, HotFolder, LookFor, Watch};
use super::status::{FolderStatus, Status};
use super::store::Store;
use crate::clock;

#[path = "../../imagefile/tests/painter/mod.rs"]
mod painter;

const SECOND: Duration = Duration::from_secs(1);

struct Place {
    root: tempfile::TempDir,
    state: tempfile::TempDir,
    settings: HotFolder,
    worker: Option<Worker>,
    now: Moment,
}

impl Place {
    fn new() -> Self {
        Self::with(|_| ())
    }

    fn with(change: impl FnOnce(&mut HotFolder)) -> Self {
        let (root, state) = (tempfile::tempdir().expect("root"), tempfile::tempdir().expect("state"));
        let template = "{unit}/{batch}/{station}/...".parse().expect("template");
        let mut settings = HotFolder::new("scans", root.path().to_owned(), template);
        settings.watch = Watch::Scan;
        change(&mut settings);
        let now = Moment { at: clock::instant(), ms: clock::now_ms() };
        let mut place = Self { root, state, settings, worker: None, now };
        place.start();
        place
    }

    /// As after a kill: only what is on disk is known.
    fn start(&mut self) {
        self.worker = None;
        let status = Arc::new(FolderStatus { name: "scans".to_owned(), ..FolderStatus::default() });
        let store = Store::open(self.state.path()).expect("store");
        let agent = "scan-1".parse().expect("id");
        let all = Arc::new(Status::default());
        self.worker = Some(Worker::new(self.settings.clone(), agent, store, status, all, self.now.at));
    }

    fn worker(&mut self) -> &mut Worker {
        self.worker.as_mut().expect("started")
    }

    fn path(&self, name: &str) -> PathBuf {
        let path = self.root.path().join(name);
        fs::create_dir_all(path.parent().expect("folder")).expect("folder");
        path
    }

    /// A page that looks like no other.
    fn page(&self, name: &str, seed: u32) -> PathBuf {
        let path = self.path(name);
        make(&path, seed);
        path
    }

    /// Looks as often as is due in that time.
    fn pass(&mut self, time: Duration) {
        let end = self.now.at + time;
        while self.now.at < end {
            let now = self.now;
            self.worker().look(now);
            self.now = Moment { at: now.at + SECOND, ms: now.ms + 1000 };
        }
    }

    /// Long enough for everything that is whole.
    fn settle(&mut self) {
        self.pass(Duration::from_secs(40));
    }

    /// Kind and unit of what waits to be told, in order.
    fn told(&mut self) -> Vec<String> {
        self.events()
            .iter()
            .map(|event| {
                let kind = event["type"].as_str().expect("type").trim_start_matches("ro.cjt.digi.v1.image.");
                format!("{kind} {}", event["data"]["unit"].as_str().expect("unit"))
            })
            .collect()
    }

    fn events(&mut self) -> Vec<Value> {
        let message = self.worker().store().message().expect("store");
        message.map_or(Vec::new(), |(_, body)| serde_json::from_str(&body).expect("JSON"))
    }
}

fn make(path: &Path, seed: u32) {
    let made = Command::new("/usr/bin/convert")
        .args(["-size", "124x175", "-seed", &seed.to_string(), "plasma:fractal", "-depth", "8"])
        .args(["-units", "PixelsPerInch", "-density", "300"])
        .arg(path)
        .status()
        .expect("ImageMagick; tests/run installs it");
    assert!(made.success(), "{}", path.display());
}

#[test]
fn a_page_is_told_once_with_what_its_header_and_path_say() {
    let mut place = Place::new();
    place.page("U-1/L-1/S02/0001.tif", 1);
    place.settle();
    let events = place.events();
    let [event] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(event["type"], "ro.cjt.digi.v1.image.captured");
    assert_eq!(event["source"], "//veghe/agent/scan-1/station/S02");
    let data = &event["data"];
    assert_eq!((&data["unit"], &data["batch"], &data["station"]), (&"U-1".into(), &"L-1".into(), &"S02".into()));
    assert_eq!((data["width_px"].as_u64(), data["height_px"].as_u64()), (Some(124), Some(175)));
    assert_eq!(
        (data["frames"].as_u64(), data["ppi"].as_f64(), &data["complete"]),
        (Some(1), Some(300.0), &true.into())
    );
    assert!(!event.to_string().contains("0001.tif"), "no name leaves the machine");
    place.pass(Duration::from_mins(30));
    place.start();
    place.pass(Duration::from_mins(30));
    assert_eq!(place.events().len(), 1, "neither later looks nor a restart tell it again");
}

#[test]
fn a_slow_writer_is_not_counted_early() {
    let mut place = Place::new();
    let whole = place.state.path().join("whole.tif");
    make(&whole, 2);
    let bytes = fs::read(&whole).expect("bytes");
    let mut file = File::create(place.path("U-1/L-1/S02/0001.tif")).expect("file");
    for part in bytes.chunks(bytes.len() / 7) {
        file.write_all(part).expect("write");
        place.pass(Duration::from_secs(12));
        let is_whole = file.metadata().expect("metadata").len() == bytes.len() as u64;
        assert!(is_whole || place.told().is_empty(), "a part was counted");
    }
    place.settle();
    assert_eq!(place.told(), ["captured U-1"]);
}

#[test]
fn temporary_names_thumbnails_and_sidecars_are_no_images() {
    let mut place = Place::new();
    for name in ["0001.tif.tmp", "~0001.tif", ".0001.tif", "Thumbs.db", "0001_thumb.jpg", "0001.xmp", "thumbs/0001.jpg"]
    {
        let path = place.path(&format!("U-1/L-1/S02/{name}"));
        let whole = place.state.path().join("whole.tif");
        make(&whole, 3);
        fs::copy(&whole, path).expect("copy");
    }
    place.settle();
    assert_eq!(place.told(), Vec::<String>::new());
    let (from, to) = (place.path("U-1/L-1/S02/0001.tif.tmp"), place.path("U-1/L-1/S02/0001.tif"));
    fs::rename(from, to).expect("rename");
    place.settle();
    assert_eq!(place.told(), ["captured U-1"]);
}

#[test]
fn a_writer_that_dies_is_told_as_torn_and_its_page_counts_once_it_is_whole() {
    let mut place = Place::new();
    let path = place.page("U-1/L-1/S02/0001.tif", 4);
    let bytes = fs::read(&path).expect("bytes");
    fs::write(&path, &bytes[..bytes.len() / 2]).expect("write");
    place.pass(Duration::from_mins(9));
    assert_eq!(place.told(), Vec::<String>::new(), "it may go on");
    place.pass(Duration::from_mins(3));
    let events = place.events();
    assert_eq!(events.len(), 1);
    assert_eq!((&events[0]["data"]["complete"], &events[0]["data"]["problem"]), (&false.into(), &"truncated".into()));
    place.pass(Duration::from_mins(30));
    assert_eq!(place.told().len(), 1, "it is told once");
    fs::write(&path, &bytes).expect("write");
    place.settle();
    assert_eq!(place.told(), ["captured U-1", "captured U-1"]);
    assert_eq!(place.events()[1]["data"]["complete"], true);
}

#[test]
fn rename_rewrite_and_duplicate_are_told_apart() {
    let mut place = Place::new();
    let first = place.page("U-1/L-1/S02/0001.tif", 5);
    place.settle();
    let second = place.path("U-1/L-1/S02/0002.tif");
    fs::rename(&first, &second).expect("rename");
    place.settle();
    assert_eq!(place.told(), ["captured U-1"], "another name is no other image");
    let third = place.path("U-1/L-1/S02/0003.tif");
    fs::copy(&second, &third).expect("copy");
    place.settle();
    assert_eq!(place.told(), ["captured U-1", "duplicate U-1"]);
    make(&second, 6);
    place.settle();
    assert_eq!(place.told(), ["captured U-1", "duplicate U-1", "replaced U-1"]);
    assert_eq!(place.events()[2]["data"]["frames_before"], 1);
    File::options()
        .write(true)
        .open(&second)
        .expect("open")
        .set_modified(std::time::SystemTime::UNIX_EPOCH)
        .expect("touch");
    place.settle();
    assert_eq!(place.told().len(), 3, "a touched file is the same");
    let ids: std::collections::BTreeSet<String> = place.events().iter().map(|event| event["id"].to_string()).collect();
    assert_eq!(ids.len(), 3);
}

#[test]
fn a_page_that_is_renamed_and_written_again_between_two_looks_is_one_page() {
    let mut place = Place::new();
    let first = place.page("U-1/L-1/S02/0001.tif", 15);
    place.settle();
    let second = place.path("U-1/L-1/S02/0001-r.tif");
    fs::rename(&first, &second).expect("rename");
    make(&second.with_extension("new.tif"), 16);
    let content = fs::read(second.with_extension("new.tif")).expect("read");
    fs::remove_file(second.with_extension("new.tif")).expect("remove");
    fs::write(&second, content).expect("write");
    place.settle();
    assert_eq!(place.told(), ["captured U-1", "replaced U-1"]);
    // A new file that the system gives the id of one that is gone is another page.
    fs::remove_file(&second).expect("remove");
    place.page("U-1/L-1/S02/0002.tif", 17);
    place.settle();
    assert_eq!(place.told(), ["captured U-1", "replaced U-1", "captured U-1"]);
}

#[test]
fn images_go_with_their_file_to_another_unit_and_back() {
    let mut place = Place::new();
    let wrong = place.page("U-1/L-1/S02/0001.tif", 7);
    place.settle();
    let right = place.path("U-2/L-1/S02/0001.tif");
    fs::rename(&wrong, &right).expect("rename");
    place.settle();
    fs::rename(&right, &wrong).expect("rename");
    place.settle();
    let told = ["captured U-1", "deleted U-1", "captured U-2", "deleted U-2", "captured U-1"];
    assert_eq!(place.told(), told);
    let ids: std::collections::BTreeSet<String> = place.events().iter().map(|event| event["id"].to_string()).collect();
    assert_eq!(ids.len(), 5, "none of them is a repeat of another");
}

#[test]
fn a_file_that_was_taken_away_counts_on_and_does_not_count_again_when_it_comes_back() {
    let mut place = Place::new();
    let path = place.page("U-1/L-1/S02/0001.tif", 8);
    place.settle();
    let away = place.state.path().join("away.tif");
    fs::rename(&path, &away).expect("rename");
    place.pass(Duration::from_hours(2));
    fs::copy(&away, place.path("U-1/L-1/S02/0009.tif")).expect("copy");
    place.settle();
    assert_eq!(place.told(), ["captured U-1"]);
}

#[test]
fn deletions_are_told_where_the_settings_want_it_and_a_duplicate_takes_the_place() {
    let mut place = Place::with(|settings| settings.deletions = Deletions::Tell);
    let first = place.page("U-1/L-1/S02/0001.tif", 9);
    let second = place.page("U-1/L-1/S02/0002.tif", 10);
    place.settle();
    let copy = place.path("U-1/L-1/S02/0003.tif");
    fs::copy(&first, &copy).expect("copy");
    place.settle();
    let copied = fs::read(&first).expect("read");
    fs::remove_file(&first).expect("remove");
    fs::remove_file(&second).expect("remove");
    place.pass(Duration::from_hours(1));
    assert_eq!(place.told(), ["captured U-1", "captured U-1", "duplicate U-1", "deleted U-1"]);
    fs::write(&copy, copied).expect("write");
    make(&second, 10);
    place.settle();
    assert_eq!(place.told().last().map(String::as_str), Some("captured U-1"), "what is back counts again");
    assert_eq!(place.told().len(), 5);
}

#[test]
fn a_share_that_is_not_mounted_is_no_mass_deletion() {
    let mut place = Place::with(|settings| settings.deletions = Deletions::Tell);
    place.page("U-1/L-1/S02/0001.tif", 11);
    place.settle();
    let elsewhere = place.state.path().join("share");
    fs::rename(place.root.path().join("U-1"), &elsewhere).expect("rename");
    place.pass(Duration::from_hours(2));
    fs::rename(&elsewhere, place.root.path().join("U-1")).expect("rename");
    place.pass(Duration::from_hours(2));
    assert_eq!(place.told(), ["captured U-1"]);
}

#[test]
fn what_does_not_fit_the_template_is_refused_by_name_and_only_here() {
    let mut place = Place::new();
    place.page("loose.tif", 12);
    place.page("U-1/L-1/Stația 2/0001.tif", 13);
    place.settle();
    assert_eq!(place.told(), Vec::<String>::new());
    let problems = place.worker().store().problems().expect("store");
    assert_eq!(problems.len(), 2);
    assert!(problems.iter().any(|(_, place, what, _)| place.ends_with("loose.tif") && what.contains("{unit}/{batch}")));
    assert!(problems.iter().any(|(_, _, what, _)| what.contains("station")));
}

#[test]
fn pages_that_are_alike_at_their_samples_are_not_taken_for_one() {
    // Larger than what is always hashed whole: white but for one byte that no sample sees.
    let mut place = Place::new();
    let page = |place: &Place, name: &str, at: u64| {
        let path = place.path(name);
        let made = Command::new("/usr/bin/convert")
            .args(["-size", "2480x3508", "xc:white", "-depth", "8", "-compress", "None"])
            .arg(&path)
            .status()
            .expect("ImageMagick");
        assert!(made.success());
        OpenOptions::new().write(true).open(&path).expect("open").write_all_at(&[0], at).expect("write");
    };
    page(&place, "U-1/L-1/S02/0001.tif", 1_000_001);
    page(&place, "U-1/L-1/S02/0002.tif", 1_000_002);
    place.settle();
    page(&place, "U-1/L-1/S02/0003.tif", 1_000_002);
    place.settle();
    assert_eq!(place.told(), ["captured U-1", "captured U-1", "duplicate U-1"]);
}

#[test]
fn inotify_knows_who_still_writes_and_says_at_once_what_is_new() {
    let mut place = Place::with(|settings| {
        settings.watch = Watch::Auto;
        settings.scan = Duration::from_hours(300);
        settings.reconcile = Duration::from_hours(300);
    });
    place.path("U-1/L-1/S02/x");
    place.settle();
    let whole = place.state.path().join("whole.tif");
    make(&whole, 14);
    let bytes = fs::read(&whole).expect("bytes");
    let mut file = File::create(place.path("U-1/L-1/S02/0001.tif")).expect("file");
    // What is there looks whole, and the writer is not done.
    file.write_all(&bytes).expect("write");
    let news = |place: &mut Place| {
        let now = place.now.at;
        place.worker().wait(now);
        place.pass(Duration::from_secs(20));
    };
    fs::write(place.path("U-1/L-1/S02/0002.tif"), fs::read(&whole).expect("read")).expect("write");
    news(&mut place);
    assert_eq!(place.told(), ["captured U-1"], "the one that is closed counts");
    drop(file);
    news(&mut place);
    assert_eq!(place.told(), ["captured U-1", "duplicate U-1"]);
    assert_eq!(place.worker().pending(), 0);
}

/// A page as large as A4 at 100 ppi; 0 has no words.
fn text(path: &Path, seed: u32) {
    painter::paint(path, 100, seed);
}

/// Another scan of a page.
fn scan_again(page: &Path, to: &Path, quality: &str) {
    let change = ["-roll", "+3-2", "-background", "gray(228)", "-rotate", "0.3", "-gravity", "center"];
    let made = Command::new("/usr/bin/convert")
        .arg(page)
        .args(change)
        .args(["-extent", "827x1169", "-modulate", "104", "-quality", quality])
        .arg(to)
        .status();
    assert!(made.expect("ImageMagick; tests/run installs it").success(), "{}", to.display());
}

impl Place {
    /// Of the event that is told last: its kind, and how many images are blank and near duplicates.
    fn last_look(&mut self) -> (String, Option<u64>, Option<u64>) {
        self.settle();
        let event = self.events().pop().expect("an event");
        let kind = event["type"].as_str().expect("type").trim_start_matches("ro.cjt.digi.v1.image.").to_owned();
        (kind, event["data"]["blank"].as_u64(), event["data"]["near_duplicate"].as_u64())
    }
}

#[test]
fn empty_and_repeated_pages_are_told_where_that_is_wanted() {
    let mut place = Place::with(|settings| settings.look_for = vec![LookFor::Blank, LookFor::NearDuplicate]);
    let said = |kind: &str, blank, again| (kind.to_owned(), Some(blank), Some(again));
    let first = place.path("U-1/L-1/S02/0001.jpg");
    text(&first, 1);
    assert_eq!(place.last_look(), said("captured", 0, 0));
    let empty = place.path("U-1/L-1/S02/0002.tif");
    text(&empty, 0);
    assert_eq!(place.last_look(), said("captured", 1, 0));
    text(&place.path("U-1/L-1/S02/0003.tif"), 3);
    assert_eq!(place.last_look(), said("captured", 0, 0));
    scan_again(&first, &place.path("U-1/L-1/S02/0004.jpg"), "72");
    assert_eq!(place.last_look(), said("captured", 0, 1));
    text(&place.path("U-1/L-1/S02/0005.jpg"), 0);
    assert_eq!(place.last_look(), said("captured", 1, 0), "empty pages are no repeats");
    scan_again(&first, &place.path("U-2/L-1/S02/0001.jpg"), "74");
    assert_eq!(place.last_look(), said("captured", 0, 0), "another unit may have the same page");
    // What is known of a page moves with it and is there after a kill; the page that it replaces is no neighbour.
    let moved = place.path("U-1/L-1/S02/0009.jpg");
    fs::rename(&first, &moved).expect("rename");
    place.settle();
    place.start();
    scan_again(&moved, &empty.with_extension("jpg"), "76");
    fs::rename(empty.with_extension("jpg"), &empty).expect("rename");
    assert_eq!(place.last_look(), said("replaced", 0, 1));
    let other = place.path("U-3/L-1/S02/0001.jpg");
    text(&other, 4);
    place.settle();
    scan_again(&other, &other.with_extension("new.jpg"), "78");
    fs::rename(other.with_extension("new.jpg"), &other).expect("rename");
    assert_eq!(place.last_look(), said("replaced", 0, 0));
    let outcomes: Vec<(String, u64)> = place.worker().store().tallies("looked at").expect("store");
    let outcomes: Vec<(&str, u64)> = outcomes.iter().map(|(label, count)| (label.as_str(), *count)).collect();
    assert_eq!(outcomes, [("scans/blank", 2), ("scans/distinct", 5), ("scans/near_duplicate", 2)]);
}

#[test]
fn nothing_is_said_of_pages_that_were_not_looked_at() {
    let mut place = Place::new();
    text(&place.path("U-1/L-1/S02/0001.jpg"), 0);
    assert_eq!(place.last_look(), ("captured".to_owned(), None, None), "nobody asked");
    let mut place = Place::with(|settings| settings.look_for = vec![LookFor::Blank]);
    let page = place.path("U-1/L-1/S02/0001.jpg");
    text(&page, 0);
    assert_eq!(place.last_look(), ("captured".to_owned(), Some(1), None));
    let pdf = place.path("U-1/L-1/S02/0002.pdf");
    let fax = place.state.path().join("fax.tif");
    let black = ["-threshold", "50%", "-type", "Bilevel", "-compress", "Group4"];
    let made = Command::new("/usr/bin/convert").arg(&page).args(black).arg(&fax).status();
    assert!(made.expect("ImageMagick; tests/run installs it").success());
    let bind = |image: &Path, pdf: &Path| {
        let made = Command::new("img2pdf").arg(image).arg("-o").arg(pdf).status();
        assert!(made.expect("img2pdf; tests/run installs it").success());
    };
    bind(&fax, &pdf);
    assert_eq!(place.last_look(), ("captured".to_owned(), None, None), "a PDF of a fax is not decoded");
    bind(&page, &pdf.with_file_name("0003.pdf"));
    assert_eq!(place.last_look(), ("captured".to_owned(), Some(1), None), "one of a JPEG is");
    assert_eq!(
        place.worker().store().tallies("looked at").expect("store"),
        [("scans/blank".to_owned(), 2), ("scans/unread".to_owned(), 1)]
    );
}
