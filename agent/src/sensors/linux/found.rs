//! Files that match a pattern of a whole path, as settings name certificates and backups.

use std::path::{Path, PathBuf};
use std::{fs, io};

use super::glob;

/// More entries of directories are not looked at.
const MAX_ENTRIES: usize = 100_000;

/// The plain files whose path matches `pattern`, ascending; `*` and `?` stand for no `/`. What can't be read is not found.
pub(crate) fn files(pattern: &str, max: usize) -> Vec<PathBuf> {
    files_and_refused(pattern, max).0
}

/// The same, and the first directory or file on the way of `pattern` into which this process may not look: what is there is
/// not found.
pub(crate) fn files_and_refused(pattern: &str, max: usize) -> (Vec<PathBuf>, Option<PathBuf>) {
    let mut walk = Walk { left: MAX_ENTRIES, found: Vec::new(), refused: None };
    let parts: Vec<&str> = pattern.split('/').filter(|part| !part.is_empty()).collect();
    walk.enter(Path::new("/"), &parts);
    walk.found.sort();
    walk.found.truncate(max);
    (walk.found, walk.refused)
}

struct Walk {
    left: usize,
    found: Vec<PathBuf>,
    refused: Option<PathBuf>,
}

impl Walk {
    fn enter(&mut self, directory: &Path, parts: &[&str]) {
        let Some((part, rest)) = parts.split_first() else { return };
        if !part.contains(['*', '?']) {
            return self.arrive(directory.join(part), rest);
        }
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) => return self.note(error.kind(), directory),
        };
        for entry in entries.flatten() {
            let Some(fewer) = self.left.checked_sub(1) else { return };
            self.left = fewer;
            let name = entry.file_name();
            // As in a shell, a hidden file is only found by a pattern with a dot.
            let is_hidden = name.as_encoded_bytes().starts_with(b".") && !part.starts_with('.');
            if !is_hidden && glob::matches(part.as_bytes(), name.as_encoded_bytes()) {
                self.arrive(entry.path(), rest);
            }
        }
    }

    fn arrive(&mut self, path: PathBuf, rest: &[&str]) {
        if !rest.is_empty() {
            return self.enter(&path, rest);
        }
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() => self.found.push(path),
            Ok(_) => {}
            Err(error) => self.note(error.kind(), &path),
        }
    }

    fn note(&mut self, why: io::ErrorKind, path: &Path) {
        if why == io::ErrorKind::PermissionDenied {
            self.refused.get_or_insert_with(|| path.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_find_plain_files_below_matching_directories() {
        let root = tempfile::tempdir().expect("directory");
        for file in ["a/1.pem", "a/2.txt", "b/1.pem", "b/.3.pem", "c"] {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().expect("parent")).expect("directory");
            fs::write(path, "").expect("write");
        }
        let find = |pattern: &str, max| {
            let found = files(&format!("{}/{pattern}", root.path().display()), max);
            let below = |path: &PathBuf| path.strip_prefix(root.path()).expect("below").display().to_string();
            found.iter().map(below).collect::<Vec<_>>()
        };
        assert_eq!(find("*/*.pem", 9), ["a/1.pem", "b/1.pem"]);
        assert_eq!(find("*/*.pem", 1), ["a/1.pem"]);
        assert_eq!(find("c", 9), ["c"]);
        assert_eq!(find("*/x/*", 9), [""; 0]);
    }
}
