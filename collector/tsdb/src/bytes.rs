//! Little-endian numbers and variable-length integers, written to a vector and read back from untrusted bytes.
//!
//! Invariant: a [`Cursor`] never reads past its end and never allocates; whoever allocates checks against
//! [`Cursor::left`] first.

/// Why bytes from disk can't be what this program wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Damaged(pub(crate) &'static str);

/// Reads from the front of a slice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn left(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn take(&mut self, n: usize) -> Result<&'a [u8], Damaged> {
        let (head, rest) = self.0.split_at_checked(n).ok_or(Damaged("it ends too early"))?;
        self.0 = rest;
        Ok(head)
    }

    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// The bytes between this cursor and a later one of the same slice.
    pub(crate) fn until(&self, later: &Self) -> &'a [u8] {
        &self.0[..self.left().saturating_sub(later.left())]
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Damaged> {
        let (head, rest) = self.0.split_first_chunk().ok_or(Damaged("it ends too early"))?;
        self.0 = rest;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Damaged> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Damaged> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Damaged> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Seven bits a byte, lowest first, the top bit says that more follow.
    pub(crate) fn varint(&mut self) -> Result<u64, Damaged> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Damaged("a number is longer than 64 bits"))
    }

    pub(crate) fn zigzag(&mut self) -> Result<i64, Damaged> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    pub(crate) fn varint_u32(&mut self) -> Result<u32, Damaged> {
        u32::try_from(self.varint()?).or(Err(Damaged("a number is longer than 32 bits")))
    }

    /// A count of things that take at least `each` bytes: never more than the bytes left can hold.
    pub(crate) fn count(&mut self, each: usize) -> Result<usize, Damaged> {
        let n = usize::try_from(self.varint()?).or(Err(Damaged("a count is too large")))?;
        if n > self.left() / each.max(1) {
            return Err(Damaged("a count is larger than the bytes left"));
        }
        Ok(n)
    }

    /// Bytes that follow their length.
    pub(crate) fn sized(&mut self) -> Result<&'a [u8], Damaged> {
        let n = self.count(1)?;
        self.take(n)
    }
}

pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(crate) fn put_zigzag(out: &mut Vec<u8>, value: i64) {
    put_varint(out, (value << 1 ^ value >> 63) as u64);
}

pub(crate) fn put_sized(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends the low `width` bits of each value, without gaps.
pub(crate) fn put_bits(out: &mut Vec<u8>, width: u32, values: impl Iterator<Item = u64>) {
    if width == 0 {
        return;
    }
    let (mut held, mut bits) = (0_u128, 0_u32);
    for value in values {
        held |= u128::from(value) << bits;
        bits += width;
        if bits >= 64 {
            out.extend_from_slice(&(held as u64).to_le_bytes());
            held >>= 64;
            bits -= 64;
        }
    }
    let tail = (held as u64).to_le_bytes();
    out.extend_from_slice(&tail[..bits.div_ceil(8) as usize]);
}

/// Reads back `n` values of [`put_bits`].
pub(crate) fn take_bits(
    cursor: &mut Cursor<'_>,
    width: u32,
    n: usize,
    mut each: impl FnMut(u64),
) -> Result<(), Damaged> {
    if width == 0 {
        (0..n).for_each(|_| each(0));
        return Ok(());
    }
    let bytes = n.checked_mul(width as usize).ok_or(Damaged("a count is too large"))?.div_ceil(8);
    let mut source = cursor.take(bytes)?;
    let mask = u64::MAX >> (64 - width.min(64));
    let (mut held, mut bits) = (0_u128, 0_u32);
    for _ in 0..n {
        if bits < width {
            if let Some((word, rest)) = source.split_first_chunk::<8>() {
                held |= u128::from(u64::from_le_bytes(*word)) << bits;
                bits += 64;
                source = rest;
            } else {
                for &byte in source {
                    held |= u128::from(byte) << bits;
                    bits += 8;
                }
                source = &[];
            }
        }
        each(held as u64 & mask);
        held >>= width;
        bits = bits.saturating_sub(width);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_come_back(values in prop::collection::vec(any::<i64>(), 0..40)) {
            let mut out = Vec::new();
            for &v in &values {
                put_zigzag(&mut out, v);
            }
            let mut cursor = Cursor::new(&out);
            for &v in &values {
                prop_assert_eq!(cursor.zigzag(), Ok(v));
            }
            prop_assert_eq!(cursor.left(), 0);
        }

        #[test]
        fn packed_bits_come_back(width in 0_u32..=64, values in prop::collection::vec(any::<u64>(), 0..200)) {
            let mask = if width == 0 { 0 } else { u64::MAX >> (64 - width) };
            let values: Vec<u64> = values.iter().map(|v| v & mask).collect();
            let mut out = Vec::new();
            put_bits(&mut out, width, values.iter().copied());
            let mut back = Vec::new();
            let mut cursor = Cursor::new(&out);
            take_bits(&mut cursor, width, values.len(), |v| back.push(v)).expect("bits");
            prop_assert_eq!(back, values);
            prop_assert_eq!(cursor.left(), 0);
        }
    }

    #[test]
    fn a_number_that_never_ends_is_damage() {
        assert!(Cursor::new(&[0xff; 20]).varint().is_err());
        assert!(Cursor::new(&[0xff, 0xff, 0x7f, 1]).count(1).is_err());
    }
}
