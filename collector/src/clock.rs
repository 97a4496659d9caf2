//! The only place of the collector that asks what time it is.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use veghe_model::Timestamp;

/// Now, by the system's clock.
#[expect(clippy::disallowed_methods, reason = "the one home of the wall clock")]
pub fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
}

/// Now, by a clock that never goes back; for deadlines and durations.
#[expect(clippy::disallowed_methods, reason = "the one home of the monotonic clock")]
pub fn instant() -> Instant {
    Instant::now()
}
