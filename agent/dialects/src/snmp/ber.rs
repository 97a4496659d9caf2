//! BER as SNMP uses it (RFC 3417, 8): definite lengths, tags of one byte.

use super::oid::{MAX_PARTS, Oid};

/// Tag of an integer.
pub const INTEGER: u8 = 0x02;
/// Tag of bytes.
pub const OCTET_STRING: u8 = 0x04;
/// Tag of nothing.
pub const NULL: u8 = 0x05;
/// Tag of a name.
pub const OBJECT_ID: u8 = 0x06;
/// Tag of a sequence.
pub const SEQUENCE: u8 = 0x30;

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BerError {
    /// They end within a value.
    #[error("the message ends early")]
    Truncated,
    /// A length that SNMP does not allow.
    #[error("the message has a length that SNMP does not allow")]
    Length,
    /// Another kind of value than must be there.
    #[error("the message has type {found:#04x} where {expected:#04x} belongs")]
    Type {
        /// The tag that is there.
        found: u8,
        /// The tag that belongs there.
        expected: u8,
    },
    /// A number that is too large.
    #[error("the message has a number that is too large")]
    Number,
    /// A name that is none.
    #[error("the message has a name that is none")]
    Name,
    /// More follows than belongs there.
    #[error("the message goes on after its end")]
    Trailing,
}

/// Reads values one after the other; knows where they stand in the whole message.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    message: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> Reader<'a> {
    /// From the beginning of `message`.
    pub fn new(message: &'a [u8]) -> Self {
        Self { message, at: 0, end: message.len() }
    }

    /// Where the next value stands in the message.
    pub fn position(&self) -> usize {
        self.at
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.at >= self.end
    }

    /// What is left.
    pub fn rest(&self) -> &'a [u8] {
        self.message.get(self.at..self.end).unwrap_or_default()
    }

    fn byte(&mut self) -> Result<u8, BerError> {
        let byte = *self.rest().first().ok_or(BerError::Truncated)?;
        self.at += 1;
        Ok(byte)
    }

    /// The next value of any type: its tag and content.
    ///
    /// # Errors
    /// Where there is no whole value.
    pub fn any(&mut self) -> Result<(u8, Reader<'a>), BerError> {
        let tag = self.byte()?;
        let first = self.byte()?;
        let length = match first {
            0..=0x7f => usize::from(first),
            0x81..=0x84 => {
                let mut length = 0;
                for _ in 0..first & 0x7f {
                    length = length << 8 | usize::from(self.byte()?);
                }
                length
            }
            _ => return Err(BerError::Length),
        };
        if length > self.end - self.at {
            return Err(BerError::Truncated);
        }
        let content = Reader { message: self.message, at: self.at, end: self.at + length };
        self.at += length;
        Ok((tag, content))
    }

    /// The content of the next value, which has the type `expected`.
    ///
    /// # Errors
    /// Where there is no such value.
    pub fn typed(&mut self, expected: u8) -> Result<Reader<'a>, BerError> {
        match self.any()? {
            (found, content) if found == expected => Ok(content),
            (found, _) => Err(BerError::Type { found, expected }),
        }
    }

    /// The next value, an integer.
    ///
    /// # Errors
    /// Where there is none, or it has more than 64 bits.
    pub fn integer(&mut self) -> Result<i64, BerError> {
        signed(self.typed(INTEGER)?.rest())
    }

    /// The next value, bytes.
    ///
    /// # Errors
    /// Where there are none.
    pub fn octets(&mut self) -> Result<&'a [u8], BerError> {
        Ok(self.typed(OCTET_STRING)?.rest())
    }

    /// Fails unless nothing is left.
    ///
    /// # Errors
    /// [`BerError::Trailing`].
    pub fn finish(&self) -> Result<(), BerError> {
        if self.is_empty() { Ok(()) } else { Err(BerError::Trailing) }
    }
}

/// A signed number.
///
/// # Errors
/// Where it has no byte or more than eight.
pub fn signed(bytes: &[u8]) -> Result<i64, BerError> {
    if bytes.is_empty() || bytes.len() > 8 {
        return Err(BerError::Number);
    }
    let start = if bytes[0] & 0x80 == 0 { 0 } else { -1 };
    Ok(bytes.iter().fold(start, |number, byte| number << 8 | i64::from(*byte)))
}

/// An unsigned number. As others do, one whose sender forgot the leading zero byte is not negative.
///
/// # Errors
/// Where it has no byte or more than 64 bits.
pub fn unsigned(bytes: &[u8]) -> Result<u64, BerError> {
    let bytes = match bytes {
        [] => return Err(BerError::Number),
        [0, rest @ ..] => rest,
        bytes => bytes,
    };
    if bytes.len() > 8 {
        return Err(BerError::Number);
    }
    Ok(bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

/// A name.
///
/// # Errors
/// Where it is none, or has more than [`MAX_PARTS`] parts.
pub fn object_id(bytes: &[u8]) -> Result<Oid, BerError> {
    let mut parts: Vec<u32> = Vec::with_capacity(bytes.len().min(MAX_PARTS) + 1);
    let mut part: u32 = 0;
    let mut is_begun = false;
    for byte in bytes {
        if part > u32::MAX >> 7 {
            return Err(BerError::Name);
        }
        part = part << 7 | u32::from(byte & 0x7f);
        is_begun = byte & 0x80 != 0;
        if is_begun {
            continue;
        }
        if parts.is_empty() {
            let first = (part / 40).min(2);
            parts.extend([first, part - first * 40]);
        } else {
            parts.push(part);
        }
        part = 0;
        if parts.len() > MAX_PARTS {
            return Err(BerError::Name);
        }
    }
    if is_begun {
        return Err(BerError::Name);
    }
    Oid::new(parts).ok_or(BerError::Name)
}

/// Writes values back to front, so that lengths are known when they are written.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    /// In reverse.
    bytes: Vec<u8>,
}

impl Writer {
    /// How much was written so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes before what was written.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes.iter().rev());
    }

    /// Type and length of everything that was written since there were `since` bytes.
    pub fn wrap(&mut self, tag: u8, since: usize) {
        let length = self.bytes.len() - since;
        if length < 0x80 {
            self.bytes.push(length as u8);
        } else {
            let bytes = length.to_le_bytes();
            let count = bytes.iter().rposition(|byte| *byte != 0).map_or(1, |last| last + 1);
            self.bytes.extend_from_slice(bytes.get(..count).unwrap_or_default());
            self.bytes.push(0x80 | count as u8);
        }
        self.bytes.push(tag);
    }

    /// An integer.
    pub fn integer(&mut self, number: i64) {
        let since = self.len();
        let bytes = number.to_be_bytes();
        let is_spare = |pair: &[u8]| {
            matches!(pair, [0, next] if next & 0x80 == 0) || matches!(pair, [0xff, next] if next & 0x80 != 0)
        };
        let skip = bytes.windows(2).take_while(|pair| is_spare(pair)).count();
        self.raw(bytes.get(skip..).unwrap_or_default());
        self.wrap(INTEGER, since);
    }

    /// Bytes of the type `tag`.
    pub fn octets(&mut self, tag: u8, bytes: &[u8]) {
        let since = self.len();
        self.raw(bytes);
        self.wrap(tag, since);
    }

    /// A name.
    pub fn object_id(&mut self, oid: &Oid) {
        let since = self.len();
        let (begin, rest) = oid.parts().split_at(oid.parts().len().min(2));
        let first = if let [first, second] = begin { first * 40 + second } else { 0 };
        for part in rest.iter().rev().chain([&first]) {
            let mut part = *part;
            self.bytes.push((part & 0x7f) as u8);
            part >>= 7;
            while part > 0 {
                self.bytes.push((part & 0x7f) as u8 | 0x80);
                part >>= 7;
            }
        }
        self.wrap(OBJECT_ID, since);
    }

    /// What was written.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.reverse();
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(write: impl FnOnce(&mut Writer)) -> Vec<u8> {
        let mut writer = Writer::default();
        write(&mut writer);
        writer.finish()
    }

    #[test]
    fn numbers_are_as_short_as_they_can_be() {
        for (number, bytes) in [
            (0, &[2, 1, 0][..]),
            (127, &[2, 1, 127]),
            (128, &[2, 2, 0, 128]),
            (-128, &[2, 1, 128]),
            (-129, &[2, 2, 255, 127]),
        ] {
            assert_eq!(written(|w| w.integer(number)), bytes);
        }
    }

    #[test]
    fn what_is_no_value_is_refused() {
        for (bytes, error) in [
            (&[2][..], BerError::Truncated),
            (&[2, 2, 0], BerError::Truncated),
            (&[2, 0x80, 0, 0], BerError::Length),
            (&[2, 0x85, 0, 0, 0, 0, 1, 0], BerError::Length),
            (&[2, 0x84, 255, 255, 255, 255, 0], BerError::Truncated),
            (&[4, 1, 0], BerError::Type { found: 4, expected: 2 }),
            (&[2, 0], BerError::Number),
            (&[2, 9, 1, 0, 0, 0, 0, 0, 0, 0, 0], BerError::Number),
        ] {
            assert_eq!(Reader::new(bytes).integer(), Err(error), "{bytes:?}");
        }
        assert_eq!(unsigned(&[255; 8]), Ok(u64::MAX));
        assert_eq!(unsigned(&[0, 255, 255, 255, 255, 255, 255, 255, 255]), Ok(u64::MAX));
        assert_eq!(unsigned(&[1; 9]), Err(BerError::Number));
        for name in [&[][..], &[0x2b, 0x86], &[0x2b, 0x9f, 0xff, 0xff, 0xff, 0xff, 0x7f], &[1; 200]] {
            assert_eq!(object_id(name), Err(BerError::Name), "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn numbers_read_back(number: i64) {
            prop_assert_eq!(Reader::new(&written(|w| w.integer(number))).integer(), Ok(number));
        }

        #[test]
        fn names_read_back(first in 0u32..3, second in 0u32..40, rest in prop::collection::vec(any::<u32>(), 0..100)) {
            let oid = Oid::new([vec![first, second], rest].concat()).expect("a name");
            let bytes = written(|w| w.object_id(&oid));
            let content = Reader::new(&bytes).typed(OBJECT_ID).expect("a name");
            prop_assert_eq!(object_id(content.rest()), Ok(oid));
        }

        #[test]
        fn long_values_read_back(length in prop::sample::select(vec![0usize, 1, 127, 128, 255, 256, 65535, 65536])) {
            let bytes = written(|w| w.octets(OCTET_STRING, &vec![7; length]));
            prop_assert_eq!(Reader::new(&bytes).octets().map(<[u8]>::len), Ok(length));
        }
    }
}
