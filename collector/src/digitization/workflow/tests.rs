//! What becomes of rows, without a database; `tests/tests/workflow.rs` has real ones.

use std::collections::BTreeMap;

use jiff::civil::date;
use veghe_model::Timestamp;

use super::super::event::Data;
use super::super::stage::Change;
use super::telling::{Happened, Seen, tell};
use super::*;

fn workflow() -> Workflow {
    let steps =
        [("Einspielen der Images", Stage::Scan), ("Qualitätskontrolle", Stage::Qc), ("Rückgabe", Stage::Returned)];
    Workflow {
        name: "goobi".to_owned(),
        system: System::Goobi,
        host: "localhost".to_owned(),
        port: 3306,
        security: Security::PlainLoopback,
        ca_file: None,
        database: "goobi".to_owned(),
        username: "veghe".to_owned(),
        password_file: PathBuf::new(),
        time_zone: None,
        projects: Vec::new(),
        unit_property: None,
        unit_pattern: Some(Regex::new(r"^(.+)_\d+$").expect("pattern")),
        steps: steps.into_iter().map(|(step, stage)| (step.to_owned(), stage)).collect::<BTreeMap<_, _>>(),
        every: Duration::from_mins(1),
    }
}

fn seen(id: u64, unit: &str, step: &str, what: Happened) -> Seen {
    let at = date(2026, 5, 14).at(11, 0, 0, 0);
    Seen { id: format!("history:{id}"), unit: Some(unit.to_owned()), step: step.to_owned(), at, what }
}

fn told(rows: Vec<Seen>) -> (Vec<(String, Data)>, u64) {
    let zone = TimeZone::get("Europe/Bucharest").expect("zone");
    let Told { events, unnamed } = tell(&workflow(), &zone, rows);
    let events = events.into_iter().map(|event| {
        let event = event.expect("good");
        assert_eq!(event.time, Timestamp(1_778_745_600_000), "11:00 in Timișoara is 08:00 UTC in May");
        assert_eq!(event.source, "//veghe/collector/workflow/goobi");
        (event.id, event.data)
    });
    (events.collect(), unnamed)
}

#[test]
fn steps_become_stages_and_what_is_sent_back_a_rejection() {
    let (scan, qc) = ("Einspielen der Images", "Qualitätskontrolle");
    let (events, unnamed) = told(vec![
        seen(1, "CJT-1_17", scan, Happened::Begun),
        seen(2, "CJT-1_17", scan, Happened::Done),
        seen(3, "CJT-1_17", scan, Happened::SentBack),
        seen(4, "CJT-1_17", qc, Happened::Done),
        seen(5, "CJT-1_17", qc, Happened::SentBack),
        seen(6, "CJT-1_17", "qualitatskontrolle", Happened::Done),
        seen(7, "no number", scan, Happened::Done),
        seen(8, "CJT-1_17", "Rückgabe", Happened::Begun),
        seen(9, "CJT-1_17", "Rückgabe", Happened::Done),
    ]);
    let unit = || "CJT-1".to_owned();
    let step = |stage, change| Data::Stage { unit: unit(), stage, change, reason: None };
    let look = |is_accepted, reason: Option<&str>| Data::Qc {
        of: super::super::event::Target::Unit(unit()),
        is_accepted,
        reason: reason.map(str::to_owned),
        checked: 0,
        rejected: 0,
    };
    let expected = [
        ("history:1", step(Stage::Scan, Change::Enter)),
        ("history:2", step(Stage::Scan, Change::Exit)),
        ("history:3", look(false, Some("correction"))),
        ("history:4:accepted", look(true, None)),
        ("history:4", step(Stage::Qc, Change::Exit)),
        ("history:9", step(Stage::Returned, Change::Enter)),
    ];
    assert_eq!(events, expected.map(|(id, data)| (id.to_owned(), data)));
    assert_eq!(unnamed, 1);
}

#[test]
fn reading_goes_on_behind_the_mark_and_a_little_before_it() {
    let project = Digitization::in_memory(super::super::Settings::default());
    assert_eq!(project.workflow_mark("goobi").expect("none"), Mark::default());
    let time = |minute| Some(date(2026, 5, 14).at(11, minute, 0, 0));
    let mark = Mark { history: 9000, comment: 7, task_time: time(30), task: 12 };
    project.keep_workflow_mark("goobi", &mark).expect("kept");
    let read = project.workflow_mark("goobi").expect("a mark");
    assert_eq!(read, mark);
    assert_eq!(project.workflow_mark("other").expect("none"), Mark::default());
    let page = read.with_overlap(System::Kitodo);
    assert_eq!((page.history, page.comment, page.task_time, page.task), (8500, 0, time(20), 0));
    assert_eq!(mark.clone().max(&page), mark, "the mark never goes back");
    let later = Mark { task_time: time(31), task: 3, ..mark.clone() };
    assert_eq!(mark.max(&later), later);
}
