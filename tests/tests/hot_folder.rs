//! Files on a disk become numbers in the ledger, once each, whatever is killed.

#[test]
fn each_image_counts_once_whatever_its_writer_does_and_whoever_is_killed() {
    let dir = tempfile::tempdir().expect("directory");
    let outcome = veghe_tests::hot_folder::run(dir.path(), 60, 20_261_126).expect("the same counts");
    assert_eq!(outcome.images.values().sum::<u64>(), 60);
    assert!(outcome.kills >= 5, "killed {} times only", outcome.kills);
    assert!(outcome.rewritten > 0, "nothing was written again");
}

#[test]
fn a_rotten_master_is_named_here_and_told_to_the_collector() {
    let dir = tempfile::tempdir().expect("directory");
    veghe_tests::hot_folder::rot(dir.path()).expect("told");
}
