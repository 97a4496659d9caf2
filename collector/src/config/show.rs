//! Writes the configuration in force as a file that gives the same, or for others to read, without its secrets.

use std::fmt::{Display, Write as _};
use std::path::Path;
use std::time::Duration;

use url::{Position, Url};
use veghe_model::{RelabelAction, RelabelSettings};
use veghe_wire::document::{format_bytes, format_duration};

use super::remote_write::PROTOCOLS;
use super::{Config, Retention};
use crate::alerting::{Channel, Language, Security};
use crate::digitization::runway::Free;
use crate::remote::{Credentials, Target};
use crate::status::{ComponentSource, Localized, Need};

/// What stands where a secret is; Prometheus' own word.
const SECRET: &str = "<secret>";

/// Whether what may be secret is shown. Passwords and tokens are in files of their own, but people also put them into
/// addresses and headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Secrets {
    Shown,
    Hidden,
}

impl Secrets {
    fn text(self, text: &str) -> String {
        if self == Self::Hidden { SECRET.to_owned() } else { text.to_owned() }
    }

    /// An address without its query; one with a password in it is refused anyway.
    fn url(self, url: &Url) -> String {
        if self == Self::Shown || url.query().is_none() {
            return url.as_str().to_owned();
        }
        format!("{}?{SECRET}", &url[..Position::AfterPath])
    }
}

pub(super) fn file(config: &Config, secrets: Secrets) -> String {
    let mut out = Lines::default();
    out.entry(0, "data_dir", path(&config.data_dir));
    out.open(0, "ops");
    let tls = if config.ops.listen.ip().is_loopback() { "" } else { "  # speaks TLS: it is not loopback" };
    out.entry(1, "listen", format_args!("{}{tls}", config.ops.listen));
    out.texts(1, "names", &config.ops.names);
    out.option(1, "cors_origin", config.ops.cors_origin.as_ref().map(|origins| quote(origins.pattern())));
    if let Some((certificate, key)) = &config.ops.tls {
        out.open(1, "tls");
        out.entry(2, "certificate", path(certificate));
        out.entry(2, "key", path(key));
    }
    out.open(0, "mqtt");
    out.entry(1, "listen", config.mqtt.listen);
    out.option(1, "advertise", config.mqtt.advertise.as_deref().map(quote));
    out.open(0, "agents");
    out.entry(1, "certificate_lifetime", span(config.agents.certificate_lifetime));
    out.entry(1, "max_series", config.agents.max_series);
    out.entry(1, "groups", path(&config.agents.groups));
    out.open(1, "rollout");
    out.entry(2, "first", format_args!("{}%", (config.agents.rollout.first_ratio * 1e4).round() / 100.0));
    out.entry(2, "soak", span(config.agents.rollout.soak));
    out.open(0, "storage");
    retention(&config.storage.retention, &mut out);
    out.entry(1, "max_series", config.storage.max_series);
    out.entry(1, "min_free", format_bytes(config.storage.min_free_bytes));
    out.open(0, "query");
    out.entry(1, "timeout", span(config.query.timeout));
    out.entry(1, "max_concurrency", config.query.max_concurrency);
    out.entry(1, "max_samples", config.query.max_samples);
    out.entry(1, "lookback", span(config.query.lookback));
    alerting(config, secrets, &mut out);
    status(config, &mut out);
    digitization(&config.digitization, &mut out);
    let labels: Vec<(&str, &str)> = config.external_labels.iter().map(|label| (&*label.name, &*label.value)).collect();
    out.pairs(0, "external_labels", labels);
    if config.remote_write.is_empty() {
        out.entry(0, "remote_write", "[]");
        return out.0;
    }
    out.open(0, "remote_write");
    for target in &config.remote_write {
        remote_write(target, secrets, &mut out);
    }
    out.0
}

fn digitization(settings: &crate::digitization::Settings, out: &mut Lines) {
    let days = |days: &std::collections::BTreeSet<crate::digitization::Day>| {
        days.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let time = |minute: u16| quote(&format!("{:02}:{:02}", minute / 60, minute % 60));
    out.open(0, "digitization");
    out.entry(1, "project", quote(&settings.project));
    out.entry(1, "time_zone", quote(settings.time_zone.iana_name().unwrap_or("UTC")));
    out.texts(1, "days_off", &days(&settings.calendar.days_off));
    out.texts(1, "working_days", &days(&settings.calendar.working_days));
    out.open(1, "shifts");
    for shift in &settings.shifts {
        out.item(2, "name", quote(&shift.name));
        out.entry(3, "from", time(shift.from));
        out.entry(3, "to", time(shift.to));
    }
    out.texts(1, "stations", &settings.stations);
    if let Some(plan) = &settings.plan {
        out.open(1, "plan");
        out.entry(2, "from", plan.from);
        out.entry(2, "finish", plan.finish);
    }
    out.option(1, "pages_per_metre", settings.pages_per_metre.map(|pages| pages.to_string()));
    if let Some(pace) = &settings.pace {
        out.open(1, "pages_per_day");
        out.entry(2, "low", pace.low);
        out.entry(2, "likely", pace.likely);
        out.entry(2, "high", pace.high);
    }
    if let Some(reports) = &settings.reports {
        out.open(1, "reports");
        out.entry(2, "weekly", reports.weekly);
        out.entry(2, "monthly", reports.monthly);
        out.entry(2, "at", time(reports.at));
        out.texts(
            2,
            "languages",
            &reports.languages.iter().map(|language| language.tag().to_owned()).collect::<Vec<_>>(),
        );
        out.texts(2, "mail", &reports.mail);
    }
    if settings.quality.is_empty() {
        out.entry(1, "quality", "[]");
    } else {
        out.open(1, "quality");
    }
    for rule in &settings.quality {
        // The switch first: an item needs a key that is always there.
        out.item(2, "icc", rule.icc);
        for (name, text) in [("series", &rule.series), ("binding", &rule.binding)] {
            out.option(3, name, text.as_ref().map(|text| quote(text)));
        }
        out.option(3, "min_ppi", rule.min_ppi.map(|ppi| ppi.to_string()));
        out.option(3, "level", rule.level.map(|level| level.name().to_owned()));
        out.option(3, "min_bits", rule.min_bits.map(|bits| bits.to_string()));
        out.texts(3, "formats", &rule.formats);
        out.texts(3, "compressions", &rule.compressions);
    }
    if settings.storages.is_empty() {
        out.entry(1, "storages", "[]");
    } else {
        out.open(1, "storages");
    }
    for storage in &settings.storages {
        out.item(2, "name", quote(&storage.name));
        match &storage.free {
            Free::Mount { instance, mountpoint } => {
                out.entry(3, "instance", quote(instance));
                out.entry(3, "mountpoint", quote(mountpoint));
            }
            Free::Expr(expr) => out.entry(3, "free", quote(expr)),
        }
        out.entry(3, "reserve", format_bytes(storage.reserve_bytes));
        out.entry(3, "ratio", storage.ratio);
    }
    out.open(1, "privacy");
    out.entry(2, "operators", settings.privacy.operators.name());
    out.entry(2, "keep", format_args!("{}d", settings.privacy.keep_days));
    out.option(2, "key_file", settings.privacy.key_file.as_deref().map(path));
    if settings.workflows.is_empty() {
        out.entry(1, "workflows", "[]");
    } else {
        out.open(1, "workflows");
    }
    for workflow in &settings.workflows {
        out.item(2, "name", quote(&workflow.name));
        out.entry(3, "system", workflow.system.name());
        out.entry(3, "host", quote(&workflow.host));
        out.entry(3, "port", workflow.port);
        out.entry(3, "security", workflow.security.name());
        out.option(3, "ca_file", workflow.ca_file.as_deref().map(path));
        out.entry(3, "database", quote(&workflow.database));
        out.entry(3, "username", quote(&workflow.username));
        out.entry(3, "password_file", path(&workflow.password_file));
        let zone = workflow.time_zone.as_ref().unwrap_or(&settings.time_zone);
        out.entry(3, "time_zone", quote(zone.iana_name().unwrap_or("UTC")));
        out.texts(3, "projects", &workflow.projects);
        out.option(3, "unit_property", workflow.unit_property.as_ref().map(|text| quote(text)));
        out.option(3, "unit_pattern", workflow.unit_pattern.as_ref().map(|pattern| quote(pattern.as_str())));
        out.open(3, "steps");
        for (step, stage) in &workflow.steps {
            out.entry(4, &quote(step), stage.name());
        }
        out.entry(3, "every", span(workflow.every));
    }
}

fn remote_write(target: &Target, secrets: Secrets, out: &mut Lines) {
    out.item(1, "url", quote(&secrets.url(&target.url)));
    out.entry(2, "name", quote(&target.name));
    let protocol = PROTOCOLS.iter().find(|(_, protocol)| *protocol == target.protocol);
    out.option(2, "protobuf_message", protocol.map(|(name, _)| (*name).to_owned()));
    out.entry(2, "remote_timeout", span(target.timeout));
    let headers: Vec<_> = target.headers.iter().map(|(name, value)| (name.as_str(), secrets.text(value))).collect();
    out.pairs(2, "headers", headers.iter().map(|(name, value)| (*name, value.as_str())).collect());
    if target.relabel.is_empty() {
        out.entry(2, "write_relabel_configs", "[]");
    } else {
        out.open(2, "write_relabel_configs");
    }
    for rule in &target.relabel {
        relabel_rule(rule.settings(), out);
    }
    match &target.credentials {
        None => {}
        Some(Credentials::Basic { username, password_file }) => {
            out.open(2, "basic_auth");
            out.entry(3, "username", quote(username));
            out.entry(3, "password_file", path(password_file));
        }
        Some(Credentials::Bearer(file)) => {
            out.open(2, "authorization");
            out.entry(3, "type", "Bearer");
            out.entry(3, "credentials_file", path(file));
        }
    }
    if target.ca_file.is_some() || target.certificate.is_some() {
        out.open(2, "tls_config");
        out.option(3, "ca_file", target.ca_file.as_deref().map(path));
        out.option(3, "cert_file", target.certificate.as_ref().map(|(certificate, _)| path(certificate)));
        out.option(3, "key_file", target.certificate.as_ref().map(|(_, key)| path(key)));
    }
    out.open(2, "queue_config");
    out.entry(3, "max_shards", target.queue.max_shards);
    out.entry(3, "max_samples_per_send", target.queue.max_samples_per_send);
    out.entry(3, "batch_send_deadline", span(target.queue.batch_send_deadline));
    out.entry(3, "min_backoff", span(target.queue.min_backoff));
    out.entry(3, "max_backoff", span(target.queue.max_backoff));
    out.entry(2, "max_backlog", format_bytes(target.max_backlog_bytes));
}

/// What differs from the defaults of every rule.
fn relabel_rule(rule: &RelabelSettings, out: &mut Lines) {
    let default = RelabelSettings::default();
    out.item(3, "action", rule.action);
    if !rule.source_labels.is_empty() {
        out.texts(4, "source_labels", &rule.source_labels);
    }
    let texts = [
        ("separator", &rule.separator, &default.separator),
        ("regex", &rule.regex, &default.regex),
        ("target_label", &rule.target_label, &default.target_label),
        ("replacement", &rule.replacement, &default.replacement),
    ];
    for (key, text, default) in texts {
        out.option(4, key, (text != default).then(|| quote(text)));
    }
    out.option(4, "modulus", (rule.action == RelabelAction::HashMod).then(|| rule.modulus.to_string()));
}

fn retention(retention: &Retention, out: &mut Lines) {
    out.open(1, "retention");
    ages(2, retention.ages, out);
    out.option(2, "max_size", retention.max_bytes.map(format_bytes));
    if retention.classes.is_empty() {
        return;
    }
    out.open(2, "classes");
    for class in &retention.classes {
        out.item(3, "match", quote(&class.selector));
        ages(4, class.ages, out);
    }
}

fn ages(depth: usize, ages: veghe_tsdb::Ages, out: &mut Lines) {
    out.entry(depth, "raw", span(ages.raw));
    out.entry(depth, "rollup_5m", span(ages.rollup_5m));
    out.entry(depth, "rollup_1h", span(ages.rollup_1h));
}

fn alerting(config: &Config, secrets: Secrets, out: &mut Lines) {
    let settings = &config.alerting;
    out.open(0, "alerting");
    let files: Vec<String> = settings.rule_files.iter().map(|file| file.display().to_string()).collect();
    out.texts(1, "rule_files", &files);
    out.entry(1, "shipped_rules", settings.shipped);
    out.texts(1, "disabled_rules", &settings.disabled);
    out.entry(1, "evaluation_interval", span(settings.evaluation_interval));
    out.entry(1, "external_url", quote(&settings.external_url));
    out.open(1, "route");
    out.texts(2, "group_by", &settings.route.group_by);
    out.entry(2, "group_wait", span(settings.route.group_wait));
    out.entry(2, "group_interval", span(settings.route.group_interval));
    out.entry(2, "repeat_interval", span(settings.route.repeat_interval));
    out.texts(2, "receivers", &settings.route.receivers);
    if settings.receivers.is_empty() {
        out.entry(1, "receivers", "[]");
        return;
    }
    out.open(1, "receivers");
    for receiver in &settings.receivers {
        out.item(2, "name", quote(&receiver.name));
        match &receiver.channel {
            Channel::Webhook(webhook) => {
                out.open(3, "webhook");
                // The address of a chat's webhook is its credential, as Alertmanager takes it.
                out.entry(4, "url", quote(&secrets.text(webhook.url.as_str())));
                out.option(4, "bearer_token_file", webhook.bearer_token_file.as_deref().map(path));
                out.option(4, "ca_file", webhook.ca_file.as_deref().map(path));
                out.entry(4, "timeout", span(webhook.timeout));
            }
            Channel::Mail(mail) => {
                out.open(3, "mail");
                out.entry(4, "host", quote(&mail.host));
                out.entry(4, "port", mail.port);
                out.entry(
                    4,
                    "security",
                    match mail.security {
                        Security::StartTls => "starttls",
                        Security::Tls => "tls",
                        Security::PlainLoopback => "none",
                        Security::PlainAnywhere => "none-even-over-the-network",
                    },
                );
                out.option(4, "ca_file", mail.ca_file.as_deref().map(path));
                out.option(4, "username", mail.username.as_deref().map(quote));
                out.option(4, "password_file", mail.password_file.as_deref().map(path));
                out.entry(4, "from", quote(&mail.from));
                out.texts(4, "to", &mail.to);
                out.entry(
                    4,
                    "language",
                    match mail.language {
                        Language::English => "en",
                        Language::Romanian => "ro",
                    },
                );
                out.option(4, "time_zone", mail.time_zone.iana_name().map(quote));
                out.entry(4, "timeout", span(mail.timeout));
            }
        }
    }
}

fn status(config: &Config, out: &mut Lines) {
    let settings = &config.status;
    out.open(0, "status");
    out.entry(1, "listen", config.status_listen);
    out.localized(1, "name", &settings.name);
    out.option(1, "url", (!settings.url.is_empty()).then(|| quote(&settings.url)));
    out.option(1, "time_zone", settings.time_zone.iana_name().map(quote));
    out.entry(1, "evaluation_interval", span(settings.interval));
    let components = match &settings.components {
        ComponentSource::Configured(components) => components,
        // The only source without a key of its own: what is there if no component is named.
        ComponentSource::PerInstance { expr } => {
            out.line(1, format_args!("# components: one for each instance of {expr}"));
            return;
        }
    };
    if components.is_empty() {
        out.entry(1, "components", "[]");
        return;
    }
    out.open(1, "components");
    for component in components {
        out.item(2, "id", quote(&component.id));
        out.localized(3, "name", &component.name);
        if let Some(description) = &component.description {
            out.localized(3, "description", description);
        }
        if let Some(group) = &component.group {
            out.localized(3, "group", group);
        }
        out.entry(3, "expr", quote(&component.expr));
        out.option(3, "degraded", component.degraded.as_deref().map(quote));
        out.entry(
            3,
            "need",
            match component.need {
                Need::All => "all",
                Need::Any => "any",
            },
        );
    }
}

fn span(span: Duration) -> String {
    format_duration(span)
}

fn path(path: &Path) -> String {
    quote(&path.display().to_string())
}

/// A YAML scalar in double quotes.
fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control() => {
                write!(quoted, "\\u{:04x}", u32::from(c)).expect("invariant: a string takes every write");
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[derive(Default)]
struct Lines(String);

impl Lines {
    fn line(&mut self, depth: usize, text: impl Display) {
        writeln!(self.0, "{:1$}{text}", "", 2 * depth).expect("invariant: a string takes every write");
    }

    fn open(&mut self, depth: usize, key: &str) {
        self.line(depth, format_args!("{key}:"));
    }

    fn entry(&mut self, depth: usize, key: &str, value: impl Display) {
        self.line(depth, format_args!("{key}: {value}"));
    }

    /// The first key of a list's item.
    fn item(&mut self, depth: usize, key: &str, value: impl Display) {
        self.line(depth, format_args!("- {key}: {value}"));
    }

    fn option(&mut self, depth: usize, key: &str, value: Option<String>) {
        if let Some(value) = value {
            self.entry(depth, key, value);
        }
    }

    fn texts(&mut self, depth: usize, key: &str, texts: &[String]) {
        let texts: Vec<String> = texts.iter().map(|text| quote(text)).collect();
        self.entry(depth, key, format_args!("[{}]", texts.join(", ")));
    }

    fn pairs(&mut self, depth: usize, key: &str, pairs: Vec<(&str, &str)>) {
        if pairs.is_empty() {
            return self.entry(depth, key, "{}");
        }
        self.open(depth, key);
        for (name, value) in pairs {
            self.entry(depth + 1, name, quote(value));
        }
    }

    fn localized(&mut self, depth: usize, key: &str, text: &Localized) {
        self.open(depth, key);
        self.entry(depth + 1, "ro", quote(&text.ro));
        self.entry(depth + 1, "en", quote(&text.en));
    }
}
