//! The calling thread as one that yields to everybody: the lowest CPU priority that still runs, the disk only while nobody
//! else wants it.

/// The niceness of threads that read whole files.
const NICENESS: i32 = 10;
/// `IOPRIO_WHO_PROCESS` with the id 0 is the calling thread; `IOPRIO_CLASS_IDLE` is 3, in the upper bits.
const WHO_PROCESS: libc::c_int = 1;
const CLASS_IDLE: libc::c_int = 3 << 13;

/// Makes the calling thread polite; where the system refuses it stays as it is.
pub(crate) fn yield_to_others() {
    if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
        tracing::debug!(%error, "cannot lower the CPU priority");
    }
    #[expect(unsafe_code, reason = "rustix does not wrap ioprio_set; it takes three numbers and touches no memory")]
    let result = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, CLASS_IDLE) };
    if result != 0 {
        tracing::debug!("cannot lower the disk priority");
    }
}
