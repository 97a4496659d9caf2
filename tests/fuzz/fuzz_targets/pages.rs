//! Feeds `veghe_tests::fuzz::pages`, which `cargo test` also feeds from the corpus.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| veghe_tests::fuzz::pages(data));
