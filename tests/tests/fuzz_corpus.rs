//! Everything that fuzzing ever found, and what it starts from, fed to the same functions again.

use std::fs;
use std::path::Path;

fn replay(target: &str, feed: fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut inputs = 0;
    for entry in fs::read_dir(&dir).expect("corpus") {
        feed(&fs::read(entry.expect("entry").path()).expect("input"));
        inputs += 1;
    }
    assert!(inputs > 0, "the corpus of {target} is empty");
}

#[test]
fn payloads_of_the_corpus_are_read_or_refused() {
    replay("batch", veghe_tests::fuzz::batch);
}

#[test]
fn log_segments_of_the_corpus_are_read_or_refused() {
    replay("log", veghe_tests::fuzz::log);
}

#[test]
fn queries_of_the_corpus_are_answered_or_refused() {
    replay("query", veghe_tests::fuzz::query);
}

#[test]
fn image_files_of_the_corpus_are_read_or_refused() {
    replay("images", veghe_tests::fuzz::images);
}

#[test]
fn what_devices_say_in_the_corpus_is_read_or_refused() {
    replay("devices", veghe_tests::fuzz::devices);
}

#[test]
fn pages_of_the_corpus_are_looked_at_or_not() {
    replay("pages", veghe_tests::fuzz::pages);
}
