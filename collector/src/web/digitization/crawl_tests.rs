//! Every number of the pages leads to what is behind it: each link is followed, and the list adds up to the number.

use std::collections::{BTreeMap, BTreeSet};

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use regex::Regex;
use serde_json::{Value, json};
use tower::ServiceExt as _;
use veghe_model::Timestamp;

use super::reading;
use crate::clock;
use crate::digitization::calendar::Day;
use crate::digitization::event::{TYPE_PREFIX, parse};
use crate::digitization::inventory::{Mapping, read_csv};
use crate::digitization::pack::{Length, Period};
use crate::digitization::quality::Rule;
use crate::digitization::settings::{Plan, Settings};
use crate::digitization::{Digitization, midnight};

/// Units of the inventory.
const UNITS: usize = 24;

/// A project under way that has everything: rework, stops, faults, late events, events taken back, and ones that wait.
struct Project {
    digitization: Digitization,
    today: Day,
    sent: usize,
}

impl Project {
    fn new() -> Self {
        let today = Day::at(clock::now(), &Settings::default().time_zone);
        let rule = Rule { min_ppi: Some(300.0), ..Rule::default() };
        let settings = Settings {
            plan: Some(Plan { from: Day(today.0 - 60), finish: Day(today.0 + 30) }),
            quality: vec![rule],
            ..Settings::default()
        };
        let digitization = Digitization::in_memory(settings);
        let mut project = Self { digitization, today, sent: 0 };
        let rows: Vec<String> = (0..UNITS)
            .map(|n| {
                let (series, binding) = (["Urbanism & drumuri", "Buget"][n % 2], ["cusut", "legat", ""][n % 3]);
                format!("U/{n:02};{};{};{series};{binding};D{}/R0{}/P1;L-{}", 40 + n, 20 + n, n % 2, n % 4, n / 8)
            })
            .collect();
        let text = format!("cod_unitate;nr_file;latime_mm;inventar;legatura;locatie;lot\n{}\n", rows.join("\n"));
        let units = read_csv(text.as_bytes(), &Mapping::default()).units;
        assert_eq!(units.len(), UNITS);
        project.digitization.adopt(&units, 0, "test", project.at(60, 0)).expect("adopted");
        project.work();
        project.trouble();
        project
    }

    /// The moment of `hour` UTC so many days ago.
    fn at(&self, days_ago: i32, hour: i64) -> Timestamp {
        Timestamp(midnight(Day(self.today.0 - days_ago), self.digitization.settings()) + hour * 3_600_000)
    }

    fn event(&mut self, kind: &str, days_ago: i32, hour: i64, data: &Value) -> Value {
        self.sent += 1;
        let time = jiff::Timestamp::from_millisecond(self.at(days_ago, hour).0).expect("time").to_string();
        json!({"specversion": "1.0", "type": format!("{TYPE_PREFIX}{kind}"), "source": "//cjt/test",
            "id": self.sent.to_string(), "time": time, "data": data})
    }

    fn send(&self, events: &[Value], days_ago: i32) {
        let received = Timestamp(self.at(days_ago, 23).0.min(clock::now().0));
        let parsed = parse(json!(events).to_string().as_bytes()).expect("JSON");
        let receipt = self.digitization.submit(parsed, received).expect("kept");
        assert_eq!(receipt.refused, [], "{events:?}");
    }

    /// Units go through the stages, a few days each; the later ones are not done.
    fn work(&mut self) {
        for n in 0..UNITS {
            let (unit, ago) = (format!("U/{n:02}"), 50 - 2 * n as i32);
            let mut events = Vec::new();
            let step = |project: &mut Self, stage: &str, change: &str, ago: i32, hour: i64| {
                project.event("unit.stage", ago, hour, &json!({"unit": unit, "stage": stage, "change": change}))
            };
            events.push(step(self, "prep", "enter", ago, 7));
            events.push(step(self, "prep", "exit", ago, 8));
            if n < 22 {
                events.push(step(self, "scan", "enter", ago, 9));
                for (file, hour) in [(0, 9), (1, 12), (2, 20)] {
                    let station = format!("S0{}", 1 + (n + file) % 2);
                    let ppi = if (n + file).is_multiple_of(5) { 200.0 } else { 300.0 };
                    let data = json!({"unit": unit, "frames": 25 + n, "bytes": 25_000_000, "station": station, "ppi": ppi,
                        "blank": usize::from(file == 2 && n.is_multiple_of(4))});
                    events.push(self.event("image.captured", ago, hour, &data));
                }
                events.push(step(self, "scan", "exit", ago, 21));
            }
            if n % 4 == 1 && n < 20 {
                let reason = ["skew", "blur"][n / 4 % 2];
                let rejected = json!({"unit": unit, "outcome": "rejected", "reason": reason});
                events.push(self.event("qc.result", ago - 1, 9, &rejected));
                let again = json!({"unit": unit, "frames": 30, "frames_before": 25 + n, "station": "S01", "bytes": 1});
                events.push(self.event("image.replaced", ago - 1, 12, &again));
            }
            if n < 18 && n != 13 {
                events.push(self.event("qc.result", ago - 2, 9, &json!({"unit": unit, "outcome": "accepted"})));
            }
            if n < 14 && n != 13 {
                events.push(step(self, "returned", "enter", ago - 2, 12));
            }
            if n == 19 {
                let held = json!({"unit": unit, "stage": "qc", "change": "hold", "hold": "conservation"});
                events.push(self.event("unit.stage", ago - 2, 9, &held));
            }
            self.send(&events, (ago - 3).max(0));
        }
    }

    fn trouble(&mut self) {
        let mut events = Vec::new();
        // Two days on which people work, whatever day it is.
        let calendar = self.digitization.settings().calendar.clone();
        let worked = (8..40).filter(|ago| calendar.is_working(Day(self.today.0 - ago))).take(2).collect::<Vec<i32>>();
        for (state, hour) in
            [("working", 8), ("jam", 9), ("working", 10), ("down", 11), ("maintenance", 12), ("working", 13)]
        {
            for ago in &worked {
                events.push(self.event("station.state", *ago, hour, &json!({"station": "S01", "state": state})));
            }
        }
        let unit = |n: usize| format!("U/{n:02}");
        events.push(self.event("image.captured", 9, 8, &json!({"unit": unit(1), "frames": 3, "complete": false})));
        events.push(self.event("image.captured", 9, 8, &json!({"unit": unit(2), "frames": 3, "complete": false})));
        events.push(self.event("image.duplicate", 9, 8, &json!({"unit": unit(2), "frames": 3})));
        events.push(self.event("image.deleted", 9, 9, &json!({"unit": unit(2), "frames": 2, "station": "S02"})));
        // Two units that the inventory does not have; one of them comes later.
        for n in 0..3 {
            events.push(self.event(
                "image.captured",
                10,
                8 + n,
                &json!({"unit": "X-1", "frames": 7, "station": "S02"}),
            ));
            events.push(self.event("image.captured", 9, 8 + n, &json!({"unit": "X-2", "frames": 5, "station": "S02"})));
        }
        self.send(&events, 7);
        let number = |place: usize| events[place]["id"].clone();
        let back = |project: &mut Self, id: &Value, ago: i32| {
            project.event("correction", ago, 9, &json!({"source": "//cjt/test", "id": id, "reason": "wrong folder"}))
        };
        // Taken back: one that was not whole, and one that waits.
        let mut later = vec![back(self, &number(13), 6), back(self, &number(16), 6)];
        later.push(self.event("image.captured", 6, 8, &json!({"unit": unit(3), "frames": 11, "station": "S02"})));
        self.send(&later, 6);
        let wrong = later[2]["id"].clone();
        // A week ago and before, nothing changes any more.
        self.digitization.freeze(Day(self.today.0 - 5), self.at(4, 9)).expect("frozen");
        let mut late = vec![back(self, &wrong, 4)];
        late.push(self.event("image.captured", 12, 8, &json!({"unit": unit(4), "frames": 13, "station": "S02"})));
        late.push(self.event(
            "image.replaced",
            12,
            9,
            &json!({"unit": unit(4), "frames": 4, "frames_before": 2, "station": "S01"}),
        ));
        late.push(self.event(
            "inventory.declared",
            3,
            8,
            &json!({"unit": "X-1", "leaves": 9, "width_mm": 12, "location": "D9"}),
        ));
        self.send(&late, 3);
        // The same once more is one too many, and one of a late event is taken back too.
        let again = vec![back(self, &wrong, 2), back(self, &late[1]["id"].clone(), 2)];
        self.send(&again, 2);
        let now = self.event("image.captured", 0, 0, &json!({"unit": unit(20), "frames": 2, "station": "S01"}));
        self.send(&[now], 0);
    }
}

async fn get(router: &Router, address: &str) -> (StatusCode, String) {
    let request = Request::get(address).body(Body::empty()).expect("request");
    let response = router.clone().oneshot(request).await.expect("answered");
    let status = response.status();
    let body = response.into_body().collect().await.expect("body").to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

/// Numbers in cells that are neither a link nor marked as worked out from others.
fn loose(body: &str) -> Vec<String> {
    let cell = Regex::new(r#"(?s)<td class="n">(.*?)</td>"#).expect("pattern");
    let cells = cell.captures_iter(body).map(|found| found[1].to_owned());
    cells.filter(|text| text.contains(|c: char| c.is_ascii_digit()) && !text.contains("<a ")).collect()
}

#[tokio::test]
async fn every_number_of_a_page_leads_to_a_list_that_adds_up_to_it() {
    let project = Project::new();
    let router = reading(project.digitization.clone());
    let week = Period::containing(Length::Week, Day(project.today.0 - 9));
    let month = Period::containing(Length::Month, Day(project.today.0 - 9));
    let now = Period::containing(Length::Month, project.today);
    let figure = Regex::new(r#"<a class="fig" data-count="(-?\d+)" href="([^"]+)">"#).expect("pattern");
    let total = Regex::new(r#"<data id="total" value="(-?\d+)">"#).expect("pattern");
    let mut links = BTreeMap::<String, BTreeSet<i64>>::new();
    for language in ["ro", "en"] {
        for page in [
            "/digitization?".to_owned(),
            "/digitization/stations?".to_owned(),
            "/digitization/quality?".to_owned(),
            "/digitization/units?limit=9&".to_owned(),
            "/digitization/units/U%2F04?".to_owned(),
            "/digitization/units/U%2F01?".to_owned(),
            "/digitization/units/X-1?".to_owned(),
            format!("/digitization/reports/{week}?"),
            format!("/digitization/reports/{month}?"),
            format!("/digitization/reports/{now}?"),
        ] {
            let address = format!("{page}lang={language}");
            let (status, body) = get(&router, &address).await;
            assert_eq!(status, StatusCode::OK, "{address}: {body}");
            assert_eq!(loose(&body), [] as [String; 0], "{address}");
            let found: Vec<_> = figure.captures_iter(&body).collect();
            assert!(found.len() >= 2, "{address} has {} numbers with links", found.len());
            for link in found {
                let count = link[1].parse().expect("count");
                links.entry(link[2].replace("&amp;", "&")).or_default().insert(count);
            }
        }
    }
    assert!(links.len() > 400, "only {} numbers", links.len());
    let mut of = BTreeSet::new();
    let mut wrong = Vec::new();
    for (address, counts) in &links {
        let (status, body) = get(&router, address).await;
        let found: Option<i64> = total.captures(&body).map(|found| found[1].parse().expect("total"));
        if status != StatusCode::OK || counts.iter().any(|count| Some(*count) != found) {
            wrong.push(format!("{address}: {counts:?} on the page, {status} {found:?} in the list"));
        }
        let is_first = of.insert(address.split(['=', '&']).nth(1).unwrap_or("").to_owned());
        if is_first || found.is_some_and(|found| found < 0) {
            // The same by the other doors.
            let (_, query) = address.split_once('?').expect("query");
            let (_, json) = get(&router, &format!("/v1/digitization/figure?limit=1000&{query}")).await;
            let json: Value = serde_json::from_str(&json).expect("JSON");
            let rows = json["parts"].as_array().expect("parts");
            let sum: i64 = rows.iter().map(|row| row["amount"].as_i64().expect("amount")).sum();
            assert_eq!((json["total"].as_i64(), Some(sum)), (found, found), "{address}");
            let (_, csv) = get(&router, &format!("/digitization/figure.csv?{query}")).await;
            let amounts: Vec<i64> = csv
                .lines()
                .skip(1)
                .map(|line| line.split(';').next().expect("cell").parse().expect("amount"))
                .collect();
            assert_eq!((amounts.iter().sum::<i64>(), amounts.len()), (sum, rows.len()), "{address}");
        }
    }
    assert_eq!(wrong, [] as [String; 0], "of {} numbers", links.len());
    // What trouble makes is among them, and not nothing.
    for kind in [
        "rejections",
        "lost_days",
        "faults",
        "incomplete",
        "duplicates",
        "waiting",
        "jam",
        "down",
        "maintenance",
        "queue",
    ] {
        let counts = links.iter().filter(|(address, _)| address.contains(&format!("of={kind}&"))).flat_map(|(_, n)| n);
        assert!(counts.sum::<i64>() > 0, "no {kind}");
    }
}

#[tokio::test]
async fn a_number_of_too_much_and_a_question_that_is_none_are_refused() {
    let router = reading(Project::new().digitization);
    for (query, field) in
        [("of=captured", "from"), ("of=everything", "of"), ("", "of"), ("of=net&from=2026-01-01&to=2026-12-31", "from")]
    {
        let (status, body) = get(&router, &format!("/digitization/figure?{query}")).await;
        assert!(status == StatusCode::BAD_REQUEST && body.contains(field), "{query}: {status} {body}");
    }
    let (status, body) = get(&router, "/v1/digitization/figure?of=scope&limit=5&after=20").await;
    let body: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(
        (status, body["count"].as_u64(), body["parts"].as_array().map(Vec::len)),
        (StatusCode::OK, Some(25), Some(5))
    );
}
