//! Progress and forecast together, counted once for each day and state of the ledger and then shared.

use std::sync::{Arc, PoisonError};

use serde::Serialize;
use veghe_model::Timestamp;

use super::calendar::Day;
use super::facts::{Facts, Goal, Known};
use super::forecast::{Forecast, Honesty, Move, RUNS, explain, look_back, simulate};
use super::progress::{Progress, measure};
use super::{Digitization, Settings};

/// What a project's people want to know.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// How far it is.
    pub progress: Progress,
    /// When it will be done; nothing where there is too little to go by.
    pub forecast: Option<Forecast>,
    /// The same as a week ago, and what moved it.
    pub moved: Option<Move>,
    /// How earlier forecasts held.
    pub honesty: Honesty,
    /// What the forecast stands on.
    #[serde(skip)]
    pub known: Option<Known>,
}

/// The last report, and what it is of.
pub(super) type Cache = std::sync::Mutex<Option<(u64, Day, Arc<Report>)>>;

impl Digitization {
    /// The report of `now`: some tens of milliseconds once after each event, nothing otherwise. Blocks.
    pub fn report(&self, now: Timestamp) -> Arc<Report> {
        let settings = self.settings();
        let today = Day::at(now, &settings.time_zone);
        // Held while it is counted: whoever asks meanwhile waits for the same.
        let mut cache = self.inner.report.lock().unwrap_or_else(PoisonError::into_inner);
        let state = self.state();
        if let Some((seq, day, report)) = cache.as_ref()
            && (*seq, *day) == (state.last_seq, today)
        {
            return Arc::clone(report);
        }
        let progress = measure(&state, now, settings);
        let facts = Facts::of(&state, settings);
        let seq = state.last_seq;
        drop(state);
        // Looking back costs most and changes with the day, as far as anybody can tell, and with the very end.
        let kept = cache.as_ref().filter(|(_, day, _)| *day == today).map(|(_, _, report)| Arc::clone(report));
        let report = Arc::new(make(progress, &facts, today, settings, kept.as_deref()));
        *cache = Some((seq, today, Arc::clone(&report)));
        report
    }
}

fn make(progress: Progress, facts: &Facts, today: Day, settings: &Settings, kept: Option<&Report>) -> Report {
    // Today is not over: the forecast knows the days before.
    let yesterday = Day(today.0 - 1);
    let known = facts.known(yesterday, Goal::AllReturned, settings);
    let forecast = known.as_ref().and_then(|known| simulate(known, settings, RUNS));
    let before = facts.known(Day(yesterday.0 - 7), Goal::AllReturned, settings);
    let moved = before.zip(known.as_ref()).and_then(|(before, now)| explain(&before, now, settings));
    let honesty = match kept {
        Some(report) if report.honesty.finished == facts.finished() => report.honesty.clone(),
        _ => look_back(facts, today, settings),
    };
    Report { progress, forecast, moved, honesty, known }
}
