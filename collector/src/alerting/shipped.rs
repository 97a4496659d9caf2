//! The shipped rules, tested on the real store and query engine with the file that `promtool test rules` reads too.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use regex::Regex;
use veghe_model::{Labels, Timestamp};
use veghe_promql::{Query, Value};
use veghe_tsdb::{Commit, Options, Store};
use veghe_wire::document::{Node, Problems, parse_duration};

use super::engine::{GroupRun, Surroundings};
use super::metrics::AlertingMetrics;
use super::rules::{RuleSet, Sources};
use crate::query::{QueryService, Settings};

const TESTS: &str = include_str!("../../rules/host_test.yaml");
const MINUTE: Duration = Duration::from_mins(1);

fn rules() -> RuleSet {
    RuleSet::load(&Sources { files: &[], shipped: true, disabled: &[], interval: MINUTE }).expect("shipped rules")
}

/// A store of its own, the shipped rules, and time that goes on only when told.
struct World {
    store: Store,
    around: Surroundings,
    groups: Vec<GroupRun>,
    _dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("directory");
        let options = Options { dir: dir.path().to_owned(), window: Duration::from_hours(2), max_series: 10_000 };
        let (store, _) = Store::open(options).expect("store");
        let around = Surroundings {
            query: QueryService::new(store.clone(), Settings::default()),
            metrics: AlertingMetrics::register(&prometheus::Registry::new()).expect("metrics"),
            external_url: Arc::from("http://veghe.example"),
            blind_until: Timestamp(0),
        };
        let groups = rules()
            .groups
            .iter()
            .enumerate()
            .map(|(index, group)| GroupRun::new(index, group, &mut BTreeMap::new(), Timestamp(0)))
            .collect();
        Self { store, around, groups, _dir: dir }
    }

    fn feed(&self, samples: &[(Labels, Timestamp, f64)]) {
        let samples = samples
            .iter()
            .map(|(labels, at, value)| (self.store.series(labels).expect("series"), *at, *value))
            .collect();
        self.store.commit(Commit { samples, ..Commit::default() }).expect("commit");
    }

    async fn evaluate(&mut self, at: Timestamp) {
        for group in &mut self.groups {
            group.evaluate(at, &self.around).await;
            for alert in group.alerts() {
                for (name, text) in &alert.annotations {
                    assert!(!text.contains("<error") && !text.contains("<no value>"), "{name}: {text}");
                }
            }
        }
        let failures = self.around.metrics.rule_failures.clone();
        for group in rules().groups {
            assert_eq!(failures.with_label_values(&[&group.name]).get(), 0.0, "a rule of {} failed", group.name);
        }
    }

    async fn ask(&self, expr: &str, at: Timestamp) -> BTreeSet<(Labels, String)> {
        let query = Query::parse(expr).expect("query");
        let Value::Vector(vector) = self.around.query.instant(query, at, None).await.expect("result").value else {
            panic!("{expr} gives no vector");
        };
        vector.into_iter().map(|sample| (sample.labels, sample.value.to_string())).collect()
    }

    async fn firing(&self, alert: &str, at: Timestamp) -> Vec<String> {
        let expr = format!("count by (instance) (ALERTS{{alertname={alert:?},alertstate=\"firing\"}})");
        let found = self.ask(&expr, at).await;
        found.into_iter().map(|(labels, _)| labels.get("instance").unwrap_or_default().to_owned()).collect()
    }
}

fn labels(text: &str) -> Labels {
    let (name, rest) = text.split_once('{').unwrap_or((text, ""));
    let pair = Regex::new(r#"(\w+)="([^"]*)""#).expect("pattern");
    let mut pairs: Vec<(String, String)> =
        pair.captures_iter(rest).map(|c| (c[1].to_owned(), c[2].to_owned())).collect();
    pairs.push(("__name__".to_owned(), name.to_owned()));
    Labels::from_pairs(pairs)
}

/// Promtool's notation of samples: `1`, `1x3` (four times), `0+2x3`, `_x5` (five times nothing).
fn values(text: &str) -> Vec<Option<f64>> {
    let token = Regex::new(r"^(?:(_)|(-?[0-9.e]+)(?:([+-])([0-9.e]+))?)(?:x(\d+))?$").expect("pattern");
    let mut values = Vec::new();
    for part in text.split_whitespace() {
        let c = token.captures(part).unwrap_or_else(|| panic!("{part}"));
        let number = |at: usize| c.get(at).map_or(0.0, |m| m.as_str().parse::<f64>().expect(part));
        let times: Option<u32> = c.get(5).map(|m| m.as_str().parse().expect(part));
        if c.get(1).is_some() {
            values.extend((0..times.unwrap_or(1)).map(|_| None));
        } else {
            let step = if c.get(3).is_some_and(|m| m.as_str() == "-") { -number(4) } else { number(4) };
            values.extend((0..=times.unwrap_or(0)).map(|n| Some(number(2) + step * f64::from(n))));
        }
    }
    values
}

#[test]
fn promtools_notation_of_samples_is_read() {
    assert_eq!(
        values("1x2 _x2 5 4-2x1"),
        [Some(1.0), Some(1.0), Some(1.0), None, None, Some(5.0), Some(4.0), Some(2.0)]
    );
}

#[tokio::test]
async fn every_shipped_rule_fires_when_it_should_and_not_otherwise() {
    let mut problems = Problems::new("host_test.yaml");
    let node = Node::parse(TESTS, &mut problems).expect("YAML");
    let mut root = node.section(&mut problems);
    let mut checked = 0;
    for test in root.list("tests", &mut problems) {
        let mut test = test.section(&mut problems);
        let name = test.require("name", &mut problems).and_then(|n| n.text(&mut problems)).expect("name");
        let interval = test.value("interval", &mut problems, parse_duration).expect("interval");
        let mut samples: Vec<(Labels, Timestamp, f64)> = Vec::new();
        for series in test.list("input_series", &mut problems) {
            let mut series = series.section(&mut problems);
            let mut text = |key| series.require(key, &mut problems).and_then(|n| n.text(&mut problems)).expect(name);
            let (series, values) = (labels(text("series")), values(text("values")));
            for (n, value) in values.into_iter().enumerate() {
                let at = Timestamp(interval.as_millis() as i64 * n as i64);
                samples.extend(value.map(|value| (series.clone(), at, value)));
            }
        }
        samples.sort_by_key(|(_, at, _)| *at);
        let mut checks = Vec::new();
        for check in test.list("promql_expr_test", &mut problems) {
            let mut check = check.section(&mut problems);
            let expr = check.require("expr", &mut problems).and_then(|n| n.text(&mut problems)).expect("expr");
            let at = check.value("eval_time", &mut problems, parse_duration).expect("time");
            let expected: BTreeSet<(Labels, String)> = check
                .list("exp_samples", &mut problems)
                .iter()
                .map(|sample| {
                    let mut sample = sample.section(&mut problems);
                    let mut text = |key| sample.require(key, &mut problems).and_then(|n| n.text(&mut problems));
                    (labels(text("labels").expect("labels")), text("value").expect("value").to_owned())
                })
                .collect();
            checks.push((expr, Timestamp(at.as_millis() as i64), expected));
        }
        let end = checks.iter().map(|(_, at, _)| *at).max().expect("a check");
        let mut world = World::new();
        let (mut fed, mut now) = (0, Timestamp(0));
        while now <= end {
            let until = fed + samples.iter().skip(fed).take_while(|(_, at, _)| *at <= now).count();
            world.feed(&samples[fed..until]);
            fed = until;
            world.evaluate(now).await;
            for (expr, at, expected) in &checks {
                if *at == now {
                    assert_eq!(world.ask(expr, now).await, *expected, "{name}: {expr} at {now} s");
                    checked += 1;
                }
            }
            now = now.saturating_add(MINUTE);
        }
    }
    assert!(problems.is_empty(), "{problems}");
    assert!(checked >= 15, "{checked}");
}

#[tokio::test]
async fn a_clock_that_is_ahead_behind_or_not_synchronized_alerts() {
    let mut world = World::new();
    let minutes = 16;
    for minute in 0..=minutes {
        let now = Timestamp(minute * 60_000);
        let at = |seconds: i64| Timestamp(now.0 + seconds * 1000);
        let mut samples = Vec::new();
        for (instance, skew) in [("fine", -5), ("ahead", 60), ("behind", -120)] {
            let series = |name: &str| Labels::from_pairs([("__name__", name), ("job", "node"), ("instance", instance)]);
            samples.push((series("node_time_seconds"), at(skew), at(skew).seconds()));
            samples.push((series("up"), now, 1.0));
        }
        let timex = |instance: &str| {
            Labels::from_pairs([("__name__", "node_timex_sync_status"), ("job", "node"), ("instance", instance)])
        };
        samples.push((timex("fine"), now, 1.0));
        samples.push((timex("alone"), now, 0.0));
        world.feed(&samples);
        world.evaluate(now).await;
    }
    let end = Timestamp(minutes * 60_000);
    assert_eq!(world.firing("HostClockSkew", end).await, ["ahead", "alone", "behind"]);
}

#[test]
fn every_shipped_alert_has_both_languages_a_severity_and_a_playbook() {
    let playbooks = Path::new(env!("CARGO_MANIFEST_DIR")).join("../playbooks");
    for rule in rules().alerts() {
        let text = |pairs: &[(String, super::template::Template)], name: &str| {
            pairs.iter().find(|(n, _)| n == name).map(|(_, t)| t.text().to_owned())
        };
        let severity = text(&rule.labels, "severity").unwrap_or_default();
        assert!(["critical", "warning"].contains(&severity.as_str()), "{}", rule.name);
        for name in ["summary", "summary_ro", "description", "description_ro"] {
            assert!(text(&rule.annotations, name).is_some_and(|t| t.len() > 10), "{} lacks {name}", rule.name);
        }
        assert_eq!(text(&rule.annotations, "runbook"), Some(format!("playbooks/{}.md", rule.name)));
        let playbook = std::fs::read_to_string(playbooks.join(format!("{}.md", rule.name))).expect(&rule.name);
        assert!(
            playbook.contains("## Look here first") && playbook.contains("## Unde vă uitați întâi"),
            "{}",
            rule.name
        );
        // Cedilla forms are a common mistake in Romanian.
        assert!(!playbook.contains(['\u{15f}', '\u{163}', '\u{15e}', '\u{162}']), "{}", rule.name);
    }
}
