//! The section `status`: what the public page shows.

use std::collections::BTreeSet;
use std::time::Duration;

use veghe_promql::Query;
use veghe_wire::document::{Node, Problems, Section};

use super::{at_least, keys, parse_http_url, parse_text, parse_time_zone, required, set};
use crate::status::{ComponentSettings, ComponentSource, Localized, Need, Settings};

/// The keys of a text that has one version for each language.
pub(super) const LANGUAGES: &[&str] = &["ro", "en"];

pub(super) fn read(section: &mut Section<'_>, p: &mut Problems) -> Settings {
    let mut settings = Settings::default();
    set(&mut settings.name, section.take("name").and_then(|node| localized(node, p)));
    let url = section.value("url", p, parse_http_url);
    set(&mut settings.url, url.map(|url| url.as_str().trim_end_matches('/').to_owned()));
    set(&mut settings.time_zone, section.value("time_zone", p, parse_time_zone));
    set(&mut settings.interval, section.value("evaluation_interval", p, at_least(Duration::from_secs(1))));
    if let Some(list) = section.take("components") {
        let mut ids = BTreeSet::new();
        let components = list.list(p).iter().filter_map(|node| {
            let component = component(node, p)?;
            if !ids.insert(component.id.clone()) {
                p.note(node.line, &*node.key, format_args!("id `{}` is used twice; choose another", component.id));
            }
            Some(component)
        });
        settings.components = ComponentSource::Configured(components.collect());
    }
    settings
}

fn component(node: &Node, p: &mut Problems) -> Option<ComponentSettings> {
    let mut section = node.section(p);
    let id = required(&mut section, "id", p, parse_text);
    let name = section.require("name", p).and_then(|node| localized(node, p));
    let description = section.take("description").and_then(|node| localized(node, p));
    let group = section.take("group").and_then(|node| localized(node, p));
    let expr = required(&mut section, "expr", p, parse_query);
    let degraded = section.value("degraded", p, parse_query);
    let need = section.value("need", p, parse_need);
    section.finish(keys("status.components[]"), p);
    Some(ComponentSettings {
        id: id?,
        name: name?,
        description,
        group,
        expr: expr?,
        degraded,
        need: need.unwrap_or_default(),
    })
}

/// A text for both languages, or one for each: `{ro: Arhivă, en: Archive}`.
fn localized(node: &Node, p: &mut Problems) -> Option<Localized> {
    if !node.is_section() {
        return node.text(p).map(Localized::same);
    }
    let mut section = node.section(p);
    let ro = required(&mut section, "ro", p, parse_text);
    let en = required(&mut section, "en", p, parse_text);
    section.finish(LANGUAGES, p);
    Some(Localized { ro: ro?, en: en? })
}

pub(super) fn parse_query(text: &str) -> Result<String, String> {
    Query::parse(text).map_err(|error| format!("is not PromQL: {error}"))?;
    Ok(text.to_owned())
}

fn parse_need(text: &str) -> Result<Need, String> {
    match text {
        "all" => Ok(Need::All),
        "any" => Ok(Need::Any),
        _ => Err(format!("`{text}` is neither `all` nor `any`")),
    }
}
