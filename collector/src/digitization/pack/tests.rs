//! Reports against the ledger that they stand on, opened as people open them.

use std::io::Cursor;

use calamine::{Data as CellData, DataType as _, Reader as _, Xlsx};
use serde_json::{Value, json};

use super::*;
use crate::digitization::Settings;
use crate::digitization::event::{TYPE_PREFIX, parse};
use crate::digitization::inventory::{Mapping, read_csv};
use crate::digitization::settings::Plan;

fn at(text: &str) -> Timestamp {
    Timestamp(text.parse::<jiff::Timestamp>().expect(text).as_millisecond())
}

fn period(text: &str) -> Period {
    text.parse().expect(text)
}

struct World {
    project: Digitization,
    next: u32,
}

impl World {
    /// Four units of 100 leaves and 31 mm, from 4 May 2026 on.
    fn new() -> Self {
        let plan = Plan { from: "2026-05-04".parse().expect("day"), finish: "2026-06-26".parse().expect("day") };
        let project = Digitization::in_memory(Settings { plan: Some(plan), ..Settings::default() });
        let csv = "cod_unitate;nr_file;latime_mm;lot\nU-1;100;31;L-1\nU-2;100;31;L-1\nU-3;100;31;L-1\nU-4;100;31;L-1\n";
        let units = read_csv(csv.as_bytes(), &Mapping::default()).units;
        project.adopt(&units, 0, "test", at("2026-05-01T09:00:00Z")).expect("adopted");
        Self { project, next: 0 }
    }

    fn send(&mut self, kind: &str, time: &str, received: &str, data: &Value) -> String {
        self.next += 1;
        let id = self.next.to_string();
        let event = json!({"specversion": "1.0", "type": format!("{TYPE_PREFIX}{kind}"), "source": "//cjt/station/S02",
            "id": id, "time": time, "data": data});
        let events = parse(event.to_string().as_bytes()).expect("JSON");
        let receipt = self.project.submit(events, at(received)).expect("kept");
        assert_eq!((receipt.accepted, &receipt.refused[..]), (1, &[][..]));
        id
    }

    fn on_time(&mut self, kind: &str, time: &str, data: &Value) -> String {
        self.send(kind, time, time, data)
    }

    /// Scans, accepts and returns a unit on one day.
    fn digitize(&mut self, unit: &str, day: &str, images: u32) {
        let time = |clock: &str| format!("{day}T{clock}:00Z");
        let stage = |stage: &str, change: &str| json!({"unit": unit, "stage": stage, "change": change});
        self.on_time("unit.stage", &time("06:00"), &stage("scan", "enter"));
        self.on_time("image.captured", &time("07:00"), &json!({"unit": unit, "frames": images}));
        self.on_time("unit.stage", &time("08:00"), &stage("scan", "exit"));
        self.on_time("qc.result", &time("09:00"), &json!({"unit": unit, "outcome": "accepted"}));
        self.on_time("unit.stage", &time("10:00"), &stage("returned", "enter"));
    }

    fn figures(&self, text: &str) -> Figures {
        self.project.paper(period(text)).expect("read").figures().clone()
    }
}

#[test]
fn a_report_counts_its_period_and_what_was_reached_by_its_end() {
    let mut world = World::new();
    world.digitize("U-1", "2026-05-05", 180);
    world.digitize("U-2", "2026-05-12", 200);
    world.on_time("image.replaced", "2026-05-13T07:00:00Z", &json!({"unit": "U-2", "frames": 3, "frames_before": 2}));
    let rejected = json!({"unit": "U-3", "outcome": "rejected", "reason": "skew"});
    world.on_time("qc.result", "2026-05-14T09:00:00Z", &rejected);
    world.on_time("station.state", "2026-05-14T09:00:00Z", &json!({"station": "S02", "state": "jam"}));
    world.on_time("station.state", "2026-05-14T09:30:00Z", &json!({"station": "S02", "state": "working"}));
    world.on_time("invoice.received", "2026-05-15T09:00:00Z", &json!({"invoice": "F 7", "images": 390}));
    let week = world.figures("2026-W20");
    assert_eq!(
        (week.from.to_string(), week.to.to_string(), week.working_days),
        ("2026-05-11".into(), "2026-05-17".into(), 5)
    );
    assert_eq!((week.captured, week.rescanned, week.net, week.images_so_far), (200, 3, 201, 381));
    let tally = |units: i64, images: i64| Tally { mm: 31 * units, units, sheets: 100 * units, images };
    assert_eq!((week.done.in_period, week.done.so_far), (tally(1, 201), tally(2, 381)));
    assert_eq!(week.scope, Tally { mm: 124, units: 4, sheets: 400, images: 381 });
    assert_eq!(week.first_looks, (2, 1));
    assert_eq!(week.days[1].mm_done_so_far, 62);
    assert_eq!(week.burn_up.iter().map(|(_, mm)| *mm).collect::<Vec<_>>(), [31, 62]);
    // Rejected on Thursday: Friday is lost.
    let skew = ReworkFigures { reason: "skew".to_owned(), count: 1, open: 1, lost_days: 1 };
    assert_eq!(week.rework, [skew]);
    assert_eq!((week.stations[0].captured, week.stations[0].stops.map(|stops| stops.jam_minutes)), (200, Some(30)));
    assert_eq!((week.billing.billed, week.billing.accepted, week.billing.accepted_so_far), (390, 201, 381));
    // Two weeks of ten working days of the plan's 38 (1 June is a holiday) are over, half of the metres are done.
    let plan = week.plan.expect("plan");
    assert_eq!((plan.days_ahead, plan.mm_planned), (9.5, (124.0_f64 * 10.0 / 39.0).round() as i64));
    assert_eq!(plan.spi, Some(1.95), "19.5 days of the plan in ten");
    // What came later changes nothing that was before.
    world.digitize("U-4", "2026-05-19", 150);
    assert_eq!(world.figures("2026-W20"), week);
    let month = world.figures("2026-05");
    assert_eq!((month.captured, month.done.in_period.units, month.days.len()), (530, 3, 31));
}

#[test]
fn what_is_late_for_a_frozen_day_is_a_correction_of_the_next_report() {
    let mut world = World::new();
    world.digitize("U-1", "2026-05-05", 180);
    let wrong = world.on_time("image.captured", "2026-05-06T07:00:00Z", &json!({"unit": "U-3", "frames": 9}));
    let accepted = world.on_time("qc.result", "2026-05-06T08:00:00Z", &json!({"unit": "U-3", "outcome": "accepted"}));
    let monday = at("2026-05-11T05:00:00Z");
    assert!(matches!(world.project.issue(period("2026-W20"), monday), Err(IssueError::NotOver(_))));
    let first = world.project.issue(period("2026-W19"), monday).expect("issued");
    assert_eq!(first.figures.accepted.so_far.units, 2);
    world.send("image.captured", "2026-05-07T07:00:00Z", "2026-05-12T07:00:00Z", &json!({"unit": "U-2", "frames": 40}));
    for id in [wrong, accepted] {
        let data = json!({"source": "//cjt/station/S02", "id": id, "reason": "wrong folder"});
        world.send("correction", "2026-05-13T07:00:00Z", "2026-05-13T07:00:00Z", &data);
    }
    assert_eq!(world.project.issue(period("2026-W19"), monday).expect("the same"), first);
    assert_eq!(world.project.paper(period("2026-W19")).expect("read"), Paper::Issued(Box::new(first.clone())));
    // Not only because the report is kept: what it stands on is as it was.
    let state = world.project.state();
    let recounted = figures::count(
        &state,
        &Facts::of(&state, world.project.settings()),
        period("2026-W19"),
        world.project.settings(),
    );
    drop(state);
    assert_eq!(recounted, first.figures);
    let second = world.project.issue(period("2026-W20"), at("2026-05-18T05:00:00Z")).expect("issued");
    let row = |booked: &str, own: &str, kind: &str, events, captured| CorrectionFigures {
        booked: booked.parse().expect("day"),
        own: own.parse().expect("day"),
        kind: kind.to_owned(),
        events,
        captured,
        rescanned: 0,
        net: captured,
    };
    let late = row("2026-05-12", "2026-05-07", "image.captured", 1, 40);
    assert_eq!(second.figures.corrections, [late, row("2026-05-13", "2026-05-06", "correction", 2, -9)]);
    assert_eq!((second.figures.captured, second.figures.accepted.in_period.units), (31, -1));
    assert_eq!(second.figures.images_so_far, 180 + 40);
    assert_eq!((second.number, &second.previous), (2, &first.digest));
}

#[test]
fn a_chain_that_was_tampered_with_is_told_by_its_reports() {
    let mut world = World::new();
    world.digitize("U-1", "2026-05-05", 180);
    for week in ["2026-W19", "2026-W20", "2026-W21"] {
        world.project.issue(period(week), at("2026-06-01T05:00:00Z")).expect("issued");
    }
    let verified = world.project.verify_reports().expect("read");
    assert_eq!((verified.reports, &verified.problems[..]), (3, &[][..]));
    assert_eq!(verified.last, world.project.issued(1).expect("read")[0].digest);
    let sql = |sql: &str| world.project.inner.ledger.with(|connection| connection.execute_batch(sql)).expect(sql);
    let problems = || world.project.verify_reports().expect("read").problems;
    sql("UPDATE digi_report SET body = replace(body, '180', '181') WHERE number = 2");
    assert_eq!(problems(), ["report 2 (2026-W20): its digest is not that of its data"]);
    sql("UPDATE digi_report SET body = replace(body, '181', '180') WHERE number = 2");
    assert_eq!(problems().len(), 0);
    sql("UPDATE digi_report SET issued_ms = issued_ms - 1 WHERE number = 1");
    assert_eq!(problems(), ["report 1 (2026-W19): its digest is not that of its data"]);
    sql("UPDATE digi_report SET issued_ms = issued_ms + 1 WHERE number = 1; DELETE FROM digi_report WHERE number = 2");
    let gone = [
        "report 3 (2026-W21): a report before it is gone",
        "report 3 (2026-W21): it does not follow from the one before",
    ];
    assert_eq!(problems(), gone);
}

#[test]
fn due_reports_are_made_once_from_their_hour_on_and_caught_up() {
    let mut world = World::new();
    let schedule = Schedule::default();
    let due = |world: &World, now: &str| -> Vec<String> {
        let made = world.project.issue_due(&schedule, at(now)).expect("made");
        made.into_iter().map(|issued| issued.figures.period.to_string()).collect()
    };
    assert_eq!(due(&world, "2026-05-11T05:00:00Z"), [""; 0], "nothing happened yet");
    world.digitize("U-1", "2026-05-05", 180);
    // 07:00 in Bucharest is 04:00 UTC in summer.
    assert_eq!(due(&world, "2026-05-11T03:59:00Z"), [""; 0]);
    assert_eq!(due(&world, "2026-05-11T04:00:00Z"), ["2026-W19"]);
    assert_eq!(due(&world, "2026-05-11T04:01:00Z"), [""; 0]);
    // Away for three weeks.
    assert_eq!(due(&world, "2026-06-02T04:00:00Z"), ["2026-W20", "2026-W21", "2026-W22", "2026-05"]);
    assert_eq!(world.project.verify_reports().expect("read").problems, [""; 0]);
    let unmailed = world.project.unmailed(at("2026-06-02T04:00:00Z")).expect("read");
    assert_eq!(unmailed.len(), 4);
    world.project.note_mailed(period("2026-05"), at("2026-06-02T04:00:01Z")).expect("kept");
    assert_eq!(world.project.unmailed(at("2026-06-02T04:01:00Z")).expect("read").len(), 3);
}

/// Every cell of a sheet, by row and column.
fn cells(bytes: &[u8], sheet: &str) -> Vec<Vec<CellData>> {
    let mut book: Xlsx<_> = Xlsx::new(Cursor::new(bytes)).expect("a workbook");
    let range = book.worksheet_range(sheet).expect(sheet);
    range.rows().map(<[CellData]>::to_vec).collect()
}

fn number(cell: &CellData) -> f64 {
    match cell {
        CellData::Float(number) => *number,
        CellData::Int(number) => *number as f64,
        other => panic!("{other:?} is not a number"),
    }
}

#[test]
fn a_workbook_and_its_lines_say_what_the_ledger_says() {
    let mut world = World::new();
    world.digitize("U-1", "2026-05-05", 180);
    world.digitize("U-2", "2026-05-12", 200);
    world.on_time("image.replaced", "2026-05-13T07:00:00Z", &json!({"unit": "U-2", "frames": 3, "frames_before": 2}));
    let rejected = json!({"unit": "U-3", "outcome": "rejected", "reason": "-skew"});
    world.on_time("qc.result", "2026-05-14T09:00:00Z", &rejected);
    world.on_time("invoice.received", "2026-05-15T09:00:00Z", &json!({"invoice": "=1+1", "images": 390}));
    let issued = world.project.issue(period("2026-05"), at("2026-06-02T05:00:00Z")).expect("issued");
    let (figures, paper) = (issued.figures.clone(), Paper::Issued(Box::new(issued.clone())));
    for language in Language::ALL {
        let bytes = paper.write(Form::Xlsx, language).expect("written");
        assert_eq!(bytes, paper.write(Form::Xlsx, language).expect("written"), "the same bytes");
        let sheet = |word: words::Word| cells(&bytes, language.of(word));
        let summary = sheet(words::SUMMARY);
        let row = |word: words::Word| {
            let found = summary.iter().find(|row| row[0] == CellData::String(language.of(word).to_owned()));
            found.unwrap_or_else(|| panic!("{}", language.of(word))).clone()
        };
        assert_eq!(row(words::DIGEST)[1], CellData::String(issued.digest.clone()));
        let metres = row(words::METRES_DONE);
        assert_eq!([1, 2, 3, 4].map(|n| number(&metres[n])), [0.062, 0.062, 0.124, 0.5]);
        assert_eq!(number(&row(words::IMAGES_ACCEPTED)[2]), 381.0);
        assert_eq!(number(&row(words::NEW_IMAGES)[1]), 380.0);
        let days = sheet(words::DAYS);
        assert_eq!(days.len(), 32);
        for (row, day) in days[1..].iter().zip(&figures.days) {
            let shown = row[0].get_datetime().expect("a day").as_f64();
            // Days since 1899-12-30.
            assert_eq!(shown, f64::from(day.day.0) + 25_569.0);
            let counts = [day.captured, day.rescanned, day.net].map(|count| count as f64);
            assert_eq!([2, 3, 4].map(|n| number(&row[n])), counts);
            assert_eq!(number(&row[6]), day.mm_done_so_far as f64 / 1000.0);
        }
        let stages = sheet(words::STAGES);
        for (row, stage) in stages[1..].iter().zip(&figures.stages) {
            assert_eq!(row[0], CellData::String(language.stage(stage.stage).to_owned()));
            assert_eq!(
                [1, 2, 3].map(|n| number(&row[n])),
                [stage.waiting, stage.working, stage.held].map(|n| n as f64)
            );
        }
        let billing = sheet(words::BILLING);
        assert_eq!([1, 2, 3].map(|n| number(&billing[2][n])), [390.0, 381.0, 9.0]);
        assert_eq!(billing[5][0], CellData::String("=1+1".to_owned()), "a text, no formula");
        assert_eq!(sheet(words::CORRECTIONS)[1][0], CellData::String(language.of(words::NO_CORRECTIONS).to_owned()));
        let csv = String::from_utf8(paper.write(Form::Csv, language).expect("written")).expect("UTF-8");
        let done = if language == Language::Romanian { "0,062" } else { "0.062" };
        let line = |parts: &[&str]| format!("{}\r\n", parts.join(";"));
        let t = |word: words::Word| language.of(word);
        assert!(csv.contains(&line(&[t(words::SUMMARY), t(words::SO_FAR), t(words::METRES_DONE), done])), "{csv}");
        assert!(csv.contains(&line(&[t(words::DAYS), "2026-05-12", t(words::NEW_IMAGES), "200"])), "{csv}");
        assert!(csv.contains(&line(&[t(words::REWORK), "'-skew", t(words::REJECTIONS), "1"])), "{csv}");
        assert!(csv.starts_with('\u{feff}') && !csv.contains("\n="), "{csv}");
    }
    let json: Issued =
        serde_json::from_slice(&paper.write(Form::Json, Language::English).expect("written")).expect("JSON");
    assert_eq!(json, issued);
}
