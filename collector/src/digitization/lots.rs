//! Lots: a batch is drawn from, looked at, and accepted or rejected; the minutes keep it.
//!
//! Invariants: what is drawn is in the ledger before anybody looks; the verdict follows from the plan, nobody chooses it; a
//! lot is drawn once until it is judged.

use serde::{Deserialize, Serialize};
use serde_json::json;
use veghe_model::Timestamp;

use super::event::{Data, Target};
use super::sampling::{self, Inspection, Plan};
use super::{Digitization, lock, own};
use crate::ledger::LedgerError;

/// The most images of one sample that are kept.
const MAX_BATCH_IMAGES: i64 = 10_000_000;

/// An image of a lot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drawn {
    /// Of which unit.
    pub unit: String,
    /// Which of its images, from 1.
    pub image: u32,
}

/// A draw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draw {
    /// Of which batch.
    pub batch: String,
    /// Its units.
    pub units: u32,
    /// Its images.
    pub images: u32,
    /// The plan.
    pub plan: Plan,
    /// What the draw follows from.
    pub seed: String,
    /// What is to be looked at.
    pub drawn: Vec<Drawn>,
}

/// What was found in a sample.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// When.
    pub at: Timestamp,
    /// Bad images of the sample.
    pub defects: u32,
    /// Whether the lot is good.
    pub is_accepted: bool,
    /// Why not.
    pub reason: Option<String>,
}

/// A lot as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lot {
    /// When it was drawn.
    pub at: Timestamp,
    /// Its place in the ledger.
    pub seq: u64,
    /// The draw.
    pub draw: Draw,
    /// The verdict, once there is one.
    pub verdict: Option<Verdict>,
}

/// Why a lot is not drawn or judged.
#[derive(Debug, thiserror::Error)]
pub enum LotError {
    /// No unit of the inventory is in the batch.
    #[error("no unit of the inventory is in batch `{0}`")]
    UnknownBatch(String),
    /// Nothing to look at.
    #[error("batch `{0}` has no image yet")]
    NoImages(String),
    /// It waits for its verdict.
    #[error("batch `{0}` is drawn already; give its verdict first")]
    DrawnAlready(String),
    /// There is nothing to judge.
    #[error("batch `{0}` is not drawn, or judged already; draw it first")]
    NotDrawn(String),
    /// The limit is not of the standard.
    #[error("the acceptable quality limit is none of ISO 2859-1: {}", limits())]
    Limit,
    /// More bad images than were looked at.
    #[error("{defects} of {sample} images can't be bad")]
    Defects {
        /// What was said.
        defects: u32,
        /// What was looked at.
        sample: u32,
    },
    /// A rejection without a reason.
    #[error("the lot is rejected: say in a word why, for example `skew`")]
    Reason,
    /// No random bytes.
    #[error("cannot make a seed")]
    Random(#[source] getrandom::Error),
    /// The ledger.
    #[error("cannot keep the lot")]
    Ledger(#[from] LedgerError),
}

fn limits() -> String {
    sampling::limits().iter().map(|limit| percent(*limit)).collect::<Vec<_>>().join(", ")
}

/// A limit in per cent: `1.5`, `0.065`.
pub fn percent(limit: u32) -> String {
    format!("{}", f64::from(limit) / 1000.0)
}

impl Digitization {
    /// Draws a sample of the batch's images. Blocks.
    ///
    /// # Errors
    /// See [`LotError`]; then nothing changed.
    pub fn draw_lot(&self, batch: &str, inspection: Inspection, limit: u32, now: Timestamp) -> Result<Lot, LotError> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(LotError::Random)?;
        let seed = format!("{:032x}", u128::from_be_bytes(random));
        let mut writer = lock(&self.inner.writer);
        let draw = {
            let state = self.state();
            if state.lots.get(batch).is_some_and(|lot| lot.verdict.is_none()) {
                return Err(LotError::DrawnAlready(batch.to_owned()));
            }
            let mut units: Vec<(&str, i64)> = state
                .scope()
                .filter(|unit| unit.unit.batch == batch)
                .map(|unit| (unit.unit.code.as_str(), unit.images.max(0)))
                .collect();
            if units.is_empty() {
                return Err(LotError::UnknownBatch(batch.to_owned()));
            }
            units.sort_unstable();
            let images: i64 = units.iter().map(|(_, images)| images).sum::<i64>().min(MAX_BATCH_IMAGES);
            if images == 0 {
                return Err(LotError::NoImages(batch.to_owned()));
            }
            let plan = sampling::plan(images as u32, inspection, limit).ok_or(LotError::Limit)?;
            let drawn = sampling::draw(&seed, images as u32, plan.sample)
                .into_iter()
                .map(|place| {
                    let mut left = i64::from(place);
                    let unit = units.iter().find(|(_, images)| {
                        let is_here = left < *images;
                        left -= if is_here { 0 } else { *images };
                        is_here
                    });
                    Drawn { unit: unit.map_or("", |(unit, _)| *unit).to_owned(), image: left as u32 + 1 }
                })
                .collect();
            Draw { batch: batch.to_owned(), units: units.len() as u32, images: images as u32, plan, seed, drawn }
        };
        let json = json!(draw).to_string();
        let row = own(&writer, format!("lot:{}", draw.seed), Data::LotDrawn(Box::new(draw)), json, now);
        self.keep(&mut writer, vec![row], |_transaction| Ok(()))?;
        let lot = self.state().lots.get(batch).cloned();
        lot.ok_or_else(|| LotError::NotDrawn(batch.to_owned()))
    }

    /// Judges the lot of a batch by what was found in its sample. Blocks.
    ///
    /// # Errors
    /// See [`LotError`]; then nothing changed.
    pub fn judge_lot(
        &self,
        batch: &str,
        defects: u32,
        reason: Option<String>,
        now: Timestamp,
    ) -> Result<Lot, LotError> {
        let mut writer = lock(&self.inner.writer);
        let lot = self.state().lots.get(batch).filter(|lot| lot.verdict.is_none()).cloned();
        let lot = lot.ok_or_else(|| LotError::NotDrawn(batch.to_owned()))?;
        let plan = lot.draw.plan;
        if defects > plan.sample {
            return Err(LotError::Defects { defects, sample: plan.sample });
        }
        let is_accepted = defects <= plan.accept;
        let reason = if is_accepted { None } else { Some(reason.ok_or(LotError::Reason)?) };
        let outcome = if is_accepted { "accepted" } else { "rejected" };
        let mut data = json!({ "batch": batch, "outcome": outcome, "checked": plan.sample, "rejected": defects });
        if let Some(reason) = &reason {
            data["reason"] = json!(reason);
        }
        let of = Target::Batch(batch.to_owned());
        let verdict = Data::Qc { of, is_accepted, reason, checked: plan.sample, rejected: defects };
        let row = own(&writer, format!("verdict:{}", lot.draw.seed), verdict, data.to_string(), now);
        self.keep(&mut writer, vec![row], |_transaction| Ok(()))?;
        let lot = self.state().lots.get(batch).cloned();
        lot.ok_or_else(|| LotError::NotDrawn(batch.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::digitization::Settings;
    use crate::digitization::event::parse;

    fn at(text: &str) -> Timestamp {
        Timestamp(text.parse::<jiff::Timestamp>().expect(text).as_millisecond())
    }

    #[test]
    fn a_lot_is_drawn_once_and_judged_by_its_plan() {
        let project = Digitization::in_memory(Settings::default());
        let now = at("2026-05-14T09:00:00Z");
        let event = |id: String, kind: &str, data: Value| {
            json!({"specversion": "1.0", "type": format!("ro.cjt.digi.v1.{kind}"), "source": "//cjt", "id": id,
                "time": "2026-05-14T08:00:00Z", "data": data})
        };
        let mut events = Vec::new();
        for n in 0..4 {
            let unit = format!("U-{n}");
            let declared = json!({"unit": unit, "leaves": 100, "width_mm": 31, "batch": "L-1"});
            events.push(event(format!("d{n}"), "inventory.declared", declared));
            events.push(event(format!("c{n}"), "image.captured", json!({"unit": unit, "frames": 100})));
        }
        project.submit(parse(json!(events).to_string().as_bytes()).expect("events"), now).expect("kept");
        let draw = |batch: &str, limit| project.draw_lot(batch, Inspection::Two, limit, now);
        assert!(matches!(draw("L-9", 1000), Err(LotError::UnknownBatch(_))));
        assert!(matches!(draw("L-1", 1001), Err(LotError::Limit)));
        let lot = draw("L-1", 1000).expect("drawn");
        assert_eq!((lot.draw.units, lot.draw.images, lot.draw.plan.sample, lot.draw.plan.accept), (4, 400, 50, 1));
        let again: Vec<(String, u32)> = sampling::draw(&lot.draw.seed, 400, 50)
            .into_iter()
            .map(|place| (format!("U-{}", place / 100), place % 100 + 1))
            .collect();
        let drawn: Vec<(String, u32)> = lot.draw.drawn.iter().map(|one| (one.unit.clone(), one.image)).collect();
        assert_eq!(drawn, again);
        assert!(matches!(draw("L-1", 1000), Err(LotError::DrawnAlready(_))));
        let judge = |defects, reason: Option<&str>| project.judge_lot("L-1", defects, reason.map(str::to_owned), now);
        assert!(matches!(judge(51, None), Err(LotError::Defects { .. })));
        assert!(matches!(judge(2, None), Err(LotError::Reason)));
        let rejected = judge(2, Some("skew")).expect("judged").verdict.expect("verdict");
        assert_eq!((rejected.is_accepted, rejected.reason.as_deref()), (false, Some("skew")));
        assert!(project.state().scope().all(|unit| unit.standing.rework.len() == 1));
        assert!(matches!(judge(0, None), Err(LotError::NotDrawn(_))));
        draw("L-1", 1000).expect("drawn anew");
        assert!(judge(1, None).expect("judged").verdict.is_some_and(|verdict| verdict.is_accepted));
        assert!(project.state().scope().all(|unit| unit.standing.accepted.is_some()));
        // The ledger alone gives the same.
        let ledger = project.inner.ledger.clone();
        let reopened = Digitization::open(ledger, Settings::default()).expect("project");
        assert_eq!(reopened.state().lots, project.state().lots);
    }
}
