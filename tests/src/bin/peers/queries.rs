//! Twenty queries as dashboards ask them, and how answers are compared.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;
use url::Url;
use veghe_tests::http::Connection;
use veghe_tests::process::now;

use crate::servers::Kind;

/// Which load a query is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// Many series, 15 s apart, some hours.
    Wide,
    /// Few series, a minute apart, ninety days.
    Long,
}

/// What VictoriaMetrics has to agree on. `rate` and its kin do not extrapolate there, and windows begin a sample earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Same {
    Values,
    Series,
}

/// One query of the set.
pub(crate) struct Query {
    pub(crate) load: Load,
    pub(crate) expr: &'static str,
    /// Seconds before the end of the load; none for an instant query there.
    pub(crate) span_s: i64,
    pub(crate) step_s: i64,
    pub(crate) same: Same,
}

const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;

const fn query(load: Load, expr: &'static str, span_s: i64, step_s: i64, same: Same) -> Query {
    Query { load, expr, span_s, step_s, same }
}

/// The set. Spans are cut to what a small load has.
pub(crate) const QUERIES: [Query; 20] = [
    query(Load::Wide, r#"sum by (instance) (rate(node_cpu_seconds_total{mode!="idle"}[5m]))"#, HOUR, 15, Same::Series),
    query(
        Load::Wide,
        r#"100 * (1 - avg by (instance) (rate(node_cpu_seconds_total{mode="idle"}[5m])))"#,
        HOUR,
        15,
        Same::Series,
    ),
    query(Load::Wide, "sum by (mode) (rate(node_cpu_seconds_total[5m]))", 3 * HOUR, 30, Same::Series),
    query(Load::Wide, "rate(node_network_receive_bytes_total[5m])", HOUR, 15, Same::Series),
    query(Load::Wide, "1 - node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes", HOUR, 15, Same::Values),
    query(
        Load::Wide,
        "1 - node_filesystem_avail_bytes / on (instance, device, mountpoint) node_filesystem_size_bytes > 0.7",
        3 * HOUR,
        60,
        Same::Values,
    ),
    query(Load::Wide, "topk(5, sum by (instance) (rate(node_disk_written_bytes_total[5m])))", HOUR, 15, Same::Series),
    query(
        Load::Wide,
        "histogram_quantile(0.99, sum by (le, handler) (rate(http_request_duration_seconds_bucket[5m])))",
        HOUR,
        15,
        Same::Series,
    ),
    query(
        Load::Wide,
        "sum by (instance) (rate(node_disk_io_time_seconds_total[5m])) * on (instance) group_left (nodename) node_uname_info",
        HOUR,
        30,
        Same::Series,
    ),
    query(Load::Wide, "quantile(0.95, node_load1)", 3 * HOUR, 15, Same::Values),
    query(Load::Wide, "avg_over_time(node_load5[30m])", 3 * HOUR, 60, Same::Values),
    query(Load::Wide, "count by (state) (node_systemd_unit_state == 1)", HOUR, 60, Same::Values),
    query(Load::Wide, "predict_linear(node_filesystem_avail_bytes[1h], 14400) < 1e10", HOUR, 60, Same::Series),
    query(Load::Wide, "topk(10, rate(node_network_transmit_bytes_total[5m]))", 0, 0, Same::Series),
    query(Load::Wide, r#"count by (__name__) ({__name__=~"node_.+"})"#, 0, 0, Same::Values),
    query(Load::Long, "node_filesystem_avail_bytes", 7 * DAY, 600, Same::Values),
    query(Load::Long, "sum by (instance) (rate(node_network_receive_bytes_total[1h]))", 30 * DAY, HOUR, Same::Series),
    query(Load::Long, "max_over_time(node_load1[6h])", 90 * DAY, 6 * HOUR, Same::Values),
    query(Load::Long, "quantile_over_time(0.95, node_load5[1d])", 90 * DAY, DAY, Same::Values),
    query(
        Load::Long,
        r#"sum by (instance) (increase(node_cpu_seconds_total{mode!="idle"}[1d]))"#,
        90 * DAY,
        DAY,
        Same::Series,
    ),
];

impl Query {
    /// Its words for a table.
    pub(crate) fn title(&self) -> String {
        let span = match self.span_s {
            0 => "at once".to_owned(),
            s if s % DAY == 0 => format!("{} d", s / DAY),
            s => format!("{} h", s / HOUR),
        };
        format!("`{}`, {span}", self.expr.replace('|', "\\|"))
    }

    /// The address to ask `base` at: the last moment is `end_ms`, and nothing is asked for before `first_ms`.
    pub(crate) fn url(&self, base: &Url, first_ms: i64, end_ms: i64) -> anyhow::Result<Url> {
        let seconds = |ms: i64| format!("{}.{:03}", ms / 1000, ms % 1000);
        // VictoriaMetrics' cache of results would answer every repetition; Prometheus and we have none.
        if self.span_s == 0 {
            let mut url = base.join("api/v1/query")?;
            url.query_pairs_mut().append_pair("query", self.expr).append_pair("time", &seconds(end_ms));
            url.query_pairs_mut().append_pair("nocache", "1");
            return Ok(url);
        }
        let steps = (end_ms - first_ms).min(self.span_s * 1000) / (self.step_s * 1000);
        let mut url = base.join("api/v1/query_range")?;
        url.query_pairs_mut()
            .append_pair("query", self.expr)
            .append_pair("start", &seconds(end_ms - steps * self.step_s * 1000))
            .append_pair("end", &seconds(end_ms))
            .append_pair("step", &self.step_s.to_string())
            .append_pair("nocache", "1");
        Ok(url)
    }
}

/// Asks once; how long it took until the last byte, and the answer.
pub(crate) fn ask(connection: &mut Connection, url: &Url) -> anyhow::Result<(Duration, String)> {
    let begin = now();
    let answer = connection.request("GET", url, &[], b"")?;
    let took = now() - begin;
    ensure!(answer.status == 200, "{url} answers {}: {}", answer.status, answer.body);
    Ok((took, answer.body))
}

/// The series of an answer, in order of their labels, each with its points.
struct Answer(Vec<(String, Vec<(f64, f64)>)>);

fn parse(text: &str, peer: Kind) -> anyhow::Result<Answer> {
    let mut json: Value = serde_json::from_str(text)?;
    if peer == Kind::VictoriaMetrics {
        // It keeps the metric's name where a function of a range does not change what is measured.
        for one in json["data"]["result"].as_array_mut().into_iter().flatten() {
            one["metric"].as_object_mut().map(|labels| labels.remove("__name__"));
        }
    }
    let result = json["data"]["result"].as_array().context("no result")?;
    let mut series = Vec::with_capacity(result.len());
    for one in result {
        let points: Vec<&Value> = match &one["values"] {
            Value::Array(points) => points.iter().collect(),
            _ => vec![&one["value"]],
        };
        let point = |point: &Value| -> anyhow::Result<(f64, f64)> {
            let value = point[1].as_str().context("no value")?;
            Ok((point[0].as_f64().context("no moment")?, value.parse()?))
        };
        series.push((one["metric"].to_string(), points.into_iter().map(point).collect::<anyhow::Result<_>>()?));
    }
    series.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(Answer(series))
}

fn near(a: f64, b: f64) -> bool {
    a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= 1e-6 * a.abs().max(b.abs()).max(1e-3)
}

/// What an answer holds, in words, after it was compared with that of a peer.
///
/// # Errors
/// Where it says something else: other series, and where `same` says so, other values.
pub(crate) fn compare(ours: &str, theirs: &str, peer: Kind, same: Same) -> anyhow::Result<String> {
    let (ours, theirs) = (parse(ours, peer)?.0, parse(theirs, peer)?.0);
    let points: usize = ours.iter().map(|(_, points)| points.len()).sum();
    let found = format!("{} series, {points} points", ours.len());
    if ours.len() != theirs.len() {
        bail!("{} series here, {} there", ours.len(), theirs.len());
    }
    for ((our_labels, our_points), (their_labels, their_points)) in ours.iter().zip(&theirs) {
        ensure!(our_labels == their_labels, "{our_labels} here, {their_labels} there");
        if same == Same::Series {
            continue;
        }
        ensure!(
            our_points.len() == their_points.len(),
            "{our_labels}: {} points here, {} there",
            our_points.len(),
            their_points.len()
        );
        for (a, b) in our_points.iter().zip(their_points) {
            ensure!(a.0 == b.0 && near(a.1, b.1), "{our_labels}: {a:?} here, {b:?} there");
        }
    }
    Ok(found)
}
