//! The part of Prometheus' `scrape_configs` that an agent takes; each address becomes a [`Target`].
//!
//! `relabel_configs` are applied here, once, to what Prometheus gives a target: `__address__`, `__scheme__`,
//! `__metrics_path__`, `__scrape_timeout__`, `__param_<name>`, `job` and the labels of `static_configs`. An `instance` that
//! they set becomes the label `target`, as the collector sets `instance` to the agent.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use url::Url;
use veghe_model::{Labels, LabelsBuilder, RelabelRule, RelabelSettings, relabel};
use veghe_wire::document::{Node, Problems, Section, format_duration, parse_bool, parse_duration};

use super::super::glob::Globs;
use super::super::http::{Login, Tls};
use crate::sensors::options::{
    absolute, few, host_and_port, label_value, labels, list, pattern, quoted, required, span, texts, write_labels,
};

pub(crate) const KEYS: &[&str] = &["scrape_configs"];
/// Below the deadline of a sensor.
const TIMEOUT: Duration = Duration::from_secs(4);
const JOB_KEYS: &[&str] = &[
    "job_name",
    "scheme",
    "metrics_path",
    "params",
    "scrape_timeout",
    "drop",
    "basic_auth",
    "authorization",
    "tls_config",
    "relabel_configs",
    "metric_relabel_configs",
    "static_configs",
];
const RULE_KEYS: &[&str] = &["source_labels", "separator", "regex", "modulus", "target_label", "replacement", "action"];

/// One exporter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The value of the label `job`.
    pub job: String,
    /// Where its metrics are, for example `http://127.0.0.1:9187/metrics`.
    pub url: Url,
    /// How long all of it may take.
    pub timeout: Duration,
    /// Labels of every series, `job` not among them.
    pub labels: Vec<(String, String)>,
    /// Names of metrics that are dropped.
    pub drop: Globs,
    /// Whom it has to be, where it is asked by TLS.
    pub tls: Tls,
    /// What it asks for before it answers.
    pub login: Option<Login>,
    /// What becomes of its series.
    pub rules: Vec<RelabelSettings>,
}

/// Reads `scrape_configs`.
pub(crate) fn read(section: &mut Section<'_>, problems: &mut Problems) -> Vec<Target> {
    let jobs = section.list("scrape_configs", problems);
    let targets: Vec<Target> = jobs.iter().flat_map(|node| scrape_config(node, problems)).collect();
    few(jobs, targets.len(), problems);
    targets
}

/// One target for each address that the job's rules keep.
fn scrape_config(node: &Node, problems: &mut Problems) -> Vec<Target> {
    let mut section = node.section(problems);
    let job = required(&mut section, "job_name", problems, label_value);
    let scheme = section.value("scheme", problems, scheme).unwrap_or_else(|| "http".to_owned());
    let path = section.value("metrics_path", problems, metrics_path).unwrap_or_else(|| "/metrics".to_owned());
    let params = params(&mut section, problems);
    let timeout = section.value("scrape_timeout", problems, span).unwrap_or(TIMEOUT);
    let drop = Globs::new(texts(section.list("drop", problems), problems, pattern).unwrap_or_default());
    let login = read_login(&mut section, problems);
    let tls = section.section("tls_config", problems).map(|tls| read_tls(tls, problems)).unwrap_or_default();
    let of_targets = rules(section.list("relabel_configs", problems), problems);
    let of_series = rules(section.list("metric_relabel_configs", problems), problems);
    let mut addresses = Vec::new();
    for config in section.list("static_configs", problems) {
        let mut config = config.section(problems);
        let nodes = config.list("targets", problems);
        // Rules may make an address of what is none, for example of what a blackbox exporter should probe.
        let address = if of_targets.is_empty() { host_and_port } else { label_value };
        let targets = texts(nodes, problems, address).unwrap_or_default();
        let labels = labels(&mut config, problems);
        addresses.extend(targets.into_iter().zip(nodes).map(|(address, node)| (address, node, labels.clone())));
        config.finish(&["targets", "labels"], problems);
    }
    section.finish(JOB_KEYS, problems);
    let Some(job) = job else { return Vec::new() };
    let is_one = addresses.len() == 1;
    let mut targets = Vec::new();
    for (address, node, own) in addresses {
        let mut before = LabelsBuilder::default();
        for (name, value) in [
            ("job", job.as_str()),
            ("__address__", &address),
            ("__scheme__", &scheme),
            ("__metrics_path__", &path),
            ("__scrape_timeout__", &format_duration(timeout)),
        ] {
            before.set(name, value);
        }
        for (name, values) in &params {
            before.set(format!("__param_{name}"), values.first().map_or("", String::as_str));
        }
        for (name, value) in own {
            before.set(name, value);
        }
        let Some(found) = relabel(&before.build(), &of_targets) else { continue };
        let meant = Meant { found: &found, params: &params, is_one };
        let Some(target) = problems.check(node.line, &node.key, meant.place()) else { continue };
        let (url, timeout) = target;
        targets.push(Target {
            job: found.get("job").unwrap_or(&job).to_owned(),
            url,
            timeout,
            labels: meant.labels(),
            drop: drop.clone(),
            tls: tls.clone(),
            login: login.clone(),
            rules: of_series.iter().map(|rule| rule.settings().clone()).collect(),
        });
    }
    targets
}

/// A target as the rules leave it.
struct Meant<'a> {
    found: &'a Labels,
    params: &'a [(String, Vec<String>)],
    is_one: bool,
}

impl Meant<'_> {
    fn label(&self, name: &str) -> &str {
        self.found.get(name).unwrap_or("")
    }

    fn place(&self) -> Result<(Url, Duration), String> {
        let address = self.label("__address__");
        let text = format!("{}://{address}{}", self.label("__scheme__"), self.label("__metrics_path__"));
        let is_place = !address.is_empty() && !address.contains(['/', ' ', '@', '?', '#']);
        let url = Url::parse(&text).ok().filter(|url| is_place && matches!(url.scheme(), "http" | "https"));
        let mut url = url.ok_or_else(|| format!("`{text}` is no address to scrape; mend `relabel_configs`"))?;
        let given = |name: &str| self.params.iter().find(|(own, _)| own == name).map(|(_, values)| values.as_slice());
        let is_param = |label: &veghe_model::Label| label.name.starts_with("__param_");
        for label in self.found.iter().filter(|label| is_param(label)) {
            let name = label.name.strip_prefix("__param_").unwrap_or_default();
            // The rules see the first value of several.
            let rest = given(name).and_then(|values| values.get(1..)).unwrap_or_default();
            let values = [&*label.value].into_iter().chain(rest.iter().map(String::as_str));
            url.query_pairs_mut().extend_pairs(values.map(|value| (name, value)));
        }
        let timeout = parse_duration(self.label("__scrape_timeout__"));
        Ok((url, timeout?))
    }

    fn labels(&self) -> Vec<(String, String)> {
        let is_own = |name: &str| !name.starts_with("__") && !matches!(name, "job" | "instance");
        let own = self.found.iter().filter(|label| is_own(&label.name));
        let mut labels: Vec<_> = own.map(|label| (label.name.to_string(), label.value.to_string())).collect();
        // The collector sets `instance` to the agent.
        let instance = self.found.get("instance").or_else(|| (!self.is_one).then(|| self.label("__address__")));
        if let (Some(instance), true) = (instance, self.found.get("target").is_none()) {
            labels.push(("target".to_owned(), instance.to_owned()));
        }
        labels
    }
}

fn params(section: &mut Section<'_>, problems: &mut Problems) -> Vec<(String, Vec<String>)> {
    let Some(mut params) = section.section("params", problems) else { return Vec::new() };
    let all = params.take_all();
    all.map(|(name, node)| {
        let values = texts(node.list(problems), problems, |text| Ok(text.to_owned()));
        (name.to_owned(), values.unwrap_or_default())
    })
    .collect()
}

fn read_login(section: &mut Section<'_>, problems: &mut Problems) -> Option<Login> {
    let basic = section.section("basic_auth", problems).and_then(|mut basic| {
        let name = required(&mut basic, "username", problems, label_value);
        let file = required(&mut basic, "password_file", problems, absolute);
        basic.finish(&["username", "password_file"], problems);
        Some(Login::Basic(name?, file?))
    });
    let bearer = section.section("authorization", problems).and_then(|mut bearer| {
        let known = |text: &str| match text {
            "Bearer" => Ok(()),
            _ => Err(format!("`{text}` is not known; only `Bearer` is, and `basic_auth` has a section of its own")),
        };
        bearer.value("type", problems, known);
        let file = required(&mut bearer, "credentials_file", problems, absolute);
        bearer.finish(&["type", "credentials_file"], problems);
        file.map(Login::Bearer)
    });
    if basic.is_some() && bearer.is_some() {
        problems.note(section.line(), section.path("authorization"), "is there beside `basic_auth`; keep one of them");
    }
    basic.or(bearer)
}

fn read_tls(mut section: Section<'_>, problems: &mut Problems) -> Tls {
    let ca_file = section.value("ca_file", problems, absolute);
    let certificate = section.value("cert_file", problems, absolute);
    let key = section.value("key_file", problems, absolute);
    for (has, key, other) in [
        (certificate.is_some() && key.is_none(), "key_file", "cert_file"),
        (key.is_some() && certificate.is_none(), "cert_file", "key_file"),
    ] {
        if has {
            problems.note(section.line(), section.path(key), format_args!("is missing beside {other}"));
        }
    }
    let server_name = section.value("server_name", problems, label_value);
    let insecure_skip_verify = section.value("insecure_skip_verify", problems, parse_bool).unwrap_or(false);
    section.finish(&["ca_file", "cert_file", "key_file", "server_name", "insecure_skip_verify"], problems);
    Tls { ca_file, identity: certificate.zip(key), server_name, insecure_skip_verify }
}

fn rules(nodes: &[Node], problems: &mut Problems) -> Vec<RelabelRule> {
    nodes.iter().filter_map(|node| rule(node, problems)).collect()
}

fn rule(node: &Node, problems: &mut Problems) -> Option<RelabelRule> {
    let before = problems.iter().count();
    let mut section = node.section(problems);
    let any = |text: &str| Ok::<_, String>(text.to_owned());
    let default = RelabelSettings::default();
    let sources = section.list("source_labels", problems);
    let number = |text: &str| text.parse().or(Err(format!("`{text}` is no number")));
    let settings = RelabelSettings {
        source_labels: texts(sources, problems, label_value).unwrap_or_default(),
        separator: section.value("separator", problems, any).unwrap_or(default.separator),
        regex: section.value("regex", problems, any).unwrap_or(default.regex),
        modulus: section.value("modulus", problems, number).unwrap_or(default.modulus),
        target_label: section.value("target_label", problems, any).unwrap_or(default.target_label),
        replacement: section.value("replacement", problems, any).unwrap_or(default.replacement),
        action: section.value("action", problems, str::parse).unwrap_or(default.action),
    };
    section.finish(RULE_KEYS, problems);
    if problems.iter().count() > before {
        return None;
    }
    let rule = RelabelRule::new(settings).map_err(|error| match std::error::Error::source(&error) {
        // A pattern's error draws where it is, on lines of its own; the last says what it is.
        Some(cause) => format!("{error}: {}", cause.to_string().lines().last().unwrap_or_default()),
        None => error.to_string(),
    });
    problems.check(node.line, &node.key, rule)
}

fn scheme(text: &str) -> Result<String, String> {
    match text {
        "http" | "https" => Ok(text.to_owned()),
        _ => Err(format!("`{text}` is neither `http` nor `https`")),
    }
}

fn metrics_path(text: &str) -> Result<String, String> {
    let is_path = text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic());
    if is_path { Ok(text.to_owned()) } else { Err(format!("`{text}` is no path; write for example `/metrics`")) }
}

/// What [`read`] reads, as a document has it: the rules for targets have done their work.
pub(crate) fn write(targets: &[Target]) -> String {
    format!(", scrape_configs: {}", list(targets.iter().map(write_target)))
}

fn write_target(target: &Target) -> String {
    let mut text = format!("{{job_name: {}", quoted(&target.job));
    let url = &target.url;
    let path = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
    let path_of = |path: &PathBuf| quoted(&path.to_string_lossy());
    let mut add = |key: &str, value: String| {
        write!(text, ", {key}: {value}").expect("invariant: a string takes every write");
    };
    add("scheme", url.scheme().to_owned());
    add("metrics_path", quoted(&path));
    add("scrape_timeout", format_duration(target.timeout));
    add("drop", list(target.drop.patterns().iter().map(|pattern| quoted(pattern))));
    match &target.login {
        Some(Login::Basic(name, file)) => {
            add("basic_auth", format!("{{username: {}, password_file: {}}}", quoted(name), path_of(file)));
        }
        Some(Login::Bearer(file)) => add("authorization", format!("{{credentials_file: {}}}", path_of(file))),
        None => {}
    }
    if target.tls != Tls::default() {
        let Tls { ca_file, identity, server_name, insecure_skip_verify } = &target.tls;
        let mut tls = format!("{{insecure_skip_verify: {insecure_skip_verify}");
        let files = [
            ("ca_file", ca_file.as_ref().map(path_of)),
            ("cert_file", identity.as_ref().map(|(certificate, _)| path_of(certificate))),
            ("key_file", identity.as_ref().map(|(_, key)| path_of(key))),
            ("server_name", server_name.as_ref().map(|name| quoted(name))),
        ];
        for (key, value) in files {
            if let Some(value) = value {
                write!(tls, ", {key}: {value}").expect("invariant: a string takes every write");
            }
        }
        add("tls_config", format!("{tls}}}"));
    }
    if !target.rules.is_empty() {
        add("metric_relabel_configs", list(target.rules.iter().map(write_rule)));
    }
    let port = url.port_or_known_default().unwrap_or_default();
    let address = format!("{}:{port}", url.host_str().unwrap_or_default());
    let labels = write_labels(&target.labels);
    add("static_configs", format!("[{{targets: [{}], labels: {labels}}}]", quoted(&address)));
    text + "}"
}

fn write_rule(rule: &RelabelSettings) -> String {
    let default = RelabelSettings::default();
    let mut text = format!("{{action: {}", rule.action);
    if !rule.source_labels.is_empty() {
        let sources = list(rule.source_labels.iter().map(|label| quoted(label)));
        write!(text, ", source_labels: {sources}").expect("invariant: a string takes every write");
    }
    for (key, value, default) in [
        ("separator", &rule.separator, &default.separator),
        ("regex", &rule.regex, &default.regex),
        ("target_label", &rule.target_label, &default.target_label),
        ("replacement", &rule.replacement, &default.replacement),
    ] {
        if value != default {
            write!(text, ", {key}: {}", quoted(value)).expect("invariant: a string takes every write");
        }
    }
    if rule.modulus != default.modulus {
        write!(text, ", modulus: {}", rule.modulus).expect("invariant: a string takes every write");
    }
    text + "}"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (Vec<Target>, Problems) {
        let mut problems = Problems::new("agent.yaml");
        let node = Node::parse(text, &mut problems).expect("YAML");
        let mut section = node.section(&mut problems);
        let targets = read(&mut section, &mut problems);
        section.finish(KEYS, &mut problems);
        (targets, problems)
    }

    #[test]
    fn a_job_that_probes_through_an_exporter_is_relabelled_as_prometheus_does() {
        let (targets, problems) = parse(
            "
scrape_configs:
  - job_name: blackbox
    metrics_path: /probe
    params: {module: [http_2xx, other]}
    static_configs:
      - targets: [\"https://cjtimis.ro/\", \"https://skipped.ro/\"]
        labels: {site: tm}
    relabel_configs:
      - {source_labels: [__address__], regex: .*skipped.*, action: drop}
      - {source_labels: [__address__], target_label: __param_target}
      - {source_labels: [__param_target], target_label: instance}
      - {source_labels: [site], target_label: job, replacement: probes-$1}
      - {target_label: __address__, replacement: \"127.0.0.1:9115\"}
",
        );
        assert!(problems.is_empty(), "{problems}");
        let [target] = targets.as_slice() else { panic!("{targets:?}") };
        let place = "http://127.0.0.1:9115/probe?module=http_2xx&module=other&target=https%3A%2F%2Fcjtimis.ro%2F";
        assert_eq!((target.url.as_str(), target.job.as_str()), (place, "probes-tm"));
        let label = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(target.labels, [label("site", "tm"), label("target", "https://cjtimis.ro/")]);
    }

    #[test]
    fn what_is_written_reads_back() {
        let (targets, problems) = parse(
            "
scrape_configs:
  - job_name: a
    scheme: https
    scrape_timeout: 2s
    drop: [go_*]
    authorization: {type: Bearer, credentials_file: /token}
    tls_config: {ca_file: /ca, cert_file: /crt, key_file: /key, server_name: x.ro, insecure_skip_verify: true}
    metric_relabel_configs:
      - {source_labels: [__name__, b], separator: \"|\", regex: (a|\\d+).*, target_label: c, replacement: \"${1}\"}
      - {source_labels: [c], modulus: 7, target_label: d, action: hashmod}
      - {regex: tmp_.*, action: labeldrop}
    static_configs: [{targets: [\"[::1]:9100\", \"b:9101\"]}]
  - job_name: b
    basic_auth: {username: v, password_file: /p}
    static_configs: [{targets: [\"c:80\"], labels: {x: \"y\\\"\"}}]
",
        );
        assert!(problems.is_empty() && targets.len() == 3, "{problems}");
        let (again, problems) = parse(write(&targets).trim_start_matches(", "));
        assert!(problems.is_empty(), "{problems}");
        assert_eq!(again, targets);
    }

    #[test]
    fn every_problem_names_its_key() {
        let (_, problems) = parse(
            "
scrape_configs:
  - job_name: a
    scheme: ftp
    basic_auth: {username: v, password_file: p}
    authorization: {type: Digest}
    tls_config: {ca_file: ca.pem, cert_file: /c, min_version: TLS12}
    relabel_configs:
      - {target_label: __address__, replacement: \"\"}
    metric_relabel_configs: [{regex: (, action: drop}, {action: hashmod, target_label: x}, {regexp: a}, {action: jump}]
    static_configs: [{targets: [b]}]
",
        );
        let problems = problems.finish(None::<()>).expect_err("problems").to_string();
        for expected in [
            "scheme: `ftp` is neither",
            "basic_auth.password_file: `p` is no absolute path",
            "authorization.type: `Digest` is not known",
            "authorization.credentials_file: is missing",
            "tls_config.ca_file: `ca.pem` is no absolute path",
            "tls_config.key_file: is missing beside cert_file",
            "tls_config.min_version: is not a known key",
            "metric_relabel_configs[0]: cannot compile regex \"(\": error: unclosed group",
            "metric_relabel_configs[1]: relabel configuration for hashmod requires non-zero modulus",
            "metric_relabel_configs[2].regexp: is not a known key; did you mean `regex`?",
            "metric_relabel_configs[3].action: unknown relabel action \"jump\"",
            "targets[0]: `http:///metrics` is no address to scrape",
        ] {
            assert!(problems.contains(expected), "{expected} is not in\n{problems}");
        }
    }
}
