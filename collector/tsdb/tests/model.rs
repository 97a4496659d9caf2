//! The store against a `BTreeMap`: whatever is committed, sealed, dropped or reopened, a reader sees the same.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use veghe_model::{Labels, MatchOp, Matcher, Timestamp};
use veghe_tsdb::{Column, Commit, GroupId, OpenError, Options, SeriesId, Store};

const WINDOW_MS: i64 = 60_000;
const DAY_MS: i64 = 12 * WINDOW_MS;
const SERIES: usize = 8;

type Model = BTreeMap<Labels, BTreeMap<i64, u64>>;

fn options(dir: &Path) -> Options {
    Options { dir: dir.to_owned(), window: Duration::from_millis(WINDOW_MS as u64), max_series: 10_000 }
}

fn open(dir: &Path) -> Store {
    Store::open(options(dir)).expect("store opens").0
}

fn labels(n: usize) -> Labels {
    Labels::from_pairs([("__name__", format!("metric_{}", n % 3)), ("n", n.to_string())])
}

fn all() -> Matcher {
    Matcher::new("n", MatchOp::Regex, ".+").expect("pattern")
}

fn contents(store: &Store, start: i64, end: i64) -> Model {
    store
        .select(&[all()], Timestamp(start), Timestamp(end))
        .expect("select")
        .into_iter()
        .map(|s| (s.labels.clone(), s.iter().map(|x| (x.timestamp.0, x.value.to_bits())).collect()))
        .collect()
}

fn part(model: &Model, start: i64, end: i64) -> Model {
    model
        .iter()
        .map(|(l, s)| (l.clone(), s.range(start..=end).map(|(t, v)| (*t, *v)).collect::<BTreeMap<_, _>>()))
        .filter(|(_, s)| !s.is_empty())
        .collect()
}

#[derive(Clone, Debug)]
enum Step {
    Row { group: usize, time: i64, values: Vec<f64> },
    Run { group: usize, time: i64, step: i64, rows: usize },
    Samples(Vec<(usize, i64, f64)>),
    Mark { key: u8, value: Vec<u8> },
    Seal { now: i64, calls: usize },
    Drop { horizon: i64 },
    Reopen,
}

fn value() -> impl Strategy<Value = f64> {
    prop_oneof![
        4 => (0_i64..1000).prop_map(|v| v as f64 / 10.0),
        1 => any::<u64>().prop_map(f64::from_bits),
        1 => Just(veghe_model::stale_nan()),
        1 => Just(-0.0),
    ]
}

fn time() -> impl Strategy<Value = i64> {
    prop_oneof![3 => (0_i64..40).prop_map(|t| t * 15_000), 1 => -120_000_i64..600_000]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0_usize..3, time(), prop::collection::vec(value(), SERIES))
            .prop_map(|(group, time, values)| Step::Row { group, time, values }),
        2 => (0_usize..3, time(), 1_i64..2_000, 1_usize..150)
            .prop_map(|(group, time, step, rows)| Step::Run { group, time, step, rows }),
        4 => prop::collection::vec((0..SERIES, time(), value()), 1..20).prop_map(Step::Samples),
        1 => (0_u8..3, prop::collection::vec(any::<u8>(), 0..3)).prop_map(|(key, value)| Step::Mark { key, value }),
        3 => (-100_000_i64..900_000, 1_usize..3).prop_map(|(now, calls)| Step::Seal { now, calls }),
        // Late enough for days to be merged, in part or wholly.
        2 => (1_i64..20, 1_usize..40).prop_map(|(n, calls)| Step::Seal { now: n * 1_000_000, calls }),
        1 => (-100_000_i64..400_000).prop_map(|horizon| Step::Drop { horizon }),
        1 => Just(Step::Reopen),
    ]
}

struct World {
    store: Store,
    series: Vec<SeriesId>,
    groups: Vec<(GroupId, Vec<usize>)>,
}

impl World {
    fn new(dir: &Path) -> Self {
        let store = open(dir);
        let series: Vec<SeriesId> = (0..SERIES).map(|n| store.series(&labels(n)).expect("series")).collect();
        // Overlapping groups, one with a series twice.
        let members: [Vec<usize>; 3] = [vec![0, 1, 2, 3], vec![5, 3, 4], vec![6, 7, 6]];
        let groups =
            members.into_iter().map(|m| (store.group(&m.iter().map(|n| series[*n]).collect::<Vec<_>>()), m)).collect();
        Self { store, series, groups }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn a_reader_sees_what_was_committed_whatever_happened_since(
        steps in prop::collection::vec(step(), 1..40),
        from in -130_000_i64..500_000,
        length in 0_i64..400_000,
    ) {
        let dir = tempfile::tempdir().expect("directory");
        let mut world = World::new(dir.path());
        let mut model = Model::new();
        let mut marks: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        let put = |model: &mut Model, n: usize, time: i64, value: f64| {
            model.entry(labels(n)).or_default().entry(time).or_insert(value.to_bits());
        };
        for step in steps {
            match step {
                Step::Row { group, time, values } => {
                    let (id, members) = &world.groups[group];
                    let values: Vec<f64> = values.into_iter().take(members.len()).collect();
                    members.iter().zip(&values).for_each(|(n, v)| put(&mut model, *n, time, *v));
                    let columns = vec![Column { group: *id, timestamp: Timestamp(time), values }];
                    world.store.commit(Commit { columns, ..Commit::default() }).expect("commit");
                }
                Step::Run { group, time, step, rows } => {
                    let (id, members) = &world.groups[group];
                    let columns = (0..rows as i64).map(|row| {
                        let values: Vec<f64> = members.iter().map(|n| *n as f64 + (row / 7) as f64).collect();
                        members.iter().zip(&values).for_each(|(n, v)| put(&mut model, *n, time + row * step, *v));
                        Column { group: *id, timestamp: Timestamp(time + row * step), values }
                    }).collect();
                    world.store.commit(Commit { columns, ..Commit::default() }).expect("commit");
                }
                Step::Samples(samples) => {
                    for (n, t, v) in &samples {
                        put(&mut model, *n, *t, *v);
                    }
                    let samples = samples.into_iter().map(|(n, t, v)| (world.series[n], Timestamp(t), v)).collect();
                    world.store.commit(Commit { samples, ..Commit::default() }).expect("commit");
                }
                Step::Mark { key, value } => {
                    if value.is_empty() {
                        marks.remove(&vec![b'm', key]);
                    } else {
                        marks.insert(vec![b'm', key], value.clone());
                    }
                    world.store.commit(Commit { marks: vec![(vec![b'm', key], value)], ..Commit::default() }).expect("commit");
                }
                Step::Seal { now, calls } => {
                    for _ in 0..calls {
                        world.store.seal(Timestamp(now)).expect("seal");
                    }
                }
                Step::Drop { horizon } => {
                    world.store.drop_before(Timestamp(horizon)).expect("drop");
                    let first = horizon.div_euclid(WINDOW_MS) * WINDOW_MS;
                    let first_day = horizon.div_euclid(DAY_MS) * DAY_MS;
                    // What is merged stays as long as its day does.
                    let found = contents(&world.store, i64::MIN, first - 1);
                    for (labels, samples) in &mut model {
                        let left = |t: &i64| found.get(labels).is_some_and(|found| found.contains_key(t));
                        samples.retain(|t, _| *t >= first || *t >= first_day && left(t));
                    }
                }
                Step::Reopen => {
                    drop(world);
                    world = World::new(dir.path());
                }
            }
            prop_assert_eq!(contents(&world.store, i64::MIN, i64::MAX), part(&model, i64::MIN, i64::MAX));
        }
        prop_assert_eq!(contents(&world.store, from, from + length), part(&model, from, from + length));
        drop(world);
        let store = open(dir.path());
        prop_assert_eq!(contents(&store, i64::MIN, i64::MAX), part(&model, i64::MIN, i64::MAX));
        prop_assert_eq!(store.marks(b"m"), marks.into_iter().collect::<Vec<_>>());
    }
}

#[test]
fn readers_see_everything_once_while_windows_are_sealed_and_samples_arrive() {
    fn shared<T: Send + Sync>(_: &T) {}
    let dir = tempfile::tempdir().expect("directory");
    let world = World::new(dir.path());
    shared(&world.store);
    let group = world.groups[0].0;
    let rows = 600_i64;
    let written = std::sync::atomic::AtomicI64::new(0);
    std::thread::scope(|scope| {
        let (store, written) = (&world.store, &written);
        scope.spawn(move || {
            for row in 0..rows {
                let columns = vec![Column { group, timestamp: Timestamp(row * 1_000), values: vec![row as f64; 4] }];
                store.commit(Commit { columns, ..Commit::default() }).expect("commit");
                written.store(row + 1, std::sync::atomic::Ordering::SeqCst);
            }
        });
        scope.spawn(move || {
            while written.load(std::sync::atomic::Ordering::SeqCst) < rows {
                let now = written.load(std::sync::atomic::Ordering::SeqCst) * 1_000;
                store.seal(Timestamp(now)).expect("seal");
            }
        });
        scope.spawn(move || {
            let mut least = 0;
            while least < rows {
                least = written.load(std::sync::atomic::Ordering::SeqCst);
                for series in store.select(&[all()], Timestamp::MIN, Timestamp::MAX).expect("select") {
                    assert!(series.len() as i64 >= least, "{} of at least {least}", series.len());
                    assert!(series.iter().enumerate().all(|(row, s)| s.timestamp.0 == row as i64 * 1_000));
                }
            }
        });
    });
}

#[test]
fn a_second_opener_learns_who_holds_the_directory() {
    let dir = tempfile::tempdir().expect("directory");
    let held = open(dir.path());
    let error = Store::open(options(dir.path())).map(drop).expect_err("held");
    assert!(matches!(error, OpenError::Held { pid: Some(pid), .. } if pid == std::process::id()), "{error}");
    drop(held);
    open(dir.path());
}

#[test]
fn everything_sealed_leaves_no_log_and_an_empty_head() {
    let dir = tempfile::tempdir().expect("directory");
    let world = World::new(dir.path());
    for row in 0..40 {
        let columns =
            vec![Column { group: world.groups[0].0, timestamp: Timestamp(row * 10_000), values: vec![row as f64; 4] }];
        let marks = vec![(b"mark".to_vec(), row.to_string().into_bytes())];
        world.store.commit(Commit { columns, marks, ..Commit::default() }).expect("commit");
    }
    let before = contents(&world.store, 0, i64::MAX);
    while world.store.seal(Timestamp(10_000_000)).expect("seal").more {}
    let stats = world.store.stats();
    assert_eq!((stats.head_samples, stats.log_segments), (0, 0), "{stats:?}");
    assert_eq!(contents(&world.store, 0, i64::MAX), before);
    drop(world);
    let (store, recovery) = Store::open(options(dir.path())).expect("store opens");
    assert_eq!(recovery.replayed_records, 0);
    assert_eq!(contents(&store, 0, i64::MAX), before);
    assert_eq!(store.mark(b"mark"), Some(b"39".to_vec()));
    assert_eq!(store.drop_before(Timestamp(10_000_000)).expect("drop"), 28);
    assert_eq!(store.stats().series, 0);
}

#[test]
fn a_store_at_rest_has_no_large_write_ahead_log() {
    let dir = tempfile::tempdir().expect("directory");
    let store = open(dir.path());
    for key in 0..64_u8 {
        let marks = vec![(vec![key], vec![key + 1; 64 << 10])];
        store.commit(Commit { marks, ..Commit::default() }).expect("commit");
    }
    while store.seal(Timestamp(0)).expect("seal").more {}
    let len = |name: &str| dir.path().join(name).metadata().expect("file").len();
    assert!(len("chunks.db") > 4 << 20, "{} bytes in the database", len("chunks.db"));
    assert_eq!(len("chunks.db-wal"), 0);
    assert_eq!(store.stats().log_segments, 0);
}

#[test]
fn repeats_alone_do_not_keep_a_log_segment() {
    let dir = tempfile::tempdir().expect("directory");
    let world = World::new(dir.path());
    let commit = || {
        let columns = vec![Column { group: world.groups[0].0, timestamp: Timestamp(5), values: vec![1.0; 4] }];
        let samples = vec![(world.series[0], Timestamp(5), 2.0)];
        world.store.commit(Commit { columns, samples, ..Commit::default() }).expect("commit");
    };
    commit();
    commit();
    assert_eq!(world.store.stats().duplicate_samples, 6);
    for now in [100_000, 200_000] {
        while world.store.seal(Timestamp(now)).expect("seal").more {}
        assert_eq!((world.store.stats().log_segments, world.store.stats().head_samples), (0, 0));
        commit();
    }
    assert_eq!(contents(&world.store, 0, 10)[&labels(0)], BTreeMap::from([(5, 1.0_f64.to_bits())]));
}

#[test]
fn series_of_one_group_share_their_time_stamps() {
    let dir = tempfile::tempdir().expect("directory");
    let world = World::new(dir.path());
    for row in 0..30_i64 {
        let timestamp = Timestamp(row * 10_000 + row * row % 7);
        let columns = vec![Column { group: world.groups[0].0, timestamp, values: vec![row as f64; 4] }];
        world.store.commit(Commit { columns, ..Commit::default() }).expect("commit");
    }
    for _ in 0..2 {
        let found = world.store.select(&[all()], Timestamp(5), Timestamp(200_000)).expect("select");
        assert!(found.windows(2).all(|pair| std::sync::Arc::ptr_eq(&pair[0].timestamps, &pair[1].timestamps)));
        while world.store.seal(Timestamp(250_000)).expect("seal").more {}
    }
}

#[test]
fn a_dropped_series_comes_back_with_its_next_sample() {
    let dir = tempfile::tempdir().expect("directory");
    let world = World::new(dir.path());
    let sample = |t: i64| Commit { samples: vec![(world.series[2], Timestamp(t), 1.0)], ..Commit::default() };
    world.store.commit(sample(0)).expect("commit");
    world.store.drop_before(Timestamp(WINDOW_MS)).expect("drop");
    assert_eq!(world.store.select(&[all()], Timestamp::MIN, Timestamp::MAX).expect("select").len(), 0);
    world.store.commit(sample(WINDOW_MS)).expect("commit");
    let expected = BTreeMap::from([(labels(2), BTreeMap::from([(WINDOW_MS, 1.0_f64.to_bits())]))]);
    assert_eq!(contents(&world.store, i64::MIN, i64::MAX), expected);
    drop(world);
    assert_eq!(contents(&open(dir.path()), i64::MIN, i64::MAX), expected);
}

#[test]
fn a_past_window_is_sealed_soon_after_it_stops_growing_and_not_before() {
    let dir = tempfile::tempdir().expect("directory");
    let world = World::new(dir.path());
    let mut now = 10_000_000;
    let mut time = 0;
    let mut tick = |pause: i64, loads: bool| {
        if loads {
            let samples = vec![(world.series[0], Timestamp(time), 1.0)];
            world.store.commit(Commit { samples, ..Commit::default() }).expect("commit");
            time += 1;
        }
        now += pause;
        while world.store.seal(Timestamp(now)).expect("seal").more {}
        world.store.stats().head_samples
    };
    tick(0, false);
    // A load of past samples, in progress: half a second without a sample of 60 s is its end.
    assert_eq!((1..=20).map(|_| tick(100, true)).collect::<Vec<_>>(), (1..=20).collect::<Vec<_>>());
    assert_eq!((tick(200, false), tick(200, false)), (20, 0));
    // What comes for a sealed window does not wait longer.
    assert_eq!((tick(100, true), tick(200, false), tick(300, false)), (1, 1, 0));
    // Without an end it is sealed after the length of a window.
    assert!((0..200).map(|_| tick(400, true)).any(|left| left == 0));
}

/// A day of rows, 1 s apart, sealed and, after a rest, merged.
fn merged(dir: &Path) -> (World, Model) {
    let world = World::new(dir);
    for row in 0..DAY_MS / 1_000 {
        let values = (0..4).map(|n| (row * n) as f64 / 4.0).collect();
        let columns = vec![Column { group: world.groups[0].0, timestamp: Timestamp(row * 1_000 + row % 3), values }];
        world.store.commit(Commit { columns, ..Commit::default() }).expect("commit");
    }
    while world.store.seal(Timestamp(2 * DAY_MS)).expect("seal").more {}
    let before = contents(&world.store, i64::MIN, i64::MAX);
    let mut samples = 0;
    loop {
        let report = world.store.seal(Timestamp(3 * DAY_MS)).expect("merge");
        samples += report.merged_samples;
        if !report.more {
            break;
        }
    }
    assert_eq!(samples as i64, 4 * DAY_MS / 1_000);
    (world, before)
}

fn rows_of(dir: &Path, table: &str) -> i64 {
    let database = rusqlite::Connection::open(dir.join("chunks.db")).expect("database");
    database.query_row(&format!("SELECT count(*) FROM {table}"), [], |r| r.get(0)).expect("count")
}

#[test]
fn a_past_day_has_one_chunk_a_series_and_the_same_samples() {
    let dir = tempfile::tempdir().expect("directory");
    let (world, before) = merged(dir.path());
    assert_eq!(contents(&world.store, i64::MIN, i64::MAX), before);
    let range = (100_500, 400_250);
    assert_eq!(contents(&world.store, range.0, range.1), part(&before, range.0, range.1));
    let count = |table| rows_of(dir.path(), table);
    assert_eq!(["chunk", "times", "window", "day", "day_chunk", "day_times"].map(count), [0, 0, 0, 1, 4, 1]);
    // Series of one group still share their time stamps.
    let found = world.store.select(&[all()], Timestamp::MIN, Timestamp::MAX).expect("select");
    assert!(found.windows(2).all(|pair| std::sync::Arc::ptr_eq(&pair[0].timestamps, &pair[1].timestamps)));
    drop((world, found));
    assert_eq!(contents(&open(dir.path()), i64::MIN, i64::MAX), before);
    let store = open(dir.path());
    assert_eq!(store.drop_before(Timestamp(DAY_MS - 1)).expect("drop"), 0);
    assert_eq!(contents(&store, i64::MIN, i64::MAX), before);
    assert_eq!(store.drop_before(Timestamp(DAY_MS)).expect("drop"), 4);
    assert_eq!((store.stats().series, rows_of(dir.path(), "day_times")), (0, 0));
}

#[test]
fn late_samples_of_a_merged_day_are_taken_and_merged_too() {
    let dir = tempfile::tempdir().expect("directory");
    let (world, mut expected) = merged(dir.path());
    // One is new, one is a repeat with another value, one is of a series that the day does not have.
    let late = [(0, 61_500, 9.5), (1, 60_000, -5.0), (6, 700_000, 2.0)];
    for (n, t, v) in late {
        expected.entry(labels(n)).or_default().entry(t).or_insert(f64::to_bits(v));
    }
    let samples = late.map(|(n, t, v)| (world.series[n], Timestamp(t), v)).to_vec();
    world.store.commit(Commit { samples, ..Commit::default() }).expect("commit");
    for (now, left) in [(0, 0), (4 * DAY_MS, 3), (5 * DAY_MS, 0)] {
        while world.store.seal(Timestamp(now)).expect("seal").more {}
        assert_eq!(contents(&world.store, i64::MIN, i64::MAX), expected);
        assert_eq!(rows_of(dir.path(), "chunk"), left);
    }
    assert_eq!(rows_of(dir.path(), "day_chunk"), 5);
}

#[test]
fn readers_see_everything_once_while_days_are_merged() {
    let dir = tempfile::tempdir().expect("directory");
    let store = open(dir.path());
    let (days, rows) = (6, 36);
    for n in 0..2_500 {
        let id = store.series(&labels(n)).expect("series");
        let samples = (0..days * rows).map(|row| (id, Timestamp(row * DAY_MS / rows), row as f64)).collect();
        store.commit(Commit { samples, ..Commit::default() }).expect("commit");
    }
    while store.seal(Timestamp(100 * DAY_MS)).expect("seal").more {}
    let merging = std::sync::atomic::AtomicBool::new(true);
    std::thread::scope(|scope| {
        let (store, merging) = (&store, &merging);
        scope.spawn(move || {
            while store.seal(Timestamp(200 * DAY_MS)).expect("merge").more {}
            merging.store(false, std::sync::atomic::Ordering::SeqCst);
        });
        scope.spawn(move || {
            let one = Matcher::new("n", MatchOp::Regex, "[0-9]*77").expect("pattern");
            let mut reads = 0;
            while merging.load(std::sync::atomic::Ordering::SeqCst) || reads == 0 {
                let found = store.select(std::slice::from_ref(&one), Timestamp::MIN, Timestamp::MAX).expect("select");
                assert_eq!(found.len(), 25);
                assert!(found.iter().all(|s| s.len() as i64 == days * rows), "{}", found[0].len());
                reads += 1;
            }
        });
    });
    assert_eq!((rows_of(dir.path(), "chunk"), rows_of(dir.path(), "day_chunk")), (0, 6 * 2_500));
}

#[test]
fn a_damaged_chunk_keeps_its_series_from_being_merged_and_nothing_else() {
    let dir = tempfile::tempdir().expect("directory");
    let store = open(dir.path());
    for n in 0..3 {
        let id = store.series(&labels(n)).expect("series");
        let samples = (0..12).map(|row| (id, Timestamp(row * WINDOW_MS), 1.0)).collect();
        store.commit(Commit { samples, ..Commit::default() }).expect("commit");
    }
    while store.seal(Timestamp(2 * DAY_MS)).expect("seal").more {}
    drop(store);
    let database = rusqlite::Connection::open(dir.path().join("chunks.db")).expect("database");
    let damaged = 3_i64 << 32 | 1;
    database.execute("UPDATE chunk SET data = zeroblob(length(data)) WHERE id = ?1", [damaged]).expect("damage");
    drop(database);
    let store = open(dir.path());
    while store.seal(Timestamp(3 * DAY_MS)).expect("merge").more {}
    assert_eq!((rows_of(dir.path(), "chunk"), rows_of(dir.path(), "day_chunk")), (12, 2));
    let select = |n: usize| store.select(&[Matcher::equal("n", n.to_string())], Timestamp(0), Timestamp::MAX);
    assert_eq!((select(0).expect("whole")[0].len(), select(2).expect("whole")[0].len()), (12, 12));
    let error = select(1).expect_err("damaged");
    assert!(error.to_string().contains("from 180"), "{error}");
}
