//! Columns of time stamps: strictly ascending milliseconds.
//!
//! A regular column is its first time stamp, step and count; any other is packed by consecutive differences.
//! Series of one target share their column; who shares is decided by `seal`, not here.

use std::sync::Arc;

use crate::bytes::{Cursor, Damaged, put_varint, put_zigzag};
use crate::codec::{self, Packing};

const REGULAR: u8 = 0;
const PACKED: u8 = 1;

/// The longest column that is read back: what one chunk of `pco` can hold.
pub(crate) const MAX_LEN: usize = 1 << 24;

/// Appends the encoded form of `times`, which ascend strictly and are at least one.
pub(crate) fn encode(times: &[i64], packing: Packing, out: &mut Vec<u8>) {
    debug_assert!(times.is_sorted_by(|a, b| a < b), "time stamps must ascend strictly");
    let (Some(&first), Some(step)) = (times.first(), regular_step(times)) else {
        out.push(PACKED);
        put_varint(out, times.len() as u64);
        codec::pack_times(times, packing, out);
        return;
    };
    out.push(REGULAR);
    put_varint(out, times.len() as u64);
    put_zigzag(out, first);
    put_varint(out, step);
}

/// Whether [`encode`] would write only start, step and count.
pub(crate) fn is_regular(times: &[i64]) -> bool {
    regular_step(times).is_some()
}

fn regular_step(times: &[i64]) -> Option<u64> {
    let step = match times {
        [] => return None,
        [_] => 0,
        [a, b, ..] => b.checked_sub(*a)?,
    };
    times.windows(2).all(|w| w[1].checked_sub(w[0]) == Some(step)).then_some(step as u64)
}

/// Moves behind a column where it is regular; whether it is. Nothing of it is checked but that it is whole.
pub(crate) fn skip_regular(cursor: &mut Cursor<'_>) -> Result<bool, Damaged> {
    let mut behind = *cursor;
    if behind.u8()? != REGULAR {
        return Ok(false);
    }
    behind.varint()?;
    behind.zigzag()?;
    behind.varint()?;
    *cursor = behind;
    Ok(true)
}

/// Reads a column back; the cursor may go on behind it only where the column is regular.
pub(crate) fn decode(cursor: &mut Cursor<'_>, packing: Packing) -> Result<Arc<[i64]>, Damaged> {
    let tag = cursor.u8()?;
    let n = usize::try_from(cursor.varint()?).unwrap_or(usize::MAX);
    if n == 0 || n > MAX_LEN {
        return Err(Damaged("a time column has no or too many time stamps"));
    }
    match tag {
        REGULAR => {
            let first = cursor.zigzag()?;
            let step = i64::try_from(cursor.varint()?).or(Err(Damaged("a time column's step is too large")))?;
            let last = step.checked_mul(n as i64 - 1).and_then(|span| first.checked_add(span));
            if last.is_none() || (step == 0 && n > 1) {
                return Err(Damaged("a time column does not ascend"));
            }
            Ok((0..n as i64).map(|i| first + i * step).collect())
        }
        PACKED => {
            let times = codec::unpack_times(cursor, n, packing)?;
            if !times.is_sorted_by(|a, b| a < b) {
                return Err(Damaged("a time column does not ascend"));
            }
            Ok(times.into())
        }
        _ => Err(Damaged("a time column has an unknown kind")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_regular_column_takes_a_dozen_bytes() {
        let times: Vec<i64> = (0..480).map(|i| 1_700_000_000_123 + i * 15_000).collect();
        let mut out = Vec::new();
        encode(&times, Packing::Pco, &mut out);
        assert!(out.len() <= 12, "{} bytes", out.len());
    }

    #[test]
    fn time_stamps_at_both_ends_of_the_range_come_back() {
        let times = [i64::MIN, i64::MAX];
        for packing in [Packing::Pco, Packing::Bits] {
            let mut out = Vec::new();
            encode(&times, packing, &mut out);
            assert_eq!(*decode(&mut Cursor::new(&out), packing).expect("column"), times);
        }
    }

    proptest! {
        #[test]
        fn time_stamps_come_back(set in prop::collection::btree_set(any::<i64>(), 1..300), bits in any::<bool>()) {
            let packing = if bits { Packing::Bits } else { Packing::Pco };
            let times: Vec<i64> = set.into_iter().collect();
            let mut out = Vec::new();
            encode(&times, packing, &mut out);
            let back = decode(&mut Cursor::new(&out), packing).expect("column");
            prop_assert_eq!(&*back, &*times);
        }
    }
}
