//! What ext4's driver, which mounts ext2 and ext3 too, keeps of one mounted file system in `/sys/fs/ext4`: how many errors it
//! recorded, and whether one of them made it stop writing.
//!
//! The table of mounts does not always tell the latter. Kernels before 6.12 say `ro` there and those from 6.15 on `emergency_ro`;
//! those between, and older ones that took over their change, as Debian's 6.1, go on saying `rw` while every write fails.

use std::fs;
use std::path::{Path, PathBuf};

use super::Roots;
use super::process::started;
use super::source::Source;
use super::stat::booted;
use super::text;

pub(super) const TYPES: [&str; 3] = ["ext2", "ext3", "ext4"];

/// One mounted file system.
pub(super) struct Ext4 {
    count: Source,
    directory: PathBuf,
    options: PathBuf,
    proc: PathBuf,
    /// Of the last look: looked at again once there are more errors.
    known: Errors,
}

/// What went wrong with it.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(super) struct Errors {
    /// How many it recorded since it was last repaired, over all mounts.
    pub(super) count: u64,
    /// Whether one of this mount made the kernel stop writing to it. Where the kernel tells no time of the mount (a file system
    /// without a journal, processes that are hidden) this is not known and false.
    pub(super) have_ended_writing: bool,
}

impl Ext4 {
    /// Of the block device with this `number`, as `8:1`.
    pub(super) fn new(number: &str, roots: &Roots) -> Option<Self> {
        let device = fs::read_link(roots.sys.join("dev/block").join(number)).ok()?;
        let name = device.file_name()?;
        let directory = roots.sys.join("fs/ext4").join(name);
        Some(Self {
            count: Source::new(directory.join("errors_count")),
            options: roots.proc.join("fs/ext4").join(name).join("options"),
            proc: roots.proc.clone(),
            directory,
            known: Errors::default(),
        })
    }

    /// What is recorded now, or `None` where another driver mounted it.
    pub(super) fn errors(&mut self) -> Option<Errors> {
        let count = self.count().or_else(|| {
            // It was mounted anew since the last look, where the table of mounts looks the same.
            self.known = Errors::default();
            self.count()
        })?;
        if count != self.known.count {
            // The kernel counts an error after it told its time.
            self.known = Errors { count, have_ended_writing: count > 0 && self.have_ended_writing().unwrap_or(false) };
        }
        Some(self.known)
    }

    fn count(&mut self) -> Option<u64> {
        text::number(self.count.read().ok()?.trim_ascii())
    }

    fn have_ended_writing(&self) -> Option<bool> {
        let options = fs::read(&self.options).ok()?;
        if !text::lines(&options).any(|(_, option)| option == b"errors=remount-ro") {
            return Some(false);
        }
        let last = text::number(fs::read(self.directory.join("last_error_time")).ok()?.trim_ascii())?;
        Some(last >= self.mounted()?)
    }

    /// When it was mounted, in seconds since the Unix epoch: the start of the thread that writes its journal.
    fn mounted(&self) -> Option<u64> {
        let task = fs::read(self.directory.join("journal_task")).ok()?;
        let task = text::number(task.trim_ascii())?.to_string();
        let read = |path: &Path| fs::read(self.proc.join(path)).ok();
        let after_boot = started(&read(&Path::new(&task).join("stat"))?)?;
        Some(booted(&read(Path::new("stat"))?)?.saturating_add(after_boot))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn an_error_of_this_mount_ends_writing_where_that_is_asked_for() {
        let directory = tempfile::tempdir().expect("directory");
        let path = |name: &str| directory.path().join(name);
        let write = |name: &str, text: &str| {
            fs::create_dir_all(path(name).parent().expect("parent")).expect("directory");
            fs::write(path(name), text).expect("file");
        };
        fs::create_dir_all(path("sys/dev/block")).expect("directory");
        symlink("../../devices/virtual/block/dm-0", path("sys/dev/block/254:0")).expect("link");
        let roots = Roots { proc: path("proc"), sys: path("sys"), ..Roots::default() };
        let mut ext4 = Ext4::new("254:0", &roots).expect("a device");
        assert_eq!(ext4.errors(), None, "not ext4's");
        // Mounted 161.54 seconds after the start.
        write("proc/stat", "cpu 1\nbtime 1795706771\n");
        write("proc/637/stat", "637 (jbd2/dm-0-8) S 2 0 0 0 -1 2359360 0 0 0 0 0 0 0 0 20 0 1 0 16154 0 0\n");
        write("proc/fs/ext4/dm-0/options", "rw\nerrors=remount-ro\ncommit=5\n");
        write("sys/fs/ext4/dm-0/journal_task", "637\n");
        let mut errors = |count: u64, last: u64| {
            write("sys/fs/ext4/dm-0/last_error_time", &format!("{last}\n"));
            write("sys/fs/ext4/dm-0/errors_count", &format!("{count}\n"));
            let errors = ext4.errors().expect("ext4's");
            assert_eq!(errors.count, count);
            errors.have_ended_writing
        };
        assert!(!errors(0, 0));
        assert!(!errors(8, 1_795_706_931), "of an earlier mount");
        assert!(errors(9, 1_795_706_932));
        assert!(!errors(0, 0), "repaired");
        write("proc/fs/ext4/dm-0/options", "rw\nerrors=continue\n");
        assert!(!errors(1, 1_795_706_999), "it goes on writing");
        write("proc/fs/ext4/dm-0/options", "rw\nerrors=remount-ro\n");
        write("sys/fs/ext4/dm-0/journal_task", "<none>\n");
        assert!(!errors(2, 1_795_706_999), "nobody knows since when it is mounted");
        assert!(Ext4::new("254:1", &roots).is_none());
    }
}
