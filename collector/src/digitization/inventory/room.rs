//! What a workbook would take before it is read: calamine unpacks what it is given, and makes room for as many texts as a
//! workbook says that it has.
//!
//! Invariant: nothing here takes more memory than the longest tag or text of the table of texts.

use std::io::{self, BufReader, Read, Seek};

use calamine::XlsxError;
use quick_xml::events::Event;
use zip::ZipArchive;

/// Bytes of all parts of a workbook together, unpacked: some 200,000 units take a tenth.
const MAX_BYTES: u64 = 512 << 20;
/// The shortest text of the table: `<si/>`.
const TEXT_BYTES: u64 = 5;
/// The table of texts, wherever it lies.
const TEXTS: &str = "sharedstrings.xml";

/// Whether the workbook in `file` can be read in bounds.
///
/// # Errors
/// Where it can't, or is no archive.
pub(super) fn check(file: impl Read + Seek) -> Result<(), XlsxError> {
    let mut archive = ZipArchive::new(file)?;
    let mut left = MAX_BYTES;
    for place in 0..archive.len() {
        // What an archive says of its sizes need not be so.
        let bytes = io::copy(&mut archive.by_index(place)?.take(left + 1), &mut io::sink())?;
        left = left.checked_sub(bytes).ok_or(XlsxError::Unexpected("it unpacks to more than 512 MiB; split it"))?;
        let part = archive.by_index(place)?;
        if part.name().is_ok_and(|name| name.to_ascii_lowercase().ends_with(TEXTS))
            && texts_told(BufReader::new(part)).is_some_and(|texts| texts > bytes / TEXT_BYTES)
        {
            return Err(XlsxError::Unexpected("its table of texts says that it has more texts than it has room for"));
        }
    }
    Ok(())
}

/// How many texts a table says that it has; nothing where it does not say, or can't be read.
fn texts_told(table: impl io::BufRead) -> Option<u64> {
    let mut reader = quick_xml::Reader::from_reader(table);
    let mut buffer = Vec::new();
    loop {
        buffer.clear();
        match reader.read_event_into(&mut buffer).ok()? {
            Event::Start(tag) | Event::Empty(tag) if tag.local_name().as_ref() == "sst" => {
                let mut attributes = tag.attributes();
                let told = attributes.with_checks(false).flatten();
                let told = told.filter(|attribute| attribute.key.as_ref() == "uniqueCount").map(|attribute| {
                    // Too long for a number is too many.
                    let digits = attribute.value.trim().trim_start_matches(['+', '0']);
                    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
                    is_number.then(|| if digits.is_empty() { 0 } else { digits.parse().unwrap_or(u64::MAX) })
                });
                return told.flatten().max();
            }
            Event::Eof => return None,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_table_says_is_read_as_calamine_does() {
        let told = |table: &str| texts_told(table.as_bytes());
        assert_eq!(told("<?xml version=\"1.0\"?><sst uniqueCount=\"12\"><si/></sst>"), Some(12));
        assert_eq!(
            told("<!-- <sst uniqueCount=\"9\"> --><x:sst count='3' uniqueCount='0000000000000000000000000000080'/>"),
            Some(80)
        );
        assert_eq!(told("<sst uniqueCount=\"99999999999999999999999\">"), Some(u64::MAX));
        assert_eq!(told("<sst><si/></sst>"), None);
        assert_eq!(told("<other/>"), None);
    }
}
