//! The ledger of events as senders and readers see it.

use serde_json::{Value, json};

use super::event::{FixityOutcome, TYPE_PREFIX, parse};
use super::inventory::{Mapping, read_csv};
use super::stage::Stage;
use super::*;

/// 2026-05-14 was a Thursday.
const NOON: &str = "2026-05-14T09:00:00Z";

fn at(text: &str) -> Timestamp {
    Timestamp(text.parse::<jiff::Timestamp>().expect(text).as_millisecond())
}

fn day(text: &str) -> Day {
    text.parse().expect(text)
}

fn event(id: &str, kind: &str, time: &str, data: &Value) -> Value {
    json!({"specversion": "1.0", "type": format!("{TYPE_PREFIX}{kind}"), "source": "//cjt/station/S02", "id": id,
        "time": time, "data": data})
}

fn captured(id: &str, unit: &str, frames: u32) -> Value {
    event(id, "image.captured", NOON, &json!({"unit": unit, "frames": frames}))
}

fn units(codes: &[&str]) -> Vec<Unit> {
    let rows: Vec<String> = codes.iter().map(|code| format!("{code};100;31;L-1")).collect();
    let text = format!("cod_unitate;nr_file;latime_mm;lot\n{}\n", rows.join("\n"));
    read_csv(text.as_bytes(), &Mapping::default()).units
}

struct World {
    dir: tempfile::TempDir,
    project: Digitization,
}

impl World {
    fn new(codes: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("directory");
        let project = Self::opened(&dir);
        if !codes.is_empty() {
            project.adopt(&units(codes), 0, "test", at("2026-03-01T09:00:00Z")).expect("adopted");
        }
        Self { dir, project }
    }

    fn opened(dir: &tempfile::TempDir) -> Digitization {
        let ledger = Ledger::open(&dir.path().join("ledger.db")).expect("ledger");
        Digitization::open(ledger, Settings::default()).expect("project")
    }

    fn send(&self, events: &[Value]) -> Receipt {
        self.send_at(events, "2026-05-14T20:00:00Z")
    }

    fn send_at(&self, events: &[Value], received: &str) -> Receipt {
        let events = parse(json!(events).to_string().as_bytes()).expect("JSON");
        self.project.submit(events, at(received)).expect("kept")
    }

    /// What a start from the first event leaves, and whether the one from the checkpoint had one to begin with.
    fn restarted(&self) -> (String, bool) {
        let ledger = Ledger::open(&self.dir.path().join("ledger.db")).expect("ledger");
        let events = self.project.state().events;
        let load = |c: &mut rusqlite::Connection| checkpoint::load(c, &Settings::default(), events);
        let is_used = ledger.with(load).expect("read").is_some();
        (Self::books(&Self::opened(&self.dir)), is_used)
    }

    fn sql(&self, sql: &str) {
        let ledger = &self.project.inner.ledger;
        ledger.with(|connection| connection.execute_batch(sql)).expect(sql);
    }

    fn keep_checkpoint(&self) {
        let inner = &self.project.inner;
        checkpoint::save(&inner.ledger, &self.project.state(), &inner.settings).expect("kept");
    }

    fn images(&self, unit: &str) -> i64 {
        self.project.state().unit(unit).expect(unit).images
    }

    fn on(&self, text: &str) -> i64 {
        let state = self.project.state();
        state.production.iter().filter(|((d, _, _), _)| *d == day(text)).map(|(_, made)| made.net()).sum()
    }

    /// Everything that a restart must not change.
    fn books(project: &Digitization) -> String {
        let state = project.state();
        let units: Vec<_> = state
            .units
            .iter()
            .map(|u| (&u.unit.code, u.is_withdrawn, u.images, u.rescanned, &u.marks, &u.standing, u.ocr_pages))
            .collect();
        format!(
            "{units:?} {:?} {:?} {:?} {:?} {:?} {} {} {:?} {:?} {:?} {}",
            state.production,
            state.stations,
            state.quarantine,
            state.frozen_through,
            state.baseline,
            state.late,
            state.events,
            state.fixity,
            state.damaged,
            state.packages,
            state.duplicates
        )
    }
}

#[test]
fn a_repeat_changes_nothing_also_after_a_restart() {
    let world = World::new(&["A"]);
    let receipt = world.send(&[captured("1", "A", 2), captured("2", "A", 3), captured("1", "A", 2)]);
    assert_eq!((receipt.accepted, receipt.repeated), (2, 1));
    assert_eq!((world.images("A"), world.on("2026-05-14")), (5, 5));
    let books = World::books(&world.project);
    let again = World::opened(&world.dir);
    assert_eq!(World::books(&again), books);
    let events = parse(json!([captured("1", "A", 2), captured("9", "A", 1)]).to_string().as_bytes()).expect("JSON");
    let receipt = again.submit(events, at(NOON)).expect("kept");
    assert_eq!((receipt.accepted, receipt.repeated), (1, 1));
    assert_eq!(again.state().unit("A").expect("A").images, 6);
}

fn pass(pass: u64, state: &str, bytes: u64) -> serde_json::Value {
    json!({"storage": "nas", "pass": pass, "state": state, "started": NOON, "objects": 9, "ok": 8, "mismatch": 1,
        "bytes": bytes, "oldest_verified": NOON})
}

#[test]
fn a_damaged_object_is_named_until_it_is_as_it_was_and_a_pass_only_grows() {
    let world = World::new(&["A"]);
    let object =
        |outcome: &str, name: &str| json!({"storage": "nas", "outcome": outcome, "object": name, "good_copy": "tape"});
    world.send(&[
        event("1", "fixity.checked", NOON, &object("mismatch", "A/1.tif")),
        event("2", "fixity.checked", NOON, &object("missing", "A/2.tif")),
        event("3", "fixity.pass", NOON, &pass(2, "running", 70)),
        event("4", "fixity.pass", NOON, &pass(2, "running", 50)),
        event("5", "fixity.checked", NOON, &object("ok", "A/2.tif")),
    ]);
    let state = world.project.state();
    let damaged: Vec<_> = state.damaged.iter().map(|((_, name), damage)| (name.as_str(), damage.outcome)).collect();
    assert_eq!(damaged, [("A/1.tif", FixityOutcome::Mismatch)]);
    let found = state.fixity["nas"].pass.as_ref().expect("a pass");
    assert_eq!((found.pass, found.bytes, found.is_finished, found.mismatch), (2, 70, false, 1));
}

#[test]
fn a_package_stands_as_its_latest_check_found_it() {
    let world = World::new(&["A"]);
    let data =
        |outcome: &str| json!({"unit": "A", "outcome": outcome, "files": 2, "bytes": 9, "problems": {"checksum": 1}});
    world.send(&[
        event("1", "package.validated", NOON, &data("ok")),
        event("2", "package.validated", "2026-05-14T10:00:00Z", &data("failed")),
        event("3", "package.validated", "2026-05-14T08:00:00Z", &data("ok")),
    ]);
    assert!(!world.project.state().packages["A"].validated.is_valid);
    let wrong = [json!(7), json!({"a b": 1}), json!({"x": -1})];
    for (id, problems) in wrong.iter().enumerate() {
        let mut data = data("failed");
        data["problems"] = problems.clone();
        assert_eq!(world.send(&[event(&format!("w{id}"), "package.validated", NOON, &data)]).refused.len(), 1);
    }
}

#[test]
fn a_start_from_a_checkpoint_of_any_moment_gives_what_a_start_from_the_first_event_gives() {
    let unit = |stage: &str, change: &str| json!({"unit": "A", "stage": stage, "change": change});
    let steps = [
        captured("1", "A", 2),
        captured("2", "B", 3),
        event("3", "unit.stage", "2026-05-14T08:00:00Z", &unit("scan", "enter")),
        event("4", "unit.stage", NOON, &unit("scan", "exit")),
        event("5", "qc.result", NOON, &json!({"unit": "A", "outcome": "rejected", "reason": "skew"})),
        event("6", "custody.moved", NOON, &json!({"unit": "A", "to": "D1/R04/P2", "due": "2026-05-30T00:00:00Z"})),
        event("7", "station.state", NOON, &json!({"station": "S02", "state": "jam"})),
        event("8", "correction", NOON, &json!({"source": "//cjt/station/S02", "id": "1", "reason": "wrong folder"})),
        event("9", "correction", NOON, &json!({"source": "//cjt/station/S02", "id": "2", "reason": "wrong folder"})),
        event("10", "inventory.declared", NOON, &json!({"unit": "B", "leaves": 10, "width_mm": 3})),
        event("11", "fixity.checked", NOON, &json!({"storage": "nas", "outcome": "ok", "bytes": 7})),
        event("f1", "fixity.checked", NOON, &json!({"storage": "nas", "outcome": "missing", "object": "A/1.tif"})),
        event("f2", "fixity.pass", NOON, &pass(1, "running", 7)),
        event("f3", "package.validated", NOON, &json!({"unit": "A", "outcome": "ok", "files": 2, "bytes": 9})),
        event("f4", "image.duplicate", NOON, &json!({"unit": "A", "frames": 1})),
        event("12", "batch.closed", NOON, &json!({"batch": "L-1"})),
        event("13", "target.measured", NOON, &json!({"station": "S02", "passed": true, "delta_e_mean": 1.5})),
        event("14", "correction", NOON, &json!({"source": "//cjt/station/S02", "id": "5", "reason": "a mistake"})),
    ];
    for kept_after in 0..=steps.len() {
        let world = World::new(&["A"]);
        for (place, step) in steps.iter().enumerate() {
            if place == kept_after {
                world.keep_checkpoint();
            }
            let receipt = world.send(std::slice::from_ref(step));
            assert_eq!(receipt.accepted, 1, "{step}: {receipt:?}");
        }
        if kept_after == steps.len() {
            world.keep_checkpoint();
        }
        assert_eq!(world.restarted(), (World::books(&world.project), true), "kept after {kept_after} events");
        world.sql("DELETE FROM digi_checkpoint");
        assert_eq!(world.restarted(), (World::books(&world.project), false));
    }
}

#[test]
fn a_checkpoint_that_cannot_be_trusted_is_not_used() {
    let world = World::new(&["A"]);
    world.send(&[captured("1", "A", 2)]);
    for damage in [
        "UPDATE digi_checkpoint SET body = CAST(body || x'00' AS BLOB)",
        "UPDATE digi_checkpoint SET basis = x'00'",
        "UPDATE digi_checkpoint SET seq = seq + 1",
        "UPDATE digi_checkpoint SET crc32c = 0",
    ] {
        world.keep_checkpoint();
        assert!(world.restarted().1);
        world.sql(damage);
        assert_eq!(world.restarted(), (World::books(&world.project), false), "{damage}");
    }
    world.keep_checkpoint();
    let shifts = vec![settings::Shift { name: "night".to_owned(), from: 0, to: 8 * 60 }];
    let other = Settings { shifts, ..Settings::default() };
    let found = world.project.inner.ledger.with(|connection| checkpoint::load(connection, &other, 2)).expect("read");
    assert!(found.is_none(), "shifts of other hours book images elsewhere");
}

#[test]
fn a_checkpoint_is_kept_by_itself_once_enough_happened() {
    let world = World::new(&["A"]);
    let events: Vec<Value> = (0..=checkpoint::EVERY_EVENTS).map(|n| captured(&n.to_string(), "A", 1)).collect();
    world.send(&events[..100]);
    assert!(!world.restarted().1);
    world.send(&events[100..]);
    assert_eq!(world.restarted(), (World::books(&world.project), true));
}

#[test]
fn an_unknown_unit_waits_and_counts_once_the_inventory_knows_it() {
    let world = World::new(&["A"]);
    let scan = json!({"unit": "B", "stage": "scan", "change": "enter"});
    let receipt = world.send(&[captured("1", "B", 7), event("2", "unit.stage", NOON, &scan)]);
    assert_eq!((receipt.accepted, receipt.quarantined), (2, 2));
    {
        let state = world.project.state();
        let waiting = &state.quarantine["B"];
        assert_eq!((waiting.events, waiting.images, state.production.len()), (2, 7, 0));
    }
    world.project.adopt(&units(&["A", "B"]), 1, "test", at("2026-05-15T09:00:00Z")).expect("adopted");
    assert_eq!((world.images("B"), world.on("2026-05-14")), (7, 7));
    assert_eq!(world.project.state().unit("B").expect("B").standing.stage, Some(Stage::Scan));
    assert!(world.project.state().quarantine.is_empty());
    assert_eq!(World::books(&World::opened(&world.dir)), World::books(&world.project));
}

#[test]
fn a_declared_unit_is_known_from_then_on() {
    let world = World::new(&[]);
    world.send(&[captured("1", "C", 4)]);
    let data = json!({"unit": "C", "leaves": 100, "width_mm": 20, "series": "Buget"});
    world.send(&[event("2", "inventory.declared", NOON, &data)]);
    assert_eq!((world.images("C"), world.project.state().scope().count()), (4, 1));
    assert_eq!(World::books(&World::opened(&world.dir)), World::books(&world.project));
}

#[test]
fn a_correction_takes_back_what_it_names_and_only_once() {
    let world = World::new(&["A"]);
    let fix = |id: &str, of: &str| {
        let data = json!({"source": "//cjt/station/S02", "id": of, "reason": "wrong folder"});
        event(id, "correction", NOON, &data)
    };
    let qc = event("q", "qc.result", NOON, &json!({"unit": "A", "outcome": "accepted"}));
    // Also of an event of the same body.
    world.send(&[captured("1", "A", 2), captured("2", "A", 3), fix("x", "1"), qc]);
    assert_eq!(world.images("A"), 3);
    let receipt = world.send(&[fix("y", "1"), fix("z", "q"), fix("w", "never")]);
    assert_eq!((receipt.accepted, receipt.refused.len()), (2, 1));
    assert_eq!(receipt.refused[0].1.problems[0].0, "data.id");
    assert_eq!((world.images("A"), world.on("2026-05-14")), (3, 3));
    assert_eq!(world.project.state().unit("A").expect("A").standing.accepted, None);
    assert_eq!(World::books(&World::opened(&world.dir)), World::books(&world.project));
}

#[test]
fn a_correction_of_what_waits_keeps_it_from_counting_later() {
    let world = World::new(&["A"]);
    let data = json!({"source": "//cjt/station/S02", "id": "1", "reason": "wrong folder"});
    world.send(&[captured("1", "B", 7), captured("2", "B", 1), event("x", "correction", NOON, &data)]);
    world.project.adopt(&units(&["A", "B"]), 1, "test", at(NOON)).expect("adopted");
    assert_eq!(world.images("B"), 1);
    assert_eq!(World::books(&World::opened(&world.dir)), World::books(&world.project));
}

#[test]
fn a_frozen_day_stays_and_what_comes_late_for_it_is_booked_when_it_comes() {
    let world = World::new(&["A"]);
    world.send(&[captured("1", "A", 5)]);
    assert!(matches!(
        world.project.freeze(day("2026-05-20"), at("2026-05-20T09:00:00Z")),
        Err(FreezeError::NotPast(_))
    ));
    world.project.freeze(day("2026-05-17"), at("2026-05-20T09:00:00Z")).expect("frozen");
    let late = world.send_at(&[captured("2", "A", 3)], "2026-05-20T10:00:00Z");
    assert_eq!(late.accepted, 1);
    let fix = event("x", "correction", NOON, &json!({"source": "//cjt/station/S02", "id": "1", "reason": "blank"}));
    world.send_at(&[fix], "2026-05-21T10:00:00Z");
    let open = event("3", "image.captured", "2026-05-18T09:00:00Z", &json!({"unit": "A", "frames": 1}));
    world.send_at(&[open], "2026-05-21T10:00:00Z");
    let days = ["2026-05-14", "2026-05-18", "2026-05-20", "2026-05-21"].map(|day| world.on(day));
    assert_eq!((days, world.images("A"), world.project.state().late), ([5, 1, 3, -5], 4, 2));
    assert_eq!(World::books(&World::opened(&world.dir)), World::books(&world.project));
}

#[test]
fn a_rewritten_file_is_a_rescan_and_a_torn_one_does_not_count() {
    let world = World::new(&["A"]);
    let data = |frames: u32, complete: bool| json!({"unit": "A", "frames": frames, "complete": complete});
    let mut replaced = data(3, true);
    replaced["frames_before"] = json!(2);
    world.send(&[
        captured("1", "A", 2),
        event("2", "image.replaced", NOON, &replaced),
        event("3", "image.deleted", NOON, &data(1, true)),
        event("4", "image.captured", NOON, &data(9, false)),
    ]);
    let state = world.project.state();
    let unit = state.unit("A").expect("A");
    assert_eq!((unit.images, unit.rescanned, state.incomplete), (2, 3, 1));
}

#[test]
fn a_batch_is_accepted_with_all_of_its_units() {
    let world = World::new(&["A", "B"]);
    world.send(&[event("1", "qc.result", NOON, &json!({"batch": "L-1", "outcome": "accepted"}))]);
    let state = world.project.state();
    assert!(state.units.iter().all(|unit| unit.standing.accepted == Some(day("2026-05-14"))));
}

#[test]
fn the_order_of_arrival_does_not_change_where_a_unit_stands() {
    let steps = [
        ("2026-05-04T06:00:00Z", "unit.stage", json!({"unit": "A", "stage": "scan", "change": "enter"})),
        ("2026-05-05T06:00:00Z", "unit.stage", json!({"unit": "A", "stage": "scan", "change": "exit"})),
        ("2026-05-06T06:00:00Z", "qc.result", json!({"unit": "A", "outcome": "rejected", "reason": "skew"})),
        ("2026-05-07T06:00:00Z", "qc.result", json!({"unit": "A", "outcome": "accepted"})),
        ("2026-05-08T06:00:00Z", "custody.moved", json!({"unit": "A", "to": "D1/R04/P2"})),
        ("2026-05-08T06:00:00Z", "unit.stage", json!({"unit": "A", "stage": "returned", "change": "enter"})),
    ];
    let events: Vec<Value> =
        (0..).zip(&steps).map(|(n, (time, kind, data))| event(&format!("{n}"), kind, time, data)).collect();
    let standing = |order: &[usize]| {
        let world = World::new(&["A"]);
        for place in order {
            world.send(std::slice::from_ref(&events[*place]));
        }
        let mut standing = world.project.state().unit("A").expect("A").standing.clone();
        // Only the place in the ledger is of the arrival.
        standing.rework.iter_mut().for_each(|rework| rework.seq = 0);
        standing
    };
    let in_time = standing(&[0, 1, 2, 3, 4, 5]);
    assert_eq!(in_time.done(), Some(day("2026-05-08")));
    assert_eq!(in_time, standing(&[5, 3, 1, 0, 4, 2]));
}

#[test]
fn an_inventory_is_adopted_only_against_the_version_it_was_compared_with() {
    let world = World::new(&["A", "B"]);
    let (version, diff) = world.project.propose(&units(&["B", "C"]));
    assert_eq!((version, diff.added, diff.removed), (1, vec!["C".to_owned()], vec!["A".to_owned()]));
    world.send(&[captured("1", "A", 2)]);
    world.project.adopt(&units(&["B", "C"]), 1, "second", at(NOON)).expect("adopted");
    let moved = world.project.adopt(&units(&["B"]), 1, "third", at(NOON));
    assert!(matches!(moved, Err(AdoptError::Moved { expected: 1, found: 2 })));
    let scope: Vec<String> = world.project.state().scope().map(|unit| unit.unit.code.clone()).collect();
    assert_eq!(scope, ["B", "C"]);
    assert_eq!(world.images("A"), 2, "what was done stays known");
    let versions = world.project.versions().expect("versions");
    assert_eq!(versions.iter().map(|v| (v.version, v.note.as_str())).collect::<Vec<_>>(), [(2, "second"), (1, "test")]);
}

#[test]
fn many_senders_at_once_are_all_answered_and_counted_once() {
    let world = World::new(&["A"]);
    std::thread::scope(|scope| {
        for sender in 0..8 {
            let world = &world;
            scope.spawn(move || {
                for n in 0..25 {
                    // Two senders each send the same.
                    let receipt = world.send(&[captured(&format!("{}-{n}", sender / 2), "A", 1)]);
                    assert_eq!(receipt.accepted + receipt.repeated, 1);
                }
            });
        }
    });
    assert_eq!((world.images("A"), world.on("2026-05-14")), (100, 100));
    assert_eq!(World::books(&World::opened(&world.dir)), World::books(&world.project));
}

#[test]
fn the_history_of_a_unit_has_every_event_about_it() {
    let world = World::new(&["A"]);
    world.send(&[captured("1", "A", 2), captured("2", "Z", 2), captured("3", "A", 2)]);
    let history = world.project.history("A", 0, 10).expect("history");
    assert_eq!(history.iter().map(|shown| shown.id.as_str()).collect::<Vec<_>>(), ["1", "3"]);
    assert_eq!(history[0].data["frames"], 2);
    assert_eq!(world.project.history("A", history[0].seq, 10).expect("history").len(), 1);
}

#[test]
fn an_event_of_the_future_is_refused() {
    let world = World::new(&["A"]);
    let receipt = world.send_at(&[captured("1", "A", 1)], "2026-05-14T08:49:59Z");
    assert_eq!(receipt.refused[0].1.problems[0].0, "time");
    assert_eq!(world.send_at(&[captured("1", "A", 1)], "2026-05-14T08:50:00Z").accepted, 1);
}
