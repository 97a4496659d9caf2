//! A folder that packages are delivered into: waits until each has stayed as it is, checks it once, and tells what was found.
//!
//! Invariant: a package is told once for each shape that it has (names, sizes and times of all its files).
//! What it deliberately does not do: look into files (see `package`).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use serde_json::{Map, json};
use veghe_wire::AgentId;

use super::event::Draft;
use super::hotfolder::Moment;
use super::package::{self, Check};
use super::settings::Delivery;
use super::status::{DeliveryStatus, Status};
use super::store::Store;
use super::template::Place;
use crate::database::DatabaseError;

/// Packages that are looked at.
const MAX_PACKAGES: usize = 100_000;
const MAX_DEPTH: usize = 32;

/// What the thread of a folder of deliveries owns.
#[derive(Debug)]
pub(crate) struct Receiver {
    settings: Delivery,
    agent: AgentId,
    store: Store,
    status: Arc<DeliveryStatus>,
    all: Arc<Status>,
    /// Packages that are not checked: their shape, and since when they have it.
    pending: BTreeMap<PathBuf, (i64, Instant)>,
    told_trouble: bool,
}

impl Receiver {
    pub(crate) fn new(
        settings: Delivery,
        agent: AgentId,
        store: Store,
        status: Arc<DeliveryStatus>,
        all: Arc<Status>,
    ) -> Self {
        Self { settings, agent, store, status, all, pending: BTreeMap::new(), told_trouble: false }
    }

    /// Looks at every package, and checks those that have settled. Returns whether something was told.
    pub(crate) fn look(&mut self, now: Moment) -> bool {
        let mut packages = Vec::new();
        let found = find(&self.settings.path, Path::new(""), self.settings.template.segments(), &mut packages);
        self.status.is_up.store(found.is_ok(), Relaxed);
        if let Err(error) = found {
            if !std::mem::replace(&mut self.told_trouble, true) {
                tracing::error!(%error, delivery = self.settings.name, "cannot read the folder of deliveries");
            }
            return false;
        }
        self.told_trouble = false;
        self.pending.retain(|path, _| packages.contains(path));
        let mut has_told = false;
        for path in packages {
            match self.consider(&path, now) {
                Ok(told) => has_told |= told,
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(
                        error,
                        delivery = self.settings.name,
                        "cannot remember packages; they are checked again"
                    );
                    return has_told;
                }
            }
        }
        has_told
    }

    fn consider(&mut self, path: &Path, now: Moment) -> Result<bool, DatabaseError> {
        let Ok(place) = self.settings.template.read(&path.to_string_lossy()) else { return Ok(false) };
        let full = self.settings.path.join(path);
        let Ok(shape) = shape(&full) else { return Ok(false) };
        if self.store.package(&self.settings.name, path.as_os_str().as_bytes())? == Some(shape) {
            self.pending.remove(path);
            return Ok(false);
        }
        match self.pending.get(path) {
            Some((before, since)) if *before == shape => {
                if now.at.saturating_duration_since(*since) < self.settings.settle {
                    return Ok(false);
                }
            }
            _ => {
                self.pending.insert(path.to_owned(), (shape, now.at));
                return Ok(false);
            }
        }
        let check = match package::check(&full) {
            Ok(check) => check,
            Err(error) => {
                tracing::warn!(%error, delivery = self.settings.name, "cannot read a package; it is tried again");
                return Ok(false);
            }
        };
        self.tell(path, &place, shape, &check, now.ms)?;
        self.pending.remove(path);
        Ok(true)
    }

    fn tell(
        &mut self,
        path: &Path,
        place: &Place,
        shape: i64,
        check: &Check,
        now_ms: i64,
    ) -> Result<(), DatabaseError> {
        let is_valid = check.problems.is_empty();
        let (key, name) = match (&place.batch, place.unit.is_empty()) {
            (Some(batch), true) => ("batch", batch),
            _ => ("unit", &place.unit),
        };
        let mut delivered = Map::new();
        delivered.insert(key.to_owned(), json!(name));
        delivered.insert("bytes".to_owned(), json!(check.bytes));
        delivered.insert("files".to_owned(), json!(check.files));
        let mut validated = delivered.clone();
        validated.insert("outcome".to_owned(), json!(if is_valid { "ok" } else { "failed" }));
        validated.insert("images".to_owned(), json!(check.images));
        validated.insert("problems".to_owned(), json!(check.problems));
        for (field, value) in [("mets_files", check.mets_files), ("alto_pages", check.alto_pages)] {
            if let Some(value) = value {
                validated.insert(field.to_owned(), json!(value));
            }
        }
        if let Some(confidence) = check.alto_confidence {
            validated.insert("alto_confidence".to_owned(), json!(confidence));
        }
        if let Some(algorithm) = check.algorithm {
            validated.insert("algorithm".to_owned(), json!(algorithm));
        }
        let about = [self.settings.name.as_bytes(), key.as_bytes(), name.as_bytes(), &shape.to_le_bytes()];
        let event = |kind, data| {
            Draft { agent: &self.agent, station: None, kind, time_ms: now_ms, about: &about, data }.to_json(now_ms)
        };
        // Only a package that is what it claims counts as delivered.
        let delivered = is_valid.then(|| event("package.delivered", delivered));
        let validated = event("package.validated", validated);
        let full = self.settings.path.join(path).display().to_string();
        self.store.write(|changes| {
            changes.mended("delivery", &full)?;
            for event in delivered.iter().chain([&validated]) {
                changes.tell(event)?;
            }
            for (at, what) in &check.named {
                changes.note("delivery", &at.display().to_string(), what, now_ms)?;
            }
            changes.add("packages", &self.settings.name, 1)?;
            changes.keep_package(&self.settings.name, path.as_os_str().as_bytes(), shape)
        })?;
        let counter = if is_valid { &self.status.valid_total } else { &self.status.invalid_total };
        counter.fetch_add(1, Relaxed);
        self.all.waiting.store(self.store.waiting()?, Relaxed);
        if !is_valid {
            let problems = check.problems.values().sum::<u64>();
            tracing::warn!(
                delivery = self.settings.name,
                problems,
                "a package is not what it claims; `veghe-agent digitization` names what is wrong"
            );
        }
        Ok(())
    }
}

/// Folders `depth` levels below `root`, relative to it.
fn find(root: &Path, dir: &Path, depth: usize, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(root.join(dir))? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() || entry.file_name().as_bytes().starts_with(b".") {
            continue;
        }
        let path = dir.join(entry.file_name());
        if depth <= 1 {
            if found.len() < MAX_PACKAGES {
                found.push(path);
            }
        } else {
            find(root, &path, depth - 1, found)?;
        }
    }
    Ok(())
}

/// 8 bytes that change with the name, size or time of any file.
fn shape(dir: &Path) -> io::Result<i64> {
    let (mut sum, mut failed) = (0_i64, None);
    package::walk(dir, MAX_DEPTH, &mut |path, length| match fs::symlink_metadata(path) {
        Ok(metadata) => {
            let mut hash = blake3::Hasher::new();
            hash.update(path.strip_prefix(dir).unwrap_or(path).as_os_str().as_bytes());
            for number in [length.to_le_bytes(), metadata.mtime().to_le_bytes(), metadata.mtime_nsec().to_le_bytes()] {
                hash.update(&number);
            }
            let mut first = [0; 8];
            hash.finalize_xof().fill(&mut first);
            sum = sum.wrapping_add(i64::from_le_bytes(first));
        }
        Err(error) => failed = Some(error),
    })?;
    failed.map_or(Ok(sum), Err)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::process::Command;
    use std::time::Duration;

    use serde_json::Value;
    use sha2::{Digest as _, Sha256};

    use super::*;
    use crate::clock;

    struct World {
        root: tempfile::TempDir,
        receiver: Receiver,
        now: Moment,
        _state: tempfile::TempDir,
    }

    const METS: &str = r#"<?xml version="1.0"?><mets:mets xmlns:mets="http://www.loc.gov/METS/"><mets:fileSec>
        <mets:fileGrp USE="MASTER"><mets:file ID="a" MIMETYPE="image/tiff"/><mets:file ID="b" MIMETYPE="image/tiff"/></mets:fileGrp>
        <mets:fileGrp USE="OCR"><mets:file ID="c" MIMETYPE="text/xml"/></mets:fileGrp></mets:fileSec></mets:mets>"#;
    const ALTO: &str = r#"<alto xmlns="http://www.loc.gov/standards/alto/ns-v3#"><Layout><Page ID="p1"><PrintSpace>
        <String CONTENT="Timiș" WC="0.9"/><String CONTENT="Lugoj" WC="0.7"/></PrintSpace></Page></Layout></alto>"#;

    impl World {
        fn new() -> Self {
            let (root, state) = (tempfile::tempdir().expect("root"), tempfile::tempdir().expect("state"));
            let settings = Delivery {
                name: "nas".to_owned(),
                path: root.path().to_owned(),
                template: "{batch}/{unit}".parse().expect("template"),
                settle: Duration::from_mins(1),
                scan: Duration::from_mins(1),
            };
            let store = Store::open(state.path()).expect("store");
            let agent = "scan-1".parse().expect("id");
            let receiver = Receiver::new(settings, agent, store, Arc::default(), Arc::default());
            Self { root, receiver, now: Moment { at: clock::instant(), ms: clock::now_ms() }, _state: state }
        }

        fn write(&self, name: &str, content: &[u8]) {
            let path = self.root.path().join(name);
            fs::create_dir_all(path.parent().expect("folder")).expect("folder");
            fs::write(path, content).expect("write");
        }

        /// A bag of two pages with METS and ALTO, as the tools of archives make it.
        fn bag(&self, name: &str) {
            let mut manifest = String::new();
            let page = self.root.path().join("page.tif");
            for number in 1..=2 {
                let made = Command::new("/usr/bin/convert")
                    .args(["-size", "124x175", "-seed", &number.to_string(), "plasma:fractal"])
                    .arg(&page)
                    .status();
                assert!(made.expect("ImageMagick").success());
                let content = fs::read(&page).expect("read");
                let alto = ALTO.replace("p1", &format!("p{number}"));
                for (file, content) in
                    [(format!("{number}.tif"), content.as_slice()), (format!("{number}.xml"), alto.as_bytes())]
                {
                    self.write(&format!("{name}/data/{file}"), content);
                    for byte in Sha256::digest(content) {
                        write!(manifest, "{byte:02x}").expect("string");
                    }
                    writeln!(manifest, "  data/{file}").expect("string");
                }
            }
            fs::remove_file(page).expect("remove");
            self.write(&format!("{name}/bagit.txt"), b"BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n");
            self.write(&format!("{name}/manifest-sha256.txt"), manifest.as_bytes());
            self.write(&format!("{name}/mets.xml"), METS.as_bytes());
            let (mut bytes, mut files) = (0, 0);
            package::walk(&self.root.path().join(name).join("data"), 9, &mut |_, length| {
                (bytes, files) = (bytes + length, files + 1);
            })
            .expect("walk");
            self.write(&format!("{name}/bag-info.txt"), format!("Payload-Oxum: {bytes}.{files}\n").as_bytes());
        }

        fn pass(&mut self, minutes: u64) {
            for _ in 0..minutes {
                self.receiver.look(self.now);
                self.now = Moment { at: self.now.at + Duration::from_mins(1), ms: self.now.ms + 60_000 };
            }
        }

        fn events(&self) -> Vec<(String, Value)> {
            let body = self.receiver.store.message().expect("store").map_or_else(|| "[]".to_owned(), |(_, body)| body);
            let events: Vec<Value> = serde_json::from_str(&body).expect("JSON");
            let kind =
                |event: &Value| event["type"].as_str().expect("type").trim_start_matches("ro.cjt.digi.v1.").to_owned();
            events.into_iter().map(|event| (kind(&event), event["data"].clone())).collect()
        }
    }

    #[test]
    fn a_whole_bag_is_delivered_once_it_has_settled() {
        let mut world = World::new();
        world.bag("L-1/U-1");
        world.pass(1);
        assert_eq!(world.events(), []);
        world.write("L-1/U-1/data/late.txt", b"still being copied");
        world.pass(1);
        assert_eq!(world.events(), [], "it changed");
        fs::remove_file(world.root.path().join("L-1/U-1/data/late.txt")).expect("remove");
        world.pass(10);
        let events = world.events();
        assert_eq!(
            events.iter().map(|(kind, _)| kind.as_str()).collect::<Vec<_>>(),
            ["package.delivered", "package.validated"]
        );
        let data = &events[1].1;
        assert_eq!(
            (&data["unit"], &data["outcome"], data["images"].as_u64()),
            (&"U-1".into(), &"ok".into(), Some(2)),
            "{data}"
        );
        assert_eq!((data["mets_files"].as_u64(), data["alto_pages"].as_u64()), (Some(2), Some(2)));
        assert!((data["alto_confidence"].as_f64().expect("confidence") - 0.8).abs() < 1e-9);
        assert_eq!(data["algorithm"], "sha256");
    }

    #[test]
    fn everything_that_is_wrong_with_a_bag_is_counted_and_named_here() {
        let mut world = World::new();
        world.bag("L-1/U-1");
        let page = world.root.path().join("L-1/U-1/data/1.tif");
        let mut content = fs::read(&page).expect("read");
        content[100] ^= 1;
        fs::write(&page, &content).expect("write");
        fs::remove_file(world.root.path().join("L-1/U-1/data/2.xml")).expect("remove");
        world.write("L-1/U-1/fetch.txt", b"https://example.org/a - data/a.tif\n");
        world.pass(5);
        let events = world.events();
        assert_eq!(events.len(), 1, "it is not delivered: {events:?}");
        let problems = &events[0].1["problems"];
        for kind in ["checksum", "payload_missing", "fetch", "oxum", "alto_count"] {
            assert_eq!(problems[kind], 1, "{kind}: {problems}");
        }
        let named = world.receiver.store.problems().expect("store");
        assert!(named.iter().any(|(_, place, what, _)| place.ends_with("data/1.tif") && what.contains("manifest")));
        assert!(!events[0].1.to_string().contains("1.tif"), "no name leaves the machine");
    }

    #[test]
    fn unlisted_files_paths_that_lead_out_and_old_algorithms_are_problems() {
        let mut world = World::new();
        world.bag("L-1/U-1");
        world.write("L-1/U-1/data/more.txt", b"unlisted");
        world.bag("L-1/U-2");
        world.write("L-1/U-2/manifest-sha256.txt", format!("{}  ../../../etc/passwd\n", "0".repeat(64)).as_bytes());
        world.bag("L-1/U-3");
        fs::remove_file(world.root.path().join("L-1/U-3/manifest-sha256.txt")).expect("remove");
        world.write("L-1/U-3/manifest-md5.txt", b"d41d8cd98f00b204e9800998ecf8427e  data/1.tif\n");
        world.pass(5);
        let problems: BTreeMap<String, Value> = world
            .events()
            .into_iter()
            .map(|(_, data)| (data["unit"].as_str().expect("unit").to_owned(), data["problems"].clone()))
            .collect();
        assert_eq!(problems["U-1"]["payload_unlisted"], 1);
        assert_eq!(problems["U-2"]["manifest_path"], 1);
        assert_eq!(problems["U-3"]["manifest_missing"], 1);
    }

    #[test]
    fn hostile_xml_is_a_problem_and_no_more() {
        let mut world = World::new();
        for (unit, xml) in [
            ("U-1", format!("<alto><String CONTENT=\"{}\"/></alto>", "a".repeat(3 << 20))),
            ("U-2", "<mets>".repeat(10_000)),
            ("U-3", "<mets><file MIMETYPE=\"image/tiff\"".to_owned()),
            ("U-4", "<!DOCTYPE x [<!ENTITY a \"aa\"><!ENTITY b \"&a;&a;\">]><alto><Page>&b;</Page></alto>".to_owned()),
        ] {
            world.write(&format!("L-1/{unit}/data.xml"), xml.as_bytes());
        }
        world.pass(5);
        let mut problems: Vec<(String, u64)> = world
            .events()
            .into_iter()
            .map(|(_, data)| {
                (data["unit"].as_str().expect("unit").to_owned(), data["problems"]["xml"].as_u64().unwrap_or(0))
            })
            .collect();
        problems.sort();
        let expected = [("U-1", 1), ("U-2", 1), ("U-3", 1), ("U-4", 0)].map(|(unit, count)| (unit.to_owned(), count));
        assert_eq!(problems, expected);
    }
}
