//! Feeds `veghe_collector::digitization::fuzz::sheets`, which `cargo test` also feeds from the corpus, damaged.
//! `cargo fuzz run -O sheets`: without looking for numbers that run over, as calamine's places of cells do.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| veghe_collector::digitization::fuzz::sheets(data));
