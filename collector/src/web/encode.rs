//! Large answers, written piece by piece as the client takes them: query results as Prometheus' JSON, straight from
//! the columns, and whatever else implements [`Pieces`].
//!
//! Invariant: beyond the data itself an answer takes one piece of memory and the texts of one column of moments, however
//! large it is.

use std::fmt::Write as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use hyper::body::{Body as HttpBody, Frame};
use veghe_model::{Labels, SeriesData};
use veghe_promql::{Evaluation, Value};

/// Formats onto a string, which takes every write.
macro_rules! push {
    ($out:expr, $($argument:tt)*) => {
        write!($out, $($argument)*).expect("invariant: a string takes every write")
    };
}

/// Content type of every JSON answer.
pub(super) const JSON: &str = "application/json";

/// From this size on a piece is sent.
const PIECE_BYTES: usize = 64 << 10;

/// Something that writes itself in pieces.
pub(super) trait Pieces: Send + Unpin + 'static {
    /// Appends a small part to `out`; `false` when nothing is left to append.
    fn write(&mut self, out: &mut String) -> bool;
}

/// `pieces` as the body of a response.
pub(super) fn respond(content_type: &'static str, mut pieces: impl Pieces) -> Response {
    let mut first = String::new();
    let body = if fill(&mut pieces, &mut first) {
        Body::new(PiecesBody { first: Some(first), pieces, more: true })
    } else {
        Body::from(first)
    };
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Whether there is more.
fn fill(pieces: &mut impl Pieces, out: &mut String) -> bool {
    while out.len() < PIECE_BYTES {
        if !pieces.write(out) {
            return false;
        }
    }
    true
}

struct PiecesBody<P> {
    first: Option<String>,
    pieces: P,
    more: bool,
}

impl<P: Pieces> HttpBody for PiecesBody<P> {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first.into()))));
        }
        if !self.more {
            return Poll::Ready(None);
        }
        let mut piece = String::with_capacity(PIECE_BYTES + PIECE_BYTES / 4);
        self.more = fill(&mut self.pieces, &mut piece);
        Poll::Ready((!piece.is_empty()).then(|| Ok(Frame::data(piece.into()))))
    }
}

/// An evaluation as the JSON of `query` and `query_range`.
pub(super) struct EvaluationJson {
    evaluation: Evaluation,
    /// JSON of what it took.
    stats: Option<String>,
    next: Next,
    moments: Moments,
}

/// The beginnings of the points of a column that several series share: `[1700000000.5,"`.
#[derive(Default)]
struct Moments {
    /// Whose they are.
    of: Option<Arc<[i64]>>,
    text: String,
    ends: Vec<usize>,
}

impl Moments {
    fn are_of(&self, timestamps: &Arc<[i64]>) -> bool {
        self.of.as_ref().is_some_and(|of| Arc::ptr_eq(of, timestamps))
    }

    fn take(&mut self, timestamps: &Arc<[i64]>) {
        self.text.clear();
        self.ends.clear();
        for timestamp in &**timestamps {
            self.text.push('[');
            push_timestamp(&mut self.text, *timestamp);
            self.text.push_str(",\"");
            self.ends.push(self.text.len());
        }
        self.of = Some(Arc::clone(timestamps));
    }

    fn get(&self, at: usize) -> &str {
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before]);
        self.text.get(start..self.ends[at]).unwrap_or_default()
    }
}

#[derive(Clone, Copy)]
enum Next {
    Head,
    /// This series, from this sample on.
    Item(usize, usize),
    Tail,
    Nothing,
}

/// Samples of one series written at once.
const SAMPLES_AT_ONCE: usize = 1024;

impl EvaluationJson {
    pub(super) fn new(evaluation: Evaluation) -> Self {
        Self { evaluation, stats: None, next: Next::Head, moments: Moments::default() }
    }

    pub(super) fn with_stats(self, stats: Option<String>) -> Self {
        Self { stats, ..self }
    }
}

impl Pieces for EvaluationJson {
    fn write(&mut self, out: &mut String) -> bool {
        self.next = match self.next {
            Next::Head => {
                let kind = match &self.evaluation.value {
                    Value::Scalar(..) => "scalar",
                    Value::String(..) => "string",
                    Value::Vector(_) => "vector",
                    Value::Matrix(_) => "matrix",
                };
                out.push_str(r#"{"status":"success","data":{"resultType":""#);
                out.push_str(kind);
                out.push_str(r#"","result":["#);
                match &self.evaluation.value {
                    Value::Scalar(at, value) => {
                        push_timestamp(out, at.millis());
                        out.push_str(",\"");
                        push_scalar(out, *value);
                        out.push('"');
                        Next::Tail
                    }
                    Value::String(at, text) => {
                        push_timestamp(out, at.millis());
                        out.push(',');
                        push_text(out, text);
                        Next::Tail
                    }
                    Value::Vector(_) | Value::Matrix(_) => Next::Item(0, 0),
                }
            }
            Next::Item(at, from) => match &self.evaluation.value {
                Value::Vector(samples) => match samples.get(at) {
                    Some(sample) => {
                        out.push_str(if at == 0 { r#"{"metric":"# } else { r#",{"metric":"# });
                        push_labels(out, &sample.labels);
                        out.push_str(r#","value":"#);
                        push_point(out, sample.timestamp.millis(), sample.value);
                        out.push('}');
                        Next::Item(at + 1, 0)
                    }
                    None => Next::Tail,
                },
                Value::Matrix(series) => match series.get(at) {
                    Some(one) => {
                        // Of a column that only one series has, nothing is to be kept.
                        let shared = series.get(at + 1).is_some_and(|n| Arc::ptr_eq(&n.timestamps, &one.timestamps));
                        if shared && !self.moments.are_of(&one.timestamps) {
                            self.moments.take(&one.timestamps);
                        }
                        push_series(out, one, &self.moments, at, from)
                    }
                    None => Next::Tail,
                },
                Value::Scalar(..) | Value::String(..) => Next::Tail,
            },
            Next::Tail => {
                out.push(']');
                if let Some(stats) = &self.stats {
                    out.push_str(r#","stats":"#);
                    out.push_str(stats);
                }
                out.push('}');
                push_notes(out, "warnings", &self.evaluation.warnings);
                push_notes(out, "infos", &self.evaluation.infos);
                out.push('}');
                Next::Nothing
            }
            Next::Nothing => return false,
        };
        !matches!(self.next, Next::Nothing)
    }
}

fn push_series(out: &mut String, series: &SeriesData, moments: &Moments, at: usize, from: usize) -> Next {
    if from == 0 {
        out.push_str(if at == 0 { r#"{"metric":"# } else { r#",{"metric":"# });
        push_labels(out, &series.labels);
        out.push_str(r#","values":["#);
    }
    let to = series.len().min(from + SAMPLES_AT_ONCE);
    let known = moments.are_of(&series.timestamps);
    for (i, (&timestamp, &value)) in series.timestamps.iter().zip(&series.values).enumerate().take(to).skip(from) {
        if i > 0 {
            out.push(',');
        }
        if known {
            out.push_str(moments.get(i));
            push_value(out, value);
            out.push_str("\"]");
        } else {
            push_point(out, timestamp, value);
        }
    }
    if to < series.len() {
        return Next::Item(at, to);
    }
    out.push_str("]}");
    Next::Item(at + 1, 0)
}

/// `,"name":["...",...]`, or nothing where there are none.
pub(super) fn push_notes(out: &mut String, name: &str, notes: &[String]) {
    if notes.is_empty() {
        return;
    }
    push!(out, ",\"{name}\":[");
    for (i, note) in notes.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        push_text(out, note);
    }
    out.push(']');
}

/// Labels as a JSON object, in their order.
pub(super) fn push_labels(out: &mut String, labels: &Labels) {
    out.push('{');
    for (i, label) in labels.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        push_text(out, &label.name);
        out.push(':');
        push_text(out, &label.value);
    }
    out.push('}');
}

/// A JSON string.
pub(super) fn push_text(out: &mut String, text: &str) {
    out.push('"');
    if text.bytes().all(|b| b >= b' ' && b != b'"' && b != b'\\') {
        out.push_str(text);
        out.push('"');
        return;
    }
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c < ' ' => push!(out, "\\u{:04x}", c as u32),
            c => out.push(c),
        }
    }
    out.push('"');
}

fn push_point(out: &mut String, timestamp_ms: i64, value: f64) {
    out.push('[');
    push_timestamp(out, timestamp_ms);
    out.push_str(",\"");
    push_value(out, value);
    out.push_str("\"]");
}

/// Seconds with three places, or none where they are zero: Prometheus' `MarshalTimestamp`.
fn push_timestamp(out: &mut String, ms: i64) {
    if ms < 0 {
        out.push('-');
    }
    let ms = ms.unsigned_abs();
    push_digits(out, ms / 1000);
    if !ms.is_multiple_of(1000) {
        let rest = ms % 1000;
        out.push_str(if rest < 10 {
            ".00"
        } else if rest < 100 {
            ".0"
        } else {
            "."
        });
        push_digits(out, rest);
    }
}

/// A whole number, as `Display` writes it and without its detours.
fn push_digits(out: &mut String, mut number: u64) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.push_str(std::str::from_utf8(&digits[at..]).unwrap_or_default());
}

/// The shortest digits that read back as `value`; an exponent below 1e-6 and from 1e21 on: Prometheus' `MarshalFloat`.
pub(super) fn push_value(out: &mut String, value: f64) {
    let size = value.abs();
    if value.is_finite() && size != 0.0 && !(1e-6..1e21).contains(&size) {
        let text = format!("{value:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let sign = if exponent.starts_with('-') { "" } else { "+" };
        push!(out, "{digits}e{sign}{exponent}");
    } else {
        push_scalar(out, value);
    }
}

/// The shortest digits that read back as `value`, never an exponent: Go's `strconv.FormatFloat(value, 'f', -1, 64)`.
fn push_scalar(out: &mut String, value: f64) {
    let size = value.abs();
    if size < 1e15 && (value as i64) as f64 == value {
        // Most of what is measured is whole. The sign of zero is seen too.
        if value.is_sign_negative() {
            out.push('-');
        }
        push_digits(out, size as u64);
    } else if (1e-4..1e15).contains(&size) {
        // As many digits as `Display` gives, in a fifth of the time, and of two that are equally near the even ones, as
        // Go does. Of these sizes none is written with an exponent.
        out.push_str(zmij::Buffer::new().format_finite(value));
    } else if value.is_nan() {
        out.push_str("NaN");
    } else if value.is_infinite() {
        out.push_str(if value > 0.0 { "+Inf" } else { "-Inf" });
    } else {
        let mut buffer = zmij::Buffer::new();
        let text = buffer.format_finite(value);
        if text.contains('e') {
            push!(out, "{value}");
        } else {
            out.push_str(text.strip_suffix(".0").unwrap_or(text));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use veghe_model::{Sample, Timestamp};
    use veghe_promql::VectorSample;

    fn json(value: Value, warnings: &[&str]) -> String {
        let warnings = warnings.iter().map(|&w| w.to_owned()).collect();
        let mut pieces = EvaluationJson::new(Evaluation {
            value,
            warnings,
            infos: vec![],
            stats: veghe_promql::SampleStats::default(),
        });
        let mut out = String::new();
        while pieces.write(&mut out) {}
        serde_json::from_str::<serde_json::Value>(&out).expect("valid JSON");
        out
    }

    fn value(value: f64) -> String {
        let mut out = String::new();
        push_value(&mut out, value);
        out
    }

    #[test]
    fn numbers_look_as_prometheus_writes_them() {
        let numbers =
            [0.0, -0.0, 1.0, 0.1, 1e20, 1e21, 1e-6, 1e-7, -2.5e-9, 123_456_789.125, f64::MAX, f64::MIN_POSITIVE];
        insta::assert_snapshot!(numbers.map(value).join(" "), @"0 -0 1 0.1 100000000000000000000 1e+21 0.000001 1e-7 -2.5e-9 123456789.125 1.7976931348623157e+308 2.2250738585072014e-308");
        insta::assert_snapshot!([f64::NAN, f64::INFINITY, f64::NEG_INFINITY].map(value).join(" "), @"NaN +Inf -Inf");
    }

    #[test]
    fn of_two_shortest_numbers_equally_near_the_even_one_is_written() {
        // What Prometheus answers to these queries; `Display` writes ...063.
        assert_eq!(value(15_249_182_486_042.0 + 0.0625), "15249182486042.062");
        assert_eq!(value(4_503_599_627_370_497.5), "4503599627370498");
    }

    proptest::proptest! {
        #[test]
        fn numbers_read_back_and_are_as_short_as_display(
            bits in proptest::prelude::any::<u64>(),
            cents in -1_000_000_i64..1_000_000,
            fraction in -1.0..1.0_f64,
            power in -8..18_i32,
        ) {
            let of_any_size = fraction * 10_f64.powi(power);
            for number in [f64::from_bits(bits), cents as f64 / 100.0, cents as f64, cents as f64 * 1e10, of_any_size] {
                let mut out = String::new();
                push_scalar(&mut out, number);
                if number.is_finite() {
                    proptest::prop_assert_eq!(out.parse::<f64>().map(f64::to_bits), Ok(number.to_bits()));
                    proptest::prop_assert_eq!(out.len(), number.to_string().len());
                }
            }
        }
    }

    #[test]
    fn every_kind_of_result_has_its_form() {
        let labels = Labels::from_pairs([("__name__", "up"), ("path", "C:\\\"x\"\n\u{1}ș")]);
        insta::assert_snapshot!(json(Value::Scalar(Timestamp(1500), 1e21), &[]), @r#"{"status":"success","data":{"resultType":"scalar","result":[1.500,"1000000000000000000000"]}}"#);
        insta::assert_snapshot!(json(Value::String(Timestamp(-5), "a".to_owned()), &["w"]), @r#"{"status":"success","data":{"resultType":"string","result":[-0.005,"a"]},"warnings":["w"]}"#);
        let sample = |value| VectorSample { labels: labels.clone(), timestamp: Timestamp(1000), value };
        insta::assert_snapshot!(json(Value::Vector(vec![sample(f64::NAN), sample(1.0)]), &[]), @r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{"__name__":"up","path":"C:\\\"x\"\n\u0001ș"},"value":[1,"NaN"]},{"metric":{"__name__":"up","path":"C:\\\"x\"\n\u0001ș"},"value":[1,"1"]}]}}"#);
        insta::assert_snapshot!(json(Value::Vector(vec![]), &[]), @r#"{"status":"success","data":{"resultType":"vector","result":[]}}"#);
        let point = |ms, value| Sample { timestamp: Timestamp(ms), value };
        let series = SeriesData::new(Labels::default(), &[point(1, 1.0), point(1001, -0.5)]);
        // Two that share their moments, and one of its own.
        let shared = vec![series.clone(), series.clone(), SeriesData::new(Labels::default(), &[point(9_010, 2.0)])];
        insta::assert_snapshot!(json(Value::Matrix(shared), &[]), @r#"{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":[[0.001,"1"],[1.001,"-0.5"]]},{"metric":{},"values":[[0.001,"1"],[1.001,"-0.5"]]},{"metric":{},"values":[[9.010,"2"]]}]}}"#);
        insta::assert_snapshot!(json(Value::Matrix(vec![series]), &[]), @r#"{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":[[0.001,"1"],[1.001,"-0.5"]]}]}}"#);
    }

    #[test]
    fn a_large_matrix_is_written_whole_in_pieces() {
        let samples: Vec<_> = (0..5000).map(|i| Sample { timestamp: Timestamp(i), value: i as f64 }).collect();
        let series = vec![SeriesData::new(Labels::default(), &samples); 3];
        let text = json(Value::Matrix(series), &[]);
        let parsed: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        for series in parsed["data"]["result"].as_array().expect("series") {
            assert_eq!(series["values"].as_array().expect("values").len(), 5000);
            assert_eq!(series["values"][4999][1], "4999");
        }
    }
}
