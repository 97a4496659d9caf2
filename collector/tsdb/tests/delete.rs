//! Deletions against a model: gone from every answer at once, for ever, whatever is sealed, merged, cleaned or reopened.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use veghe_model::{Labels, MatchOp, Matcher, Timestamp};
use veghe_tsdb::{CleanReport, Column, Commit, Options, Store};

const SERIES: usize = 4;
const WINDOW_MS: i64 = 60_000;

type Model = BTreeMap<(usize, i64), u64>;

fn open(dir: &Path) -> Store {
    let options = Options { dir: dir.to_owned(), window: Duration::from_millis(WINDOW_MS as u64), max_series: 100 };
    Store::open(options).expect("store opens").0
}

fn labels(n: usize) -> Labels {
    Labels::from_pairs([("__name__", "m".to_owned()), ("n", n.to_string())])
}

fn one(n: usize) -> Vec<Matcher> {
    vec![Matcher::equal("n", n.to_string())]
}

fn contents(store: &Store) -> Model {
    let all = Matcher::new("n", MatchOp::Regex, ".+").expect("pattern");
    let found = store.select(&[all], Timestamp::MIN, Timestamp::MAX).expect("select");
    let of = |s: &veghe_model::SeriesData| {
        let n: usize = s.labels.get("n").and_then(|n| n.parse().ok()).expect("label");
        s.iter().map(|x| ((n, x.timestamp.0), x.value.to_bits())).collect::<Vec<_>>()
    };
    found.iter().flat_map(of).collect()
}

/// One row of all series, later than every one before.
fn commit(store: &Store, model: &mut Model, row: i64) {
    let ids: Vec<_> = (0..SERIES).map(|n| store.series(&labels(n)).expect("series")).collect();
    let values: Vec<f64> = (0..SERIES).map(|n| (row % 13 + n as i64) as f64).collect();
    for (n, value) in values.iter().enumerate() {
        model.insert((n, row * 5_000), value.to_bits());
    }
    let columns = vec![Column { group: store.group(&ids), timestamp: Timestamp(row * 5_000), values }];
    store.commit(Commit { columns, ..Commit::default() }).expect("commit");
}

#[derive(Clone, Debug)]
enum Step {
    Rows(i64),
    Delete { n: usize, start: i64, length: i64 },
    Seal(i64),
    Clean,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1_i64..60).prop_map(Step::Rows),
        3 => (0..SERIES, -10_i64..400, 0_i64..200)
            .prop_map(|(n, start, length)| Step::Delete { n, start: start * 3_000, length: length * 3_000 }),
        3 => (1_i64..30).prop_map(|windows| Step::Seal(windows * WINDOW_MS)),
        2 => Just(Step::Clean),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn what_is_deleted_never_shows_again_and_nothing_else_goes(steps in prop::collection::vec(step(), 1..30)) {
        let dir = tempfile::tempdir().expect("directory");
        let mut store = open(dir.path());
        let (mut model, mut row, mut now) = (Model::new(), 0, 0);
        for step in steps {
            match step {
                Step::Rows(rows) => (0..rows).for_each(|_| {
                    commit(&store, &mut model, row);
                    row += 1;
                }),
                Step::Delete { n, start, length } => {
                    store.delete(&one(n), Timestamp(start), Timestamp(start + length)).expect("delete");
                    model.retain(|(series, time), _| *series != n || !(start..=start + length).contains(time));
                }
                Step::Seal(ahead) => {
                    now = i64::max(now, row * 5_000) + ahead;
                    while store.seal(Timestamp(now)).expect("seal").more {}
                    // What comes later is later than what is sealed.
                    row = row.max(now / 5_000 + 1);
                }
                Step::Clean => {
                    store.clean_tombstones().expect("clean");
                }
                Step::Reopen => {
                    drop(store);
                    store = open(dir.path());
                }
            }
            prop_assert!(contents(&store) == model);
        }
        // With everything sealed a clean leaves no tombstone, and no deleted sample in a chunk.
        let now = i64::max(now, row * 5_000) + 100 * WINDOW_MS;
        while store.seal(Timestamp(now)).expect("seal").more {}
        prop_assert_eq!(store.clean_tombstones().expect("clean").left, 0);
        prop_assert_eq!(store.clean_tombstones().expect("clean"), CleanReport::default());
        prop_assert!(contents(&store) == model);
        let report = store.verify(&mut |_| ControlFlow::Continue(())).expect("verification");
        prop_assert_eq!((report.damaged, report.samples), (0, model.len() as u64));
        drop(store);
        prop_assert!(contents(&open(dir.path())) == model);
    }
}

#[test]
fn a_deletion_without_an_end_leaves_what_is_still_to_come() {
    let dir = tempfile::tempdir().expect("directory");
    let store = open(dir.path());
    let mut model = Model::new();
    (0..10).for_each(|row| commit(&store, &mut model, row));
    assert_eq!(store.delete(&one(1), Timestamp::MIN, Timestamp::MAX).expect("delete"), 1);
    assert_eq!(store.delete(&one(77), Timestamp::MIN, Timestamp::MAX).expect("delete"), 0);
    model.retain(|(n, _), _| *n != 1);
    assert_eq!(contents(&store), model);
    commit(&store, &mut model, 10);
    assert_eq!(contents(&store), model);
}

#[test]
fn a_series_that_is_deleted_whole_leaves_the_index_when_cleaned() {
    let dir = tempfile::tempdir().expect("directory");
    let store = open(dir.path());
    let mut model = Model::new();
    (0..40).for_each(|row| commit(&store, &mut model, row));
    while store.seal(Timestamp(10_000_000)).expect("seal").more {}
    store.delete(&one(2), Timestamp::MIN, Timestamp::MAX).expect("delete");
    let report = store.clean_tombstones().expect("clean");
    assert_eq!(report, CleanReport { samples: 40, left: 0 });
    assert_eq!(store.stats().series, 3);
    assert!(store.series_labels(&one(2), Timestamp::MIN, Timestamp::MAX).expect("labels").is_empty());
    assert_eq!(store.cardinality(10).series_by_metric, [("m".to_owned(), 3)]);
}
