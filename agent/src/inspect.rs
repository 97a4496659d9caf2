//! `veghe-agent inspect`: what image files say of themselves, for whoever sets rules for scans or asks why one is refused.
//!
//! What it deliberately does not do: judge, or remember what it saw.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;
use veghe_imagefile::{Completeness, Hash, Image, InspectError, Inspection};

/// What to look at.
#[derive(Debug, Args)]
pub struct Inspect {
    /// Files, and directories with all below them
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,
    /// Print a JSON object for each file instead of a table, with every image of it
    #[arg(long)]
    pub json: bool,
    /// Decode images too (TIFF, JPEG, JPEG 2000, PDF with one image a page), and count empty pages and those that look almost like one of the 16 files before
    #[arg(long)]
    pub pages: bool,
}

/// Files before it that an image is compared with, as in hot folders.
const NEIGHBOURS: usize = 16;

/// What the images of a file show.
#[derive(Default, Serialize)]
struct Pages {
    blank: usize,
    near_duplicate: usize,
    /// Of a format or kind that is not decoded.
    unread: usize,
}

/// Looks at pages, file after file.
#[derive(Default)]
struct Looking {
    before: VecDeque<Vec<Hash>>,
}

impl Looking {
    fn at(&mut self, path: &Path, found: &Inspection) -> io::Result<Pages> {
        let sights = veghe_imagefile::look(File::open(path)?, found, || ());
        let images = found.count.unwrap_or(0) as usize;
        let mut pages = Pages { unread: images.saturating_sub(sights.len()), ..Pages::default() };
        let mut hashes: Vec<Hash> = Vec::new();
        for sight in sights {
            match sight {
                None => pages.unread += 1,
                Some(sight) if sight.is_blank => pages.blank += 1,
                Some(sight) => {
                    let mut known = self.before.iter().flatten().chain(&hashes);
                    pages.near_duplicate += usize::from(known.any(|known| known.is_alike(&sight.hash)));
                    hashes.push(sight.hash);
                }
            }
        }
        self.before.push_back(hashes);
        if self.before.len() > NEIGHBOURS {
            self.before.pop_front();
        }
        Ok(pages)
    }
}

/// A file as JSON tells it.
#[derive(Serialize)]
struct Report<'a> {
    file: String,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(flatten)]
    found: Option<Found<'a>>,
}

#[derive(Serialize)]
struct Found<'a> {
    format: &'static str,
    frames: Option<u32>,
    complete: bool,
    encrypted: bool,
    pdfa_part: Option<u8>,
    images: Vec<Frame<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pages: Option<&'a Pages>,
}

#[derive(Serialize)]
struct Frame<'a> {
    width_px: u32,
    height_px: u32,
    ppi: Option<(f64, f64)>,
    bits: u16,
    samples: u16,
    compression: &'a str,
    icc: bool,
}

/// Prints a line for each file, then how many there were.
///
/// # Errors
/// Where a path can't be read at all, or nobody takes the output.
pub fn run(arguments: &Inspect, out: &mut impl Write) -> anyhow::Result<()> {
    let mut files = Vec::new();
    for path in &arguments.paths {
        collect(path, &mut files)?;
    }
    let (mut images, mut truncated, mut other) = (0_u64, 0_u64, 0_u64);
    let (mut looking, mut all) = (arguments.pages.then(Looking::default), Pages::default());
    for file in &files {
        let length = fs::metadata(file).with_context(|| format!("cannot read {}", file.display()))?.len();
        let found = look_at(file, length);
        match &found {
            Ok(found) => {
                images += u64::from(found.count.unwrap_or(0));
                truncated += u64::from(found.completeness == Completeness::Truncated);
            }
            Err(_) => other += 1,
        }
        let pages = match (&mut looking, &found) {
            (Some(looking), Ok(found)) => {
                Some(looking.at(file, found).with_context(|| format!("cannot read {}", file.display()))?)
            }
            _ => None,
        };
        let line = if arguments.json {
            serde_json::to_string(&report(file, length, &found, pages.as_ref()))?
        } else {
            format!("{}  {}{}", file.display(), summary(&found), pages.as_ref().map_or_else(String::new, shown))
        };
        if let Some(pages) = pages {
            all.blank += pages.blank;
            all.near_duplicate += pages.near_duplicate;
            all.unread += pages.unread;
        }
        writeln!(out, "{line}")?;
    }
    if !arguments.json {
        let pages = if arguments.pages { shown(&all) } else { String::new() };
        writeln!(
            out,
            "{} files, {images} images, {truncated} truncated, {other} without an image{pages}",
            files.len()
        )?;
    }
    Ok(())
}

/// What is not 0, as the end of a line.
fn shown(pages: &Pages) -> String {
    let counts = [(pages.blank, "blank"), (pages.near_duplicate, "near duplicate"), (pages.unread, "not looked at")];
    let shown: Vec<String> =
        counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!(", {count} {what}")).collect();
    shown.concat()
}

/// The regular files at and below `path`, by name.
fn collect(path: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let cannot = || format!("cannot read {}", path.display());
    if !fs::metadata(path).with_context(cannot)?.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    let mut entries: Vec<fs::DirEntry> = fs::read_dir(path).and_then(Iterator::collect).with_context(cannot)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let kind = entry.file_type().with_context(cannot)?;
        // Links are not followed: they may lead in a circle.
        if kind.is_dir() {
            collect(&entry.path(), files)?;
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    Ok(())
}

fn look_at(path: &Path, length: u64) -> Result<Inspection, InspectError> {
    let file = File::open(path).map_err(InspectError::Read)?;
    veghe_imagefile::inspect(file, length)
}

fn reason(error: &InspectError) -> String {
    match error {
        InspectError::Read(source) => format!("{error}: {source}"),
        error => error.to_string(),
    }
}

fn report<'a>(
    file: &Path,
    bytes: u64,
    found: &'a Result<Inspection, InspectError>,
    pages: Option<&'a Pages>,
) -> Report<'a> {
    let frame = |image: &'a Image| Frame {
        width_px: image.width_px,
        height_px: image.height_px,
        ppi: image.ppi,
        bits: image.bits,
        samples: image.samples,
        compression: &image.compression,
        icc: image.icc,
    };
    let described = |found: &'a Inspection| Found {
        format: found.format.name(),
        frames: found.count,
        complete: found.completeness == Completeness::Complete,
        encrypted: found.encrypted,
        pdfa_part: found.pdfa_part,
        images: found.images.iter().map(frame).collect(),
        pages,
    };
    Report {
        file: file.display().to_string(),
        bytes,
        error: found.as_ref().err().map(reason),
        found: found.as_ref().ok().map(described),
    }
}

/// One line: `tiff, 3 images, 2480 x 3508 px, 300 ppi, 8 bit x 3, lzw, ICC, complete`.
fn summary(found: &Result<Inspection, InspectError>) -> String {
    let found = match found {
        Ok(found) => found,
        Err(error) => return reason(error),
    };
    let mut parts = vec![found.format.name().to_owned()];
    parts.push(match found.count {
        Some(1) => "1 image".to_owned(),
        Some(count) => format!("{count} images"),
        None => "unknown number of images".to_owned(),
    });
    if let Some(image) = found.images.first() {
        parts.push(format!("{} x {} px", image.width_px, image.height_px));
        parts.push(match image.ppi {
            Some((across, down)) if (across - down).abs() < 0.5 => format!("{across:.0} ppi"),
            Some((across, down)) => format!("{across:.0} x {down:.0} ppi"),
            None => "no resolution".to_owned(),
        });
        parts.push(format!("{} bit x {}", image.bits, image.samples));
        parts.push(image.compression.clone());
        if image.icc {
            parts.push("ICC".to_owned());
        }
    }
    if let Some(part) = found.pdfa_part {
        parts.push(format!("PDF/A-{part}"));
    }
    if found.encrypted {
        parts.push("encrypted".to_owned());
    }
    let complete = found.completeness == Completeness::Complete;
    parts.push(if complete { "complete" } else { "TRUNCATED" }.to_owned());
    parts.join(", ")
}

/// Nobody reading on, as `head` does, is no failure.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
