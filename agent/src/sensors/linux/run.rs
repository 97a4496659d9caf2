//! Programs of others, run for what they print, in a sandbox of what the kernel gives without privileges.
//!
//! A program has no input, an environment of its own, a private working directory, a process group of its own, no new
//! privileges (setuid bits do nothing), bounds on time, memory, files and output, and none of the agent's capabilities
//! unless it is given them. Invariants: nothing that it started outlives it in its group; whoever keeps its output open
//! is not waited for. What this deliberately does not do: forbid system calls or hide files (the unit's sandbox does).

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, Mode, OFlags, flock, fstat, open};
use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitId, WaitIdOptions, geteuid, kill_process_group, prlimit, waitid,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, set_capabilities, set_no_new_privs,
};

use crate::clock;

/// After a program has ended, how long what it started may still write.
const GRACE: Duration = Duration::from_millis(200);
/// From one look at a program to the next, at first and at most.
const STEP: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(100));
const MAX_OPEN_FILES: u64 = 256;
/// How directories of programs are called.
const PREFIX: &str = "veghe-agent-";
/// One that is younger is not taken for left behind.
const SWEPT_AGE: Duration = Duration::from_mins(1);
const MAX_FILE_BYTES: u64 = 256 << 20;

/// What becomes of the agent's capabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Privileges {
    /// The program has those that the agent has.
    Kept,
    /// It has none, even where the agent runs as root.
    Dropped,
}

/// What a program may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Until it is killed.
    pub(crate) timeout: Duration,
    /// More output is an error.
    pub(crate) output_bytes: usize,
    /// Memory that it writes to, of each of its processes.
    pub(crate) memory_bytes: u64,
    pub(crate) privileges: Privileges,
}

/// What a program said.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) text: Vec<u8>,
    pub(crate) status: ExitStatus,
}

/// Runs `program`; its standard output, however it ended.
///
/// The calling thread must be made for this: it can't gain privileges any more, and with [`Privileges::Dropped`] has no
/// capabilities from then on.
///
/// # Errors
/// If it can't be started, takes too long or says too much.
pub(crate) fn run(
    program: &Path,
    arguments: &[String],
    environment: &[(String, String)],
    limits: &Limits,
) -> io::Result<Output> {
    confine(limits.privileges)?;
    let scratch = Scratch::new()?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C.UTF-8");
    command.env("HOME", &scratch.path).env("TMPDIR", &scratch.path).current_dir(&scratch.path);
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::null()).stderr(Stdio::null()).stdout(Stdio::piped()).process_group(0);
    let mut child = command.spawn()?;
    let result = watch(&mut child, limits);
    // Whatever the outcome: the zombie goes, and its number is free.
    let status = child.wait()?;
    Ok(Output { text: result?, status })
}

/// What a program that is started by this thread can't get.
fn confine(privileges: Privileges) -> io::Result<()> {
    set_no_new_privs(true)?;
    if privileges == Privileges::Dropped {
        // Old kernels lack ambient capabilities, and then there are none.
        clear_ambient_capability_set().ok();
        let none = CapabilitySet::empty();
        let own = capabilities(None)?;
        // A filter on system calls may forbid even giving up, which matters only where there is something to give up.
        if !(own.effective | own.permitted | own.inheritable).is_empty() {
            let given_up =
                set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none });
            given_up.map_err(|error| {
                io::Error::other(format!("cannot give up capabilities for it ({error}); allow the system call capset"))
            })?;
        }
    }
    Ok(())
}

/// A limit is set from outside a moment after the start, as nothing of ours runs in the child; what counts is used later.
fn limit(pid: Pid, limits: &Limits) {
    let seconds = limits.timeout.as_secs() + 1;
    let all = [
        (Resource::Cpu, seconds),
        (Resource::Data, limits.memory_bytes),
        (Resource::Fsize, MAX_FILE_BYTES),
        (Resource::Nofile, MAX_OPEN_FILES),
        (Resource::Core, 0),
    ];
    for (resource, most) in all {
        // Fails for a program that has ended, and where it may be more than its own limit now.
        prlimit(Some(pid), resource, Rlimit { current: Some(most), maximum: Some(most) }).ok();
    }
}

/// Reads until the program has ended and nobody writes any more, or too long; then the whole group is killed.
fn watch(child: &mut Child, limits: &Limits) -> io::Result<Vec<u8>> {
    let begin = clock::instant();
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
    limit(pid, limits);
    let mut stdout = child.stdout.take();
    if let Some(stdout) = &stdout {
        rustix::io::ioctl_fionbio(stdout, true)?;
    }
    // The child is not waited for before this: until then its number is nobody else's. Fails when all have ended.
    let kill = || {
        kill_process_group(pid, Signal::KILL).ok();
    };
    let (mut text, mut ended, mut step) = (Vec::new(), None::<Instant>, STEP.0);
    loop {
        let is_over = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG);
        if ended.is_none() && is_over?.is_some() {
            kill();
            ended = Some(clock::instant());
        }
        if let Some(open) = &mut stdout {
            match take(open, &mut text) {
                Ok(Pipe::Open) => {}
                Ok(Pipe::Closed) => stdout = None,
                Err(error) => {
                    kill();
                    return Err(error);
                }
            }
        }
        if text.len() > limits.output_bytes {
            kill();
            return Err(io::Error::other(format!("its output has more than {} bytes", limits.output_bytes)));
        }
        if let Some(ended) = ended {
            if stdout.is_none() || ended.elapsed() >= GRACE {
                return Ok(text);
            }
        } else if begin.elapsed() >= limits.timeout {
            kill();
            return Err(io::Error::other(format!("it ran longer than {} s", limits.timeout.as_secs_f64())));
        }
        match &stdout {
            Some(stdout) => {
                let timeout = Timespec::try_from(step).ok();
                // Interrupted or not: it is looked at again.
                poll(&mut [PollFd::new(stdout, PollFlags::IN)], timeout.as_ref()).ok();
            }
            None => thread::sleep(step),
        }
        step = (step * 2).min(STEP.1);
    }
}

enum Pipe {
    Open,
    Closed,
}

/// What is there now, at most 64 KiB.
fn take(pipe: &mut impl io::Read, text: &mut Vec<u8>) -> io::Result<Pipe> {
    let before = text.len();
    match pipe.take(64 << 10).read_to_end(text) {
        Ok(0) => Ok(Pipe::Closed),
        Ok(_) => Ok(Pipe::Open),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock && text.len() >= before => Ok(Pipe::Open),
        Err(error) => Err(error),
    }
}

/// A directory that nobody else can enter, gone with this value.
struct Scratch {
    path: PathBuf,
    /// Locked, so that others see that it is in use; open only in this process.
    _lock: File,
}

impl Scratch {
    fn new() -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        static SWEPT: Once = Once::new();
        SWEPT.call_once(|| sweep(&std::env::temp_dir(), clock::since_epoch()));
        let own = std::process::id();
        loop {
            let path = std::env::temp_dir().join(format!("{PREFIX}{own}-{}", NEXT.fetch_add(1, Relaxed)));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => {
                    let lock = File::open(&path)?;
                    flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
                    return Ok(Self { path, _lock: lock });
                }
                // What a run before with the same number left, or somebody put there: it is not ours.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::debug!(%error, path = %self.path.display(), "cannot remove a program's directory");
        }
    }
}

/// Removes what agents left that were killed while a program ran: their own user's directories that nobody has locked.
fn sweep(directory: &Path, now: Duration) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        // A link of somebody else's leads nowhere.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(opened) = open(entry.path(), flags, Mode::empty()) else { continue };
        let is_left = fstat(&opened).is_ok_and(|stat| {
            // Between its making and its lock it is new.
            let age = now.saturating_sub(Duration::from_secs(stat.st_mtime.unsigned_abs()));
            stat.st_uid == geteuid().as_raw() && age >= SWEPT_AGE
        });
        if is_left && flock(&opened, FlockOperation::NonBlockingLockExclusive).is_ok() {
            fs::remove_dir_all(entry.path()).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_agent_left_is_removed_and_nothing_else() {
        let directory = tempfile::tempdir().expect("directory");
        let path = |name: &str| directory.path().join(name);
        for name in ["veghe-agent-1-0", "veghe-agent-2-0", "others-1-0"] {
            fs::create_dir_all(path(name).join("within")).expect("directory");
        }
        std::os::unix::fs::symlink(path("others-1-0"), path("veghe-agent-3-0")).expect("link");
        let in_use = File::open(path("veghe-agent-2-0")).expect("directory");
        flock(&in_use, FlockOperation::NonBlockingLockExclusive).expect("lock");
        let left = || {
            let entries = fs::read_dir(directory.path()).expect("directory");
            let mut names: Vec<_> = entries.map(|entry| entry.expect("entry").file_name()).collect();
            names.sort();
            names
        };
        sweep(directory.path(), clock::since_epoch());
        assert_eq!(left().len(), 4, "what is new may be somebody's before its lock");
        sweep(directory.path(), clock::since_epoch() + SWEPT_AGE * 2);
        assert_eq!(left(), ["others-1-0", "veghe-agent-2-0", "veghe-agent-3-0"]);
        assert!(path("others-1-0/within").exists());
    }

    const LIMITS: Limits = Limits {
        timeout: Duration::from_mins(1),
        output_bytes: 1 << 20,
        memory_bytes: 1 << 30,
        privileges: Privileges::Dropped,
    };

    /// On a thread of its own, as the sandbox stays with the thread.
    fn shell(script: &str, limits: Limits) -> io::Result<String> {
        let script = script.to_owned();
        let run = move || run(Path::new("/bin/sh"), &["-c".to_owned(), script], &[], &limits);
        let output = thread::spawn(run).join().expect("no panic")?;
        Ok(String::from_utf8(output.text).expect("text"))
    }

    #[test]
    fn a_grandchild_that_keeps_the_output_open_is_not_waited_for() {
        // In the group it is killed; out of it, it can write as long as it likes. Both would sleep beyond the time limit.
        for setsid in ["", "setsid "] {
            let grandchild = format!("{setsid}sh -c 'echo $$; touch ready; exec sleep 600'");
            let text = shell(&format!("{grandchild} & while [ ! -e ready ]; do :; done"), LIMITS).expect("ended well");
            let pid: u32 = text.trim().parse().expect("a number");
            let proc = PathBuf::from(format!("/proc/{pid}/stat"));
            let is_running = || fs::read_to_string(&proc).is_ok_and(|stat| !stat.contains(") Z "));
            if setsid.is_empty() {
                while is_running() {
                    thread::yield_now();
                }
            } else {
                assert!(is_running());
                Command::new("kill").arg(pid.to_string()).status().expect("kill");
            }
        }
    }

    #[test]
    fn a_program_has_no_privileges_no_environment_of_ours_and_a_directory_of_its_own() {
        let text = shell("grep -E '^(NoNewPrivs|CapPrm|CapEff|CapAmb)' /proc/self/status; pwd; env; ls -A", LIMITS);
        let text = text.expect("ended well");
        for line in ["NoNewPrivs:\t1", "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000"] {
            assert!(text.contains(line), "{line}: {text}");
        }
        let directory = text.lines().find(|line| line.contains("veghe-agent-")).expect("a directory");
        assert!(!Path::new(directory).exists(), "{directory} is gone with the program");
        assert!(!text.contains("CARGO"), "{text}");
    }

    #[test]
    fn memory_files_and_time_are_bounded() {
        // The limits are there a moment after the start.
        let wait = format!("while [ \"$(ulimit -n)\" != {MAX_OPEN_FILES} ]; do :; done;");
        let text = shell(&format!("{wait} ulimit -a"), LIMITS).expect("ended well");
        let value = |name: &str| {
            let line = text.lines().find(|line| line.contains(name)).unwrap_or_else(|| panic!("{name}: {text}"));
            line.rsplit([' ', '\t']).next().expect("a value").to_owned()
        };
        assert_eq!(value("data"), (LIMITS.memory_bytes >> 10).to_string());
        assert_eq!(value("nofiles"), MAX_OPEN_FILES.to_string());
        assert_eq!(value("time"), "61");
        let short = Limits { timeout: Duration::from_millis(50), ..LIMITS };
        for script in ["sleep 600", "exec >&-; sleep 600", "while :; do :; done"] {
            assert!(shell(script, short).expect_err(script).to_string().contains("longer than 0.05 s"));
        }
        assert!(shell("yes", LIMITS).expect_err("too much").to_string().contains("more than 1048576 bytes"));
    }
}
