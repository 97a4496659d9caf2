//! Feeds `veghe_agent::digitization::fuzz::templates`, which `cargo test` also feeds from the corpus, damaged.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| veghe_agent::digitization::fuzz::templates(data));
