//! Series as a source may tell them that reads with several threads: in another order than theirs.

use std::ops::ControlFlow;

use veghe_model::{Matcher, Need, SeriesData, Timestamp};
use veghe_promql::Source;

use crate::memory::Memory;

/// What takes a series and its place in their order.
pub(crate) type Each<'a> = &'a (dyn Fn(usize, SeriesData) -> ControlFlow<()> + Sync);

/// Gives the series of a memory as its function does: out of order, or from several threads.
pub(crate) struct Scattered<'a>(pub(crate) &'a Memory, pub(crate) fn(&[SeriesData], Each<'_>));

impl Source for Scattered<'_> {
    fn select(
        &self,
        matchers: &[Matcher],
        start: Timestamp,
        end: Timestamp,
    ) -> Result<Vec<SeriesData>, Box<dyn std::error::Error + Send + Sync>> {
        self.0.select(matchers, start, end)
    }

    fn select_each(
        &self,
        matchers: &[Matcher],
        start: Timestamp,
        end: Timestamp,
        _: Need,
        max_samples: usize,
        each: Each<'_>,
    ) -> Result<Option<()>, Box<dyn std::error::Error + Send + Sync>> {
        let Some(all) = self.select_at_most(matchers, start, end, max_samples)? else { return Ok(None) };
        (self.1)(&all, each);
        Ok(Some(()))
    }
}
