//! Feeds the corpus of `fuzz`, and damaged copies of it.

use super::fuzz;

#[path = "../../../tests/fuzz/replay.rs"]
mod replay;
use self::replay::replay;

#[test]
fn templates_of_the_corpus_are_read_or_refused() {
    replay("templates", fuzz::templates);
}

#[test]
fn packages_of_the_corpus_are_read_or_refused() {
    replay("packages", fuzz::packages);
}

#[test]
fn exports_of_the_corpus_are_read_or_refused() {
    replay("exports", fuzz::exports);
}
