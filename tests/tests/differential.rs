//! The query engine beside Debian's Prometheus: the same data by remote write, the same generated queries, the same answers.
//!
//! Prometheus is 2.42 and our semantics are Prometheus 3's. What differs by version, or is taken to (the zero extrapolation, `atan2`,
//! `predict_linear` with `@` and the standard deviation of NaN are not checked against 3's source), is not generated:
//! - range and lookback windows include their start in 2 and exclude it in 3: samples, steps of subqueries and evaluation
//!   times each have milliseconds of their own, so that no sample is on a boundary;
//! - where a counter begins inside a window and near zero, 2 extrapolates to zero before it looks how far the window's start
//!   is, 3 after: counters here begin high;
//! - `atan2` with a number keeps the metric's name in 2;
//! - 2 moves the window of `predict_linear(x[5m] @ end(), n)` along with the steps;
//! - nested subqueries of the same step are on boundaries again: there is at most one level;
//! - the standard deviation of one NaN is 0 in 2 and NaN in 3: `vector(scalar())` of nothing is not asked for;
//! - what a comparison drops conflicts with nothing in 2, and is an error in 3 where it matches many to one;
//! - dates of moments beyond 64 bits are whatever the processor gives: dates are asked of `timestamp()` only;
//! - `holt_winters` has another name, and `mad_over_time`, `sort_by_label` and the like do not exist in 2;
//! - the order of an instant vector is not defined but for `sort` and `sort_desc`, so vectors compare as sets.
//!
//! A vector is never subtracted from itself or compared with itself: what is left is noise of the order of summation.
//! Values are equal within 1e-9 of the larger; where differences of large numbers leave noise (standard deviations and
//! regressions), within 1e-6.

use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use url::Url;
use veghe_tests::http;
use veghe_tests::load::{self, RemoteSeries};
use veghe_tests::process::{Collector, Process, wait_for};

const SCRAPE_MS: i64 = 15_000;
const ROWS: i64 = 360;
/// Milliseconds that samples and evaluation times have.
const SAMPLE_MS: i64 = 217;
const EVALUATION_MS: i64 = 137;
/// Of instant and range queries together.
const QUERIES: usize = 5_000;

#[test]
fn generated_queries_give_what_prometheus_gives() {
    let dir = tempfile::tempdir().expect("directory");
    let peer = Prometheus::start(dir.path());
    let collector = Collector::up(&dir.path().join("data")).expect("up");
    let token = fs::read_to_string(collector.data_dir.join("first-login")).expect("first-login");
    let bearer = format!("Bearer {}", token.lines().nth(2).expect("token"));
    let now_ms = rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec * 1000;
    let start_ms = (now_ms - ROWS * SCRAPE_MS) / SCRAPE_MS * SCRAPE_MS + SAMPLE_MS;
    let mut fleet = Fleet::new();
    for row in 0..ROWS {
        let body = load::write_request(&fleet.row(row, start_ms + row * SCRAPE_MS)).expect("request");
        for base in [&peer.base, &collector.listeners.ops] {
            let url = base.join("api/v1/write").expect("url");
            let headers = [
                ("Content-Type", "application/x-protobuf"),
                ("Content-Encoding", "snappy"),
                ("X-Prometheus-Remote-Write-Version", "0.1.0"),
                ("Authorization", bearer.as_str()),
            ];
            let answer = http::request("POST", &url, &headers, &body).expect("answer");
            assert_eq!(answer.status / 100, 2, "{url}: {}", answer.body);
        }
    }

    let mut random = Random::new(0x5eed);
    let (mut differences, mut told, mut empty) = (0, String::new(), 0);
    for _ in 0..QUERIES {
        let query = random.vector(3);
        let within = random.below((ROWS * SCRAPE_MS / 2) as u64) as i64 / 1000 * 1000;
        let at = start_ms - SAMPLE_MS + ROWS * SCRAPE_MS / 4 + within + EVALUATION_MS;
        let parameters = if random.chance(50) {
            vec![("query", query), ("time", seconds(at))]
        } else {
            let step_ms = *random.pick(&[15_000, 30_000, 61_000, 300_000]);
            let end = at + step_ms * (1 + random.below(40) as i64);
            vec![("query", query), ("start", seconds(at)), ("end", seconds(end)), ("step", seconds(step_ms))]
        };
        let (theirs, ours) = (ask(&peer.base, &parameters), ask(&collector.listeners.ops, &parameters));
        if theirs["data"]["result"].as_array().is_some_and(Vec::is_empty) {
            empty += 1;
        }
        let noisy = ["stddev", "stdvar", "deriv", "predict_linear"].iter().any(|name| parameters[0].1.contains(name));
        if let Err(difference) = compare(&theirs, &ours, if noisy { 1e-6 } else { 1e-9 }) {
            differences += 1;
            if differences <= 20 {
                writeln!(told, "{parameters:?}\n  {difference}").expect("text");
            }
        }
    }
    assert_eq!(differences, 0, "of {QUERIES} queries:\n{told}");
    assert!(empty < QUERIES / 3, "{empty} of {QUERIES} queries have no result: they show nothing");
}

/// Debian's Prometheus with a remote write receiver.
struct Prometheus {
    base: Url,
    _process: Process,
}

impl Prometheus {
    fn start(dir: &Path) -> Self {
        let settings = dir.join("prometheus.yml");
        fs::write(&settings, "global: {}\n").expect("settings");
        let port = TcpListener::bind("127.0.0.1:0").expect("port").local_addr().expect("address").port();
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={}", settings.display()));
        command.arg(format!("--storage.tsdb.path={}", dir.join("prometheus").display()));
        command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
        command.args([
            "--web.enable-remote-write-receiver",
            "--enable-feature=promql-negative-offset",
            "--log.level=warn",
        ]);
        let process = Process::start(&mut command, &dir.join("prometheus.log")).expect("Debian's package prometheus");
        let base: Url = format!("http://127.0.0.1:{port}/").parse().expect("url");
        let ready = base.join("-/ready").expect("url");
        wait_for("Prometheus is ready", || Ok(http::get(&ready).ok())).expect("ready");
        Self { base, _process: process }
    }
}

fn seconds(ms: i64) -> String {
    format!("{}.{:03}", ms / 1000, ms % 1000)
}

fn ask(base: &Url, parameters: &[(&str, String)]) -> Value {
    let path = if parameters.len() == 2 { "api/v1/query" } else { "api/v1/query_range" };
    let mut url = base.join(path).expect("url");
    url.query_pairs_mut().extend_pairs(parameters);
    let answer = http::request("GET", &url, &[], &[]).expect("answer");
    serde_json::from_str(&answer.body).unwrap_or_else(|_| panic!("no JSON: {}", answer.body))
}

/// Both refuse, or both give the same series with the same values; those of a range in the same order.
fn compare(theirs: &Value, ours: &Value, tolerance: f64) -> Result<(), String> {
    if theirs["status"] != ours["status"] {
        return Err(format!("theirs {theirs}\n  ours {ours}"));
    }
    if theirs["status"] == "error" {
        return (theirs["errorType"] == ours["errorType"]).then_some(()).ok_or_else(|| format!("{theirs} or {ours}"));
    }
    let kind = &theirs["data"]["resultType"];
    if *kind != ours["data"]["resultType"] {
        return Err(format!("{kind} or {}", ours["data"]["resultType"]));
    }
    let rows = |answer: &Value| answer["data"]["result"].as_array().cloned().unwrap_or_default();
    let (mut theirs, mut ours) = (rows(theirs), rows(ours));
    if *kind == "vector" {
        for rows in [&mut theirs, &mut ours] {
            rows.sort_by_key(|row| row["metric"].to_string());
        }
    }
    if theirs.len() != ours.len() {
        return Err(format!("{} series or {}: {theirs:?}\n  {ours:?}", theirs.len(), ours.len()));
    }
    for (theirs, ours) in theirs.iter().zip(&ours) {
        if theirs["metric"] != ours["metric"] {
            return Err(format!("{} or {}", theirs["metric"], ours["metric"]));
        }
        let points = |row: &Value| match &row["values"] {
            Value::Array(points) => points.clone(),
            _ => vec![row["value"].clone()],
        };
        let (a, b) = (points(theirs), points(ours));
        if a.len() != b.len() {
            return Err(format!("{}: {} points or {}", theirs["metric"], a.len(), b.len()));
        }
        for (a, b) in a.iter().zip(&b) {
            if a[0] != b[0] || !near(number(&a[1]), number(&b[1]), tolerance) {
                return Err(format!("{}: {a} or {b}", theirs["metric"]));
            }
        }
    }
    Ok(())
}

fn number(text: &Value) -> f64 {
    text.as_str().and_then(|t| t.parse().ok()).unwrap_or_else(|| panic!("no number: {text}"))
}

fn near(a: f64, b: f64, tolerance: f64) -> bool {
    a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= tolerance * a.abs().max(b.abs()).max(1e-3)
}

/// The series of a few hosts: counters with resets, gauges, a histogram; one host comes late and one goes stale.
struct Fleet {
    random: Random,
    values: Vec<f64>,
}

const HOSTS: usize = 6;
const BUCKETS: [&str; 6] = ["0.1", "0.5", "1", "2.5", "10", "+Inf"];

impl Fleet {
    fn new() -> Self {
        Self { random: Random::new(7), values: vec![1e5; HOSTS * 32] }
    }

    fn row(&mut self, row: i64, timestamp_ms: i64) -> Vec<RemoteSeries> {
        let mut series = Vec::new();
        for host in 0..HOSTS {
            let base = host * 32;
            let mut put = |labels: Vec<(&str, String)>, value: f64| {
                let mut labels: Vec<(String, String)> =
                    labels.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
                labels.push(("instance".into(), format!("host-{host}")));
                labels.push(("zone".into(), ["north", "south"][host % 2].to_owned()));
                labels.sort();
                // One host comes late, one misses a while.
                if (host == 1 && row < ROWS / 3) || (host == 2 && (ROWS / 3..ROWS / 2).contains(&row)) {
                    return;
                }
                series.push(RemoteSeries { labels, timestamp_ms, value });
            };
            for (i, mode) in ["user", "system", "idle"].into_iter().enumerate() {
                for cpu in 0..2 {
                    let slot = base + i * 2 + cpu;
                    self.values[slot] += self.random.below(1500) as f64 / 100.0;
                    if self.random.chance(1) && mode == "user" {
                        self.values[slot] = 0.0;
                    }
                    put(
                        vec![("__name__", "cpu_seconds_total".into()), ("cpu", cpu.to_string()), ("mode", mode.into())],
                        self.values[slot],
                    );
                }
            }
            for (i, device) in ["sda", "sdb", "nvme0n1"].into_iter().enumerate() {
                let slot = base + 8 + i;
                self.values[slot] += self.random.below(2001) as f64 - 1000.0;
                put(
                    vec![("__name__", "free_bytes".into()), ("device", device.into())],
                    5e9 + self.values[slot] * 4096.0,
                );
                put(vec![("__name__", "size_bytes".into()), ("device", device.into())], 1e10 * (i + 1) as f64);
            }
            let mut cumulative = 0.0;
            for (i, le) in BUCKETS.into_iter().enumerate() {
                self.values[base + 16 + i] += self.random.below(9) as f64;
                cumulative += self.values[base + 16 + i];
                put(vec![("__name__", "request_seconds_bucket".into()), ("le", le.into())], cumulative);
            }
            put(vec![("__name__", "alive".into())], f64::from(u8::from(self.random.below(20) > 0)));
            put(vec![("__name__", "info".into()), ("version", format!("1.{}", host % 3))], 1.0);
        }
        series
    }
}

/// A generator of numbers and queries that gives the same for the same seed.
struct Random {
    state: u64,
    in_subquery: bool,
}

impl Random {
    fn new(seed: u64) -> Self {
        Self { state: seed, in_subquery: false }
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) % bound
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }

    fn selector(&mut self) -> String {
        let name =
            *self.pick(&["cpu_seconds_total", "free_bytes", "size_bytes", "request_seconds_bucket", "alive", "info"]);
        let matchers = [
            "",
            "",
            r#"{instance="host-0"}"#,
            r#"{instance!="host-0"}"#,
            r#"{instance=~"host-[0-3]"}"#,
            r#"{zone="north",instance!~"host-4|host-5"}"#,
            r#"{mode=~"user|system"}"#,
            r#"{device!=""}"#,
        ];
        format!("{name}{}", self.pick(&matchers))
    }

    fn modifier(&mut self) -> String {
        match self.below(12) {
            0 => " offset 5m".into(),
            1 => " offset -2m".into(),
            2 => " @ start()".into(),
            3 => " @ end()".into(),
            _ => String::new(),
        }
    }

    fn range(&mut self, depth: u32) -> String {
        if depth > 0 && !self.in_subquery && self.chance(15) {
            let range = *self.pick(&["5m", "10m", "17m"]);
            let step = *self.pick(&["1m", "30s", "47s"]);
            self.in_subquery = true;
            let inner = self.vector(depth - 1);
            self.in_subquery = false;
            return format!("({inner})[{range}:{step}]{}", self.modifier());
        }
        let range = *self.pick(&["1m", "5m", "13m", "30m"]);
        format!("{}[{range}]{}", self.selector(), self.modifier())
    }

    fn vector(&mut self, depth: u32) -> String {
        if depth == 0 {
            return format!("{}{}", self.selector(), self.modifier());
        }
        match self.below(11) {
            0 => format!("{}{}", self.selector(), self.modifier()),
            1 | 2 => {
                let function = *self.pick(&[
                    "rate",
                    "increase",
                    "irate",
                    "delta",
                    "idelta",
                    "deriv",
                    "resets",
                    "changes",
                    "avg_over_time",
                    "min_over_time",
                    "max_over_time",
                    "sum_over_time",
                    "count_over_time",
                    "stddev_over_time",
                    "stdvar_over_time",
                    "last_over_time",
                    "present_over_time",
                    "absent_over_time",
                ]);
                format!("{function}({})", self.range(depth))
            }
            3 => match self.below(2) {
                0 => format!("quantile_over_time(0.{}, {})", self.below(100), self.range(depth)),
                _ => format!("predict_linear({}[13m], {})", self.selector(), self.below(7200)),
            },
            4 | 5 => {
                let operator = *self.pick(&["sum", "avg", "min", "max", "count", "group", "stddev", "stdvar"]);
                let by = *self.pick(&[
                    "",
                    " by (instance)",
                    " by (zone)",
                    " by (zone, mode)",
                    " without (instance)",
                    " without (cpu, device)",
                ]);
                format!("{operator}{by} ({})", self.vector(depth - 1))
            }
            6 => match self.below(3) {
                0 => format!("quantile by (zone) (0.{}, {})", self.below(100), self.vector(depth - 1)),
                1 => format!("count_values(\"value\", round({}, 1e9))", self.selector()),
                _ => format!("topk by (zone) (100, {})", self.vector(depth - 1)),
            },
            7 => {
                let function = *self.pick(&[
                    "abs",
                    "ceil",
                    "floor",
                    "sqrt",
                    "exp",
                    "ln",
                    "log2",
                    "log10",
                    "sgn",
                    "timestamp",
                    "absent",
                    "hour",
                    "minute",
                    "day_of_week",
                    "days_in_month",
                    "atan",
                    "cosh",
                    "deg",
                    "rad",
                ]);
                let inner = self.vector(depth - 1);
                let dates = ["hour", "minute", "day_of_week", "days_in_month"];
                let inner = if dates.contains(&function) { format!("timestamp({inner})") } else { inner };
                format!("{function}({inner})")
            }
            8 => match self.below(4) {
                0 => format!("clamp({}, 10, 1e6)", self.vector(depth - 1)),
                1 => format!("round({}, 0.5)", self.vector(depth - 1)),
                2 => format!(r#"label_replace({}, "host", "$1", "instance", "host-(.*)")"#, self.vector(depth - 1)),
                _ => "histogram_quantile(0.9, sum by (le, zone) (rate(request_seconds_bucket[10m])))".to_owned(),
            },
            9 => {
                let operator = *self.pick(&["+", "-", "*", "/", ">", "<= bool", "== bool", "!="]);
                format!("({}) {operator} {}", self.vector(depth - 1), self.below(50))
            }
            _ => {
                let operator = *self.pick(&["+", "*", "/", "and", "or", "unless"]);
                let set = ["and", "or", "unless"].contains(&operator);
                let one = format!("sum by (instance, zone) ({})", self.vector(depth - 1));
                match self.below(3) {
                    0 if !set => format!("({}) {operator} on (instance) group_left (version) info", self.selector()),
                    1 if operator != ">" && operator != "< bool" => {
                        format!("({one}) {operator} on (instance) (max by (instance) ({}))", self.vector(depth - 1))
                    }
                    _ => format!("({one}) {operator} ignoring (none) ({one})"),
                }
            }
        }
    }
}
