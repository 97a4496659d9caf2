//! Notifications by mail: plain text and simple HTML, in Romanian or English.
//!
//! Invariants: a password goes only over TLS or to this machine, unless the settings allow otherwise; the password is
//! read from its file at each attempt and never logged. What it deliberately does not do: retry (`delivery`).

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart, SinglePart};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport, Tokio1Executor};

use super::delivery::{SendError, read_secret};
use super::notify::{Message, Notice};

/// The most alerts that a mail lists; the rest is counted.
const MAX_LISTED: usize = 50;

/// How the connection to the mail server is protected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Security {
    /// Plain at first, then TLS or nothing; port 587.
    #[default]
    StartTls,
    /// TLS from the first byte; port 465.
    Tls,
    /// No TLS; only to this machine.
    PlainLoopback,
    /// No TLS, to any server. Everybody on the way reads it.
    PlainAnywhere,
}

/// The language of subject and text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Language {
    /// English.
    #[default]
    English,
    /// Romanian.
    Romanian,
}

/// Somebody who gets mail.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The mail server's name or address.
    pub host: String,
    /// Its port; usually 587 for STARTTLS and 465 for TLS.
    pub port: u16,
    /// How the connection is protected.
    pub security: Security,
    /// PEM certificates to trust beside the system's.
    pub ca_file: Option<PathBuf>,
    /// The user, if the server wants one.
    pub username: Option<String>,
    /// A file that holds the user's password.
    pub password_file: Option<PathBuf>,
    /// The sender, for example `Veghe <veghe@county.example>`.
    pub from: String,
    /// The recipients.
    pub to: Vec<String>,
    /// The language of subject and text.
    pub language: Language,
    /// How times are shown.
    pub time_zone: jiff::tz::TimeZone,
    /// How long one attempt may take; 30 s.
    pub timeout: Duration,
}

impl Settings {
    /// Mail from `from` to `to` by the server at `host`, with STARTTLS on port 587, in English and UTC.
    pub fn new(host: impl Into<String>, from: impl Into<String>, to: Vec<String>) -> Self {
        Self {
            host: host.into(),
            port: 587,
            security: Security::StartTls,
            ca_file: None,
            username: None,
            password_file: None,
            from: from.into(),
            to,
            language: Language::English,
            time_zone: jiff::tz::TimeZone::UTC,
            timeout: Duration::from_secs(30),
        }
    }

    /// What is wrong with them, in words for their author.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.security == Security::PlainLoopback && !is_loopback(&self.host) {
            problems.push(format!("mail to `{}` needs STARTTLS or TLS: it is not this machine", self.host));
        }
        for address in std::iter::once(&self.from).chain(&self.to) {
            if address.parse::<Mailbox>().is_err() {
                problems.push(format!("`{address}` is not a mail address, for example `Veghe <veghe@county.example>`"));
            }
        }
        if self.to.is_empty() {
            problems.push("no recipient; name at least one".to_owned());
        }
        if self.username.is_some() != self.password_file.is_some() {
            problems.push("user and password file go together; give both or none".to_owned());
        }
        problems
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

struct Words {
    firing: &'static str,
    resolved: &'static str,
    test: &'static str,
    alerts_firing: &'static str,
    alerts_resolved: &'static str,
    severity: &'static str,
    since: &'static str,
    until: &'static str,
    labels: &'static str,
    runbook: &'static str,
    more: &'static str,
    source: &'static str,
    footer: &'static str,
    code: &'static str,
}

const ENGLISH: Words = Words {
    firing: "FIRING",
    resolved: "RESOLVED",
    test: "TEST",
    alerts_firing: "Firing",
    alerts_resolved: "Resolved",
    severity: "Severity",
    since: "Since",
    until: "Until",
    labels: "Labels",
    runbook: "Playbook",
    more: "more alerts are not listed here",
    source: "Query",
    footer: "Sent by Veghe",
    code: "en",
};

const ROMANIAN: Words = Words {
    firing: "ALERTĂ",
    resolved: "REZOLVAT",
    test: "TEST",
    alerts_firing: "În curs",
    alerts_resolved: "Rezolvate",
    severity: "Gravitate",
    since: "Din",
    until: "Până la",
    labels: "Etichete",
    runbook: "Procedură",
    more: "alerte nu sunt enumerate aici",
    source: "Interogare",
    footer: "Trimis de Veghe",
    code: "ro",
};

/// The subject, the plain text and the HTML of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Letter {
    /// One line.
    pub subject: String,
    /// Plain text.
    pub text: String,
    /// The same as HTML.
    pub html: String,
}

/// Writes `message` as a letter.
pub(super) fn letter(settings: &Settings, message: &Message, external_url: &str) -> Letter {
    let words = match settings.language {
        Language::English => &ENGLISH,
        Language::Romanian => &ROMANIAN,
    };
    let firing = message.alerts.iter().filter(|alert| alert.ends_ms.is_none()).count();
    let status = match (message.test, firing) {
        (true, _) => format!("[{}]", words.test),
        (false, 0) => format!("[{}]", words.resolved),
        (false, n) => format!("[{}:{n}]", words.firing),
    };
    let english = message.subject();
    // The subject after its own status word, which is never translated: names and labels.
    let rest = english.split_once("] ").map_or("", |(_, rest)| rest);
    let subject = format!("{status} {rest}").replace(['\r', '\n'], " ");

    let mut text = String::new();
    let mut html = String::new();
    let mut line = |plain: &str, markup: &str| {
        text.push_str(plain);
        text.push('\n');
        html.push_str(markup);
        html.push('\n');
    };
    let listed = &message.alerts[..message.alerts.len().min(MAX_LISTED)];
    for (title, part) in [
        (words.alerts_firing, listed.iter().filter(|a| a.ends_ms.is_none()).collect::<Vec<_>>()),
        (words.alerts_resolved, listed.iter().filter(|a| a.ends_ms.is_some()).collect()),
    ] {
        if part.is_empty() {
            continue;
        }
        line(&format!("{title}\n"), &format!("<h2>{title}</h2>"));
        for alert in part {
            write_alert(settings, words, alert, &mut line);
        }
    }
    let unlisted = message.truncated + (message.alerts.len() - listed.len()) as u64;
    if unlisted > 0 {
        let more = format!("{unlisted} {}", words.more);
        line(&more, &format!("<p>{more}</p>"));
    }
    let footer = format!("{} {external_url}", words.footer);
    line(&format!("-- \n{footer}"), &format!("<p><small>{}</small></p>", escape(&footer)));
    let html = format!(
        "<!doctype html>\n<html lang=\"{}\"><head><meta charset=\"utf-8\"><title>{}</title></head>\n<body>\n{html}</body></html>\n",
        words.code,
        escape(&subject)
    );
    Letter { subject, text, html }
}

fn write_alert(settings: &Settings, words: &Words, alert: &Notice, line: &mut impl FnMut(&str, &str)) {
    let local = |name: &str| match settings.language {
        Language::English => alert.annotations.get(name),
        Language::Romanian => alert.annotations.get(&format!("{name}_ro")).or_else(|| alert.annotations.get(name)),
    };
    let name = alert.labels.get("alertname").map_or("", String::as_str);
    let summary = local("summary").map_or(name, String::as_str);
    line(&format!("* {summary}"), &format!("<h3>{}</h3>", escape(summary)));
    if let Some(description) = local("description") {
        line(&format!("  {description}"), &format!("<p>{}</p>", escape(description)));
    }
    line("", "<ul>");
    let mut item = |title: &str, value: &str| {
        line(&format!("  {title}: {value}"), &format!("<li>{title}: {}</li>", escape(value)));
    };
    if let Some(severity) = alert.labels.get("severity") {
        item(words.severity, severity);
    }
    item(words.since, &time(settings, alert.starts_ms));
    if let Some(ends) = alert.ends_ms {
        item(words.until, &time(settings, ends));
    }
    let labels = alert.labels.iter().fold(String::new(), |mut all, (name, value)| {
        let separator = if all.is_empty() { "" } else { ", " };
        write!(all, "{separator}{name}={value}").expect("invariant: a string takes text");
        all
    });
    item(words.labels, &labels);
    if let Some(runbook) = alert.annotations.get("runbook_url").or_else(|| alert.annotations.get("runbook")) {
        item(words.runbook, runbook);
    }
    if !alert.generator_url.is_empty() {
        item(words.source, &alert.generator_url);
    }
    line("", "</ul>");
}

fn time(settings: &Settings, ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(
        |_range| ms.to_string(),
        |at| at.to_zoned_datetime(settings.time_zone.clone()).strftime("%Y-%m-%d %H:%M:%S %Z").to_string(),
    )
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            _ => out.push(c),
        }
    }
    out
}

/// Sends `message` to all recipients in one mail.
///
/// # Errors
/// [`SendError::Refused`] where the server refuses the mail for good, otherwise [`SendError::Unavailable`]; a refused
/// password counts as the latter: somebody will mend it.
pub(super) async fn send(settings: &Settings, message: &Message, external_url: &str) -> Result<String, SendError> {
    let letter = letter(settings, message, external_url);
    deliver(settings, letter.subject, MultiPart::alternative_plain_html(letter.text, letter.html)).await
}

/// A file that goes with a mail.
#[derive(Clone, Debug)]
pub struct Attachment {
    /// Its name.
    pub name: String,
    /// Its media type.
    pub media_type: &'static str,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Sends a text with files to all recipients of `settings` in one mail.
///
/// # Errors
/// As `send`.
pub async fn send_files(
    settings: &Settings,
    subject: &str,
    text: String,
    files: Vec<Attachment>,
) -> Result<String, SendError> {
    let mut parts = MultiPart::mixed().singlepart(SinglePart::plain(text));
    for file in files {
        let kind = ContentType::parse(file.media_type).map_err(|error| SendError::Refused(error.to_string()))?;
        parts = parts.singlepart(lettre::message::Attachment::new(file.name).body(file.bytes, kind));
    }
    deliver(settings, subject.replace(['\r', '\n'], " "), parts).await
}

async fn deliver(settings: &Settings, subject: String, parts: MultiPart) -> Result<String, SendError> {
    let refused = |error: &dyn std::error::Error| SendError::Refused(error.to_string());
    let address = |text: &str| text.parse::<Mailbox>().map_err(|error| refused(&error));
    let automatic = HeaderValue::new(HeaderName::new_from_ascii_str("Auto-Submitted"), "auto-generated".to_owned());
    let mut builder = lettre::Message::builder().from(address(&settings.from)?).subject(subject).raw_header(automatic);
    for recipient in &settings.to {
        builder = builder.to(address(recipient)?);
    }
    let mail = builder.multipart(parts).map_err(|error| refused(&error))?;

    let transport = transport(settings).await?;
    let response = match tokio::time::timeout(settings.timeout, transport.send(mail)).await {
        Err(_elapsed) => return Err(SendError::Unavailable("the mail server did not answer in time".to_owned())),
        Ok(Ok(response)) => response,
        Ok(Err(error)) => {
            let code = error.status().map(u16::from);
            let text = chain(&error);
            let login = matches!(code, Some(530 | 534 | 535 | 538));
            return Err(if error.is_permanent() && !login {
                SendError::Refused(text)
            } else {
                SendError::Unavailable(text)
            });
        }
    };
    Ok(format!("SMTP {}", response.code()))
}

async fn transport(settings: &Settings) -> Result<AsyncSmtpTransport<Tokio1Executor>, SendError> {
    let tls = match settings.security {
        Security::StartTls => Tls::Required(tls_parameters(settings).await?),
        Security::Tls => Tls::Wrapper(tls_parameters(settings).await?),
        Security::PlainLoopback if !is_loopback(&settings.host) => {
            return Err(SendError::Refused(format!("mail to `{}` needs STARTTLS or TLS", settings.host)));
        }
        Security::PlainLoopback | Security::PlainAnywhere => Tls::None,
    };
    let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&settings.host)
        .port(settings.port)
        .timeout(Some(settings.timeout))
        .tls(tls);
    if let (Some(user), Some(file)) = (&settings.username, &settings.password_file) {
        builder = builder.credentials(Credentials::new(user.clone(), read_secret(file).await?));
    }
    Ok(builder.build())
}

async fn tls_parameters(settings: &Settings) -> Result<TlsParameters, SendError> {
    let mut builder = TlsParameters::builder(settings.host.clone());
    if let Some(path) = &settings.ca_file {
        let pem = tokio::fs::read(path)
            .await
            .map_err(|error| SendError::Unavailable(format!("cannot read {}: {error}", path.display())))?;
        builder =
            builder.add_root_certificate(Certificate::from_pem(&pem).map_err(|e| SendError::Unavailable(chain(&e)))?);
    }
    builder.build().map_err(|error| SendError::Unavailable(chain(&error)))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let next = inner.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn message() -> Message {
        let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
        };
        let alert = |instance: &str, ends_ms| Notice {
            fingerprint: 1,
            labels: map(&[("alertname", "HostDiskFull"), ("instance", instance), ("severity", "critical")]),
            annotations: map(&[
                ("summary", "Disk <full>"),
                ("summary_ro", "Disc plin"),
                ("description", "4 % & less"),
                ("runbook", "playbooks/HostDiskFull.md"),
            ]),
            starts_ms: 1_700_000_000_000,
            ends_ms,
            generator_url: String::new(),
        };
        Message {
            group_key: r#"{}:{alertname="HostDiskFull"}"#.to_owned(),
            group_labels: map(&[("alertname", "HostDiskFull")]),
            alerts: vec![alert("a", None), alert("b", Some(1_700_000_060_000))],
            truncated: 2,
            test: false,
        }
    }

    #[test]
    fn a_letter_is_written_in_english() {
        let letter = letter(&Settings::new("localhost", "v@x.ro", vec![]), &message(), "http://v");
        assert_eq!(letter.subject, "[FIRING:1] HostDiskFull (critical)");
        for part in [
            "* Disk <full>",
            "4 % & less",
            "Since: 2023-11-14 22:13:20 UTC",
            "Until: 2023-11-14 22:14:20 UTC",
            "Playbook: playbooks/HostDiskFull.md",
            "2 more alerts",
            "instance=b",
        ] {
            assert!(letter.text.contains(part), "{part}: {}", letter.text);
        }
        assert!(letter.html.contains("<h3>Disk &lt;full&gt;</h3>") && letter.html.contains("4 % &amp; less"));
    }

    #[test]
    fn a_letter_is_written_in_romanian_with_its_own_annotations() {
        let mut settings = Settings::new("localhost", "v@x.ro", vec![]);
        settings.language = Language::Romanian;
        let letter = letter(&settings, &message(), "http://v");
        assert_eq!(letter.subject, "[ALERTĂ:1] HostDiskFull (critical)");
        for part in ["* Disc plin", "În curs", "Rezolvate", "Gravitate: critical", "Procedură"] {
            assert!(letter.text.contains(part), "{part}: {}", letter.text);
        }
        assert!(letter.html.contains("lang=\"ro\""));
    }

    #[test]
    fn settings_that_leak_or_lack_are_named() {
        let mut settings = Settings::new("mail.example", "no address", vec![]);
        settings.security = Security::PlainLoopback;
        settings.username = Some("u".to_owned());
        assert_eq!(settings.problems().len(), 4, "{:?}", settings.problems());
        let fine = Settings::new("127.0.0.1", "Veghe <v@x.ro>", vec!["it@x.ro".to_owned()]);
        assert_eq!(Settings { security: Security::PlainLoopback, ..fine }.problems(), [""; 0]);
    }
}
