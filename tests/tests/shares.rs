//! Hot folders on shares.

#[test]
fn each_image_of_a_share_counts_once_and_a_hung_share_holds_nothing_else_up() {
    let dir = tempfile::tempdir().expect("directory");
    veghe_tests::shares::run(dir.path()).expect("the same counts");
}
