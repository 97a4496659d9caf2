//! Documents laid over one another, and written out again.

use std::fmt::Write as _;

use super::{Kind, Node};

/// Lists that add up when they are laid over one another: the path of the list, and the key by which its items are told
/// apart, empty where they are plain values. Every other list is replaced whole.
pub const fn named_lists() -> &'static [(&'static str, &'static str)] {
    &[
        ("sensors.scrapes.scrape_configs", "job_name"),
        ("sensors.backups.sets", "name"),
        ("sensors.escl.targets", "url"),
        ("sensors.redfish.targets", "url"),
        ("sensors.programs.run", "name"),
        ("sensors.certificates.files", ""),
    ]
}

impl Node {
    /// `self` with what `over` says in its place: sections key by key, lists of [`named_lists`] name by name, everything
    /// else whole. Lines are those of the document that each part came from.
    #[must_use]
    pub fn overlaid_with(&self, over: &Self) -> Self {
        let kind = match (&self.kind, &over.kind) {
            (Kind::Map(below), Kind::Map(above)) => {
                let mut entries = below.clone();
                for (name, node) in above {
                    match entries.iter_mut().find(|(other, _)| other == name) {
                        Some((_, under)) => *under = under.overlaid_with(node),
                        None => entries.push((name.clone(), node.clone())),
                    }
                }
                Kind::Map(entries)
            }
            (Kind::List(below), Kind::List(above)) => match named_lists().iter().find(|(path, _)| *path == over.key) {
                Some((_, name)) => {
                    let is_above = |item: &Node| {
                        let named = |item: &Node| item.at(name).and_then(Node::word).map(str::to_owned);
                        named(item).is_some() && above.iter().any(|other| named(other) == named(item))
                    };
                    Kind::List(below.iter().filter(|item| !is_above(item)).chain(above).cloned().collect())
                }
                None => over.kind.clone(),
            },
            _ => over.kind.clone(),
        };
        Self { line: over.line, key: over.key.clone(), kind }
    }

    /// The same without what is at `paths`, keys separated by `.`.
    #[must_use]
    pub fn without(&self, paths: &[&str]) -> Self {
        let Kind::Map(entries) = &self.kind else { return self.clone() };
        let entries = entries.iter().filter(|(name, _)| !paths.contains(&name.as_str())).map(|(name, node)| {
            let below: Vec<&str> =
                paths.iter().filter_map(|path| path.strip_prefix(name.as_str())?.strip_prefix('.')).collect();
            (name.clone(), if below.is_empty() { node.clone() } else { node.without(&below) })
        });
        Self { kind: Kind::Map(entries.collect()), ..self.clone() }
    }

    /// The same as a document of its own: paths begin below it.
    #[must_use]
    pub fn as_root(&self) -> Self {
        strip(self, self.key.len())
    }

    /// The node at `path`, keys separated by `.`, if it is there.
    pub fn at(&self, path: &str) -> Option<&Self> {
        path.split('.').filter(|part| !part.is_empty()).try_fold(self, |node, key| node.child(key))
    }

    /// The paths of its values: of everything that is no section, ascending as written.
    pub fn leaves(&self) -> Vec<&str> {
        match &self.kind {
            Kind::Map(entries) => entries.iter().flat_map(|(_, node)| node.leaves()).collect(),
            _ => vec![self.key.as_str()],
        }
    }

    /// Every single value, in sections and lists of any depth, as written.
    pub fn values(&self) -> Vec<&Self> {
        match &self.kind {
            Kind::Map(entries) => entries.iter().flat_map(|(_, node)| node.values()).collect(),
            Kind::List(items) => items.iter().flat_map(Self::values).collect(),
            Kind::Null | Kind::Scalar { .. } => vec![self],
        }
    }

    /// The same as YAML text, a value a line where it can be, so that problems name useful lines.
    pub fn to_yaml(&self) -> String {
        let mut text = String::new();
        match &self.kind {
            Kind::Map(entries) => block(entries, 0, &mut text),
            Kind::Null => {}
            _ => flow(self, &mut text),
        }
        text
    }

    fn child(&self, key: &str) -> Option<&Self> {
        let Kind::Map(entries) = &self.kind else { return None };
        entries.iter().find(|(name, _)| name == key).map(|(_, node)| node)
    }

    /// The text, where it is a single value.
    pub fn word(&self) -> Option<&str> {
        match &self.kind {
            Kind::Scalar { text, .. } if !self.is_null() => Some(text),
            _ => None,
        }
    }
}

/// `node` without the first `own` bytes of every path.
fn strip(node: &Node, own: usize) -> Node {
    let strip = |node: &Node| strip(node, own);
    let kind = match &node.kind {
        Kind::List(items) => Kind::List(items.iter().map(strip).collect()),
        Kind::Map(entries) => Kind::Map(entries.iter().map(|(name, node)| (name.clone(), strip(node))).collect()),
        other => other.clone(),
    };
    let key = node.key.get(own..).unwrap_or_default().trim_start_matches('.').to_owned();
    Node { line: node.line, key, kind }
}

fn block(entries: &[(String, Node)], indent: usize, text: &mut String) {
    for (name, node) in entries {
        text.extend(std::iter::repeat_n(' ', indent));
        quoted(name, text);
        text.push(':');
        match &node.kind {
            Kind::Map(entries) if !entries.is_empty() => {
                text.push('\n');
                block(entries, indent + 2, text);
            }
            Kind::List(items) if !items.is_empty() => {
                text.push('\n');
                for item in items {
                    text.extend(std::iter::repeat_n(' ', indent + 2));
                    text.push_str("- ");
                    flow(item, text);
                    text.push('\n');
                }
            }
            _ => {
                text.push(' ');
                flow(node, text);
                text.push('\n');
            }
        }
    }
}

fn flow(node: &Node, text: &mut String) {
    match &node.kind {
        Kind::Null => text.push('~'),
        // Nothing in quotes is null, and what was written without them may be.
        Kind::Scalar { text: word, plain } if *plain && matches!(word.as_str(), "~" | "null") => text.push('~'),
        Kind::Scalar { text: word, .. } => quoted(word, text),
        Kind::List(items) => {
            text.push('[');
            for (i, item) in items.iter().enumerate() {
                text.push_str(if i == 0 { "" } else { ", " });
                flow(item, text);
            }
            text.push(']');
        }
        Kind::Map(entries) => {
            text.push('{');
            for (i, (name, node)) in entries.iter().enumerate() {
                text.push_str(if i == 0 { "" } else { ", " });
                quoted(name, text);
                text.push_str(": ");
                flow(node, text);
            }
            text.push('}');
        }
    }
}

/// A word as it is where nobody can take it for something else, otherwise in double quotes.
fn quoted(word: &str, text: &mut String) {
    let is_plain = !word.is_empty()
        && !matches!(word, "null" | "Null" | "NULL")
        && word.starts_with(|c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '_'))
        && word.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '/' | '_' | '-' | '.'));
    if is_plain {
        return text.push_str(word);
    }
    text.push('"');
    for c in word.chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            '\n' => text.push_str("\\n"),
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}') => {
                // A string takes every write.
                write!(text, "\\u{:04x}", u32::from(c)).ok();
            }
            c => text.push(c),
        }
    }
    text.push('"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Problems;
    use super::*;

    fn read(text: &str) -> Node {
        let mut problems = Problems::new("x.yaml");
        let node = Node::parse(text, &mut problems);
        assert!(problems.is_empty(), "{problems}\n{text}");
        node.expect("yaml")
    }

    #[test]
    fn a_part_becomes_a_document_with_the_lines_of_the_whole() {
        let part = read("match: x\nsettings:\n  a: {b: [1, {c: 2}]}\n");
        let root = part.at("settings").expect("part").as_root();
        assert_eq!((root.leaves(), root.line), (vec!["a.b"], 2));
    }

    #[test]
    fn a_document_without_some_of_its_keys_has_all_others() {
        let whole = read("a: 1\nb: {c: 1, d: {e: 1, f: 2}}\n");
        assert_eq!(whole.without(&["a", "b.d.e", "b.x", "y"]).to_yaml(), "b:\n  c: 1\n  d:\n    f: 2\n");
    }

    #[test]
    fn sections_are_joined_lists_are_replaced_and_named_things_by_name() {
        let below = read(
            "interval: 15s\nsensors:\n  netdev: {ignore: [a], interval: 1m}\n  scrapes:\n    scrape_configs: [{job_name: a, x: 1}, {job_name: b, x: 1}]\n",
        );
        let above = read(
            "deadline: 1s\nsensors:\n  netdev: {ignore: [b, c]}\n  scrapes:\n    scrape_configs: [{job_name: b, x: 2}]\n",
        );
        let joined = below.overlaid_with(&above);
        assert_eq!(
            joined.to_yaml(),
            "interval: 15s\nsensors:\n  netdev:\n    ignore:\n      - b\n      - c\n    interval: 1m\n  scrapes:\n    scrape_configs:\n      - {job_name: a, x: 1}\n      - {job_name: b, x: 2}\ndeadline: 1s\n"
        );
        assert_eq!(joined.at("sensors.netdev.interval").and_then(Node::word), Some("1m"));
        assert_eq!(
            joined.leaves(),
            [
                "interval",
                "sensors.netdev.ignore",
                "sensors.netdev.interval",
                "sensors.scrapes.scrape_configs",
                "deadline"
            ]
        );
    }

    fn any_node() -> impl Strategy<Value = Kind> {
        let leaf = prop_oneof![
            Just(Kind::Null),
            ".{0,12}".prop_map(|text| Kind::Scalar { text, plain: false }),
            "[a-z0-9./*: #-]{1,8}".prop_map(|text| Kind::Scalar { text, plain: false }),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            let node = inner.prop_map(|kind| Node { line: 1, key: String::new(), kind });
            prop_oneof![
                prop::collection::vec(node.clone(), 0..4).prop_map(Kind::List),
                prop::collection::btree_map("\\PC{1,6}", node, 0..4)
                    .prop_map(|map| Kind::Map(map.into_iter().collect())),
            ]
        })
    }

    /// Without places and ways of writing.
    fn bare(node: &Node) -> Kind {
        let plain = |node: &Node| Node { line: 0, key: String::new(), kind: bare(node) };
        match &node.kind {
            _ if node.is_null() => Kind::Null,
            Kind::Null => Kind::Null,
            Kind::Scalar { text, .. } => Kind::Scalar { text: text.clone(), plain: false },
            Kind::List(items) => Kind::List(items.iter().map(plain).collect()),
            Kind::Map(entries) => Kind::Map(entries.iter().map(|(name, node)| (name.clone(), plain(node))).collect()),
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(entries in prop::collection::btree_map("\\PC{1,6}", any_node(), 0..5)) {
            let node = |kind| Node { line: 1, key: String::new(), kind };
            let whole = node(Kind::Map(entries.into_iter().map(|(name, kind)| (name, node(kind))).collect()));
            let again = read(&whole.to_yaml());
            prop_assert_eq!(bare(&again), bare(&whole), "{}", whole.to_yaml());
        }
    }
}
