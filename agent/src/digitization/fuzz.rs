//! What fuzzing feeds: path templates with paths, METS and ALTO, manifests of bags, exports of capture software, as strangers
//! write them. None may panic, hang or take memory without bound. `tests/fuzz` explores; the tests feed the corpus, and damaged
//! copies of it.

use super::template::Template;
use super::{csv_export, package};

/// A template, and paths that it reads, a line each.
///
/// # Panics
/// Where a path gives what the wire has no room for.
pub fn templates(data: &[u8]) {
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

/// An XML file of a package, the lines of a manifest, and what a bag says of itself.
///
/// # Panics
/// Where more is counted than can be there.
pub fn packages(data: &[u8]) {
    package::fuzz(data);
}

/// An export of capture software; the first byte says how it is encoded and what its columns are apart by.
///
/// # Panics
/// Where there are more rows than lines, or a row makes what is no event.
pub fn exports(data: &[u8]) {
    csv_export::fuzz(data);
}
