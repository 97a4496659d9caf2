//! `remote_write` and `external_labels` in the file, in Prometheus' form as far as both have the same.

use std::path::PathBuf;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue};
use url::Url;
use veghe_model::{Labels, RelabelRule, RelabelSettings, is_label_name};
use veghe_wire::document::{Node, Problems, Section};

use super::files::{Kind, NamedFile};
use super::storage::parse_size;
use super::{at_least, keys, parse_http_url, parse_text, required, required_file, set, values};
use crate::remote::{Credentials, Protocol, Target};

/// The protocols by what they are called in a file: the name of their message.
pub(super) const PROTOCOLS: [(&str, Protocol); 2] =
    [("prometheus.WriteRequest", Protocol::Version1), ("io.prometheus.write.v2.Request", Protocol::Version2)];

/// Headers that a request has anyway.
const OWN_HEADERS: &[&str] = &[
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "host",
    "retry-attempt",
    "transfer-encoding",
    "user-agent",
    "x-prometheus-remote-write-version",
];
/// More connections help nobody.
const MAX_SHARDS: usize = 200;
/// A request of that many samples has some megabytes.
const MAX_SAMPLES_PER_SEND: usize = 100_000;

/// Labels that everything is told with that leaves the collector.
pub(super) fn external_labels(section: &mut Section<'_>, p: &mut Problems) -> Labels {
    let mut pairs = Vec::new();
    for (name, node) in section.take_all() {
        if !is_label_name(name) {
            p.note(
                node.line,
                &*node.key,
                format_args!("`{name}` is not a label's name; write letters, digits and `_`"),
            );
        }
        pairs.extend(node.text(p).map(|value| (name.to_owned(), value.to_owned())));
    }
    Labels::from_pairs(pairs)
}

pub(super) fn read(list: &[Node], named: &mut Vec<NamedFile>, p: &mut Problems) -> Vec<Target> {
    let mut targets: Vec<Target> = Vec::new();
    for node in list {
        let mut section = node.section(p);
        let target = target(&mut section, named, p);
        section.finish(keys("remote_write[]"), p);
        if let Some(target) = target {
            if targets.iter().any(|other| other.name == target.name) {
                p.note(
                    node.line,
                    &*node.key,
                    format_args!("is called `{}` as another one is; give each its own `name`", target.name),
                );
            }
            targets.push(target);
        }
    }
    targets
}

fn target(section: &mut Section<'_>, named: &mut Vec<NamedFile>, p: &mut Problems) -> Option<Target> {
    let url = required(section, "url", p, parse_url);
    // What follows is checked also where there is no address.
    let nowhere = Url::parse("http://localhost/").expect("invariant: an address");
    let mut target = Target::new(url.clone().unwrap_or(nowhere));
    set(&mut target.name, section.value("name", p, parse_text));
    set(&mut target.protocol, section.value("protobuf_message", p, parse_protocol));
    set(&mut target.timeout, section.value("remote_timeout", p, at_least(Duration::from_secs(1))));
    if let Some(mut headers) = section.section("headers", p) {
        for (name, node) in headers.take_all() {
            let value = node.text(p).map(|value| parse_header(name, value));
            target.headers.extend(value.and_then(|header| p.check(node.line, &node.key, header)));
        }
    }
    for item in section.list("write_relabel_configs", p) {
        let mut rule = item.section(p);
        target.relabel.extend(relabel_rule(&mut rule, item, p));
        rule.finish(keys("remote_write[].write_relabel_configs[]"), p);
    }
    target.credentials = credentials(section, named, p);
    if let Some(mut tls) = section.section("tls_config", p) {
        target.ca_file = super::file(&mut tls, "ca_file", Kind::Certificates, named, p);
        target.certificate = certificate(&mut tls, named, p);
        tls.finish(keys("remote_write[].tls_config"), p);
    }
    if let Some(mut queue) = section.section("queue_config", p) {
        let into = &mut target.queue;
        set(&mut into.max_shards, queue.value("max_shards", p, at_most(MAX_SHARDS)));
        set(&mut into.max_samples_per_send, queue.value("max_samples_per_send", p, at_most(MAX_SAMPLES_PER_SEND)));
        set(&mut into.batch_send_deadline, queue.value("batch_send_deadline", p, at_least(Duration::from_millis(100))));
        set(&mut into.min_backoff, queue.value("min_backoff", p, at_least(Duration::from_millis(1))));
        set(&mut into.max_backoff, queue.value("max_backoff", p, at_least(Duration::from_millis(1))));
        if into.max_backoff < into.min_backoff {
            p.note(queue.line(), queue.path("max_backoff"), "is shorter than `min_backoff`; make it longer");
        }
        queue.finish(keys("remote_write[].queue_config"), p);
    }
    set(&mut target.max_backlog_bytes, section.value("max_backlog", p, parse_size));
    url.map(|_| target)
}

fn credentials(section: &mut Section<'_>, named: &mut Vec<NamedFile>, p: &mut Problems) -> Option<Credentials> {
    let basic = section.section("basic_auth", p).map(|mut basic| {
        let username = required(&mut basic, "username", p, parse_text);
        let password_file = required_file(&mut basic, "password_file", Kind::Secret, named, p);
        basic.finish(keys("remote_write[].basic_auth"), p);
        Some(Credentials::Basic { username: username?, password_file: password_file? })
    });
    let bearer = section.section("authorization", p).map(|mut bearer| {
        bearer.value("type", p, |text| match text {
            "Bearer" => Ok(()),
            _ => Err(format!("`{text}` is not known; only `Bearer` is, and `basic_auth` has a section of its own")),
        });
        let file = required_file(&mut bearer, "credentials_file", Kind::Secret, named, p);
        bearer.finish(keys("remote_write[].authorization"), p);
        file.map(Credentials::Bearer)
    });
    if basic.is_some() && bearer.is_some() {
        p.note(section.line(), section.path("authorization"), "is there beside `basic_auth`; keep one of them");
    }
    basic.or(bearer).flatten()
}

fn certificate(tls: &mut Section<'_>, named: &mut Vec<NamedFile>, p: &mut Problems) -> Option<(PathBuf, PathBuf)> {
    let certificate = super::file(tls, "cert_file", Kind::Certificates, named, p);
    let key = super::file(tls, "key_file", Kind::Key, named, p);
    match (&certificate, &key) {
        (Some(_), None) => p.note(tls.line(), tls.path("key_file"), "is missing; `cert_file` needs its key"),
        (None, Some(_)) => p.note(tls.line(), tls.path("cert_file"), "is missing; `key_file` needs its certificate"),
        _ => {}
    }
    certificate.zip(key)
}

fn relabel_rule(section: &mut Section<'_>, node: &Node, p: &mut Problems) -> Option<RelabelRule> {
    let before = p.iter().count();
    let mut settings = RelabelSettings::default();
    let any = |text: &str| Ok::<_, String>(text.to_owned());
    settings.source_labels = values(section, "source_labels", p, parse_text);
    set(&mut settings.separator, section.value("separator", p, any));
    set(&mut settings.regex, section.value("regex", p, any));
    set(&mut settings.modulus, section.value("modulus", p, super::parse_count).map(|modulus| modulus as u64));
    set(&mut settings.target_label, section.value("target_label", p, any));
    set(&mut settings.replacement, section.value("replacement", p, any));
    set(&mut settings.action, section.value("action", p, str::parse));
    if p.iter().count() > before {
        return None;
    }
    let rule = RelabelRule::new(settings).map_err(|error| match std::error::Error::source(&error) {
        // A pattern's error draws where it is, on lines of its own; the last says what it is.
        Some(cause) => format!("{error}: {}", cause.to_string().lines().last().unwrap_or_default()),
        None => error.to_string(),
    });
    p.check(node.line, &node.key, rule)
}

fn parse_url(text: &str) -> Result<Url, String> {
    let url = parse_http_url(text)?;
    if url.username().is_empty() && url.password().is_none() {
        return Ok(url);
    }
    Err("has a name or password in it; write them into `basic_auth`".to_owned())
}

fn parse_protocol(text: &str) -> Result<Protocol, String> {
    let found = PROTOCOLS.iter().find(|(name, _)| *name == text).map(|(_, protocol)| *protocol);
    found.ok_or_else(|| format!("`{text}` is neither `{}` nor `{}`", PROTOCOLS[0].0, PROTOCOLS[1].0))
}

fn parse_header(name: &str, value: &str) -> Result<(String, String), String> {
    let known = HeaderName::try_from(name).map_err(|_unusable| format!("`{name}` is not a header's name"))?;
    if OWN_HEADERS.contains(&known.as_str()) {
        return Err(format!("`{name}` is set by the collector; remove it"));
    }
    HeaderValue::try_from(value).map_err(|_unusable| "is not a header's value; write plain text".to_owned())?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Reads a count of at most `most`.
fn at_most(most: usize) -> impl Fn(&str) -> Result<usize, String> {
    move |text| match super::parse_count(text)? {
        count if count <= most => Ok(count),
        _ => Err(format!("`{text}` is too many; at most `{most}`")),
    }
}
