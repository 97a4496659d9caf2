//! The only place of the agent that asks what time it is.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Time since the Unix epoch by the system's clock; zero for a clock that is set before it.
#[expect(clippy::disallowed_methods, reason = "the one home of the wall clock")]
pub fn since_epoch() -> std::time::Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Milliseconds since the Unix epoch by the system's clock.
pub fn now_ms() -> i64 {
    i64::try_from(since_epoch().as_millis()).unwrap_or(i64::MAX)
}

/// Now, by a clock that never goes back; for deadlines and durations.
#[expect(clippy::disallowed_methods, reason = "the one home of the monotonic clock")]
pub fn instant() -> Instant {
    Instant::now()
}

/// Processor time of the present thread; zero where the system does not tell.
pub fn thread_cpu() -> std::time::Duration {
    #[cfg(target_os = "linux")]
    {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        std::time::Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
    }
    #[cfg(not(target_os = "linux"))]
    std::time::Duration::ZERO
}
