//! How slow a client may be whose request holds a turn: not by its silence alone, which a byte now and then breaks, but by
//! all its waits together. What it deliberately does not do: count the time that we take ourselves.

use std::time::Duration;

/// The waits of one client and what it moved meanwhile.
#[derive(Debug)]
pub(super) struct Pace {
    silence: Duration,
    grace: Duration,
    bytes_per_second: u64,
    waited: Duration,
    bytes: u64,
}

impl Pace {
    /// A client that may do nothing for `silence`, and may take `grace` in all beside the time that its bytes take at
    /// `bytes_per_second`.
    pub(super) fn new(silence: Duration, grace: Duration, bytes_per_second: u64) -> Self {
        Self { silence, grace, bytes_per_second, waited: Duration::ZERO, bytes: 0 }
    }

    /// How long may be waited for it now.
    pub(super) fn patience(&self) -> Duration {
        let earned = Duration::from_secs(self.bytes / self.bytes_per_second.max(1));
        (self.grace + earned).saturating_sub(self.waited).min(self.silence)
    }

    /// It moved `bytes` after `waited`.
    pub(super) fn moved(&mut self, bytes: usize, waited: Duration) {
        self.waited += waited;
        self.bytes += bytes as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_now_and_then_wears_patience_out_and_a_steady_stream_does_not() {
        let seconds = Duration::from_secs;
        let new = || Pace::new(seconds(60), seconds(120), 1_000);
        let mut drip = new();
        assert_eq!(drip.patience(), seconds(60));
        drip.moved(1, seconds(59));
        assert_eq!(drip.patience(), seconds(60));
        drip.moved(1, seconds(59));
        assert_eq!(drip.patience(), seconds(2));
        drip.moved(1, seconds(2));
        assert_eq!(drip.patience(), Duration::ZERO);
        let mut steady = new();
        for _ in 0..1_000 {
            steady.moved(10_000, seconds(10));
            assert_eq!(steady.patience(), seconds(60));
        }
    }
}
