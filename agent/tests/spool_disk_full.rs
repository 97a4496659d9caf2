//! The spool on a real file system that is really full: a small tmpfs in a mount namespace of its own, so that nothing
//! is left behind whatever happens. Each test runs itself again in there.

#![cfg(target_os = "linux")]

use std::env;
use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use veghe_agent::reading::{Reading, Round, SeriesName, SeriesSet};
use veghe_agent::session::Session;
use veghe_agent::spool::{Appended, BatchId, Durability, Limits, Spool};

/// Set in the child: where the small file system is.
const MOUNTED: &str = "VEGHE_TEST_SMALL_FILE_SYSTEM";

/// Runs `test` in a child with a file system of a mebibyte; there, gives its directory.
fn small_file_system(test: &str) -> Option<PathBuf> {
    if let Some(dir) = env::var_os(MOUNTED) {
        return Some(dir.into());
    }
    let dir = tempfile::tempdir().expect("directory");
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c"])
        .arg(r#"mount -t tmpfs -o size=1m tmpfs "$1" && exec "$2" --exact "$3" --nocapture"#)
        .args([Path::new("sh"), dir.path(), &env::current_exe().expect("own path"), Path::new(test)])
        .env(MOUNTED, dir.path())
        .output()
        .expect("unshare (Debian package util-linux)");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    assert!(told.contains("1 passed"), "{told}");
    None
}

/// A run of the agent: its session and the frames that it made, in order of their sequences.
struct Run {
    session: Session,
    frames: Vec<Vec<u8>>,
    series: Arc<SeriesSet>,
}

impl Run {
    fn new(spool_id: u64) -> Self {
        let names = (0..100).map(|number| SeriesName::new("node_disk_io_now", &[("device", &format!("sd{number}"))]));
        Self {
            session: Session::new(spool_id).expect("session"),
            frames: Vec::new(),
            series: Arc::new(SeriesSet(names.collect())),
        }
    }

    /// Spools a round of some 800 bytes that no compression makes smaller.
    fn add(&mut self, spool: &mut Spool) -> Appended {
        let mut state = self.frames.len() as u64 + 1;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            f64::from_bits(state & !(0x7ff << 52) | (1023 << 52))
        };
        let values = (0..100).map(|_| random()).collect();
        let timestamp_ms = self.frames.len() as i64;
        let reading = Reading { sensor: "diskstats", series: Arc::clone(&self.series), values, ended: None };
        let encoded = self.session.encode(&Round { timestamp_ms, readings: vec![reading] }).expect("encode");
        self.frames.push(encoded.frame.clone());
        spool.append(encoded, &self.session, Durability::Synced)
    }

    /// The sequences that are in the spool, all of which must have their frames.
    fn kept(&self, spool: &mut Spool) -> Vec<u64> {
        let mut last: Option<BatchId> = None;
        let mut sequences = Vec::new();
        while let Some(id) = spool.next_unsettled(last) {
            assert_eq!(id.spool_id, self.session.spool_id());
            let stored = spool.load(id).expect("load").expect("there");
            assert_eq!(stored.frame, self.frames[id.sequence as usize - 1], "{id:?}");
            sequences.push(id.sequence);
            last = Some(id);
        }
        sequences
    }
}

/// The newest batches up to `count`, without a gap, and as many as were not dropped.
fn assert_newest(kept: &[u64], count: usize, dropped: u64) {
    assert_eq!(kept, (dropped + 1..=count as u64).collect::<Vec<_>>());
}

/// Writes until there is no room for another byte.
fn fill(path: &Path) {
    let mut file = File::create(path).expect("ballast");
    let mut bytes = 64 << 10;
    while bytes > 0 {
        if file.write_all(&vec![0; bytes]).is_err() {
            bytes /= 2;
        }
    }
}

fn limits() -> Limits {
    // More than there is room for, in segments of a quarter of a mebibyte.
    Limits { max_bytes: 2 << 20, max_age: Duration::from_hours(1) }
}

#[test]
fn a_full_disk_costs_the_oldest_segment_and_everything_newer_is_kept() {
    let Some(dir) = small_file_system("a_full_disk_costs_the_oldest_segment_and_everything_newer_is_kept") else {
        return;
    };
    let path = dir.join("spool");
    let mut spool = Spool::open(&path, limits()).expect("open");
    let mut run = Run::new(7);
    let (mut dropped, mut refused) = (0, 0);
    for _ in 0..4000 {
        let appended = run.add(&mut spool);
        dropped += appended.dropped_batches;
        if let Some(error) = appended.disk_error {
            assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
            refused += 1;
        }
    }
    assert!(refused > 0 && dropped > 1000, "{refused} refused, {dropped} dropped");
    let kept = run.kept(&mut spool);
    assert_newest(&kept, run.frames.len(), dropped);
    assert!(kept.len() > 500, "{} are kept on a mebibyte", kept.len());
    assert_eq!(spool.batches(), kept.len() as u64);

    // Space returns by what the collector takes.
    let ids: Vec<_> = kept.iter().map(|&sequence| BatchId { spool_id: 7, sequence }).collect();
    let (taken, rest) = ids.split_at(ids.len() / 2);
    assert_eq!(spool.settle(taken).len(), taken.len());
    let appended = run.add(&mut spool);
    assert!(appended.disk_error.is_none() && appended.dropped_batches == 0, "{appended:?}");
    drop(spool);
    let mut spool = Spool::open(&path, limits()).expect("reopen");
    assert_newest(&run.kept(&mut spool), run.frames.len(), run.frames.len() as u64 - 1 - rest.len() as u64);
}

#[test]
fn a_disk_that_others_have_filled_costs_the_oldest_in_memory_until_space_returns() {
    let Some(dir) = small_file_system("a_disk_that_others_have_filled_costs_the_oldest_in_memory_until_space_returns")
    else {
        return;
    };
    let path = dir.join("spool");
    let mut spool = Spool::open(&path, limits()).expect("open");
    let mut run = Run::new(7);
    assert!(run.add(&mut spool).disk_error.is_none());
    fill(&dir.join("ballast"));
    // What is left of the last page, and then nothing.
    let mut dropped = 0;
    for _ in 0..1000 {
        dropped += run.add(&mut spool).dropped_batches;
    }
    assert!(dropped > 500, "{dropped} dropped");
    let kept = run.kept(&mut spool);
    assert_newest(&kept, run.frames.len(), dropped);
    assert!(kept.len() >= 256, "{} are kept", kept.len());

    fs::remove_file(dir.join("ballast")).expect("space");
    let appended = run.add(&mut spool);
    assert!(appended.disk_error.is_none() && appended.dropped_batches == 0, "{appended:?}");
    let kept = run.kept(&mut spool);
    drop(spool);
    let mut spool = Spool::open(&path, limits()).expect("reopen");
    assert_eq!(spool.repairs(), veghe_agent::spool::Repairs::default());
    assert_eq!(run.kept(&mut spool), kept, "what waited in memory is on the disk now");
}
