//! Log segments read from their files: at the start, and to verify them.
//!
//! Invariants: what was acknowledged is read, whatever else a file holds; a record that does not hold costs those which
//! refer to it, and is named; only what no whole record follows is cut, as a kill leaves it.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use crate::bytes::Cursor;
use crate::log::{Decoder, FRAME_BYTES, HEADER_BYTES, MAGIC, PREFIX_BYTES, Record, Segment, VERSION};
use crate::{Damage, OpenError};

/// How far the sequence of a record may lie above that of the one before, where one is looked for behind damage.
const SEQUENCE_LEAP: u64 = 1 << 32;

/// What reading a segment gave besides its records.
pub(crate) struct Replayed {
    pub(crate) segment: Segment,
    pub(crate) torn_bytes: u64,
    pub(crate) records: u64,
    pub(crate) damages: Vec<Damage>,
}

/// The segments of `dir`, oldest first, with their numbers.
pub(crate) fn list(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if let Some(number) = entry.file_name().to_str().and_then(number_of) {
            found.push((number, entry.path()));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// The segments that are held in `dir` for readers only, by name; none where there is no such directory.
pub(crate) fn list_held(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = entries.map(|entry| entry.map(|e| e.path())).collect::<io::Result<Vec<_>>>()?;
    found.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    found.sort();
    Ok(found)
}

fn number_of(name: &str) -> Option<u64> {
    let hex = name.strip_suffix(".log").filter(|hex| hex.len() == 16)?;
    u64::from_str_radix(hex, 16).ok()
}

/// The length and checksum that a record begins with.
pub(crate) fn frame(bytes: [u8; FRAME_BYTES]) -> (usize, u32) {
    let word = u64::from_le_bytes(bytes);
    (word as u32 as usize, (word >> 32) as u32)
}

/// Reads every record of a segment that holds, cuts what no whole record follows, and makes sure that what was read is on
/// disk. None where not even the header was complete: then the file is gone.
///
/// `window` tells the window of a time stamp.
pub(crate) fn replay(
    number: u64,
    path: &Path,
    window: impl Fn(i64) -> i64,
    mut apply: impl FnMut(Record),
) -> Result<Option<Replayed>, OpenError> {
    let io_error = |source| OpenError::Io { path: path.to_owned(), source };
    let bytes = fs::read(path).map_err(io_error)?;
    let Some(version) = check_header(path, &bytes)? else {
        fs::remove_file(path).map_err(io_error)?;
        return Ok(None);
    };
    let (path_owned, windows) = (path.to_owned(), BTreeMap::new());
    let mut segment = Segment { number, path: path_owned, bytes: 0, last_sequence: 0, samples: 0, windows };
    let mut records = 0;
    let walked = walk(path, &bytes, version, |record| {
        records += 1;
        segment.last_sequence = record.sequence;
        let times = record.columns.iter().map(|c| c.1).chain(record.samples.iter().map(|s| s.1));
        for time in times {
            segment.windows.insert(window(time), record.sequence);
        }
        segment.samples += (record.columns.iter().map(|c| c.2.len()).sum::<usize>() + record.samples.len()) as u64;
        apply(record);
    });
    for damage in &walked.damages {
        tracing::error!(%damage, "log segment is damaged");
    }
    let torn_bytes = (bytes.len() - walked.good) as u64;
    let file = OpenOptions::new().write(true).open(path).map_err(io_error)?;
    if torn_bytes > 0 {
        tracing::warn!(path = %path.display(), torn_bytes, "log segment ends in an incomplete record, which is cut");
        file.set_len(walked.good as u64).map_err(io_error)?;
    }
    // A record of an unfinished commit may be in the page cache only; from here on readers see it, so it must stay.
    file.sync_all().map_err(io_error)?;
    segment.bytes = walked.good as u64;
    Ok(Some(Replayed { segment, torn_bytes, records, damages: walked.damages }))
}

/// What [`check`] found in a segment.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    pub(crate) records: u64,
    /// Bytes after the last whole record that a kill may have left.
    pub(crate) torn_bytes: u64,
    pub(crate) damages: Vec<Damage>,
}

/// Reads every record of a segment, of which `committed` bytes are acknowledged, or as many as there are; changes
/// nothing.
pub(crate) fn check(path: &Path, committed: Option<u64>) -> io::Result<Checked> {
    let mut bytes = fs::read(path)?;
    let mut checked = Checked::default();
    if let Some(committed) = committed {
        bytes.truncate(usize::try_from(committed).unwrap_or(usize::MAX));
    }
    match check_header(path, &bytes) {
        Ok(Some(version)) => {
            let walked = walk(path, &bytes, version, |_| checked.records += 1);
            (checked.torn_bytes, checked.damages) = ((bytes.len() - walked.good) as u64, walked.damages);
            // Of a commit that was acknowledged every byte is there.
            if committed.is_some() && checked.torn_bytes > 0 {
                checked.damages.push(damage(path, walked.good, bytes.len(), "the checksum of a record does not hold"));
                checked.torn_bytes = 0;
            }
        }
        Ok(None) => checked.torn_bytes = bytes.len() as u64,
        Err(error) => checked.damages.push(damage(path, 0, HEADER_BYTES, &error.to_string())),
    }
    Ok(checked)
}

fn damage(path: &Path, from: usize, to: usize, detail: &str) -> Damage {
    let (place, detail) = (format!("bytes {from} to {to}"), detail.to_owned());
    Damage { path: path.to_owned(), place, series: None, range: None, detail }
}

struct Walked {
    /// Where the last record ends that holds.
    good: usize,
    damages: Vec<Damage>,
}

/// Gives every record that can be decoded.
fn walk(path: &Path, bytes: &[u8], version: u32, mut each: impl FnMut(Record)) -> Walked {
    let mut decoder = Decoder::new(version);
    let mut walked = Walked { good: HEADER_BYTES, damages: Vec::new() };
    // Where a stretch that can't be read begins, and why.
    let mut gap: Option<(usize, String)> = None;
    let (mut at, mut last) = (HEADER_BYTES, 0);
    while at < bytes.len() {
        let Some(body) = body_at(bytes, at) else {
            let Some(next) = next_after(bytes, at, version, last) else { break };
            gap.get_or_insert_with(|| (at, "the checksum of a record does not hold".to_owned()));
            decoder.lose();
            at = next;
            continue;
        };
        let end = at + FRAME_BYTES + body.len();
        match decoder.record(body) {
            Ok(record) => {
                if let Some((from, detail)) = gap.take() {
                    walked.damages.push(damage(path, from, at, &detail));
                }
                last = record.sequence;
                each(record);
            }
            Err(found) => {
                gap.get_or_insert_with(|| (at, found.to_string()));
                decoder.lose();
            }
        }
        // In format 1 nothing begins anew: what follows can't be read.
        if gap.is_some() && version == 1 {
            break;
        }
        at = end;
        walked.good = end;
    }
    if let Some((from, detail)) = gap {
        walked.damages.push(damage(path, from, at.max(from), &detail));
    }
    walked
}

/// The body of a record whose length and checksum hold.
fn body_at(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let mut cursor = Cursor::new(bytes.get(at..)?);
    let (len, crc) = frame(cursor.array().ok()?);
    if len < PREFIX_BYTES {
        return None;
    }
    let body = cursor.take(len).ok()?;
    (crc32fast::hash(body) == crc).then_some(body)
}

/// Where the next whole record begins behind damage at `at`. Cheap tests come first: hashing at every byte would take
/// minutes.
fn next_after(bytes: &[u8], at: usize, version: u32, last: u64) -> Option<usize> {
    if version < 2 {
        return None;
    }
    (at + 1..bytes.len()).find(|&start| {
        let Some(head) = bytes.get(start..start + FRAME_BYTES + PREFIX_BYTES + 1) else { return false };
        let mut cursor = Cursor::new(head);
        let (Ok(len), Ok(_), Ok(sequence), Ok(flags)) = (cursor.u32(), cursor.u32(), cursor.u64(), cursor.u8()) else {
            return false;
        };
        let fits = (len as usize) <= bytes.len() - start - FRAME_BYTES;
        let follows = sequence > last && sequence - last < SEQUENCE_LEAP;
        fits && follows && flags <= crate::log::ANEW && body_at(bytes, start).is_some()
    })
}

/// The format of the file, where it begins with a header of ours; none where it is too short or was never written out.
fn check_header(path: &Path, bytes: &[u8]) -> Result<Option<u32>, OpenError> {
    let Some((header, _)) = bytes.split_at_checked(HEADER_BYTES) else { return Ok(None) };
    if let Some(version) = version_of(header) {
        if version > VERSION {
            return Err(OpenError::Newer { path: path.to_owned(), found: version, known: VERSION });
        }
        if version > 0 && crc32fast::hash(&header[..HEADER_BYTES - 4]).to_le_bytes() == header[HEADER_BYTES - 4..] {
            return Ok(Some(version));
        }
    }
    // The first write was torn: a file system may have set the size before the bytes.
    if header.iter().all(|&byte| byte == 0) {
        return Ok(None);
    }
    Err(OpenError::Damaged { path: path.to_owned(), detail: "its header is not that of a log segment".to_owned() })
}

/// The format that a header names.
pub(crate) fn version_of(header: &[u8]) -> Option<u32> {
    let mut cursor = Cursor::new(header);
    (cursor.array::<8>().ok()? == MAGIC).then(|| cursor.u32().ok()).flatten()
}
