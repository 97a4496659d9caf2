//! Reports of weeks and months: made once, frozen, chained, and written as XLSX and CSV.
//!
//! Invariants: a report stands on frozen days only, so what it says follows from the ledger; a report never changes, what
//! comes later is in the next. What it deliberately does not do: send mail or serve HTTP.

mod chain;
mod csv;
mod desk;
mod figures;
mod period;
#[cfg(test)]
mod tests;
pub mod words;
mod xlsx;

use veghe_model::Timestamp;

pub use self::chain::{Header, Issued, Verified};
pub use self::desk::{Answer, Question, answer};
pub use self::figures::{
    Billing, CorrectionFigures, DayFigures, Figures, Growth, InvoiceFigures, OutputFigures, PlanFigures, ReworkFigures,
    StageFigures, Tally,
};
pub use self::period::{Length, Period};
pub use self::words::Language;

pub(crate) use self::chain::SCHEMA;

use super::calendar::Day;
use super::facts::Facts;
use super::{Digitization, frozen, lock};
use crate::ledger::LedgerError;

/// Reports that are made at once where none was for long.
const MAX_DUE: usize = 60;
/// How long a report that could not be mailed is tried again: a week.
const MAIL_FOR_MS: i64 = 7 * 86_400_000;

/// Which reports are made by themselves, when, and who gets them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Whether weeks are reported.
    pub weekly: bool,
    /// Whether months are reported.
    pub monthly: bool,
    /// From which minute of the local day on, on the first day after the period.
    pub at: u16,
    /// In which languages they are mailed.
    pub languages: Vec<Language>,
    /// By which of the alerting's mail receivers.
    pub mail: Vec<String>,
}

impl Default for Schedule {
    fn default() -> Self {
        Self { weekly: true, monthly: true, at: 7 * 60, languages: vec![Language::Romanian], mail: Vec::new() }
    }
}

/// Why a report is not made.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// Its period goes on.
    #[error("{0} is not over yet; until then there is only a draft")]
    NotOver(Period),
    /// There is nothing to report about.
    #[error("there is no inventory yet; `veghe-collector inventory import FILE` makes one")]
    Empty,
    /// The ledger.
    #[error("cannot keep the report")]
    Ledger(#[from] LedgerError),
}

/// A part of a tally.
pub type Part = fn(Tally) -> i64;

/// A report in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// A workbook with charts.
    Xlsx,
    /// Lines of section, item, measure and value.
    Csv,
    /// The data as they are frozen.
    Json,
}

impl Form {
    /// Every form.
    pub const ALL: [Self; 3] = [Self::Xlsx, Self::Csv, Self::Json];

    /// The end of the file's name.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Xlsx => "xlsx",
            Self::Csv => "csv",
            Self::Json => "json",
        }
    }

    /// The media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Xlsx => "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
            Self::Csv => "text/csv; charset=utf-8",
            Self::Json => "application/json",
        }
    }
}

/// A report, or the draft of one: where nothing is frozen there is no number and no digest.
#[derive(Clone, Debug, PartialEq)]
pub enum Paper {
    /// Frozen.
    Issued(Box<Issued>),
    /// What is known so far.
    Draft(Box<Figures>),
}

impl Paper {
    /// What it says.
    pub fn figures(&self) -> &Figures {
        match self {
            Self::Issued(issued) => &issued.figures,
            Self::Draft(figures) => figures,
        }
    }

    /// The report, if it is frozen.
    pub fn issued(&self) -> Option<&Issued> {
        match self {
            Self::Issued(issued) => Some(issued),
            Self::Draft(_) => None,
        }
    }

    /// The file.
    ///
    /// # Errors
    /// Where it can't be written, which is a defect.
    pub fn write(&self, form: Form, language: Language) -> Result<Vec<u8>, WriteError> {
        match form {
            Form::Xlsx => Ok(xlsx::write(self, language)?),
            Form::Csv => Ok(csv::write(self, language).into_bytes()),
            Form::Json => Ok(match self {
                Self::Issued(issued) => serde_json::to_vec_pretty(issued),
                Self::Draft(figures) => serde_json::to_vec_pretty(figures),
            }?),
        }
    }

    /// The name of the file.
    pub fn file_name(&self, form: Form, language: Language) -> String {
        let draft = if self.issued().is_some() { "" } else { "-draft" };
        match form {
            Form::Json => format!("veghe-{}{draft}.json", self.figures().period),
            Form::Xlsx | Form::Csv => {
                format!("veghe-{}{draft}-{}.{}", self.figures().period, language.tag(), form.extension())
            }
        }
    }
}

/// Why a report can't be written as a file.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// As a workbook.
    #[error("cannot write the workbook")]
    Xlsx(#[from] rust_xlsxwriter::XlsxError),
    /// As JSON.
    #[error("cannot write JSON")]
    Json(#[from] serde_json::Error),
}

impl Digitization {
    /// The report of `period`, or what is known of it so far. Blocks.
    ///
    /// # Errors
    /// Where the ledger can't be read.
    pub fn paper(&self, period: Period) -> Result<Paper, LedgerError> {
        if let Some(issued) = self.inner.ledger.with(|connection| chain::find(connection, period))? {
            return Ok(Paper::Issued(Box::new(issued)));
        }
        let state = self.state();
        let facts = Facts::of(&state, self.settings());
        Ok(Paper::Draft(Box::new(figures::count(&state, &facts, period, self.settings()))))
    }

    /// Freezes every day up to the end of `period` and makes its report; one that is there already stays. Blocks.
    ///
    /// # Errors
    /// See [`IssueError`]; then nothing changed.
    pub fn issue(&self, period: Period, now: Timestamp) -> Result<Issued, IssueError> {
        if period.last() >= Day::at(now, &self.settings().time_zone) {
            return Err(IssueError::NotOver(period));
        }
        // Nothing else is booked meanwhile.
        let mut writer = lock(&self.inner.writer);
        if let Some(issued) = self.inner.ledger.with(|connection| chain::find(connection, period))? {
            return Ok(issued);
        }
        let (figures, is_frozen) = {
            let state = self.state();
            if state.scope().next().is_none() {
                return Err(IssueError::Empty);
            }
            let facts = Facts::of(&state, self.settings());
            let is_frozen = state.frozen_through.is_some_and(|frozen| frozen >= period.last());
            (figures::count(&state, &facts, period, self.settings()), is_frozen)
        };
        let rows = if is_frozen { Vec::new() } else { vec![frozen(&writer, period.last(), now)] };
        Ok(self.keep(&mut writer, rows, |transaction| chain::append(transaction, figures, now))?)
    }

    /// Makes every report that is due, oldest first: those after the last of their length, or where there is none yet the
    /// last that is over. Blocks.
    ///
    /// # Errors
    /// See [`IssueError`]; those made before it stay.
    pub fn issue_due(&self, schedule: &Schedule, now: Timestamp) -> Result<Vec<Issued>, IssueError> {
        let today = Day::at(now, &self.settings().time_zone);
        // Before the hour of its day the last period is not due.
        let minute = super::state::minute_of_day(now, self.settings());
        let over = if minute >= schedule.at { today } else { Day(today.0 - 1) };
        let Some(first_day) = self.first_day() else { return Ok(Vec::new()) };
        let issued = self.issued(usize::MAX >> 1)?;
        let mut due = Vec::new();
        for (length, wanted) in [(Length::Week, schedule.weekly), (Length::Month, schedule.monthly)] {
            if !wanted {
                continue;
            }
            let newest = Period::containing(length, over).previous();
            let last = issued.iter().map(|header| header.period).filter(|period| period.length() == length).max();
            let mut next = last.map_or(newest, Period::next);
            while next <= newest && due.len() < MAX_DUE {
                if next.last() >= first_day {
                    due.push(next);
                }
                next = next.next();
            }
        }
        due.sort_by_key(|period| (period.last(), period.length()));
        due.into_iter().map(|period| self.issue(period, now)).collect()
    }

    /// The day of the first event about a unit of the inventory.
    fn first_day(&self) -> Option<Day> {
        let state = self.state();
        let made = state.production.keys().next().map(|(day, _, _)| *day);
        state.scope().filter_map(|unit| unit.marks.iter().map(|mark| mark.day).min()).chain(made).min()
    }

    /// Reports, the newest first, at most `most`.
    ///
    /// # Errors
    /// Where the ledger can't be read.
    pub fn issued(&self, most: usize) -> Result<Vec<Header>, LedgerError> {
        self.inner.ledger.with(|connection| chain::headers(connection, most))
    }

    /// Checks that every report is as it was made and follows from the one before.
    ///
    /// # Errors
    /// Where the ledger can't be read.
    pub fn verify_reports(&self) -> Result<Verified, LedgerError> {
        self.inner.ledger.with(|connection| chain::verify(connection))
    }

    /// Reports of the last week that were not mailed, oldest first.
    ///
    /// # Errors
    /// Where the ledger can't be read.
    pub fn unmailed(&self, now: Timestamp) -> Result<Vec<Issued>, LedgerError> {
        self.inner.ledger.with(|connection| {
            let recent = chain::headers(connection, MAX_DUE * 2)?;
            let recent =
                recent.into_iter().filter(|one| one.mailed_ms.is_none() && one.issued_ms > now.0 - MAIL_FOR_MS);
            let mut reports = Vec::new();
            for header in recent {
                reports.extend(chain::find(connection, header.period)?);
            }
            reports.reverse();
            Ok(reports)
        })
    }

    /// Notes that the report of `period` was mailed.
    ///
    /// # Errors
    /// Where the ledger can't be written.
    pub fn note_mailed(&self, period: Period, at: Timestamp) -> Result<(), LedgerError> {
        self.inner.ledger.with(|connection| chain::mailed(connection, period, at))
    }
}
