//! The section `alerting`: rule files, route and receivers.

use std::time::Duration;

use veghe_wire::document::{Node, Problems, Section, parse_bool};

use super::{at_least, parse_http_url, parse_path, parse_text, required, set, texts};
use crate::alerting::{Channel, Language, Receiver, Route, Security, Settings, mail, webhook};

/// The keys of the section.
pub(super) const KEYS: &[&str] =
    &["rule_files", "shipped_rules", "disabled_rules", "evaluation_interval", "external_url", "route", "receivers"];

pub(super) fn read(section: &mut Section<'_>, p: &mut Problems) -> Settings {
    let mut settings = Settings::default();
    settings.rule_files = texts(section, "rule_files", p).into_iter().map(Into::into).collect();
    set(&mut settings.shipped, section.value("shipped_rules", p, parse_bool));
    settings.disabled = texts(section, "disabled_rules", p);
    set(&mut settings.evaluation_interval, section.value("evaluation_interval", p, at_least(Duration::from_secs(1))));
    set(&mut settings.external_url, section.value("external_url", p, parse_http_url).map(Into::into));
    let items = section.list("receivers", p);
    settings.receivers = items.iter().filter_map(|item| receiver(item, p)).collect();
    for (i, item) in items.iter().enumerate() {
        let name = |receiver: &Receiver| receiver.name.clone();
        let earlier = settings.receivers.iter().take(i).map(name).collect::<Vec<_>>();
        if settings.receivers.get(i).is_some_and(|receiver| earlier.contains(&receiver.name)) {
            p.note(item.line, &*item.key, "has the name of another receiver; rename one");
        }
    }
    if let Some(mut route) = section.section("route", p) {
        settings.route = self::route(&mut route, p);
        for name in &settings.route.receivers {
            if !settings.receivers.iter().any(|receiver| receiver.name == *name) {
                p.note(route.line(), route.path("receivers"), format_args!("`{name}` is not among the receivers"));
            }
        }
        route.finish(&["group_by", "group_wait", "group_interval", "repeat_interval", "receivers"], p);
    }
    settings
}

fn route(section: &mut Section<'_>, p: &mut Problems) -> Route {
    let mut route = Route::default();
    let group_by = texts(section, "group_by", p);
    set(&mut route.group_by, (!group_by.is_empty()).then_some(group_by));
    set(&mut route.group_wait, section.value("group_wait", p, at_least(Duration::ZERO)));
    set(&mut route.group_interval, section.value("group_interval", p, at_least(Duration::from_secs(1))));
    set(&mut route.repeat_interval, section.value("repeat_interval", p, at_least(Duration::from_mins(1))));
    route.receivers = texts(section, "receivers", p);
    route
}

fn receiver(node: &Node, p: &mut Problems) -> Option<Receiver> {
    let mut section = node.section(p);
    let name = required(&mut section, "name", p, parse_text);
    let webhook = section.section("webhook", p);
    let mail = section.section("mail", p);
    let line = section.line();
    section.finish(&["name", "webhook", "mail"], p);
    let channel = match (webhook, mail) {
        (Some(section), None) => webhook_settings(section, p).map(Channel::Webhook),
        (None, Some(section)) => mail_settings(section, p).map(Channel::Mail),
        _ => {
            p.note(line, &*node.key, "needs one of `webhook` and `mail`");
            None
        }
    };
    Some(Receiver { name: name?, channel: channel? })
}

fn webhook_settings(mut section: Section<'_>, p: &mut Problems) -> Option<webhook::Settings> {
    let url = required(&mut section, "url", p, parse_http_url);
    let token = section.value("bearer_token_file", p, parse_path);
    let ca_file = section.value("ca_file", p, parse_path);
    let timeout = section.value("timeout", p, at_least(Duration::from_secs(1)));
    section.finish(&["url", "bearer_token_file", "ca_file", "timeout"], p);
    let mut settings = webhook::Settings::new(url?);
    settings.bearer_token_file = token;
    settings.ca_file = ca_file;
    set(&mut settings.timeout, timeout);
    Some(settings)
}

fn mail_settings(mut section: Section<'_>, p: &mut Problems) -> Option<mail::Settings> {
    let (line, key) = (section.line(), section.path("to"));
    let host = required(&mut section, "host", p, parse_text);
    let from = required(&mut section, "from", p, parse_text);
    let to = texts(&mut section, "to", p);
    let port = section.value("port", p, str::parse);
    let security = section.value("security", p, parse_security);
    let username = section.value("username", p, parse_text);
    let password_file = section.value("password_file", p, parse_path);
    let ca_file = section.value("ca_file", p, parse_path);
    let language = section.value("language", p, parse_language);
    let time_zone = section.value("time_zone", p, jiff::tz::TimeZone::get);
    let timeout = section.value("timeout", p, at_least(Duration::from_secs(1)));
    section.finish(
        &[
            "host",
            "port",
            "security",
            "from",
            "to",
            "username",
            "password_file",
            "ca_file",
            "language",
            "time_zone",
            "timeout",
        ],
        p,
    );
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
        p.note(line, &*key, problem);
    }
    Some(settings)
}

fn parse_security(text: &str) -> Result<Security, String> {
    match text {
        "starttls" => Ok(Security::StartTls),
        "tls" => Ok(Security::Tls),
        "none" => Ok(Security::PlainLoopback),
        "none-even-over-the-network" => Ok(Security::PlainAnywhere),
        _ => Err(format!("`{text}` is none of `starttls`, `tls` and `none` (only to this machine)")),
    }
}

fn parse_language(text: &str) -> Result<Language, String> {
    match text {
        "ro" => Ok(Language::Romanian),
        "en" => Ok(Language::English),
        _ => Err(format!("`{text}` is neither `ro` nor `en`")),
    }
}
