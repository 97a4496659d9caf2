//! A bound on how often one remote address may do something costly or guessable.
//!
//! Invariant: memory is bounded; where more addresses come than there is room for, the one not seen for longest is
//! forgotten. An IPv6 client is known by its /64, since it has all of that network to itself.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Addresses remembered at once.
const MAX_ADDRESSES: usize = 4096;

/// A token bucket for each address.
#[derive(Debug)]
pub(super) struct Rate {
    burst: f64,
    refill: Duration,
    buckets: Mutex<HashMap<IpAddr, Bucket>>,
}

#[derive(Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Rate {
    /// `burst` at once, then one every `refill`.
    pub(super) fn new(burst: u32, refill: Duration) -> Self {
        Self { burst: f64::from(burst), refill, buckets: Mutex::default() }
    }

    /// Whether `remote` has something left at `now`; takes nothing.
    pub(super) fn has(&self, remote: IpAddr, now: Instant) -> bool {
        let buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        buckets.get(&network(remote)).is_none_or(|bucket| self.left(bucket, now) >= 1.0)
    }

    /// Takes one of what `remote` has; `false` where nothing was left.
    pub(super) fn take(&self, remote: IpAddr, now: Instant) -> bool {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let remote = network(remote);
        if buckets.len() >= MAX_ADDRESSES && !buckets.contains_key(&remote) {
            let oldest = buckets.iter().min_by_key(|(_, bucket)| bucket.at).map(|(remote, _)| *remote);
            oldest.and_then(|remote| buckets.remove(&remote));
        }
        let bucket = buckets.entry(remote).or_insert(Bucket { left: self.burst, at: now });
        bucket.left = self.left(bucket, now);
        bucket.at = now;
        let enough = bucket.left >= 1.0;
        if enough {
            bucket.left -= 1.0;
        }
        enough
    }

    fn left(&self, bucket: &Bucket, now: Instant) -> f64 {
        let refilled = now.saturating_duration_since(bucket.at).as_secs_f64() / self.refill.as_secs_f64();
        (bucket.left + refilled).min(self.burst)
    }
}

fn network(remote: IpAddr) -> IpAddr {
    match remote.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            std::net::Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_followed_by_one_at_a_time_and_each_address_has_its_own() {
        let rate = Rate::new(2, Duration::from_secs(10));
        let start = crate::clock::instant();
        let (a, b): (IpAddr, IpAddr) = ("10.0.0.1".parse().expect("ip"), "10.0.0.2".parse().expect("ip"));
        assert!(rate.take(a, start) && rate.take(a, start) && !rate.take(a, start) && !rate.has(a, start));
        assert!(rate.has(b, start) && rate.take(b, start));
        assert!(rate.take(a, start + Duration::from_secs(10)) && !rate.take(a, start + Duration::from_secs(11)));
    }

    #[test]
    fn a_crowd_of_addresses_takes_no_more_than_its_room() {
        let rate = Rate::new(1, Duration::from_secs(10));
        let now = crate::clock::instant();
        for n in 0..2 * MAX_ADDRESSES as u32 {
            rate.take(IpAddr::V4(n.into()), now + Duration::from_millis(n.into()));
        }
        assert_eq!(rate.buckets.lock().expect("lock").len(), MAX_ADDRESSES);
    }
}
