//! Feeds the corpus of a target and damaged copies of it to parsers that are private to their crate, whose tests take this
//! file in by its path; what is public has targets of its own in `fuzz_targets`.

use std::fs;
use std::path::Path;

/// Feeds what `corpus` has of `target`, and 500 damaged copies of each, always the same.
///
/// # Panics
/// Where there is no corpus, and as `feed` does.
pub(crate) fn replay(target: &str, feed: fn(&[u8])) {
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
