//! What single sensors look at: the keys of their sections in the settings, beside those that every sensor has.

use std::path::PathBuf;

use veghe_wire::document::{Node, Problems, Section};

use super::glob::Globs;

/// Sensors that can leave devices out.
const WITH_DEVICES: [&str; 8] =
    ["arp", "diskstats", "filesystem", "hwmon", "netclass", "netdev", "powersupplyclass", "tapestats"];

/// What single sensors look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Directories of the `textfile` sensor.
    pub textfile_directories: Vec<PathBuf>,
}

/// Reads the keys that only the sensor `name` has; gives what it leaves out, and the keys.
pub(crate) fn read(
    name: &str,
    section: &mut Section<'_>,
    problems: &mut Problems,
    options: &mut Options,
) -> (Option<Globs>, &'static [&'static str]) {
    match name {
        "textfile" => {
            options.textfile_directories =
                texts(section.list("directories", problems), problems, absolute).unwrap_or_default();
            (None, &["directories"])
        }
        name if WITH_DEVICES.contains(&name) => {
            let patterns = texts(section.list("ignore", problems), problems, pattern);
            (patterns.filter(|patterns| !patterns.is_empty()).map(Globs::new), &["ignore"])
        }
        _ => (None, &[]),
    }
}

/// What [`read`] reads, as a document has it.
pub(crate) fn write(name: &str, ignored: Option<&Globs>, options: &Options) -> String {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let list = |texts: &mut dyn Iterator<Item = String>| texts.collect::<Vec<_>>().join(", ");
    match name {
        "textfile" => {
            let mut directories = options.textfile_directories.iter().map(|path| quoted(&path.to_string_lossy()));
            format!(", directories: [{}]", list(&mut directories))
        }
        name if WITH_DEVICES.contains(&name) => {
            let patterns = ignored.map(Globs::patterns).unwrap_or_default();
            format!(", ignore: [{}]", list(&mut patterns.iter().map(|pattern| quoted(pattern))))
        }
        _ => String::new(),
    }
}

/// Each item of a list as `parse` reads it; `None` where one of them is wrong, which is then a problem.
fn texts<T>(nodes: &[Node], problems: &mut Problems, parse: impl Fn(&str) -> Result<T, String>) -> Option<Vec<T>> {
    let mut items = Vec::new();
    for node in nodes {
        let item = node.text(problems).map(&parse);
        items.push(item.and_then(|item| problems.check(node.line, &node.key, item)));
    }
    items.into_iter().collect()
}

fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(format!("`{text}` is no absolute path; write for example `/var/lib/x`"))
    }
}

fn pattern(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("is empty; write a name, where `*` stands for any text, for example `veth*`".to_owned());
    }
    Ok(text.to_owned())
}
