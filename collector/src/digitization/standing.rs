//! Where a unit stands, from what happened to it in the order in which it happened.
//!
//! Invariant: a standing depends on the marks alone, not on the order in which they arrived, so that a late event or a
//! correction gives what it would have given in time.

use serde::{Deserialize, Serialize};

use super::calendar::Day;
use super::stage::{Change, Hold, Stage};

/// Something that happened to a unit, images apart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mark {
    /// When, in milliseconds since the epoch.
    pub at_ms: i64,
    /// Its place in the ledger; tells events of the same moment apart.
    pub seq: u64,
    /// The day that it is booked on.
    pub day: Day,
    /// What.
    pub what: What,
    /// The day from which on it counts no more: the one of a correction that came when `day` was frozen.
    pub until: Option<Day>,
}

/// What a [`Mark`] says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum What {
    /// Through the door of a stage; the number names the reason.
    Stage(Stage, Change, Option<u16>),
    /// Images were looked at: good, or not for a reason.
    Qc(bool, u16),
    /// The paper moved: to where, and when it is due back.
    Moved(String, Option<i64>),
    /// A package with it was handed over.
    Delivered,
}

/// A loop from a rejection to the acceptance that ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rework {
    /// When it began.
    pub from: Day,
    /// When it ended; nothing while it goes on.
    pub to: Option<Day>,
    /// Why, by number.
    pub reason: u16,
    /// The event of the ledger that rejected.
    pub seq: u64,
}

/// What a unit does now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Doing {
    /// Waits for the next stage, or for the first.
    #[default]
    Waits,
    /// Is worked on.
    Works,
    /// Can't go on.
    Held(Hold),
}

/// Where a unit stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Standing {
    /// The stage that it is in or came out of last; nothing before the first.
    pub stage: Option<Stage>,
    /// What it does there.
    pub doing: Doing,
    /// Since when, in milliseconds since the epoch.
    pub since_ms: i64,
    /// When work on it began.
    pub started: Option<Day>,
    /// When scanning ended for the first time.
    pub first_scanned: Option<Day>,
    /// When scanning ended last, if it is not being scanned again.
    pub scanned: Option<Day>,
    /// When its images were accepted, if nothing was rejected since.
    pub accepted: Option<Day>,
    /// When it came back to its shelf, if it is there.
    pub returned: Option<Day>,
    /// Whether the first look accepted it, and when.
    pub first_look: Option<(Day, bool)>,
    /// Rejections and what came of them.
    pub rework: Vec<Rework>,
    /// Stages entered once more after a rejection.
    pub reentered: u32,
    /// Where its paper is, if it moved and is not back.
    pub place: Option<String>,
    /// When its paper moved last, in milliseconds since the epoch.
    pub moved_ms: i64,
    /// When its paper is due back, in milliseconds since the epoch.
    pub due_ms: Option<i64>,
    /// Whether a package with it was handed over.
    pub is_delivered: bool,
}

impl Standing {
    /// The standing after `marks`, which are in order of time.
    pub fn after(marks: &[Mark]) -> Self {
        Self::of(marks.iter().filter(|mark| mark.until.is_none()))
    }

    /// The standing at the end of `day`, as far as it was booked by then; what was booked later changes nothing.
    pub fn as_of(marks: &[Mark], day: Day) -> Self {
        Self::of(marks.iter().filter(|mark| mark.day <= day && mark.until.is_none_or(|until| until > day)))
    }

    /// The event of the ledger that made `field` what it is, at the end of `as_of` or now; nothing where it is nothing.
    pub fn decided<T: PartialEq>(
        marks: &[Mark],
        as_of: Option<Day>,
        field: impl Fn(&Self) -> Option<T>,
    ) -> Option<u64> {
        let counts = |mark: &&Mark| match as_of {
            Some(day) => mark.day <= day && mark.until.is_none_or(|until| until > day),
            None => mark.until.is_none(),
        };
        let (mut standing, mut decided) = (Self::default(), None);
        let mut before = field(&standing);
        for mark in marks.iter().filter(counts) {
            standing.take(mark);
            let now = field(&standing);
            if now != before {
                decided = Some(mark.seq);
            }
            before = now;
        }
        before.and(decided)
    }

    fn of<'a>(marks: impl Iterator<Item = &'a Mark>) -> Self {
        let mut standing = Self::default();
        for mark in marks {
            standing.take(mark);
        }
        standing
    }

    /// The day on which it was both accepted and back.
    pub fn done(&self) -> Option<Day> {
        Some(self.accepted?.max(self.returned?))
    }

    /// Whether work began and is not finished.
    pub fn is_in_progress(&self) -> bool {
        self.started.is_some() && self.done().is_none()
    }

    /// The stage whose work it waits for or is in.
    pub fn queue(&self) -> Option<Stage> {
        match (self.stage, self.doing) {
            (Some(stage), Doing::Waits) => Stage::ALL.into_iter().find(|next| *next > stage),
            (stage, _) => stage,
        }
    }

    fn take(&mut self, mark: &Mark) {
        match &mark.what {
            What::Stage(stage, change, _) => self.stage(mark, *stage, *change),
            What::Qc(true, _) => {
                self.first_look.get_or_insert((mark.day, true));
                self.accepted.get_or_insert(mark.day);
                for loop_ in self.rework.iter_mut().filter(|rework| rework.to.is_none()) {
                    loop_.to = Some(mark.day);
                }
            }
            What::Qc(false, reason) => {
                self.first_look.get_or_insert((mark.day, false));
                self.accepted = None;
                self.rework.push(Rework { from: mark.day, to: None, reason: *reason, seq: mark.seq });
            }
            What::Moved(place, due_ms) => {
                self.place = Some(place.clone());
                self.moved_ms = mark.at_ms;
                self.due_ms = *due_ms;
            }
            What::Delivered => self.is_delivered = true,
        }
    }

    fn stage(&mut self, mark: &Mark, stage: Stage, change: Change) {
        match change {
            Change::Enter => {
                if stage > Stage::Inventory {
                    self.started.get_or_insert(mark.day);
                }
                if !self.rework.is_empty() && stage < Stage::Qc && Some(stage) < self.stage {
                    self.reentered += 1;
                }
                if stage == Stage::Scan {
                    self.scanned = None;
                }
                self.returned = (stage == Stage::Returned).then(|| self.returned.unwrap_or(mark.day));
                self.doing = if stage == Stage::Returned { Doing::Waits } else { Doing::Works };
                if stage == Stage::Returned {
                    self.due_ms = None;
                    // It is where the inventory says, unless it went elsewhere with that very step.
                    if self.moved_ms < mark.at_ms {
                        self.place = None;
                    }
                }
            }
            Change::Exit => {
                if stage > Stage::Inventory {
                    self.started.get_or_insert(mark.day);
                }
                if stage == Stage::Scan {
                    self.first_scanned.get_or_insert(mark.day);
                    self.scanned = Some(mark.day);
                }
                self.doing = Doing::Waits;
            }
            Change::Hold(hold) => self.doing = Doing::Held(hold),
            Change::Release => self.doing = Doing::Waits,
        }
        // A hold says where a unit is, not that it went there.
        if !matches!(change, Change::Hold(_) | Change::Release) || self.stage.is_none() {
            self.stage = Some(stage);
        }
        self.since_ms = mark.at_ms;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(steps: &[What]) -> Vec<Mark> {
        (0..)
            .zip(steps)
            .map(|(n, what)| Mark {
                at_ms: n * 86_400_000,
                seq: n as u64,
                day: Day(n as i32),
                what: what.clone(),
                until: None,
            })
            .collect()
    }

    fn step(stage: Stage, change: Change) -> What {
        What::Stage(stage, change, None)
    }

    #[test]
    fn a_unit_is_done_when_it_is_accepted_and_back() {
        let mut steps = vec![
            step(Stage::Prep, Change::Enter),
            step(Stage::Prep, Change::Exit),
            step(Stage::Scan, Change::Enter),
            step(Stage::Scan, Change::Exit),
            step(Stage::Qc, Change::Enter),
            What::Qc(true, 0),
            step(Stage::Qc, Change::Exit),
        ];
        let standing = Standing::after(&marks(&steps));
        assert_eq!((standing.done(), standing.queue(), standing.is_in_progress()), (None, Some(Stage::Ocr), true));
        steps.push(step(Stage::Returned, Change::Enter));
        let standing = Standing::after(&marks(&steps));
        assert_eq!(
            (standing.done(), standing.scanned, standing.first_look),
            (Some(Day(7)), Some(Day(3)), Some((Day(5), true)))
        );
        steps.push(step(Stage::Scan, Change::Enter));
        assert_eq!(Standing::after(&marks(&steps)).done(), None, "taken out again");
    }

    #[test]
    fn a_rejection_takes_acceptance_back_and_its_loop_ends_with_the_next() {
        let steps = [
            step(Stage::Scan, Change::Enter),
            step(Stage::Scan, Change::Exit),
            step(Stage::Qc, Change::Enter),
            What::Qc(false, 4),
            step(Stage::Scan, Change::Enter),
            step(Stage::Scan, Change::Exit),
            What::Qc(true, 0),
        ];
        let rejected = Standing::after(&marks(&steps[..4]));
        assert_eq!((rejected.accepted, rejected.first_look), (None, Some((Day(3), false))));
        let standing = Standing::after(&marks(&steps));
        assert_eq!(standing.rework, [Rework { from: Day(3), to: Some(Day(6)), reason: 4, seq: 3 }]);
        assert_eq!((standing.accepted, standing.reentered), (Some(Day(6)), 1));
    }

    #[test]
    fn a_hold_keeps_the_stage_and_a_release_lets_it_wait() {
        let steps = [step(Stage::Prep, Change::Enter), step(Stage::Prep, Change::Hold(Hold::Conservation))];
        assert_eq!(Standing::after(&marks(&steps)).doing, Doing::Held(Hold::Conservation));
        let steps = [steps[0].clone(), steps[1].clone(), step(Stage::Prep, Change::Release)];
        let standing = Standing::after(&marks(&steps));
        assert_eq!((standing.stage, standing.doing), (Some(Stage::Prep), Doing::Waits));
    }

    #[test]
    fn a_place_stays_until_the_paper_moves_again() {
        let mut steps = vec![What::Moved("scan room".to_owned(), Some(5)), step(Stage::Scan, Change::Enter)];
        let standing = Standing::after(&marks(&steps));
        assert_eq!((standing.place.as_deref(), standing.due_ms), (Some("scan room"), Some(5)));
        steps.push(step(Stage::Returned, Change::Enter));
        let standing = Standing::after(&marks(&steps));
        assert_eq!((standing.place, standing.due_ms), (None, None), "back on its shelf");
    }
}
