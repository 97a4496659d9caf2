//! A disk that is full up to its reserve: nothing is taken, everything is answered, and it goes on when space returns.

use std::time::Duration;

use veghe_model::{Labels, Timestamp};
use veghe_tsdb::{Commit, CommitError, Options, Store};

#[test]
fn below_the_reserve_nothing_is_taken_and_everything_answered() {
    let dir = tempfile::tempdir().expect("directory");
    let options = || Options { dir: dir.path().to_owned(), window: Duration::from_mins(1), max_series: 100 };
    let (store, _) = Store::open(options()).expect("store opens");
    let series = store.series(&Labels::from_pairs([("n", "1")])).expect("series");
    let commit = |n: i64| Commit { samples: vec![(series, Timestamp(n), n as f64)], ..Commit::default() };
    let count = |store: &Store| {
        store
            .select(&[], Timestamp::MIN, Timestamp::MAX)
            .expect("select")
            .iter()
            .map(veghe_model::SeriesData::len)
            .sum::<usize>()
    };
    store.commit(commit(1)).expect("room");
    assert!(!store.stats().read_only && store.stats().free_bytes > 0);
    // A small reserve is kept with ease; no file system has a twentieth of itself less than nothing free.
    store.keep_free(1);
    store.commit(commit(2)).expect("room");
    // More than a twentieth is never asked for, so the refusal is shown where a twentieth is not free.
    store.keep_free(u64::MAX);
    let stats = store.stats();
    match store.commit(commit(3)) {
        Err(CommitError::ReadOnly { free_bytes, min_free_bytes, .. }) => {
            assert!(stats.read_only && free_bytes < min_free_bytes);
        }
        Ok(()) => assert!(!stats.read_only),
        Err(error) => panic!("{error}"),
    }
    let seen = count(&store);
    store.commit_from_reserve(commit(4)).expect("from the reserve");
    while store.seal(Timestamp(1_000_000)).expect("seal").more {}
    assert_eq!(count(&store), seen + 1);
    store.keep_free(0);
    store.commit(commit(5)).expect("space returned");
    assert_eq!(count(&store), seen + 2);
}
