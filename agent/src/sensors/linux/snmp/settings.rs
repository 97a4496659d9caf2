//! What is asked by SNMP: the keys of `sensors.snmp`, in `snmp_exporter`'s words where it has them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use veghe_dialects::snmp::Oid;
use veghe_dialects::snmp::usm::{AuthProtocol, PrivProtocol};
use veghe_wire::document::{Node, Problems, Section, format_duration, parse_bool};

use super::module::{self, Column, ColumnKind, Index, IndexKind, Lookup, Module};
use crate::sensors::options::{
    absolute, label_name, label_value, labels, list, metric_name, quoted, required, span, texts, write_labels,
};

/// Targets have a thread each.
const MAX_TARGETS: usize = 64;
const TIMEOUT: Duration = Duration::from_secs(15);
const MAX_REPETITIONS: u16 = 25;
const PORT: u16 = 161;
const PUBLIC: &str = "public_v2";
/// Of one module of the settings.
const MAX_COLUMNS: usize = 500;

/// Keys of the section, beside those that every sensor has.
pub(crate) const KEYS: &[&str] = &["auths", "modules", "targets"];

const AUTH_PROTOCOLS: [(&str, AuthProtocol); 5] = [
    ("SHA", AuthProtocol::Sha1),
    ("SHA224", AuthProtocol::Sha224),
    ("SHA256", AuthProtocol::Sha256),
    ("SHA384", AuthProtocol::Sha384),
    ("SHA512", AuthProtocol::Sha512),
];
const PRIV_PROTOCOLS: [(&str, PrivProtocol); 5] = [
    ("AES", PrivProtocol::Aes128),
    ("AES192", PrivProtocol::Aes192),
    ("AES256", PrivProtocol::Aes256),
    ("AES192C", PrivProtocol::Aes192Reeder),
    ("AES256C", PrivProtocol::Aes256Reeder),
];

/// Everything of the section.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Ways to ask, by name.
    pub auths: BTreeMap<String, Arc<Auth>>,
    /// Modules of the settings' own, by name.
    pub modules: BTreeMap<String, Arc<Module>>,
    /// Whom to ask.
    pub targets: Vec<Target>,
}

// Scales are finite numbers.
impl Eq for Settings {}

impl Default for Settings {
    /// Nobody to ask, and the way to ask that needs no settings, as `snmp_exporter` calls it.
    fn default() -> Self {
        let public = Auth { name: PUBLIC.to_owned(), credentials: Credentials::Community { file: None } };
        let auths = BTreeMap::from([(PUBLIC.to_owned(), Arc::new(public))]);
        Self { auths, modules: BTreeMap::new(), targets: Vec::new() }
    }
}

/// A way to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// Its name.
    pub name: String,
    /// What it shows.
    pub credentials: Credentials,
}

/// Where the secrets are; they are read when a device is first asked, and never kept in the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// Version 2c.
    Community {
        /// The file with the community; `public` without one.
        file: Option<PathBuf>,
    },
    /// Version 3.
    User {
        /// The user.
        name: String,
        /// Protocol, and the file with the password.
        auth: Option<(AuthProtocol, PathBuf)>,
        /// Protocol, and the file with the password.
        privacy: Option<(PrivProtocol, PathBuf)>,
        /// The context, mostly empty.
        context: String,
    },
}

/// A device.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Host, or host and port, as settings have it; the value of the label `instance`.
    pub address: String,
    /// How it is asked.
    pub auth: Arc<Auth>,
    /// What for.
    pub modules: Vec<Arc<Module>>,
    /// How long all of it may take in a round.
    pub timeout: Duration,
    /// How many values one answer may have.
    pub max_repetitions: u16,
    /// Labels of every series.
    pub labels: Vec<(String, String)>,
}

impl Target {
    /// Host and port.
    pub(super) fn socket_address(&self) -> String {
        let has_port = match self.address.rsplit_once(':') {
            Some((host, port)) => port.parse::<u16>().is_ok() && (!host.contains(':') || host.ends_with(']')),
            None => false,
        };
        match (has_port, self.address.contains(':') && !self.address.starts_with('[')) {
            (true, _) => self.address.clone(),
            (false, true) => format!("[{}]:{PORT}", self.address),
            (false, false) => format!("{}:{PORT}", self.address),
        }
    }
}

/// Reads the section.
pub(crate) fn read(section: &mut Section<'_>, problems: &mut Problems) -> Settings {
    let mut settings = Settings::default();
    if let Some(mut auths) = section.section("auths", problems) {
        for (name, node) in auths.take_all() {
            if let Some(credentials) = auth(node, problems) {
                settings.auths.insert(name.to_owned(), Arc::new(Auth { name: name.to_owned(), credentials }));
            } else {
                // Known, so that its targets are not wrong as well.
                let credentials = Credentials::Community { file: None };
                settings.auths.insert(name.to_owned(), Arc::new(Auth { name: name.to_owned(), credentials }));
            }
        }
    }
    if let Some(mut modules) = section.section("modules", problems) {
        for (name, node) in modules.take_all() {
            if module::builtin().any(|(builtin, _)| builtin == name) {
                problems.note(node.line, &*node.key, "is a module that is always there; choose another name");
            }
            let module = own_module(name, node, problems);
            settings.modules.insert(name.to_owned(), Arc::new(module));
        }
    }
    let mut builtin: BTreeMap<String, Arc<Module>> = BTreeMap::new();
    let nodes = section.list("targets", problems);
    for node in nodes {
        let target = target(node, &settings, &mut builtin, problems);
        settings.targets.extend(target);
    }
    if let (true, Some(node)) = (nodes.len() > MAX_TARGETS, nodes.first()) {
        problems.note(node.line, &*node.key, format_args!("are {}; at most {MAX_TARGETS} can be", nodes.len()));
    }
    settings
}

fn one_of<T: Copy>(names: &[(&str, T)], text: &str) -> Result<T, String> {
    let found = names.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)).map(|(_, value)| *value);
    found.ok_or_else(|| {
        let names: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
        format!("`{text}` is none of {}", names.join(", "))
    })
}

fn auth(node: &Node, problems: &mut Problems) -> Option<Credentials> {
    let mut section = node.section(problems);
    let versions = [("2", 2), ("2c", 2), ("3", 3)];
    let version = section.value("version", problems, |text| match text {
        "1" => Err("`1` is not spoken, as it has no counters of 64 bits; write 2 or 3".to_owned()),
        text => one_of(&versions, text),
    });
    let known = [
        "version",
        "community_file",
        "username",
        "security_level",
        "auth_protocol",
        "auth_password_file",
        "priv_protocol",
        "priv_password_file",
        "context_name",
    ];
    for (plain, file) in
        [("community", "community_file"), ("password", "auth_password_file"), ("priv_password", "priv_password_file")]
    {
        if let Some(node) = section.take(plain) {
            problems.note(
                node.line,
                &*node.key,
                format_args!("would be a secret in the settings; put it into a file and name that in {file}"),
            );
        }
    }
    if version.unwrap_or(2) == 2 {
        let file = section.value("community_file", problems, absolute);
        section.finish(&known[..2], problems);
        return Some(Credentials::Community { file });
    }
    let name = required(&mut section, "username", problems, label_value);
    let levels = [("noAuthNoPriv", 0), ("authNoPriv", 1), ("authPriv", 2)];
    let level = section.value("security_level", problems, |text| one_of(&levels, text)).unwrap_or(2);
    let auth = (level > 0).then(|| {
        let protocol = section.value("auth_protocol", problems, |text| {
            if text.eq_ignore_ascii_case("MD5") {
                return Err("`MD5` protects nothing any more; set the device and this to SHA256 or SHA".to_owned());
            }
            one_of(&AUTH_PROTOCOLS, text)
        });
        (protocol.unwrap_or(AuthProtocol::Sha256), required(&mut section, "auth_password_file", problems, absolute))
    });
    let privacy = (level > 1).then(|| {
        let protocol = section.value("priv_protocol", problems, |text| {
            if text.eq_ignore_ascii_case("DES") {
                return Err("`DES` protects nothing any more; set the device and this to AES".to_owned());
            }
            one_of(&PRIV_PROTOCOLS, text)
        });
        (protocol.unwrap_or(PrivProtocol::Aes128), required(&mut section, "priv_password_file", problems, absolute))
    });
    let context = section.value("context_name", problems, |text| Ok::<_, String>(text.to_owned())).unwrap_or_default();
    section.finish(&known, problems);
    let with_file = |(protocol, file): (_, Option<PathBuf>)| file.map(|file| (protocol, file));
    let auth = auth.map(|(protocol, file)| file.map(|file| (protocol, file)));
    Some(Credentials::User {
        name: name?,
        auth: match auth {
            Some(auth) => Some(auth?),
            None => None,
        },
        privacy: match privacy {
            Some(privacy) => Some(with_file(privacy)?),
            None => None,
        },
        context,
    })
}

fn target(
    node: &Node,
    settings: &Settings,
    builtin: &mut BTreeMap<String, Arc<Module>>,
    problems: &mut Problems,
) -> Option<Target> {
    let mut section = node.section(problems);
    let address = required(&mut section, "address", problems, host);
    let auth = section.value("auth", problems, |text| {
        let auth = settings.auths.get(text).cloned();
        let names: Vec<&str> = settings.auths.keys().map(String::as_str).collect();
        auth.ok_or_else(|| format!("`{text}` is none of the auths: {}", names.join(", ")))
    });
    let auth = auth.or_else(|| settings.auths.get(PUBLIC).cloned());
    let nodes = section.list("modules", problems);
    let names = texts(nodes, problems, |text| {
        if settings.modules.contains_key(text) || module::builtin().any(|(name, _)| name == text) {
            return Ok(text.to_owned());
        }
        let names = settings.modules.keys().map(String::as_str).chain(module::builtin().map(|(name, _)| name));
        Err(format!("`{text}` is no module; there are {}", names.collect::<Vec<_>>().join(", ")))
    });
    let modules = names.map(|names| {
        let mut module = |name: String| {
            if let Some(module) = settings.modules.get(&name).or_else(|| builtin.get(&name)) {
                return Some(Arc::clone(module));
            }
            let module = Arc::new(Module::named(&name)?);
            builtin.insert(name, Arc::clone(&module));
            Some(module)
        };
        names.into_iter().filter_map(&mut module).collect()
    });
    if nodes.is_empty() {
        problems.note(section.line(), section.path("modules"), "is missing; write for example [if_mib, printer_mib]");
    }
    let timeout = section.value("timeout", problems, span).unwrap_or(TIMEOUT);
    let repetitions = section.value("max_repetitions", problems, |text| {
        let number = text.parse().ok().filter(|number| (1..=1000).contains(number));
        number.ok_or_else(|| format!("`{text}` is not a whole number from 1 to 1000"))
    });
    let labels = labels(&mut section, problems);
    section.finish(&["address", "auth", "modules", "timeout", "max_repetitions", "labels"], problems);
    let max_repetitions = repetitions.unwrap_or(MAX_REPETITIONS);
    Some(Target { address: address?, auth: auth?, modules: modules?, timeout, max_repetitions, labels })
}

fn host(text: &str) -> Result<String, String> {
    let is_host = !text.is_empty() && !text.contains(['/', ' ']) && text.is_ascii();
    if is_host {
        Ok(text.to_owned())
    } else {
        Err(format!("`{text}` is no host; write for example `printer-1.cjt.ro` or `10.0.0.5:161`"))
    }
}

fn oid(text: &str) -> Result<Oid, String> {
    // A single object is asked for by what it is below.
    let text = text.strip_suffix(".0").unwrap_or(text);
    text.parse::<Oid>().map_err(|error| format!("`{text}` {error}"))
}

fn own_module(name: &str, node: &Node, problems: &mut Problems) -> Module {
    let mut section = node.section(problems);
    let walks = texts(section.list("walk", problems), problems, oid);
    let nodes = section.list("metrics", problems);
    let columns: Vec<Column> = nodes.iter().filter_map(|node| column(node, problems)).collect();
    if nodes.len() > MAX_COLUMNS {
        problems.note(
            section.line(),
            section.path("metrics"),
            format_args!("are {}; at most {MAX_COLUMNS} can be", nodes.len()),
        );
    }
    section.finish(&["walk", "metrics"], problems);
    let walks = walks.filter(|walks| !walks.is_empty()).unwrap_or_else(|| {
        // What metrics and lookups need, each once.
        let lookups = columns.iter().flat_map(|column| column.lookups.iter().map(|lookup| lookup.oid.clone()));
        let mut needed: Vec<Oid> = columns.iter().map(|column| column.oid.clone()).chain(lookups).collect();
        needed.sort();
        needed.dedup_by(|later, earlier| later.below(earlier).is_some());
        needed
    });
    Module { name: name.to_owned(), walks, columns }
}

const TYPES: [&str; 9] = [
    "gauge",
    "counter",
    "DisplayString",
    "OctetString",
    "PhysAddress48",
    "DateAndTime",
    "EnumAsInfo",
    "EnumAsStateSet",
    "Bits",
];

fn column(node: &Node, problems: &mut Problems) -> Option<Column> {
    let mut section = node.section(problems);
    let name = required(&mut section, "name", problems, metric_name);
    let oid = required(&mut section, "oid", problems, self::oid);
    let known: Vec<(&str, &str)> = TYPES.iter().map(|name| (*name, *name)).collect();
    let kind = section.value("type", problems, |text| one_of(&known, text)).unwrap_or("gauge");
    section.take("help");
    let mut names = Vec::new();
    if let Some(mut values) = section.section("enum_values", problems) {
        for (number, node) in values.take_all() {
            let number = number.parse::<i64>().or(Err(format!("`{number}` is no whole number")));
            let number = problems.check(node.line, &node.key, number);
            names.extend(number.zip(node.text(problems).map(str::to_owned)));
        }
    }
    if names.is_empty() && matches!(kind, "EnumAsInfo" | "EnumAsStateSet" | "Bits") {
        problems.note(
            section.line(),
            section.path("enum_values"),
            "is missing; write for example {1: normal, 2: failed}",
        );
    }
    let scale = section.value("scale", problems, |text| {
        let scale = text.parse().ok().filter(|scale: &f64| scale.is_finite());
        scale.ok_or_else(|| format!("`{text}` is no number; write for example 0.1"))
    });
    let indexes = section.list("indexes", problems);
    let indexes: Vec<Index> = indexes.iter().filter_map(|node| index(node, problems)).collect();
    let lookups = section.list("lookups", problems);
    let lookups: Vec<Lookup> = lookups.iter().filter_map(|node| lookup(node, &indexes, problems)).collect();
    section.finish(&["name", "oid", "type", "help", "scale", "enum_values", "indexes", "lookups"], problems);
    let kind = match kind {
        "DisplayString" => ColumnKind::Text,
        "OctetString" => ColumnKind::Bytes,
        "PhysAddress48" => ColumnKind::Address,
        "DateAndTime" => ColumnKind::Time,
        "EnumAsInfo" => ColumnKind::Info(names),
        "EnumAsStateSet" => ColumnKind::States(names),
        "Bits" => ColumnKind::Bits(names),
        _ => ColumnKind::Number,
    };
    Some(Column { name: name?, oid: oid?, kind, indexes, lookups, scale: scale.unwrap_or(1.0) })
}

const INDEX_TYPES: [(&str, IndexKind); 4] = [
    ("gauge", IndexKind::Number),
    ("DisplayString", IndexKind::Text),
    ("InetAddressIPv4", IndexKind::IpAddress),
    ("PhysAddress48", IndexKind::Address),
];

fn index(node: &Node, problems: &mut Problems) -> Option<Index> {
    let mut section = node.section(problems);
    let label = required(&mut section, "labelname", problems, label_name);
    let kind = section.value("type", problems, |text| one_of(&INDEX_TYPES, text)).unwrap_or(IndexKind::Number);
    section.finish(&["labelname", "type"], problems);
    Some(Index { label: label?, kind })
}

fn lookup(node: &Node, indexes: &[Index], problems: &mut Problems) -> Option<Lookup> {
    let mut section = node.section(problems);
    let by = texts(section.list("labels", problems), problems, |text| {
        let is_known = indexes.iter().any(|index| index.label == text);
        if is_known { Ok(text.to_owned()) } else { Err(format!("`{text}` is none of the indexes")) }
    });
    let label = required(&mut section, "labelname", problems, label_name);
    let oid = required(&mut section, "oid", problems, self::oid);
    let instead = section.value("drop_source_indexes", problems, parse_bool).unwrap_or(false);
    section.finish(&["labels", "labelname", "oid", "drop_source_indexes"], problems);
    Some(Lookup { by: by?, label: label?, oid: oid?, instead })
}

/// What [`read`] reads, as a document has it.
pub(crate) fn write(settings: &Settings) -> String {
    let file = |path: &PathBuf| quoted(&path.to_string_lossy());
    let auths = settings.auths.values().map(|auth| {
        let credentials = match &auth.credentials {
            Credentials::Community { file: None } => "version: 2".to_owned(),
            Credentials::Community { file: Some(path) } => format!("version: 2, community_file: {}", file(path)),
            Credentials::User { name, auth, privacy, context } => {
                let named = |name: Option<&str>| name.unwrap_or_default().to_owned();
                let auth_text = auth.as_ref().map(|(protocol, path)| {
                    let protocol =
                        named(AUTH_PROTOCOLS.iter().find(|(_, other)| other == protocol).map(|(name, _)| *name));
                    format!(", auth_protocol: {protocol}, auth_password_file: {}", file(path))
                });
                let privacy_text = privacy.as_ref().map(|(protocol, path)| {
                    let protocol =
                        named(PRIV_PROTOCOLS.iter().find(|(_, other)| other == protocol).map(|(name, _)| *name));
                    format!(", priv_protocol: {protocol}, priv_password_file: {}", file(path))
                });
                let level = match (auth, privacy) {
                    (None, _) => "noAuthNoPriv",
                    (Some(_), None) => "authNoPriv",
                    (Some(_), Some(_)) => "authPriv",
                };
                format!(
                    "version: 3, username: {}, security_level: {level}{}{}, context_name: {}",
                    quoted(name),
                    auth_text.unwrap_or_default(),
                    privacy_text.unwrap_or_default(),
                    quoted(context),
                )
            }
        };
        format!("{}: {{{credentials}}}", quoted(&auth.name))
    });
    let auths = auths.collect::<Vec<_>>().join(", ");
    let modules = settings.modules.values().map(|module| {
        let walks = list(module.walks.iter().map(Oid::to_string));
        format!(
            "{}: {{walk: {walks}, metrics: {}}}",
            quoted(&module.name),
            list(module.columns.iter().map(write_column))
        )
    });
    let modules = modules.collect::<Vec<_>>().join(", ");
    let targets = list(settings.targets.iter().map(|target| {
        format!(
            "{{address: {}, auth: {}, modules: {}, timeout: {}, max_repetitions: {}, labels: {}}}",
            quoted(&target.address),
            quoted(&target.auth.name),
            list(target.modules.iter().map(|module| quoted(&module.name))),
            format_duration(target.timeout),
            target.max_repetitions,
            write_labels(&target.labels),
        )
    }));
    format!(", auths: {{{auths}}}, modules: {{{modules}}}, targets: {targets}")
}

fn write_column(column: &Column) -> String {
    let (kind, names): (_, &[(i64, String)]) = match &column.kind {
        ColumnKind::Number => ("gauge", &[]),
        ColumnKind::Text => ("DisplayString", &[]),
        ColumnKind::Bytes => ("OctetString", &[]),
        ColumnKind::Address => ("PhysAddress48", &[]),
        ColumnKind::Time => ("DateAndTime", &[]),
        ColumnKind::Info(names) => ("EnumAsInfo", names),
        ColumnKind::States(names) => ("EnumAsStateSet", names),
        ColumnKind::Bits(names) => ("Bits", names),
    };
    let names = names.iter().map(|(number, name)| format!("{number}: {}", quoted(name))).collect::<Vec<_>>().join(", ");
    let indexes = column.indexes.iter().map(|index| {
        let kind = INDEX_TYPES.iter().find(|(_, kind)| *kind == index.kind).map_or("gauge", |(name, _)| *name);
        format!("{{labelname: {}, type: {kind}}}", index.label)
    });
    let lookups = column.lookups.iter().map(|lookup| {
        format!(
            "{{labels: {}, labelname: {}, oid: {}, drop_source_indexes: {}}}",
            list(lookup.by.iter().cloned()),
            lookup.label,
            lookup.oid,
            lookup.instead
        )
    });
    format!(
        "{{name: {}, oid: {}, type: {kind}, scale: {}, enum_values: {{{names}}}, indexes: {}, lookups: {}}}",
        column.name,
        column.oid,
        column.scale,
        list(indexes),
        list(lookups),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Settings, String> {
        let mut problems = Problems::new("agent.yaml");
        let settings = Node::parse(text, &mut problems).map(|node| {
            let mut section = node.section(&mut problems);
            let settings = read(&mut section, &mut problems);
            section.finish(KEYS, &mut problems);
            settings
        });
        problems.finish(settings).map_err(|problems| problems.to_string())
    }

    const WHOLE: &str = "auths:
  v2: {version: 2, community_file: /etc/veghe/community}
  v3: {version: 3, username: veghe, auth_protocol: sha512, auth_password_file: /a, priv_protocol: AES256C, priv_password_file: /b}
modules:
  probe:
    metrics:
      - {name: roomTemperature, oid: .1.3.6.1.4.1.9999.1.1.0, scale: 0.1, help: Temperature of the room.}
      - name: roomState
        oid: 1.3.6.1.4.1.9999.2.1.2
        type: EnumAsStateSet
        enum_values: {1: ok, 2: failed}
        indexes: [{labelname: roomIndex}, {labelname: roomName, type: DisplayString}]
        lookups: [{labels: [roomIndex], labelname: roomPlace, oid: 1.3.6.1.4.1.9999.2.1.3, drop_source_indexes: true}]
targets:
  - {address: switch-1, modules: [if_mib]}
  - {address: \"10.0.0.5:1161\", auth: v3, modules: [system, probe], timeout: 5s, labels: {site: tm}}
";

    #[test]
    fn settings_are_read_and_written_as_they_are() {
        let settings = parse(WHOLE).expect("valid");
        let [first, second] = settings.targets.as_slice() else { panic!("two targets") };
        assert_eq!((first.socket_address().as_str(), first.auth.name.as_str()), ("switch-1:161", "public_v2"));
        assert_eq!((second.socket_address().as_str(), second.modules.len()), ("10.0.0.5:1161", 2));
        let walks: Vec<String> = settings.modules["probe"].walks.iter().map(Oid::to_string).collect();
        assert_eq!(walks, ["1.3.6.1.4.1.9999.1.1", "1.3.6.1.4.1.9999.2.1.2", "1.3.6.1.4.1.9999.2.1.3"]);
        let written = format!("{{{}}}", write(&settings).trim_start_matches(", "));
        assert_eq!(parse(&written).as_ref(), Ok(&settings));
        let target = |address: &str| Target { address: address.to_owned(), ..first.clone() }.socket_address();
        assert_eq!((target("fe80::1").as_str(), target("[::1]:99").as_str()), ("[fe80::1]:161", "[::1]:99"));
    }

    #[test]
    fn every_problem_is_told_with_its_remedy() {
        let text = "auths:
  old: {version: 1}
  plain: {version: 2, community: secret}
  weak: {version: 3, username: x, auth_protocol: MD5, auth_password_file: a, priv_protocol: DES}
modules:
  if_mib: {}
  own:
    metrics: [{name: 1x, oid: nowhere, type: guage, scale: big}, {name: y, oid: 1.3.6, type: Bits, lookups: [{labels: [z], labelname: q, oid: 1.3.7}]}]
targets:
  - {address: \"a b\", auth: none, modules: [ifmib], max_repetitions: 0}
  - {address: x, labels: {instance: y}}
";
        let problems = parse(text).expect_err("problems");
        assert!(!problems.contains("secret\n") && !problems.contains("`secret`"), "{problems}");
        insta::assert_snapshot!(problems);
    }
}
