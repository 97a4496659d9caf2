//! What fuzzing feeds: events and inventories as strangers write them. None may panic, hang or take memory without bound, and
//! what is taken reads back as it was. `tests/fuzz` explores; the tests feed the corpus, and damaged copies of it.

use std::io::Cursor;

use flate2::Crc;

use super::event::{parse, reread};
use super::inventory::{Mapping, read_any, read_csv, to_csv};

/// Bodies of `CloudEvents`, one or a batch, as posted and as published.
///
/// # Panics
/// Where the ledger would keep something else than was taken.
pub fn events(data: &[u8]) {
    for event in parse(data).into_iter().flatten().flatten() {
        let again = reread(event.data.kind(), &event.json);
        assert_eq!(again.as_ref(), Some(&event.data), "{}", event.json);
    }
}

/// Inventories, CSV or XLSX.
///
/// # Panics
/// Where the inventory that was read is written as another.
pub fn inventory(data: &[u8]) {
    let mapping = Mapping::default();
    let Ok(reading) = read_any(Cursor::new(data), &mapping) else { return };
    if reading.units.is_empty() {
        return;
    }
    let again = read_csv(to_csv(&reading.units).as_bytes(), &mapping);
    assert_eq!(again.problems, [], "{:?}", reading.units);
    assert_eq!(again.units, reading.units);
}

/// Inventories as workbooks: a sheet, and after a byte 0 the texts that its cells share. Archives of what is damaged fail
/// by their checksums before anything is read, so that the archive is made here.
///
/// # Panics
/// As [`inventory`] does.
pub fn sheets(data: &[u8]) {
    let mut parts = data.splitn(2, |byte| *byte == 0);
    let (sheet, texts) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    inventory(&book(sheet, texts));
}

fn book(sheet: &[u8], texts: &[u8]) -> Vec<u8> {
    stored(&[
        ("_rels/.rels", ROOT),
        ("xl/workbook.xml", WORKBOOK),
        ("xl/_rels/workbook.xml.rels", RELATIONS),
        ("xl/worksheets/sheet1.xml", sheet),
        ("xl/sharedStrings.xml", texts),
    ])
}

const ROOT: &[u8] = br#"<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="rId1" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument" Target="xl/workbook.xml"/></Relationships>"#;

const WORKBOOK: &[u8] = br#"<workbook xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main" xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships"><sheets><sheet name="U" sheetId="1" r:id="rId1"/></sheets></workbook>"#;
const RELATIONS: &[u8] = br#"<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="rId1" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/worksheet" Target="worksheets/sheet1.xml"/><Relationship Id="rId2" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/sharedStrings" Target="sharedStrings.xml"/></Relationships>"#;

/// A ZIP archive of files as they are (APPNOTE, 4.3.7 and 4.3.12).
fn stored(files: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut archive, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in files {
        let mut crc = Crc::new();
        crc.update(content);
        let length = (content.len() as u32).to_le_bytes();
        let name_length = (name.len() as u16).to_le_bytes();
        // Version, flags, method, time and date, as both headers have them.
        let head = [&[20, 0, 0, 0, 0, 0, 0, 0, 33, 0][..], &crc.sum().to_le_bytes(), &length, &length, &name_length];
        let head = head.concat();
        let offset = (archive.len() as u32).to_le_bytes();
        archive.extend([b"PK\x03\x04", &head[..], &[0, 0], name.as_bytes(), content].concat());
        directory.extend([b"PK\x01\x02\x14\0", &head[..], &[0; 12], &offset, name.as_bytes()].concat());
    }
    let (count, offset) = ((files.len() as u16).to_le_bytes(), (archive.len() as u32).to_le_bytes());
    let length = (directory.len() as u32).to_le_bytes();
    archive.extend(directory);
    archive.extend([b"PK\x05\x06\0\0\0\0", &count[..], &count, &length, &offset, &[0, 0]].concat());
    archive
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sheet_that_is_put_into_an_archive_is_read() {
        let seed = include_bytes!("../../../tests/fuzz/corpus/sheets/units");
        let (sheet, texts) = seed.split_at(seed.iter().position(|byte| *byte == 0).expect("a separator"));
        let book = book(sheet, &texts[1..]);
        let reading = read_any(Cursor::new(book), &Mapping::default()).expect("a workbook");
        assert_eq!(reading.problems, []);
        assert_eq!(reading.units.len(), 2);
    }

    #[test]
    fn a_workbook_that_says_it_has_more_texts_than_it_has_room_for_is_refused_before_room_is_made() {
        let seed = include_bytes!("../../../tests/fuzz/corpus/sheets/texts-told");
        let (sheet, texts) = seed.split_at(seed.iter().position(|byte| *byte == 0).expect("a separator"));
        let error = read_any(Cursor::new(book(sheet, &texts[1..])), &Mapping::default()).expect_err("refused");
        assert!(error.to_string().contains("more texts than it has room for"), "{error}");
    }
}
