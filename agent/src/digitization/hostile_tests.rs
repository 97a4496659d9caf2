//! Path templates with paths, METS and ALTO, manifests of bags, as strangers write them: none may panic, hang or take memory
//! without bound. The tests below feed the corpus, and damaged copies of it.

use super::package;
use super::template::Template;

#[path = "../../../tests/fuzz/replay.rs"]
mod replay;
use self::replay::replay;

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

#[test]
fn templates_of_the_corpus_are_read_or_refused() {
    replay("templates", templates);
}

#[test]
fn packages_of_the_corpus_are_read_or_refused() {
    replay("packages", packages);
}
