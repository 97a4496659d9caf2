//! The charts of the project page as SVG: shelf length done with the forecast's fan, and images by day.
//!
//! Invariant: nothing but numbers and our own words goes in, escaped; nothing is told by colour alone, lines differ in
//! their dashes too.

use std::fmt::Write as _;

use crate::digitization::calendar::Day;
use crate::digitization::forecast::Forecast;
use crate::digitization::progress::{DayRow, Progress};
use crate::digitization::settings::Plan;

pub(super) const WIDTH: f64 = 760.0;
pub(super) const HEIGHT: f64 = 320.0;
pub(super) const LEFT: f64 = 52.0;
pub(super) const RIGHT: f64 = 12.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 34.0;
/// What the name of a day takes, with what sets it apart from the next.
const MARK_WIDTH: f64 = 100.0;
/// Days of the chart of images.
const OUTPUT_DAYS: usize = 91;

/// What the charts say in words.
pub(super) struct Labels {
    pub(super) burn_up: String,
    pub(super) scope: String,
    pub(super) done: String,
    pub(super) plan: String,
    pub(super) output: String,
}

pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A place for days and values.
pub(super) struct Frame {
    pub(super) first: f64,
    pub(super) days: f64,
    pub(super) most: f64,
}

impl Frame {
    pub(super) fn x(&self, day: Day) -> f64 {
        LEFT + (f64::from(day.0) - self.first) / self.days * (WIDTH - LEFT - RIGHT)
    }

    pub(super) fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - value / self.most * (HEIGHT - TOP - BOTTOM)
    }

    /// Lines at round values, and the first days of months.
    pub(super) fn axes(&self, value_text: &impl Fn(f64) -> String, day_text: &impl Fn(Day) -> String) -> String {
        let mut svg = String::new();
        let rough = self.most / 4.0;
        let magnitude = 10_f64.powf(rough.max(1e-9).log10().floor());
        let step =
            [1.0, 2.0, 5.0, 10.0].into_iter().map(|n| n * magnitude).find(|step| *step >= rough).unwrap_or(rough);
        let mut value = 0.0;
        let mut before = String::new();
        while value <= self.most {
            let y = self.y(value);
            let text = escaped(&value_text(value));
            value += step;
            // Where steps are finer than what is written of them.
            if text == before {
                continue;
            }
            before.clone_from(&text);
            push(
                &mut svg,
                format_args!(
                    "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><text class=\"tick\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>",
                    WIDTH - RIGHT,
                    LEFT - 6.0,
                    y + 4.0
                ),
            );
        }
        // Of few days the Mondays; of many the first of every month, second month, ... , whose names have room.
        let day_width = (WIDTH - LEFT - RIGHT) / self.days;
        let has_room = |months: &i32| f64::from(*months) * 28.0 * day_width > MARK_WIDTH;
        let months = [1, 2, 3, 4, 6, 12, 24, 60, 120].into_iter().find(has_room).unwrap_or(240);
        let is_first = |day: Day| {
            let date = day.date();
            date.day() == 1 && (i32::from(date.year()) * 12 + i32::from(date.month()) - 1) % months == 0
        };
        let mut last = f64::NEG_INFINITY;
        for day in (self.first as i32..=(self.first + self.days) as i32).map(Day) {
            let x = self.x(day);
            let is_marked = if self.days <= 62.0 { day.weekday() == 0 } else { is_first(day) };
            if is_marked && x - last > MARK_WIDTH && x < WIDTH - 40.0 {
                let text = escaped(&day_text(day));
                push(
                    &mut svg,
                    format_args!(
                        "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{}\"/><text class=\"tick\" x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{text}</text>",
                        HEIGHT - BOTTOM,
                        HEIGHT - BOTTOM + 18.0
                    ),
                );
                last = x;
            }
        }
        svg
    }
}

pub(super) fn push(svg: &mut String, part: std::fmt::Arguments<'_>) {
    svg.write_fmt(part).expect("invariant: a string takes every write");
}

pub(super) fn opened(label: &str) -> String {
    let label = escaped(label);
    format!("<svg class=\"chart\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{label}\">")
}

/// Shelf length done by day, the scope, the plan, and from today on the fan to the days of the forecast.
pub(super) fn burn_up(
    p: &Progress,
    forecast: Option<&Forecast>,
    plan: Option<Plan>,
    labels: &Labels,
    value_text: impl Fn(f64) -> String,
    day_text: impl Fn(Day) -> String,
) -> String {
    let first = p.days.first().map_or(p.today, |row| row.day).min(plan.map_or(p.today, |plan| plan.from));
    let forecast = forecast.filter(|_| p.done.units < p.scope.units);
    let end = [Some(p.today), forecast.map(|f| f.p95), plan.map(|plan| plan.finish)].into_iter().flatten().max();
    let end = end.unwrap_or(p.today);
    let scope = (p.scope.mm as f64).max(1.0);
    let frame = Frame { first: first.0.into(), days: f64::from((end.0 - first.0).max(1)) * 1.02, most: scope * 1.08 };
    let mut svg = opened(&labels.burn_up);
    svg += &frame.axes(&value_text, &day_text);
    let scope_y = frame.y(scope);
    push(
        &mut svg,
        format_args!(
            "<line class=\"scope\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{scope_y:.1}\" y2=\"{scope_y:.1}\"/>",
            WIDTH - RIGHT
        ),
    );
    push(
        &mut svg,
        format_args!(
            "<text class=\"name\" x=\"{}\" y=\"{:.1}\">{}</text>",
            LEFT + 6.0,
            scope_y - 5.0,
            escaped(&labels.scope)
        ),
    );
    if let Some(plan) = plan {
        let (x1, x2) = (frame.x(plan.from), frame.x(plan.finish));
        push(
            &mut svg,
            format_args!(
                "<line class=\"plan\" x1=\"{x1:.1}\" x2=\"{x2:.1}\" y1=\"{:.1}\" y2=\"{scope_y:.1}\"/>",
                frame.y(0.0)
            ),
        );
        push(
            &mut svg,
            format_args!(
                "<text class=\"name\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                f64::midpoint(x1, x2) - 8.0,
                f64::midpoint(frame.y(0.0), scope_y),
                escaped(&labels.plan)
            ),
        );
    }
    let (today_x, now_y) = (frame.x(p.today), frame.y(p.done.mm as f64));
    if let Some(forecast) = forecast {
        let x = [forecast.p50, forecast.p85, forecast.p95].map(|day| frame.x(day));
        push(
            &mut svg,
            format_args!(
                "<polygon class=\"fan\" points=\"{today_x:.1},{now_y:.1} {:.1},{scope_y:.1} {:.1},{scope_y:.1}\"/>",
                x[0], x[2]
            ),
        );
        for ((x, name), class) in x.into_iter().zip(["P50", "P85", "P95"]).zip(["p50", "p85", "p95"]) {
            push(
                &mut svg,
                format_args!(
                    "<line class=\"{class}\" x1=\"{today_x:.1}\" x2=\"{x:.1}\" y1=\"{now_y:.1}\" y2=\"{scope_y:.1}\"/>"
                ),
            );
            if name == "P85" {
                push(
                    &mut svg,
                    format_args!(
                        "<text class=\"name\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">P85</text>",
                        scope_y - 5.0
                    ),
                );
            }
        }
    }
    svg += "<polyline class=\"done\" points=\"";
    let mut last = None;
    for row in &p.days {
        let y = frame.y(row.mm_done_so_far as f64);
        if last != Some(row.mm_done_so_far) {
            push(&mut svg, format_args!("{:.1},{y:.1} ", frame.x(row.day)));
            last = Some(row.mm_done_so_far);
        }
    }
    push(&mut svg, format_args!("{today_x:.1},{now_y:.1}\"/>"));
    let anchor = if today_x > WIDTH / 2.0 { "end" } else { "start" };
    push(
        &mut svg,
        format_args!(
            "<text class=\"name\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>",
            if anchor == "end" { today_x - 8.0 } else { today_x + 8.0 },
            now_y + if anchor == "end" { -8.0 } else { 16.0 },
            escaped(&labels.done)
        ),
    );
    svg + "</svg>"
}

/// Images of each of the last days; what was made again stands on top.
pub(super) fn output(
    days: &[DayRow],
    labels: &Labels,
    value_text: impl Fn(f64) -> String,
    day_text: impl Fn(Day) -> String,
) -> String {
    let days = &days[days.len().saturating_sub(OUTPUT_DAYS)..];
    bars(days.iter().map(|row| (row.day, row.captured, row.rescanned)), &labels.output, value_text, day_text)
}

/// New images of each day, and what was made again on top.
pub(super) fn bars(
    days: impl Iterator<Item = (Day, i64, i64)>,
    label: &str,
    value_text: impl Fn(f64) -> String,
    day_text: impl Fn(Day) -> String,
) -> String {
    let days: Vec<(Day, i64, i64)> = days.collect();
    let Some((first, _, _)) = days.first() else { return String::new() };
    let most = days.iter().map(|(_, new, again)| new + again).max().unwrap_or(0).max(1);
    let frame = Frame { first: first.0.into(), days: days.len() as f64, most: most as f64 * 1.05 };
    let mut svg = opened(label);
    svg += &frame.axes(&value_text, &day_text);
    let width = (WIDTH - LEFT - RIGHT) / days.len() as f64 * 0.8;
    for (day, captured, rescanned) in days {
        let (x, base) = (frame.x(day), frame.y(0.0));
        let (new, all) = (frame.y(captured.max(0) as f64), frame.y((captured + rescanned).max(0) as f64));
        if captured > 0 {
            push(
                &mut svg,
                format_args!(
                    "<rect class=\"new\" x=\"{x:.1}\" y=\"{new:.1}\" width=\"{width:.1}\" height=\"{:.1}\"/>",
                    base - new
                ),
            );
        }
        if rescanned > 0 {
            push(
                &mut svg,
                format_args!(
                    "<rect class=\"again\" x=\"{x:.1}\" y=\"{all:.1}\" width=\"{width:.1}\" height=\"{:.1}\"/>",
                    new - all
                ),
            );
        }
    }
    svg + "</svg>"
}

/// Shelf length done by day against the whole of it.
pub(super) fn line(
    points: &[(Day, i64)],
    whole_mm: i64,
    label: &str,
    whole: &str,
    value_text: impl Fn(f64) -> String,
) -> String {
    let (Some((first, _)), Some((last, _))) = (points.first(), points.last()) else { return String::new() };
    let most = (whole_mm as f64).max(1.0);
    let frame = Frame { first: first.0.into(), days: f64::from((last.0 - first.0).max(1)) * 1.02, most: most * 1.08 };
    let mut svg = opened(label);
    svg += &frame.axes(&value_text, &|day| day.to_string());
    let (y, right) = (frame.y(most), WIDTH - RIGHT);
    push(&mut svg, format_args!("<line class=\"scope\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>"));
    push(
        &mut svg,
        format_args!("<text class=\"name\" x=\"{}\" y=\"{:.1}\">{}</text>", LEFT + 6.0, y - 5.0, escaped(whole)),
    );
    svg += "<polyline class=\"done\" points=\"";
    for (day, mm) in points {
        push(&mut svg, format_args!("{:.1},{:.1} ", frame.x(*day), frame.y(*mm as f64)));
    }
    svg + "\"/></svg>"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_marked_at_even_distances_whatever_the_lengths_of_months() {
        for (days, months) in [(90.0, 1), (180.0, 1), (200.0, 2), (400.0, 3), (6900.0, 60)] {
            let first: Day = "2026-05-04".parse().expect("day");
            let frame = Frame { first: first.0.into(), days, most: 10.0 };
            let svg = frame.axes(&|n| n.to_string(), &|day| format!("day {day}"));
            let marks = svg.split("day ").skip(1).map(|rest| rest.split('<').next().expect("a day"));
            let marks: Vec<i32> = marks
                .map(|day| day.parse::<Day>().expect("a day").date())
                .map(|date| i32::from(date.year()) * 12 + i32::from(date.month()))
                .collect();
            assert!(marks.len() >= 2, "{days}: {marks:?}");
            assert!(marks.windows(2).all(|two| two[1] - two[0] == months), "{days}: {marks:?}");
        }
    }
}
