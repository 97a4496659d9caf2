//! The list `digitization.workflows`: Goobi and Kitodo, their databases, and which of their steps is which stage.

use std::collections::BTreeMap;
use std::time::Duration;

use regex::Regex;
use veghe_wire::document::{Node, Problems, Section};

use super::digitization::parse_name;
use super::files::{Kind, NamedFile};
use super::{
    at_least, file, keys, parse_host_name, parse_port, parse_text, parse_time_zone, required, required_file, set,
    values,
};
use crate::digitization::Stage;
use crate::digitization::workflow::{MAX_WORKFLOWS, Security, System, Workflow};

/// Names in settings, and what they mean.
fn known<T: Copy>(text: &str, all: &[(&'static str, T)]) -> Result<T, String> {
    let found = all.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
    found.ok_or_else(|| {
        let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
        format!("`{text}` is none of {}", names.join(", "))
    })
}

pub(super) fn read(list: &[Node], named: &mut Vec<NamedFile>, p: &mut Problems) -> Vec<Workflow> {
    let mut workflows: Vec<Workflow> = Vec::new();
    for node in list {
        let mut section = node.section(p);
        let workflow = workflow(&mut section, named, p);
        section.finish(keys("digitization.workflows[]"), p);
        let Some(workflow) = workflow else { continue };
        if workflows.iter().any(|other| other.name == workflow.name) {
            p.note(node.line, &*node.key, format_args!("name `{}` is used twice; choose another", workflow.name));
        }
        workflows.push(workflow);
    }
    if workflows.len() > MAX_WORKFLOWS {
        let (found, most) = (workflows.len(), MAX_WORKFLOWS);
        p.note(list[0].line, "digitization.workflows", format_args!("has {found} systems; at most {most}"));
    }
    workflows
}

fn workflow(section: &mut Section<'_>, named: &mut Vec<NamedFile>, p: &mut Problems) -> Option<Workflow> {
    let name = required(section, "name", p, parse_name);
    let system = required(section, "system", p, |text| known(text, &System::ALL.map(|system| (system.name(), system))));
    let host = required(section, "host", p, parse_host_name);
    let port = section.value("port", p, parse_port);
    let security =
        section.value("security", p, |text| known(text, &Security::ALL.map(|security| (security.name(), security))));
    let ca_file = file(section, "ca_file", Kind::Certificates, named, p);
    let database = section.value("database", p, parse_text);
    let username = required(section, "username", p, parse_text);
    let password_file = required_file(section, "password_file", Kind::Secret, named, p);
    let time_zone = section.value("time_zone", p, parse_time_zone);
    let projects = values(section, "projects", p, parse_text);
    let unit_property = section.value("unit_property", p, parse_text);
    let unit_pattern = section.value("unit_pattern", p, parse_pattern);
    let (line, key) = (section.line(), section.path("steps"));
    let steps = section.section("steps", p).map(|mut steps| read_steps(&mut steps, p)).unwrap_or_default();
    if steps.is_empty() {
        p.note(line, key, "is missing; give each step that counts its stage, for example `Scannen: scan`");
    }
    let mut every = Duration::from_mins(1);
    set(&mut every, section.value("every", p, at_least(Duration::from_secs(1))));
    let system = system?;
    Some(Workflow {
        name: name?,
        system,
        host: host?,
        port: port.unwrap_or(3306),
        security: security.unwrap_or(Security::Tls),
        ca_file,
        database: database.unwrap_or_else(|| system.name().to_owned()),
        username: username?,
        password_file: password_file?,
        time_zone,
        projects,
        unit_property,
        unit_pattern,
        steps,
        every,
    })
}

fn read_steps(section: &mut Section<'_>, p: &mut Problems) -> BTreeMap<String, Stage> {
    let mut steps = BTreeMap::new();
    for (title, node) in section.take_all() {
        let stage = node.text(p).map(|text| known(text, &Stage::ALL.map(|stage| (stage.name(), stage))));
        if let Some(stage) = stage.and_then(|stage| p.check(node.line, &node.key, stage)) {
            steps.insert(title.to_owned(), stage);
        }
    }
    steps
}

fn parse_pattern(text: &str) -> Result<Regex, String> {
    let wrong = |why: &str| format!("`{text}` {why}; write for example `^(.+)_\\d+$`");
    let pattern = Regex::new(text).map_err(|error| {
        // Its message draws where it is, on lines of its own; the last says what it is.
        wrong(&format!("is no pattern ({})", error.to_string().lines().last().unwrap_or_default()))
    })?;
    if pattern.captures_len() == 2 { Ok(pattern) } else { Err(wrong("has not exactly one group")) }
}
