//! The rows of tables whose numbers are links to what is behind them.
//!
//! Invariant: the count that a link bears is the number itself, as `digitization` counted it.

use super::figure::{fig, way};
use super::page::Words;
use crate::digitization::calendar::Day;
use crate::digitization::pack::{Figures, Growth, Part, ReworkFigures, StageFigures, Tally};
use crate::digitization::progress::{DayRow, Measures, Output, Progress, ReworkRow, StageRow, StationRow};
use crate::digitization::provenance::Of;
use crate::digitization::quality::StratumFaults;
use crate::digitization::settings::OUTSIDE;
use crate::digitization::stage::Stage;
use crate::digitization::strata::Stratum;
use crate::digitization::views::{FlowRow, Shelf, StationDetail};

/// Images of a unit.
pub(super) fn images_of(unit: &str, images: i64, w: Words) -> String {
    fig(w, w.count(images), images, Of::Net, &[("unit", unit)])
}

/// A row of the four measures.
pub(super) struct MeasureRow {
    pub(super) name: String,
    pub(super) done: String,
    pub(super) accepted: String,
    pub(super) scope: String,
    pub(super) share: String,
}

pub(super) fn measures(p: &Progress, w: Words) -> Vec<MeasureRow> {
    let row = |key: &str, measure: &str, value: fn(&Measures) -> i64, text: &dyn Fn(i64) -> String| {
        let (done, accepted, scope) = (value(&p.done), value(&p.accepted), value(&p.scope));
        let link = |of: Of, count: i64| fig(w, text(count), count, of, &[("measure", measure)]);
        let share = (scope > 0 && measure != "images").then(|| done as f64 / scope as f64);
        MeasureRow {
            name: w.t(key),
            done: link(Of::Done, done),
            accepted: link(Of::Accepted, accepted),
            scope: link(Of::Scope, scope),
            // How many images there will be nobody knows before the last: what is scanned is all that there is.
            share: w.percent(share),
        }
    };
    let count = |n: i64| w.count(n);
    vec![
        row("digi-metres", "mm", |m| m.mm as i64, &|mm| w.metres(mm.unsigned_abs())),
        row("digi-units", "units", |m| m.units as i64, &count),
        row("digi-sheets", "sheets", |m| m.sheets as i64, &count),
        row("digi-images", "images", |m| m.images, &count),
    ]
}

/// A week of the burn-up's table.
pub(super) struct WeekLine {
    pub(super) day: Day,
    pub(super) name: String,
    pub(super) metres: String,
    pub(super) images: String,
    pub(super) again: String,
}

pub(super) fn weeks(days: &[DayRow], w: Words) -> Vec<WeekLine> {
    let mut weeks: Vec<(Day, u64, i64, i64)> = Vec::new();
    for row in days {
        let monday = row.day.monday();
        match weeks.last_mut().filter(|week| week.0 == monday) {
            Some(week) => {
                week.1 = row.mm_done_so_far;
                week.2 += row.captured;
                week.3 += row.rescanned;
            }
            None => weeks.push((monday, row.mm_done_so_far, row.captured, row.rescanned)),
        }
    }
    let line = |(monday, mm, images, again): &(Day, u64, i64, i64)| {
        let (from, to) = (monday.to_string(), Day(monday.0 + 6).to_string());
        let days: [(&str, &str); 2] = [("from", from.as_str()), ("to", to.as_str())];
        WeekLine {
            day: *monday,
            name: w.day(*monday),
            metres: fig(w, w.metres(*mm), *mm, Of::Done, &[("measure", "mm"), ("to", to.as_str())]),
            images: fig(w, w.count(*images), *images, Of::Captured, &days),
            again: fig(w, w.count(*again), *again, Of::Rescanned, &days),
        }
    };
    weeks.iter().rev().map(line).collect()
}

/// A stage and what is in it.
pub(super) struct StageLine {
    pub(super) name: String,
    pub(super) waiting: String,
    pub(super) working: String,
    pub(super) held: String,
    pub(super) metres: String,
    pub(super) oldest: String,
    pub(super) days_of_work: String,
    pub(super) is_bottleneck: bool,
}

pub(super) fn stages(p: &Progress, w: Words) -> Vec<StageLine> {
    let shown = p.stages.iter().filter(|row| row.waiting + row.working + row.held > 0);
    let line = |row: &StageRow| {
        let link = |count: u64, doing: &str| {
            fig(w, w.count(count), count, Of::Queue, &[("stage", row.stage.name()), ("doing", doing)])
        };
        StageLine {
            name: w.stage(row.stage),
            waiting: link(row.waiting, "waiting"),
            working: link(row.working, "working"),
            held: link(row.held, "held"),
            metres: match row.stage {
                // What is back there is in no queue for its shelf length.
                Stage::Returned => "–".to_owned(),
                stage => fig(w, w.metres(row.mm), row.mm, Of::Queue, &[("stage", stage.name()), ("measure", "mm")]),
            },
            oldest: row.oldest_days.map_or_else(|| "–".to_owned(), |days| w.count(days)),
            days_of_work: w.optional(row.days_of_work, 1),
            is_bottleneck: p.bottleneck == Some(row.stage),
        }
    };
    shown.map(line).collect()
}

/// Day and four numbers.
pub(super) fn flow<'a>(rows: impl Iterator<Item = &'a FlowRow>, w: Words) -> Vec<(Day, [String; 4])> {
    let line = |row: &FlowRow| {
        let day = row.day.to_string();
        let numbers = [
            (Of::Started, row.started),
            (Of::Scanned, row.scanned),
            (Of::Accepted, row.accepted),
            (Of::Done, row.done),
        ];
        (row.day, numbers.map(|(of, count)| fig(w, w.count(count), count, of, &[("to", day.as_str())])))
    };
    rows.map(line).collect()
}

/// The name of a rack, and units, length, length done, length out.
pub(super) fn shelves(shelves: &[Shelf], w: Words) -> Vec<(String, [String; 4])> {
    let line = |shelf: &Shelf| {
        let mm = |of: Of, mm: u64| match shelf.name.as_str() {
            // Racks beyond those that are shown one by one.
            "…" => w.metres(mm),
            name => fig(w, w.metres(mm), mm, of, &[("measure", "mm"), ("shelf", name)]),
        };
        let units = match shelf.name.as_str() {
            "…" => w.count(shelf.units),
            name => fig(w, w.count(shelf.units), shelf.units, Of::Scope, &[("shelf", name)]),
        };
        let numbers = [units, mm(Of::Scope, shelf.mm), mm(Of::Done, shelf.mm_done), mm(Of::Out, shelf.mm_out)];
        (shelf.name.clone(), numbers)
    };
    shelves.iter().map(line).collect()
}

/// Name, new images, images made again: stations first, then shifts.
pub(super) fn outputs(p: &Progress, w: Words) -> Vec<[String; 3]> {
    let (from, to) = (p.recent_from.to_string(), Day(p.today.0 - 1).to_string());
    let line = |kind: &str, name: String, row: &Output| {
        let link = |of: Of, count: i64| {
            fig(
                w,
                w.count(count),
                count,
                of,
                &[("from", from.as_str()), ("to", to.as_str()), (kind, row.name.as_str())],
            )
        };
        [name, link(Of::Captured, row.captured), link(Of::Rescanned, row.rescanned)]
    };
    let stations = p.by_station.iter().map(|row| line("station", row.name.clone(), row));
    let shift = |name: &str| {
        if name == OUTSIDE { w.t("digi-shift-outside") } else { format!("{} {name}", w.t("digi-shift")) }
    };
    let shifts = p.by_shift.iter().map(|row| line("shift", shift(&row.name), row));
    stations.chain(shifts).collect()
}

/// Reason, how often, open, lost days.
pub(super) fn rework(rows: &[ReworkRow], w: Words) -> Vec<[String; 4]> {
    let line = |row: &ReworkRow| {
        let link = |of: Of, count: u64| fig(w, w.count(count), count, of, &[("reason", row.reason.as_str())]);
        let name = w.reason(&row.reason).to_owned();
        [name, link(Of::Rejections, row.count), link(Of::OpenRejections, row.open), link(Of::LostDays, row.lost_days)]
    };
    rows.iter().map(line).collect()
}

/// Length, and units learned from, of each stratum.
pub(super) fn strata(rows: &[Stratum], w: Words) -> Vec<[String; 2]> {
    let line = |row: &Stratum| {
        let names: [(&str, &str); 2] = [("series", row.series.as_str()), ("binding", row.binding.as_str())];
        let mm = fig(w, w.metres(row.mm), row.mm, Of::Scope, &[("measure", "mm"), names[0], names[1]]);
        [mm, fig(w, w.count(row.learned_from), row.learned_from, Of::Learned, &names)]
    };
    rows.iter().map(line).collect()
}

/// Files that were not whole.
pub(super) fn incomplete(p: &Progress, w: Words) -> String {
    fig(w, w.count(p.incomplete_files), p.incomplete_files, Of::Incomplete, &[])
}

/// The share of first looks that accepted, of late and of all time, as links to those looks.
pub(super) fn first_pass(p: &Progress, w: Words) -> [String; 2] {
    let from = p.recent_from.to_string();
    [
        way(w, w.percent(p.first_pass_lately), Of::FirstLooksGood, &[("from", from.as_str())]),
        way(w, w.percent(p.first_pass), Of::FirstLooksGood, &[]),
    ]
}

/// A fault of a stratum.
pub(super) struct FaultLine {
    pub(super) series: String,
    pub(super) binding: String,
    pub(super) fault: String,
    pub(super) example: Option<String>,
    /// Images, units, units that are not accepted.
    pub(super) numbers: [String; 3],
}

pub(super) fn faults(rows: &[StratumFaults], w: Words) -> Vec<FaultLine> {
    let mut lines = Vec::new();
    for stratum in rows {
        for row in &stratum.faults {
            let [fault, series, binding] = [
                ("fault", row.fault.name()),
                ("series", stratum.series.as_str()),
                ("binding", stratum.binding.as_str()),
            ];
            let link = |count: i64, more: (&str, &str)| {
                fig(w, w.count(count), count, Of::Faults, &[more, fault, series, binding])
            };
            lines.push(FaultLine {
                series: stratum.series.clone(),
                binding: stratum.binding.clone(),
                fault: w.t(&format!("digi-fault-{}", row.fault.name())),
                example: row.example.clone(),
                numbers: [
                    link(row.images, ("measure", "images")),
                    link(row.units as i64, ("measure", "units")),
                    link(row.open_units as i64, ("open", "1")),
                ],
            });
        }
    }
    lines
}

/// Images of a station today.
pub(super) fn today(row: &StationRow, p: &Progress, w: Words) -> String {
    let day = p.today.to_string();
    let pairs: [(&str, &str); 3] = [("from", day.as_str()), ("to", day.as_str()), ("station", row.name.as_str())];
    fig(w, w.count(row.images_today), row.images_today, Of::Made, &pairs)
}

/// Images of a working day of late, as a link to all of them.
pub(super) fn lately(row: &StationRow, p: &Progress, w: Words) -> String {
    let (from, to) = (p.recent_from.to_string(), Day(p.today.0 - 1).to_string());
    way(
        w,
        w.decimal(row.images_a_day, 0),
        Of::Made,
        &[("from", from.as_str()), ("to", to.as_str()), ("station", row.name.as_str())],
    )
}

/// Minutes that a station stood by paper, by a fault, for maintenance.
pub(super) fn stops(detail: &StationDetail, w: Words) -> [String; 3] {
    let (from, to) = (detail.stops_from.to_string(), detail.stops_to.to_string());
    let stops = detail.stops;
    [(Of::Jam, stops.jam_minutes), (Of::Down, stops.down_minutes), (Of::Maintenance, stops.maintenance_minutes)].map(
        |(of, minutes)| {
            fig(
                w,
                w.count(minutes),
                minutes,
                of,
                &[("from", from.as_str()), ("to", to.as_str()), ("station", detail.name.as_str())],
            )
        },
    )
}

/// Numbers of a report, which are those of its last day.
pub(super) struct ReportLinks<'a> {
    pub(super) f: &'a Figures,
    pub(super) w: Words,
    from: String,
    to: String,
}

impl<'a> ReportLinks<'a> {
    pub(super) fn new(f: &'a Figures, w: Words) -> Self {
        Self { f, w, from: f.from.to_string(), to: f.to.to_string() }
    }

    /// In the period, and up to its end.
    pub(super) fn growth(
        &self,
        text: &dyn Fn(i64) -> String,
        of: Of,
        measure: &str,
        growth: Growth,
        value: Part,
    ) -> [String; 2] {
        let (now, so_far) = (value(growth.in_period), value(growth.so_far));
        let until = [("measure", measure), ("as_of", self.to.as_str())];
        [
            fig(self.w, text(now), now, of, &[until[0], until[1], ("from", self.from.as_str())]),
            fig(self.w, text(so_far), so_far, of, &until),
        ]
    }

    pub(super) fn scope(&self, text: String, measure: &str, value: fn(Tally) -> i64) -> String {
        fig(self.w, text, value(self.f.scope), Of::Scope, &[("measure", measure)])
    }

    /// Images of the period, and of every unit up to its end.
    pub(super) fn images(&self) -> [String; 2] {
        let (f, w) = (self.f, self.w);
        [
            fig(w, w.count(f.net), f.net, Of::Net, &[("from", self.from.as_str()), ("to", self.to.as_str())]),
            fig(
                w,
                w.count(f.images_so_far),
                f.images_so_far,
                Of::Scope,
                &[("measure", "images"), ("as_of", self.to.as_str())],
            ),
        ]
    }

    /// Accepted at the first look, and first looks.
    pub(super) fn first_looks(&self) -> [String; 2] {
        let days: [(&str, &str); 2] = [("from", self.from.as_str()), ("as_of", self.to.as_str())];
        let (all, good) = self.f.first_looks;
        [
            fig(self.w, self.w.count(good), good, Of::FirstLooksGood, &days),
            fig(self.w, self.w.count(all), all, Of::FirstLooks, &days),
        ]
    }

    /// New, again, net, metres, metres so far of a day; `metres` writes the last two.
    pub(super) fn day(&self, place: usize, metres: &dyn Fn(i64) -> String) -> [String; 5] {
        let (w, day) = (self.w, &self.f.days[place]);
        let name = day.day.to_string();
        let days: [(&str, &str); 2] = [("from", name.as_str()), ("to", name.as_str())];
        let images = |of: Of, count: i64| fig(w, w.count(count), count, of, &days);
        let (mm, as_of) = (("measure", "mm"), ("as_of", self.to.as_str()));
        [
            images(Of::Captured, day.captured),
            images(Of::Rescanned, day.rescanned),
            images(Of::Net, day.net),
            fig(w, metres(day.mm_done), day.mm_done, Of::Done, &[mm, as_of, days[0], days[1]]),
            fig(w, metres(day.mm_done_so_far), day.mm_done_so_far, Of::Done, &[mm, as_of, days[1]]),
        ]
    }

    /// Waiting, working, held, metres of each stage.
    pub(super) fn stages(&self) -> Vec<(Stage, [String; 4])> {
        let w = self.w;
        let line = |row: &StageFigures| {
            let (stage, as_of) = (("stage", row.stage.name()), ("as_of", self.to.as_str()));
            let link =
                |count: i64, doing: &str| fig(w, w.count(count), count, Of::Queue, &[stage, as_of, ("doing", doing)]);
            let mm = fig(w, w.mm(row.mm), row.mm, Of::Queue, &[stage, as_of, ("measure", "mm")]);
            (row.stage, [link(row.waiting, "waiting"), link(row.working, "working"), link(row.held, "held"), mm])
        };
        self.f.stages.iter().map(line).collect()
    }

    /// Name, and new, again, jam, down, maintenance: stations first, then shifts, which `shift` names.
    pub(super) fn outputs(&self, shift: &str) -> Vec<(String, [String; 5])> {
        let w = self.w;
        let mut lines = Vec::new();
        for (kind, rows) in [("station", &self.f.stations), ("shift", &self.f.shifts)] {
            for row in rows {
                let period: [(&str, &str); 3] =
                    [("from", self.from.as_str()), ("to", self.to.as_str()), (kind, row.name.as_str())];
                let link = |of: Of, count: i64| fig(w, w.count(count), count, of, &period);
                let [jam, down, maintenance] = row.stops.map_or_else(
                    || ["–", "–", "–"].map(str::to_owned),
                    |stops| {
                        [
                            link(Of::Jam, stops.jam_minutes.into()),
                            link(Of::Down, stops.down_minutes.into()),
                            link(Of::Maintenance, stops.maintenance_minutes.into()),
                        ]
                    },
                );
                let name = if kind == "shift" { format!("{shift} {}", row.name) } else { row.name.clone() };
                let numbers =
                    [link(Of::Captured, row.captured), link(Of::Rescanned, row.rescanned), jam, down, maintenance];
                lines.push((name, numbers));
            }
        }
        lines
    }

    /// Reason, rejections, open, lost days.
    pub(super) fn rework(&self) -> Vec<[String; 4]> {
        let w = self.w;
        let line = |row: &ReworkFigures| {
            let (reason, as_of, from) =
                (("reason", row.reason.as_str()), ("as_of", self.to.as_str()), ("from", self.from.as_str()));
            let link = |of: Of, count: i64, pairs: &[(&str, &str)]| fig(w, w.count(count), count, of, pairs);
            [
                w.reason(&row.reason).to_owned(),
                link(Of::Rejections, row.count, &[reason, as_of, from]),
                link(Of::OpenRejections, row.open, &[reason, as_of]),
                link(Of::LostDays, row.lost_days, &[reason, as_of, from]),
            ]
        };
        self.f.rework.iter().map(line).collect()
    }

    /// Billed images of the period, and up to its end.
    pub(super) fn billed(&self) -> [String; 2] {
        let (billing, days) = (&self.f.billing, [("to", self.to.as_str()), ("from", self.from.as_str())]);
        [
            fig(self.w, self.w.count(billing.billed), billing.billed, Of::Billed, &days),
            fig(self.w, self.w.count(billing.billed_so_far), billing.billed_so_far, Of::Billed, &days[..1]),
        ]
    }

    /// Accepted images of the period, and up to its end.
    pub(super) fn accepted(&self) -> [String; 2] {
        self.growth(&|n| self.w.count(n), Of::Accepted, "images", self.f.accepted, |tally| tally.images)
    }
}
