//! Reads whole files for their digests: at the speed of disk and processor, or at a set pace, without filling the page cache.
//!
//! Invariants: a reader needs one buffer, however large the file; it reads what the storage has, not what memory still has of it,
//! as far as the kernel lets go of that. What it deliberately does not do: compare, remember, map files (a disk that fails would
//! kill the process instead of failing a read).

use std::fs::File;
use std::io::{self, Read as _};
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use rustix::fs::{Advice, fadvise};
use sha2::{Digest as _, Sha256, Sha512};

use crate::clock;

/// Small enough to stay in a processor's cache between reading and hashing.
const BUFFER_BYTES: usize = 512 << 10;
/// From this size on every processor hashes parts of the one file.
const PARALLEL_BYTES: u64 = 32 << 20;
/// A part that is worth sharing among processors.
const PARALLEL_BUFFER_BYTES: usize = 2 << 20;
/// What was read leaves the page cache in parts of this size.
const DROP_BYTES: u64 = 8 << 20;
/// Sleeps are cut into such pieces, so that an end is noticed.
const NAP: Duration = Duration::from_millis(200);

/// Digests that a manifest has besides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) sha256: bool,
    pub(crate) sha512: bool,
}

/// What a file is by its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Digests {
    pub(crate) blake3: [u8; 32],
    pub(crate) sha256: Option<Vec<u8>>,
    pub(crate) sha512: Option<Vec<u8>>,
    pub(crate) bytes: u64,
}

/// Bytes a second, at most.
#[derive(Debug)]
pub(crate) struct Pace {
    bytes_per_second: NonZeroU64,
    /// When what was read so far is paid for.
    paid_at: Instant,
}

impl Pace {
    pub(crate) fn new(bytes_per_second: NonZeroU64) -> Self {
        Self { bytes_per_second, paid_at: clock::instant() }
    }

    /// Waits until `bytes` more may be read. False where it is to stop.
    fn pay(&mut self, bytes: u64, is_stopped: &dyn Fn() -> bool) -> bool {
        let now = clock::instant();
        let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second.get() as f64);
        self.paid_at = self.paid_at.max(now) + cost;
        loop {
            let left = self.paid_at.saturating_duration_since(clock::instant());
            if is_stopped() {
                return false;
            }
            if left.is_zero() {
                return true;
            }
            std::thread::sleep(left.min(NAP));
        }
    }
}

/// Reads files one after the other.
#[derive(Debug)]
pub(crate) struct Reader {
    buffer: Vec<u8>,
    pace: Option<Pace>,
}

impl Reader {
    pub(crate) fn new(pace: Option<Pace>) -> Self {
        Self { buffer: Vec::new(), pace }
    }

    /// The digests of `file`; nothing where it was stopped. `count` hears of every part.
    pub(crate) fn read(
        &mut self,
        mut file: File,
        size: u64,
        wanted: Wanted,
        count: &dyn Fn(u64),
        is_stopped: &dyn Fn() -> bool,
    ) -> io::Result<Option<Digests>> {
        let is_parallel = size >= PARALLEL_BYTES && self.pace.is_none();
        let length = if is_parallel { PARALLEL_BUFFER_BYTES } else { BUFFER_BYTES };
        if self.buffer.len() != length {
            self.buffer = vec![0; length];
        }
        // A copy in memory says nothing of the disk. Advice alone: where it is not taken (pages that are not written yet, or that
        // somebody has mapped) the digest is the same.
        fadvise(&file, 0, None, Advice::DontNeed).ok();
        fadvise(&file, 0, None, Advice::Sequential).ok();
        let (mut blake3, mut bytes, mut dropped) = (blake3::Hasher::new(), 0_u64, 0_u64);
        let mut sha256 = wanted.sha256.then(Sha256::new);
        let mut sha512 = wanted.sha512.then(Sha512::new);
        loop {
            let filled = fill(&mut file, &mut self.buffer)?;
            let part = self.buffer.get(..filled).unwrap_or_default();
            if is_parallel {
                blake3.update_rayon(part);
            } else {
                blake3.update(part);
            }
            if let Some(hash) = &mut sha256 {
                hash.update(part);
            }
            if let Some(hash) = &mut sha512 {
                hash.update(part);
            }
            bytes += filled as u64;
            count(filled as u64);
            if bytes - dropped >= DROP_BYTES {
                fadvise(&file, dropped, NonZeroU64::new(bytes - dropped), Advice::DontNeed).ok();
                dropped = bytes;
            }
            if filled < self.buffer.len() {
                // With what lay across the ends of parts.
                fadvise(&file, 0, None, Advice::DontNeed).ok();
                let digests = Digests {
                    blake3: *blake3.finalize().as_bytes(),
                    sha256: sha256.map(|hash| hash.finalize().to_vec()),
                    sha512: sha512.map(|hash| hash.finalize().to_vec()),
                    bytes,
                };
                return Ok(Some(digests));
            }
            let goes_on = match &mut self.pace {
                Some(pace) => pace.pay(filled as u64, is_stopped),
                None => !is_stopped(),
            };
            if !goes_on {
                return Ok(None);
            }
        }
    }
}

/// Reads until `buffer` is full or the file ends.
fn fill(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read(rest) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_the_whole_content_however_it_is_read() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("x");
        let never = || false;
        for length in [0, 1, BUFFER_BYTES - 1, BUFFER_BYTES, BUFFER_BYTES + 1, PARALLEL_BYTES as usize + 5] {
            let content: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            std::fs::write(&path, &content).expect("write");
            let wanted = Wanted { sha256: true, sha512: true };
            let file = File::open(&path).expect("open");
            let read =
                Reader::new(None).read(file, length as u64, wanted, &|_| (), &never).expect("read").expect("whole");
            assert_eq!(read.blake3, *blake3::hash(&content).as_bytes(), "{length}");
            assert_eq!(read.sha256, Some(Sha256::digest(&content).to_vec()));
            assert_eq!(read.sha512, Some(Sha512::digest(&content).to_vec()));
            assert_eq!(read.bytes, length as u64);
        }
    }

    /// File systems that read from a disk in the thread that asks, so that the kernel accounts it to that thread: ext2 to 4, XFS,
    /// btrfs, F2FS (`statfs(2)`). Shares, FUSE and others leave it to threads of their own.
    const ACCOUNTED: [u32; 4] = [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010];

    /// Bytes that were read from disks for this thread since it began (proc(5)).
    fn read_from_disks() -> u64 {
        let text = std::fs::read_to_string("/proc/thread-self/io").expect("the kernel tells");
        text.lines().find_map(|line| line.strip_prefix("read_bytes: ")?.parse().ok()).expect("read_bytes")
    }

    #[test]
    fn what_memory_has_of_a_file_is_read_from_the_disk_and_leaves_memory() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("x");
        let size = DROP_BYTES + 3 * BUFFER_BYTES as u64 + 5;
        std::fs::write(&path, vec![7; size as usize]).expect("write");
        let file = File::open(&path).expect("open");
        file.sync_all().expect("on the disk");
        let kind = rustix::fs::fstatfs(&file).expect("a file system").f_type as u32;
        if !ACCOUNTED.contains(&kind) {
            eprintln!("SKIPPED: nobody tells what is read from the disk of {}", directory.path().display());
            return;
        }
        let of = |work: &dyn Fn()| {
            let before = read_from_disks();
            work();
            read_from_disks() - before
        };
        // It was written a moment ago; whoever reads it needs no disk.
        let plain = || drop(std::fs::read(&path).expect("read"));
        let verify = || {
            let file = File::open(&path).expect("open");
            Reader::new(None).read(file, size, Wanted::default(), &|_| (), &|| false).expect("read").expect("whole");
        };
        plain();
        assert!(of(&verify) >= size, "it was read from memory");
        assert!(of(&plain) >= size, "it stayed in memory");
    }

    #[test]
    fn a_pace_is_kept_and_a_stop_is_noticed() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("x");
        std::fs::write(&path, vec![7; 4 * BUFFER_BYTES]).expect("write");
        let pace = || NonZeroU64::new(16 * BUFFER_BYTES as u64).map(Pace::new);
        let open = || File::open(&path).expect("open");
        let begin = clock::instant();
        let size = 4 * BUFFER_BYTES as u64;
        Reader::new(pace()).read(open(), size, Wanted::default(), &|_| (), &|| false).expect("read").expect("whole");
        assert!(begin.elapsed() >= Duration::from_millis(240), "a quarter of what a second allows");
        let stopped = Reader::new(pace()).read(open(), size, Wanted::default(), &|_| (), &|| true);
        assert_eq!(stopped.expect("read"), None);
    }
}
