//! Feeds `veghe_collector::digitization::fuzz::inventory`, which `cargo test` also feeds from the corpus, damaged.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| veghe_collector::digitization::fuzz::inventory(data));
