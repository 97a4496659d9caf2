//! `/etc/os-release`: which distribution this is. Read again when the file changes.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::SystemTime;

use jiff::tz::TimeZone;

use super::{Entry, Roots, Sensor, SensorError, Sink};

pub(crate) const ENTRY: Entry =
    Entry::new("os", |_| Vec::new(), |settings| Box::new(Os::new(&settings.roots))).unless(|settings| {
        let has_none = files(&settings.roots).iter().all(|file| !file.exists());
        has_none.then(|| "there is neither /etc/os-release nor /usr/lib/os-release".to_owned())
    });

/// Labels of `node_os_info` in their order, and the variables that they are of.
const LABELS: [(&str, &str); 12] = [
    ("build_id", "BUILD_ID"),
    ("id", "ID"),
    ("id_like", "ID_LIKE"),
    ("image_id", "IMAGE_ID"),
    ("image_version", "IMAGE_VERSION"),
    ("name", "NAME"),
    ("pretty_name", "PRETTY_NAME"),
    ("variant", "VARIANT"),
    ("variant_id", "VARIANT_ID"),
    ("version", "VERSION"),
    ("version_codename", "VERSION_CODENAME"),
    ("version_id", "VERSION_ID"),
];
/// More than such a file ever has.
const MAX_BYTES: u64 = 1 << 20;

/// `node_os_info`, `node_os_version`, and where the distribution tells it, `node_os_support_end_timestamp_seconds`.
pub(crate) struct Os {
    files: [PathBuf; 2],
    known: Option<(usize, SystemTime)>,
    values: [String; LABELS.len()],
    version: Option<f64>,
    support_end: Option<f64>,
}

fn files(roots: &Roots) -> [PathBuf; 2] {
    ["etc/os-release", "usr/lib/os-release"].map(|file| roots.rootfs.join(file))
}

impl Os {
    pub(crate) fn new(roots: &Roots) -> Self {
        Self { files: files(roots), known: None, values: Default::default(), version: None, support_end: None }
    }

    fn refresh(&mut self) -> Result<(), SensorError> {
        let there = |(index, file): (usize, &PathBuf)| Some((index, fs::metadata(file).ok()?));
        let Some((index, metadata)) = self.files.iter().enumerate().find_map(there) else {
            let path = self.files.first().cloned().unwrap_or_default();
            return Err(SensorError::Read { path, source: io::ErrorKind::NotFound.into() });
        };
        let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        if self.known == Some((index, modified)) {
            return Ok(());
        }
        let path = self.files.get(index).cloned().unwrap_or_default();
        let content = if metadata.len() > MAX_BYTES {
            Err(io::Error::other(format!("file has more than {MAX_BYTES} bytes")))
        } else {
            fs::read_to_string(&path)
        };
        let content = content.map_err(|source| SensorError::Read { path, source })?;
        let value = |variable| assignment(&content, variable).unwrap_or_default();
        for ((_, variable), place) in LABELS.iter().zip(&mut self.values) {
            *place = value(variable);
        }
        self.version = version(&value("VERSION_ID"));
        let midnight = |date: jiff::civil::Date| TimeZone::UTC.to_timestamp(date.into()).ok();
        let end = value("SUPPORT_END").parse().ok().and_then(midnight);
        self.support_end = end.map(|end: jiff::Timestamp| end.as_second() as f64);
        self.known = Some((index, modified));
        Ok(())
    }
}

impl Sensor for Os {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        self.refresh()?;
        let mut labels = [("", ""); LABELS.len()];
        for ((place, (label, _)), value) in labels.iter_mut().zip(LABELS).zip(&self.values) {
            *place = (label, value.as_str());
        }
        sink.put("node_os_info", &labels, 1.0);
        if let Some(version) = self.version {
            let [_, id, id_like, _, _, name, ..] = labels;
            sink.put("node_os_version", &[id, id_like, name], version);
        }
        if let Some(end) = self.support_end {
            sink.put("node_os_support_end_timestamp_seconds", &[], end);
        }
        Ok(())
    }
}

/// The value of `variable` in assignments as of a shell, its quotes removed.
fn assignment(content: &str, variable: &str) -> Option<String> {
    let value = |line: &str| Some(line.trim().strip_prefix(variable)?.strip_prefix('=')?.to_owned());
    let value = content.lines().rev().find_map(value)?;
    let quote = value.chars().next().filter(|first| matches!(first, '"' | '\''));
    let Some(quote) = quote else { return Some(value) };
    let inside = value.strip_prefix(quote)?;
    let inside = inside.strip_suffix(quote).unwrap_or(inside);
    let mut text = String::new();
    let mut characters = inside.chars();
    while let Some(character) = characters.next() {
        // In double quotes, a backslash stands before what a shell would take for something else.
        let is_escape = character == '\\' && quote == '"';
        text.extend(if is_escape { characters.next() } else { Some(character) });
    }
    Some(text)
}

/// Major and minor: `^[0-9]+\.?[0-9]*`.
fn version(text: &str) -> Option<f64> {
    let end = |from: &str| from.find(|c: char| !c.is_ascii_digit()).unwrap_or(from.len());
    let (major, rest) = text.split_at_checked(end(text))?;
    let minor = rest.strip_prefix('.').map(|rest| rest.get(..end(rest)).unwrap_or_default()).unwrap_or_default();
    format!("{major}.{minor}0").parse().ok().filter(|version| *version > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_lose_their_quotes_and_versions_their_patch() {
        let content = "# x\nID=debian\nNAME=\"A \\\"B\\\"\"\nVERSION_ID='22.04.3'\n";
        assert_eq!(assignment(content, "NAME").as_deref(), Some("A \"B\""));
        assert_eq!(assignment(content, "ID").as_deref(), Some("debian"));
        assert_eq!(assignment(content, "VERSION_ID").as_deref(), Some("22.04.3"));
        assert_eq!(assignment(content, "VERSION"), None);
        assert_eq!((version("22.04.3"), version("12"), version("rolling")), (Some(22.04), Some(12.0), None));
    }
}
