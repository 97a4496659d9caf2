//! Acceptance of lots by sampling: the plans of ISO 2859-1 for single sampling under normal inspection, and the draw.
//!
//! Invariant: a draw follows from its seed, the lot and the plan, so that anybody can repeat it with the minutes in hand.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Sample sizes by code letter, A to Q without I and O.
const SIZES: [(char, u32); 15] = [
    ('A', 2),
    ('B', 3),
    ('C', 5),
    ('D', 8),
    ('E', 13),
    ('F', 20),
    ('G', 32),
    ('H', 50),
    ('J', 80),
    ('K', 125),
    ('L', 200),
    ('M', 315),
    ('N', 500),
    ('P', 800),
    ('Q', 1250),
];

/// Table 1: the largest lot of each row, and places in [`SIZES`] for the general levels I, II and III.
const LETTERS: [(u32, [usize; 3]); 15] = [
    (8, [0, 0, 1]),
    (15, [0, 1, 2]),
    (25, [1, 2, 3]),
    (50, [2, 3, 4]),
    (90, [2, 4, 5]),
    (150, [3, 5, 6]),
    (280, [4, 6, 7]),
    (500, [5, 7, 8]),
    (1200, [6, 8, 9]),
    (3200, [7, 9, 10]),
    (10_000, [8, 10, 11]),
    (35_000, [9, 11, 12]),
    (150_000, [10, 12, 13]),
    (500_000, [11, 13, 14]),
    // The standard has R for level III here: 2,000 images, beyond the last size that is kept.
    (u32::MAX, [12, 14, 14]),
];

/// Table 2-A has the acceptance number 0 at these acceptable quality limits (in thousandths of a per cent), each at the
/// letter of its place counted from Q backwards.
const LIMITS: [u32; 15] = [10, 15, 25, 40, 65, 100, 150, 250, 400, 650, 1000, 1500, 2500, 4000, 6500];

/// Acceptance numbers along a diagonal of table 2-A, from the third letter after the one with 0 on.
const ACCEPTANCE: [u32; 8] = [1, 2, 3, 5, 7, 10, 14, 21];

/// How strict the inspection is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Inspection {
    /// General level I: small samples.
    #[serde(rename = "I")]
    One,
    /// General level II, the usual.
    #[default]
    #[serde(rename = "II")]
    Two,
    /// General level III: large samples.
    #[serde(rename = "III")]
    Three,
}

impl Inspection {
    /// Every level.
    pub const ALL: [Self; 3] = [Self::One, Self::Two, Self::Three];

    /// As in the standard.
    pub fn name(self) -> &'static str {
        match self {
            Self::One => "I",
            Self::Two => "II",
            Self::Three => "III",
        }
    }
}

/// How many images are looked at, and how many of them may be bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The level of inspection.
    pub inspection: Inspection,
    /// The acceptable quality limit in thousandths of a per cent.
    pub limit: u32,
    /// The code letter whose sample is drawn.
    pub letter: char,
    /// Images to look at; all where the lot is smaller than the sample.
    pub sample: u32,
    /// The lot is good with at most so many bad ones.
    pub accept: u32,
}

/// The least and largest images of a lot, and the limits that there are.
pub fn is_limit(limit: u32) -> bool {
    LIMITS.contains(&limit)
}

/// The limits of the standard that a plan can have, in thousandths of a per cent.
pub fn limits() -> &'static [u32] {
    &LIMITS
}

/// The plan for a lot of `images` images; nothing for an empty lot or a limit that the standard does not have.
pub fn plan(images: u32, inspection: Inspection, limit: u32) -> Option<Plan> {
    let row = LETTERS.iter().find(|(most, _)| images <= *most).filter(|_| images > 0)?;
    let first = row.1[inspection as usize];
    // 6.5 has 0 at A, 4.0 at B, and so on.
    let zero = LIMITS.len() - 1 - LIMITS.iter().position(|known| *known == limit)?;
    let last = SIZES.len() - 1;
    // The arrows of the table lead to the plan above or below.
    let (letter, accept) = match first {
        letter if letter <= zero + 1 => (zero, 0),
        letter if letter == zero + 2 => (zero + 3, ACCEPTANCE[0]),
        letter => {
            let place = (letter - zero - 3).min(ACCEPTANCE.len() - 1);
            (zero + 3 + place, ACCEPTANCE[place])
        }
    };
    let (letter, accept) = if letter > last { (zero, 0) } else { (letter, accept) };
    let (letter, size) = SIZES[letter];
    Some(Plan { inspection, limit, letter, sample: size.min(images), accept })
}

/// Which of `images` images are looked at, ascending, from 0: the first `sample` places of a shuffle by `seed`.
pub fn draw(seed: &str, images: u32, sample: u32) -> Vec<u32> {
    // Floyd's choice of distinct numbers; the numbers come from SHA-256 in counter mode, which any tool can repeat.
    let mut chosen = std::collections::BTreeSet::new();
    let mut count = 0_u32;
    let mut below = |limit: u32| {
        let digest = Sha256::digest(format!("{seed}:{count}"));
        count += 1;
        let number = digest.iter().take(8).fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        ((u128::from(number) * u128::from(limit)) >> 64) as u32
    };
    for last in images.saturating_sub(sample)..images {
        let candidate = below(last + 1);
        if !chosen.insert(candidate) {
            chosen.insert(last);
        }
    }
    chosen.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan_of(images: u32, inspection: Inspection, limit: u32) -> (char, u32, u32) {
        let plan = plan(images, inspection, limit).expect("plan");
        (plan.letter, plan.sample, plan.accept)
    }

    #[test]
    fn plans_are_those_of_the_standard() {
        let two = |images, limit| plan_of(images, Inspection::Two, limit);
        // Sample sizes that public tenders for digitization name: 26-50, 51-90, 91-150, 151-280, 281-500.
        assert_eq!([26, 90, 91, 280, 281].map(|images| two(images, 6500).1), [8, 13, 20, 32, 50]);
        // The column 1.0 of table 2-A, letter by letter.
        let lots = [(9, 'E', 9), (120, 'E', 13), (200, 'H', 50), (500, 'H', 50), (1200, 'J', 80), (3200, 'K', 125)];
        for (images, letter, sample) in lots {
            let found = two(images, 1000);
            assert_eq!((found.0, found.1), (letter, sample), "{images}");
        }
        let accept = |images| two(images, 1000).2;
        assert_eq!([120, 500, 1200, 3200, 10_000, 35_000, 150_000, 500_000].map(accept), [0, 1, 2, 3, 5, 7, 10, 14]);
        assert_eq!(two(1_000_000, 1000), ('Q', 1250, 21));
        // The other columns that offices ask for.
        assert_eq!(two(500, 2500), ('H', 50, 3));
        assert_eq!(two(1200, 4000), ('J', 80, 7));
        assert_eq!(two(3200, 650), ('K', 125, 2));
        assert_eq!(two(10_000, 6500), ('L', 200, 21));
        assert_eq!(two(35_000, 6500), ('L', 200, 21), "beyond 21 the arrow leads back");
        assert_eq!(plan_of(1200, Inspection::One, 1000), ('H', 50, 1));
        assert_eq!(plan_of(1200, Inspection::Three, 1000), ('K', 125, 3));
        assert_eq!(two(500, 10), ('Q', 500, 0), "a lot smaller than its sample is looked at whole");
        assert_eq!((plan(0, Inspection::Two, 1000), plan(9, Inspection::Two, 999)), (None, None));
    }

    #[test]
    fn every_plan_of_every_lot_is_sound() {
        for images in (1..600).chain([1200, 1201, 9999, 500_000, 500_001, u32::MAX]) {
            for inspection in Inspection::ALL {
                for limit in LIMITS {
                    let plan = plan(images, inspection, limit).expect("plan");
                    assert!(plan.sample >= 1 && plan.sample <= images && plan.accept < plan.sample.max(22), "{plan:?}");
                }
            }
        }
    }

    #[test]
    fn a_draw_is_repeatable_distinct_and_fair() {
        let drawn = draw("a seed", 1000, 80);
        assert_eq!((drawn.len(), &drawn), (80, &draw("a seed", 1000, 80)));
        assert!(drawn.windows(2).all(|pair| pair[0] < pair[1]) && drawn.iter().all(|image| *image < 1000));
        assert_ne!(drawn, draw("another", 1000, 80));
        assert_eq!(draw("x", 5, 5), [0, 1, 2, 3, 4]);
        let mut counts = [0_u32; 20];
        for n in 0..2000 {
            for image in draw(&n.to_string(), 20, 5) {
                counts[image as usize] += 1;
            }
        }
        // 500 each; seven standard deviations.
        assert!(counts.iter().all(|count| (365..635).contains(count)), "{counts:?}");
    }
}
