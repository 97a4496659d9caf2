//! Metrics that other programs leave in files `*.prom` of configured directories.
//!
//! A file is read again when it changes. One that breaks the format, has time stamps or is too large gives nothing, and
//! `node_textfile_scrape_error` is 1; so does a series that an earlier file has, or that is the agent's own.

use std::collections::HashSet;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::{Entry, Sensor, SensorError, Sink};
use crate::openmetrics::{self, Sample};
use crate::reading::SeriesName;

pub(crate) const ENTRY: Entry = Entry::new(
    "textfile",
    |settings| settings.options.textfile_directories.clone(),
    |settings| Box::new(Textfile::new(settings.options.textfile_directories.clone())),
)
.unless(|settings| {
    let is_none = settings.options.textfile_directories.is_empty();
    is_none.then(|| "no directory is set; set sensors.textfile.directories".to_owned())
});

const SUFFIX: &str = ".prom";
/// A file that is larger gives nothing.
const MAX_BYTES: u64 = 4 << 20;
/// A file with more gives nothing.
const MAX_SAMPLES: usize = 20_000;
/// Further files of a directory give nothing.
const MAX_FILES: usize = 256;

/// What the files say, `node_textfile_mtime_seconds`, `node_textfile_scrape_error`.
pub(crate) struct Textfile {
    directories: Vec<PathBuf>,
    files: Vec<Textual>,
    /// Series that are left out: their place in their file, by the place of the file. The files keep them, because an
    /// earlier file that has them too may go.
    left_out: HashSet<(usize, usize)>,
}

/// A file as it was when it was read last.
struct Textual {
    path: PathBuf,
    name: String,
    state: FileState,
    samples: Option<Vec<(SeriesName, f64)>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct FileState {
    modified: SystemTime,
    bytes: u64,
}

impl Textfile {
    pub(crate) fn new(directories: Vec<PathBuf>) -> Self {
        Self { directories, files: Vec::new(), left_out: HashSet::new() }
    }

    /// Reads what is new or has changed; whether all directories could be listed.
    fn refresh(&mut self) -> bool {
        let mut known = std::mem::take(&mut self.files);
        let count = known.len();
        let (mut is_changed, mut is_complete) = (false, true);
        for directory in &self.directories {
            let Ok(mut paths) = list(directory) else {
                is_complete = false;
                continue;
            };
            is_complete &= paths.len() <= MAX_FILES;
            paths.truncate(MAX_FILES);
            for path in paths {
                // Gone since it was listed.
                let Ok(state) = state(&path) else { continue };
                let same = known.iter().position(|file| file.path == path && file.state == state);
                let file = same.map(|position| known.swap_remove(position));
                self.files.push(file.unwrap_or_else(|| {
                    is_changed = true;
                    read(path, state)
                }));
            }
        }
        if is_changed || self.files.len() != count {
            self.find_duplicates();
        }
        is_complete
    }

    /// Series that an earlier file has, or that are the agent's own.
    fn find_duplicates(&mut self) {
        let mut seen = HashSet::new();
        self.left_out.clear();
        for (at, file) in self.files.iter().enumerate() {
            for (place, (name, _)) in file.samples.iter().flatten().enumerate() {
                let is_ours = name.metric().starts_with("veghe_") || name.metric() == "up";
                if is_ours || !seen.insert(name) {
                    self.left_out.insert((at, place));
                }
            }
        }
    }
}

impl Sensor for Textfile {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        let is_complete = self.refresh();
        let mut has_errors = !is_complete || !self.left_out.is_empty();
        for (at, file) in self.files.iter().enumerate() {
            let Some(samples) = &file.samples else {
                has_errors = true;
                continue;
            };
            for (place, (name, value)) in samples.iter().enumerate() {
                if !self.left_out.contains(&(at, place)) {
                    sink.put_named(name, *value);
                }
            }
            let modified = file.state.modified.duration_since(UNIX_EPOCH).unwrap_or_default();
            sink.put("node_textfile_mtime_seconds", &[("file", &file.name)], modified.as_secs() as f64);
        }
        sink.put("node_textfile_scrape_error", &[], f64::from(u8::from(has_errors)));
        Ok(())
    }
}

/// The files of `directory`, ascending.
fn list(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(|name| name.ends_with(SUFFIX)) {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

fn state(path: &Path) -> io::Result<FileState> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::other("not a file"));
    }
    Ok(FileState { modified: metadata.modified().unwrap_or(UNIX_EPOCH), bytes: metadata.len() })
}

fn read(path: PathBuf, state: FileState) -> Textual {
    let samples = samples(&path).map_err(|why| {
        tracing::warn!(file = %path.display(), why, "cannot take the metrics of a text file");
    });
    let name = path.to_string_lossy().into_owned();
    Textual { path, name, state, samples: samples.ok() }
}

fn samples(path: &Path) -> Result<Vec<(SeriesName, f64)>, String> {
    let mut text = String::new();
    let file = fs::File::open(path).map_err(|error| error.to_string())?;
    let length = file.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
    if length as u64 > MAX_BYTES {
        return Err(format!("it has more than {MAX_BYTES} bytes"));
    }
    let samples = openmetrics::parse(&text, MAX_SAMPLES).map_err(|error| error.to_string())?;
    if samples.iter().any(|sample| sample.is_timed) {
        return Err("it has time stamps".to_owned());
    }
    Ok(samples.into_iter().map(|Sample { series, value, .. }| (series, value)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(sensor: &mut Textfile, sink: &mut Sink) -> Vec<(String, f64)> {
        sensor.read(sink).expect("never fails");
        let (series, values) = sink.take();
        let told = series.0.iter().zip(values).filter(|(name, _)| name.metric() != "node_textfile_mtime_seconds");
        told.map(|(name, value)| (name.metric().to_owned(), value)).collect()
    }

    #[test]
    fn files_come_change_and_go_and_a_bad_one_hurts_nobody() {
        let directory = tempfile::tempdir().expect("directory");
        let write = |file: &str, text: &str| fs::write(directory.path().join(file), text).expect("write");
        let mut sensor = Textfile::new(vec![directory.path().to_owned()]);
        let mut sink = Sink::default();
        let error = |value| ("node_textfile_scrape_error".to_owned(), value);
        let sample = |name: &str, value| (name.to_owned(), value);
        assert_eq!(round(&mut sensor, &mut sink), [error(0.0)]);
        write("a.prom", "restic_age_seconds 5\n");
        write("other.txt", "no metric");
        assert_eq!(round(&mut sensor, &mut sink), [sample("restic_age_seconds", 5.0), error(0.0)]);
        write("b.prom", "borg_age_seconds 7\nrestic_age_seconds 6\nveghe_sensor_success 1\n");
        let both = [sample("restic_age_seconds", 5.0), sample("borg_age_seconds", 7.0), error(1.0)];
        assert_eq!(round(&mut sensor, &mut sink), both);
        // Another file changes nothing about those two; where the first goes, the second one's series counts.
        write("c.prom", "duplicity_age_seconds 8\n");
        let three = [&both[..2], &[sample("duplicity_age_seconds", 8.0), error(1.0)]].concat();
        assert_eq!(round(&mut sensor, &mut sink), three);
        fs::remove_file(directory.path().join("c.prom")).expect("remove");
        fs::remove_file(directory.path().join("a.prom")).expect("remove");
        let second = [sample("borg_age_seconds", 7.0), sample("restic_age_seconds", 6.0), error(1.0)];
        assert_eq!(round(&mut sensor, &mut sink), second);
        write("a.prom", "restic_age_seconds 5\n");
        assert_eq!(round(&mut sensor, &mut sink), both);
        write("b.prom", "borg_age_seconds 7 1234567890000\n");
        assert_eq!(round(&mut sensor, &mut sink), [sample("restic_age_seconds", 5.0), error(1.0)]);
        write("b.prom", "borg_age_seconds {\n");
        assert_eq!(round(&mut sensor, &mut sink), [sample("restic_age_seconds", 5.0), error(1.0)]);
        fs::remove_file(directory.path().join("b.prom")).expect("remove");
        assert_eq!(round(&mut sensor, &mut sink), [sample("restic_age_seconds", 5.0), error(0.0)]);
        fs::remove_dir_all(directory.path()).expect("remove");
        assert_eq!(round(&mut sensor, &mut sink), [error(1.0)]);
    }

    #[test]
    fn a_file_that_is_too_large_gives_nothing() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("a.prom");
        fs::write(&path, "a 1\n".repeat((MAX_BYTES / 4) as usize + 1)).expect("write");
        assert_eq!(samples(&path), Err(format!("it has more than {MAX_BYTES} bytes")));
        fs::write(&path, "a 1\n".repeat(MAX_SAMPLES + 1)).expect("write");
        assert!(samples(&path).expect_err("too many").contains("the limit"));
    }
}
