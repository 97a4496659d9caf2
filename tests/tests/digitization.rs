//! Some weeks of a small archive in a real collector that is killed while it takes events in: every total is the
//! archive's own.

use veghe_tests::archive::Size;
use veghe_tests::digitize::digitize;

#[test]
fn every_total_equals_the_archives_own_books_and_a_kill_changes_none() {
    let dir = tempfile::tempdir().expect("directory");
    let outcome = digitize(dir.path(), Size::SMALL, 12).expect("the same books");
    assert_eq!(outcome.books.units_done, 120);
    assert!(outcome.kills >= 3, "killed {} times only", outcome.kills);
    assert!(outcome.books.events > 15_000, "{}", outcome.books.events);
    assert!(outcome.books.rejections.values().sum::<u64>() > 0, "nothing was rejected");
}
