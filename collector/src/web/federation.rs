//! `/federate`: the fleet's latest samples in the text format, for a Prometheus that scrapes the collector; and
//! `/metrics`: the collector's own.
//!
//! What it deliberately does not do: native histograms and `OpenMetrics`.

use std::borrow::Cow;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use prometheus::{TEXT_FORMAT, TextEncoder};
use veghe_model::{Label, Labels, METRIC_NAME, SeriesData, is_stale};
use veghe_wire::catalogue::{self, Kind};

use super::Refusal;
use super::encode::{self, Pieces, push_value};
use super::parameters::Parameters;
use super::prometheus_api::{Api, ApiError};
use crate::clock;

/// The label that tells a scraper whose series it is.
const INSTANCE: &str = "instance";

/// How names are shown that the text format did not always know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Escaping {
    /// In quotes.
    AllowUtf8,
    /// With `_` for what the classic charset has not.
    Underscores,
}

impl Escaping {
    /// What a scraper asks for (`Accept: text/plain;version=1.0.0;escaping=allow-utf-8`); without a word underscores, as
    /// Prometheus' `expfmt.Negotiate`.
    fn negotiated(headers: &HeaderMap) -> Self {
        let mut accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let asks = accepted.any(|value| value.split([',', ';']).any(|part| part.trim() == "escaping=allow-utf-8"));
        if asks { Self::AllowUtf8 } else { Self::Underscores }
    }

    /// Prometheus' type of the text format.
    fn content_type(self) -> &'static str {
        match self {
            Self::AllowUtf8 => "text/plain; version=0.0.4; charset=utf-8; escaping=allow-utf-8",
            Self::Underscores => "text/plain; version=0.0.4; charset=utf-8; escaping=underscores",
        }
    }
}

/// The latest sample, of the last five minutes, of every series that a `match[]` takes.
pub(super) async fn federate(State(api): State<Arc<Api>>, headers: HeaderMap, parameters: Parameters) -> Response {
    let escaping = Escaping::negotiated(&headers);
    match latest(&api, &parameters).await {
        Ok(series) => encode::respond(escaping.content_type(), Exposition::new(series, escaping)),
        Err(error) => (error.status(), format!("{}\n", error.message())).into_response(),
    }
}

struct Latest {
    metric: Arc<str>,
    labels: Box<[Label]>,
    timestamp_ms: i64,
    value: f64,
}

async fn latest(api: &Api, parameters: &Parameters) -> Result<Vec<Latest>, ApiError> {
    // `{}` takes every series here, as in Prometheus.
    let selectors = parameters.any_selectors().await?;
    let now = clock::now();
    let start = now.saturating_sub(api.parts.queries.settings().lookback);
    let attached = attached(&api.parts.external_labels);
    api.select(move |store| {
        let mut all = vec![];
        for matchers in &selectors {
            // A selection ascends in labels but not in names where a label sorts before `__name__`.
            all.extend(store.select(matchers, start, now)?.iter().filter_map(|series| Latest::of(series, &attached)));
        }
        all.sort_by(|a, b| (&a.metric, &a.labels).cmp(&(&b.metric, &b.labels)));
        all.dedup_by(|a, b| (&a.metric, &a.labels) == (&b.metric, &b.labels));
        Ok(all)
    })
    .await
}

/// What every series gets that has no such label: the collector's external labels, and an empty `instance`, without which a
/// scraper would say that the collector is the instance. As Prometheus' `web/federate.go`.
fn attached(external: &Labels) -> Vec<Label> {
    let no_instance = external.get(INSTANCE).is_none();
    let empty = no_instance.then(|| Label { name: INSTANCE.into(), value: "".into() });
    let mut attached: Vec<Label> = external.iter().cloned().chain(empty).collect();
    attached.sort();
    attached
}

impl Latest {
    /// Nothing where the series ended or has no name.
    fn of(series: &SeriesData, attached: &[Label]) -> Option<Self> {
        let sample = series.iter().next_back().filter(|sample| !is_stale(sample.value))?;
        let (name, mut labels): (Vec<_>, Vec<_>) = series.labels.iter().cloned().partition(|l| *l.name == *METRIC_NAME);
        let metric = name.into_iter().next()?.value;
        labels.extend(attached.iter().filter(|label| series.labels.get(&label.name).is_none()).cloned());
        Some(Self { metric, labels: labels.into(), timestamp_ms: sample.timestamp.millis(), value: sample.value })
    }
}

/// Samples as text, a `TYPE` line before each metric's first.
struct Exposition {
    series: std::vec::IntoIter<Latest>,
    escaping: Escaping,
    metric: String,
}

impl Exposition {
    fn new(series: Vec<Latest>, escaping: Escaping) -> Self {
        Self { series: series.into_iter(), escaping, metric: String::new() }
    }
}

impl Pieces for Exposition {
    fn write(&mut self, out: &mut String) -> bool {
        let Some(series) = self.series.next() else { return false };
        let metric = Shown::of(&series.metric, veghe_model::is_metric_name, self.escaping);
        if *self.metric != *series.metric {
            series.metric.as_ref().clone_into(&mut self.metric);
            push_head(out, &metric);
        }
        // A name in quotes is within the braces.
        let mut separator = '{';
        match &metric {
            Shown::Plain(name) => out.push_str(name),
            Shown::Quoted(name) => {
                out.push('{');
                push_quoted(out, name);
                separator = ',';
            }
        }
        for label in &series.labels {
            out.push(separator);
            separator = ',';
            match Shown::of(&label.name, veghe_model::is_label_name, self.escaping) {
                Shown::Plain(name) => out.push_str(&name),
                Shown::Quoted(name) => push_quoted(out, name),
            }
            out.push('=');
            push_quoted(out, &label.value);
        }
        if separator == ',' {
            out.push('}');
        }
        out.push(' ');
        push_value(out, series.value);
        out.push(' ');
        out.push_str(&series.timestamp_ms.to_string());
        out.push('\n');
        true
    }
}

/// A name as it is shown.
enum Shown<'n> {
    Plain(Cow<'n, str>),
    Quoted(&'n str),
}

impl<'n> Shown<'n> {
    fn of(name: &'n str, is_classic: fn(&str) -> bool, escaping: Escaping) -> Self {
        if is_classic(name) {
            return Self::Plain(name.into());
        }
        if escaping == Escaping::AllowUtf8 {
            return Self::Quoted(name);
        }
        let mut shown = String::with_capacity(name.len());
        for c in name.chars() {
            shown.push(c);
            if !is_classic(&shown) {
                shown.pop();
                shown.push('_');
            }
        }
        Self::Plain(shown.into())
    }
}

fn push_quoted(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Help and type of `name`. A histogram's series come one name at a time here, so each is untyped, as in Prometheus.
fn push_head(out: &mut String, name: &Shown<'_>) {
    let mut shown = String::new();
    match name {
        Shown::Plain(name) => shown.push_str(name),
        Shown::Quoted(name) => push_quoted(&mut shown, name),
    }
    let name = shown.as_str();
    let known = catalogue::lookup(name).filter(|metric| matches!(metric.kind, Kind::Counter | Kind::Gauge));
    if let Some(metric) = known {
        out.push_str("# HELP ");
        out.push_str(name);
        out.push(' ');
        out.push_str(&metric.help_for(name).replace('\\', "\\\\").replace('\n', "\\n"));
        out.push('\n');
    }
    out.push_str("# TYPE ");
    out.push_str(name);
    out.push(' ');
    out.push_str(known.map_or("untyped", |metric| metric.kind.as_str()));
    out.push('\n');
}

/// The collector's own metrics.
pub(super) async fn metrics(State(api): State<Arc<Api>>) -> Response {
    match TextEncoder::new().encode_to_string(&api.parts.registry.gather()) {
        Ok(text) => ([(header::CONTENT_TYPE, HeaderValue::from_static(TEXT_FORMAT))], text).into_response(),
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "cannot write own metrics");
            Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "metrics", "the collector's log says why").into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use veghe_model::{Labels, Sample, Timestamp, stale_nan};

    fn series(pairs: &[(&str, &str)], samples: &[(i64, f64)]) -> SeriesData {
        let samples: Vec<_> = samples.iter().map(|&(ms, value)| Sample { timestamp: Timestamp(ms), value }).collect();
        SeriesData::new(Labels::from_pairs(pairs.iter().copied()), &samples)
    }

    #[test]
    fn each_metric_has_one_type_line_and_values_are_escaped() {
        let all = [
            series(&[("__name__", "a_total"), ("A", "x\"\\\ny")], &[(1, 1.0), (2, f64::INFINITY)]),
            series(&[("__name__", "a_total")], &[(3, 1e21)]),
            series(&[("__name__", "b")], &[(1, 1.0), (4, stale_nan())]),
            series(&[("x", "no name")], &[(1, 1.0)]),
            series(&[("__name__", "c")], &[(5, f64::NAN)]),
        ];
        insta::assert_snapshot!(shown(&all, &[], Escaping::Underscores), @r#"
        # TYPE a_total untyped
        a_total{A="x\"\\\ny"} +Inf 2
        a_total 1e+21 3
        # TYPE c untyped
        c NaN 5
        "#);
    }

    #[test]
    fn series_get_external_labels_and_an_empty_instance_where_they_have_none() {
        let all = [
            series(&[("__name__", "a"), ("instance", "nas"), ("site", "own")], &[(1, 1.0)]),
            series(&[("__name__", "b"), ("job", "rules")], &[(2, 2.0)]),
        ];
        let external = Labels::from_pairs([("site", "cluj"), ("archive", "x")]);
        insta::assert_snapshot!(shown(&all, &attached(&external), Escaping::Underscores), @r#"
        # TYPE a untyped
        a{instance="nas",site="own",archive="x"} 1 1
        # TYPE b untyped
        b{job="rules",archive="x",instance="",site="cluj"} 2 2
        "#);
        let external = Labels::from_pairs([("instance", "here")]);
        insta::assert_snapshot!(shown(&all, &attached(&external), Escaping::Underscores), @r#"
        # TYPE a untyped
        a{instance="nas",site="own"} 1 1
        # TYPE b untyped
        b{job="rules",instance="here"} 2 2
        "#);
    }

    fn shown(all: &[SeriesData], attached: &[Label], escaping: Escaping) -> String {
        let mut pieces = Exposition::new(all.iter().filter_map(|one| Latest::of(one, attached)).collect(), escaping);
        let mut out = String::new();
        while pieces.write(&mut out) {}
        out
    }

    #[test]
    fn names_beyond_the_classic_charset_are_quoted_for_who_takes_them_and_escaped_for_others() {
        let all = [
            series(&[("__name__", "http.requests"), ("status.code", "200"), ("a:b", "x\"y")], &[(1, 1.0)]),
            series(&[("__name__", "9 vieți ă")], &[(2, 9.0)]),
            series(&[("__name__", "plain"), ("ș", "t")], &[(3, 2.0)]),
        ];
        insta::assert_snapshot!(shown(&all, &[], Escaping::AllowUtf8), @r#"
        # TYPE "http.requests" untyped
        {"http.requests","a:b"="x\"y","status.code"="200"} 1 1
        # TYPE "9 vieți ă" untyped
        {"9 vieți ă"} 9 2
        # TYPE plain untyped
        plain{"ș"="t"} 2 3
        "#);
        insta::assert_snapshot!(shown(&all, &[], Escaping::Underscores), @r#"
        # TYPE http_requests untyped
        http_requests{a_b="x\"y",status_code="200"} 1 1
        # TYPE __vie_i__ untyped
        __vie_i__ 9 2
        # TYPE plain untyped
        plain{_="t"} 2 3
        "#);
        let asking = |accept: &'static str| {
            Escaping::negotiated(&HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(accept))]))
        };
        assert_eq!(asking("text/plain;version=1.0.0;escaping=allow-utf-8;q=0.5,*/*;q=0.1"), Escaping::AllowUtf8);
        assert_eq!(asking("text/plain;version=0.0.4"), Escaping::Underscores);
        assert_eq!(Escaping::negotiated(&HeaderMap::new()), Escaping::Underscores);
    }
}
