//! From rounds to batches: series and layouts get numbers within a spool id, once, and rounds become columns.
//!
//! Invariants: numbers count from 0 in order of definition and never change; while a sensor's series stay the same
//! (`Arc::ptr_eq`) a round costs one hash look-up a sensor and no string is touched. The definitions of one spool id
//! stay below [`MAX_DEFINITION_BYTES`], so that all of them fit one packet: a session that is full is replaced by one
//! with a new spool id. What it deliberately does not do: files, network, clock.

use std::collections::HashMap;
use std::sync::Arc;

use veghe_wire::batch::{Batch, Cycle, Dictionary, FrameEncoder, Layout, SeriesDefinition};

use crate::reading::{Round, SeriesName, SeriesSet};

/// What all definitions of a spool id may take, as protobuf. With the largest batch it stays below
/// [`veghe_wire::MAX_PACKET_BYTES`] even where nothing compresses.
pub const MAX_DEFINITION_BYTES: usize = 640 << 10;
/// Values in one round; what is beyond is left out, whole sensors at a time.
pub const MAX_ROUND_VALUES: usize = 40_000;
/// The bits of Prometheus' staleness marker.
pub const STALE_BITS: u64 = 0x7ff0_0000_0000_0002;

/// How many series and layouts are defined; the part of a dictionary that somebody knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Series with numbers below this.
    pub series: u32,
    /// Layouts with numbers below this.
    pub layouts: u32,
}

impl Extent {
    /// Whether everything in `other` is in `self` too.
    pub fn covers(self, other: Self) -> bool {
        self.series >= other.series && self.layouts >= other.layouts
    }
}

/// Why a dictionary can't be added to definitions.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DefinitionError {
    /// There are definitions missing before it.
    #[error("definitions before series {series} and layout {layouts} are missing", series = first.series, layouts = first.layouts)]
    Gap {
        /// Where it begins.
        first: Extent,
    },
    /// It points to a string or series that is not there.
    #[error("dictionary points outside itself")]
    Index,
}

/// All definitions of one spool id, in order.
#[derive(Clone, Debug, Default)]
pub struct Definitions {
    strings: Vec<Arc<str>>,
    /// Label pairs as indexes into `strings`.
    series: Vec<Box<[u32]>>,
    layouts: Vec<Box<[u32]>>,
    bytes: usize,
}

impl Definitions {
    /// How many there are.
    pub fn extent(&self) -> Extent {
        Extent { series: self.series.len() as u32, layouts: self.layouts.len() as u32 }
    }

    /// Those from `known` on, complete in themselves; `None` if there are no more.
    pub fn since(&self, known: Extent) -> Option<Dictionary> {
        let series = self.series.get(known.series as usize..).unwrap_or_default();
        let layouts = self.layouts.get(known.layouts as usize..).unwrap_or_default();
        if series.is_empty() && layouts.is_empty() {
            return None;
        }
        let mut numbers: HashMap<&str, u32> = HashMap::new();
        let mut strings = Vec::new();
        // By text: what came in several dictionaries has some strings more than once.
        let mut local = |&index: &u32| {
            let text: &str = self.strings.get(index as usize).map_or("", |text| text);
            *numbers.entry(text).or_insert_with(|| {
                strings.push(text.to_owned());
                (strings.len() - 1) as u32
            })
        };
        let series = series.iter().map(|pairs| SeriesDefinition { labels: pairs.iter().map(&mut local).collect() });
        let series = series.collect();
        Some(Dictionary {
            strings,
            first_series: known.series,
            series,
            first_layout: known.layouts,
            layouts: layouts.iter().map(|numbers| Layout { series: numbers.to_vec() }).collect(),
        })
    }

    /// Adds what `dictionary` has beyond the present extent.
    ///
    /// # Errors
    /// See [`DefinitionError`]; nothing is added then.
    pub fn extend(&mut self, dictionary: &Dictionary) -> Result<(), DefinitionError> {
        let extent = self.extent();
        let first = Extent { series: dictionary.first_series, layouts: dictionary.first_layout };
        if !extent.covers(first) {
            return Err(DefinitionError::Gap { first });
        }
        let series = dictionary.series.get((extent.series - first.series) as usize..).unwrap_or_default();
        let layouts = dictionary.layouts.get((extent.layouts - first.layouts) as usize..).unwrap_or_default();
        let series_after = extent.series as usize + series.len();
        let strings_hold = |s: &SeriesDefinition| {
            s.labels.len().is_multiple_of(2) && s.labels.iter().all(|i| (*i as usize) < dictionary.strings.len())
        };
        let series_hold = |l: &Layout| l.series.iter().all(|s| (*s as usize) < series_after);
        if !series.iter().all(strings_hold) || !layouts.iter().all(series_hold) {
            return Err(DefinitionError::Index);
        }
        let base = self.strings.len() as u32;
        self.strings.extend(dictionary.strings.iter().map(|text| Arc::from(text.as_str())));
        self.series.extend(series.iter().map(|s| s.labels.iter().map(|i| i + base).collect()));
        self.layouts.extend(layouts.iter().map(|l| l.series.clone().into_boxed_slice()));
        Ok(())
    }
}

/// A round as it goes into the spool.
#[derive(Debug)]
pub struct EncodedRound {
    /// Within the session's spool id.
    pub sequence: u64,
    /// The round's time.
    pub timestamp_ms: i64,
    /// One zstd frame of a batch without dictionary, as [`veghe_wire::batch`] describes it, without the version byte.
    pub frame: Vec<u8>,
    /// Sensors that were left out because the session is full, or the round too large.
    pub left_out: Vec<&'static str>,
}

/// The definitions and numbers of one spool id.
pub struct Session {
    spool_id: u64,
    last_sequence: u64,
    definitions: Definitions,
    strings: HashMap<Arc<str>, u32>,
    series: HashMap<SeriesName, u32>,
    layouts: HashMap<Box<[u32]>, u32>,
    /// The sensor's set in its last round and the number of its layout.
    latest: Vec<(&'static str, Arc<SeriesSet>, u32)>,
    encoder: FrameEncoder,
    full: bool,
}

impl Session {
    /// Nothing defined yet under `spool_id`.
    ///
    /// # Errors
    /// Only what zstd reports, in practice lack of memory.
    pub fn new(spool_id: u64) -> std::io::Result<Self> {
        Ok(Self {
            spool_id,
            last_sequence: 0,
            definitions: Definitions::default(),
            strings: HashMap::new(),
            series: HashMap::new(),
            layouts: HashMap::new(),
            latest: Vec::new(),
            encoder: FrameEncoder::new()?,
            full: false,
        })
    }

    /// Which run of the agent this is.
    pub fn spool_id(&self) -> u64 {
        self.spool_id
    }

    /// Everything defined so far.
    pub fn definitions(&self) -> &Definitions {
        &self.definitions
    }

    /// Whether definitions did not fit any more: time for a session with a new spool id.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// `round` as the next batch.
    ///
    /// # Errors
    /// Only what zstd reports, in practice lack of memory; the sequence is not used up then.
    pub fn encode(&mut self, round: &Round) -> std::io::Result<EncodedRound> {
        let mut left_out = Vec::new();
        let mut cycles = Vec::with_capacity(round.readings.len());
        let mut room = MAX_ROUND_VALUES;
        for reading in &round.readings {
            let ended_count = reading.ended.as_ref().map_or(0, |ended| ended.0.len());
            let count = reading.values.len() + ended_count;
            let fits = count <= room && reading.values.len() == reading.series.0.len();
            let layout = if fits { self.layout_of(reading.sensor, &reading.series) } else { None };
            let Some(layout) = layout else {
                left_out.push(reading.sensor);
                continue;
            };
            room -= count;
            let timestamp_ms = round.timestamp_ms;
            if !reading.values.is_empty() {
                cycles.push(Cycle { timestamp_ms, layout, values: reading.values.clone() });
            }
            if let Some(ended) = &reading.ended
                && let Some(layout) = self.define(ended)
            {
                cycles.push(Cycle { timestamp_ms, layout, values: vec![f64::from_bits(STALE_BITS); ended.0.len()] });
            }
        }
        let sequence = self.last_sequence + 1;
        let batch = Batch { minor: veghe_wire::MINOR, spool_id: self.spool_id, sequence, cycles, ..Batch::default() };
        let frame = self.encoder.frame(&batch)?;
        self.last_sequence = sequence;
        Ok(EncodedRound { sequence, timestamp_ms: round.timestamp_ms, frame, left_out })
    }

    fn layout_of(&mut self, sensor: &'static str, set: &Arc<SeriesSet>) -> Option<u32> {
        let slot = self.latest.iter().position(|(name, ..)| *name == sensor);
        if let Some((_, latest, layout)) = slot.and_then(|slot| self.latest.get(slot))
            && Arc::ptr_eq(latest, set)
        {
            return Some(*layout);
        }
        let layout = self.define(set)?;
        match slot.and_then(|slot| self.latest.get_mut(slot)) {
            Some(latest) => *latest = (sensor, Arc::clone(set), layout),
            None => self.latest.push((sensor, Arc::clone(set), layout)),
        }
        Some(layout)
    }

    /// The number of the layout of `set`; `None` if its definitions do not fit.
    fn define(&mut self, set: &SeriesSet) -> Option<u32> {
        // As protobuf: two bytes around each string and definition, up to three for an index.
        let new = set.0.iter().filter(|name| !self.series.contains_key(*name));
        let new_bytes: usize =
            new.map(|name| 4 + name.0.iter().map(|(n, v)| 12 + n.len() + v.len()).sum::<usize>()).sum();
        if self.definitions.bytes + new_bytes + 4 + 3 * set.0.len() > MAX_DEFINITION_BYTES {
            self.full = true;
            return None;
        }
        self.definitions.bytes += new_bytes;
        let numbers: Box<[u32]> = set.0.iter().map(|name| self.number(name)).collect();
        if let Some(layout) = self.layouts.get(&numbers) {
            return Some(*layout);
        }
        self.definitions.bytes += 4 + 3 * numbers.len();
        let layout = self.definitions.layouts.len() as u32;
        self.definitions.layouts.push(numbers.clone());
        self.layouts.insert(numbers, layout);
        Some(layout)
    }

    fn number(&mut self, name: &SeriesName) -> u32 {
        if let Some(number) = self.series.get(name) {
            return *number;
        }
        let pairs = name.0.iter().flat_map(|(label, value)| [&**label, &**value]);
        let mut indexes = Vec::with_capacity(2 * name.0.len());
        for text in pairs {
            let index = self.strings.get(text).copied().unwrap_or_else(|| {
                let text: Arc<str> = Arc::from(text);
                let index = self.definitions.strings.len() as u32;
                self.definitions.strings.push(Arc::clone(&text));
                self.strings.insert(text, index);
                index
            });
            indexes.push(index);
        }
        let number = self.definitions.series.len() as u32;
        self.definitions.series.push(indexes.into_boxed_slice());
        self.series.insert(name.clone(), number);
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reading::Reading;
    use proptest::prelude::*;

    fn set(metric: &str, devices: &[&str]) -> Arc<SeriesSet> {
        Arc::new(SeriesSet(devices.iter().map(|d| SeriesName::new(metric, &[("device", d)])).collect()))
    }

    fn round(timestamp_ms: i64, series: &Arc<SeriesSet>, ended: Option<Arc<SeriesSet>>) -> Round {
        let values = (0..series.0.len()).map(|i| i as f64).collect();
        Round { timestamp_ms, readings: vec![Reading { sensor: "netdev", series: Arc::clone(series), values, ended }] }
    }

    fn decode(frame: &[u8]) -> Batch {
        let payload = [&[veghe_wire::MAJOR], frame].concat();
        veghe_wire::batch::Decoder::new().expect("decoder").decode(&payload).expect("batch")
    }

    #[test]
    fn the_same_series_are_defined_once_and_ended_ones_get_the_staleness_marker() {
        let mut session = Session::new(7).expect("session");
        let both = set("node_network_up", &["eth0", "eth1"]);
        let first = session.encode(&round(1000, &both, None)).expect("encode");
        let extent = session.definitions().extent();
        assert_eq!(extent, Extent { series: 2, layouts: 1 });
        session.encode(&round(2000, &both, None)).expect("encode");
        assert_eq!(session.definitions().extent(), extent);
        let one = set("node_network_up", &["eth1"]);
        let third = session.encode(&round(3000, &one, Some(set("node_network_up", &["eth0"])))).expect("encode");
        assert_eq!(session.definitions().extent(), Extent { series: 2, layouts: 3 });
        let (first, third) = (decode(&first.frame), decode(&third.frame));
        assert_eq!((first.spool_id, first.sequence, third.sequence), (7, 1, 3));
        assert_eq!(first.cycles[0].values, [0.0, 1.0]);
        assert_eq!(third.cycles[1].values[0].to_bits(), STALE_BITS);
        let news = session.definitions().since(extent).expect("news");
        assert_eq!((news.first_series, news.series.len(), news.first_layout, news.layouts.len()), (2, 0, 1, 2));
        assert_eq!(news.layouts[1].series, [0]);
    }

    #[test]
    fn a_session_that_is_full_leaves_sensors_out_and_says_so() {
        let mut session = Session::new(1).expect("session");
        let large: Vec<String> = (0..1000).map(|i| format!("{i:0>1000}")).collect();
        let series = set("x", &large.iter().map(String::as_str).collect::<Vec<_>>());
        let encoded = session.encode(&round(1, &series, None)).expect("encode");
        assert_eq!(encoded.left_out, ["netdev"]);
        assert!(session.is_full());
    }

    #[test]
    fn a_dictionary_with_a_gap_or_a_wrong_index_is_refused() {
        let mut definitions = Definitions::default();
        let gap = Dictionary { first_series: 1, ..Dictionary::default() };
        assert!(matches!(definitions.extend(&gap), Err(DefinitionError::Gap { .. })));
        let wrong = Dictionary { series: vec![SeriesDefinition { labels: vec![0, 1] }], ..Dictionary::default() };
        assert_eq!(definitions.extend(&wrong), Err(DefinitionError::Index));
        let wrong = Dictionary { layouts: vec![Layout { series: vec![0] }], ..Dictionary::default() };
        assert_eq!(definitions.extend(&wrong), Err(DefinitionError::Index));
    }

    fn resolved(definitions: &Definitions) -> (Vec<Vec<&str>>, &[Box<[u32]>]) {
        let text = |i: &u32| &*definitions.strings[*i as usize];
        (definitions.series.iter().map(|s| s.iter().map(text).collect()).collect(), &definitions.layouts)
    }

    proptest! {
        /// However a receiver gets the definitions, in pieces or whole, it knows the same series.
        #[test]
        fn pieces_of_a_dictionary_add_up_to_the_whole(rounds in prop::collection::vec(prop::collection::hash_set("[a-d]{1,2}", 0..4), 1..8)) {
            let mut session = Session::new(1).expect("session");
            let mut pieces = Definitions::default();
            for devices in &rounds {
                let mut devices: Vec<&str> = devices.iter().map(String::as_str).collect();
                devices.sort_unstable();
                session.encode(&round(1, &set("m", &devices), None)).expect("encode");
                if let Some(piece) = session.definitions().since(pieces.extent()) {
                    prop_assert_eq!(pieces.extend(&piece), Ok(()));
                    prop_assert_eq!(pieces.extend(&piece), Ok(()));
                }
            }
            let mut whole = Definitions::default();
            if let Some(all) = session.definitions().since(Extent::default()) {
                prop_assert_eq!(whole.extend(&all), Ok(()));
            }
            prop_assert_eq!(resolved(&pieces), resolved(&whole));
            prop_assert_eq!(resolved(&pieces), resolved(session.definitions()));
        }
    }
}
