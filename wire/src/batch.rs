//! The batch: what an agent measured in one collection cycle, in a form that costs the collector tens of nanoseconds
//! a sample.
//!
//! A payload is the major version in one byte, then one or more zstd frames. Their contents, end to end, are one
//! protobuf message [`Batch`]: protobuf merges the fields of concatenated messages, so an agent keeps the compressed
//! cycle in its spool as it will be sent and puts a small frame in front of it that holds what only the moment of
//! sending knows: the definitions that this connection has not seen and the oldest sequence still kept.
//!
//! Series and layouts are numbered from 0 within a spool id, in order of definition, and never change. A batch refers
//! to them by number. A receiver that lacks a definition says so ([`crate::ack::Hold`]) and gets them all again.

use prost::Message;

use crate::{MAJOR, MAX_BATCH_BYTES};

/// What an agent took in one cycle.
#[derive(Clone, PartialEq, Message)]
pub struct Batch {
    /// [`crate::MINOR`] of the sender.
    #[prost(uint32, tag = "1")]
    pub minor: u32,
    /// A random number that stands for one run of an agent; sequences and definitions count within it.
    #[prost(fixed64, tag = "2")]
    pub spool_id: u64,
    /// Counts the batches of this spool id, from 1, without gaps.
    #[prost(uint64, tag = "3")]
    pub sequence: u64,
    /// Every sequence below this one is settled or given up by the agent: none of them will come (again).
    #[prost(uint64, tag = "4")]
    pub oldest_sequence: u64,
    /// Definitions that the receiver may lack.
    #[prost(message, optional, tag = "5")]
    pub dictionary: Option<Dictionary>,
    /// One per sensor that ran.
    #[prost(message, repeated, tag = "6")]
    pub cycles: Vec<Cycle>,
}

/// A run of definitions; repeats of known ones are harmless.
#[derive(Clone, PartialEq, Message)]
pub struct Dictionary {
    /// Label names and values that the definitions below point into.
    #[prost(string, repeated, tag = "1")]
    pub strings: Vec<String>,
    /// The number of the first series defined here.
    #[prost(uint32, tag = "2")]
    pub first_series: u32,
    /// Consecutive series.
    #[prost(message, repeated, tag = "3")]
    pub series: Vec<SeriesDefinition>,
    /// The number of the first layout defined here.
    #[prost(uint32, tag = "4")]
    pub first_layout: u32,
    /// Consecutive layouts.
    #[prost(message, repeated, tag = "5")]
    pub layouts: Vec<Layout>,
}

/// One series by its labels, `__name__` among them; `instance` is the receiver's to set.
#[derive(Clone, PartialEq, Message)]
pub struct SeriesDefinition {
    /// Pairs of indexes into [`Dictionary::strings`]: name, value, name, value ...
    #[prost(uint32, repeated, tag = "1")]
    pub labels: Vec<u32>,
}

/// An ordered set of series that are measured together.
#[derive(Clone, PartialEq, Message)]
pub struct Layout {
    /// Numbers of series, each at most once.
    #[prost(uint32, repeated, tag = "1")]
    pub series: Vec<u32>,
}

/// One column of values, all taken at one moment.
#[derive(Clone, PartialEq, Message)]
pub struct Cycle {
    /// Milliseconds since the Unix epoch.
    #[prost(sint64, tag = "1")]
    pub timestamp_ms: i64,
    /// The number of the layout.
    #[prost(uint32, tag = "2")]
    pub layout: u32,
    /// As many values as the layout has series, in its order; exact bits, staleness markers included.
    #[prost(double, repeated, tag = "3")]
    pub values: Vec<f64>,
}

/// Why a payload is no batch. None of these can be mended by sending it again.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    /// Nothing there at all.
    #[error("payload is empty")]
    Empty,
    /// Made by a newer or older protocol.
    #[error("payload has protocol major version {given}, this program speaks {MAJOR}; update the older of the two")]
    Major {
        /// The version in the payload.
        given: u8,
    },
    /// The frames do not decompress, or to more than [`MAX_BATCH_BYTES`].
    #[error("cannot decompress payload of {bytes} bytes (at most {MAX_BATCH_BYTES} decompressed)")]
    Decompress {
        /// Compressed size.
        bytes: usize,
        /// What zstd says.
        source: std::io::Error,
    },
    /// More parts than a batch may have.
    #[error("batch has more than {MAX_CYCLES} cycles or {MAX_DEFINITIONS} definitions")]
    Excess,
    /// The decompressed bytes are not the message.
    #[error("cannot decode batch")]
    Decode(#[source] prost::DecodeError),
}

/// zstd's level on agents: 1 costs the least, and higher ones gain little on a few kilobytes.
const COMPRESSION_LEVEL: i32 = 1;

/// Definitions (strings, series, layouts) that one payload may hold, so that few bytes can't claim much memory.
pub const MAX_DEFINITIONS: usize = 400_000;
/// Cycles that one payload may hold.
pub const MAX_CYCLES: usize = 20_000;

/// Appends `part` to `payload` as one zstd frame, with the major version first if `payload` is still empty.
///
/// # Errors
/// Only what zstd reports, in practice lack of memory.
pub fn append_frame(payload: &mut Vec<u8>, part: &Batch) -> std::io::Result<()> {
    let frame = zstd::bulk::compress(&part.encode_to_vec(), COMPRESSION_LEVEL)?;
    if payload.is_empty() {
        payload.push(MAJOR);
    }
    payload.extend_from_slice(&frame);
    Ok(())
}

/// Makes frames one after the other; keeps its buffers from one to the next.
pub struct FrameEncoder {
    zstd: zstd::bulk::Compressor<'static>,
    plain: Vec<u8>,
}

impl FrameEncoder {
    /// An encoder with nothing in its buffers.
    ///
    /// # Errors
    /// Only what zstd reports, in practice lack of memory.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self { zstd: zstd::bulk::Compressor::new(COMPRESSION_LEVEL)?, plain: Vec::new() })
    }

    /// `part` as one zstd frame, without the major version: the first frame of a payload needs it in front.
    ///
    /// # Errors
    /// Only what zstd reports, in practice lack of memory.
    pub fn frame(&mut self, part: &Batch) -> std::io::Result<Vec<u8>> {
        self.plain.clear();
        self.plain.reserve(part.encoded_len());
        part.encode_raw(&mut self.plain);
        self.zstd.compress(&self.plain)
    }
}

/// Reads payloads; keeps its buffer from one to the next.
pub struct Decoder {
    zstd: zstd::bulk::Decompressor<'static>,
    plain: Vec<u8>,
}

impl Decoder {
    /// A decoder with nothing in its buffer.
    ///
    /// # Errors
    /// Only what zstd reports, in practice lack of memory.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self { zstd: zstd::bulk::Decompressor::new()?, plain: Vec::new() })
    }

    /// The batch in `payload`.
    ///
    /// # Errors
    /// See [`PayloadError`].
    pub fn decode(&mut self, payload: &[u8]) -> Result<Batch, PayloadError> {
        let (&major, frames) = payload.split_first().ok_or(PayloadError::Empty)?;
        if major != MAJOR {
            return Err(PayloadError::Major { given: major });
        }
        self.plain.clear();
        // Pages of the reserve are touched only as far as a batch needs them.
        self.plain.reserve(MAX_BATCH_BYTES);
        self.zstd
            .decompress_to_buffer(frames, &mut self.plain)
            .map_err(|source| PayloadError::Decompress { bytes: payload.len(), source })?;
        if has_excess(&self.plain) {
            return Err(PayloadError::Excess);
        }
        Batch::decode(self.plain.as_slice()).map_err(PayloadError::Decode)
    }
}

/// Whether `plain` has more parts than a batch may have: an empty part takes two bytes here and some fifty when decoded.
/// Where it can't be read it has not; the decoder says why.
fn has_excess(plain: &[u8]) -> bool {
    let (mut cycles, mut definitions) = (0_usize, 0_usize);
    let mut fields = Fields(plain);
    while let Some((tag, content)) = fields.next_field() {
        match tag {
            5 => {
                let mut parts = Fields(content);
                while let Some((tag, _)) = parts.next_field() {
                    definitions += usize::from(matches!(tag, 1 | 3 | 5));
                }
            }
            6 => cycles += 1,
            _ => {}
        }
    }
    cycles > MAX_CYCLES || definitions > MAX_DEFINITIONS
}

/// The fields of a protobuf message, without decoding them.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// The next field's number and, where it has a length, its content.
    fn next_field(&mut self) -> Option<(u64, &'a [u8])> {
        let key = self.varint()?;
        let length = match key & 7 {
            0 => {
                self.varint()?;
                0
            }
            1 => 8,
            2 => usize::try_from(self.varint()?).ok()?,
            5 => 4,
            _ => return None,
        };
        let (content, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some((key >> 3, content))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }
}
