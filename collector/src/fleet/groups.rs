//! Group files: which agents get which settings.
//!
//! A directory of YAML files, each with `match` (labels) and `settings` (a part of `agent.yaml`). An agent gets those of
//! every file that matches, in the order of their names: a later file's values win. What it deliberately does not do:
//! know agents' states, or when they get what (`rollout`).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use veghe_agent::remote::{self, Programs};
use veghe_wire::document::{Node, Problems};
use veghe_wire::enrolment::to_hex;
use veghe_wire::remote::is_label;

/// Labels of an agent by name; `agent` is its id.
pub type Labels = BTreeMap<String, String>;

/// Files that are read; more are a mistake.
const MAX_FILES: usize = 1000;
/// The largest file that is read.
const MAX_FILE_BYTES: u64 = 256 << 10;

/// One group of agents and what they get.
#[derive(Clone, Debug)]
struct Group {
    file: PathBuf,
    /// All of them, each with one of its values.
    wanted: Vec<(String, Vec<String>)>,
    settings: Node,
}

/// Every group, in the order in which they apply.
#[derive(Clone, Debug, Default)]
pub struct Groups(Vec<Group>);

/// Settings as they are sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Document {
    /// SHA-256 of the text; empty for no settings at all.
    pub hash: String,
    /// A part of `agent.yaml`.
    pub text: String,
}

impl Document {
    fn of(node: Option<&Node>) -> Self {
        let text = node.map(Node::to_yaml).unwrap_or_default();
        let hash = if text.is_empty() { String::new() } else { to_hex(&Sha256::digest(text.as_bytes())) };
        Self { hash, text }
    }
}

impl Groups {
    /// The groups in `directory`; none where it does not exist.
    ///
    /// # Errors
    /// Everything that is wrong, file by file.
    pub fn load(directory: &Path) -> Result<Self, Vec<Problems>> {
        let unreadable = |path: &Path, error: &io::Error| {
            let mut problems = Problems::new(path);
            problems.note(0, "", format_args!("cannot be read: {error}; check path and permissions"));
            problems
        };
        let mut files: Vec<PathBuf> = match fs::read_dir(directory) {
            Ok(entries) => entries.flatten().map(|entry| entry.path()).filter(|path| is_group(path)).collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(vec![unreadable(directory, &error)]),
        };
        files.sort();
        if files.len() > MAX_FILES {
            let mut problems = Problems::new(directory);
            problems.note(0, "", format_args!("has {} group files; at most {MAX_FILES} are read", files.len()));
            return Err(vec![problems]);
        }
        let (mut groups, mut wrong) = (Vec::new(), Vec::new());
        for file in files {
            let text = fs::metadata(&file).and_then(|metadata| {
                if metadata.len() > MAX_FILE_BYTES {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!("it has more than {MAX_FILE_BYTES} bytes"),
                    ));
                }
                fs::read_to_string(&file)
            });
            match text.map_err(|error| unreadable(&file, &error)).and_then(|text| Group::parse(&file, &text)) {
                Ok(group) => groups.push(group),
                Err(problems) => wrong.push(problems),
            }
        }
        if wrong.is_empty() { Ok(Self(groups)) } else { Err(wrong) }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names of the files whose groups an agent with `labels` is in.
    pub fn of(&self, labels: &Labels) -> Vec<String> {
        let name = |group: &Group| group.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.0.iter().filter(|group| group.has(labels)).map(name).collect()
    }

    /// What an agent with `labels` gets, on top of `base`, settings that stand in no file.
    ///
    /// # Errors
    /// What is wrong with all of it together although each part is good.
    pub fn document(&self, labels: &Labels, base: &[&str]) -> Result<Document, Problems> {
        let mut problems = Problems::new("settings of these groups together");
        let below = base.iter().filter_map(|text| Node::parse(text, &mut problems));
        let above = self.0.iter().filter(|group| group.has(labels)).map(|group| group.settings.clone());
        let whole = below.chain(above).reduce(|below, above| below.overlaid_with(&above));
        let document = Document::of(whole.as_ref());
        remote::check(Path::new("settings of these groups together"), &document.text, Programs::Allowed)?;
        Ok(document)
    }
}

fn is_group(path: &Path) -> bool {
    let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    !is_hidden && path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml")
}

impl Group {
    fn parse(file: &Path, text: &str) -> Result<Self, Problems> {
        let mut problems = Problems::new(file);
        let node = Node::parse(text, &mut problems);
        let group = node.and_then(|node| {
            let mut section = node.section(&mut problems);
            let wanted = match section.require("match", &mut problems) {
                Some(wanted) => read_match(wanted, &mut problems),
                None => Vec::new(),
            };
            let settings = section.require("settings", &mut problems).map(Node::as_root);
            section.finish(&["match", "settings"], &mut problems);
            let settings = settings?;
            remote::check_node(&settings, Programs::Allowed, &mut problems);
            Some(Self { file: file.to_owned(), wanted, settings })
        });
        problems.finish(group)
    }

    fn has(&self, labels: &Labels) -> bool {
        self.wanted.iter().all(|(name, values)| labels.get(name).is_some_and(|value| values.contains(value)))
    }
}

fn read_match(node: &Node, problems: &mut Problems) -> Vec<(String, Vec<String>)> {
    let mut wanted = Vec::new();
    for (name, node) in node.section(problems).take_all() {
        let one = node.word().map(|word| vec![word.to_owned()]);
        let values = one.unwrap_or_else(|| {
            node.list(problems).iter().filter_map(|item| item.text(problems).map(str::to_owned)).collect()
        });
        if values.is_empty() || !values.iter().all(|value| is_label(name, value)) {
            let form = "is no label with one value or a list of values; write for example `role: scanner`";
            problems.note(node.line, &*node.key, form);
        }
        wanted.push((name.to_owned(), values));
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("directory");
        for (name, text) in files {
            fs::write(dir.path().join(name), text).expect("write");
        }
        dir
    }

    #[test]
    fn an_agent_gets_what_every_group_of_it_says_the_later_name_last() {
        let dir = directory(&[
            (
                "20-scanners.yaml",
                "match: {role: scanner, site: [tm, ar]}\nsettings:\n  interval: 10s\n  sensors:\n    netdev: {ignore: [docker0]}\n",
            ),
            ("10-all.yaml", "match: {}\nsettings:\n  interval: 30s\n  deadline: 4s\n"),
            ("notes.txt", "not yaml: ["),
        ]);
        let groups = Groups::load(dir.path()).expect("valid");
        let scanner = labels(&[("agent", "scan-1"), ("role", "scanner"), ("site", "ar")]);
        assert_eq!(groups.of(&scanner), ["10-all.yaml", "20-scanners.yaml"]);
        let document =
            groups.document(&scanner, &["deadline: 2s\nsensors:\n  processes: {enabled: true}\n"]).expect("valid");
        assert_eq!(
            document.text,
            "deadline: 4s\nsensors:\n  processes:\n    enabled: true\n  netdev:\n    ignore:\n      - docker0\ninterval: 10s\n"
        );
        let other = groups.document(&labels(&[("agent", "nas-1")]), &[]).expect("valid");
        assert_eq!(other.text, "interval: 30s\ndeadline: 4s\n");
        assert_eq!(
            Groups::load(&dir.path().join("absent")).expect("none").document(&scanner, &[]),
            Ok(Document::default())
        );
    }

    #[test]
    fn every_problem_is_told_with_file_line_and_key() {
        let dir = directory(&[
            (
                "a.yaml",
                "match: {role: }\nsettings:\n  intervall: 10s\n  agent: x\n  sensors:\n    netdev: {ignore: x}\n",
            ),
            ("b.yaml", "settings: {interval: 1}\n"),
            ("c.yaml", "match: [\n"),
        ]);
        let wrong = Groups::load(dir.path()).expect_err("problems");
        let text: Vec<String> = wrong.iter().map(ToString::to_string).collect();
        let text = text.join("\n").replace(&dir.path().display().to_string(), "DIR");
        insta::assert_snapshot!(text);
    }

    #[test]
    fn what_is_good_alone_may_be_too_much_together() {
        let many = |job: char| {
            let targets: Vec<String> = (0..20).map(|i| format!("\"127.0.0.1:{}\"", 9000 + i)).collect();
            format!(
                "match: {{}}\nsettings:\n  sensors:\n    scrapes:\n      scrape_configs:\n        - {{job_name: {job}, static_configs: [{{targets: [{}]}}]}}\n",
                targets.join(", ")
            )
        };
        let dir = directory(&[("a.yaml", &many('a')), ("b.yaml", &many('b'))]);
        let problems =
            Groups::load(dir.path()).expect("valid").document(&Labels::default(), &[]).expect_err("too many");
        assert!(problems.to_string().contains("at most"), "{problems}");
    }
}
