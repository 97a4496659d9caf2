//! The query engine beside Debian's Prometheus: the same data by remote write, the same generated queries, the same answers.
//!
//! Prometheus is 2.42 and our semantics are Prometheus 3's. What differs by version is in [`DIFFERENCES`], each with its
//! reason, a query, and what both must say to it; [`by_version`] checks them. Beside them:
//! - range and lookback windows include their start in 2: samples, steps of subqueries and evaluation times each have
//!   milliseconds of their own, so that no generated window has a sample on its border; nested subqueries of the same
//!   step would have, so there is at most one level;
//! - dates of moments beyond 64 bits are whatever the processor gives: dates are asked of time stamps only;
//! - `holt_winters` has another name in 3, and `mad_over_time`, `sort_by_label` and the like do not exist in 2;
//! - the order of an instant vector is not defined but for `sort` and `sort_desc`, so others compare as sets.
//!
//! Values are equal within 1e-9 of the larger. Some operations magnify what is left of the last bit by the order of a sum
//! or a mean: remainders, differences and comparisons of two vectors, rounding, deviations and regressions. Their operands
//! are generated from operations that are exact on whole numbers and eighths ([`Random::exact`]), so both must agree on
//! every bit of them.
//!
//! With `VEGHE_PROMETHEUS=FILE` another Prometheus is the peer. One of version 3 must answer everything alike, the cases of
//! [`DIFFERENCES`] too, with the same error texts, warnings and infos, and is asked what only 3 has ([`Random::newer`]).
//! `VEGHE_SEED=NUMBER` generates other queries.

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
const QUERIES: usize = 8_000;
/// With it every form of [`FORMS`] is often enough among them.
const SEED: u64 = 0x5eed;

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

    by_version(&peer, &collector.listeners.ops, start_ms);
    let seed = std::env::var("VEGHE_SEED").map_or(SEED, |text| text.parse().expect("VEGHE_SEED is a number"));
    let mut random = Random { newer: peer.is_3, ..Random::new(seed) };
    let (mut differences, mut told, mut empty) = (0, String::new(), 0);
    let mut shown: Vec<&str> = Vec::new();
    for _ in 0..QUERIES {
        let query = random.query();
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
        if theirs["data"]["result"].as_array().is_none_or(Vec::is_empty) {
            empty += 1;
        } else {
            shown.extend(FORMS.iter().copied().filter(|form| parameters[0].1.contains(form)));
        }
        let alike = compare(&theirs, &ours, parameters[0].1.starts_with("sort"))
            .and_then(|()| if peer.is_3 { compare_words(&theirs, &ours) } else { Ok(()) });
        if let Err(difference) = alike {
            differences += 1;
            if differences <= 30 {
                writeln!(told, "{parameters:?}\n  {difference}").expect("text");
            }
        }
    }
    assert_eq!(differences, 0, "of {QUERIES} queries:\n{told}");
    for form in FORMS.iter().filter(|_| seed == SEED) {
        let times = shown.iter().filter(|shown| **shown == *form).count();
        assert!(times >= 10, "only {times} of {QUERIES} queries with a result have `{form}`");
    }
    assert!(empty < QUERIES / 3, "{empty} of {QUERIES} queries have no result: they show nothing");
}

/// What must be among the queries that have a result.
const FORMS: &[&str] = &[
    " + ",
    " - ",
    " * ",
    " / ",
    " % ",
    " ^ ",
    " atan2 ",
    " > ",
    " < ",
    " == ",
    " != ",
    " <= bool ",
    " >= bool ",
    " == bool ",
    " and ",
    " or ",
    " unless ",
    " on (",
    " ignoring (",
    "group_left",
    "-(",
    "scalar(",
    "vector(",
    "time()",
    "pi()",
    "rate(",
    "increase(",
    "irate(",
    "delta(",
    "idelta(",
    "deriv(",
    "predict_linear(",
    "resets(",
    "changes(",
    "avg_over_time(",
    "min_over_time(",
    "max_over_time(",
    "sum_over_time(",
    "count_over_time(",
    "stddev_over_time(",
    "stdvar_over_time(",
    "last_over_time(",
    "present_over_time(",
    "absent_over_time(",
    "quantile_over_time(",
    "sum",
    "avg",
    "min",
    "max",
    "count",
    "group",
    "stddev",
    "stdvar",
    "quantile by",
    "count_values",
    "topk",
    "bottomk",
    "sort(",
    "sort_desc(",
    "absent(",
    "clamp(",
    "clamp_min(",
    "clamp_max(",
    "round(",
    "label_replace(",
    "label_join(",
    "histogram_quantile(",
    "timestamp(",
    "year(",
    "day_of_year(",
    "tan(",
    "acosh(",
    "ceil(",
    "floor(",
    "sqrt(",
    "ln(",
    " by (",
    " without (",
    " offset 5m",
    " offset -2m",
    " @ start()",
    " @ end()",
    "m:30s]",
];

/// What two versions say to one query.
struct Difference {
    /// What changed; files are Prometheus' own.
    reason: &'static str,
    query: &'static str,
    /// Asked at this row's time, plus [`EVALUATION_MS`] unless it is about borders.
    row: i64,
    /// Further steps of a minute; none is an instant query.
    steps: i64,
    /// Whether it is asked at a sample's very time.
    on_border: bool,
    /// Whether 3.5 still answers as 2.42 does.
    is_later: bool,
    /// Whether both answers are what is claimed: of 2.42 and of the collector.
    holds: fn(&Value, &Value) -> bool,
}

fn values(answer: &Value) -> Vec<f64> {
    let rows = answer["data"]["result"].as_array().cloned().unwrap_or_default();
    let points = |row: &Value| match &row["values"] {
        Value::Array(points) => points.iter().map(|point| number(&point[1])).collect(),
        _ => vec![number(&row["value"][1])],
    };
    rows.iter().flat_map(points).collect()
}

const DIFFERENCES: &[Difference] = &[
    Difference {
        reason: "3.0: ranges leave out their start (promql/engine.go: `matrixIterSlice`, `mint` is exclusive)",
        query: r#"count_over_time(alive{instance="host-0"}[30s])"#,
        row: ROWS / 2,
        steps: 0,
        on_border: true,
        is_later: false,
        holds: |theirs, ours| values(theirs) == [3.0] && values(ours) == [2.0],
    },
    Difference {
        reason: "3: the zero of a counter is looked for after its distance from the window's start was bounded, before it \
                 in 2 (promql/functions.go: `extrapolatedRate`, `durationToZero`)",
        query: "increase(young_total[13m])",
        row: YOUNG_FROM + 12,
        steps: 0,
        on_border: false,
        is_later: false,
        // 120 in 180 s: the zero is 12 s before, the bound 7.5 s.
        holds: |theirs, ours| {
            let stretched = |to_start: f64| 120.0 * (180.0 + to_start + END_GAP_S) / 180.0;
            near(values(theirs)[0], stretched(12.0)) && near(values(ours)[0], stretched(7.5))
        },
    },
    Difference {
        reason: "3: `atan2` with a number drops the name as other arithmetic does (promql/engine.go: `shouldDropMetricName` \
                 of 2.42 lacks `ATAN2`)",
        query: r#"size_bytes{instance="host-0", device="sda"} atan2 2"#,
        row: ROWS / 2,
        steps: 0,
        on_border: false,
        is_later: false,
        holds: |theirs, ours| {
            let name = |answer: &Value| answer["data"]["result"][0]["metric"]["__name__"].clone();
            name(theirs) == "size_bytes" && name(ours).is_null() && values(theirs) == values(ours)
        },
    },
    Difference {
        reason: "3: the deviation of a group whose first value is NaN or infinite is NaN, 0 in 2 while it is the only one \
                 (promql/engine.go: `case parser.STDVAR, parser.STDDEV`)",
        query: r#"stddev(alive{instance="host-0"} * NaN)"#,
        row: ROWS / 2,
        steps: 0,
        on_border: false,
        is_later: false,
        holds: |theirs, ours| values(theirs) == [0.0] && values(ours)[0].is_nan(),
    },
    Difference {
        reason: "later than 3.5: what a comparison drops takes part in the check for several matches, not in 2 (promql/engine.go: \
                 `VectorBinop`, `!keep && !returnBool` comes after `matchedSigs`)",
        query: r#"cpu_seconds_total{instance="host-0"} < on (instance) alive"#,
        row: ROWS / 2,
        steps: 0,
        on_border: false,
        is_later: true,
        holds: |theirs, ours| {
            let error = "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)";
            theirs["status"] == "success" && values(theirs).is_empty() && ours["error"] == error
        },
    },
    Difference {
        reason: "3: a range at a fixed time stays where it is under a function that is evaluated at each step, in 2 it moves \
                 with the steps (promql/engine.go: `ts == ev.startTimestamp || selVS.Timestamp == nil`)",
        query: r#"predict_linear(free_bytes{instance="host-0", device="sda"}[13m] @ start(), 60)"#,
        row: ROWS / 2,
        steps: 2,
        on_border: false,
        is_later: false,
        // The same line all the time: equally far apart.
        holds: |theirs, ours| {
            let [a, b, c] = values(ours)[..] else { return false };
            let [first, second, _] = values(theirs)[..] else { return false };
            near(b - a, c - b) && near(a, first) && !near(b, second)
        },
    },
];

/// Seconds from the last sample to the moment of evaluation.
const END_GAP_S: f64 = 15.0 - (SAMPLE_MS - EVALUATION_MS) as f64 / 1000.0;

/// Each difference by version is what it is said to be.
fn by_version(peer: &Prometheus, ours: &Url, start_ms: i64) {
    for Difference { reason, query, row, steps, on_border, is_later, holds } in DIFFERENCES {
        let sample = start_ms + row * SCRAPE_MS;
        // Before the next sample comes, if not on one.
        let at = if *on_border { sample } else { sample + SCRAPE_MS - SAMPLE_MS + EVALUATION_MS };
        let parameters = if *steps == 0 {
            vec![("query", (*query).to_owned()), ("time", seconds(at))]
        } else {
            let end = at + steps * 60_000;
            vec![
                ("query", (*query).to_owned()),
                ("start", seconds(at)),
                ("end", seconds(end)),
                ("step", seconds(60_000)),
            ]
        };
        let (theirs, ours) = (ask(&peer.base, &parameters), ask(ours, &parameters));
        if peer.is_3 && !is_later {
            let alike = compare(&theirs, &ours, false).and_then(|()| compare_words(&theirs, &ours));
            assert_eq!(alike, Ok(()), "{query} differs from a Prometheus of version 3");
            continue;
        }
        assert!(holds(&theirs, &ours), "{query} does not differ as said ({reason}):\n  {theirs}\n  {ours}");
    }
}

/// A Prometheus with a remote write receiver: Debian's, or the one that `VEGHE_PROMETHEUS` names.
struct Prometheus {
    base: Url,
    /// Whether its version is 3.
    is_3: bool,
    _process: Process,
}

impl Prometheus {
    fn start(dir: &Path) -> Self {
        let settings = dir.join("prometheus.yml");
        fs::write(&settings, "global: {}\n").expect("settings");
        let port = TcpListener::bind("127.0.0.1:0").expect("port").local_addr().expect("address").port();
        let program = std::env::var_os("VEGHE_PROMETHEUS").unwrap_or_else(|| "prometheus".into());
        let version = Command::new(&program).arg("--version").output().expect("Debian's package prometheus");
        let is_3 = String::from_utf8_lossy(&version.stdout).starts_with("prometheus, version 3.");
        let mut command = Command::new(program);
        if is_3 {
            command.arg("--enable-feature=promql-experimental-functions,promql-duration-expr");
        } else {
            command.arg("--enable-feature=promql-negative-offset");
        }
        command.arg(format!("--config.file={}", settings.display()));
        command.arg(format!("--storage.tsdb.path={}", dir.join("prometheus").display()));
        command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
        command.args(["--web.enable-remote-write-receiver", "--log.level=warn"]);
        let process = Process::start(&mut command, &dir.join("prometheus.log")).expect("Debian's package prometheus");
        let base: Url = format!("http://127.0.0.1:{port}/").parse().expect("url");
        let ready = base.join("-/ready").expect("url");
        wait_for("Prometheus is ready", || Ok(http::get(&ready).ok())).expect("ready");
        Self { base, is_3, _process: process }
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
fn compare(theirs: &Value, ours: &Value, sorted: bool) -> Result<(), String> {
    if theirs["status"] != ours["status"] {
        return Err(format!("theirs {theirs}\n  ours {ours}"));
    }
    if theirs["status"] == "error" {
        return (theirs["errorType"] == ours["errorType"]).then_some(()).ok_or_else(|| format!("{theirs} or {ours}"));
    }
    let kind = &theirs["data"]["resultType"];
    if *kind == "scalar" {
        let (a, b) = (&theirs["data"]["result"], &ours["data"]["result"]);
        let same = *kind == ours["data"]["resultType"] && a[0] == b[0] && near(number(&a[1]), number(&b[1]));
        return same.then_some(()).ok_or_else(|| format!("{a} or {b}"));
    }
    if *kind != ours["data"]["resultType"] {
        return Err(format!("{kind} or {}", ours["data"]["resultType"]));
    }
    let rows = |answer: &Value| answer["data"]["result"].as_array().cloned().unwrap_or_default();
    let (mut theirs, mut ours) = (rows(theirs), rows(ours));
    if *kind == "vector" && !sorted {
        for rows in [&mut theirs, &mut ours] {
            rows.sort_by_key(|row| row["metric"].to_string());
        }
    }
    if theirs.len() != ours.len() {
        let names = |rows: &[Value]| rows.iter().map(|row| row["metric"].to_string()).collect::<Vec<_>>().join(" ");
        return Err(format!("series {}\n  or {}", names(&theirs), names(&ours)));
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
            if a[0] != b[0] || !near(number(&a[1]), number(&b[1])) {
                return Err(format!("{}: {a} or {b}", theirs["metric"]));
            }
        }
    }
    Ok(())
}

/// Errors, warnings and infos are the same texts, but for what changed after 3.5: no warning there that a range is not
/// sorted, and the name is told of metrics that have none.
fn compare_words(theirs: &Value, ours: &Value) -> Result<(), String> {
    for kind in ["error", "warnings", "infos"] {
        let words = |answer: &Value| match &answer[kind] {
            Value::Array(texts) => {
                let mut texts: Vec<String> = texts
                    .iter()
                    .map(|text| text.to_string().replace(r#" for metric name \"\""#, ""))
                    .filter(|text| !text.contains(" is ineffective for range queries"))
                    .collect();
                texts.sort();
                texts
            }
            Value::Null => vec![],
            text => vec![text.to_string()],
        };
        let (theirs, ours) = (words(theirs), words(ours));
        if theirs != ours {
            return Err(format!("{kind}: {theirs:?}\n  ours {ours:?}"));
        }
    }
    Ok(())
}

fn number(text: &Value) -> f64 {
    text.as_str().and_then(|t| t.parse().ok()).unwrap_or_else(|| panic!("no number: {text}"))
}

fn near(a: f64, b: f64) -> bool {
    a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1e-3)
}

/// The series of a few hosts: counters with resets, gauges, a histogram; one host comes late and one goes stale.
struct Fleet {
    random: Random,
    values: Vec<f64>,
}

const HOSTS: usize = 6;
/// The row in which a counter begins that is near zero; generated queries don't ask for it.
const YOUNG_FROM: i64 = ROWS / 2;
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
                    self.values[slot] += self.random.below(120) as f64 / 8.0;
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
            if host == 3 && row >= YOUNG_FROM {
                put(vec![("__name__", "young_total".into())], 8.0 + 10.0 * (row - YOUNG_FROM) as f64);
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
    exact: bool,
    /// Whether to generate what only Prometheus 3 has.
    newer: bool,
}

impl Random {
    fn new(seed: u64) -> Self {
        Self { state: seed, in_subquery: false, exact: false, newer: false }
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

    fn query(&mut self) -> String {
        if self.newer && self.chance(2) {
            // Not within others: a power of it magnifies the last bit.
            let (smoothing, trend) = (1 + self.below(98), 1 + self.below(98));
            return format!("double_exponential_smoothing({}, 0.{smoothing:02}, 0.{trend:02})", self.range(0));
        }
        match self.below(20) {
            0 => format!("{}({})", self.pick(&["sort", "sort_desc"]), self.distinct()),
            1 => self.scalar(2),
            _ => self.vector(3),
        }
    }

    /// A vector whose values differ, so that its order is defined.
    fn distinct(&mut self) -> String {
        let instance = self.below(HOSTS as u64);
        let base = format!(r#"free_bytes{{instance="host-{instance}"}}"#);
        match self.below(3) {
            0 => base,
            1 => format!("-{base}"),
            _ => format!("deriv({base}[5m])"),
        }
    }

    /// A vector on every bit of which both sides agree.
    fn exact(&mut self, depth: u32) -> String {
        let before = std::mem::replace(&mut self.exact, true);
        let query = self.vector(depth);
        self.exact = before;
        query
    }

    fn scalar(&mut self, depth: u32) -> String {
        match self.below(5) {
            0 => "time()".to_owned(),
            1 => "pi()".to_owned(),
            2 if depth > 0 => format!("scalar(sum({}))", self.exact(depth - 1)),
            3 if depth > 0 => {
                let operator = *self.pick(&["+", "-", "*", "/", "%", "^", "atan2", "> bool", "<= bool"]);
                // A remainder magnifies the last bit, in which powers differ by library.
                let one = if operator == "%" { self.number() } else { self.scalar(depth - 1) };
                format!("({one} {operator} {})", self.below(20))
            }
            _ => self.number(),
        }
    }

    /// A number of whole eighths.
    fn number(&mut self) -> String {
        (self.below(800) as f64 / 8.0).to_string()
    }

    fn exact_vector(&mut self, depth: u32) -> String {
        match self.below(9) {
            0 => format!("{}{}", self.selector(), self.modifier()),
            1 | 2 => {
                let function = *self.pick(&[
                    "resets",
                    "changes",
                    "idelta",
                    "min_over_time",
                    "max_over_time",
                    "sum_over_time",
                    "count_over_time",
                    "last_over_time",
                    "present_over_time",
                ]);
                format!("{function}({})", self.range(depth))
            }
            3 | 4 => {
                let operator = *self.pick(&["sum", "min", "max", "count", "group"]);
                let by = self.grouping();
                format!("{operator}{by} ({})", self.vector(depth - 1))
            }
            5 => {
                let function = *self.pick(&["abs", "ceil", "floor", "sgn", "-", "absent"]);
                format!("{function}({})", self.vector(depth - 1))
            }
            6 => {
                let operator = *self.pick(&["+", "-", "*", ">", "<= bool", "== bool", "!=", "%"]);
                format!("({}) {operator} {}", self.vector(depth - 1), 1 + self.below(8))
            }
            7 => format!("clamp({}, 10, 1e6)", self.vector(depth - 1)),
            _ => {
                let operator = *self.pick(&["and", "or", "unless", "+", "-"]);
                let (one, other) = (self.vector(depth - 1), self.vector(depth - 1));
                format!("sum by (instance, zone) ({one}) {operator} max by (instance, zone) ({other})")
            }
        }
    }

    fn grouping(&mut self) -> &'static str {
        const GROUPINGS: &[&str] =
            &["", " by (instance)", " by (zone)", " by (zone, mode)", " without (instance)", " without (cpu, device)"];
        GROUPINGS[self.below(GROUPINGS.len() as u64) as usize]
    }

    fn vector(&mut self, depth: u32) -> String {
        if depth == 0 {
            return format!("{}{}", self.selector(), self.modifier());
        }
        if self.exact {
            return self.exact_vector(depth);
        }
        if self.newer && self.chance(20) {
            return self.newer_vector(depth);
        }
        match self.below(15) {
            11 => self.magnifying(depth),
            12 => self.compared(depth),
            13 => {
                let operator = *self.pick(&["+", "-", "*", "/", "%", "^", ">", "<", "<= bool", "== bool"]);
                let one = if operator == "%" { self.number() } else { self.scalar(1) };
                format!("{one} {operator} ({})", self.exact(depth - 1))
            }
            14 => match self.below(4) {
                0 => format!("vector({})", self.scalar(depth - 1)),
                1 => format!(r#"label_join({}, "both", "-", "instance", "zone")"#, self.vector(depth - 1)),
                2 => format!("clamp_min({}, {})", self.vector(depth - 1), self.scalar(0)),
                _ => format!("{} by (zone) ({}, free_bytes)", self.pick(&["topk", "bottomk"]), 1 + self.below(3)),
            },
            0 => format!("{}{}", self.selector(), self.modifier()),
            1 | 2 => {
                if self.chance(30) {
                    let function = *self.pick(&["rate", "increase"]);
                    return format!("{function}({})", self.counter_range());
                }
                let function = *self.pick(&[
                    "irate",
                    "delta",
                    "idelta",
                    "resets",
                    "changes",
                    "avg_over_time",
                    "min_over_time",
                    "max_over_time",
                    "sum_over_time",
                    "count_over_time",
                    "last_over_time",
                    "present_over_time",
                    "absent_over_time",
                ]);
                format!("{function}({})", self.range(depth))
            }
            3 => format!("quantile_over_time(0.{}, {})", self.below(100), self.range(depth)),
            4 | 5 => {
                let operator = *self.pick(&["sum", "avg", "min", "max", "count", "group"]);
                let by = self.grouping();
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
                    "asin",
                    "acos",
                    "atan",
                    "sinh",
                    "cosh",
                    "tanh",
                    "asinh",
                    "acosh",
                    "atanh",
                    "day_of_month",
                    "day_of_year",
                    "month",
                    "year",
                    "deg",
                    "rad",
                ]);
                let inner = self.vector(depth - 1);
                let dates =
                    ["hour", "minute", "day_of_week", "day_of_month", "day_of_year", "days_in_month", "month", "year"];
                let inner = if dates.contains(&function) { format!("timestamp({inner})") } else { inner };
                format!("{function}({inner})")
            }
            8 => match self.below(4) {
                0 => format!("clamp({}, 10, 1e6)", self.vector(depth - 1)),
                1 => format!("clamp_max({}, 1e6)", self.vector(depth - 1)),
                2 => format!(r#"label_replace({}, "host", "$1", "instance", "host-(.*)")"#, self.vector(depth - 1)),
                _ => "histogram_quantile(0.9, sum by (le, zone) (rate(request_seconds_bucket[10m])))".to_owned(),
            },
            9 => {
                let operator = *self.pick(&["+", "-", "*", "/", "^", ">", "<= bool", "== bool", "!="]);
                format!("({}) {operator} {}", self.vector(depth - 1), self.scalar(0))
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

    /// What Prometheus 2 does not have.
    fn newer_vector(&mut self, depth: u32) -> String {
        match self.below(8) {
            0 => {
                let function = *self.pick(&["ts_of_min_over_time", "ts_of_max_over_time", "ts_of_last_over_time"]);
                format!("{function}({})", self.exact_range(depth))
            }
            1 => format!("mad_over_time({})", self.range(depth)),
            // Which ones is not defined.
            2 => format!("count(limitk{} ({}, {}))", self.grouping(), self.below(5), self.vector(depth - 1)),
            3 => {
                let ratio = self.below(20) as f64 / 10.0 - 1.0;
                format!("limit_ratio{} ({ratio}, {})", self.grouping(), self.vector(depth - 1))
            }
            4 => {
                let metric = *self.pick(&["cpu_seconds_total", "alive", "free_bytes"]);
                format!(r#"info({metric}, {{__name__="info"}})"#)
            }
            5 => {
                let function = *self.pick(&["rate", "avg_over_time", "count_over_time", "delta"]);
                let range = *self.pick(&["5m + 30s", "2 * 3m", "10m / 3", "2m ^ 1.1", "(1m + 2m) * 2"]);
                format!("{function}({}[{range}] offset (1m * {}))", self.selector(), self.below(4))
            }
            6 => {
                let (upper, of) = (self.number(), self.vector(depth - 1));
                // A bound in the first bucket is NaN in 3.5 and not later; of a share of the buckets any may be the first.
                let lower = if of.contains("limit_ratio") { "1e9" } else { "0.5" };
                format!("histogram_fraction({lower}, {upper}, {of})")
            }
            _ => format!("histogram_quantile({}, {})", self.number(), self.vector(depth - 1)),
        }
    }

    /// Operations that magnify what their operands differ by.
    fn magnifying(&mut self, depth: u32) -> String {
        match self.below(6) {
            0 => {
                let function = *self.pick(&["stddev_over_time", "stdvar_over_time", "deriv"]);
                let range = self.exact_range(depth);
                format!("{function}({range})")
            }
            1 => {
                let operator = *self.pick(&["stddev", "stdvar"]);
                let by = self.grouping();
                format!("{operator}{by} ({})", self.exact(depth - 1))
            }
            2 => format!("predict_linear({}[13m], {})", self.selector(), self.below(7200)),
            3 => format!("({}) % {}", self.exact(depth - 1), self.number()),
            4 => {
                let function = *self.pick(&["sin", "cos", "tan", "ceil", "floor"]);
                format!("{function}({})", self.exact(depth - 1))
            }
            _ => format!("round({}, {})", self.exact(depth - 1), self.pick(&["0.5", "8", "100"])),
        }
    }

    /// Of counters far from zero: near it versions differ where samples are missing, see [`DIFFERENCES`].
    fn counter_range(&mut self) -> String {
        let counter = *self.pick(&[
            "cpu_seconds_total",
            r#"cpu_seconds_total{mode!="idle"}"#,
            r#"request_seconds_bucket{zone="south"}"#,
            r#"request_seconds_bucket{le=~"0.5|[+]Inf"}"#,
        ]);
        if !self.in_subquery && self.chance(25) {
            let by = self.grouping();
            return format!("(max{by} ({counter}))[{}:{}]", self.pick(&["5m", "17m"]), self.pick(&["30s", "47s"]));
        }
        format!("{counter}[{}]{}", self.pick(&["1m", "5m", "13m", "30m"]), self.modifier())
    }

    fn exact_range(&mut self, depth: u32) -> String {
        let before = std::mem::replace(&mut self.exact, true);
        let range = self.range(depth);
        self.exact = before;
        range
    }

    /// Two vectors of exact values, one to one or many to one.
    fn compared(&mut self, depth: u32) -> String {
        let operator = *self.pick(&["-", "%", "^", "atan2", ">", "<", "==", "!=", ">= bool", "<= bool", "== bool"]);
        if self.chance(30) {
            // The name stays in 2: see DIFFERENCES.
            let operator = if operator == "atan2" { "/" } else { operator };
            return format!("({}) {operator} on (instance) group_left (zone) info", self.selector());
        }
        let (one, other) = (self.exact(depth - 1), self.exact(depth - 1));
        format!("sum by (instance, zone) ({one}) {operator} max by (instance, zone) ({other})")
    }
}
