//! An archival unit as the inventory describes it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::fields::Fields;

/// An archival unit: what the inventory says of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Unit {
    /// `cod_unitate`: its name in events, unique.
    pub code: String,
    /// `fond`: the fonds.
    pub fonds: String,
    /// `inventar`: the inventory it is listed in; the series.
    pub series: String,
    /// `nr_crt`: its number in the inventory.
    pub number: String,
    /// `tip`: dosar, volum, registru, biblioraft, ...
    pub kind: String,
    /// `titlu`.
    pub title: String,
    /// `ani_extremi`: first and last year.
    pub years: String,
    /// `termen_pastrare`: how long it must be kept.
    pub retention: String,
    /// `nr_file`: leaves, of two sides each.
    pub leaves: u32,
    /// `latime_mm`: its width on the shelf.
    pub width_mm: u32,
    /// `format`: A4, A3, ...
    pub format: String,
    /// `legatura`: how it is bound.
    pub binding: String,
    /// `stare`: its condition.
    pub condition: String,
    /// `acces`: who may see it.
    pub access: String,
    /// `cutie`: its box.
    pub container: String,
    /// `locatie`: its place on the shelf.
    pub location: String,
    /// `prioritate`: 1 is first.
    pub priority: u8,
    /// `lot`: its batch.
    pub batch: String,
    /// `pagini_estimate`: pages that are expected to be written on, if somebody estimated them.
    pub pages: Option<u32>,
}

/// The widest unit that is believed: a shelf of a metre.
pub const MAX_WIDTH_MM: u32 = 1000;
/// The most leaves that are believed.
pub const MAX_LEAVES: u32 = 20_000;
/// Leaves of a dosar by rule; more is to be split into volumes.
const DOSAR_LEAVES: u32 = 300;
/// Leaves a millimetre of shelf that are plausible, from stiff plans to thin copies.
const LEAVES_PER_MM: std::ops::RangeInclusive<f64> = 2.0..=11.0;

/// What is odd about a unit and yet possible.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Oddity {
    /// A dosar of more than 300 leaves.
    TooManyLeaves(u32),
    /// Leaves a millimetre outside of 2 to 11.
    LeavesPerMm(f64),
}

impl Oddity {
    /// The column that it is about.
    pub fn column(self) -> &'static str {
        match self {
            Self::TooManyLeaves(_) => "nr_file",
            Self::LeavesPerMm(_) => "latime_mm",
        }
    }
}

impl fmt::Display for Oddity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooManyLeaves(leaves) => {
                write!(f, "a dosar of {leaves} leaves; more than {DOSAR_LEAVES} are to be split into volumes")
            }
            Self::LeavesPerMm(density) => {
                write!(f, "{density:.1} leaves a millimetre, outside of 2 to 11; measure width and leaves again")
            }
        }
    }
}

impl Unit {
    /// The stratum within which units are alike: series and binding.
    pub fn stratum(&self) -> (&str, &str) {
        (&self.series, &self.binding)
    }

    /// What is odd about it.
    pub fn oddities(&self) -> Vec<Oddity> {
        let mut oddities = Vec::new();
        if self.kind == "dosar" && self.leaves > DOSAR_LEAVES {
            oddities.push(Oddity::TooManyLeaves(self.leaves));
        }
        let density = f64::from(self.leaves) / f64::from(self.width_mm.max(1));
        if !LEAVES_PER_MM.contains(&density) {
            oddities.push(Oddity::LeavesPerMm(density));
        }
        oddities
    }

    /// Reads the data of an `inventory.declared` event.
    pub(super) fn from_fields(f: &mut Fields<'_>) -> Option<Self> {
        let (code, width, leaves) =
            (f.code("unit"), f.count("width_mm", MAX_WIDTH_MM.into()), f.count("leaves", MAX_LEAVES.into()));
        let mut text = |name: &str| f.optional_text(name, 256).unwrap_or_default();
        let unit = Self {
            fonds: text("fonds"),
            series: text("series"),
            number: text("number"),
            kind: text("kind"),
            title: text("title"),
            years: text("years"),
            retention: text("retention"),
            format: text("format"),
            binding: text("binding"),
            condition: text("condition"),
            access: text("access"),
            container: text("box"),
            location: text("location"),
            batch: text("batch"),
            ..Self::default()
        };
        let priority = f.optional_count("priority", 255).unwrap_or(0) as u8;
        let pages = f.optional_count("pages", 2 * u64::from(MAX_LEAVES)).map(|pages| pages as u32);
        if width == Some(0) {
            f.problem("width_mm", "is 0; give its width on the shelf");
            return None;
        }
        Some(Self { code: code?, width_mm: width? as u32, leaves: leaves? as u32, priority, pages, ..unit })
    }
}
