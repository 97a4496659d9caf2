//! Feeds the corpus of `fuzz`, and damaged copies of it.

use super::fuzz;

#[path = "../../../tests/fuzz/replay.rs"]
mod replay;
use self::replay::replay;

#[test]
fn events_of_the_corpus_are_kept_as_they_are_or_refused() {
    replay("events", fuzz::events);
}

#[test]
fn inventories_of_the_corpus_are_read_or_refused() {
    replay("inventory", fuzz::inventory);
}

#[test]
fn sheets_of_the_corpus_are_read_or_refused() {
    replay("sheets", fuzz::sheets);
}
