//! Writes remote-write requests, 1.0 and 2.0, in snappy's block format.
//!
//! Source: `prompb/remote.proto`, `prompb/io/prometheus/write/v2/types.proto`. What it deliberately does not do: send
//! metadata, exemplars or histograms, which the log does not have.

use std::collections::HashMap;

use veghe_model::Labels;

use super::Protocol;
use super::decode::{put_varint, varint_len};

/// The series of a request, each with its samples: time stamps in milliseconds and values.
pub(super) type Series<'a> = (&'a Labels, &'a [(i64, f64)]);

/// The bytes of one sample's message at most: value, time stamp and their keys.
const MAX_SAMPLE_BYTES: usize = 9 + 11;

/// Makes requests; its room is used again for the next one.
pub(super) struct Encoder {
    body: Vec<u8>,
    part: Vec<u8>,
    message: Vec<u8>,
    snappy: snap::raw::Encoder,
}

impl Default for Encoder {
    fn default() -> Self {
        Self { body: Vec::new(), part: Vec::new(), message: Vec::new(), snappy: snap::raw::Encoder::new() }
    }
}

impl Encoder {
    /// The compressed request of `series` in their order.
    pub(super) fn request<'a>(&mut self, protocol: Protocol, series: impl Iterator<Item = Series<'a>>) -> Vec<u8> {
        self.body.clear();
        match protocol {
            Protocol::Version1 => self.version_1(series),
            Protocol::Version2 => self.version_2(series),
        }
        self.snappy.compress_vec(&self.body).expect("invariant: a request is far below snappy's 4 GiB")
    }

    fn version_1<'a>(&mut self, all: impl Iterator<Item = Series<'a>>) {
        for (labels, samples) in all {
            self.message.clear();
            for label in labels {
                let (name, value) = (label.name.as_bytes(), label.value.as_bytes());
                put_key(&mut self.message, 1, 2);
                put_varint(&mut self.message, (sized_len(name) + sized_len(value)) as u64);
                put_sized(&mut self.message, 1, name);
                put_sized(&mut self.message, 2, value);
            }
            put_samples(&mut self.message, samples);
            put_sized(&mut self.body, 1, &self.message);
        }
    }

    fn version_2<'a>(&mut self, all: impl Iterator<Item = Series<'a>>) {
        // The first symbol is empty.
        let mut symbols: HashMap<&str, u64> = HashMap::new();
        put_sized(&mut self.body, 4, b"");
        self.part.clear();
        let mut refs = Vec::new();
        for (labels, samples) in all {
            refs.clear();
            for text in labels.iter().flat_map(|label| [&*label.name, &*label.value]) {
                let next = symbols.len() as u64 + 1;
                let symbol = *symbols.entry(text).or_insert_with(|| {
                    put_sized(&mut self.body, 4, text.as_bytes());
                    next
                });
                put_varint(&mut refs, symbol);
            }
            self.message.clear();
            put_sized(&mut self.message, 1, &refs);
            put_samples(&mut self.message, samples);
            put_sized(&mut self.part, 5, &self.message);
        }
        self.body.extend_from_slice(&self.part);
    }
}

/// An upper bound of what a series takes in a request, before compression.
pub(super) fn bound(labels: &Labels, samples: usize) -> usize {
    let texts: usize = labels.iter().map(|label| label.name.len() + label.value.len() + 16).sum();
    16 + texts + samples * (MAX_SAMPLE_BYTES + 2)
}

/// Field 2 of a series in both protocols.
fn put_samples(out: &mut Vec<u8>, samples: &[(i64, f64)]) {
    for (time, value) in samples {
        let time = *time as u64;
        let length = 9 + 1 + varint_len(time);
        put_key(out, 2, 2);
        put_varint(out, length as u64);
        put_key(out, 1, 1);
        out.extend_from_slice(&value.to_bits().to_le_bytes());
        put_key(out, 2, 0);
        put_varint(out, time);
    }
}

fn put_key(out: &mut Vec<u8>, field: u8, wire_type: u8) {
    out.push(field << 3 | wire_type);
}

fn put_sized(out: &mut Vec<u8>, field: u8, content: &[u8]) {
    put_key(out, field, 2);
    put_varint(out, content.len() as u64);
    out.extend_from_slice(content);
}

fn sized_len(content: &[u8]) -> usize {
    1 + varint_len(content.len() as u64) + content.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::decode::{Decoded, label_pairs};
    use super::*;

    fn decoded(protocol: Protocol, series: &[(Labels, Vec<(i64, u64)>)]) -> Vec<(Labels, Vec<(i64, u64)>)> {
        let samples: Vec<Vec<(i64, f64)>> =
            series.iter().map(|(_, s)| s.iter().map(|&(t, v)| (t, f64::from_bits(v))).collect()).collect();
        let entries = series.iter().zip(&samples).map(|((labels, _), samples)| (labels, samples.as_slice()));
        let request = Encoder::default().request(protocol, entries);
        let body = snap::raw::Decoder::new().decompress_vec(&request).expect("snappy");
        let mut decoded = Decoded::default();
        match protocol {
            Protocol::Version1 => decoded.version_1(&body, |_| None).expect("1.0"),
            Protocol::Version2 => decoded.version_2(&body).expect("2.0"),
        }
        let mut found = Vec::new();
        for series in &decoded.series {
            assert!(!series.dangling && series.histograms == 0);
            let pairs = label_pairs(decoded.labels(&body, series)).expect("labels");
            assert!(pairs.is_sorted(), "names ascend: {pairs:?}");
            let samples = decoded.samples[series.samples.clone()].iter().map(|&(t, v)| (t, v.to_bits())).collect();
            found.push((Labels::from_pairs(pairs), samples));
        }
        let whole: usize = entries_bound(&found);
        assert!(body.len() <= whole, "{} of {whole}", body.len());
        found
    }

    fn entries_bound(series: &[(Labels, Vec<(i64, u64)>)]) -> usize {
        16 + series.iter().map(|(labels, samples)| bound(labels, samples.len())).sum::<usize>()
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded_as_it_was_by_both_protocols(
            series in prop::collection::vec((
                prop::collection::vec(("[a-z]{1,4}", "[a-zț]{1,200}"), 0..5).prop_map(Labels::from_pairs),
                prop::collection::vec((any::<i64>(), any::<u64>()), 1..4),
            ), 0..5),
        ) {
            for protocol in [Protocol::Version1, Protocol::Version2] {
                prop_assert_eq!(&decoded(protocol, &series), &series);
            }
        }
    }
}
