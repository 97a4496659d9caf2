//! The keys of pseudonyms: a file of mode 0600 with a random key for each four weeks, so that nobody can be followed
//! longer, and none for weeks whose pseudonyms are erased.
//!
//! Invariants: a key is on disk before a pseudonym is made with it; whole weeks have one key, so that people of a week are
//! counted once; a file that others can read is refused. It is not part of a backup.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::Operator;
use crate::digitization::calendar::Day;

/// What the file begins with.
const HEADER: &str =
    "# Keys of operators' pseudonyms, one for four weeks. Whoever has them can find out who is behind one.\n";
/// Days for which a key serves.
pub const KEY_DAYS: i32 = 28;
/// 1970-01-05, a Monday.
const FIRST_MONDAY: i32 = 4;
/// Bytes of the file at most: some hundred keys.
const MAX_BYTES: u64 = 64 << 10;

/// A pseudonym.
pub type Pseudonym = [u8; 16];

/// Why keys can't be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file can't be read.
    #[error("cannot read keys of pseudonyms {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file can't be written.
    #[error("cannot write keys of pseudonyms {}", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Others can read it.
    #[error("keys of pseudonyms {} can be read by others (mode {mode:o}); run `chmod 600` on it", path.display())]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It is something else.
    #[error("{} is no file of keys of pseudonyms, line {line}; name another in `digitization.privacy.key_file`", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Where.
        line: usize,
    },
    /// No random bytes.
    #[error("cannot make a key of pseudonyms")]
    Random(#[source] getrandom::Error),
}

#[derive(Clone, PartialEq, Eq)]
struct Key {
    from: Day,
    secret: [u8; 32],
}

/// The keys in force.
pub struct Keys {
    path: PathBuf,
    keys: Vec<Key>,
}

/// Never a key.
impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("path", &self.path).finish_non_exhaustive()
    }
}

/// The first day of the four weeks that `day` is in.
pub fn period(day: Day) -> Day {
    Day((day.0 - FIRST_MONDAY).div_euclid(KEY_DAYS) * KEY_DAYS + FIRST_MONDAY)
}

impl Keys {
    /// The keys in the file at `path`; none where it is not there.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn open(path: &Path) -> Result<Self, KeyError> {
        let mut keys = Self { path: path.to_owned(), keys: Vec::new() };
        let failed = |source| KeyError::Read { path: path.to_owned(), source };
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(keys),
            Err(error) => return Err(failed(error)),
        };
        let mode = file.metadata().map_err(failed)?.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(KeyError::Exposed { path: path.to_owned(), mode });
        }
        let mut text = String::new();
        (&mut file).take(MAX_BYTES).read_to_string(&mut text).map_err(failed)?;
        for (number, line) in (1..).zip(text.lines()) {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let read = line.split_once(' ').and_then(|(day, hex)| {
                let from = day.parse::<Day>().ok().filter(|day| period(*day) == *day)?;
                Some(Key { from, secret: unhex(hex.trim())? })
            });
            keys.keys.push(read.ok_or_else(|| KeyError::Damaged { path: path.to_owned(), line: number })?);
        }
        Ok(keys)
    }

    /// Whether there is a key for `day`.
    pub fn has(&self, day: Day) -> bool {
        self.keys.iter().any(|key| key.from == period(day))
    }

    /// The first day of each key's four weeks.
    pub fn periods(&self) -> Vec<Day> {
        self.keys.iter().map(|key| key.from).collect()
    }

    /// Makes the key for `day`, on disk when this returns.
    ///
    /// # Errors
    /// See [`KeyError`]; then there is none.
    pub fn make(&mut self, day: Day) -> Result<(), KeyError> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).map_err(KeyError::Random)?;
        let mut keys = self.keys.clone();
        keys.push(Key { from: period(day), secret });
        keys.sort_by_key(|key| key.from);
        self.write(keys)
    }

    /// Forgets the keys of four weeks that end before `day`.
    ///
    /// # Errors
    /// See [`KeyError`]; then they are still there.
    pub fn forget_before(&mut self, day: Day) -> Result<(), KeyError> {
        let keys: Vec<Key> = self.keys.iter().filter(|key| key.from.0 + KEY_DAYS > day.0).cloned().collect();
        if keys.len() == self.keys.len() { Ok(()) } else { self.write(keys) }
    }

    /// The pseudonym of somebody in the weeks around `day`; nothing where there is no key for them.
    pub fn pseudonym(&self, project: &str, operator: &Operator, day: Day) -> Option<Pseudonym> {
        let key = self.keys.iter().find(|key| key.from == period(day))?;
        // HMAC takes keys of any length.
        let mut mac = Hmac::<Sha256>::new_from_slice(&key.secret).ok()?;
        mac.update(project.as_bytes());
        mac.update(&[0]);
        mac.update(operator.name().as_bytes());
        let digest = mac.finalize().into_bytes();
        let mut first = Pseudonym::default();
        first.copy_from_slice(&digest[..16]);
        Some(first)
    }

    fn write(&mut self, keys: Vec<Key>) -> Result<(), KeyError> {
        let mut text = HEADER.to_owned();
        for key in &keys {
            text.push_str(&key.from.to_string());
            text.push(' ');
            text.push_str(&hex(&key.secret));
            text.push('\n');
        }
        replace(&self.path, &text).map_err(|source| KeyError::Write { path: self.path.clone(), source })?;
        self.keys = keys;
        Ok(())
    }
}

/// Erases a file of keys that pseudonyms were made with before they were given up.
///
/// # Errors
/// See [`KeyError`]. A file that is no file of keys stays.
pub(super) fn erase(path: &Path) -> Result<(), KeyError> {
    let failed = |source| KeyError::Write { path: path.to_owned(), source };
    let mut begin = vec![0; HEADER.len()];
    let is_ours = match File::open(path) {
        Ok(mut file) => file.read_exact(&mut begin).is_ok() && begin == HEADER.as_bytes(),
        Err(_absent) => return Ok(()),
    };
    if is_ours { fs::remove_file(path).map_err(failed) } else { Ok(()) }
}

/// Puts `text` in the place of the file at `path`, for its owner only, durable when this returns.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let part = path.with_extension("part");
    match fs::remove_file(&part) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&part, path)?;
    File::open(path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new(".")))?.sync_all()
}

/// As lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("invariant: a String takes everything");
        text
    })
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).map(|digit| digit as u8)).collect();
    let digits = digits.filter(|digits| digits.len() == 64)?;
    let mut bytes = [0; 32];
    bytes.iter_mut().zip(digits.chunks(2)).for_each(|(byte, pair)| *byte = pair[0] << 4 | pair[1]);
    Some(bytes)
}
