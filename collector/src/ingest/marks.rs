//! High-water marks: which batches of one run of an agent are stored, so that a repeat changes nothing.
//!
//! Invariants: everything below `oldest` is settled; ranges are ascending, apart from each other and above `oldest`.
//!
//! In the store a mark's key is `hw/`, the agent's id, a zero byte and the spool id in 8 bytes, big-endian. Its value
//! is, all little-endian: the format (1 byte, 1), when the run was last heard of (i64, milliseconds since the Unix
//! epoch), `oldest` (u64), then per range its first and last sequence (u64 each).

use veghe_model::Timestamp;
use veghe_wire::AgentId;

const PREFIX: &[u8] = b"hw/";
const FORMAT: u8 = 1;
/// Gaps that one run may have open at a time. An agent that sends fresh batches beside its backlog has two or three.
const MAX_RANGES: usize = 1024;

/// The prefix of every mark's key.
pub(crate) fn prefix() -> &'static [u8] {
    PREFIX
}

/// The key of one run's mark.
pub(crate) fn key(agent: &AgentId, spool_id: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(PREFIX.len() + agent.as_str().len() + 9);
    key.extend_from_slice(PREFIX);
    key.extend_from_slice(agent.as_str().as_bytes());
    key.push(0);
    key.extend_from_slice(&spool_id.to_be_bytes());
    key
}

/// The settled batches of one run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    /// Below it everything is settled.
    oldest: u64,
    /// First and last of each run of settled sequences above `oldest`.
    ranges: Vec<(u64, u64)>,
    /// When the run was last heard of.
    pub(crate) heard: Timestamp,
}

impl Marks {
    /// Whether `sequence` is settled.
    pub(crate) fn contains(&self, sequence: u64) -> bool {
        if sequence < self.oldest {
            return true;
        }
        let at = self.ranges.partition_point(|&(first, _)| first <= sequence);
        at > 0 && self.ranges[at - 1].1 >= sequence
    }

    /// Settles `sequence`. False where it would open one gap too many: nothing is changed then.
    #[must_use]
    pub(crate) fn insert(&mut self, sequence: u64) -> bool {
        if self.contains(sequence) {
            return true;
        }
        let at = self.ranges.partition_point(|&(first, _)| first < sequence);
        let joins_left = at > 0 && self.ranges[at - 1].1.checked_add(1) == Some(sequence);
        let joins_right = self.ranges.get(at).is_some_and(|&(first, _)| sequence.checked_add(1) == Some(first));
        match (joins_left, joins_right) {
            (true, true) => {
                self.ranges[at - 1].1 = self.ranges[at].1;
                self.ranges.remove(at);
            }
            (true, false) => self.ranges[at - 1].1 = sequence,
            (false, true) => self.ranges[at].0 = sequence,
            (false, false) if self.ranges.len() >= MAX_RANGES && sequence != self.oldest => return false,
            (false, false) => self.ranges.insert(at, (sequence, sequence)),
        }
        self.collapse();
        true
    }

    /// Settles everything below `oldest`: the agent will not send it again.
    pub(crate) fn advance(&mut self, oldest: u64) {
        if oldest > self.oldest {
            self.oldest = oldest;
            self.collapse();
        }
    }

    fn collapse(&mut self) {
        let mut gone = 0;
        for &(first, last) in &self.ranges {
            if first > self.oldest {
                break;
            }
            self.oldest = self.oldest.max(last.saturating_add(1));
            gone += 1;
        }
        self.ranges.drain(..gone);
    }

    /// The value in the store.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut value = Vec::with_capacity(17 + self.ranges.len() * 16);
        value.push(FORMAT);
        value.extend_from_slice(&self.heard.millis().to_le_bytes());
        value.extend_from_slice(&self.oldest.to_le_bytes());
        for (first, last) in &self.ranges {
            value.extend_from_slice(&first.to_le_bytes());
            value.extend_from_slice(&last.to_le_bytes());
        }
        value
    }

    /// The mark that `value` holds; `None` where it is none of this format.
    pub(crate) fn decode(value: &[u8]) -> Option<Self> {
        let (&format, rest) = value.split_first()?;
        let (words, remainder) = rest.as_chunks::<8>();
        if format != FORMAT || !remainder.is_empty() || words.len() < 2 || words.len() % 2 != 0 {
            return None;
        }
        let ranges: Vec<(u64, u64)> =
            words[2..].chunks_exact(2).map(|pair| (u64::from_le_bytes(pair[0]), u64::from_le_bytes(pair[1]))).collect();
        let oldest = u64::from_le_bytes(words[1]);
        let is_ordered = ranges.iter().all(|r| r.0 <= r.1 && r.0 > oldest)
            && ranges.windows(2).all(|pair| pair[0].1.checked_add(1).is_some_and(|next| next < pair[1].0));
        is_ordered.then(|| Self { oldest, ranges, heard: Timestamp(i64::from_le_bytes(words[0])) })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn batches_in_order_need_one_number() {
        let mut marks = Marks::default();
        marks.advance(1);
        for sequence in 1..1000 {
            assert!(marks.insert(sequence));
        }
        assert_eq!(marks, Marks { oldest: 1000, ranges: vec![], heard: Timestamp(0) });
    }

    #[test]
    fn gaps_are_bounded_and_the_next_in_order_always_fits() {
        let mut marks = Marks::default();
        marks.advance(1);
        for gap in 0..MAX_RANGES as u64 {
            assert!(marks.insert(3 + 2 * gap));
        }
        assert!(!marks.insert(1_000_000) && !marks.contains(1_000_000));
        assert!(marks.insert(1) && marks.insert(2) && marks.contains(3));
        assert!(marks.insert(u64::MAX));
    }

    #[test]
    fn a_damaged_value_is_no_mark() {
        for bad in [&b""[..], &[1], &[2; 17], &[1; 18], &[1; 25], &[0xff; 33]] {
            assert_eq!(Marks::decode(bad), None, "{bad:?}");
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u64),
        Advance(u64),
    }

    proptest! {
        #[test]
        fn marks_agree_with_a_plain_set(steps in prop::collection::vec(
            prop_oneof![4 => (1..60u64).prop_map(Step::Insert), 1 => (1..60u64).prop_map(Step::Advance)], 0..80,
        )) {
            let mut marks = Marks::default();
            let mut model = BTreeSet::from([0]);
            for step in steps {
                match step {
                    Step::Insert(sequence) => {
                        prop_assert!(marks.insert(sequence));
                        model.insert(sequence);
                    }
                    Step::Advance(oldest) => {
                        marks.advance(oldest);
                        model.extend(0..oldest);
                    }
                }
                let read = Marks::decode(&marks.encode());
                prop_assert_eq!(read.as_ref(), Some(&marks));
            }
            for sequence in 1..70 {
                prop_assert_eq!(marks.contains(sequence), model.contains(&sequence), "{}", sequence);
            }
        }
    }
}
