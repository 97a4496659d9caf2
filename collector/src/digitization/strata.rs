//! Pages a metre as the finished units teach them, by stratum, with an interval; and units whose images do not fit
//! their leaves.

use std::collections::BTreeMap;

use serde::Serialize;

use super::state::{State, UnitState};

/// Units from which on a stratum has a ratio of its own.
pub const LEAST_UNITS: usize = 5;
/// Units from which on the tails of a stratum are known well enough to call a unit an outlier.
const LEAST_FOR_OUTLIERS: usize = 100;
/// 97.5 % of the normal distribution lie below.
const Z95: f64 = 1.96;

/// Images a millimetre of shelf: a ratio of sums, and how sure it is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Density {
    /// Units that it was learned from.
    pub units: usize,
    /// Images a millimetre.
    pub mean: f64,
    /// The standard error of the mean.
    pub error: f64,
    /// The standard deviation of one unit's images about `mean` times its width, by the square root of its width.
    pub scatter: f64,
}

/// Collects widths and images.
#[derive(Clone, Debug, Default)]
pub struct Learning {
    pairs: Vec<(f64, f64)>,
}

impl Learning {
    /// Adds a finished unit.
    pub fn add(&mut self, mm: f64, images: f64) {
        self.pairs.push((mm, images));
    }

    /// Units so far.
    pub fn count(&self) -> usize {
        self.pairs.len()
    }

    /// What was learned; nothing from fewer than [`LEAST_UNITS`].
    pub fn density(&self) -> Option<Density> {
        let units = self.pairs.len();
        if units < LEAST_UNITS {
            return None;
        }
        let (mm, images) = self.pairs.iter().fold((0.0, 0.0), |(mm, images), pair| (mm + pair.0, images + pair.1));
        let mean = images / mm;
        // The variance of a ratio of sums, by its linear part; residuals grow with the square root of the width.
        let squares: f64 = self.pairs.iter().map(|(mm, images)| (images - mean * mm).powi(2)).sum();
        let freedom = units as f64 - 1.0;
        let error = (squares * units as f64 / freedom).sqrt() / mm;
        let scatter =
            (self.pairs.iter().map(|(mm, images)| (images - mean * mm).powi(2) / mm).sum::<f64>() / freedom).sqrt();
        Some(Density { units, mean, error, scatter })
    }
}

/// A stratum as pages show it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stratum {
    /// The inventory.
    pub series: String,
    /// The binding.
    pub binding: String,
    /// Units of the inventory in force.
    pub units: u64,
    /// Their width.
    pub mm: u64,
    /// Units that it was learned from.
    pub learned_from: u64,
    /// Images a metre of shelf.
    pub pages_per_metre: Option<f64>,
    /// The interval that has it with 95 %.
    pub low: Option<f64>,
    /// Its upper end.
    pub high: Option<f64>,
}

/// A unit whose images do not fit its leaves.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outlier {
    /// Which unit.
    pub unit: String,
    /// Images that there are.
    pub images: i64,
    /// Images that its leaves let expect.
    pub expected: u32,
    /// The range in which 98 % of its stratum lie.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
    /// Whether its paper is back on the shelf: until then it costs little to look.
    pub is_back: bool,
}

/// Whether a unit's images are all there and good.
pub fn is_finished(unit: &UnitState) -> bool {
    unit.standing.accepted.is_some() && unit.standing.scanned.is_some() && unit.images > 0
}

type ByStratum<'a> = BTreeMap<(&'a str, &'a str), Vec<&'a UnitState>>;

fn by_stratum(state: &State) -> ByStratum<'_> {
    let mut strata = ByStratum::new();
    for unit in state.scope() {
        strata.entry(unit.unit.stratum()).or_default().push(unit);
    }
    strata
}

/// Every stratum of the inventory.
pub fn learn(state: &State) -> Vec<Stratum> {
    let strata = by_stratum(state).into_iter().map(|((series, binding), units)| {
        let mut learning = Learning::default();
        for unit in units.iter().filter(|unit| is_finished(unit)) {
            learning.add(unit.unit.width_mm.into(), unit.images as f64);
        }
        let density = learning.density();
        Stratum {
            series: series.to_owned(),
            binding: binding.to_owned(),
            units: units.len() as u64,
            mm: units.iter().map(|unit| u64::from(unit.unit.width_mm)).sum(),
            learned_from: learning.count() as u64,
            pages_per_metre: density.map(|d| d.mean * 1000.0),
            low: density.map(|d| ((d.mean - Z95 * d.error) * 1000.0).max(0.0)),
            high: density.map(|d| (d.mean + Z95 * d.error) * 1000.0),
        }
    });
    strata.collect()
}

/// Finished units whose images deviate from what their leaves let expect by more than 98 % of their stratum do.
pub fn outliers(state: &State) -> Vec<Outlier> {
    let mut outliers = Vec::new();
    for units in by_stratum(state).into_values() {
        let ratio = |unit: &UnitState| unit.images as f64 / f64::from(unit.expected_images().max(1));
        let finished: Vec<&UnitState> = units.into_iter().filter(|unit| is_finished(unit)).collect();
        if finished.len() < LEAST_FOR_OUTLIERS {
            continue;
        }
        let mut ratios: Vec<f64> = finished.iter().map(|unit| ratio(unit)).collect();
        ratios.sort_by(f64::total_cmp);
        let (low, high) = (quantile(&ratios, 0.01), quantile(&ratios, 0.99));
        for unit in finished.into_iter().filter(|unit| !(low..=high).contains(&ratio(unit))) {
            let expected = unit.expected_images();
            let range = |bound: f64| bound * f64::from(expected);
            let code = unit.unit.code.clone();
            let is_back = unit.standing.returned.is_some();
            let (low, high) = (range(low), range(high));
            outliers.push(Outlier { unit: code, images: unit.images, expected, low, high, is_back });
        }
    }
    outliers
}

/// The value below which the share `q` of ascending `values` lies, linear in between; NaN of nothing.
pub fn quantile(values: &[f64], q: f64) -> f64 {
    let Some(last) = values.len().checked_sub(1) else { return f64::NAN };
    let at = q.clamp(0.0, 1.0) * last as f64;
    let (below, above) = (values[at.floor() as usize], values[at.ceil() as usize]);
    below + (above - below) * at.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_learned_from_five_units_with_an_interval_that_narrows() {
        let mut learning = Learning::default();
        for n in 0..4 {
            learning.add(30.0, 150.0 + f64::from(n));
        }
        assert_eq!(learning.density(), None);
        learning.add(30.0, 148.0);
        let few = learning.density().expect("five");
        assert!((few.mean - 5.0).abs() < 0.1 && few.error > 0.0);
        for n in 0..200 {
            learning.add(30.0, 148.0 + f64::from(n % 5));
        }
        assert!(learning.density().expect("many").error < few.error / 3.0);
    }

    #[test]
    fn quantiles_are_linear_between_values() {
        assert_eq!([0.0, 0.25, 0.5, 1.0].map(|q| quantile(&[1.0, 2.0, 3.0, 5.0, 9.0], q)), [1.0, 2.0, 3.0, 9.0]);
        assert_eq!(quantile(&[1.0, 2.0], 0.85), 1.85);
        assert!(quantile(&[], 0.5).is_nan());
    }
}
