//! A budget for the log: so many lines a minute, so that nothing that goes wrong ten times a second fills a disk.
//!
//! Lines beyond are counted in `veghe_agent_log_lines_dropped_total`, and a line each minute says how many there were.
//! What it deliberately does not do: choose. A life cycle has few lines; whoever needs more raises the detail and the
//! budget with it, which is for `info` and above.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Filter};

use crate::clock;

/// Lines that may come at once, and in each minute after that.
const LINES: u32 = 300;
const MINUTE: Duration = Duration::from_mins(1);

static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Lines that were left out since the start.
pub fn dropped_total() -> u64 {
    DROPPED.load(Relaxed)
}

/// A bucket of lines that fills again with time.
#[derive(Debug)]
struct Bucket {
    lines: f64,
    filled: Instant,
}

impl Bucket {
    fn full(now: Instant) -> Self {
        Self { lines: f64::from(LINES), filled: now }
    }

    /// Whether a line may be written.
    fn take(&mut self, now: Instant) -> bool {
        let fresh = now.saturating_duration_since(self.filled).as_secs_f64() / MINUTE.as_secs_f64() * f64::from(LINES);
        (self.lines, self.filled) = ((self.lines + fresh).min(f64::from(LINES)), now);
        let has_one = self.lines >= 1.0;
        if has_one {
            self.lines -= 1.0;
        }
        has_one
    }
}

/// Lets lines of `info` and above pass as long as the budget lasts; finer ones are there because somebody asked for them.
#[derive(Debug)]
pub struct Budget(Mutex<Bucket>);

impl Default for Budget {
    fn default() -> Self {
        Self(Mutex::new(Bucket::full(clock::instant())))
    }
}

impl<S: Subscriber> Filter<S> for Budget {
    fn enabled(&self, _metadata: &Metadata<'_>, _context: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _context: &Context<'_, S>) -> bool {
        if *event.metadata().level() > Level::INFO {
            return true;
        }
        let may = self.0.lock().unwrap_or_else(PoisonError::into_inner).take(clock::instant());
        if !may {
            DROPPED.fetch_add(1, Relaxed);
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};

    use super::*;

    #[test]
    fn a_flood_ends_with_the_budget_which_fills_again_with_time() {
        let begin = clock::instant();
        let mut bucket = Bucket::full(begin);
        let passed = (0..1000).filter(|_| bucket.take(begin)).count();
        assert_eq!(passed, LINES as usize);
        assert!(bucket.take(begin + MINUTE / LINES * 2));
        let later = begin + MINUTE * 60;
        assert_eq!((0..1000).filter(|_| bucket.take(later)).count(), LINES as usize);
    }

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("lock").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn real_lines_are_left_out_and_counted() {
        let lines = Lines::default();
        let writer = lines.clone();
        let layer = tracing_subscriber::fmt::layer().with_writer(move || writer.clone()).with_filter(Budget::default());
        let before = dropped_total();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            for i in 0..LINES + 50 {
                tracing::warn!(i, "it fails again");
            }
        });
        let written = String::from_utf8(lines.0.lock().expect("lock").clone()).expect("text").lines().count() as u64;
        let dropped = dropped_total() - before;
        assert_eq!(written + dropped, u64::from(LINES) + 50);
        assert!(dropped >= 49, "{dropped}");
    }
}
