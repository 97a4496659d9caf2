//! A simulated archive that is digitized: its inventory, its events day by day, and its own books, kept apart from the
//! collector's.
//!
//! Four stations scan 5,000 units of 180 m; there are holidays, slow and fast days, jams, a strike of a week, units that
//! are rejected and scanned again, files that are rewritten, and events that are sent twice. The same seed gives the same
//! archive.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;

use serde_json::{Value, json};

/// How large, and how.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Units in the inventory.
    pub units: usize,
    /// Images of an average working day, all stations together.
    pub images_a_day: f64,
    /// Images of a file: each file is an event.
    pub images_a_file: u64,
    /// Chooses everything else.
    pub seed: u64,
    /// The first day of work, a Monday, in days since 1970.
    pub first_day: i64,
    /// The last day that is simulated, if the archive is not finished before.
    pub last_day: i64,
}

impl Size {
    /// The whole archive: 5,000 units, 180 m, 900,000 images.
    pub const WHOLE: Self = Self {
        units: 5000,
        images_a_day: 5000.0,
        images_a_file: 1,
        seed: 7,
        first_day: FIRST_DAY,
        last_day: FIRST_DAY + 600,
    };
    /// The whole archive from 4 May to 20 November 2026, not finished by then.
    pub const UNDER_WAY: Self = Self { images_a_day: 4400.0, first_day: 20_577, last_day: 20_777, ..Self::WHOLE };
    /// Some weeks of a small one.
    pub const SMALL: Self = Self { units: 120, images_a_day: 400.0, seed: 3, ..Self::WHOLE };
}

/// What the archive itself knows to be true.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Books {
    /// Units.
    pub units: u64,
    /// Their shelf length.
    pub mm: u64,
    /// Their leaves.
    pub leaves: u64,
    /// Images that there are at the end.
    pub images: i64,
    /// Images that were made again.
    pub rescanned: i64,
    /// Shelf length accepted and returned.
    pub mm_done: u64,
    /// Units accepted and returned.
    pub units_done: u64,
    /// Images made (new, again) by day.
    pub by_day: BTreeMap<String, (i64, i64)>,
    /// Images made by station.
    pub by_station: BTreeMap<String, i64>,
    /// Rejections by reason.
    pub rejections: BTreeMap<String, u64>,
    /// Units that were accepted at the first look.
    pub first_pass: u64,
    /// Events, each counted once.
    pub events: u64,
    /// The day on which the last unit came back.
    pub finished: String,
}

struct Paper {
    code: String,
    mm: u64,
    leaves: u64,
    images: u64,
}

/// The simulation.
pub struct Archive {
    size: Size,
    random: Random,
    papers: Vec<Paper>,
    /// The archive's own books.
    pub books: Books,
    next_id: u64,
    /// The events of the day, and those that are sent twice.
    events: Vec<Value>,
}

const STATIONS: [&str; 4] = ["S01", "S02", "S03", "S04"];
const SERIES: [(&str, &str, f64); 5] = [
    ("Urbanism 1985-1990", "cusut", 4.6),
    ("Hotărâri 1992-2000", "legat", 5.8),
    ("Drumuri județene", "biblioraft", 5.3),
    ("Buget-Contabilitate", "șină", 5.0),
    ("Petiții și audiențe", "cusut", 4.4),
];
const REASONS: [&str; 3] = ["skew", "blur", "missing_page"];
/// Monday, 3 March 2025, in days since 1970.
const FIRST_DAY: i64 = 20_150;
/// Nobody works from Monday to Friday of the week that begins so many days after the first.
const STRIKE: i64 = 112;
/// Legal holidays of 2025 and 2026 on weekdays, from a printed calendar, as month and day.
const HOLIDAYS: [(i64, &[(i64, i64)]); 2] = [
    (2025, &[(4, 18), (4, 21), (5, 1), (6, 9), (8, 15), (12, 1), (12, 25), (12, 26)]),
    (2026, &[(1, 1), (1, 2), (1, 6), (1, 7), (4, 10), (4, 13), (5, 1), (6, 1), (11, 30), (12, 1), (12, 25)]),
];

impl Archive {
    /// An archive of `size`.
    pub fn new(size: Size) -> Self {
        let mut random = Random(size.seed);
        let mut papers = Vec::new();
        for n in 0..size.units {
            let mm = 20 + random.below(33);
            let density = SERIES[n % SERIES.len()].2 * (1.0 + 0.12 * random.normal()).clamp(0.5, 1.6);
            let images = (mm as f64 * density).round().max(4.0) as u64;
            // Some sides are blank and are not scanned.
            let leaves = (images as f64 / 1.75).round() as u64;
            papers.push(Paper { code: format!("CJT-SIM-{:04}", n + 1), mm, leaves, images });
        }
        let mut books = Books { units: size.units as u64, ..Books::default() };
        books.mm = papers.iter().map(|paper| paper.mm).sum();
        books.leaves = papers.iter().map(|paper| paper.leaves).sum();
        Self { size, random, papers, books, next_id: 0, events: Vec::new() }
    }

    /// The days on which nobody works for a strike, in days since 1970.
    pub fn strike(&self) -> std::ops::Range<i64> {
        self.size.first_day + STRIKE..self.size.first_day + STRIKE + 5
    }

    /// Its inventory as CSV.
    pub fn inventory(&self) -> String {
        let mut csv = "cod_unitate;inventar;tip;titlu;nr_file;latime_mm;legatura;locatie;lot\n".to_owned();
        for (n, paper) in self.papers.iter().enumerate() {
            let (series, binding, _) = SERIES[n % SERIES.len()];
            writeln!(
                csv,
                "{};{series};dosar;Dosar simulat nr. {};{};{};{binding};D{}/R{:02};L-{:04}",
                paper.code,
                n + 1,
                paper.leaves,
                paper.mm,
                n / 2500 + 1,
                n / 50 % 50,
                n / 25
            )
            .expect("a string takes every write");
        }
        csv
    }

    fn event(&mut self, kind: &str, source: &str, at_ms: i64, data: &Value) {
        self.next_id += 1;
        self.books.events += 1;
        let event = json!({
            "specversion": "1.0", "type": format!("ro.cjt.digi.v1.{kind}"), "source": source,
            "id": format!("sim:{}", self.next_id), "time": rfc3339(at_ms), "datacontenttype": "application/json",
            "data": data,
        });
        // Senders repeat what they are not sure of.
        if self.random.below(50) == 0 {
            self.events.push(event.clone());
        }
        self.events.push(event);
    }

    fn stage(&mut self, paper: usize, stage: &str, change: &str, at_ms: i64, reason: Option<&str>) {
        let mut data = json!({ "unit": self.papers[paper].code, "stage": stage, "change": change });
        if let Some(reason) = reason {
            data["reason"] = json!(reason);
        }
        self.event("unit.stage", "//cjt/floor", at_ms, &data);
    }

    /// Digitizes everything and hands the events of each day to `send`, in order.
    ///
    /// # Errors
    /// What `send` fails with.
    pub fn run(&mut self, mut send: impl FnMut(&mut Vec<Value>) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let mut to_scan: VecDeque<usize> = (0..self.papers.len()).collect();
        let mut again: VecDeque<(usize, i64)> = VecDeque::new();
        let mut to_look: Vec<(i64, usize, bool)> = Vec::new();
        let mut to_return: Vec<(i64, usize)> = Vec::new();
        let mut left: Option<(usize, u64)> = None;
        let mut mood = 0.0;
        let first_day = self.size.first_day;
        let mut day = first_day;
        let mut returned = 0;
        while returned < self.papers.len() {
            if day > self.size.last_day {
                return Ok(());
            }
            if !is_working(day) || (first_day + STRIKE..first_day + STRIKE + 5).contains(&day) {
                day += 1;
                continue;
            }
            let morning = day * 86_400_000 + 6 * 3_600_000;
            // Good and bad weeks follow one another; the first two weeks are slow.
            mood = 0.6 * mood + 0.08 * self.random.normal();
            let ramp = ((day - first_day) as f64 / 14.0).clamp(0.3, 1.0);
            let mut capacity = [0_u64; 4];
            for (station, capacity) in capacity.iter_mut().enumerate() {
                let source = format!("//cjt/station/{}", STATIONS[station]);
                let jam = if self.random.below(40) == 0 { 0.5 } else { 1.0 };
                if jam < 1.0 {
                    let state = |state: &str| json!({ "station": STATIONS[station], "state": state });
                    self.event("station.state", &source, morning + 3_600_000, &state("jam"));
                    self.event("station.state", &source, morning + 4 * 3_600_000, &state("working"));
                }
                let pace = self.size.images_a_day / 4.0 * ramp * jam * (1.0 + mood + 0.1 * self.random.normal());
                *capacity = pace.max(0.0) as u64;
            }
            let mut station = 0;
            let mut minute = 0;
            loop {
                while station < 4 && capacity[station] == 0 {
                    station += 1;
                    minute = 0;
                }
                if station == 4 {
                    break;
                }
                let at_ms = morning + (minute % 460) * 60_000;
                minute += 1;
                // What was rejected goes first.
                if let Some((paper, known)) = again.front().copied()
                    && known < day
                {
                    again.pop_front();
                    capacity[station] = capacity[station].saturating_sub(self.rescan(paper, station, at_ms));
                    to_look.push((day + 1, paper, true));
                    continue;
                }
                let Some((paper, images)) = left.take().or_else(|| {
                    let paper = to_scan.pop_front()?;
                    Some((paper, self.papers[paper].images))
                }) else {
                    break;
                };
                if images == self.papers[paper].images {
                    self.stage(paper, "prep", "enter", at_ms - 86_400_000, None);
                    self.stage(paper, "prep", "exit", at_ms - 80_000_000, None);
                    let moved = json!({ "unit": self.papers[paper].code, "to": "sala de scanare" });
                    self.event("custody.moved", "//cjt/floor", at_ms - 1000, &moved);
                    self.stage(paper, "scan", "enter", at_ms, None);
                }
                let made = images.min(capacity[station]);
                self.capture(paper, station, made, at_ms);
                capacity[station] -= made;
                if made < images {
                    left = Some((paper, images - made));
                } else {
                    self.stage(paper, "scan", "exit", at_ms + 59_000, None);
                    to_look.push((day + 2, paper, false));
                }
            }
            let mut later = Vec::new();
            for (due, paper, is_again) in std::mem::take(&mut to_look) {
                if due > day {
                    later.push((due, paper, is_again));
                    continue;
                }
                let at_ms = morning + 7 * 3_600_000 + self.random.below(3_000_000) as i64;
                self.stage(paper, "qc", "enter", at_ms, None);
                let is_bad = self.random.below(100) < if is_again { 2 } else { 4 };
                let unit = self.papers[paper].code.clone();
                if is_bad {
                    let reason = REASONS[self.random.below(3) as usize];
                    *self.books.rejections.entry(reason.to_owned()).or_default() += 1;
                    let data =
                        json!({ "unit": unit, "outcome": "rejected", "reason": reason, "checked": 20, "rejected": 3 });
                    self.event("qc.result", "//cjt/qc", at_ms + 1000, &data);
                    again.push_back((paper, day));
                } else {
                    if !is_again {
                        self.books.first_pass += 1;
                    }
                    let data = json!({ "unit": unit, "outcome": "accepted", "checked": 20, "rejected": 0 });
                    self.event("qc.result", "//cjt/qc", at_ms + 1000, &data);
                    self.stage(paper, "qc", "exit", at_ms + 2000, None);
                    to_return.push((day + 3 + self.random.below(5) as i64, paper));
                }
            }
            to_look = later;
            let mut later = Vec::new();
            for (due, paper) in std::mem::take(&mut to_return) {
                if due > day {
                    later.push((due, paper));
                    continue;
                }
                let at_ms = morning + 5 * 3_600_000 + self.random.below(3_000_000) as i64;
                self.stage(paper, "reassemble", "enter", at_ms, None);
                self.stage(paper, "reassemble", "exit", at_ms + 1000, None);
                self.stage(paper, "returned", "enter", at_ms + 2000, None);
                returned += 1;
                self.books.mm_done += self.papers[paper].mm;
                self.books.units_done += 1;
                self.books.finished = date(day);
            }
            to_return = later;
            send(&mut self.events)?;
            self.events.clear();
            day += 1;
        }
        Ok(())
    }

    fn capture(&mut self, paper: usize, station: usize, images: u64, at_ms: i64) {
        let source = format!("//cjt/station/{}", STATIONS[station]);
        let step = self.size.images_a_file;
        for n in (0..images).step_by(step as usize) {
            let frames = step.min(images - n);
            let bytes = 1_000_000 + self.random.below(500_000);
            let data = json!({
                "unit": self.papers[paper].code, "stage": "scan", "bytes": bytes, "frames": frames, "width_px": 2480,
                "height_px": 3508, "ppi": 300.0, "bits": 8, "samples": 3, "compression": "jpeg", "icc": true,
                "complete": true, "observed_by": "hotfolder",
            });
            self.event("image.captured", &source, at_ms + n as i64 * 200, &data);
        }
        self.books.images += images as i64;
        self.made(at_ms, station, images as i64, 0);
    }

    /// A tenth of the unit is made again, and sometimes a page that was missing comes in.
    fn rescan(&mut self, paper: usize, station: usize, at_ms: i64) -> u64 {
        let source = format!("//cjt/station/{}", STATIONS[station]);
        self.stage(paper, "scan", "enter", at_ms, Some("rework"));
        let files = (self.papers[paper].images / 10).max(1);
        for n in 0..files {
            let more = u64::from(self.random.below(20) == 0);
            let data = json!({
                "unit": self.papers[paper].code, "frames": 1 + more, "frames_before": 1, "station": STATIONS[station],
            });
            self.event("image.replaced", &source, at_ms + n as i64 * 200, &data);
            self.books.images += more as i64;
            self.books.rescanned += 1 + more as i64;
            self.made(at_ms, station, 0, 1 + more as i64);
        }
        self.stage(paper, "scan", "exit", at_ms + 59_000, None);
        files
    }

    fn made(&mut self, at_ms: i64, station: usize, new: i64, again: i64) {
        let day = self.books.by_day.entry(date(at_ms.div_euclid(86_400_000))).or_default();
        (day.0, day.1) = (day.0 + new, day.1 + again);
        *self.books.by_station.entry(STATIONS[station].to_owned()).or_default() += new + again;
    }
}

fn is_working(day: i64) -> bool {
    let (year, month, of_month) = civil(day);
    let holidays = HOLIDAYS.iter().find(|(y, _)| *y == year).map_or(&[][..], |(_, days)| days);
    // 1970-01-01 was a Thursday.
    (day + 3).rem_euclid(7) < 5 && !holidays.contains(&(month, of_month))
}

fn civil(day: i64) -> (i64, i64, i64) {
    let (mut year, mut left) = (1970, day);
    let leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    while left >= 365 + i64::from(leap(year)) {
        left -= 365 + i64::from(leap(year));
        year += 1;
    }
    for (month, days) in (1..).zip([31, 28 + i64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]) {
        if left < days {
            return (year, month, left + 1);
        }
        left -= days;
    }
    unreachable!("a year has twelve months")
}

fn date(day: i64) -> String {
    let (year, month, of_month) = civil(day);
    format!("{year}-{month:02}-{of_month:02}")
}

fn rfc3339(at_ms: i64) -> String {
    let (day, ms) = (at_ms.div_euclid(86_400_000), at_ms.rem_euclid(86_400_000));
    let (seconds, ms) = (ms / 1000, ms % 1000);
    format!("{}T{:02}:{:02}:{:02}.{ms:03}Z", date(day), seconds / 3600, seconds / 60 % 60, seconds % 60)
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // A linear congruential generator (Knuth, MMIX); its high bits are good enough for a year of paper.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn below(&mut self, below: u64) -> u64 {
        self.next() % below
    }

    fn normal(&mut self) -> f64 {
        // A sum of twelve even ones.
        (0..12).map(|_| self.next() as f64 / (1_u64 << 31) as f64).sum::<f64>() - 6.0
    }
}

/// What the collector says, where it differs from the archive's own books.
///
/// # Errors
/// Each difference on a line.
pub fn compare(books: &Books, project: &Value, days: &Value) -> anyhow::Result<()> {
    let mut differences = String::new();
    let mut check = |what: &str, own: Value, theirs: &Value| {
        if own != *theirs {
            writeln!(differences, "{what}: the archive knows {own}, the collector says {theirs}")
                .expect("a string takes every write");
        }
    };
    let progress = &project["progress"];
    check("units", json!(books.units), &progress["scope"]["units"]);
    check("millimetres", json!(books.mm), &progress["scope"]["mm"]);
    check("leaves", json!(books.leaves), &progress["scope"]["sheets"]);
    check("images", json!(books.images), &progress["images"]);
    check("images made again", json!(books.rescanned), &progress["rescanned"]);
    check("millimetres done", json!(books.mm_done), &progress["done"]["mm"]);
    check("units done", json!(books.units_done), &progress["done"]["units"]);
    check("images accepted", json!(books.images), &progress["accepted"]["images"]);
    check("quarantined", json!(0), &progress["quarantined_events"]);
    let looked = books.units as f64;
    let first_pass = progress["first_pass"].as_f64().map(|share| (share * looked).round() as u64);
    check("units accepted at the first look", json!(books.first_pass), &json!(first_pass));
    let rejections: BTreeMap<String, u64> = progress["rework"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|row| (row["reason"].as_str().unwrap_or("").to_owned(), row["count"].as_u64().unwrap_or(0)))
        .collect();
    check("rejections", json!(books.rejections), &json!(rejections));
    let by_day: BTreeMap<String, (i64, i64)> = days["days"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|row| {
            let count = |name: &str| row[name].as_i64().unwrap_or(-1);
            (row["day"].as_str().unwrap_or("").to_owned(), (count("captured"), count("rescanned")))
        })
        .filter(|(_, made)| *made != (0, 0))
        .collect();
    check("images by day", json!(books.by_day), &json!(by_day));
    anyhow::ensure!(differences.is_empty(), "{differences}");
    Ok(())
}
