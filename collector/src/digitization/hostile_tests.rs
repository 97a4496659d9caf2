//! Events and inventories as strangers write them: none may panic, hang or take memory without bound, and what is taken reads
//! back as it was. The tests below feed the corpus, and damaged copies of it.

use std::io::Cursor;

use super::event::{parse, reread};
use super::inventory::{Mapping, read_any, read_csv, to_csv};

#[path = "../../../tests/fuzz/replay.rs"]
mod replay;
use self::replay::replay;

/// Bodies of `CloudEvents`, one or a batch.
///
/// # Panics
/// Where the ledger would keep something else than was taken.
fn events(data: &[u8]) {
    for event in parse(data).into_iter().flatten().flatten() {
        let again = reread(event.data.kind(), &event.json);
        assert_eq!(again.as_ref(), Some(&event.data), "{}", event.json);
    }
}

/// Inventories, CSV or XLSX.
///
/// # Panics
/// Where the inventory that was read is written as another.
fn inventory(data: &[u8]) {
    let mapping = Mapping::default();
    let Ok(reading) = read_any(Cursor::new(data), &mapping) else { return };
    if reading.units.is_empty() {
        return;
    }
    let again = read_csv(to_csv(&reading.units).as_bytes(), &mapping);
    assert_eq!(again.problems, [], "{:?}", reading.units);
    assert_eq!(again.units, reading.units);
}

#[test]
fn events_of_the_corpus_are_kept_as_they_are_or_refused() {
    replay("events", events);
}

#[test]
fn inventories_of_the_corpus_are_read_or_refused() {
    replay("inventory", inventory);
}
