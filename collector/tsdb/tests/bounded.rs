//! A selection that would have too many samples gives none, wherever they are.

use std::time::Duration;

use veghe_model::{Labels, Matcher, Timestamp};
use veghe_tsdb::{Column, Commit, Options, Store};

const WINDOW_MS: i64 = 60_000;

#[test]
fn a_selection_is_refused_by_the_samples_in_its_range() {
    let dir = tempfile::tempdir().expect("directory");
    let options =
        Options { dir: dir.path().to_owned(), window: Duration::from_millis(WINDOW_MS as u64), max_series: 100 };
    let (store, _) = Store::open(options).expect("store");
    let ids: Vec<_> = (0..10)
        .map(|n| store.series(&Labels::from_pairs([("job", "a".to_owned()), ("n", n.to_string())])).expect("series"))
        .collect();
    let group = store.group(&ids);
    // Twelve minutes, a row a second: some windows become chunks, the last ones stay in the head.
    for second in 0..720_i64 {
        let (timestamp, values) = (Timestamp(second * 1000), vec![second as f64; 10]);
        store
            .commit(Commit { columns: vec![Column { group, timestamp, values }], ..Commit::default() })
            .expect("commit");
    }
    while store.seal(Timestamp(9 * WINDOW_MS)).expect("seal").more {}
    let select = |from: i64, to: i64, max: usize| {
        store
            .select_at_most(&[Matcher::equal("job", "a")], Timestamp(from * 1000), Timestamp(to * 1000), max)
            .expect("select")
            .map(|series| series.iter().map(veghe_model::SeriesData::len).sum::<usize>())
    };
    for (from, to) in [(0, 719), (10, 19), (700, 719), (30, 650), (59, 60)] {
        let samples = ((to - from + 1) * 10) as usize;
        assert_eq!(select(from, to, samples), Some(samples), "{from} to {to}");
        assert_eq!(select(from, to, samples - 1), None, "{from} to {to}");
    }
    assert_eq!(select(5_000, 6_000, 0), Some(0));
}
