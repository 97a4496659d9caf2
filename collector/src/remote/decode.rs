//! Reads remote-write requests, 1.0 and 2.0, without copying or allocating per label.
//!
//! Invariants: nothing is believed before it is checked against the bytes left; what a request becomes in memory is
//! bounded, however little of it repeats itself; a request is decoded whole before anything of it is used. The labels of a series come out as the bytes of protocol 1.0's label fields whichever protocol
//! they came in, so that one key serves both. What it deliberately does not do: judge labels or time stamps
//! (`receiver`), or keep exemplars and metadata, which nobody here stores.

use std::ops::Range;

/// Series of a request: as many as the largest request can hold of the shortest that mean something.
const MAX_SERIES: usize = 1_000_000;
/// Samples of a request, likewise.
const MAX_SAMPLES: usize = 4_000_000;
/// References to symbols of one series.
const MAX_REFS: usize = 1 << 16;
/// Labels that are put together from symbols or pieces: in 2.0 a byte may name a symbol of megabytes.
const MAX_SCRATCH_BYTES: usize = 64 << 20;

/// Why bytes are not a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot decode the request: {0}")]
pub(crate) struct Malformed(&'static str);

/// One series of a request.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    labels: Range<usize>,
    /// Whether the labels lie in the scratch text rather than in the request.
    in_scratch: bool,
    /// Its samples in [`Decoded::samples`].
    pub(crate) samples: Range<usize>,
    pub(crate) histograms: usize,
    pub(crate) exemplars: usize,
    /// Labels that point outside the table of symbols.
    pub(crate) dangling: bool,
}

/// A request, decoded; its room is used again for the next one.
#[derive(Default)]
pub(crate) struct Decoded {
    pub(crate) series: Vec<Series>,
    /// Time stamps in milliseconds and values.
    pub(crate) samples: Vec<(i64, f64)>,
    scratch: Vec<u8>,
    symbols: Vec<Range<usize>>,
}

impl Decoded {
    /// The label fields of `series`, as in protocol 1.0.
    pub(crate) fn labels<'a>(&'a self, body: &'a [u8], series: &Series) -> &'a [u8] {
        let text = if series.in_scratch { &self.scratch } else { body };
        text.get(series.labels.clone()).unwrap_or_default()
    }

    /// Whether one more series may come.
    fn check_room(&self) -> Result<(), Malformed> {
        if self.series.len() >= MAX_SERIES {
            return Err(Malformed("it has too many series; send less at once"));
        }
        Ok(())
    }

    fn sample(&mut self, body: &[u8], at: Range<usize>) -> Result<(), Malformed> {
        if self.samples.len() >= MAX_SAMPLES {
            return Err(Malformed("it has too many samples; send less at once"));
        }
        self.samples.push(sample_of(body, at)?);
        Ok(())
    }

    /// Forgets the request and gives back what only a rare large one needs.
    pub(crate) fn shrink(&mut self) {
        self.clear();
        self.series.shrink_to(64 << 10);
        self.samples.shrink_to(256 << 10);
        self.scratch.shrink_to(4 << 20);
        self.symbols.shrink_to(64 << 10);
    }

    fn clear(&mut self) {
        self.series.clear();
        self.samples.clear();
        self.scratch.clear();
        self.symbols.clear();
    }

    /// Decodes `prometheus.WriteRequest`. `expected` says how many bytes at the beginning of what is left are the labels of
    /// a known series: these are not looked into again.
    pub(crate) fn version_1(
        &mut self,
        body: &[u8],
        mut expected: impl FnMut(&[u8]) -> Option<usize>,
    ) -> Result<(), Malformed> {
        self.clear();
        let mut request = Fields::new(body, 0);
        while let Some(field) = request.next()? {
            if let (1, Value::Bytes(at)) = (field.number, field.value) {
                self.series_1(body, at, &mut expected)?;
            }
        }
        Ok(())
    }

    fn series_1(
        &mut self,
        body: &[u8],
        at: Range<usize>,
        expected: &mut impl FnMut(&[u8]) -> Option<usize>,
    ) -> Result<(), Malformed> {
        self.check_room()?;
        let first_sample = self.samples.len();
        let scratch = self.scratch.len();
        let (mut histograms, mut exemplars) = (0, 0);
        let mut labels: Option<Range<usize>> = None;
        let mut in_scratch = false;
        let mut fields = Fields::new(&body[at.clone()], at.start);
        if let Some(length) = expected(fields.rest) {
            labels = Some(at.start..at.start + length);
            fields.skip(length)?;
        }
        while let Some(field) = fields.next()? {
            match (field.number, field.value) {
                (1, Value::Bytes(_)) => match &mut labels {
                    None => labels = Some(field.whole),
                    Some(labels) if !in_scratch && labels.end == field.whole.start => labels.end = field.whole.end,
                    // Something stands between the labels: they are put together elsewhere.
                    Some(labels) => {
                        if !in_scratch {
                            self.scratch.extend_from_slice(&body[labels.clone()]);
                            in_scratch = true;
                        }
                        self.scratch.extend_from_slice(&body[field.whole]);
                    }
                },
                (2, Value::Bytes(sample)) => self.sample(body, sample)?,
                (3, Value::Bytes(_)) => exemplars += 1,
                (4, Value::Bytes(_)) => histograms += 1,
                _ => {}
            }
        }
        let labels = if in_scratch { scratch..self.scratch.len() } else { labels.unwrap_or(0..0) };
        let samples = first_sample..self.samples.len();
        self.series.push(Series { labels, in_scratch, samples, histograms, exemplars, dangling: false });
        Ok(())
    }

    /// Decodes `io.prometheus.write.v2.Request`.
    pub(crate) fn version_2(&mut self, body: &[u8]) -> Result<(), Malformed> {
        self.clear();
        let mut all = Vec::new();
        let mut request = Fields::new(body, 0);
        while let Some(field) = request.next()? {
            match (field.number, field.value) {
                (4, Value::Bytes(symbol)) => self.symbols.push(symbol),
                (5, Value::Bytes(series)) => all.push(series),
                _ => {}
            }
        }
        if self.symbols.first().is_some_and(|first| !first.is_empty()) {
            return Err(Malformed("the first symbol is not empty"));
        }
        let mut refs = Vec::new();
        for at in all {
            self.series_2(body, at, &mut refs)?;
        }
        Ok(())
    }

    fn series_2(&mut self, body: &[u8], at: Range<usize>, refs: &mut Vec<usize>) -> Result<(), Malformed> {
        self.check_room()?;
        refs.clear();
        let first_sample = self.samples.len();
        let (mut histograms, mut exemplars) = (0, 0);
        let mut fields = Fields::new(&body[at.clone()], at.start);
        while let Some(field) = fields.next()? {
            match (field.number, field.value) {
                (1, Value::Bytes(packed)) => {
                    let mut packed = Fields::new(&body[packed.clone()], packed.start);
                    while !packed.rest.is_empty() {
                        refs.push(usize::try_from(packed.varint()?).unwrap_or(usize::MAX));
                    }
                }
                (1, Value::Number(one)) => refs.push(usize::try_from(one).unwrap_or(usize::MAX)),
                (2, Value::Bytes(sample)) => self.sample(body, sample)?,
                (3, Value::Bytes(_)) => histograms += 1,
                (4, Value::Bytes(_)) => exemplars += 1,
                _ => {}
            }
            if refs.len() > MAX_REFS {
                return Err(Malformed("a series has too many labels"));
            }
        }
        let start = self.scratch.len();
        let (pairs, odd) = refs.as_chunks::<2>();
        let mut dangling = !odd.is_empty();
        for [name, value] in pairs {
            let (Some(name), Some(value)) = (self.symbols.get(*name), self.symbols.get(*value)) else {
                dangling = true;
                break;
            };
            let (name, value) = (&body[name.clone()], &body[value.clone()]);
            if self.scratch.len() + name.len() + value.len() > MAX_SCRATCH_BYTES {
                return Err(Malformed("its labels are too long together; send less at once"));
            }
            let length = |bytes: &[u8]| 1 + varint_len(bytes.len() as u64) + bytes.len();
            self.scratch.push(0x0a);
            put_varint(&mut self.scratch, (length(name) + length(value)) as u64);
            for (tag, text) in [(0x0a, name), (0x12, value)] {
                self.scratch.push(tag);
                put_varint(&mut self.scratch, text.len() as u64);
                self.scratch.extend_from_slice(text);
            }
        }
        let (labels, samples) = (start..self.scratch.len(), first_sample..self.samples.len());
        self.series.push(Series { labels, in_scratch: true, samples, histograms, exemplars, dangling });
        Ok(())
    }
}

/// The names and values in label fields as [`Decoded::labels`] gives them.
pub(crate) fn label_pairs(labels: &[u8]) -> Result<Vec<(&str, &str)>, Malformed> {
    let text = |at: Range<usize>| std::str::from_utf8(&labels[at]).or(Err(Malformed("a label is not UTF-8")));
    let mut pairs = Vec::new();
    let mut fields = Fields::new(labels, 0);
    while let Some(field) = fields.next()? {
        let Value::Bytes(at) = field.value else { continue };
        let (mut name, mut value) = ("", "");
        let mut label = Fields::new(&labels[at.clone()], at.start);
        while let Some(field) = label.next()? {
            match (field.number, field.value) {
                (1, Value::Bytes(at)) => name = text(at)?,
                (2, Value::Bytes(at)) => value = text(at)?,
                _ => {}
            }
        }
        pairs.push((name, value));
    }
    Ok(pairs)
}

fn sample_of(body: &[u8], at: Range<usize>) -> Result<(i64, f64), Malformed> {
    // As every sender writes it: both fields, in order, a time of six bytes.
    if let [0x09, v0, v1, v2, v3, v4, v5, v6, v7, 0x10, times @ ..] = &body[at.clone()]
        && let Some((last, before)) = times.split_last()
        && times.len() < 10
        && *last < 0x80
        && before.iter().all(|byte| *byte >= 0x80)
    {
        let value = f64::from_le_bytes([*v0, *v1, *v2, *v3, *v4, *v5, *v6, *v7]);
        let time = times.iter().rev().fold(0_u64, |time, byte| time << 7 | u64::from(byte & 0x7f));
        return Ok((time as i64, value));
    }
    let (mut time, mut value) = (0, 0.0);
    let mut fields = Fields::new(&body[at.clone()], at.start);
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (1, Value::Number(bits)) => value = f64::from_bits(bits),
            (2, Value::Number(number)) => time = number as i64,
            _ => {}
        }
    }
    Ok((time, value))
}

enum Value {
    Number(u64),
    Bytes(Range<usize>),
}

struct Field {
    number: u64,
    value: Value,
    /// Where it lies, its key included.
    whole: Range<usize>,
}

/// The fields of one message; places are counted from the beginning of the whole request.
struct Fields<'a> {
    rest: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    fn new(rest: &'a [u8], at: usize) -> Self {
        Self { rest, at }
    }

    fn next(&mut self) -> Result<Option<Field>, Malformed> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let start = self.at;
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Number(self.varint()?),
            1 => Value::Number(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = usize::try_from(self.varint()?).or(Err(Malformed("a field is too long")))?;
                let from = self.at;
                self.skip(length)?;
                Value::Bytes(from..self.at)
            }
            5 => Value::Number(u64::from(u32::from_le_bytes(self.array()?))),
            _ => return Err(Malformed("a field has an unknown wire type")),
        };
        Ok(Some(Field { number: key >> 3, value, whole: start..self.at }))
    }

    fn skip(&mut self, length: usize) -> Result<(), Malformed> {
        self.rest = self.rest.get(length..).ok_or(Malformed("it ends too early"))?;
        self.at += length;
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let array = *self.rest.first_chunk().ok_or(Malformed("it ends too early"))?;
        self.skip(N)?;
        Ok(array)
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0;
        for (shift, &byte) in (0..64).step_by(7).zip(self.rest) {
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                self.skip(shift as usize / 7 + 1)?;
                return Ok(value);
            }
        }
        Err(Malformed("a number does not end"))
    }
}

/// The bytes of `value` as a varint.
pub(super) fn varint_len(value: u64) -> usize {
    (u64::BITS - (value | 1).leading_zeros()).div_ceil(7) as usize
}

/// Writes `value` as a varint.
pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
