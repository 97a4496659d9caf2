//! What a delivered package is: whether it is as its BagIt manifests say (RFC 8493), how many images it has, and whether its METS and
//! ALTO count the same.
//!
//! Invariants: memory does not grow with the package; XML is read piece by piece, with bounds on pieces and depth, and entities stay
//! unresolved; no path of a manifest leads out of the package. What it deliberately does not do: wait, remember, tell.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use quick_xml::events::{BytesStart, Event};
use sha2::{Digest as _, Sha256, Sha512};
use veghe_imagefile::Completeness;

use crate::fixity::pass::{manifest_line, manifest_lines};

/// Folders in folders.
const MAX_DEPTH: usize = 32;
/// Elements in elements.
const MAX_XML_DEPTH: usize = 128;
/// One tag or text of an XML file, and all of it.
const MAX_XML_PIECE: usize = 1 << 20;
const MAX_XML_BYTES: u64 = 256 << 20;
/// Groups of files of a METS.
const MAX_GROUPS: usize = 1000;
/// Problems that are named one by one.
const MAX_NAMED: usize = 100;
const IMAGES: [&str; 8] = ["tif", "tiff", "jpg", "jpeg", "jp2", "jpf", "j2k", "pdf"];

/// What the check of a package found.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Check {
    /// Files of its payload, or of all of it where it is no bag.
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    /// Image files, and the images in them.
    pub(crate) image_files: u64,
    pub(crate) images: u64,
    pub(crate) mets_files: Option<u64>,
    pub(crate) alto_pages: Option<u64>,
    pub(crate) alto_confidence: Option<f64>,
    pub(crate) algorithm: Option<&'static str>,
    /// What is wrong, and how often.
    pub(crate) problems: BTreeMap<&'static str, u64>,
    /// The first of them: where and what.
    pub(crate) named: Vec<(PathBuf, String)>,
}

impl Check {
    fn problem(&mut self, kind: &'static str, at: &Path, what: impl Into<String>) {
        *self.problems.entry(kind).or_default() += 1;
        if self.named.len() < MAX_NAMED {
            self.named.push((at.to_owned(), what.into()));
        }
    }
}

/// Sums over files in whatever order they come.
#[derive(Default)]
struct Sums {
    /// Of BLAKE3 of each path.
    paths: u64,
    words: u64,
    confidence: f64,
    /// Image files of each group of the METS.
    groups: BTreeMap<String, u64>,
}

/// Checks the package in `dir`.
///
/// # Errors
/// Where a folder of it can't be read.
pub(crate) fn check(dir: &Path) -> io::Result<Check> {
    let (mut found, mut sums) = (Check::default(), Sums::default());
    let is_bag = dir.join("bagit.txt").is_file();
    let payload = if is_bag { dir.join("data") } else { dir.to_owned() };
    if is_bag && !payload.is_dir() {
        found.problem("payload_missing", &payload, "a bag without data folder");
    } else {
        walk(&payload, MAX_DEPTH, &mut |path, length| {
            found.files += 1;
            found.bytes += length;
            sums.paths = sums.paths.wrapping_add(hash(path.strip_prefix(dir).unwrap_or(path).as_os_str().as_bytes()));
            look_inside(path, length, &mut found, &mut sums);
        })?;
    }
    if is_bag {
        oxum(dir, &mut found);
        if fs::metadata(dir.join("fetch.txt")).is_ok_and(|fetch| fetch.len() > 0) {
            found.problem("fetch", &dir.join("fetch.txt"), "parts of the payload are elsewhere; fetch them first");
        }
        manifests(dir, sums.paths, &mut found);
        // METS often stands beside the payload.
        for entry in fs::read_dir(dir)?.flatten() {
            let (path, length) = (entry.path(), entry.metadata().map_or(0, |metadata| metadata.len()));
            if path.is_file() && is_named(&path, &["xml"]) {
                look_inside(&path, length, &mut found, &mut sums);
            }
        }
    }
    compare_counts(dir, &mut found, &sums);
    Ok(found)
}

fn compare_counts(dir: &Path, found: &mut Check, sums: &Sums) {
    let (images, image_files) = (found.images, found.image_files);
    if let Some(listed) = found.mets_files.filter(|listed| *listed != image_files) {
        found.problem("mets_count", dir, format!("METS lists {listed} image files, there are {image_files}"));
    }
    if let Some(pages) = found.alto_pages {
        // Of masters and their derivatives each page has one ALTO.
        let expected = sums.groups.values().copied().max().unwrap_or(images);
        if pages != expected && pages != images {
            found.problem("alto_count", dir, format!("ALTO has {pages} pages for {expected} images"));
        }
    }
    found.alto_confidence = (sums.words > 0).then(|| sums.confidence / sums.words as f64);
}

fn hash(bytes: &[u8]) -> u64 {
    let mut first = [0; 8];
    blake3::Hasher::new().update(bytes).finalize_xof().fill(&mut first);
    u64::from_le_bytes(first)
}

/// Every plain file below `dir`; links are not followed.
pub(crate) fn walk(dir: &Path, depth: usize, visit: &mut dyn FnMut(&Path, u64)) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            if depth == 0 {
                return Err(io::Error::other("folders are nested too deep"));
            }
            walk(&entry.path(), depth - 1, visit)?;
        } else if kind.is_file() {
            visit(&entry.path(), entry.metadata()?.len());
        }
    }
    Ok(())
}

fn is_named(path: &Path, endings: &[&str]) -> bool {
    let ending = path.extension().and_then(OsStr::to_str).unwrap_or_default().to_lowercase();
    endings.contains(&ending.as_str())
}

fn look_inside(path: &Path, length: u64, found: &mut Check, sums: &mut Sums) {
    if is_named(path, &IMAGES) {
        found.image_files += 1;
        match File::open(path).map(|file| veghe_imagefile::inspect(file, length)) {
            Ok(Ok(image)) if image.completeness == Completeness::Complete => {
                found.images += u64::from(image.count.unwrap_or(1));
            }
            Ok(Ok(_)) => found.problem("image_torn", path, "is not whole; ask for it again"),
            Ok(Err(error)) => found.problem("image_damaged", path, error.to_string()),
            Err(error) => found.problem("unreadable", path, error.to_string()),
        }
    } else if is_named(path, &["xml"])
        && let Err(error) = read_xml(path, found, sums)
    {
        found.problem("xml", path, error.to_string());
    }
}

/// `Payload-Oxum: octets.files`, the quick look before the digests.
fn oxum(dir: &Path, found: &mut Check) {
    let path = dir.join("bag-info.txt");
    let Ok(file) = File::open(&path) else { return };
    let mut text = String::new();
    if file.take(MAX_XML_PIECE as u64).read_to_string(&mut text).is_err() {
        return;
    }
    let (bytes, files) = (found.bytes, found.files);
    match told_oxum(&text) {
        Some((told, oxum)) if oxum != Some((bytes, files)) => {
            found.problem("oxum", &path, format!("Payload-Oxum is {told}, there are {bytes}.{files}"));
        }
        _ => {}
    }
}

/// What `bag-info.txt` says, and the bytes and files of it where it says both.
fn told_oxum(text: &str) -> Option<(&str, Option<(u64, u64)>)> {
    let told = text.lines().find_map(|line| line.strip_prefix("Payload-Oxum:"))?.trim();
    let (octets, files) = told.split_once('.').unwrap_or((told, ""));
    Some((told, octets.parse().ok().zip(files.parse().ok())))
}

fn manifests(dir: &Path, payload: u64, found: &mut Check) {
    let mut is_checked = false;
    for (name, hex_length, algorithm) in [("sha512", 128, "sha512"), ("sha256", 64, "sha256")] {
        let path = dir.join(format!("manifest-{name}.txt"));
        if let Ok(file) = File::open(&path) {
            is_checked = true;
            found.algorithm = found.algorithm.or(Some(algorithm));
            let listed = manifest(dir, file, hex_length, found);
            if listed != payload && !found.problems.contains_key("payload_missing") {
                found.problem(
                    "payload_unlisted",
                    &path,
                    "does not list every file of the payload, or one of them twice",
                );
            }
        }
        if let Ok(file) = File::open(dir.join(format!("tagmanifest-{name}.txt"))) {
            manifest(dir, file, hex_length, found);
        }
    }
    if !is_checked {
        let what = "has no manifest-sha256.txt and no manifest-sha512.txt; older algorithms prove nothing";
        found.problem("manifest_missing", dir, what);
    }
}

/// Compares the files of a manifest; gives the sum of their paths.
fn manifest(dir: &Path, file: File, hex_length: usize, found: &mut Check) -> u64 {
    let mut paths = 0_u64;
    for (digest, name) in manifest_lines(file, hex_length) {
        let relative = Path::new(OsStr::from_bytes(&name));
        if !relative.components().all(|part| matches!(part, Component::Normal(_))) {
            found.problem("manifest_path", relative, "leads out of the bag");
            continue;
        }
        let path = dir.join(relative);
        match digest_of(&path, hex_length) {
            Ok(is) => {
                paths = paths.wrapping_add(hash(&name));
                if is != digest {
                    found.problem("checksum", &path, "is not what its manifest says; ask for it again");
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                found.problem("payload_missing", &path, "is in the manifest and not there");
            }
            Err(error) => found.problem("unreadable", &path, error.to_string()),
        }
    }
    paths
}

fn digest_of(path: &Path, hex_length: usize) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let (mut sha256, mut sha512) = (Sha256::new(), Sha512::new());
    let mut part = vec![0; 256 << 10];
    loop {
        let read = match file.read(&mut part) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if read == 0 {
            return Ok(if hex_length == 64 { sha256.finalize().to_vec() } else { sha512.finalize().to_vec() });
        }
        let part = part.get(..read).unwrap_or_default();
        if hex_length == 64 {
            sha256.update(part);
        } else {
            sha512.update(part);
        }
    }
}

/// A reader that gives up on a single tag or text that is too long to be one.
struct Pieces<R> {
    inner: R,
    left: usize,
}

impl<R: BufRead> Read for Pieces<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}

impl<R: BufRead> BufRead for Pieces<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.left == 0 {
            return Err(io::Error::other("has a tag or text of more than 1 MiB"));
        }
        let left = self.left;
        let buffer = self.inner.fill_buf()?;
        Ok(buffer.get(..buffer.len().min(left)).unwrap_or(buffer))
    }

    fn consume(&mut self, amount: usize) {
        self.left = self.left.saturating_sub(amount);
        self.inner.consume(amount);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Mets,
    Alto,
}

fn read_xml(path: &Path, found: &mut Check, sums: &mut Sums) -> Result<(), Box<dyn std::error::Error>> {
    count_xml(BufReader::new(File::open(path)?.take(MAX_XML_BYTES)), found, sums)
}

/// Counts what a METS or an ALTO file lists; any other XML is left alone.
fn count_xml(source: impl BufRead, found: &mut Check, sums: &mut Sums) -> Result<(), Box<dyn std::error::Error>> {
    let mut reader = quick_xml::Reader::from_reader(Pieces { inner: source, left: MAX_XML_PIECE });
    let (mut buffer, mut depth, mut kind) = (Vec::new(), 0_usize, None);
    let mut group = String::new();
    loop {
        reader.get_mut().left = MAX_XML_PIECE;
        buffer.clear();
        let event = reader.read_event_into(&mut buffer)?;
        let element = match &event {
            Event::Eof => return if depth == 0 { Ok(()) } else { Err("ends in the middle".into()) },
            Event::End(_) => {
                depth = depth.saturating_sub(1);
                continue;
            }
            Event::Start(element) => {
                depth += 1;
                element
            }
            Event::Empty(element) => element,
            _ => continue,
        };
        if depth > MAX_XML_DEPTH {
            return Err("has elements nested too deep".into());
        }
        let name = element.local_name();
        let name: &str = name.as_ref();
        if kind.is_none() {
            kind = match name {
                "mets" => Some(Kind::Mets),
                "alto" => Some(Kind::Alto),
                _ => return Ok(()),
            };
        }
        match (kind, name) {
            (Some(Kind::Mets), "mets") => found.mets_files = Some(found.mets_files.unwrap_or(0)),
            (Some(Kind::Mets), "fileGrp") => group = attribute(element, "USE").unwrap_or_default(),
            (Some(Kind::Mets), "file") => {
                let is_image = attribute(element, "MIMETYPE")
                    .is_some_and(|kind| kind.starts_with("image/") || kind == "application/pdf");
                if is_image {
                    found.mets_files = Some(found.mets_files.unwrap_or(0) + 1);
                    if sums.groups.len() < MAX_GROUPS || sums.groups.contains_key(&group) {
                        *sums.groups.entry(group.clone()).or_default() += 1;
                    }
                }
            }
            (Some(Kind::Alto), "Page") => found.alto_pages = Some(found.alto_pages.unwrap_or(0) + 1),
            (Some(Kind::Alto), "String") => {
                let confidence = attribute(element, "WC").and_then(|text| text.parse::<f64>().ok());
                if let Some(confidence) = confidence.filter(|confidence| (0.0..=1.0).contains(confidence)) {
                    sums.words += 1;
                    sums.confidence += confidence;
                }
            }
            _ => {}
        }
    }
}

fn attribute(element: &BytesStart<'_>, name: &str) -> Option<String> {
    let found = element.attributes().flatten().find(|attribute| attribute.key.local_name().as_ref() == name)?;
    Some(found.value.into_owned()).filter(|text| text.len() <= 256)
}

/// Counts bytes as an XML file, and reads their lines as those of a manifest and of what a bag says of itself.
pub(super) fn fuzz(data: &[u8]) {
    let (mut found, mut sums) = (Check::default(), Sums::default());
    drop(count_xml(data, &mut found, &mut sums));
    let counted = found.mets_files.unwrap_or(0) + found.alto_pages.unwrap_or(0) + sums.words;
    assert!(counted <= data.len() as u64 && sums.groups.len() <= MAX_GROUPS, "{counted} in {} bytes", data.len());
    for line in data.split_inclusive(|byte| *byte == b'\n') {
        for hex_length in [64, 128] {
            if let Some((digest, path)) = manifest_line(line, hex_length) {
                assert!(digest.len() * 2 == hex_length && path.len() <= line.len());
            }
        }
    }
    if let Ok(text) = std::str::from_utf8(data) {
        assert!(told_oxum(text).is_none_or(|(told, _)| told.len() < text.len()));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const METS: &str = r#"<?xml version="1.0"?><mets xmlns:x="y"><fileSec><fileGrp USE="MASTER"><file ID="1" MIMETYPE="image/tiff"/>
        <file ID="2" MIMETYPE="image/tiff"><FLocat x:href="a&amp;b.tif"/></file></fileGrp></fileSec><!-- c --></mets>"#;
    const ALTO: &str = r#"<alto><Layout><Page ID="1"><String CONTENT="Timi&#537;oara" WC="0.9"/><String WC="0.7"/></Page></Layout></alto>"#;

    fn counted(text: &[u8]) -> (Result<(), String>, Check, Sums) {
        let (mut found, mut sums) = (Check::default(), Sums::default());
        let result = count_xml(text, &mut found, &mut sums).map_err(|error| error.to_string());
        (result, found, sums)
    }

    #[test]
    fn the_seeds_count_as_they_say() {
        let (result, found, sums) = counted(METS.as_bytes());
        assert_eq!((result, found.mets_files, sums.groups.get("MASTER")), (Ok(()), Some(2), Some(&2)));
        let (result, found, sums) = counted(ALTO.as_bytes());
        assert_eq!((result, found.alto_pages, sums.words), (Ok(()), Some(1), 2));
        let deep = "<mets>".repeat(MAX_XML_DEPTH + 1);
        assert_eq!(counted(deep.as_bytes()).0, Err("has elements nested too deep".to_owned()));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]
        #[test]
        fn damaged_mets_and_alto_are_counted_or_refused(
            is_mets: bool,
            hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut text = if is_mets { METS } else { ALTO }.as_bytes().to_vec();
            for (at, byte) in hits {
                let at = at.index(text.len());
                text[at] = byte;
            }
            text.truncate(cut.index(text.len()) + 1);
            let (_, found, sums) = counted(&text);
            prop_assert!(found.mets_files.unwrap_or(0) <= 2 && found.alto_pages.unwrap_or(0) <= 1 && sums.words <= 2);
        }

        #[test]
        fn any_line_of_a_manifest_is_a_path_or_none(line in prop::collection::vec(any::<u8>(), 0..200), digits in "[0-9a-f]{64}") {
            for line in [line.clone(), [digits.as_bytes(), b"  ", &line].concat()] {
                for hex_length in [64, 128] {
                    if let Some((digest, path)) = manifest_line(&line, hex_length) {
                        prop_assert!(digest.len() * 2 == hex_length && path.len() <= line.len());
                    }
                }
            }
        }
    }
}
