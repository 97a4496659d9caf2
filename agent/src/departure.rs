//! The end of the process while a file system does not answer.
//!
//! Linux closes what a process has open after its last thread was killed, when no signal reaches it any more. To close a directory
//! that is being listed the kernel asks an SMB server and waits for its answer, so that a program whose work is done stays, a
//! zombie with one thread in `cifs_closedir`, until the server answers or is given up: after three minutes as a rule.
//! Whatever is let go before is closed by threads that can still be killed: by those that are about to read it, or by ours.
//! What it deliberately does not do: end the threads (the process's end does).

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::{DupFlags, dup3};

use crate::sensors::linux::is_remote;

/// How long one file may take before another thread goes on with the rest.
const PATIENCE: Duration = Duration::from_millis(200);
const STACK_BYTES: usize = 64 << 10;

/// Lets go of what is open on file systems of other machines, as the last thing before the process ends. Returns when all is let go
/// but for what hangs.
pub fn let_go() {
    let mounts = remote_mounts(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default());
    if !mounts.is_empty() {
        let_go_below(&mounts);
    }
}

/// Identifiers of the mounts of other machines' file systems in what `mountinfo` says (proc(5)).
fn remote_mounts(infos: &str) -> BTreeSet<String> {
    let remote = infos.lines().filter_map(|line| {
        let (mount, shared) = line.split_once(" - ")?;
        let is_remote = is_remote(shared.split(' ').next()?);
        mount.split(' ').next().filter(|_| is_remote).map(str::to_owned)
    });
    remote.collect()
}

/// Puts a mere path in place of everything that is open on `mounts`: whoever still reads or writes there fails, instead of
/// finding an end that is none, and no number leads to another's file.
fn let_go_below(mounts: &BTreeSet<String>) {
    let Ok(path) = open("/dev/null", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) else { return };
    let path = Arc::new(path);
    let Ok(entries) = fs::read_dir("/proc/self/fd") else { return };
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<RawFd>().ok());
    // The kernel tells it without asking the file system.
    let is_below = |number: &RawFd| {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap_or_default();
        info.lines().filter_map(|line| line.strip_prefix("mnt_id:")).any(|mount| mounts.contains(mount.trim()))
    };
    let numbers: VecDeque<RawFd> = numbers.filter(is_below).collect();
    let waiting = Arc::new(Mutex::new(numbers));
    let next = |waiting: &Mutex<VecDeque<RawFd>>| waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    loop {
        let (done, is_done) = sync_channel::<()>(1);
        let (own, source) = (Arc::clone(&waiting), Arc::clone(&path));
        let run = move || {
            while let Some(number) = next(&own) {
                replace(&source, number);
            }
            drop(done);
        };
        let started = thread::Builder::new().name("let-go".into()).stack_size(STACK_BYTES).spawn(run);
        // Whoever is given no thread ends as ever.
        if started.is_err() || is_done.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Disconnected) {
            return;
        }
        if waiting.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
            return;
        }
    }
}

/// Has `number` lead where `source` leads. Fails only for what was closed meanwhile, which is as well.
#[expect(unsafe_code, reason = "whoever owns the number is not asked")]
fn replace(source: &OwnedFd, number: RawFd) {
    // SAFETY: the number stays open, so that nobody's use of it reaches another file; its owner closes it, not we.
    let mut target = std::mem::ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(number) });
    dup3(source, &mut target, DupFlags::CLOEXEC).ok();
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read as _, Write as _};
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[test]
    fn mounts_of_other_machines_are_known_by_their_type() {
        let infos = "25 30 0:24 / /proc rw shared:5 - proc proc rw\n36 30 0:45 / /srv/a\\040-\\040b rw - cifs //nas/a rw,vers=3.1.1\n37 30 8:1 / / rw - ext4 /dev/sda1 rw\n38 30 0:46 / /mnt/x rw - fuse.rclone nas: rw\nodd\n";
        assert_eq!(remote_mounts(infos), ["36", "38"].map(str::to_owned).into());
    }

    #[test]
    fn what_is_let_go_leads_nowhere_and_all_else_stays() {
        // Only a file system of its own can be taken for another machine's beside other tests.
        let shared = tempfile::tempdir_in("/dev/shm").expect("directory");
        let path = shared.path().join("file");
        let mut file = File::options().read(true).write(true).create_new(true).open(&path).expect("a file");
        file.write_all(b"before").expect("write");
        let folder = File::open(shared.path()).expect("a directory");
        let own = tempfile::tempfile().expect("a file");
        let leads = |number: RawFd| fs::read_link(format!("/proc/self/fd/{number}")).expect("it is open");
        let kept = leads(own.as_raw_fd());
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).expect("proc");
        let mount = info.lines().find_map(|line| line.strip_prefix("mnt_id:")).expect("its mount");
        let_go_below(&[mount.trim().to_owned()].into());
        for number in [file.as_raw_fd(), folder.as_raw_fd()] {
            assert_eq!(leads(number).to_str(), Some("/dev/null"));
        }
        assert!(file.write_all(b"after").is_err());
        assert!(file.read(&mut [0; 9]).is_err(), "an end where none is");
        assert_eq!(fs::read_to_string(&path).expect("read"), "before");
        assert_eq!(leads(own.as_raw_fd()), kept);
    }
}
