//! Series one by one, from several threads where there is much to decode: the same as all at once.

use std::ops::ControlFlow;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use veghe_model::{Labels, MatchOp, Matcher, Need, SeriesData, Timestamp};
use veghe_tsdb::{Column, Commit, Options, Store};

const SERIES: usize = 300;
const ROWS: i64 = 4_000;

fn filled(dir: &std::path::Path) -> Store {
    let options = Options { dir: dir.to_owned(), window: Duration::from_hours(1), max_series: 1_000 };
    let store = Store::open(options).expect("store").0;
    let ids: Vec<_> = (0..SERIES)
        .map(|n| store.series(&Labels::from_pairs([("__name__", "m".to_owned()), ("n", format!("{n:03}"))])))
        .collect::<Result<_, _>>()
        .expect("series");
    let group = store.group(&ids);
    let columns: Vec<Column> = (0..ROWS)
        .map(|row| {
            let values = (0..SERIES as i64).map(|n| ((row * 7_919 + n * 31) % 10_007) as f64 / 8.0).collect();
            Column { group, timestamp: Timestamp(row * 5_000), values }
        })
        .collect();
    for some in columns.chunks(500) {
        store.commit(Commit { columns: some.to_vec(), ..Commit::default() }).expect("commit");
    }
    // Most of it is in chunks, the last window in the head.
    while store.seal(Timestamp((ROWS - 200) * 5_000)).expect("seal").more {}
    store
}

#[test]
fn series_one_by_one_are_those_all_at_once() {
    let dir = tempfile::tempdir().expect("directory");
    let store = filled(dir.path());
    let (start, end) = (Timestamp(70_000), Timestamp(ROWS * 5_000));
    let whole = store.select(&[], start, end).expect("select");
    assert_eq!(whole.len(), SERIES);
    for (n, series) in whole.iter().enumerate() {
        assert_eq!(series.labels.get("n"), Some(format!("{n:03}").as_str()));
        let row = |time: i64| time / 5_000;
        assert!(series.iter().all(|s| s.value == ((row(s.timestamp.0) * 7_919 + n as i64 * 31) % 10_007) as f64 / 8.0));
        assert_eq!(series.len(), ROWS as usize - 14);
    }
    let found: Mutex<Vec<(usize, SeriesData)>> = Mutex::default();
    let told = store.select_each(&[], start, end, Need::Values, usize::MAX, &|place, series| {
        found.lock().expect("list").push((place, series));
        ControlFlow::Continue(())
    });
    assert_eq!(told.expect("select"), Some(()));
    let mut found = found.into_inner().expect("list");
    found.sort_by_key(|(place, _)| *place);
    assert_eq!(found.into_iter().map(|(_, series)| series).collect::<Vec<_>>(), whole);
}

#[test]
fn series_near_and_far_from_each_other_are_all_found_and_no_other() {
    let dir = tempfile::tempdir().expect("directory");
    let store = filled(dir.path());
    let (start, end) = (Timestamp(70_000), Timestamp(ROWS * 5_000));
    let whole = store.select(&[], start, end).expect("select");
    // Alone, next to each other, some steps apart on either side of what is stepped over, and mixed.
    let regexes = ["150", "00.", "0.[05]", ".[048]0", ".[02468][09]", "0..|1[0-4].|299", "000|299", "..[0-8]", ".*"];
    for regex in regexes {
        let matcher = Matcher::new("n", MatchOp::Regex, regex).expect("matcher");
        let wanted: Vec<_> = whole.iter().filter(|s| matcher.matches(s.labels.get("n").expect("n"))).collect();
        let found = store.select(&[matcher.clone()], start, end).expect("select");
        assert!(!wanted.is_empty() && found.iter().eq(wanted), "{regex}");
    }
}

#[test]
fn who_has_enough_ends_it_and_what_is_too_much_is_not_begun() {
    let dir = tempfile::tempdir().expect("directory");
    let store = filled(dir.path());
    let count = AtomicUsize::new(0);
    let first = |_: usize, _: SeriesData| {
        count.fetch_add(1, Relaxed);
        ControlFlow::Break(())
    };
    let told =
        store.select_each(&[], Timestamp::MIN, Timestamp::MAX, Need::Values, usize::MAX, &first).expect("select");
    // Each thread may have had one on its way.
    assert!(told.is_some() && (1..=4).contains(&count.load(Relaxed)), "{count:?}");
    count.store(0, Relaxed);
    let most = SERIES * ROWS as usize - 1;
    assert_eq!(
        store.select_each(&[], Timestamp::MIN, Timestamp::MAX, Need::Values, most, &first).expect("select"),
        None
    );
    assert_eq!(count.load(Relaxed), 0);
}
