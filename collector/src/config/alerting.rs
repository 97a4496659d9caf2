//! The section `alerting`: rule files, route and receivers.

use std::time::Duration;

use veghe_wire::document::{Node, Problems, Section, parse_bool};

use super::files::{Kind, NamedFile};
use super::{at_least, file, keys, parse_http_url, parse_port, parse_text, parse_time_zone, required, set, values};
use crate::alerting::{Channel, Language, Receiver, Route, RuleSet, Security, Settings, Sources, mail, webhook};

pub(super) fn read(section: &mut Section<'_>, named: &mut Vec<NamedFile>, p: &mut Problems) -> Settings {
    let mut settings = Settings::default();
    for item in section.list("rule_files", p) {
        let Some(path) = item.text(p).map(std::path::PathBuf::from) else { continue };
        named.push(NamedFile { kind: Kind::Rules, path: path.clone(), line: item.line, key: item.key.clone() });
        settings.rule_files.push(path);
    }
    set(&mut settings.shipped, section.value("shipped_rules", p, parse_bool));
    let shipped = shipped_alerts();
    settings.disabled = values(section, "disabled_rules", p, |name| {
        let known = shipped.iter().find(|known| *known == name).cloned();
        known.ok_or_else(|| format!("`{name}` is not a shipped alert; these are: {}", shipped.join(", ")))
    });
    set(&mut settings.evaluation_interval, section.value("evaluation_interval", p, at_least(Duration::from_secs(1))));
    let external_url = section.value("external_url", p, parse_http_url);
    set(&mut settings.external_url, external_url.map(|url| url.as_str().trim_end_matches('/').to_owned()));
    let mut names: Vec<String> = Vec::new();
    for item in section.list("receivers", p) {
        let (name, channel) = receiver(item, named, p);
        if name.as_ref().is_some_and(|name| names.contains(name)) {
            p.note(item.line, &*item.key, "has the name of another receiver; rename one");
        }
        names.extend(name.clone());
        settings.receivers.extend(name.zip(channel).map(|(name, channel)| Receiver { name, channel }));
    }
    if let Some(mut route) = section.section("route", p) {
        settings.route = self::route(&mut route, &names, p);
        route.finish(keys("alerting.route"), p);
    }
    settings
}

fn shipped_alerts() -> Vec<String> {
    let shipped = Sources { files: &[], shipped: true, disabled: &[], interval: Duration::from_secs(1) };
    let rules = RuleSet::load(&shipped).unwrap_or_default();
    let mut names: Vec<String> = rules.alerts().map(|rule| rule.name.clone()).collect();
    // An alert may have one rule for each severity.
    names.dedup();
    names
}

fn route(section: &mut Section<'_>, names: &[String], p: &mut Problems) -> Route {
    let mut route = Route::default();
    if section.take("group_by").is_some() {
        route.group_by = values(section, "group_by", p, parse_text);
    }
    set(&mut route.group_wait, section.value("group_wait", p, at_least(Duration::ZERO)));
    set(&mut route.group_interval, section.value("group_interval", p, at_least(Duration::from_secs(1))));
    set(&mut route.repeat_interval, section.value("repeat_interval", p, at_least(Duration::from_mins(1))));
    route.receivers = values(section, "receivers", p, |name| {
        let known = names.iter().find(|known| *known == name).cloned();
        known.ok_or_else(|| format!("`{name}` is not among `alerting.receivers`; add it there or name another"))
    });
    route
}

/// Name and channel; what is missing or wrong is noted.
fn receiver(node: &Node, named: &mut Vec<NamedFile>, p: &mut Problems) -> (Option<String>, Option<Channel>) {
    let mut section = node.section(p);
    let name = required(&mut section, "name", p, parse_text);
    let webhook = section.section("webhook", p);
    let mail = section.section("mail", p);
    section.finish(keys("alerting.receivers[]"), p);
    let channel = match (webhook, mail) {
        (Some(section), None) => webhook_settings(section, named, p).map(Channel::Webhook),
        (None, Some(section)) => mail_settings(section, &node.key, named, p).map(Channel::Mail),
        _ => {
            p.note(node.line, &*node.key, "needs one of `webhook` and `mail`");
            None
        }
    };
    (name, channel)
}

fn webhook_settings(
    mut section: Section<'_>,
    named: &mut Vec<NamedFile>,
    p: &mut Problems,
) -> Option<webhook::Settings> {
    let url = required(&mut section, "url", p, parse_http_url);
    let token = file(&mut section, "bearer_token_file", Kind::Secret, named, p);
    let ca_file = file(&mut section, "ca_file", Kind::Certificates, named, p);
    let timeout = section.value("timeout", p, at_least(Duration::from_secs(1)));
    section.finish(keys("alerting.receivers[].webhook"), p);
    let mut settings = webhook::Settings::new(url?);
    settings.bearer_token_file = token;
    settings.ca_file = ca_file;
    set(&mut settings.timeout, timeout);
    Some(settings)
}

fn mail_settings(
    mut section: Section<'_>,
    receiver: &str,
    named: &mut Vec<NamedFile>,
    p: &mut Problems,
) -> Option<mail::Settings> {
    let line = section.line();
    let host = required(&mut section, "host", p, parse_text);
    let from = required(&mut section, "from", p, parse_text);
    let to = values(&mut section, "to", p, parse_text);
    let port = section.value("port", p, parse_port);
    let security = section.value("security", p, parse_security);
    let username = section.value("username", p, parse_text);
    let password_file = file(&mut section, "password_file", Kind::Secret, named, p);
    let ca_file = file(&mut section, "ca_file", Kind::Certificates, named, p);
    let language = section.value("language", p, parse_language);
    let time_zone = section.value("time_zone", p, parse_time_zone);
    let timeout = section.value("timeout", p, at_least(Duration::from_secs(1)));
    section.finish(keys("alerting.receivers[].mail"), p);
    let mut settings = mail::Settings::new(host?, from?, to);
    if settings.security == Security::StartTls && security == Some(Security::Tls) {
        settings.port = 465;
    }
    set(&mut settings.port, port);
    set(&mut settings.security, security);
    settings.username = username;
    settings.password_file = password_file;
    settings.ca_file = ca_file;
    set(&mut settings.language, language);
    set(&mut settings.time_zone, time_zone);
    set(&mut settings.timeout, timeout);
    for problem in settings.problems() {
        p.note(line, format!("{receiver}.mail"), problem);
    }
    Some(settings)
}

fn parse_security(text: &str) -> Result<Security, String> {
    match text {
        "starttls" => Ok(Security::StartTls),
        "tls" => Ok(Security::Tls),
        "none" => Ok(Security::PlainLoopback),
        "none-even-over-the-network" => Ok(Security::PlainAnywhere),
        _ => Err(format!(
            "`{text}` is none of `starttls`, `tls`, `none` (this machine only) and `none-even-over-the-network`"
        )),
    }
}

fn parse_language(text: &str) -> Result<Language, String> {
    match text {
        "ro" => Ok(Language::Romanian),
        "en" => Ok(Language::English),
        _ => Err(format!("`{text}` is neither `ro` nor `en`")),
    }
}
