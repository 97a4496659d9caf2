//! Files that match a pattern of a whole path, as settings name certificates and backups.

use std::fs;
use std::path::{Path, PathBuf};

use super::glob;

/// More entries of directories are not looked at.
const MAX_ENTRIES: usize = 100_000;

/// The plain files whose path matches `pattern`, ascending; `*` and `?` stand for no `/`. What can't be read is not found.
pub(crate) fn files(pattern: &str, max: usize) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = MAX_ENTRIES;
    let parts: Vec<&str> = pattern.split('/').filter(|part| !part.is_empty()).collect();
    walk(Path::new("/"), &parts, &mut left, &mut found);
    found.sort();
    found.truncate(max);
    found
}

fn walk(directory: &Path, parts: &[&str], left: &mut usize, found: &mut Vec<PathBuf>) {
    let Some((part, rest)) = parts.split_first() else { return };
    if !part.contains(['*', '?']) {
        return arrive(directory.join(part), rest, left, found);
    }
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let Some(fewer) = left.checked_sub(1) else { return };
        *left = fewer;
        let name = entry.file_name();
        // As in a shell, a hidden file is only found by a pattern with a dot.
        let is_hidden = name.as_encoded_bytes().starts_with(b".") && !part.starts_with('.');
        if !is_hidden && glob::matches(part.as_bytes(), name.as_encoded_bytes()) {
            arrive(entry.path(), rest, left, found);
        }
    }
}

fn arrive(path: PathBuf, rest: &[&str], left: &mut usize, found: &mut Vec<PathBuf>) {
    if !rest.is_empty() {
        walk(&path, rest, left, found);
    } else if path.is_file() {
        found.push(path);
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
