//! The end of the process while a file system does not answer.
//!
//! Linux closes what a process has open after its last thread was killed, when no signal reaches it any more. To close a directory
//! that is being listed the kernel asks an SMB server and waits for its answer, so that a program whose work is done stays, a
//! zombie with one thread in `cifs_closedir`, until the server answers or is given up: after three minutes as a rule.
//! Whatever is let go before is closed by threads that can still be killed: by those that are about to read it, or by ours.
//! What it deliberately does not do: end the threads (the process's end does).

use std::collections::VecDeque;
use std::fs::{self, File};
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::io::{DupFlags, dup3};

/// Standard input, output and error stay.
const FIRST: RawFd = 3;
/// How long one file may take before another thread goes on with the rest.
const PATIENCE: Duration = Duration::from_millis(200);
const STACK_BYTES: usize = 64 << 10;

/// Puts `/dev/null` in place of everything that is open, after which the process can do nothing but end: whoever still runs writes
/// nowhere, and no number leads to another's file. Returns when all is let go but for what hangs.
pub fn let_go() {
    let Ok(null) = File::options().read(true).write(true).open("/dev/null") else { return };
    let null = Arc::new(OwnedFd::from(null));
    let Ok(open) = fs::read_dir("/proc/self/fd") else { return };
    let numbers = open.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<RawFd>().ok());
    let numbers: VecDeque<RawFd> = numbers.filter(|number| *number >= FIRST).collect();
    let waiting = Arc::new(Mutex::new(numbers));
    let next = |waiting: &Mutex<VecDeque<RawFd>>| waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    loop {
        let (done, is_done) = sync_channel::<()>(1);
        let (own, source) = (Arc::clone(&waiting), Arc::clone(&null));
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
