//! Columns of values, bit for bit: constant, scaled decimal or plain, with staleness markers on the side.
//!
//! Sealed chunks pack with `pco`; pieces in the head, and short columns of roll-ups, pack bits by frame of reference.
//! Invariant: every encoding is verified bit by bit against the values before it is chosen, so `-0.0` and every NaN
//! come back as they were.

use std::ops::Range;
use std::sync::LazyLock;

use pco::wrapped::{FileCompressor, FileDecompressor};
use pco::{ChunkConfig, DeltaSpec, data_types::Number};
use veghe_model::{STALE_NAN_BITS, is_stale};

use crate::bytes::{Cursor, Damaged, put_bits, put_varint, put_zigzag, take_bits};

/// How a column that is not constant is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    /// For chunks on disk: small.
    Pco,
    /// For the head: fast.
    Bits,
}

const KIND: u8 = 0x07;
const CONSTANT_SCALED: u8 = 0;
const CONSTANT_PLAIN: u8 = 1;
const SCALED: u8 = 2;
const PLAIN: u8 = 3;
const ALL_STALE: u8 = 4;
/// Positions of staleness markers follow the tag; the other values follow without gaps.
const HAS_STALE: u8 = 0x08;
const EXPONENT_SHIFT: u32 = 4;

/// Powers of ten that are exact; a column that needs more decimals is plain.
const POWERS: [f64; 16] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;

/// Level 8 of `pco`: 12 takes longer for nothing, 4 saves little time for 5 % more bytes.
static VALUES: LazyLock<ChunkConfig> = LazyLock::new(|| ChunkConfig::default().with_compression_level(8));
static TIMES: LazyLock<ChunkConfig> =
    LazyLock::new(|| ChunkConfig::default().with_compression_level(8).with_delta_spec(DeltaSpec::TryConsecutive(1)));

/// Room that [`encode`] uses again.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    live: Vec<f64>,
    scaled: Vec<i64>,
}

/// Appends the encoded form of `values`, which are at least one.
pub(crate) fn encode(values: &[f64], packing: Packing, scratch: &mut Scratch, out: &mut Vec<u8>) {
    let stale = values.iter().filter(|v| is_stale(**v)).count();
    if stale == values.len() {
        out.push(ALL_STALE);
        return;
    }
    let Scratch { live, scaled } = scratch;
    if stale == 0 {
        encode_live(values, 0, &[], packing, scaled, out);
        return;
    }
    live.clear();
    live.extend(values.iter().filter(|v| !is_stale(**v)));
    let mut positions = Vec::new();
    put_varint(&mut positions, stale as u64);
    let mut after = 0;
    for (at, _) in values.iter().enumerate().filter(|(_, v)| is_stale(**v)) {
        put_varint(&mut positions, (at - after) as u64);
        after = at + 1;
    }
    encode_live(live, HAS_STALE, &positions, packing, scaled, out);
}

fn encode_live(values: &[f64], flag: u8, positions: &[u8], packing: Packing, scaled: &mut Vec<i64>, out: &mut Vec<u8>) {
    let first = values[0].to_bits();
    let constant = values.iter().all(|v| v.to_bits() == first);
    let exponent = scale(if constant { &values[..1] } else { values }, scaled);
    let kind = match (constant, exponent) {
        (true, Some(exponent)) => CONSTANT_SCALED | exponent << EXPONENT_SHIFT,
        (true, None) => CONSTANT_PLAIN,
        (false, Some(exponent)) => SCALED | exponent << EXPONENT_SHIFT,
        (false, None) => PLAIN,
    };
    out.push(kind | flag);
    out.extend_from_slice(positions);
    match (constant, exponent, packing) {
        (true, Some(_), _) => put_zigzag(out, scaled[0]),
        (true, None, _) => out.extend_from_slice(&first.to_le_bytes()),
        (false, Some(_), Packing::Pco) => put_pco(scaled, &VALUES, out),
        (false, Some(_), Packing::Bits) => pack_integers(scaled, out),
        (false, None, Packing::Pco) => put_pco(values, &VALUES, out),
        (false, None, Packing::Bits) => pack_floats(values, out),
    }
}

/// The smallest exponent that makes every value times a power of ten an exact integer, the integers in `scaled`.
fn scale(values: &[f64], scaled: &mut Vec<i64>) -> Option<u8> {
    let mut exponent = 0_u8;
    'exponents: while let Some(&power) = POWERS.get(usize::from(exponent)) {
        scaled.clear();
        for &value in values {
            let product = value * power;
            if product.is_nan() || product.abs() > MAX_EXACT {
                return None;
            }
            // Rounds like `round` for what is verified below, without a call into libm.
            let integer = (product + 0.5_f64.copysign(product)) as i64;
            if (integer as f64 / power).to_bits() != value.to_bits() {
                exponent += 1;
                continue 'exponents;
            }
            scaled.push(integer);
        }
        return Some(exponent);
    }
    None
}

/// The least power of ten that makes each of `values` an exact integer.
pub(crate) fn power_of(values: &[f64], scratch: &mut Scratch) -> Option<f64> {
    scale(values, &mut scratch.scaled).map(|exponent| POWERS[usize::from(exponent)])
}

/// Room that [`decode_with`] uses again.
#[derive(Debug, Default)]
pub(crate) struct DecodeScratch {
    integers: Vec<i64>,
    floats: Vec<f64>,
    live: Vec<f64>,
}

/// [`decode_with`] room of its own.
pub(crate) fn decode(cursor: &mut Cursor<'_>, n: usize, packing: Packing, out: &mut Vec<f64>) -> Result<(), Damaged> {
    decode_with(cursor, n, packing, &mut DecodeScratch::default(), out)
}

/// Reads `n` values back, appended to `out`. The column takes all that is left of the cursor.
pub(crate) fn decode_with(
    cursor: &mut Cursor<'_>,
    n: usize,
    packing: Packing,
    scratch: &mut DecodeScratch,
    out: &mut Vec<f64>,
) -> Result<(), Damaged> {
    decode_range(cursor, (n, 0..n), packing, scratch, out)
}

/// Of `n` values those of a range, which lies within, appended to `out`: what comes after it is not decoded as far as that can be.
pub(crate) fn decode_range(
    cursor: &mut Cursor<'_>,
    (n, range): (usize, Range<usize>),
    packing: Packing,
    scratch: &mut DecodeScratch,
    out: &mut Vec<f64>,
) -> Result<(), Damaged> {
    let tag = cursor.u8()?;
    if tag & KIND == ALL_STALE {
        out.extend(std::iter::repeat_n(f64::from_bits(STALE_NAN_BITS), range.len()));
        return Ok(());
    }
    if tag & HAS_STALE == 0 {
        return decode_live(cursor, tag, (n, range), packing, scratch, out);
    }
    let positions = take_positions(cursor, n)?;
    let mut values = std::mem::take(&mut scratch.live);
    values.clear();
    let live = n - positions.len();
    decode_live(cursor, tag, (live, 0..live), packing, scratch, &mut values)?;
    let mut live = values.iter().copied();
    let mut at = 0;
    let before = out.len();
    for position in positions {
        out.extend(live.by_ref().take(position - at));
        out.push(f64::from_bits(STALE_NAN_BITS));
        at = position + 1;
    }
    out.extend(live);
    out.truncate(before + range.end);
    out.drain(before..before + range.start.min(out.len() - before));
    scratch.live = values;
    Ok(())
}

/// For each of a range of `n` values 1, or the staleness marker where it is one: no value is decoded.
pub(crate) fn presence(
    cursor: &mut Cursor<'_>,
    (n, range): (usize, Range<usize>),
    out: &mut Vec<f64>,
) -> Result<(), Damaged> {
    let tag = cursor.u8()?;
    let all_stale = tag & KIND == ALL_STALE;
    let value = if all_stale { f64::from_bits(STALE_NAN_BITS) } else { 1.0 };
    let before = out.len();
    out.extend(std::iter::repeat_n(value, range.len()));
    if !all_stale && tag & HAS_STALE != 0 {
        for position in take_positions(cursor, n)?.into_iter().filter(|position| range.contains(position)) {
            out[before + position - range.start] = f64::from_bits(STALE_NAN_BITS);
        }
    }
    Ok(())
}

/// Where among `n` values the staleness markers are, ascending; not all of them.
fn take_positions(cursor: &mut Cursor<'_>, n: usize) -> Result<Vec<usize>, Damaged> {
    let stale = cursor.count(1)?;
    if stale >= n {
        return Err(Damaged("more staleness markers than values"));
    }
    let mut positions = Vec::with_capacity(stale);
    let mut after = 0_u64;
    for _ in 0..stale {
        let at = after.saturating_add(cursor.varint()?);
        if at >= n as u64 {
            return Err(Damaged("a staleness marker lies outside"));
        }
        positions.push(at as usize);
        after = at + 1;
    }
    Ok(positions)
}

fn decode_live(
    cursor: &mut Cursor<'_>,
    tag: u8,
    (n, range): (usize, Range<usize>),
    packing: Packing,
    scratch: &mut DecodeScratch,
    out: &mut Vec<f64>,
) -> Result<(), Damaged> {
    let power = POWERS[usize::from(tag >> EXPONENT_SHIFT)];
    match (tag & KIND, packing) {
        (CONSTANT_SCALED, _) => {
            let value = cursor.zigzag()? as f64 / power;
            out.extend(std::iter::repeat_n(value, range.len()));
            return Ok(());
        }
        (CONSTANT_PLAIN, _) => {
            let value = f64::from_bits(cursor.u64()?);
            out.extend(std::iter::repeat_n(value, range.len()));
            return Ok(());
        }
        (SCALED, Packing::Pco) => {
            let integers = take_pco(cursor, (n, range.end), &mut scratch.integers)?;
            out.extend(integers[range].iter().map(|v| *v as f64 / power));
            return Ok(());
        }
        (PLAIN, Packing::Pco) => {
            let floats = take_pco(cursor, (n, range.end), &mut scratch.floats)?;
            out.extend_from_slice(&floats[range]);
            return Ok(());
        }
        _ => {}
    }
    // Columns packed by bits are short.
    let before = out.len();
    match tag & KIND {
        SCALED => unpack_integers(cursor, n, |v| out.push(v as f64 / power))?,
        PLAIN => unpack_floats(cursor, n, out)?,
        _ => return Err(Damaged("a value column has an unknown kind")),
    }
    out.truncate(before + range.end);
    out.drain(before..before + range.start.min(out.len() - before));
    Ok(())
}

pub(crate) fn pack_times(times: &[i64], packing: Packing, out: &mut Vec<u8>) {
    match packing {
        Packing::Pco => put_pco(times, &TIMES, out),
        Packing::Bits => pack_integers(times, out),
    }
}

pub(crate) fn unpack_times(cursor: &mut Cursor<'_>, n: usize, packing: Packing) -> Result<Vec<i64>, Damaged> {
    match packing {
        Packing::Pco => {
            let mut times = Vec::new();
            take_pco(cursor, (n, n), &mut times)?;
            Ok(times)
        }
        Packing::Bits => {
            let mut times = Vec::new();
            unpack_integers(cursor, n, |t| times.push(t))?;
            Ok(times)
        }
    }
}

fn put_pco<T: Number>(values: &[T], config: &ChunkConfig, out: &mut Vec<u8>) {
    // A vector takes every write and the configuration is ours: `pco` has no reason left to refuse.
    let written: pco::errors::PcoResult<()> = (|| {
        let file = FileCompressor::default();
        file.write_header(&mut *out)?;
        let mut chunk = file.chunk_compressor(values, config)?;
        chunk.write_meta(&mut *out)?;
        chunk.write_page(0, &mut *out)?;
        Ok(())
    })();
    written.expect("invariant: pco compresses at most 2^24 numbers with a valid configuration");
}

/// What `pco` decodes at once.
const PCO_BATCH: usize = 256;

/// Reads the first `end` of `n` numbers, and perhaps more, into the beginning of `room`, which grows only.
fn take_pco<'r, T: Number + Default>(
    cursor: &mut Cursor<'_>,
    (n, end): (usize, usize),
    room: &'r mut Vec<T>,
) -> Result<&'r [T], Damaged> {
    let refused = |_| Damaged("pco refuses the column");
    let (file, rest) = FileDecompressor::new(cursor.rest()).map_err(refused)?;
    let (mut chunk, rest) = file.chunk_decompressor::<T, _>(rest).map_err(refused)?;
    let mut page = chunk.page_decompressor(rest, n).map_err(refused)?;
    // It reads by whole batches.
    let wanted = n.min(end.next_multiple_of(PCO_BATCH));
    if room.len() < wanted {
        room.resize(wanted, T::default());
    }
    let values = &mut room[..wanted];
    let progress = page.read(values).map_err(refused)?;
    if progress.finished != (wanted == n) || progress.n_processed != wanted {
        return Err(Damaged("pco holds another number of values"));
    }
    Ok(values)
}

const BY_DELTA: u8 = 0x80;

fn width_of(low: i64, high: i64) -> u32 {
    u64::BITS - (high.wrapping_sub(low) as u64).leading_zeros()
}

/// Frame of reference over the values or over their differences, whichever is narrower.
fn pack_integers(values: &[i64], out: &mut Vec<u8>) {
    if values.is_empty() {
        return;
    }
    let (mut low, mut high) = (values[0], values[0]);
    let (mut low_step, mut high_step) = (i64::MAX, i64::MIN);
    let mut exact = true;
    for pair in values.windows(2) {
        low = low.min(pair[1]);
        high = high.max(pair[1]);
        let (step, overflow) = pair[1].overflowing_sub(pair[0]);
        exact &= !overflow;
        low_step = low_step.min(step);
        high_step = high_step.max(step);
    }
    let width = width_of(low, high);
    if exact && values.len() > 1 && width_of(low_step, high_step) < width {
        let width = width_of(low_step, high_step);
        out.push(width as u8 | BY_DELTA);
        put_zigzag(out, values[0]);
        put_zigzag(out, low_step);
        put_bits(out, width, values.windows(2).map(|p| (p[1] - p[0]).wrapping_sub(low_step) as u64));
    } else {
        out.push(width as u8);
        put_zigzag(out, low);
        put_bits(out, width, values.iter().map(|v| v.wrapping_sub(low) as u64));
    }
}

fn unpack_integers(cursor: &mut Cursor<'_>, n: usize, mut each: impl FnMut(i64)) -> Result<(), Damaged> {
    if n == 0 {
        return Ok(());
    }
    let tag = cursor.u8()?;
    let width = u32::from(tag & !BY_DELTA);
    if width > 64 {
        return Err(Damaged("a bit width is above 64"));
    }
    if tag & BY_DELTA == 0 {
        let low = cursor.zigzag()?;
        return take_bits(cursor, width, n, |v| each(low.wrapping_add(v as i64)));
    }
    let mut value = cursor.zigzag()?;
    let low_step = cursor.zigzag()?;
    each(value);
    take_bits(cursor, width, n.saturating_sub(1), |v| {
        value = value.wrapping_add(low_step).wrapping_add(v as i64);
        each(value);
    })
}

/// The bits that change from value to value, without those that never do at either end.
fn pack_floats(values: &[f64], out: &mut Vec<u8>) {
    let changes = || values.windows(2).map(|p| p[0].to_bits() ^ p[1].to_bits());
    let any = changes().fold(0, |all, change| all | change);
    let low = any.trailing_zeros().min(63);
    let width = u64::BITS - any.leading_zeros() - if any == 0 { 0 } else { low };
    out.extend_from_slice(&[low as u8, width as u8]);
    out.extend_from_slice(&values[0].to_bits().to_le_bytes());
    put_bits(out, width, changes().map(|c| c >> low));
}

fn unpack_floats(cursor: &mut Cursor<'_>, n: usize, out: &mut Vec<f64>) -> Result<(), Damaged> {
    let [low, width] = cursor.array()?;
    if low > 63 || width > 64 {
        return Err(Damaged("a bit width is above 64"));
    }
    let mut bits = cursor.u64()?;
    out.push(f64::from_bits(bits));
    take_bits(cursor, u32::from(width), n.saturating_sub(1), |change| {
        bits ^= change << low;
        out.push(f64::from_bits(bits));
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use veghe_model::stale_nan;

    fn round_trip(values: &[f64]) {
        for packing in [Packing::Pco, Packing::Bits] {
            let (mut bytes, mut back) = (Vec::new(), Vec::new());
            encode(values, packing, &mut Scratch::default(), &mut bytes);
            decode(&mut Cursor::new(&bytes), values.len(), packing, &mut back).expect("column");
            let bits = |v: &[f64]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&back), bits(values), "{packing:?}");
            // Of a part the same, behind what is there already.
            let n = values.len();
            for range in [0..n, n - 1..n, 0..1, n / 3..n / 2 + 1, n / 2..n / 2] {
                let mut part = vec![0.5];
                let scratch = &mut DecodeScratch::default();
                decode_range(&mut Cursor::new(&bytes), (n, range.clone()), packing, scratch, &mut part).expect("part");
                assert_eq!(bits(&part[1..]), bits(&values[range.clone()]), "{packing:?} {range:?}");
                let mut there = vec![0.5];
                presence(&mut Cursor::new(&bytes), (n, range.clone()), &mut there).expect("presence");
                let expected: Vec<f64> = values[range].iter().map(|v| if is_stale(*v) { *v } else { 1.0 }).collect();
                assert_eq!(bits(&there[1..]), bits(&expected));
            }
        }
    }

    fn value() -> impl Strategy<Value = f64> {
        prop_oneof![
            any::<u64>().prop_map(f64::from_bits),
            (-1_000_000_i64..1_000_000).prop_map(|v| v as f64 / 100.0),
            (0_i64..50).prop_map(|v| v as f64),
            Just(-0.0),
            Just(0.0),
            Just(f64::NAN),
            Just(f64::from_bits(0x7ff8_0000_dead_beef)),
            Just(f64::INFINITY),
            Just(f64::MIN_POSITIVE / 3.0),
            Just(9_007_199_254_740_993.0),
            Just(stale_nan()),
        ]
    }

    proptest! {
        #[test]
        fn any_values_come_back_bit_for_bit(values in prop::collection::vec(value(), 1..700)) {
            round_trip(&values);
        }

        #[test]
        fn decimals_come_back_bit_for_bit(start in -1e6..1e6, steps in prop::collection::vec(0_u32..500, 1..130), k in 0_usize..6) {
            let mut at = (start * POWERS[k]) as i64;
            round_trip(&steps.iter().map(|s| { at += i64::from(*s); at as f64 / POWERS[k] }).collect::<Vec<_>>());
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..80), n in 1_usize..400) {
            let mut out = Vec::new();
            // What comes back is as long as asked for, or an error.
            if decode(&mut Cursor::new(&bytes), n, Packing::Bits, &mut out).is_ok() {
                prop_assert_eq!(out.len(), n);
            }
        }
    }

    #[test]
    fn a_constant_column_takes_a_tag_and_a_value() {
        let mut out = Vec::new();
        encode(&[1.0; 480], Packing::Pco, &mut Scratch::default(), &mut out);
        assert_eq!(out.len(), 2);
    }

    #[test]
    fn markers_between_values_stay_where_they_are() {
        round_trip(&[stale_nan(), 1.5, stale_nan(), stale_nan(), 2.5, 3.5, stale_nan()]);
        round_trip(&[stale_nan(); 7]);
        round_trip(&[stale_nan(), 4.0]);
    }
}
