//! What inotify tells of folders: a hint where to look, never the truth. Without it, or where it loses something, the next
//! look at everything finds the same.
//!
//! Invariant: bounded in watches and in files that are known to be written.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

/// Folders that are watched; the others are looked at.
const MAX_WATCHES: usize = 16_384;
/// Files that somebody is known to write to.
const MAX_WRITING: usize = 16_384;

/// What happened since the last time.
#[derive(Debug, Default)]
pub(crate) struct News {
    /// Folders with something new, relative to the root.
    pub(crate) dirs: BTreeSet<PathBuf>,
    /// Something was lost: look at everything.
    pub(crate) is_incomplete: bool,
}

/// Watched folders below one root.
#[derive(Debug)]
pub(crate) struct Watcher {
    inotify: OwnedFd,
    root: PathBuf,
    by_number: HashMap<i32, PathBuf>,
    /// Files that were written to and not closed since.
    writing: HashSet<PathBuf>,
    is_full: bool,
}

impl Watcher {
    /// Watches nothing yet.
    pub(crate) fn new(root: &Path) -> rustix::io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let root = root.to_owned();
        Ok(Self { inotify, root, by_number: HashMap::new(), writing: HashSet::new(), is_full: false })
    }

    /// Watches a folder, relative to the root. Where the system has no more watches, looking must do.
    pub(crate) fn add(&mut self, dir: &Path) {
        let wanted = WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_TO
            | WatchFlags::MODIFY
            | WatchFlags::CREATE
            | WatchFlags::ONLYDIR
            | WatchFlags::DONT_FOLLOW;
        let result = if self.by_number.len() < MAX_WATCHES {
            inotify::add_watch(&self.inotify, self.root.join(dir), wanted)
        } else {
            Err(Errno::NOSPC)
        };
        match result {
            Ok(number) => {
                self.by_number.insert(number, dir.to_owned());
            }
            Err(error) if !self.is_full => {
                self.is_full = true;
                tracing::warn!(%error, watches = self.by_number.len(), "not every folder can be watched; they are looked at");
            }
            Err(_) => {}
        }
    }

    /// Whether somebody has written to the file and not closed it since.
    pub(crate) fn is_written(&self, path: &Path) -> bool {
        self.writing.contains(path)
    }

    /// Whoever had it open has written enough: it stays as it is for long.
    pub(crate) fn forget(&mut self, path: &Path) {
        self.writing.remove(path);
    }

    /// Waits for news, at most for `patience`.
    pub(crate) fn wait(&mut self, patience: Duration) -> News {
        let timeout = Timespec::try_from(patience).ok();
        let mut descriptors = [PollFd::new(&self.inotify, PollFlags::IN)];
        match poll(&mut descriptors, timeout.as_ref()) {
            Ok(0) | Err(_) => News::default(),
            Ok(_) => self.read(),
        }
    }

    fn read(&mut self) -> News {
        let mut news = News::default();
        let mut buffer = [MaybeUninit::uninit(); 16 << 10];
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::INTR) => continue,
                Err(_) => return news,
            };
            let flags = event.events();
            if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
                news.is_incomplete = true;
                self.writing.clear();
                continue;
            }
            if flags.contains(ReadFlags::IGNORED) {
                self.by_number.remove(&event.wd());
                continue;
            }
            let Some(dir) = self.by_number.get(&event.wd()) else { continue };
            let name = event.file_name().map_or(&b""[..], std::ffi::CStr::to_bytes);
            if flags.contains(ReadFlags::ISDIR) {
                news.dirs.insert(dir.clone());
                continue;
            }
            let path = dir.join(OsStr::from_bytes(name));
            if flags.contains(ReadFlags::MODIFY) {
                if self.writing.len() < MAX_WRITING {
                    self.writing.insert(path);
                }
            } else if flags.intersects(ReadFlags::CLOSE_WRITE | ReadFlags::MOVED_TO) {
                self.writing.remove(&path);
                news.dirs.insert(dir.clone());
            }
        }
    }
}
