//! A log page as SCSI has it (SPC-4, 7.3): a header, and parameters of a number and bytes each.
//!
//! Invariant: nothing is read beyond what the page and its parameters say that they have.

use std::collections::BTreeMap;

const HEADER_BYTES: usize = 4;
/// Of a drive there are no more.
const MAX_PARAMETERS: usize = 4096;

/// Parameters by number.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Page<'a>(BTreeMap<u16, &'a [u8]>);

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// What follows the header of the page `code`; `None` if `bytes` are another page or none.
fn body(code: u8, bytes: &[u8]) -> Option<&[u8]> {
    // Without the bits that tell of saving and of subpages; of these the first, 0, is wanted.
    let is_it = bytes.first()? & 0x3f == code && *bytes.get(1)? == 0;
    let length = usize::from(be16(bytes, 2)?);
    is_it.then(|| bytes.get(HEADER_BYTES..HEADER_BYTES + length)).flatten()
}

/// The numbers of the pages that a drive has: the content of its page 0.
pub(super) fn supported(bytes: &[u8]) -> Option<&[u8]> {
    body(0, bytes)
}

impl<'a> Page<'a> {
    /// The page `code`; `None` if `bytes` are another page or end within it. A parameter that is cut off ends it.
    pub(super) fn parse(code: u8, bytes: &'a [u8]) -> Option<Self> {
        let mut rest = body(code, bytes)?;
        let mut parameters = BTreeMap::new();
        while let (Some(number), Some(length)) = (be16(rest, 0), rest.get(3)) {
            let end = HEADER_BYTES + usize::from(*length);
            let Some(value) = rest.get(HEADER_BYTES..end) else { break };
            if parameters.len() == MAX_PARAMETERS {
                break;
            }
            parameters.insert(number, value);
            rest = rest.get(end..).unwrap_or_default();
        }
        Some(Self(parameters))
    }

    /// The bytes of a parameter.
    pub(super) fn bytes(&self, parameter: u16) -> Option<&'a [u8]> {
        self.0.get(&parameter).copied()
    }

    /// A number of up to eight bytes; `None` where it is not there, or the drive says by ones alone that it does not know.
    pub(super) fn number(&self, parameter: u16) -> Option<u64> {
        number(self.bytes(parameter)?)
    }

    /// Text without the blanks that fill its field.
    pub(super) fn text(&self, parameter: u16) -> Option<String> {
        let text = String::from_utf8_lossy(self.bytes(parameter)?).trim_matches([' ', '\0']).to_owned();
        (!text.is_empty()).then_some(text)
    }

    /// The sum of a number that each partition has; those that it does not know are left out (SSC-4, table 148).
    pub(super) fn of_partitions(&self, parameter: u16) -> Option<u64> {
        let mut rest = self.bytes(parameter)?;
        let mut sum = None;
        while let Some(length) = rest.first() {
            let record = rest.get(1..=usize::from(*length))?;
            if let Some(count) = record.get(3..).and_then(number) {
                sum = Some(sum.unwrap_or(0_u64).saturating_add(count));
            }
            rest = rest.get(1 + usize::from(*length)..)?;
        }
        sum
    }
}

fn number(bytes: &[u8]) -> Option<u64> {
    let is_known = bytes.len() < 4 || bytes.iter().any(|byte| *byte != 0xff);
    let is_number = is_known && !bytes.is_empty() && bytes.len() <= 8;
    is_number.then(|| bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}
