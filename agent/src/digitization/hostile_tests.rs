//! Path templates with paths, METS and ALTO, manifests of bags, as strangers write them: none may panic, hang or take memory
//! without bound. The tests below feed the corpus, and damaged copies of it.

use std::fs;
use std::path::Path;

use super::package;
use super::template::Template;

/// A template, and paths that it reads, a line each.
///
/// # Panics
/// Where a path gives what the wire has no room for.
fn templates(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut lines = text.lines();
    let Some(Ok(template)) = lines.next().map(str::parse::<Template>) else { return };
    assert_eq!(template.text().parse::<Template>().as_ref(), Ok(&template));
    for place in lines.filter_map(|path| template.read(path).ok()) {
        let codes = [Some(&place.unit).filter(|_| template.names_a_unit()), place.batch.as_ref()];
        assert!(codes.into_iter().flatten().all(|code| (1..=64).contains(&code.len())), "{place:?}");
        assert!(place.station.is_none_or(|station| (1..=32).contains(&station.len())));
    }
}

/// An XML file of a package, and lines of a manifest.
///
/// # Panics
/// Where more is counted than can be there.
fn packages(data: &[u8]) {
    package::fuzz(data);
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
fn templates_of_the_corpus_are_read_or_refused() {
    replay("templates", templates);
}

#[test]
fn packages_of_the_corpus_are_read_or_refused() {
    replay("packages", packages);
}
