//! What the images of a hot folder show, where its settings want to know: empty pages, and pages that look almost like one
//! shortly before them of the same unit, as when a leaf was scanned twice.
//!
//! Invariant: an image is one of blank, near duplicate, distinct and unread. What it deliberately does not do: decode
//! (see `veghe_imagefile`); say that a page is missing, or is one too many.

use std::fs::File;

use serde_json::{Value, json};
use veghe_imagefile::{HASH_BYTES, Hash, Inspection, MAX_LOOKED_AT};

use super::settings::LookFor;

/// Files of a unit before it that an image is compared with: who loses the place finds it again within a few leaves.
pub(crate) const NEIGHBOURS: usize = 16;

/// What became of images that were looked at, as labels have it.
pub(crate) const OUTCOMES: [&str; 4] = ["blank", "distinct", "near_duplicate", "unread"];

/// What the images of a file show.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Glance {
    /// How many became what, as in [`OUTCOMES`].
    pub(crate) outcomes: [u32; OUTCOMES.len()],
    /// The hashes of images that are not empty, one after the other.
    pub(crate) hashes: Vec<u8>,
    wanted: Vec<LookFor>,
}

impl Glance {
    /// Looks at the images of `file`, of which `found` is known; `neighbours` are hashes of files before it, the latest first.
    /// Calls `tick` before each image.
    pub(crate) fn at(
        file: &File,
        found: &Inspection,
        wanted: &[LookFor],
        neighbours: &[Vec<u8>],
        tick: impl FnMut(),
    ) -> Self {
        let mut glance = Self { wanted: wanted.to_vec(), ..Self::default() };
        let mut before: Vec<Hash> = neighbours.iter().rev().flat_map(|hashes| split(hashes)).collect();
        let [blank, distinct, near_duplicate, unread] = &mut glance.outcomes;
        let sights = veghe_imagefile::look(file, found, tick);
        *unread = found.count.unwrap_or(0).saturating_sub(sights.len() as u32);
        for sight in sights {
            let Some(sight) = sight else {
                *unread += 1;
                continue;
            };
            if sight.is_blank && wanted.contains(&LookFor::Blank) {
                *blank += 1;
                continue;
            }
            let is_again = before.iter().rev().take(MAX_LOOKED_AT).any(|known| known.is_alike(&sight.hash));
            // Empty pages are alike and none is another one again.
            if is_again && !sight.is_blank && wanted.contains(&LookFor::NearDuplicate) {
                *near_duplicate += 1;
            } else {
                *distinct += 1;
            }
            if !sight.is_blank {
                before.push(sight.hash);
                glance.hashes.extend(sight.hash.0);
            }
        }
        glance
    }

    /// What an event says of it: how many images are what was looked for, where any could be looked at.
    pub(crate) fn facts(&self) -> Vec<(&'static str, Value)> {
        let [blank, distinct, near_duplicate, _] = self.outcomes;
        if blank + distinct + near_duplicate == 0 {
            return Vec::new();
        }
        let facts = [(LookFor::Blank, "blank", blank), (LookFor::NearDuplicate, "near_duplicate", near_duplicate)];
        let wanted = facts.into_iter().filter(|(what, ..)| self.wanted.contains(what));
        wanted.map(|(_, name, count)| (name, json!(count))).collect()
    }
}

fn split(hashes: &[u8]) -> impl Iterator<Item = Hash> {
    hashes.chunks_exact(HASH_BYTES).filter_map(|hash| Some(Hash(hash.try_into().ok()?)))
}
