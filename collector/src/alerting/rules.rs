//! Prometheus rule files: text in, checked groups out.
//!
//! Invariants: a [`RuleSet`] has no known problem: every expression and template in it parses; every problem of every
//! file is found in one run, with file, line, key and remedy. What it deliberately does not do: evaluate.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use veghe_model::{is_label_name, is_metric_name};
use veghe_promql::{ParseError, Query};
use veghe_wire::document::{Node, Problems, Section, parse_duration};

use super::template::Template;

/// The name under which the shipped rules appear as a file.
pub const SHIPPED_FILE: &str = "host.yaml (shipped)";

const SHIPPED: &str = include_str!("../../rules/host.yaml");

/// The largest rule file that is read.
const MAX_FILE_BYTES: u64 = 4 << 20;

const GROUP_KEYS: &[&str] = &["name", "interval", "query_offset", "limit", "labels", "rules"];
const RULE_KEYS: &[&str] = &["alert", "record", "expr", "for", "keep_firing_for", "labels", "annotations"];

/// Rules that are evaluated together, in order, at one interval.
#[derive(Clone, Debug)]
pub struct Group {
    /// The file that it comes from.
    pub file: String,
    /// Its name, unique in its file.
    pub name: String,
    /// How often it is evaluated.
    pub interval: Duration,
    /// How far behind now it is evaluated.
    pub query_offset: Duration,
    /// How many alerts or series a rule of it may give; 0 is no limit.
    pub limit: usize,
    /// Its rules.
    pub rules: Vec<Rule>,
}

/// One rule.
#[derive(Clone, Debug)]
pub enum Rule {
    /// `alert: ...`
    Alert {
        /// The rule.
        rule: AlertRule,
        /// Its expression.
        query: Query,
    },
    /// `record: ...`
    Record {
        /// The rule.
        rule: RecordRule,
        /// Its expression.
        query: Query,
    },
}

/// What makes alerts out of a result.
#[derive(Clone, Debug)]
pub struct AlertRule {
    /// `alertname`.
    pub name: String,
    /// The expression as written.
    pub expr: String,
    /// `for`: how long the expression must be true before the alert fires.
    pub hold: Duration,
    /// How long an alert keeps firing after the expression ended.
    pub keep_firing_for: Duration,
    /// Labels added to the alert, ascending by name.
    pub labels: Vec<(String, Template)>,
    /// Texts for people, ascending by name.
    pub annotations: Vec<(String, Template)>,
}

/// What makes new series out of a result.
#[derive(Clone, Debug)]
pub struct RecordRule {
    /// The name of the series.
    pub name: String,
    /// The expression as written.
    pub expr: String,
    /// Labels set on the series, ascending by name; an empty value removes one.
    pub labels: Vec<(String, String)>,
}

impl Rule {
    /// What an alert's state is kept under: file, group, name and labels, as Prometheus recognizes a rule after a reload.
    pub fn key(&self, group: &Group) -> String {
        let (kind, name, labels) = match self {
            Self::Alert { rule, .. } => {
                ("alert", &rule.name, join(rule.labels.iter().map(|(n, t)| (n.as_str(), t.text()))))
            }
            Self::Record { rule, .. } => {
                ("record", &rule.name, join(rule.labels.iter().map(|(n, v)| (n.as_str(), v.as_str()))))
            }
        };
        format!("{};{};{kind} {name}{{{labels}}}", group.file, group.name)
    }
}

fn join<'a>(labels: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    labels.map(|(name, value)| format!("{name}={value:?}")).collect::<Vec<_>>().join(",")
}

/// Every rule in force.
#[derive(Clone, Debug, Default)]
pub struct RuleSet {
    /// In the order of files and of groups in them.
    pub groups: Vec<Arc<Group>>,
}

/// Everything that is wrong with the rule files.
#[derive(Debug)]
pub struct RuleProblems(pub Vec<Problems>);

impl fmt::Display for RuleProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problems) in self.0.iter().enumerate() {
            write!(f, "{}{problems}", if i == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl std::error::Error for RuleProblems {}

/// Where rules come from.
#[derive(Clone, Debug)]
pub struct Sources<'a> {
    /// Files, or directories of which every `.yml` and `.yaml` is read.
    pub files: &'a [PathBuf],
    /// Whether the shipped rules apply.
    pub shipped: bool,
    /// Names of shipped alerts that don't.
    pub disabled: &'a [String],
    /// For groups that name none.
    pub interval: Duration,
}

impl RuleSet {
    /// Reads the shipped rules and every file.
    ///
    /// # Errors
    /// All problems of all files; nothing of them is in force then.
    pub fn load(sources: &Sources<'_>) -> Result<Self, RuleProblems> {
        let mut groups = Vec::new();
        let mut wrong = Vec::new();
        let mut keep = |result: Result<Vec<Group>, Problems>| match result {
            Ok(found) => groups.extend(found.into_iter().map(Arc::new)),
            Err(problems) => wrong.push(problems),
        };
        if sources.shipped {
            keep(shipped(sources.disabled, sources.interval));
        }
        for path in sources.files {
            match expand_directory(path) {
                Ok(files) => {
                    for file in files {
                        keep(read(&file).and_then(|text| parse(&file.display().to_string(), &text, sources.interval)));
                    }
                }
                Err(problems) => keep(Err(problems)),
            }
        }
        if wrong.is_empty() { Ok(Self { groups }) } else { Err(RuleProblems(wrong)) }
    }

    /// Every alerting rule.
    pub fn alerts(&self) -> impl Iterator<Item = &AlertRule> {
        self.groups.iter().flat_map(|group| &group.rules).filter_map(|rule| match rule {
            Rule::Alert { rule, .. } => Some(rule),
            Rule::Record { .. } => None,
        })
    }
}

fn shipped(disabled: &[String], interval: Duration) -> Result<Vec<Group>, Problems> {
    let mut groups = parse(SHIPPED_FILE, SHIPPED, interval)?;
    let mut problems = Problems::new("settings");
    for name in disabled {
        let known = groups.iter().flat_map(|g| &g.rules).any(|rule| is_alert(rule, name));
        if !known {
            problems.note(0, "alerting.disabled_rules", format_args!("`{name}` is not a shipped alert"));
        }
    }
    for group in &mut groups {
        group.rules.retain(|rule| !disabled.iter().any(|name| is_alert(rule, name)));
    }
    groups.retain(|group| !group.rules.is_empty());
    problems.finish(Some(groups))
}

fn is_alert(rule: &Rule, name: &str) -> bool {
    matches!(rule, Rule::Alert { rule, .. } if rule.name == name)
}

fn failed(path: &Path, what: &str, cause: &std::io::Error) -> Problems {
    let mut problems = Problems::new(path);
    problems.note(0, "", format_args!("cannot {what}: {cause}; check path and permissions"));
    problems
}

fn expand_directory(path: &Path) -> Result<Vec<PathBuf>, Problems> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let unreadable = |cause: std::io::Error| failed(path, "list the directory", &cause);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(unreadable)? {
        let file = entry.map_err(unreadable)?.path();
        if file.extension().is_some_and(|e| e == "yml" || e == "yaml") {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

fn read(path: &Path) -> Result<String, Problems> {
    let size = std::fs::metadata(path).map_err(|cause| failed(path, "read the file", &cause))?.len();
    if size > MAX_FILE_BYTES {
        let mut problems = Problems::new(path);
        problems.note(0, "", format_args!("has {size} bytes; split it, at most {MAX_FILE_BYTES} are read"));
        return Err(problems);
    }
    std::fs::read_to_string(path).map_err(|cause| failed(path, "read the file", &cause))
}

/// The groups of one file's `text`; `interval` is for groups that name none.
///
/// # Errors
/// Everything that is wrong with it.
pub(super) fn parse(file: &str, text: &str, interval: Duration) -> Result<Vec<Group>, Problems> {
    let mut problems = Problems::new(file);
    let groups = Node::parse(text, &mut problems).map(|node| {
        let mut root = node.section(&mut problems);
        let mut groups: Vec<Group> = Vec::new();
        for node in root.list("groups", &mut problems) {
            let group = read_group(node, file, interval, &mut problems);
            if !group.name.is_empty() && groups.iter().any(|other| other.name == group.name) {
                let remedy = "is the name of an earlier group of this file; rename one";
                problems.note(node.line, format!("{}.name", node.key), format_args!("`{}` {remedy}", group.name));
            }
            groups.push(group);
        }
        root.finish(&["groups"], &mut problems);
        groups
    });
    problems.finish(groups)
}

fn read_group(node: &Node, file: &str, interval: Duration, problems: &mut Problems) -> Group {
    let mut section = node.section(problems);
    let name = section.require("name", problems).and_then(|n| n.text(problems)).unwrap_or_default().to_owned();
    let own_interval = section.value("interval", problems, |text| match parse_duration(text)? {
        Duration::ZERO => Err("must be longer than nothing, for example `15s`".to_owned()),
        interval => Ok(interval),
    });
    let query_offset = section.value("query_offset", problems, parse_duration).unwrap_or_default();
    let limit = section
        .value("limit", problems, |text| {
            text.parse::<usize>().map_err(|_not| format!("`{text}` is not a number of alerts; `0` is no limit"))
        })
        .unwrap_or_default();
    let labels = read_labels(&mut section, "labels", problems);
    let mut rules: Vec<Rule> = Vec::new();
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let group = Group {
        file: file.to_owned(),
        name,
        interval: own_interval.unwrap_or(interval),
        query_offset,
        limit,
        rules: Vec::new(),
    };
    for node in section.list("rules", problems) {
        let Some(rule) = read_rule(node, &labels, problems) else { continue };
        match seen.entry(rule.key(&group)) {
            std::collections::btree_map::Entry::Occupied(first) => {
                let first = first.get();
                problems.note(
                    node.line,
                    &*node.key,
                    format_args!(
                        "has the name and labels of the rule in line {first}; rename one or give it another label"
                    ),
                );
            }
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(node.line);
                rules.push(rule);
            }
        }
    }
    section.finish(GROUP_KEYS, problems);
    Group { rules, ..group }
}

type Pairs<'a> = BTreeMap<String, (&'a Node, String)>;

fn read_labels<'a>(section: &mut Section<'a>, key: &str, problems: &mut Problems) -> Pairs<'a> {
    let mut pairs = BTreeMap::new();
    if let Some(mut labels) = section.section(key, problems) {
        for (name, node) in labels.take_all() {
            if !is_label_name(name) || name == "__name__" {
                problems.note(
                    node.line,
                    &*node.key,
                    format_args!("`{name}` can't name a label; use letters, digits and `_`"),
                );
            }
            // `label: ""` and `label:` both remove a label from recorded series.
            let text = if node.is_section() { None } else { node.text(problems) };
            pairs.insert(name.to_owned(), (node, text.unwrap_or_default().to_owned()));
        }
    }
    pairs
}

fn templates(pairs: &Pairs<'_>, problems: &mut Problems) -> Vec<(String, Template)> {
    let mut templates = Vec::new();
    for (name, (node, text)) in pairs {
        let parsed = Template::parse(text)
            .map_err(|error| format!("the template does not parse: {error}; see Prometheus' template reference"));
        if let Some(template) = problems.check(node.line, &node.key, parsed) {
            templates.push((name.clone(), template));
        }
    }
    templates
}

fn read_rule(node: &Node, group_labels: &Pairs<'_>, problems: &mut Problems) -> Option<Rule> {
    let mut section = node.section(problems);
    let alert = section.take("alert");
    let record = section.take("record");
    let expr = section.require("expr", problems);
    let hold = section.take("for");
    let keep = section.take("keep_firing_for");
    let annotation_node = section.take("annotations");
    let mut labels = group_labels.clone();
    labels.extend(read_labels(&mut section, "labels", problems));
    let annotations = annotation_node.map(|_| read_labels(&mut section, "annotations", problems)).unwrap_or_default();
    section.finish(RULE_KEYS, problems);

    let expr = expr.and_then(|node| {
        let text = node.text(problems)?.trim().to_owned();
        let query = Query::parse(&text).map_err(|error| {
            let line = if let ParseError::Syntax { line, .. } = &error { *line } else { 1 };
            // The text of a block (`expr: |`) begins below its key; only a block keeps its line ends.
            let at = if text.contains('\n') { node.line + line } else { node.line };
            let hint = "line and column count from the start of the expression";
            problems.note(at, &*node.key, format_args!("is not PromQL: {error} ({hint})"));
        });
        Some((query.ok()?, text))
    });
    match (alert, record) {
        (Some(_), Some(record)) => {
            problems.note(record.line, &*record.key, "stands beside `alert`; a rule has one of the two");
            None
        }
        (None, None) => {
            problems.note(node.line, &*node.key, "has neither `alert` nor `record`; give it one of the two");
            None
        }
        (Some(alert), None) => {
            let name = alert.text(problems)?.to_owned();
            let duration = |node: Option<&Node>, problems: &mut Problems| {
                node.and_then(|node| {
                    let text = node.text(problems)?;
                    problems.check(node.line, &node.key, parse_duration(text))
                })
                .unwrap_or_default()
            };
            let hold = duration(hold, problems);
            let keep_firing_for = duration(keep, problems);
            let labels = templates(&labels, problems);
            let annotations = templates(&annotations, problems);
            let (query, expr) = expr?;
            Some(Rule::Alert { rule: AlertRule { name, expr, hold, keep_firing_for, labels, annotations }, query })
        }
        (None, Some(record)) => {
            let name = record.text(problems)?.to_owned();
            if !is_metric_name(&name) {
                let remedy = "can't name a series; use letters, digits, `_` and `:`";
                problems.note(record.line, &*record.key, format_args!("`{name}` {remedy}"));
            }
            for node in [hold, keep, annotation_node].into_iter().flatten() {
                problems.note(node.line, &*node.key, "has no meaning in a recording rule; remove it");
            }
            let labels = labels.into_iter().map(|(name, (_, value))| (name, value)).collect();
            let (query, expr) = expr?;
            Some(Rule::Record { rule: RecordRule { name, expr, labels }, query })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    #[test]
    fn a_rule_file_is_read_with_all_its_keys() {
        let text = "
groups:
  - name: disks
    interval: 30s
    query_offset: 5s
    limit: 10
    labels: {team: it}
    rules:
      - alert: Full
        expr: free < 5
        for: 1h30m
        keep_firing_for: 5m
        labels: {severity: critical, team: storage}
        annotations:
          summary: '{{ $labels.instance }} is full'
      - record: instance:free:avg
        expr: |
          avg by (instance)
            (free)
        labels: {source: rule}
  - name: empty
    rules: []
";
        let groups = parse("r.yaml", text, MINUTE).expect("no problem");
        assert_eq!(groups.len(), 2);
        let group = &groups[0];
        assert_eq!((group.interval, group.query_offset, group.limit), (MINUTE / 2, Duration::from_secs(5), 10));
        assert_eq!(groups[1].interval, MINUTE);
        let Rule::Alert { rule, .. } = &group.rules[0] else { panic!("an alert") };
        assert_eq!((rule.hold, rule.keep_firing_for), (MINUTE * 90, MINUTE * 5));
        let labels: Vec<_> = rule.labels.iter().map(|(n, t)| format!("{n}={}", t.text())).collect();
        assert_eq!(labels, ["severity=critical", "team=storage"]);
        let Rule::Record { rule, .. } = &group.rules[1] else { panic!("a record") };
        assert_eq!(rule.expr, "avg by (instance)\n  (free)");
        assert_eq!(rule.labels, [("source".to_owned(), "rule".to_owned()), ("team".to_owned(), "it".to_owned())]);
    }

    #[test]
    fn every_problem_of_a_file_is_found_in_one_run() {
        let text = "
groups:
  - name: a
    interval: 15
    rules:
      - alert: One
        expr: up ==
        for: soon
        anotations: {}
      - alert: Two
        expr: up
        annotations:
          summary: '{{ nosuch }}'
      - record: not-a-name
        expr: up
        for: 5m
      - alert: Three
        record: three
        expr: up
      - expr: up
      - alert: Two
        expr: up == 0
      - alert: Four
        labels: {bad-name: x}
  - name: a
    limit: many
";
        let problems = parse("r.yaml", text, MINUTE).expect_err("problems");
        let found: Vec<String> = problems.iter().map(|p| format!("{}:{}", p.line, p.key)).collect();
        assert_eq!(
            found,
            [
                "4:groups[0].interval",
                "7:groups[0].rules[0].expr",
                "8:groups[0].rules[0].for",
                "9:groups[0].rules[0].anotations",
                "13:groups[0].rules[1].annotations.summary",
                "14:groups[0].rules[2].record",
                "16:groups[0].rules[2].for",
                "18:groups[0].rules[3].record",
                "20:groups[0].rules[4]",
                "21:groups[0].rules[5]",
                "23:groups[0].rules[6].expr",
                "24:groups[0].rules[6].labels.bad-name",
                "25:groups[1].name",
                "26:groups[1].limit",
            ],
            "{problems}"
        );
        assert!(problems.to_string().contains("did you mean `annotations`?"));
    }

    #[test]
    fn an_error_in_a_long_expression_names_the_line_of_the_file() {
        let text = "groups:\n- name: a\n  rules:\n  - alert: X\n    expr: |\n      up\n      ==\n      and up\n";
        let problems = parse("r.yaml", text, MINUTE).expect_err("problem");
        let problem = problems.iter().next().expect("one problem");
        assert_eq!((problem.line, problem.key.as_str()), (8, "groups[0].rules[0].expr"), "{problems}");
    }

    #[test]
    fn two_rules_with_one_name_need_different_labels() {
        let text = |label: &str| {
            format!(
                "groups: [{{name: a, rules: [{{alert: X, expr: up, labels: {{severity: warning}}}}, \
                 {{alert: X, expr: up, labels: {{severity: {label}}}}}]}}]"
            )
        };
        assert!(parse("r.yaml", &text("critical"), MINUTE).is_ok());
        let problems = parse("r.yaml", &text("warning"), MINUTE).expect_err("duplicate");
        assert!(problems.to_string().contains("has the name and labels of the rule in line 1"), "{problems}");
    }

    #[test]
    fn files_and_directories_are_read_and_missing_ones_named() {
        let dir = tempfile::tempdir().expect("directory");
        std::fs::write(dir.path().join("b.yml"), "groups: [{name: b, rules: []}]").expect("file");
        std::fs::write(dir.path().join("a.yaml"), "groups: [{name: a, rules: []}]").expect("file");
        std::fs::write(dir.path().join("note.txt"), "not rules").expect("file");
        let files = [dir.path().to_owned()];
        let sources = Sources { files: &files, shipped: false, disabled: &[], interval: MINUTE };
        let names: Vec<_> =
            RuleSet::load(&sources).expect("rules").groups.iter().map(|group| group.name.clone()).collect();
        assert_eq!(names, ["a", "b"]);
        let missing = [dir.path().join("none.yaml"), dir.path().join("nothing.yaml")];
        let problems = RuleSet::load(&Sources { files: &missing, ..sources }).expect_err("missing").to_string();
        assert!(
            problems.contains("none.yaml: cannot read") && problems.contains("nothing.yaml: cannot read"),
            "{problems}"
        );
    }

    #[test]
    fn shipped_rules_are_on_and_can_be_turned_off_by_name() {
        let none: [String; 0] = [];
        let sources = Sources { files: &[], shipped: true, disabled: &none, interval: MINUTE };
        let all = RuleSet::load(&sources).expect("shipped rules");
        assert!(all.alerts().any(|rule| rule.name == "VegheAgentDown"));
        let off = ["VegheAgentDown".to_owned()];
        let fewer = RuleSet::load(&Sources { disabled: &off, ..sources.clone() }).expect("shipped rules");
        assert_eq!(fewer.alerts().filter(|rule| rule.name == "VegheAgentDown").count(), 0);
        let wrong = ["NoSuchAlert".to_owned()];
        let problems = RuleSet::load(&Sources { disabled: &wrong, ..sources }).expect_err("unknown").to_string();
        assert!(problems.contains("`NoSuchAlert` is not a shipped alert"), "{problems}");
    }
}
