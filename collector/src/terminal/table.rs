//! How the value of a query looks: a table with a sparkline per series for a person, lines for a program.
//!
//! Invariant: no text of a label reaches a terminal as a control character.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{self, Write};

use serde_json::json;

use super::{Answer, AnswerSeries};

/// How a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// A table, with a sparkline for each series of a range
    Table,
    /// A line per point, separated by tabs
    Tsv,
    /// A line per point, separated by commas
    Csv,
    /// As Prometheus' API writes it
    Json,
}

/// A cell of the table is cut to this many characters.
const CELL_CHARS: usize = 48;
/// Characters of a sparkline.
const SPARK_CHARS: usize = 40;
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Writes `answer`.
///
/// # Errors
/// Where `out` takes nothing.
pub fn write(answer: &Answer, output: Output, out: &mut dyn Write) -> io::Result<()> {
    match output {
        Output::Table => out.write_all(table(answer).as_bytes()),
        Output::Tsv => lines(answer, out, '\t', tsv),
        Output::Csv => lines(answer, out, ',', csv),
        Output::Json => writeln!(out, "{}", tree(answer)),
    }
}

fn table(answer: &Answer) -> String {
    let is_range = answer.kind == "matrix";
    if answer.series.is_empty() {
        return "No series has a value there.\n".to_owned();
    }
    let (common, columns) = split(&answer.series);
    let mut text = String::new();
    if !common.is_empty() && answer.series.len() > 1 {
        let pairs: Vec<String> = common.iter().map(|(name, value)| format!("{name}={}", cell(value))).collect();
        writeln!(text, "all: {}\n", pairs.join(", ")).expect("invariant: a string takes every write");
    }
    let columns: Vec<&str> = if answer.series.len() > 1 { columns } else { common.keys().copied().collect() };
    let heading = |name: &str| if name == "__name__" { "METRIC".to_owned() } else { cell(name) };
    let mut rows: Vec<Vec<String>> = vec![columns.iter().map(|name| heading(name)).collect()];
    let numbers: &[&str] = if is_range { &["MIN", "MAX", "LAST"] } else { &["VALUE"] };
    rows[0].extend(numbers.iter().map(|&name| name.to_owned()));
    for series in &answer.series {
        let label = |name: &&str| series.labels.get(*name).map_or_else(String::new, |value| cell(value));
        let mut row: Vec<String> = columns.iter().map(label).collect();
        let last = series.points.last().map_or("", |(_, value)| value);
        if is_range {
            let finite = || values(series).map(|(_, value)| value);
            let shown = |value: f64| if value.is_finite() { short(value) } else { "-".to_owned() };
            row.push(shown(finite().fold(f64::INFINITY, f64::min)));
            row.push(shown(finite().fold(f64::NEG_INFINITY, f64::max)));
            row.push(last.parse().map_or_else(|_| cell(last), short));
        } else {
            row.push(if answer.kind == "string" { escape(last) } else { cell(last) });
        }
        rows.push(row);
    }
    let widths: Vec<usize> = (0..rows[0].len())
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    let span = span(&answer.series);
    for (at, row) in rows.iter().enumerate() {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = widths[column];
            // Numbers to the right, labels to the left.
            let cell = if column >= columns.len() { format!("{cell:>width$}") } else { format!("{cell:width$}") };
            line += if column == 0 { "" } else { "  " };
            line += &cell;
        }
        if is_range && at > 0 {
            line += "  ";
            line += &sparkline(&answer.series[at - 1], span);
        }
        text += line.trim_end();
        text.push('\n');
    }
    if is_range && span.1 > span.0 {
        let date = |ms| jiff::Timestamp::from_millisecond(ms).map_or_else(|_outside| String::new(), |t| t.to_string());
        writeln!(text, "\n{} to {}", date(span.0), date(span.1)).expect("invariant: a string takes every write");
    }
    text
}

/// Labels that are the same in every series, and the names of the others; the metric's name first.
fn split(series: &[AnswerSeries]) -> (BTreeMap<&str, &str>, Vec<&str>) {
    let names: BTreeSet<&str> = series.iter().flat_map(|series| series.labels.keys().map(String::as_str)).collect();
    let (mut common, mut columns) = (BTreeMap::new(), Vec::new());
    for name in names {
        let first = series.first().and_then(|series| series.labels.get(name));
        match first.filter(|_| series.iter().all(|series| series.labels.get(name) == first)) {
            Some(value) => {
                common.insert(name, value.as_str());
            }
            None => columns.push(name),
        }
    }
    columns.sort_by_key(|name| (*name != "__name__", *name));
    (common, columns)
}

fn values(series: &AnswerSeries) -> impl Iterator<Item = (i64, f64)> {
    series
        .points
        .iter()
        .filter_map(|(at, text)| text.parse().ok().map(|value| (*at, value)))
        .filter(|(_, value): &(i64, f64)| value.is_finite())
}

fn span(series: &[AnswerSeries]) -> (i64, i64) {
    let times = || series.iter().flat_map(|series| series.points.iter().map(|(at, _)| *at));
    (times().min().unwrap_or(0), times().max().unwrap_or(0))
}

/// The course of a series: an average per character, blank where it has no value.
fn sparkline(series: &AnswerSeries, (from, to): (i64, i64)) -> String {
    let mut cells = [(0.0, 0_u32); SPARK_CHARS];
    let length = (to - from + 1).max(1) as f64;
    for (at, value) in values(series) {
        let cell = &mut cells[((at - from) as f64 / length * SPARK_CHARS as f64) as usize];
        *cell = (cell.0 + value, cell.1 + 1);
    }
    // Fewer points than characters: each stands for the gap to the next.
    let times: BTreeSet<i64> = series.points.iter().map(|(at, _)| *at).collect();
    let chars = times.len().clamp(1, SPARK_CHARS);
    let averages: Vec<Option<f64>> = if chars < SPARK_CHARS {
        series.points.iter().map(|(_, text)| text.parse().ok().filter(|value: &f64| value.is_finite())).collect()
    } else {
        cells.iter().map(|(sum, count)| (*count > 0).then(|| sum / f64::from(*count))).collect()
    };
    let low = averages.iter().flatten().copied().fold(f64::INFINITY, f64::min);
    let high = averages.iter().flatten().copied().fold(f64::NEG_INFINITY, f64::max);
    let bar = |value: f64| {
        let height = if high > low { (value - low) / (high - low) * 7.0 } else { 3.0 };
        BARS.get(height.round() as usize).copied().unwrap_or(' ')
    };
    averages.into_iter().map(|value| value.map_or(' ', bar)).collect()
}

/// Six significant digits: enough beside others in a column.
fn short(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 || !value.is_finite() {
        return super::number(value);
    }
    if !(1e-4..1e15).contains(&size) {
        return format!("{value:.5e}");
    }
    let before = size.log10().floor() as i32 + 1;
    let places = usize::try_from(6 - before).unwrap_or(0);
    let text = format!("{value:.places$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

fn cell(text: &str) -> String {
    let text = escape(text);
    if text.chars().count() <= CELL_CHARS {
        return text;
    }
    text.chars().take(CELL_CHARS - 1).chain(['…']).collect()
}

fn escape(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

fn lines(answer: &Answer, out: &mut dyn Write, separator: char, quote: fn(&str) -> String) -> io::Result<()> {
    let names: BTreeSet<&str> =
        answer.series.iter().flat_map(|series| series.labels.keys().map(String::as_str)).collect();
    let mut head: Vec<String> = names.iter().map(|name| quote(name)).collect();
    head.extend(["timestamp", "value"].map(str::to_owned));
    let mut text = head.join(&separator.to_string());
    text.push('\n');
    for series in &answer.series {
        let mut labels = String::new();
        for name in &names {
            labels += &quote(series.labels.get(*name).map_or("", String::as_str));
            labels.push(separator);
        }
        for (at, value) in &series.points {
            text += &labels;
            text += &seconds(*at);
            text.push(separator);
            text += &quote(value);
            text.push('\n');
            if text.len() > 64 << 10 {
                out.write_all(text.as_bytes())?;
                text.clear();
            }
        }
    }
    out.write_all(text.as_bytes())
}

fn seconds(ms: i64) -> String {
    let sign = if ms < 0 { "-" } else { "" };
    let ms = ms.unsigned_abs();
    let fraction = if ms.is_multiple_of(1000) { String::new() } else { format!(".{:03}", ms % 1000) };
    format!("{sign}{}{fraction}", ms / 1000)
}

/// Tabs, line ends and backslashes as `\t`, `\n`, `\r`, `\\`.
fn tsv(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\t', "\\t").replace('\n', "\\n").replace('\r', "\\r")
}

fn csv(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

fn tree(answer: &Answer) -> serde_json::Value {
    let point = |(at, value): &(i64, String)| json!([*at as f64 / 1000.0, value]);
    let result = match (answer.kind.as_str(), answer.series.first()) {
        ("scalar" | "string", Some(single)) => single.points.first().map_or(json!(null), point),
        (kind, _) => {
            let series = answer.series.iter().map(|series| match series.points.first() {
                Some(only) if kind == "vector" => json!({ "metric": series.labels, "value": point(only) }),
                _ => json!({ "metric": series.labels, "values": series.points.iter().map(point).collect::<Vec<_>>() }),
            });
            series.collect()
        }
    };
    json!({ "resultType": answer.kind, "result": result })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(labels: &[(&str, &str)], points: &[(i64, &str)]) -> AnswerSeries {
        AnswerSeries {
            labels: labels.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
            points: points.iter().map(|(at, value)| (*at, (*value).to_owned())).collect(),
        }
    }

    fn answer(kind: &str, series: Vec<AnswerSeries>) -> Answer {
        Answer { kind: kind.to_owned(), series, notes: vec![] }
    }

    fn written(answer: &Answer, output: Output) -> String {
        let mut out = Vec::new();
        write(answer, output, &mut out).expect("written");
        String::from_utf8(out).expect("text")
    }

    fn vector() -> Answer {
        let labels = |instance| [("__name__", "up"), ("instance", instance), ("job", "node")];
        answer(
            "vector",
            vec![series(&labels("nas-1"), &[(1500, "1")]), series(&labels("evil\u{1b}[2J,\t\"x\""), &[(1500, "+Inf")])],
        )
    }

    #[test]
    fn a_vector_is_a_table_of_what_differs() {
        insta::assert_snapshot!(written(&vector(), Output::Table), @r#"
        all: __name__=up, job=node

        instance             VALUE
        nas-1                    1
        evil\u{1b}[2J,\t"x"   +Inf
        "#);
        let one = answer("vector", vec![series(&[("__name__", "up"), ("job", "a")], &[(0, "0.1")])]);
        insta::assert_snapshot!(written(&one, Output::Table), @r"
        METRIC  job  VALUE
        up      a      0.1
        ");
        assert_eq!(written(&answer("scalar", vec![series(&[], &[(0, "3")])]), Output::Table), "VALUE\n    3\n");
        assert_eq!(written(&answer("vector", vec![]), Output::Table), "No series has a value there.\n");
    }

    #[test]
    fn a_range_has_a_sparkline_for_each_series() {
        let rising: Vec<(i64, String)> = (0..100).map(|i| (i * 15_000, (i * i).to_string())).collect();
        let rising: Vec<(i64, &str)> = rising.iter().map(|(at, text)| (*at, text.as_str())).collect();
        let few = [(0, "1"), (15_000, "NaN"), (30_000, "1234567.891"), (45_000, "3")];
        let range = answer("matrix", vec![series(&[("disk", "sda")], &rising), series(&[("disk", "sdb")], &few)]);
        insta::assert_snapshot!(written(&range, Output::Table), @r"
        disk  MIN      MAX  LAST
        sda     0     9801  9801  ▁▁▁▁▁▁▁▁▁▁▁▂▂▂▂▂▂▂▃▃▃▃▃▃▄▄▄▄▅▅▅▅▆▆▆▇▇▇██
        sdb     1  1234568     3  ▁ █▁

        1970-01-01T00:00:00Z to 1970-01-01T00:24:45Z
        ");
    }

    #[test]
    fn programs_get_a_line_per_point() {
        assert_eq!(
            written(&vector(), Output::Csv),
            "__name__,instance,job,timestamp,value\nup,nas-1,node,1.500,1\n\
             up,\"evil\u{1b}[2J,\t\"\"x\"\"\",node,1.500,+Inf\n"
        );
        assert_eq!(
            written(&vector(), Output::Tsv),
            "__name__\tinstance\tjob\ttimestamp\tvalue\nup\tnas-1\tnode\t1.500\t1\n\
             up\tevil\u{1b}[2J,\\t\"x\"\tnode\t1.500\t+Inf\n"
        );
        let json: serde_json::Value = serde_json::from_str(&written(&vector(), Output::Json)).expect("JSON");
        assert_eq!(json["resultType"], "vector");
        assert_eq!(
            json["result"][0],
            json!({
                "metric": {"__name__": "up", "instance": "nas-1", "job": "node"}, "value": [1.5, "1"],
            })
        );
    }

    #[test]
    fn numbers_are_short_beside_others() {
        let numbers = [0.0, 1.0, 0.1, 1_234_567.891, 123.456_789_1, 1e-9, 2.5e20, -0.000_123_456_78, f64::NAN];
        assert_eq!(numbers.map(short).join(" "), "0 1 0.1 1234568 123.457 1.00000e-9 2.50000e20 -0.000123457 NaN");
    }
}
