//! Backups, by their files or by the snapshots of their repositories: when the newest was written, how large it is, how many there are.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use super::found;
use super::repositories::Repositories;
use super::{Entry, Sensor, SensorError, SensorSettings, Sink, right_to_read, unreadable};

pub(crate) const ENTRY: Entry = Entry::new("backups", |_| Vec::new(), |settings| Box::new(Backups::new(settings)))
    .unless(|settings| {
        let has_none = settings.options.backups.is_empty() && settings.options.host.repositories.is_empty();
        has_none.then(|| "no backups are set; set sensors.backups.sets or sensors.backups.repositories".to_owned())
    })
    .needing(|settings| {
        let mut passwords = settings.options.host.repositories.iter().filter_map(|one| one.password_file.as_ref());
        let refused = settings.options.backups.iter().find_map(|set| found::files_and_refused(&set.files, 0).1);
        let refused = refused.or_else(|| passwords.find(|file| unreadable(file)).cloned());
        refused.map(|path| right_to_read(&path))
    });

const MAX_FILES: usize = 100_000;

/// The files of one backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupSet {
    /// The value of the label `backup`.
    pub name: String,
    /// A pattern of paths.
    pub files: String,
}

/// `veghe_backup_*`.
pub(crate) struct Backups {
    sets: Vec<BackupSet>,
    repositories: Repositories,
}

impl Backups {
    pub(crate) fn new(settings: &SensorSettings) -> Self {
        Self { sets: settings.options.backups.clone(), repositories: Repositories::new(settings) }
    }
}

impl Sensor for Backups {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        for set in &self.sets {
            let label = [("backup", set.name.as_str())];
            let look = |path: &std::path::PathBuf| {
                let metadata = fs::metadata(path).ok()?;
                Some((metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH), metadata.len()))
            };
            let files: Vec<_> = found::files(&set.files, MAX_FILES).iter().filter_map(look).collect();
            sink.put("veghe_backup_files", &label, files.len() as f64);
            // Without a file there is no newest: an alert on the number tells.
            if let Some((modified, bytes)) = files.iter().max() {
                let since_epoch = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
                sink.put("veghe_backup_newest_timestamp_seconds", &label, since_epoch.as_secs_f64());
                sink.put("veghe_backup_newest_bytes", &label, *bytes as f64);
            }
        }
        self.repositories.put(sink);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_newest_file_is_told_and_a_set_without_files_too() {
        let directory = tempfile::tempdir().expect("directory");
        for (file, bytes, day) in [("a.tar", 5, 2), ("b.tar", 7, 3), ("c.tar", 9, 1), ("d.log", 11, 9)] {
            let path = directory.path().join(file);
            fs::write(&path, vec![0; bytes]).expect("write");
            let modified = UNIX_EPOCH + Duration::from_hours(24 * day);
            fs::File::options().write(true).open(&path).expect("open").set_modified(modified).expect("time");
        }
        let set = |name: &str, files| BackupSet { name: name.to_owned(), files };
        let pattern = |pattern| format!("{}/{pattern}", directory.path().display());
        let sets = vec![set("nas", pattern("*.tar")), set("none", pattern("*.zip"))];
        let mut sink = Sink::default();
        let repositories = Repositories::new(&SensorSettings::default());
        Backups { sets, repositories }.read(&mut sink).expect("never fails");
        let (series, values) = sink.take();
        assert_eq!(values, [3.0, 3.0 * 86_400.0, 7.0, 0.0]);
        assert_eq!(series.0[3].labels()[0].1.as_ref(), "none");
    }
}
