//! More charts as SVG: cumulative flow, the shelf map, rankings, and lines small enough for a table.
//!
//! Invariant: as in `chart`.

use super::chart::{Frame, LEFT, RIGHT, WIDTH, escaped, opened, push};
use crate::digitization::views::{FlowRow, Shelf};

/// Racks in a row of the map.
const MAP_COLUMNS: usize = 10;

/// Units by how far they were at the end of each week: one band for each stretch, numbered from the widest.
pub(super) fn flow(
    rows: &[FlowRow],
    all: u64,
    label: &str,
    names: &[String; 4],
    number: &impl Fn(f64) -> String,
) -> String {
    let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return String::new() };
    let frame = Frame {
        first: first.day.0.into(),
        days: f64::from((last.day.0 - first.day.0).max(1)) * 1.02,
        most: (all.max(1) as f64) * 1.08,
    };
    let mut svg = opened(label);
    svg += &frame.axes(number, &|day| day.to_string());
    let bands: [fn(&FlowRow) -> u64; 4] = [|row| row.started, |row| row.scanned, |row| row.accepted, |row| row.done];
    for (place, band) in bands.iter().enumerate() {
        let points = rows.iter().fold(String::new(), |mut points, row| {
            push(&mut points, format_args!("{:.1},{:.1} ", frame.x(row.day), frame.y(band(row) as f64)));
            points
        });
        let (x0, x1, base) = (frame.x(first.day), frame.x(last.day), frame.y(0.0));
        push(
            &mut svg,
            format_args!(
                "<polygon class=\"band band{place}\" points=\"{x0:.1},{base:.1} {points}{x1:.1},{base:.1}\"/>"
            ),
        );
    }
    // A key where no band is: in the corner of the first weeks.
    for (place, name) in names.iter().enumerate() {
        let y = 20.0 + place as f64 * 19.0;
        push(
            &mut svg,
            format_args!(
                "<rect class=\"key band{place}\" x=\"{:.1}\" y=\"{y:.1}\" width=\"14\" height=\"12\"/>\
                 <text class=\"name\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                LEFT + 10.0,
                LEFT + 30.0,
                y + 10.0,
                escaped(&format!("{}. {name}", place + 1))
            ),
        );
    }
    svg + "</svg>"
}

/// Racks as boxes in order of their names, filled as far as they are done; what is out is hatched by its own outline.
pub(super) fn shelves(shelves: &[Shelf], label: &str) -> String {
    if shelves.is_empty() {
        return String::new();
    }
    let width = (WIDTH - 8.0) / MAP_COLUMNS as f64;
    let (height, gap) = (46.0, 6.0);
    let rows = shelves.len().div_ceil(MAP_COLUMNS);
    let mut svg = format!(
        "<svg class=\"chart map\" viewBox=\"0 0 {WIDTH} {:.0}\" role=\"img\" aria-label=\"{}\">",
        rows as f64 * (height + gap) + 4.0,
        escaped(label)
    );
    for (place, shelf) in shelves.iter().enumerate() {
        let (x, y) = (4.0 + (place % MAP_COLUMNS) as f64 * width, 4.0 + (place / MAP_COLUMNS) as f64 * (height + gap));
        let inner = width - gap;
        let part = |mm: u64| mm as f64 / shelf.mm.max(1) as f64 * inner;
        let (done, out) = (part(shelf.mm_done), part(shelf.mm_out));
        let name = if shelf.name.is_empty() { "–" } else { &shelf.name };
        push(
            &mut svg,
            format_args!(
                "<rect class=\"rack\" x=\"{x:.1}\" y=\"{:.1}\" width=\"{inner:.1}\" height=\"24\"/>\
                 <rect class=\"filled\" x=\"{x:.1}\" y=\"{:.1}\" width=\"{done:.1}\" height=\"24\"/>\
                 <rect class=\"out\" x=\"{:.1}\" y=\"{:.1}\" width=\"{out:.1}\" height=\"24\"/>\
                 <text class=\"name\" x=\"{x:.1}\" y=\"{:.1}\">{}</text>",
                y + 18.0,
                y + 18.0,
                x + done,
                y + 18.0,
                y + 12.0,
                escaped(&name.chars().take(9).collect::<String>()),
            ),
        );
    }
    svg + "</svg>"
}

/// Bars by length, longest first, each with its name and number.
pub(super) fn ranking(rows: &[(String, i64)], label: &str, text: impl Fn(i64) -> String) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let most = rows.iter().map(|(_, value)| *value).max().unwrap_or(0).max(1) as f64;
    let height = rows.len() as f64 * 26.0 + 8.0;
    let left = LEFT + 110.0;
    let mut svg = format!(
        "<svg class=\"chart\" viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" aria-label=\"{}\">",
        escaped(label)
    );
    for (place, (name, value)) in rows.iter().enumerate() {
        let y = 6.0 + place as f64 * 26.0;
        let width = (*value).max(0) as f64 / most * (WIDTH - left - RIGHT - 60.0);
        push(
            &mut svg,
            format_args!(
                "<text class=\"name\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
                 <rect class=\"new\" x=\"{left}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"18\"/>\
                 <text class=\"name\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                left - 8.0,
                y + 14.0,
                escaped(name),
                left + width + 6.0,
                y + 14.0,
                escaped(&text(*value))
            ),
        );
    }
    svg + "</svg>"
}

/// A line for a cell of a table; nothing of fewer than two values.
pub(super) fn sparkline(values: &[f64], label: &str) -> String {
    if values.len() < 2 {
        return String::new();
    }
    let most = values.iter().copied().fold(0.0_f64, f64::max).max(1e-9);
    let step = 116.0 / (values.len() - 1) as f64;
    let points = values.iter().enumerate().fold(String::new(), |mut points, (place, value)| {
        push(&mut points, format_args!("{:.1},{:.1} ", 2.0 + place as f64 * step, 26.0 - value / most * 24.0));
        points
    });
    format!(
        "<svg class=\"spark\" viewBox=\"0 0 120 28\" role=\"img\" aria-label=\"{}\"><polyline class=\"done\" points=\"{points}\"/></svg>",
        escaped(label)
    )
}

/// The last weeks, newest first, for the table.
pub(super) fn last_weeks(rows: &[FlowRow]) -> impl Iterator<Item = &FlowRow> {
    rows.iter().rev().take(16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charts_escape_what_is_not_theirs_and_nothing_draws_nothing() {
        let shelf = |name: &str| Shelf { name: name.to_owned(), units: 1, mm: 0, mm_done: 0, mm_out: 0 };
        let map = shelves(&[shelf("<b>&\"x"), shelf("")], "a \"map\"");
        assert!(
            map.contains("&lt;b&gt;&amp;&quot;x") && map.contains("a &quot;map&quot;") && !map.contains("NaN"),
            "{map}"
        );
        let ranked = ranking(&[("<i>".to_owned(), 0)], "r", |n| n.to_string());
        assert!(ranked.contains("&lt;i&gt;") && !ranked.contains("NaN"), "{ranked}");
        let names = ["a", "b", "c", "d"].map(str::to_owned);
        assert_eq!(
            flow(&[], 5, "f", &names, &|n| n.to_string())
                + &shelves(&[], "s")
                + &ranking(&[], "r", |n| n.to_string())
                + &sparkline(&[1.0], "x"),
            ""
        );
        let row = FlowRow { day: "2026-05-10".parse().expect("day"), started: 4, scanned: 3, accepted: 3, done: 3 };
        let drawn = flow(&[row], 5, "f", &names, &|n| n.to_string());
        assert!(drawn.contains("4. d") && !drawn.contains("NaN"), "{drawn}");
    }
}
