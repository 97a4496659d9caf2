//! A report as lines of `section;item;measure;value`: a byte-order mark and semicolons, as spreadsheets of the country
//! expect, the comma in Romanian numbers, the point in English ones.
//!
//! Invariant: no value begins with what a spreadsheet takes for a formula.

use super::words as w;
use super::{Figures, Growth, Language, Paper, Part};

struct Lines {
    text: String,
    language: Language,
}

impl Lines {
    fn line(&mut self, section: &str, item: &str, measure: &str, value: &str) {
        let fields: Vec<String> = [section, item, measure, value].into_iter().map(field).collect();
        self.text.push_str(&fields.join(";"));
        self.text.push_str("\r\n");
    }

    /// A number, which needs no quotes and is no formula, also where it is below 0.
    fn number(&mut self, section: &str, item: &str, measure: &str, value: &str) {
        let fields = [section, item, measure].map(field);
        for part in fields.iter().map(String::as_str) {
            self.text.push_str(part);
            self.text.push(';');
        }
        self.text.push_str(value);
        self.text.push_str("\r\n");
    }

    fn count(&mut self, section: &str, item: &str, measure: &str, value: i64) {
        self.number(section, item, measure, &value.to_string());
    }

    fn metres(&mut self, section: &str, item: &str, measure: &str, mm: i64) {
        let value = self.language.decimal(mm as f64 / 1000.0, 3);
        self.number(section, item, measure, &value);
    }
}

fn field(text: &str) -> String {
    let text = if text.starts_with(['=', '+', '-', '@', '\t']) { format!("'{text}") } else { text.to_owned() };
    if text.contains([';', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

pub(super) fn write(paper: &Paper, language: Language) -> String {
    let f = paper.figures();
    let t = |word: w::Word| language.of(word);
    let mut out = Lines { text: "\u{feff}".to_owned(), language };
    out.line("section", "item", "measure", "value");
    let section = t(w::REPORT);
    out.line(section, "", t(w::PERIOD), &f.period.to_string());
    out.line(section, "", t(w::FROM), &f.from.to_string());
    out.line(section, "", t(w::TO), &f.to.to_string());
    out.count(section, "", t(w::WORKING_DAYS), f.working_days);
    out.count(section, "", t(w::BASELINE), f.baseline.into());
    match paper.issued() {
        Some(issued) => {
            out.count(section, "", t(w::NUMBER), issued.number as i64);
            out.line(section, "", t(w::DIGEST), &issued.digest);
            out.line(section, "", t(w::PREVIOUS), &issued.previous);
        }
        None => out.line(section, "", t(w::ISSUED), t(w::DRAFT)),
    }
    summary(&mut out, f);
    for day in &f.days {
        let (section, item) = (t(w::DAYS), day.day.to_string());
        out.count(section, &item, t(w::NEW_IMAGES), day.captured);
        out.count(section, &item, t(w::AGAIN), day.rescanned);
        out.count(section, &item, t(w::NET_IMAGES), day.net);
        out.metres(section, &item, t(w::METRES), day.mm_done);
        out.metres(section, &item, t(w::METRES_SO_FAR), day.mm_done_so_far);
    }
    for row in &f.stages {
        let (section, item) = (t(w::STAGES), language.stage(row.stage));
        out.count(section, item, t(w::WAITING), row.waiting);
        out.count(section, item, t(w::WORKING), row.working);
        out.count(section, item, t(w::HELD), row.held);
        out.metres(section, item, t(w::METRES), row.mm);
    }
    for (section, rows) in [(t(w::STATIONS), &f.stations), (t(w::SHIFT), &f.shifts)] {
        for row in rows {
            out.count(section, &row.name, t(w::NEW_IMAGES), row.captured);
            out.count(section, &row.name, t(w::AGAIN), row.rescanned);
            if let Some(stops) = row.stops {
                out.count(section, &row.name, t(w::JAM), stops.jam_minutes.into());
                out.count(section, &row.name, t(w::DOWN), stops.down_minutes.into());
                out.count(section, &row.name, t(w::MAINTENANCE), stops.maintenance_minutes.into());
            }
        }
    }
    for row in &f.rework {
        let reason = language.reason(&row.reason);
        out.count(t(w::REWORK), reason, t(w::REJECTIONS), row.count);
        out.count(t(w::REWORK), reason, t(w::OPEN), row.open);
        out.count(t(w::REWORK), reason, t(w::LOST_DAYS), row.lost_days);
    }
    for row in &f.billing.invoices {
        out.count(t(w::BILLING), &format!("{} {}", row.day, row.invoice), t(w::BILLED), row.images);
    }
    for row in &f.corrections {
        let item = format!("{} / {} / {}", row.booked, row.own, row.kind);
        out.count(t(w::CORRECTIONS), &item, t(w::EVENTS), row.events as i64);
        out.count(t(w::CORRECTIONS), &item, t(w::NEW_IMAGES), row.captured);
        out.count(t(w::CORRECTIONS), &item, t(w::AGAIN), row.rescanned);
        out.count(t(w::CORRECTIONS), &item, t(w::NET_IMAGES), row.net);
    }
    out.text
}

fn summary(out: &mut Lines, f: &Figures) {
    let language = out.language;
    let t = |word: w::Word| language.of(word);
    let section = t(w::SUMMARY);
    out.metres(section, t(w::SCOPE), t(w::METRES), f.scope.mm);
    out.count(section, t(w::SCOPE), t(w::UNITS), f.scope.units);
    let rows: [(w::Word, Growth, Part); 6] = [
        (w::UNITS_DONE, f.done, |tally| tally.units),
        (w::SHEETS_DONE, f.done, |tally| tally.sheets),
        (w::IMAGES_DONE, f.done, |tally| tally.images),
        (w::UNITS_SCANNED, f.scanned, |tally| tally.units),
        (w::UNITS_ACCEPTED, f.accepted, |tally| tally.units),
        (w::IMAGES_ACCEPTED, f.accepted, |tally| tally.images),
    ];
    for (word, growth) in [(w::IN_PERIOD, f.done.in_period), (w::SO_FAR, f.done.so_far)] {
        out.metres(section, t(word), t(w::METRES_DONE), growth.mm);
    }
    for (name, growth, value) in rows {
        out.count(section, t(w::IN_PERIOD), t(name), value(growth.in_period));
        out.count(section, t(w::SO_FAR), t(name), value(growth.so_far));
    }
    out.count(section, t(w::IN_PERIOD), t(w::NEW_IMAGES), f.captured);
    out.count(section, t(w::IN_PERIOD), t(w::AGAIN), f.rescanned);
    out.count(section, t(w::IN_PERIOD), t(w::NET_IMAGES), f.net);
    out.count(section, t(w::SO_FAR), t(w::IMAGES), f.images_so_far);
    out.line(
        section,
        t(w::IN_PERIOD),
        t(w::FIRST_PASS),
        &format!("{} {} {}", f.first_looks.1, t(w::OF), f.first_looks.0),
    );
    if let Some(forecast) = &f.forecast {
        for (name, day) in [("P50", forecast.p50), ("P85", forecast.p85), ("P95", forecast.p95)] {
            out.line(section, name, t(w::FORECAST), &day.to_string());
        }
    }
    if let Some(plan) = &f.plan {
        out.line(section, "", t(w::PLAN), &plan.finish.to_string());
        out.metres(section, "", t(w::PLANNED), plan.mm_planned);
        let ahead = language.decimal(plan.days_ahead, 1);
        out.number(section, "", t(w::AHEAD), &ahead);
        if let Some(spi) = plan.spi {
            out.number(section, "", t(w::SPI), &language.decimal(spi, 2));
        }
    }
    for (item, billed, accepted) in [
        (w::IN_PERIOD, f.billing.billed, f.billing.accepted),
        (w::SO_FAR, f.billing.billed_so_far, f.billing.accepted_so_far),
    ] {
        out.count(t(w::BILLING), t(item), t(w::BILLED), billed);
        out.count(t(w::BILLING), t(item), t(w::IMAGES_ACCEPTED), accepted);
        out.count(t(w::BILLING), t(item), t(w::DIFFERENCE), billed - accepted);
    }
}
