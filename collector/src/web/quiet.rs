//! One line of the log a minute for what may happen with every request, and how many more there would have been.

use std::time::{Duration, Instant};

/// Between two lines.
const SILENCE: Duration = Duration::from_mins(1);

/// When something was said last, and how often it happened since.
#[derive(Debug, Default)]
pub(super) struct Quiet {
    said: Option<Instant>,
    unsaid: u64,
}

impl Quiet {
    /// It happened at `now`: how often it did since the last line before, where this one is to be said; none where not.
    pub(super) fn happened(&mut self, now: Instant) -> Option<u64> {
        if self.said.is_some_and(|said| now.saturating_duration_since(said) < SILENCE) {
            self.unsaid += 1;
            return None;
        }
        self.said = Some(now);
        Some(std::mem::take(&mut self.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn a_line_a_minute_tells_how_many_were_not_said() {
        let (mut quiet, begin) = (Quiet::default(), clock::instant());
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        assert_eq!(quiet.happened(at(0)), Some(0));
        assert_eq!([1, 20, 59].map(|s| quiet.happened(at(s))), [None; 3]);
        assert_eq!(quiet.happened(at(60)), Some(3));
        assert_eq!(quiet.happened(at(61)), None);
        assert_eq!(quiet.happened(at(500)), Some(1));
    }
}
