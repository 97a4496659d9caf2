//! Reads whole files for their digests: at the speed of disk and processor, or at a set pace, without filling the page cache
//! and without emptying it.
//!
//! Invariants: a reader needs one buffer, however large the file; what it has had read from a disk leaves the page cache
//! again, and what others had there stays. What it deliberately does not do: compare, remember, map files (a disk that fails
//! would kill the process instead of failing a read).

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use rustix::fs::{Advice, fadvise, fstatfs};
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
/// File systems that read from a disk in the thread that asks, so that the kernel accounts it to that thread: ext2 to 4, XFS,
/// btrfs, F2FS (`statfs(2)`). Shares, FUSE and others leave it to threads of their own.
const ACCOUNTED: [u32; 4] = [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010];
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
        // Advice alone: where it is not taken the digest is the same.
        fadvise(&file, 0, None, Advice::Sequential).ok();
        let (mut blake3, mut bytes, mut dropped) = (blake3::Hasher::new(), 0_u64, 0_u64);
        let mut source = Source::of(&file);
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
            if bytes - dropped >= DROP_BYTES || filled < self.buffer.len() {
                if source.is_disk() {
                    fadvise(&file, dropped, NonZeroU64::new(bytes - dropped), Advice::DontNeed).ok();
                }
                dropped = bytes;
            }
            if filled < self.buffer.len() {
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

/// Where the content of a file comes from.
enum Source {
    /// Nobody knows, or from a disk at least in part: what is read ahead of one part belongs to the next.
    Disk,
    /// From the page cache so far: this much was read from disks for this thread before.
    Cache { before: u64 },
}

impl Source {
    fn of(file: &File) -> Self {
        let is_accounted = fstatfs(file).is_ok_and(|found| ACCOUNTED.contains(&(found.f_type as u32)));
        let before = if is_accounted { read_from_disks() } else { None };
        before.map_or(Self::Disk, |before| Self::Cache { before })
    }

    /// Whether any of what was read until now came from a disk.
    fn is_disk(&mut self) -> bool {
        if let Self::Cache { before } = self
            && read_from_disks() != Some(*before)
        {
            *self = Self::Disk;
        }
        matches!(self, Self::Disk)
    }
}

/// Bytes that were read from disks for this thread since it began (proc(5)); nothing where the kernel does not tell.
fn read_from_disks() -> Option<u64> {
    let text = fs::read_to_string("/proc/thread-self/io").ok()?;
    text.lines().find_map(|line| line.strip_prefix("read_bytes: ")?.parse().ok())
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

    #[test]
    fn what_was_in_the_page_cache_stays_and_what_was_not_leaves_it() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("x");
        let size = DROP_BYTES + 3 * BUFFER_BYTES as u64 + 5;
        std::fs::write(&path, vec![7; size as usize]).expect("write");
        File::open(&path).expect("open").sync_all().expect("on the disk");
        let verify = || {
            let file = File::open(&path).expect("open");
            Reader::new(None).read(file, size, Wanted::default(), &|_| (), &|| false).expect("read").expect("whole");
        };
        // What the disk is asked for when the file is read once more.
        let from_disk = || {
            let before = read_from_disks()?;
            std::fs::read(&path).expect("read");
            Some(read_from_disks()? - before)
        };
        let evict = || {
            let file = File::open(&path).expect("open");
            fadvise(&file, 0, None, Advice::DontNeed).expect("advice");
        };
        let start = || {
            let mut start = vec![0; 4096];
            fill(&mut File::open(&path).expect("open"), &mut start).expect("read");
        };
        let is_known = matches!(Source::of(&File::open(&path).expect("open")), Source::Cache { .. });
        // Memory may run short meanwhile, and the kernel take what it likes: once is enough.
        let once = |is_so: &dyn Fn() -> bool| !is_known || (0..20).any(|_| is_so());
        let whole = || {
            std::fs::read(&path).expect("read");
            verify();
            from_disk() == Some(0)
        };
        assert!(once(&whole), "others had it in the page cache");
        let nothing = || {
            evict();
            verify();
            from_disk() >= Some(size / 2)
        };
        assert!(once(&nothing), "only the digest needed it");
        let part = || {
            evict();
            start();
            verify();
            from_disk() >= Some(size / 2)
        };
        assert!(once(&part), "most of it was not there before");
        verify();
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
