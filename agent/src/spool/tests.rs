//! What the spool promises, disk and power cuts included.

use super::*;
use crate::reading::{Reading, Round, SeriesName, SeriesSet};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

fn round(timestamp_ms: i64, device: &str) -> Round {
    let series = Arc::new(SeriesSet(vec![SeriesName::new("node_disk_io_now", &[("device", device)])]));
    Round { timestamp_ms, readings: vec![Reading { sensor: "diskstats", series, values: vec![1.0], ended: None }] }
}

/// A session and what it put into the spool.
struct Run {
    session: Session,
    frames: BTreeMap<BatchId, Vec<u8>>,
}

impl Run {
    fn new(spool_id: u64) -> Self {
        Self { session: Session::new(spool_id).expect("session"), frames: BTreeMap::new() }
    }

    fn add(&mut self, spool: &mut Spool, timestamp_ms: i64, device: &str) -> Appended {
        let encoded = self.session.encode(&round(timestamp_ms, device)).expect("encode");
        let id = BatchId { spool_id: self.session.spool_id(), sequence: encoded.sequence };
        self.frames.insert(id, encoded.frame.clone());
        spool.append(encoded, &self.session, Durability::Written)
    }
}

fn unsettled(spool: &Spool) -> Vec<BatchId> {
    let mut all = Vec::new();
    while let Some(id) = spool.next_unsettled(all.last().copied()) {
        all.push(id);
    }
    all
}

fn small() -> Limits {
    Limits { max_bytes: 4096, max_age: Duration::from_hours(1) }
}

#[test]
fn an_older_run_is_sent_with_its_own_definitions() {
    let dir = tempfile::tempdir().expect("dir");
    let mut spool = Spool::open(dir.path(), Limits::default()).expect("open");
    let mut run = Run::new(7);
    for (time, device) in [(1, "sda"), (2, "sdb"), (3, "sda")] {
        run.add(&mut spool, time, device);
    }
    drop(spool);
    let mut spool = Spool::open(dir.path(), Limits::default()).expect("reopen");
    assert_eq!(spool.repairs(), Repairs::default());
    assert_eq!(spool.oldest_timestamp_ms(), Some(1));
    let mut next = Run::new(8);
    next.add(&mut spool, 4, "sdc");
    let ids = unsettled(&spool);
    assert_eq!(ids.iter().map(|id| (id.spool_id, id.sequence)).collect::<Vec<_>>(), [(7, 1), (7, 2), (7, 3), (8, 1)]);
    let first = spool.load(ids[0]).expect("load").expect("there");
    assert_eq!((&first.frame, first.needs), (&run.frames[&ids[0]], Extent { series: 1, layouts: 1 }));
    let definitions = spool.definitions(ids[0]).expect("read").expect("there");
    assert_eq!(definitions.since(Extent::default()), run.session.definitions().since(Extent::default()));
    assert_eq!(spool.oldest_sequence(7, 4), 1);
    assert_eq!(spool.settle(&[ids[0], ids[2], ids[2]]), [ids[0], ids[2]]);
    assert_eq!(spool.oldest_sequence(7, 4), 2);
    drop(spool);
    let mut spool = Spool::open(dir.path(), Limits::default()).expect("reopen");
    assert_eq!(unsettled(&spool), [ids[1], ids[3]]);
    spool.settle(&[ids[1]]);
    assert_eq!(spool.oldest_sequence(7, 4), 4);
    assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 1, "the settled segment is gone");
}

#[test]
fn a_full_spool_drops_the_oldest_and_the_rest_stays_readable() {
    let dir = tempfile::tempdir().expect("dir");
    let mut spool = Spool::open(dir.path(), small()).expect("open");
    let mut run = Run::new(7);
    let dropped: u64 = (0..200).map(|i| run.add(&mut spool, i, ["sda", "sdb"][i as usize % 2]).dropped_batches).sum();
    let left = unsettled(&spool);
    assert!(dropped > 0 && left.len() as u64 == 200 - dropped, "{dropped} dropped, {} left", left.len());
    assert!(spool.bytes() <= 4096);
    assert_eq!(left.last().map(|id| id.sequence), Some(200));
    drop(spool);
    let mut spool = Spool::open(dir.path(), small()).expect("reopen");
    for id in left {
        let stored = spool.load(id).expect("load").expect("there");
        assert_eq!(stored.frame, run.frames[&id]);
        assert!(spool.definitions(id).expect("read").expect("there").extent().covers(stored.needs));
    }
}

#[test]
fn what_is_too_old_is_dropped() {
    let dir = tempfile::tempdir().expect("dir");
    let mut spool = Spool::open(dir.path(), small()).expect("open");
    Run::new(7).add(&mut spool, 1000, "sda");
    drop(spool);
    let mut spool = Spool::open(dir.path(), small()).expect("reopen");
    assert_eq!(Run::new(8).add(&mut spool, 1000 + 3_600_001, "sda").dropped_batches, 1);
    assert_eq!(unsettled(&spool), [BatchId { spool_id: 8, sequence: 1 }]);
}

#[test]
fn a_disk_that_refuses_costs_the_oldest_in_memory_and_recovers() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("spool");
    let mut spool = Spool::open(&path, Limits::default()).expect("open");
    fs::remove_dir(&path).expect("remove");
    let mut run = Run::new(7);
    let mut dropped = 0;
    for time in 0..MAX_WAITING_BATCHES as i64 + 10 {
        let appended = run.add(&mut spool, time, "sda");
        assert!(appended.disk_error.is_some());
        dropped += appended.dropped_batches;
    }
    assert_eq!((dropped, spool.batches()), (10, MAX_WAITING_BATCHES as u64));
    let oldest = spool.next_unsettled(None).expect("one");
    assert_eq!(oldest.sequence, 11);
    assert_eq!(spool.load(oldest).expect("load").expect("there").frame, run.frames[&oldest]);
    fs::create_dir(&path).expect("create");
    assert!(run.add(&mut spool, 9999, "sdb").disk_error.is_none());
    drop(spool);
    let spool = Spool::open(&path, Limits::default()).expect("reopen");
    assert_eq!(unsettled(&spool).len(), MAX_WAITING_BATCHES + 1);
}

#[test]
fn a_cut_at_every_byte_of_the_last_record_loses_only_that_record() {
    let dir = tempfile::tempdir().expect("dir");
    let mut spool = Spool::open(dir.path(), Limits::default()).expect("open");
    let mut run = Run::new(7);
    run.add(&mut spool, 1, "sda");
    run.add(&mut spool, 2, "sda");
    let before = spool.bytes();
    run.add(&mut spool, 3, "sda");
    drop(spool);
    let path = dir.path().join("0000000001.seg");
    let whole = fs::read(&path).expect("read");
    for cut in 0..whole.len() as u64 {
        let other = tempfile::tempdir().expect("dir");
        fs::write(other.path().join("0000000001.seg"), &whole[..cut as usize]).expect("write");
        let mut spool = Spool::open(other.path(), Limits::default()).expect("reopen");
        let ids = unsettled(&spool);
        if cut >= before {
            assert_eq!(ids.len(), 2, "cut at {cut}");
            assert_eq!(spool.repairs().torn_segments, u64::from(cut > before), "cut at {cut}");
        }
        for id in ids {
            assert_eq!(spool.load(id).expect("load").expect("there").frame, run.frames[&id]);
        }
        Run::new(8).add(&mut spool, 4, "sda");
    }
}

#[test]
fn a_flipped_bit_anywhere_costs_one_record_and_is_counted() {
    let dir = tempfile::tempdir().expect("dir");
    let mut spool = Spool::open(dir.path(), Limits::default()).expect("open");
    let mut run = Run::new(7);
    for time in 0..4 {
        run.add(&mut spool, time, "sda");
    }
    drop(spool);
    let whole = fs::read(dir.path().join("0000000001.seg")).expect("read");
    for at in HEADER_BYTES..whole.len() {
        let other = tempfile::tempdir().expect("dir");
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        fs::write(other.path().join("0000000001.seg"), &damaged).expect("write");
        let mut spool = Spool::open(other.path(), Limits::default()).expect("reopen");
        assert_ne!(spool.repairs(), Repairs::default(), "byte {at}");
        let ids = unsettled(&spool);
        assert!(ids.len() >= 3, "byte {at}: {} left", ids.len());
        for id in ids {
            assert_eq!(spool.load(id).expect("load").expect("there").frame, run.frames[&id]);
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Add(u8),
    Settle(prop::sample::Index),
    Reopen,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_spool_has_exactly_what_was_added_and_not_settled(steps in prop::collection::vec(prop_oneof![
        4 => any::<u8>().prop_map(Step::Add),
        2 => any::<prop::sample::Index>().prop_map(Step::Settle),
        1 => Just(Step::Reopen),
    ], 1..60)) {
        let dir = tempfile::tempdir().expect("dir");
        // Small segments, and room for all of them.
        let limits = Limits { max_bytes: 64 << 10, max_age: Duration::from_hours(1) };
        let mut spool = Spool::open(dir.path(), limits).expect("open");
        let mut runs = vec![Run::new(1)];
        let mut model: Vec<BatchId> = Vec::new();
        for (time, step) in steps.into_iter().enumerate() {
            let run = runs.last_mut().expect("a run");
            match step {
                Step::Add(device) => {
                    run.add(&mut spool, time as i64, &format!("sd{}", device % 8));
                    model.extend(run.frames.keys().last().copied());
                }
                Step::Settle(index) if !model.is_empty() => {
                    let id = model.remove(index.index(model.len()));
                    prop_assert_eq!(spool.settle(&[id]), [id]);
                }
                Step::Settle(_) => {}
                Step::Reopen => {
                    drop(spool);
                    spool = Spool::open(dir.path(), limits).expect("reopen");
                    let next = runs.len() as u64 + 1;
                    runs.push(Run::new(next));
                }
            }
            prop_assert_eq!(&unsettled(&spool), &model);
            prop_assert_eq!(spool.batches(), model.len() as u64);
        }
        for id in model {
            let stored = spool.load(id).expect("load").expect("there");
            prop_assert_eq!(&stored.frame, &runs[id.spool_id as usize - 1].frames[&id]);
        }
    }
}
