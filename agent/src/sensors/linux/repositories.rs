//! Repositories of restic and borg: when the newest snapshot was made, how large it is, how many there are.
//!
//! Each is asked by its own program, without a lock, on a thread of its own, as a rule once an hour. Of borg's archives the
//! size is not told: it takes a cache as large as the repository's index.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::run::{self, Limits, Privileges};
use super::slowly::Slowly;
use super::{SensorSettings, Sink};

const LIMITS: Limits = Limits {
    timeout: Duration::from_mins(10),
    output_bytes: 64 << 20,
    memory_bytes: 4 << 30,
    privileges: Privileges::Kept,
};

/// Whose repository it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// restic.
    Restic,
    /// Borg 1.
    Borg,
}

/// One repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repository {
    /// The value of the label `backup`.
    pub name: String,
    /// Whose it is.
    pub kind: Kind,
    /// Where it is, as its program takes it.
    pub place: String,
    /// A file with its password.
    pub password_file: Option<PathBuf>,
    /// From one look to the next.
    pub every: Duration,
}

/// What a repository says.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Snapshots {
    count: usize,
    /// Seconds since the Unix epoch.
    newest_seconds: Option<f64>,
    newest_bytes: Option<f64>,
}

/// Repositories with what they said last.
pub(crate) struct Repositories(Vec<(String, Slowly<io::Result<Snapshots>>)>);

impl Repositories {
    pub(crate) fn new(settings: &SensorSettings) -> Self {
        let start = |repository: &Repository| {
            let (name, every) = (repository.name.clone(), repository.every);
            let (repository, mut known) = (repository.clone(), None);
            let look = move || {
                let result = look(&repository, &mut known);
                if let Err(error) = &result {
                    tracing::warn!(%error, backup = repository.name, "a backup's repository gave no answer");
                }
                result
            };
            (name, Slowly::new("backups", every, settings.patience, look))
        };
        Self(settings.options.host.repositories.iter().map(start).collect())
    }

    /// `veghe_backup_*`.
    pub(crate) fn put(&mut self, sink: &mut Sink) {
        for (name, slowly) in &mut self.0 {
            let Some(answer) = slowly.latest() else { continue };
            let label = [("backup", name.as_str())];
            sink.put("veghe_backup_success", &label, f64::from(u8::from(answer.is_ok())));
            let Ok(Snapshots { count, newest_seconds, newest_bytes }) = answer else { continue };
            sink.put("veghe_backup_snapshots", &label, *count as f64);
            if let Some(seconds) = newest_seconds {
                sink.put("veghe_backup_newest_timestamp_seconds", &label, *seconds);
            }
            if let Some(bytes) = newest_bytes {
                sink.put("veghe_backup_newest_bytes", &label, *bytes);
            }
        }
    }
}

/// The newest snapshot by its identity with its size, which is asked for once.
type Known = Option<(String, Option<f64>)>;

fn look(repository: &Repository, known: &mut Known) -> io::Result<Snapshots> {
    match repository.kind {
        Kind::Restic => {
            let answer = restic(repository, &["snapshots"])?;
            let all = answer.as_array().ok_or_else(|| unknown("restic"))?;
            let time = |snapshot: &Value| snapshot.get("time")?.as_str()?.parse::<jiff::Timestamp>().ok();
            let newest =
                all.iter().filter_map(|snapshot| Some((time(snapshot)?, snapshot))).max_by_key(|(time, _)| *time);
            let Some((time, snapshot)) = newest else { return Ok(Snapshots::default()) };
            let id = snapshot.get("id").and_then(Value::as_str).unwrap_or_default();
            if known.as_ref().is_none_or(|(before, _)| before != id) {
                let size = restic(repository, &["stats", id]).ok();
                *known = Some((id.to_owned(), size.and_then(|size| size.get("total_size")?.as_f64())));
            }
            let newest_bytes = known.as_ref().and_then(|(_, size)| *size);
            Ok(Snapshots { count: all.len(), newest_seconds: Some(seconds(time)), newest_bytes })
        }
        Kind::Borg => {
            let mut environment = vec![
                ("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK".to_owned(), "yes".to_owned()),
                ("BORG_RELOCATED_REPO_ACCESS_IS_OK".to_owned(), "yes".to_owned()),
                // Its times have no zone of their own.
                ("TZ".to_owned(), "UTC".to_owned()),
            ];
            if let Some(file) = &repository.password_file {
                let file = file.to_string_lossy().replace('\'', "'\\''");
                environment.push(("BORG_PASSCOMMAND".to_owned(), format!("cat '{file}'")));
            }
            let arguments = ["list", "--bypass-lock", "--json", &repository.place].map(str::to_owned);
            let answer = ask(Path::new("/usr/bin/borg"), &arguments, &environment)?;
            let all = answer.get("archives").and_then(Value::as_array).ok_or_else(|| unknown("borg"))?;
            let time = |archive: &Value| archive.get("time")?.as_str()?.parse::<jiff::civil::DateTime>().ok();
            let newest = all.iter().filter_map(time).max();
            let newest = newest.and_then(|time| jiff::tz::TimeZone::UTC.to_timestamp(time).ok());
            let newest_seconds = newest.map(seconds);
            Ok(Snapshots { count: all.len(), newest_seconds, newest_bytes: None })
        }
    }
}

fn seconds(time: jiff::Timestamp) -> f64 {
    time.as_millisecond() as f64 / 1e3
}

fn restic(repository: &Repository, command: &[&str]) -> io::Result<Value> {
    let mut arguments = vec!["--repo", &repository.place, "--no-lock", "--no-cache", "--json"];
    arguments.extend(command);
    let arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
    let password = repository
        .password_file
        .iter()
        .map(|file| ("RESTIC_PASSWORD_FILE".to_owned(), file.to_string_lossy().into_owned()));
    ask(Path::new("/usr/bin/restic"), &arguments, &password.collect::<Vec<_>>())
}

fn ask(program: &Path, arguments: &[String], environment: &[(String, String)]) -> io::Result<Value> {
    let output = run::run(program, arguments, environment, &LIMITS)?;
    if !output.status.success() {
        return Err(io::Error::other(format!("{} ended with {}", program.display(), output.status)));
    }
    serde_json::from_slice(&output.text).map_err(io::Error::other)
}

fn unknown(program: &str) -> io::Error {
    io::Error::other(format!("{program} said something unknown"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn shell(directory: &Path, script: &str) {
        let status = Command::new("sh").args(["-ec", script]).current_dir(directory).env("HOME", directory).status();
        assert!(status.expect("a shell").success(), "{script}; install restic and borgbackup");
    }

    fn looked(kind: Kind, place: &Path, password_file: Option<PathBuf>) -> io::Result<Snapshots> {
        let place = place.to_string_lossy().into_owned();
        let repository =
            Repository { name: "x".to_owned(), kind, place, password_file, every: Duration::from_hours(1) };
        std::thread::spawn(move || look(&repository, &mut None)).join().expect("no panic")
    }

    #[test]
    fn repositories_of_restic_and_borg_tell_their_newest_snapshots() {
        let directory = tempfile::tempdir().expect("directory");
        let path = |name: &str| directory.path().join(name);
        std::fs::create_dir(path("data")).expect("directory");
        std::fs::write(path("data/scan.tif"), vec![7; 1000]).expect("write");
        std::fs::write(path("it's a password"), "secret\n").expect("write");
        let begin = crate::clock::since_epoch().as_secs_f64();
        shell(
            directory.path(),
            "export RESTIC_PASSWORD_FILE=\"it's a password\" BORG_PASSPHRASE=secret TZ=UTC
             restic -q --no-cache -r restic init && restic -q --no-cache -r restic backup data
             restic -q --no-cache -r restic backup data
             borg init -e repokey borg && borg create borg::one data",
        );
        let end = crate::clock::since_epoch().as_secs_f64();
        let password = || Some(path("it's a password"));
        let restic = looked(Kind::Restic, &path("restic"), password()).expect("an answer");
        assert_eq!((restic.count, restic.newest_bytes), (2, Some(1000.0)));
        let borg = looked(Kind::Borg, &path("borg"), password()).expect("an answer");
        assert_eq!((borg.count, borg.newest_bytes), (1, None));
        for newest in [restic.newest_seconds, borg.newest_seconds] {
            // Borg tells whole seconds.
            assert!(newest.is_some_and(|newest| (begin - 1.0..=end + 1.0).contains(&newest)), "{newest:?}");
        }
        assert!(looked(Kind::Restic, &path("restic"), None).is_err(), "no password, no answer");
        assert!(looked(Kind::Borg, &path("nowhere"), None).is_err());
    }
}
