//! Writes an inventory as the CSV that it is read from.

use super::super::unit::Unit;
use super::columns::{COLUMNS, cell};

/// The units as CSV: UTF-8, `;`, a header, one line each.
pub fn to_csv<'a>(units: impl IntoIterator<Item = &'a Unit>) -> String {
    let mut writer = csv::WriterBuilder::new().delimiter(b';').from_writer(Vec::new());
    let header = COLUMNS.iter().map(|column| column.name.to_owned()).collect::<Vec<_>>();
    let rows = units.into_iter().map(|unit| (0..COLUMNS.len()).map(|place| cell(unit, place)).collect());
    // Memory takes every write, and what is written are texts.
    let written = std::iter::once(header).chain(rows).try_for_each(|row: Vec<String>| writer.write_record(row));
    debug_assert!(written.is_ok(), "{written:?}");
    writer.into_inner().ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default()
}
