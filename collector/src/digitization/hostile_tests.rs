//! Events and inventories as strangers write them: none may panic, hang or take memory without bound, and what is taken reads
//! back as it was. The tests below feed the corpus, and damaged copies of it.

use std::fs;
use std::io::Cursor;
use std::path::Path;

use super::event::{parse, reread};
use super::inventory::{Mapping, read_any, read_csv, to_csv};

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

fn replay(target: &str, feed: fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus").join(target);
    let inputs: Vec<Vec<u8>> = fs::read_dir(&dir)
        .expect("corpus")
        .map(|entry| fs::read(entry.expect("entry").path()).expect("input"))
        .collect();
    assert!(!inputs.is_empty(), "the corpus of {target} is empty");
    // Damaged in always the same way: bytes that are others, are left out or twice, and ends that are missing.
    let mut random = 0x9e37_79b9_u32;
    let mut next = |below: usize| {
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        random as usize % below.max(1)
    };
    for input in &inputs {
        feed(input);
        for _ in 0..500 {
            let mut damaged = input.clone();
            for _ in 0..=next(6) {
                let (at, from) = (next(damaged.len()), next(damaged.len()));
                let piece = damaged.get(from..damaged.len().min(from + next(16))).unwrap_or_default().to_vec();
                let end = at.min(damaged.len());
                match (next(3), damaged.get_mut(at)) {
                    (0, _) => damaged.truncate(end),
                    (1, _) => drop(damaged.splice(end..end, piece)),
                    (_, Some(byte)) => *byte = (from % 256) as u8,
                    (_, None) => {}
                }
            }
            feed(&damaged);
        }
    }
}

#[test]
fn events_of_the_corpus_are_kept_as_they_are_or_refused() {
    replay("events", events);
}

#[test]
fn inventories_of_the_corpus_are_read_or_refused() {
    replay("inventory", inventory);
}
