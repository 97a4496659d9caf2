//! Rules for images by stratum, judged from what events say of them, and what did not keep them.
//!
//! Invariant: a fact that an event does not tell breaks no rule. What it deliberately does not do: look at images;
//! colour error, sharpness and noise come as `target.measured`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::state::{State, UnitState};
use super::unit::Unit;

/// What an event says of the images of a file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImageFacts {
    /// Pixels an inch.
    pub ppi: Option<f64>,
    /// Bits of a sample.
    pub bits: Option<u32>,
    /// `tiff`, `jpeg`, `jp2`, `pdf`.
    pub format: Option<String>,
    /// For example `lzw`.
    pub compression: Option<String>,
    /// Whether a colour profile is in it.
    pub icc: Option<bool>,
    /// Images that show an empty page.
    pub blank: u32,
    /// Images that look almost like another one of the unit.
    pub near_duplicate: u32,
}

/// A level of a guideline, by the resolution that it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// FADGI 2023, one star: 190 ppi.
    Fadgi1,
    /// Two stars: 242.5 ppi.
    Fadgi2,
    /// Three stars: 294 ppi.
    Fadgi3,
    /// Four stars: 396 ppi.
    Fadgi4,
    /// Metamorfoze: 300 ppi.
    Metamorfoze,
}

impl Level {
    /// Every level.
    pub const ALL: [Self; 5] = [Self::Fadgi1, Self::Fadgi2, Self::Fadgi3, Self::Fadgi4, Self::Metamorfoze];

    /// As in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fadgi1 => "fadgi-1",
            Self::Fadgi2 => "fadgi-2",
            Self::Fadgi3 => "fadgi-3",
            Self::Fadgi4 => "fadgi-4",
            Self::Metamorfoze => "metamorfoze",
        }
    }

    /// The least pixels an inch.
    pub fn least_ppi(self) -> f64 {
        match self {
            Self::Fadgi1 => 190.0,
            Self::Fadgi2 => 242.5,
            Self::Fadgi3 => 294.0,
            Self::Fadgi4 => 396.0,
            Self::Metamorfoze => 300.0,
        }
    }
}

/// What images of some units must be.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rule {
    /// Of which inventory; of all where it is nothing.
    pub series: Option<String>,
    /// Of which binding; of all where it is nothing.
    pub binding: Option<String>,
    /// The least pixels an inch.
    pub min_ppi: Option<f64>,
    /// A level whose resolution is asked for.
    pub level: Option<Level>,
    /// The least bits of a sample.
    pub min_bits: Option<u32>,
    /// Formats that are taken; any where there is none.
    pub formats: Vec<String>,
    /// Compressions that are taken; any where there is none.
    pub compressions: Vec<String>,
    /// Whether a colour profile must be in the file.
    pub icc: bool,
}

impl Rule {
    fn is_about(&self, unit: &Unit) -> bool {
        let (series, binding) = unit.stratum();
        self.series.as_deref().is_none_or(|wanted| wanted == series)
            && self.binding.as_deref().is_none_or(|wanted| wanted == binding)
    }

    /// The least pixels an inch that rule and level ask for together.
    pub fn least_ppi(&self) -> Option<f64> {
        self.min_ppi.into_iter().chain(self.level.map(Level::least_ppi)).reduce(f64::max)
    }

    fn breaks(&self, facts: &ImageFacts) -> Vec<Fault> {
        let outside = |value: &Option<String>, taken: &[String]| {
            !taken.is_empty()
                && value.as_ref().is_some_and(|value| !taken.iter().any(|taken| taken.eq_ignore_ascii_case(value)))
        };
        let broken = [
            (Fault::Ppi, facts.ppi.zip(self.least_ppi()).is_some_and(|(ppi, least)| ppi < least)),
            (Fault::Bits, facts.bits.zip(self.min_bits).is_some_and(|(bits, least)| bits < least)),
            (Fault::Format, outside(&facts.format, &self.formats)),
            (Fault::Compression, outside(&facts.compression, &self.compressions)),
            (Fault::Icc, self.icc && facts.icc == Some(false)),
        ];
        broken.into_iter().filter(|(_, is_broken)| *is_broken).map(|(fault, _)| fault).collect()
    }
}

/// What is wrong with images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Too few pixels an inch.
    Ppi,
    /// Too few bits of a sample.
    Bits,
    /// A format that is not taken.
    Format,
    /// A compression that is not taken.
    Compression,
    /// No colour profile.
    Icc,
    /// An empty page.
    Blank,
    /// Almost like another.
    NearDuplicate,
}

impl Fault {
    /// Every fault.
    pub const ALL: [Self; 7] =
        [Self::Ppi, Self::Bits, Self::Format, Self::Compression, Self::Icc, Self::Blank, Self::NearDuplicate];

    /// As in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ppi => "ppi",
            Self::Bits => "bits",
            Self::Format => "format",
            Self::Compression => "compression",
            Self::Icc => "icc",
            Self::Blank => "blank",
            Self::NearDuplicate => "near_duplicate",
        }
    }
}

/// What is wrong with `frames` images of a file of `unit`, and with how many of them. Every rule about the unit counts.
pub fn judge(rules: &[Rule], unit: &Unit, facts: &ImageFacts, frames: u32) -> BTreeMap<Fault, u32> {
    let mut faults = BTreeMap::new();
    for rule in rules.iter().filter(|rule| rule.is_about(unit)) {
        faults.extend(rule.breaks(facts).into_iter().map(|fault| (fault, frames)));
    }
    for (fault, count) in [(Fault::Blank, facts.blank), (Fault::NearDuplicate, facts.near_duplicate)] {
        if count > 0 {
            faults.insert(fault, count);
        }
    }
    faults
}

/// What is wrong in a stratum.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StratumFaults {
    /// The inventory.
    pub series: String,
    /// The binding.
    pub binding: String,
    /// Images that there are.
    pub images: i64,
    /// By fault.
    pub faults: Vec<FaultRow>,
}

/// How often something is wrong.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FaultRow {
    /// What.
    pub fault: Fault,
    /// Images made with it.
    pub images: i64,
    /// Units with such images.
    pub units: u64,
    /// Units among them that are not accepted.
    pub open_units: u64,
    /// One of those, the first by code.
    pub example: Option<String>,
}

/// What is wrong by stratum; strata without a fault are left out.
pub fn by_stratum(state: &State) -> Vec<StratumFaults> {
    let mut strata = BTreeMap::<(&str, &str), (i64, Vec<&UnitState>)>::new();
    for unit in state.scope() {
        let stratum = strata.entry(unit.unit.stratum()).or_default();
        stratum.0 += unit.images;
        if !unit.faults.is_empty() {
            stratum.1.push(unit);
        }
    }
    let rows = strata.into_iter().filter(|(_, (_, units))| !units.is_empty());
    rows.map(|((series, binding), (images, units))| {
        let fault_row = |fault: Fault| {
            let mut row = FaultRow { fault, images: 0, units: 0, open_units: 0, example: None };
            for unit in &units {
                let Some(count) = unit.faults.get(&fault).filter(|count| **count > 0) else { continue };
                row.images += count;
                row.units += 1;
                if unit.standing.accepted.is_none() {
                    row.open_units += 1;
                    let code = &unit.unit.code;
                    if row.example.as_ref().is_none_or(|example| code < example) {
                        row.example = Some(code.clone());
                    }
                }
            }
            (row.units > 0).then_some(row)
        };
        let faults = Fault::ALL.into_iter().filter_map(fault_row).collect();
        StratumFaults { series: series.to_owned(), binding: binding.to_owned(), images, faults }
    })
    .filter(|stratum| !stratum.faults.is_empty())
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_of_a_stratum_counts_and_what_is_not_told_breaks_none() {
        let rules = [
            Rule { level: Some(Level::Fadgi3), min_bits: Some(8), formats: vec!["tiff".to_owned()], ..Rule::default() },
            Rule { series: Some("Planuri".to_owned()), min_ppi: Some(400.0), icc: true, ..Rule::default() },
        ];
        let of = |series: &str, facts: ImageFacts| {
            let unit = Unit { series: series.to_owned(), ..Unit::default() };
            judge(&rules, &unit, &facts, 5).into_iter().collect::<Vec<_>>()
        };
        let good =
            ImageFacts { ppi: Some(300.0), bits: Some(8), format: Some("TIFF".to_owned()), ..ImageFacts::default() };
        assert_eq!(of("Buget", good.clone()), []);
        assert_eq!(of("Planuri", good.clone()), [(Fault::Ppi, 5)]);
        assert_eq!(of("Planuri", ImageFacts { ppi: Some(400.0), icc: Some(false), ..good }), [(Fault::Icc, 5)]);
        assert_eq!(of("Planuri", ImageFacts::default()), []);
        let bad = ImageFacts {
            ppi: Some(293.9),
            bits: Some(1),
            format: Some("jpeg".to_owned()),
            blank: 2,
            ..ImageFacts::default()
        };
        let all = [(Fault::Ppi, 5), (Fault::Bits, 5), (Fault::Format, 5), (Fault::Blank, 2)];
        assert_eq!(of("Buget", bad), all);
    }
}
