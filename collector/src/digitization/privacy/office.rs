//! What the project does about persons: at the door, each hour, and when an administrator looks behind pseudonyms.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use veghe_model::Timestamp;

use super::keys::{KEY_DAYS, Pseudonym, period};
use super::people::{self, Group, Row};
use super::reveal::{self, Deed, Record};
use super::{Operator, Operators, Stripped};
use crate::clock;
use crate::digitization::calendar::Day;
use crate::digitization::event::Event;
use crate::digitization::state::{Production, images_of, minute_of_day};
use crate::digitization::{Digitization, lock};
use crate::ledger::LedgerError;

/// How often weeks are worked out and what is old is erased.
const INTERVAL: Duration = Duration::from_hours(1);
/// Names of one look.
pub const MAX_NAMES: usize = 10_000;
/// Events of one look.
const MAX_DEEDS: usize = 1000;
/// Characters of who looks and why.
const MAX_WORDS: usize = 256;
/// Characters of a reason at least: a word is none.
const LEAST_WHY: usize = 10;
/// Rows of groups that are shown.
const MAX_GROUPS: usize = 400;

/// What an administrator asks.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Look {
    /// The unit whose events are meant.
    pub unit: String,
    /// People who may have done them.
    pub names: Vec<String>,
    /// Who looks.
    pub by: String,
    /// Why.
    pub why: String,
}

/// Not the names.
impl std::fmt::Debug for Look {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { unit, names, by, why } = self;
        f.debug_struct("Look")
            .field("unit", unit)
            .field("names", &names.len())
            .field("by", by)
            .field("why", why)
            .finish()
    }
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// What is on record of the look.
    pub record: Record,
    /// The unit's events of which a pseudonym is kept, oldest first.
    pub deeds: Vec<Deed>,
}

/// Why pseudonyms stay closed.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// There are none.
    #[error("no pseudonyms are kept here; `digitization.privacy.operators: pseudonyms` keeps them from then on")]
    None,
    /// Nobody says who looks.
    #[error("who looks is not said; give a name of 1 to {MAX_WORDS} characters with --by")]
    By,
    /// Nobody says why.
    #[error("the reason is no sentence; say in {LEAST_WHY} to {MAX_WORDS} characters with --why what the look is for")]
    Why,
    /// No names, or too many.
    #[error("{0} names were given; give 1 to {MAX_NAMES}, one on each line")]
    Names(usize),
    /// The unit is not known.
    #[error("no unit {0:?} is in the inventory")]
    Unit(String),
    /// The ledger.
    #[error("cannot read pseudonyms")]
    Ledger(#[from] LedgerError),
}

/// What is known and told of persons.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Overview {
    /// `dropped`, `refused` or `pseudonyms`.
    pub operators: &'static str,
    /// Days for which pseudonyms are kept.
    pub keep_days: i32,
    /// People of whom together something may be told.
    pub smallest_group: usize,
    /// Fields that named a person since the start, by what became of them.
    pub fields: Vec<(&'static str, u64)>,
    /// Events with a pseudonym.
    pub events: u64,
    /// The day of the oldest.
    pub oldest: Option<Day>,
    /// The first day of each key's four weeks.
    pub keys: Vec<Day>,
    /// What groups did, the newest week first.
    pub groups: Vec<Group>,
    /// Looks behind pseudonyms, the newest first.
    pub looks: Vec<Record>,
    /// Whether each record follows from the one before.
    pub is_whole: bool,
}

impl Digitization {
    /// What becomes of the person that `event` names: the objection to it, or the row that is kept.
    pub(in crate::digitization) fn at_the_door(
        &self,
        event: &Event,
        received: Timestamp,
    ) -> Result<Option<Row>, (String, String)> {
        let Stripped { fields, operator } = &event.person;
        if *fields == 0 {
            return Ok(None);
        }
        let (door, settings) = (&self.inner.door, self.settings());
        match settings.privacy.operators {
            Operators::Refused => {
                door.count("refused", *fields);
                let message = "names a person, and this project takes nobody's name; leave the field out";
                Err(("data.operator".to_owned(), message.to_owned()))
            }
            Operators::Dropped => {
                door.count("dropped", *fields);
                Ok(None)
            }
            Operators::Pseudonyms => {
                let row = operator.as_ref().and_then(|operator| self.row(event, operator, received));
                let kept = u64::from(row.is_some());
                door.count("pseudonym", kept);
                door.count("dropped", fields - kept);
                Ok(row)
            }
        }
    }

    /// The row of a person; its number in the ledger is yet to come. Nothing for weeks whose pseudonyms are erased.
    fn row(&self, event: &Event, operator: &Operator, received: Timestamp) -> Option<Row> {
        let settings = self.settings();
        let day = Day::at(event.time, &settings.time_zone);
        let today = Day::at(received, &settings.time_zone);
        if day < people::kept_from(today, settings.privacy.keep_days) {
            return None;
        }
        Some(Row {
            seq: 0,
            day,
            unit: event.data.unit().map(str::to_owned),
            station: event.data.station().map(str::to_owned),
            shift: settings.shift_of(minute_of_day(event.time, settings)),
            images: images_of(&event.data).map_or(0, Production::made),
            pseudonym: self.pseudonym(operator, day)?,
        })
    }

    fn pseudonym(&self, operator: &Operator, day: Day) -> Option<Pseudonym> {
        let door = &self.inner.door;
        let made = door.with_keys(|keys| if keys.has(day) { Ok(false) } else { keys.make(day).map(|()| true) })?;
        match made {
            Ok(false) => {}
            // Pseudonyms of a key that was lost would count its people twice.
            Ok(true) => {
                let from = period(day).0;
                if let Err(error) = self.inner.ledger.with(|c| people::erase(c, from..from + KEY_DAYS)) {
                    tracing::error!(error = &error as &dyn std::error::Error, "cannot erase pseudonyms of a lost key");
                    return None;
                }
            }
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "cannot keep the key of pseudonyms; operators are dropped"
                );
                return None;
            }
        }
        door.with_keys(|keys| keys.pseudonym(&self.settings().project, operator, day)).flatten()
    }

    /// Works out the weeks that are over and erases what is old: keys, and pseudonyms. Blocks.
    ///
    /// # Errors
    /// Where the ledger can't be written; the next hour tries again.
    pub fn settle_people(&self, now: Timestamp) -> Result<(), LedgerError> {
        let settings = self.settings();
        let today = Day::at(now, &settings.time_zone);
        // Nobody writes meanwhile, so that no pseudonym comes after its key went.
        let _turn = lock(&self.inner.writer);
        if settings.privacy.operators != Operators::Pseudonyms {
            return self.inner.ledger.with(|c| {
                people::settle(c, today, settings)?;
                people::erase(c, i32::MIN..i32::MAX).map(drop)
            });
        }
        self.inner.ledger.with(|connection| people::settle(connection, today, settings))?;
        let kept = people::kept_from(today, settings.privacy.keep_days);
        if let Some(Err(error)) = self.inner.door.with_keys(|keys| keys.forget_before(kept)) {
            tracing::error!(error = &error as &dyn std::error::Error, "cannot erase an old key of pseudonyms");
        }
        Ok(())
    }

    /// Looks behind the pseudonyms of a unit's events. The look is on record before this returns. Blocks.
    ///
    /// # Errors
    /// See [`LookError`].
    pub fn look_behind(&self, look: &Look, uid: u32, now: Timestamp) -> Result<Found, LookError> {
        let words = |text: &str| text.chars().filter(|c| !c.is_control()).collect::<String>().trim().to_owned();
        let (who, why) = (words(&look.by), words(&look.why));
        if self.settings().privacy.operators != Operators::Pseudonyms {
            return Err(LookError::None);
        }
        if !(1..=MAX_WORDS).contains(&who.chars().count()) {
            return Err(LookError::By);
        }
        if !(LEAST_WHY..=MAX_WORDS).contains(&why.chars().count()) {
            return Err(LookError::Why);
        }
        let people: Vec<(&String, Operator)> =
            look.names.iter().filter_map(|name| Operator::named(name).map(|operator| (name, operator))).collect();
        if !(1..=MAX_NAMES).contains(&people.len()) {
            return Err(LookError::Names(people.len()));
        }
        if self.state().unit(&look.unit).is_none() {
            return Err(LookError::Unit(look.unit.clone()));
        }
        let rows = self.inner.ledger.with(|connection| reveal::of_unit(connection, &look.unit, MAX_DEEDS))?;
        let project = &self.settings().project;
        let deeds: Vec<Deed> = rows
            .into_iter()
            .map(|(deed, day, pseudonym)| {
                let is_them = |operator: &Operator| {
                    let made = self.inner.door.with_keys(|keys| keys.pseudonym(project, operator, Day(day)));
                    made.flatten() == Some(pseudonym)
                };
                let name = people.iter().find(|(_, operator)| is_them(operator)).map(|(name, _)| (*name).clone());
                Deed { name, ..deed }
            })
            .collect();
        let record = Record {
            at_ms: now.0,
            who,
            uid,
            why,
            unit: look.unit.clone(),
            names: people.len() as u64,
            events: deeds.len() as u64,
            found: deeds.iter().filter(|deed| deed.name.is_some()).count() as u64,
            ..Record::default()
        };
        let record = self.inner.ledger.with(|connection| {
            let transaction = connection.transaction()?;
            let record = reveal::note(&transaction, record)?;
            transaction.commit()?;
            Ok(record)
        })?;
        tracing::warn!(number = record.number, uid, "somebody looked behind pseudonyms; the record says who and why");
        Ok(Found { record, deeds })
    }

    /// What groups of people did, the newest week first. Blocks.
    ///
    /// # Errors
    /// Where the ledger can't be read.
    pub fn people(&self) -> Result<Vec<Group>, LedgerError> {
        self.inner.ledger.with(|connection| people::weeks(connection, MAX_GROUPS))
    }

    /// What is known and told of persons. Blocks.
    ///
    /// # Errors
    /// Where the ledger can't be read.
    pub fn privacy(&self) -> Result<Overview, LedgerError> {
        let privacy = &self.settings().privacy;
        let (groups, (looks, is_whole), (events, oldest)) = self.inner.ledger.with(|connection| {
            let groups = people::weeks(connection, MAX_GROUPS)?;
            Ok((groups, reveal::records(connection)?, people::held(connection)?))
        })?;
        Ok(Overview {
            operators: privacy.operators.name(),
            keep_days: privacy.keep_days.into(),
            smallest_group: super::SMALLEST_GROUP,
            fields: self.inner.door.counts().to_vec(),
            events,
            oldest,
            keys: self.inner.door.with_keys(|keys| keys.periods()).unwrap_or_default(),
            groups,
            looks,
            is_whole,
        })
    }
}

/// Works out weeks and erases what is old, each hour until `stop`.
pub fn start(project: Digitization, stop: CancellationToken, tasks: &TaskTracker) {
    tasks.spawn(async move {
        while !stop.is_cancelled() {
            let turn = project.clone();
            match tokio::task::spawn_blocking(move || turn.settle_people(clock::now())).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "cannot erase old pseudonyms; it is tried again in an hour"
                    );
                }
                Err(panicked) => {
                    tracing::error!(error = &panicked as &dyn std::error::Error, "erasing old pseudonyms panicked");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = stop.cancelled() => {}
            }
        }
    });
}
