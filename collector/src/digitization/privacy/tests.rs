//! Persons at the door, in the table of pseudonyms, behind it, and in everything that leaves.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;

use calamine::Reader as _;
use prometheus::{Registry, TextEncoder};
use serde_json::json;
use veghe_model::Timestamp;

use super::keys::{KEY_DAYS, Keys, period};
use super::office::{Look, LookError};
use super::*;
use crate::digitization::event::{TYPE_PREFIX, parse};
use crate::digitization::metrics::DigitizationMetrics;
use crate::digitization::pack::{Form, Language};
use crate::digitization::{Day, Digitization, Receipt};
use crate::ledger::Ledger;

/// Names that must not leave, as capture software writes them.
const ANA: &str = "Ana Pop-Șerban";

fn at(text: &str) -> Timestamp {
    Timestamp(text.parse::<jiff::Timestamp>().expect(text).as_millisecond())
}

fn day(text: &str) -> Day {
    text.parse().expect(text)
}

fn captured(id: &str, unit: &str, time: &str, station: &str, operator: Option<&str>) -> Value {
    let mut data = json!({"unit": unit, "frames": 100, "station": station});
    if let Some(operator) = operator {
        data["operator"] = json!(operator);
    }
    json!({"specversion": "1.0", "type": format!("{TYPE_PREFIX}image.captured"), "source": "//cjt/capture", "id": id,
        "time": time, "data": data})
}

struct World {
    dir: tempfile::TempDir,
    project: Digitization,
}

impl World {
    fn new(operators: Operators) -> Self {
        let dir = tempfile::tempdir().expect("directory");
        let project = Self::opened(&dir, operators);
        let unit = json!({"specversion": "1.0", "type": format!("{TYPE_PREFIX}inventory.declared"),
            "source": "//cjt/inventory", "id": "U-1", "time": "2026-05-01T08:00:00Z",
            "data": {"unit": "U-1", "leaves": 100, "width_mm": 31}});
        let world = Self { dir, project };
        assert_eq!(world.send(&[unit], "2026-05-01T08:00:00Z").accepted, 1);
        world
    }

    fn opened(dir: &tempfile::TempDir, operators: Operators) -> Digitization {
        let ledger = Ledger::open(&dir.path().join("ledger.db")).expect("ledger");
        let privacy = Settings { operators, key_file: Some(dir.path().join("operators.key")), ..Settings::default() };
        let settings = crate::digitization::Settings { privacy, ..crate::digitization::Settings::default() };
        Digitization::open(ledger, settings).expect("project")
    }

    fn send(&self, events: &[Value], received: &str) -> Receipt {
        self.project.submit(parse(json!(events).to_string().as_bytes()).expect("JSON"), at(received)).expect("kept")
    }

    /// A week of May 2026 at two stations: each of `people` scans at S01 on Monday and, where `is_moving`, at S02 on Tuesday.
    fn week(&self, people: &[&str]) {
        let mut events = Vec::new();
        for (n, person) in people.iter().enumerate() {
            let id = |place: &str| format!("{place}:{n}");
            events.push(captured(&id("mon"), "U-1", "2026-05-11T07:00:00Z", "S01", Some(person)));
            events.push(captured(&id("tue"), "U-1", "2026-05-12T07:00:00Z", "S01", Some(person)));
        }
        let receipt = self.send(&events, "2026-05-12T16:00:00Z");
        assert_eq!(receipt.accepted as usize, events.len());
    }

    fn held(&self) -> u64 {
        self.project.privacy().expect("read").events
    }

    fn counts(&self) -> Vec<u64> {
        self.project.privacy().expect("read").fields.into_iter().map(|(_, count)| count).collect()
    }

    /// Every byte of every file of the directory.
    fn bytes(&self) -> Vec<u8> {
        let files = std::fs::read_dir(self.dir.path()).expect("directory");
        files.flat_map(|file| std::fs::read(file.expect("file").path()).expect("read")).collect()
    }
}

/// Every cell of a workbook, a line each.
fn cells(bytes: Vec<u8>) -> Vec<u8> {
    let mut book: calamine::Xlsx<_> = calamine::open_workbook_from_rs(std::io::Cursor::new(bytes)).expect("a workbook");
    let mut text = String::new();
    for (name, range) in book.worksheets() {
        text.push_str(&name);
        for (_, _, cell) in range.cells() {
            text.push_str(&cell.to_string());
            text.push('\n');
        }
    }
    text.into_bytes()
}

fn has(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn every_field_that_names_a_person_is_taken_out_at_any_depth() {
    let mut data = json!({"unit": "U", "observed_by": "hotfolder", "operator": ANA, "User-Name": "apop", "scanned_by": ANA,
        "facts": {"EMPLOYEE_ID": 7, "list": [{"login": "apop", "ok": 1}]}, "person": null});
    let map = data.as_object_mut().expect("object");
    let stripped = strip(map);
    assert_eq!((stripped.fields, &stripped.operator), (5, &Operator::named("ana  POP-Șerban")));
    assert_eq!(data, json!({"unit": "U", "observed_by": "hotfolder", "facts": {"list": [{"ok": 1}]}}));
    assert!(!format!("{stripped:?}").contains("pop"), "{stripped:?}");
    let mut deep = json!({"a": {"a": {"a": {"a": {"a": {"a": {"a": {"a": {"operator": ANA}}}}}}}}});
    strip(deep.as_object_mut().expect("object"));
    assert!(!deep.to_string().contains("Ana"), "{deep}");
}

#[test]
fn nobody_is_known_by_default_and_what_is_dropped_or_refused_is_counted() {
    let world = World::new(Operators::Dropped);
    world.week(&[ANA, "Ion"]);
    assert_eq!((world.counts(), world.held()), (vec![4, 0, 0], 0));
    assert!(!world.dir.path().join("operators.key").exists());
    assert!(!has(&world.bytes(), "Ana") && !has(&world.bytes(), "ana pop"));
    let strict = World::new(Operators::Refused);
    let receipt = strict.send(
        &[
            captured("1", "U-1", "2026-05-11T07:00:00Z", "S01", Some(ANA)),
            captured("2", "U-1", "2026-05-11T07:00:00Z", "S01", None),
        ],
        "2026-05-11T07:00:00Z",
    );
    assert_eq!((receipt.accepted, receipt.refused.len()), (1, 1));
    let (field, message) = &receipt.refused[0].1.problems[0];
    assert!(field == "data.operator" && !message.contains("Ana"), "{field} {message}");
    assert_eq!(strict.counts(), [0, 1, 0]);
}

#[test]
fn an_agent_that_says_more_than_is_known_says_nobodys_name() {
    let world = World::new(Operators::Dropped);
    let event = json!({"specversion": "1.0", "type": format!("{TYPE_PREFIX}image.captured"), "time": "2026-05-11T07:00:00Z",
        "source": "//veghe/agent/scan-1", "id": "1", "operator": ANA,
        "data": {"unit": "U-1", "frames": 1, "newer": {"captured_by": ANA, "lens": "50 mm"}}});
    assert_eq!(world.send(&[event], "2026-05-11T07:00:00Z").accepted, 1);
    let shown = format!("{:?}", world.project.history("U-1", 0, 9).expect("read"));
    assert!(shown.contains("50 mm") && !shown.contains("Ana"), "{shown}");
    assert_eq!(world.counts(), [2, 0, 0]);
}

#[test]
fn pseudonyms_are_one_for_a_person_and_four_weeks_and_their_keys_are_the_owners() {
    let world = World::new(Operators::Pseudonyms);
    world.week(&[ANA, "ANA  pop-șerban", "Ion"]);
    let read = |sql: &str| -> Vec<Vec<u8>> {
        let read = |c: &mut rusqlite::Connection| {
            let mut statement = c.prepare(sql)?;
            statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()
        };
        world.project.inner.ledger.with(read).expect("read")
    };
    let sql = "SELECT pseudonym FROM digi_operator";
    let all = read(sql);
    assert_eq!((all.len(), all.iter().collect::<BTreeSet<_>>().len()), (6, 2));
    let path = world.dir.path().join("operators.key");
    let mode = std::fs::metadata(&path).expect("key file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(!has(&world.bytes(), "Ana") && !has(&world.bytes(), "ana pop"));
    // The next four weeks have another key, and a restart the same.
    let later = "2026-06-10T07:00:00Z";
    assert_ne!(period(day("2026-05-11")), period(day("2026-06-10")));
    world.send(&[captured("june", "U-1", later, "S01", Some(ANA))], later);
    assert_eq!(read(sql).iter().collect::<BTreeSet<_>>().len(), 3);
    let keys = Keys::open(&path).expect("keys");
    assert_eq!(keys.periods().len(), 2);
    let ana = Operator::named(ANA).expect("name");
    let by_hand = keys.pseudonym("Arhiva", &ana, day("2026-05-11")).expect("key");
    assert_eq!(all[0], by_hand);
    assert_ne!(keys.pseudonym("Other", &ana, day("2026-05-11")), Some(by_hand), "each project has its own");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).expect("mode");
    let message = Keys::open(&path).expect_err("exposed").to_string();
    assert!(message.contains("mode 640") && message.contains("chmod 600"), "{message}");
}

#[test]
fn pseudonyms_of_a_lost_key_and_of_old_weeks_are_erased_with_their_keys() {
    let world = World::new(Operators::Pseudonyms);
    world.week(&[ANA, "Ion"]);
    assert_eq!(world.held(), 4);
    let settle = |text: &str| world.project.settle_people(at(text)).expect("settled");
    // 30 days after Monday 11 May the whole week goes; a day before it is there.
    settle("2026-06-09T09:00:00Z");
    assert_eq!(world.held(), 4);
    settle("2026-06-10T09:00:00Z");
    assert_eq!(world.held(), 0);
    let path = world.dir.path().join("operators.key");
    // The four weeks of the key are not over for what is kept.
    let end = Day(period(day("2026-05-11")).0 + KEY_DAYS + 30 + 7);
    settle(&format!("{end}T09:00:00Z"));
    assert_eq!(Keys::open(&path).expect("keys").periods(), []);
    // What comes for a week that is erased has nobody.
    let receipt =
        world.send(&[captured("late", "U-1", "2026-05-11T07:00:00Z", "S01", Some(ANA))], "2026-07-20T07:00:00Z");
    assert_eq!((receipt.accepted, world.held()), (1, 0));

    let lost = World::new(Operators::Pseudonyms);
    lost.week(&[ANA, "Ion"]);
    std::fs::remove_file(lost.dir.path().join("operators.key")).expect("removed");
    let again = World { project: World::opened(&lost.dir, Operators::Pseudonyms), dir: lost.dir };
    again.send(&[captured("x", "U-1", "2026-05-13T07:00:00Z", "S01", Some(ANA))], "2026-05-13T16:00:00Z");
    assert_eq!(again.held(), 1, "nobody is counted twice under two keys");
    // Who gives pseudonyms up has none any more.
    let given_up = World { project: World::opened(&again.dir, Operators::Dropped), dir: again.dir };
    given_up.project.settle_people(at("2026-05-13T16:00:00Z")).expect("settled");
    assert_eq!(given_up.held(), 0);
    assert!(!given_up.dir.path().join("operators.key").exists());
}

#[test]
fn an_event_that_is_taken_back_has_nobody() {
    let world = World::new(Operators::Pseudonyms);
    world.week(&[ANA]);
    let back = json!({"specversion": "1.0", "type": format!("{TYPE_PREFIX}correction"), "source": "//cjt", "id": "c",
        "time": "2026-05-12T09:00:00Z", "data": {"source": "//cjt/capture", "id": "mon:0", "reason": "wrong folder"}});
    assert_eq!(world.send(&[back], "2026-05-12T16:00:00Z").accepted, 1);
    assert_eq!(world.held(), 1);
}

#[test]
fn groups_of_fewer_than_five_are_told_nowhere() {
    let people = ["a", "b", "c", "d", "e"];
    let groups = |count: usize, more: &[Value]| {
        let world = World::new(Operators::Pseudonyms);
        world.week(&people[..count]);
        world.send(more, "2026-05-12T16:00:00Z");
        let settle = |text: &str| world.project.settle_people(at(text)).expect("settled");
        settle("2026-05-17T09:00:00Z");
        assert_eq!(world.project.people().expect("read"), [], "the week is not over");
        settle("2026-05-18T09:00:00Z");
        let told = world.project.people().expect("read");
        // What is worked out stays when the pseudonyms are gone.
        settle("2026-07-18T09:00:00Z");
        assert_eq!((world.held(), &world.project.people().expect("read")), (0, &told));
        told.into_iter().map(|g| (g.kind, g.name, g.operators, g.days, g.median_images)).collect::<Vec<_>>()
    };
    assert_eq!(groups(4, &[]), []);
    let row =
        |kind: &str, name: &str, operators: u64, days: u64| (kind.to_owned(), name.to_owned(), operators, days, 100);
    let all = [row("all", "", 5, 10), row("shift", "outside", 5, 10), row("station", "S01", 5, 10)];
    let shift = |rows: &[(String, String, u64, u64, i64)]| {
        rows.iter()
            .map(|row| if row.0 == "shift" { (row.0.clone(), String::new(), row.2, row.3, row.4) } else { row.clone() })
            .collect::<Vec<_>>()
    };
    assert_eq!(shift(&groups(5, &[])), shift(&all));
    // One person at another station: who knows all and S01 would know hers.
    let lone = [captured("f", "U-1", "2026-05-12T08:00:00Z", "S02", Some("f"))];
    let told = groups(5, &lone);
    assert!(told.iter().any(|row| row.0 == "all" && row.2 == 6), "{told:?}");
    assert!(!told.iter().any(|row| row.0 == "station"), "{told:?}");
}

#[test]
fn a_look_behind_pseudonyms_is_on_record_with_no_name() {
    let world = World::new(Operators::Pseudonyms);
    world.week(&[ANA, "Ion"]);
    let look = |names: &[&str], by: &str, why: &str| Look {
        unit: "U-1".to_owned(),
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        by: by.to_owned(),
        why: why.to_owned(),
    };
    let now = at("2026-05-14T09:00:00Z");
    let why = "pages are missing, complaint 1234";
    let found = world.project.look_behind(&look(&["Maria", ANA], "Vasile", why), 1000, now).expect("found");
    let names: Vec<Option<&str>> = found.deeds.iter().map(|deed| deed.name.as_deref()).collect();
    assert_eq!(names, [Some(ANA), Some(ANA), None, None]);
    assert!(!format!("{:?}", look(&[ANA], "v", why)).contains("Ana"));
    for (wrong, expected) in
        [(look(&[ANA], " ", why), "--by"), (look(&[ANA], "v", "because"), "--why"), (look(&[], "v", why), "0 names")]
    {
        let message = world.project.look_behind(&wrong, 1000, now).expect_err("refused").to_string();
        assert!(message.contains(expected), "{message}");
    }
    world.project.look_behind(&look(&["Ion"], "Vasile", why), 0, now).expect("found");
    let shown = world.project.privacy().expect("read");
    let told: Vec<_> = shown.looks.iter().map(|r| (r.number, &*r.who, r.uid, r.names, r.events, r.found)).collect();
    assert_eq!(told, [(2, "Vasile", 0, 1, 4, 2), (1, "Vasile", 1000, 2, 4, 2)]);
    assert!(shown.is_whole && shown.looks[1].why == why && !format!("{shown:?}").contains("Ana"));
    // Whoever changes a record is seen.
    let change = "UPDATE digi_reveal SET why = 'nothing in particular' WHERE number = 1";
    world.project.inner.ledger.with(|c| c.execute_batch(change)).expect("changed");
    assert!(!world.project.privacy().expect("read").is_whole);
    let none = World::new(Operators::Dropped);
    assert!(matches!(none.project.look_behind(&look(&[ANA], "v", why), 0, now), Err(LookError::None)));
}

#[test]
fn no_name_and_no_pseudonym_is_in_a_report_a_metric_or_an_event() {
    let world = World::new(Operators::Pseudonyms);
    world.week(&[ANA, "Ion", "Maria", "Dan", "Elena"]);
    let now = at("2026-06-01T09:00:00Z");
    world.project.settle_people(now).expect("settled");
    let pseudonyms: Vec<Vec<u8>> = {
        let read = |c: &mut rusqlite::Connection| {
            let mut statement = c.prepare("SELECT DISTINCT pseudonym FROM digi_operator")?;
            statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()
        };
        world.project.inner.ledger.with(read).expect("read")
    };
    assert_eq!(pseudonyms.len(), 5);
    let mut leaves: Vec<(String, Vec<u8>)> = Vec::new();
    let paper = world.project.paper("2026-05".parse().expect("period")).expect("paper");
    for form in [Form::Csv, Form::Json, Form::Xlsx] {
        for language in [Language::Romanian, Language::English] {
            let bytes = paper.write(form, language).expect("written");
            // A workbook is compressed: its cells are what leaves.
            let bytes = if form == Form::Xlsx { cells(bytes) } else { bytes };
            assert!(has(&bytes, "1000") || has(&bytes, "1.000") || has(&bytes, "1,000"), "{form:?} has its images");
            leaves.push((format!("{form:?}"), bytes));
        }
    }
    let registry = Registry::new();
    let metrics = DigitizationMetrics::register(&registry).expect("metrics");
    registry.register(world.project.inner.door.metric()).expect("metric");
    metrics.show(&world.project.report(now), &world.project.state(), now, world.project.settings());
    let text = TextEncoder::new().encode_to_string(&registry.gather()).expect("text");
    assert!(text.contains(r#"digitization_person_fields_total{outcome="pseudonym"} 10"#), "{text}");
    leaves.push(("metrics".to_owned(), text.into_bytes()));
    let events = world.project.history("U-1", 0, 100).expect("read");
    leaves.push(("events".to_owned(), serde_json::to_vec(&events).expect("JSON")));
    let report = serde_json::to_vec(&*world.project.report(now)).expect("JSON");
    leaves.push(("report".to_owned(), report));
    leaves.push(("people".to_owned(), serde_json::to_vec(&world.project.people().expect("read")).expect("JSON")));
    leaves.push(("privacy".to_owned(), serde_json::to_vec(&world.project.privacy().expect("read")).expect("JSON")));
    for (door, bytes) in &leaves {
        for name in ["Ana", "ana pop", "Maria", "Elena"] {
            assert!(!has(bytes, name), "{name} leaves by {door}");
        }
        for pseudonym in &pseudonyms {
            assert!(
                !has(bytes, &keys::hex(pseudonym)) && !bytes.windows(16).any(|window| window == pseudonym),
                "{door}"
            );
        }
    }
}
