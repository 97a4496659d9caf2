//! Power cuts, kills and failing disks at every write, sync and deletion: what was acknowledged stays, whole.
//!
//! The test binary runs itself as a child under a preloaded shim (`shim/shim.c`) that counts the calls which change files of
//! the store and strikes at one of them. The child prints what the store acknowledged. `VEGHE_CRASH_ALL=1` strikes at
//! every call in every mode; without it, at a sample of them.

mod shim;

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use veghe_model::{Labels, MatchOp, Matcher, Timestamp};
use veghe_tsdb::{Ages, Column, Commit, Options, Retention, RetentionClass, Store, verify_directory};

use shim::Child;

const CHILD: &str = "child_works_through_the_script";
const WINDOW_MS: i64 = 60_000;
const COMMITS: i64 = 36;
const STEP_MS: i64 = 7_000;
/// The child drops what ended before this, after this many commits.
const HORIZON_MS: i64 = 2 * WINDOW_MS;
const DROP_AFTER: i64 = 30;

fn options(dir: &Path) -> Options {
    Options { dir: dir.to_owned(), window: Duration::from_millis(WINDOW_MS as u64), max_series: 1_000 }
}

fn labels(n: usize) -> Labels {
    Labels::from_pairs([("__name__", "m".to_owned()), ("n", n.to_string())])
}

/// What commit `n` holds, by series: a row of four series, a late sample of a fifth, one of a series of its own.
fn samples_of(n: i64) -> Vec<(usize, i64, f64)> {
    let mut samples: Vec<_> = (0..4).map(|s| (s, n * STEP_MS, (n * 10 + s as i64) as f64)).collect();
    samples.push((4, n / 3 * STEP_MS + n, n as f64 / 4.0));
    samples.push((10 + n as usize / 4, n * STEP_MS + 1, -0.0));
    samples
}

fn commit_of(store: &Store, n: i64) -> Commit {
    let id = |s: usize| store.series(&labels(s)).expect("series");
    let group = store.group(&(0..4).map(id).collect::<Vec<_>>());
    let samples = samples_of(n);
    Commit {
        columns: vec![Column {
            group,
            timestamp: Timestamp(n * STEP_MS),
            values: samples[..4].iter().map(|s| s.2).collect(),
        }],
        samples: samples[4..].iter().map(|(s, t, v)| (id(*s), Timestamp(*t), *v)).collect(),
        marks: vec![(b"done".to_vec(), n.to_string().into_bytes()), (format!("k{n}").into_bytes(), vec![1])],
    }
}

fn say(what: &str, n: i64) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n@{what} {n}").and_then(|()| out.flush()).expect("stdout");
}

/// After this many commits the clock leaps, twice, so that days are sealed and merged; what comes then is late.
const MERGE_AFTER: i64 = 33;

/// The series of which everything is deleted at the end.
const CLASS: usize = 3;

/// The series of which roll-ups outlive the samples, which are deleted at the end.
const EXPIRED: usize = 1;

/// The series of which everything that was committed by the end is deleted, and the time of that end.
const DELETED: usize = 2;
const LAST_MS: i64 = COMMITS * STEP_MS - 1;

/// Where the child copies the store to, below its directory, so that what is done there counts too.
const COPY: &str = "copy";

/// Seals and merges all that may be; of calls that fail, the next goes on.
fn settle(store: &Store, now: i64) {
    let mut failed = 0;
    loop {
        match store.seal(Timestamp(now)) {
            Ok(report) if !report.more => break,
            Ok(_) => {}
            Err(error) => {
                failed += 1;
                assert!(failed < 3, "the failure comes once: {error}");
            }
        }
    }
}

/// The child: not a test of its own, it does nothing unless the test below starts it.
#[test]
fn child_works_through_the_script() {
    let Some(dir) = std::env::var_os("VEGHE_SHIM_DIR").map(PathBuf::from) else { return };
    let Ok((store, _)) = Store::open(options(&dir)) else {
        say("unopened", 0);
        return;
    };
    store.roll_up_from(1);
    for n in 0..COMMITS {
        say("try", n);
        match store.commit(commit_of(&store, n)) {
            Ok(()) => say("ack", n),
            Err(error) => {
                // Nothing of it may be seen; committing it again must work, as the failure comes once.
                let seen = contents(&store);
                assert!(!seen.contains_key(&(0, n * STEP_MS)), "refused but visible: {error}");
                store.commit(commit_of(&store, n)).expect("the second try");
                say("ack", n);
            }
        }
        // The clock runs with the commits, so windows get sealed while others fill.
        if n % 5 == 4 && store.seal(Timestamp(n * STEP_MS)).is_err() {
            store.seal(Timestamp(n * STEP_MS)).expect("the second seal");
        }
        if n == MERGE_AFTER {
            settle(&store, 10_000_000);
            settle(&store, 20_000_000);
        }
        if n == DROP_AFTER {
            say("dropping", n);
            if store.drop_before(Timestamp(HORIZON_MS)).is_err() {
                store.drop_before(Timestamp(HORIZON_MS)).expect("the second drop");
            }
            say("dropped", n);
        }
    }
    say("copying", 0);
    let copy = dir.join(COPY);
    if store.backup(&copy, &mut |_| ControlFlow::Continue(())).is_err() {
        std::fs::remove_dir_all(&copy).expect("clean");
        store.backup(&copy, &mut |_| ControlFlow::Continue(())).expect("the second copy");
    }
    say("copied", 0);
    say("deleting", 0);
    let delete = || store.delete(&[Matcher::equal("n", DELETED.to_string())], Timestamp::MIN, Timestamp(LAST_MS));
    if delete().is_err() {
        delete().expect("the second deletion");
    }
    say("deleted", 0);
    settle(&store, 30_000_000);
    settle(&store, 40_000_000);
    if store.clean_tombstones().is_err() {
        store.clean_tombstones().expect("the second clean");
    }
    say("retaining", 0);
    let class = RetentionClass {
        matchers: vec![Matcher::equal("n", CLASS.to_string())],
        ages: Ages::alike(Duration::from_millis(1)),
    };
    let long = Duration::from_hours(24 * 365);
    let rolled = RetentionClass {
        matchers: vec![Matcher::equal("n", EXPIRED.to_string())],
        ages: Ages { raw: Duration::from_millis(1), ..Ages::alike(long) },
    };
    let retention = Retention { classes: vec![class, rolled], ages: Ages::alike(long), max_bytes: None };
    if store.retain(&retention, Timestamp(50_000_000)).is_err() {
        store.retain(&retention, Timestamp(50_000_000)).expect("the second retention");
    }
    say("retained", 0);
    say("end", 0);
}

fn contents(store: &Store) -> BTreeMap<(usize, i64), u64> {
    let all = Matcher::new("n", MatchOp::Regex, ".+").expect("pattern");
    let mut found = BTreeMap::new();
    for series in store.select(&[all], Timestamp::MIN, Timestamp::MAX).expect("select") {
        let n: usize = series.labels.get("n").and_then(|n| n.parse().ok()).expect("label");
        for sample in series.iter() {
            assert!(found.insert((n, sample.timestamp.0), sample.value.to_bits()).is_none(), "a sample twice");
        }
    }
    found
}

/// Buckets by resolution, series and end: how many samples, the last one, the sum.
type Rolled = BTreeMap<(i64, usize, i64), (u32, u64, u64)>;

fn rolled(store: &Store) -> Rolled {
    let all = Matcher::new("n", MatchOp::Regex, ".+").expect("pattern");
    let mut rolled = Rolled::new();
    for resolution in Store::resolutions() {
        let matchers = std::slice::from_ref(&all);
        let found = store.rollups(matchers, Timestamp::MIN, Timestamp::MAX, resolution).expect("read");
        for series in found.expect("covered") {
            let n: usize = series.labels.get("n").and_then(|n| n.parse().ok()).expect("label");
            for (end, b) in series.ends.iter().zip(&series.buckets) {
                let place = (resolution.as_millis() as i64, n, *end);
                rolled.insert(place, (b.count, b.last.to_bits(), b.sum.to_bits()));
            }
        }
    }
    rolled
}

/// What [`rolled`] is of these samples; their sums are exact.
fn rolled_of(samples: &BTreeMap<(usize, i64), u64>) -> Rolled {
    let mut rolled = Rolled::new();
    for resolution in Store::resolutions().map(|r| r.as_millis() as i64) {
        for ((n, t), bits) in samples {
            let bucket = rolled.entry((resolution, *n, t + (-t).rem_euclid(resolution))).or_insert((0, 0, 0));
            // The sum of nothing is not that of minus zeros.
            let sum = f64::from_bits(bucket.2) + f64::from_bits(*bits);
            *bucket = (bucket.0 + 1, *bits, sum.to_bits());
        }
    }
    rolled
}

/// The contents after the first `commits` commits, without what ended before `horizon`.
fn model(commits: i64, horizon: i64) -> BTreeMap<(usize, i64), u64> {
    let mut model = BTreeMap::new();
    for (s, t, v) in (0..commits).flat_map(samples_of).filter(|(_, t, _)| *t >= horizon) {
        model.entry((s, t)).or_insert(v.to_bits());
    }
    model
}

fn check(dir: &Path, child: &Child, what: &str) {
    let last = |word: &str| {
        let prefix = format!("@{word} ");
        child.output.lines().filter_map(|l| l.strip_prefix(&*prefix)).filter_map(|n| n.parse::<i64>().ok()).next_back()
    };
    let acknowledged = last("ack").map_or(0, |n| n + 1);
    let tried = last("try").map_or(0, |n| n + 1);
    let (store, _) = Store::open(options(dir)).unwrap_or_else(|e| panic!("{what}: cannot reopen: {e:?}"));
    store.roll_up_from(1);
    let report = store.verify(&mut |_| ControlFlow::Continue(())).expect("verification");
    assert_eq!(report.damaged, 0, "{what}: {report:?}");
    let found = contents(&store);
    let found_rolled = rolled(&store);
    let horizons = match (last("dropping"), last("dropped")) {
        (Some(_), Some(_)) => vec![HORIZON_MS],
        (Some(_), None) => vec![0, HORIZON_MS],
        _ => vec![0],
    };
    let fits = |commits: i64| {
        let mark = (commits > 0).then(|| (commits - 1).to_string().into_bytes());
        let kept = store.marks(b"k").len() as i64 == commits;
        // Late samples that came after the drop are there although they lie before the horizon.
        let late = |key: &(usize, i64)| (DROP_AFTER + 1..commits).flat_map(samples_of).any(|(s, t, _)| (s, t) == *key);
        kept && store.mark(b"done") == mark
            && horizons.iter().any(|horizon| {
                let mut expected = model(commits, *horizon);
                expected.extend(model(commits, 0).into_iter().filter(|(key, _)| late(key)));
                // What the class had may be gone in part while it is deleted, and is gone after.
                // What was deleted is gone at once; while that was asked for, all of it is there or nothing.
                let none_left = !found.keys().any(|(s, t)| *s == DELETED && *t <= LAST_MS);
                let deleted = last("deleted").is_some() || (last("deleting").is_some() && none_left);
                let keeps = |s: usize| {
                    ((s != CLASS && s != EXPIRED) || last("retaining").is_none()) && (s != DELETED || !deleted)
                };
                // Roll-ups are there whether samples are or not.
                let rolls = |s: usize| s == EXPIRED || keeps(s);
                let mut expected_rolled = rolled_of(&expected);
                expected_rolled.retain(|(_, s, _), _| rolls(*s));
                let rest_rolled: Rolled =
                    found_rolled.iter().filter(|((_, s, _), _)| rolls(*s)).map(|(k, v)| (*k, *v)).collect();
                expected.retain(|(s, _), _| keeps(*s));
                let rest: BTreeMap<_, _> =
                    found.iter().filter(|((s, _), _)| keeps(*s)).map(|(k, v)| (*k, *v)).collect();
                expected == rest
                    && expected_rolled == rest_rolled
                    && (last("retained").is_none() || !found.keys().any(|(s, _)| *s == EXPIRED))
                    && (!deleted || none_left)
                    && (last("retained").is_none() || !found.keys().any(|(s, _)| *s == CLASS))
            })
    };
    assert!(
        fits(acknowledged) || (tried > acknowledged && fits(tried)),
        "{what}: {acknowledged} acknowledged, {tried} tried, mark {:?}, {} samples found\n{}",
        store.mark(b"done").map(|m| String::from_utf8_lossy(&m).into_owned()),
        found.len(),
        child.output,
    );
    if last("copied").is_some() {
        check_copy(&dir.join(COPY), what);
    }
    // It must also go on working.
    store.commit(commit_of(&store, COMMITS)).expect("commit after recovery");
    let mut whole = found;
    for (s, t, v) in samples_of(COMMITS) {
        whole.entry((s, t)).or_insert(v.to_bits());
    }
    settle(&store, 50_000_000);
    settle(&store, 60_000_000);
    // What is late for the expired comes to nothing, as it would with the next retention.
    whole.retain(|(s, _), _| *s != EXPIRED || last("retaining").is_none());
    let rest = || {
        let mut rest = contents(&store);
        rest.retain(|(s, _), _| *s != EXPIRED || last("retaining").is_none());
        rest
    };
    assert!(rest() == whole, "{what}: sealing and merging after recovery changed something");
    store.clean_tombstones().expect("clean");
    assert!(rest() == whole, "{what}: cleaning after recovery changed something");
    let count = |rolled: &Rolled| rolled.iter().filter(|((_, s, _), _)| *s == EXPIRED).map(|(_, v)| v.0).sum::<u32>();
    let (before, after) = (count(&found_rolled), count(&rolled(&store)));
    let late = if last("retained").is_some() { before..=before } else { before..=before + 2 };
    assert!(late.contains(&after), "{what}: {before} samples were rolled up, now {after}");
    let report = store.verify(&mut |_| ControlFlow::Continue(())).expect("verification");
    assert_eq!(report.damaged, 0, "{what}, later: {report:?}");
}

/// A copy that was told to be whole is, and holds everything that was committed.
fn check_copy(copy: &Path, what: &str) {
    let report = verify_directory(copy, &mut |_| ControlFlow::Continue(())).expect("verification of the copy");
    assert_eq!(report.damaged, 0, "{what}, copy: {report:?}");
    let (store, _) = Store::open(options(copy)).expect("copy opens");
    let mut expected = model(COMMITS, HORIZON_MS);
    let late = (DROP_AFTER + 1..COMMITS).flat_map(samples_of).map(|(s, t, _)| (s, t));
    let all = model(COMMITS, 0);
    expected.extend(late.filter_map(|key| all.get(&key).map(|value| (key, *value))));
    assert!(contents(&store) == expected, "{what}: the copy holds something else");
    assert_eq!(store.mark(b"done"), Some((COMMITS - 1).to_string().into_bytes()), "{what}: copy");
}

#[test]
fn nothing_acknowledged_is_lost_at_whichever_call_the_machine_stops_or_the_disk_fails() {
    let work = tempfile::tempdir().expect("directory");
    let shim = shim::compile(work.path());
    let count = work.path().join("count");
    let dir = work.path().join("whole");
    let child = shim::run(CHILD, &dir, &shim, "none", 0, Some(&count));
    assert!(child.output.contains("@end 0"), "{}", child.output);
    check(&dir, &child, "undisturbed");
    let calls: u64 = std::fs::read_to_string(&count).expect("count").trim().parse().expect("number");
    assert!(calls > 200, "the shim counted only {calls} calls");
    let every = std::env::var_os("VEGHE_CRASH_ALL").is_some();
    let stride = if every { 1 } else { 1.max(calls / 60) };
    // The modes run side by side: most of the time is spent waiting for the disk.
    std::thread::scope(|scope| {
        for (offset, mode) in ["cut", "kill", "eio", "enospc"].into_iter().enumerate() {
            let stride = if mode == "cut" || every { stride } else { stride * 3 };
            let (work, shim) = (work.path(), &*shim);
            scope.spawn(move || {
                for at in (1 + if every { 0 } else { offset as u64 }..=calls).step_by(stride as usize) {
                    strike(work, shim, mode, at, calls);
                }
            });
        }
    });
}

fn strike(work: &Path, shim: &Path, mode: &str, at: u64, calls: u64) {
    let what = format!("{mode} at call {at} of {calls}");
    let dir = work.join(format!("{mode}-{at}"));
    let child = shim::run(CHILD, &dir, shim, mode, at, None);
    let stopped = matches!(mode, "cut" | "kill");
    assert_eq!(child.code, Some(if stopped { shim::STRUCK } else { 0 }), "{what}\n{}", child.output);
    check(&dir, &child, &what);
    std::fs::remove_dir_all(&dir).expect("clean");
}
