//! Directories of small files, as `/sys/class` has them: names sorted, contents read into one buffer.
//!
//! Invariant: once the longest path and the longest file were seen, nothing is allocated. What it deliberately does not
//! do: keep files open (a machine may have thousands), tell why a file can't be read: drivers leave out what they lack.

use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, RawDir, open};

use super::text;

/// An attribute of sysfs fits in a page.
const BUFFER_BYTES: usize = 4096;
/// More names than any such directory has; a bound against endless ones.
const MAX_NAMES: usize = 65_536;

/// A place in a tree of files.
#[derive(Debug)]
pub(crate) struct Tree {
    path: Vec<u8>,
    buffer: Vec<u8>,
}

/// What to go back to, see [`Tree::enter`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark(usize);

impl Tree {
    /// The tree below `root`.
    pub(crate) fn new(root: &Path) -> Self {
        Self { path: root.as_os_str().as_bytes().to_vec(), buffer: Vec::new() }
    }

    /// Goes down to `name`, relative to where it is; [`Tree::leave`] goes back.
    pub(crate) fn enter(&mut self, name: &str) -> Mark {
        let mark = Mark(self.path.len());
        self.path.push(b'/');
        self.path.extend_from_slice(name.as_bytes());
        mark
    }

    /// Goes back to where it was at `mark`.
    pub(crate) fn leave(&mut self, mark: Mark) {
        self.path.truncate(mark.0);
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.path))
    }

    /// What `file` says, without white space around; `None` if it can't be read.
    pub(crate) fn text(&mut self, file: &str) -> Option<&[u8]> {
        self.read(file).ok().map(<[u8]>::trim_ascii)
    }

    /// What `file` says, without white space around.
    pub(crate) fn read(&mut self, file: &str) -> io::Result<&[u8]> {
        let mark = self.enter(file);
        let length = self.fill();
        self.leave(mark);
        Ok(self.buffer.get(..length?).unwrap_or_default().trim_ascii())
    }

    /// The number in `file`, decimal or with `0x` before it.
    pub(crate) fn number(&mut self, file: &str) -> Option<u64> {
        text::any_number(self.text(file)?)
    }

    /// The number in `file`, which may be negative.
    pub(crate) fn signed(&mut self, file: &str) -> Option<i64> {
        text::signed(self.text(file)?)
    }

    /// Whether `name` is there.
    pub(crate) fn has(&mut self, name: &str) -> bool {
        let mark = self.enter(name);
        let is_there = self.path().exists();
        self.leave(mark);
        is_there
    }

    /// The names of this directory but those of plain files, ascending.
    pub(crate) fn directories(&self, names: &mut Texts) -> io::Result<()> {
        self.list(names, |kind| kind != FileType::RegularFile)
    }

    /// All names of this directory, ascending.
    pub(crate) fn names(&self, names: &mut Texts) -> io::Result<()> {
        self.list(names, |_| true)
    }

    fn list(&self, names: &mut Texts, is_wanted: impl Fn(FileType) -> bool) -> io::Result<()> {
        names.clear();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = open(self.path.as_slice(), flags, Mode::empty())?;
        let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
        let mut entries = RawDir::new(directory, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            // Names that are no text can't be labels; the kernel has none.
            let Ok(name) = entry.file_name().to_str() else { continue };
            if !matches!(name, "." | "..") && is_wanted(entry.file_type()) && names.len() < MAX_NAMES {
                names.push(name.as_bytes());
            }
        }
        names.sort();
        Ok(())
    }

    fn fill(&mut self) -> io::Result<usize> {
        self.buffer.resize(BUFFER_BYTES, 0);
        // Not blocking, as a pipe in a place of a file would hold the sensor up.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = open(self.path.as_slice(), flags, Mode::empty())?;
        // The kernel gives an attribute whole, so that one look is enough.
        loop {
            match rustix::io::read(&file, self.buffer.as_mut_slice()) {
                Err(rustix::io::Errno::INTR) => {}
                result => return Ok(result?),
            }
        }
    }
}

/// Several texts in one buffer that is used again and again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Texts {
    text: String,
    /// Where each begins and ends.
    places: Vec<(usize, usize)>,
}

impl Texts {
    /// Forgets them all.
    pub(crate) fn clear(&mut self) {
        self.text.clear();
        self.places.clear();
    }

    /// Adds one; what is not UTF-8 becomes the replacement character.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        let begin = self.text.len();
        self.text.push_str(&text::label(bytes));
        self.places.push((begin, self.text.len()));
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// The one that was added as number `index`, from 0; empty if there is none.
    pub(crate) fn get(&self, index: usize) -> &str {
        self.places.get(index).and_then(|&(begin, end)| self.text.get(begin..end)).unwrap_or_default()
    }

    /// All of them, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &str> {
        self.places.iter().map(|&(begin, end)| self.text.get(begin..end).unwrap_or_default())
    }

    fn sort(&mut self) {
        let text = &self.text;
        self.places.sort_unstable_by_key(|&(begin, end)| text.get(begin..end));
    }
}

/// What a number of a file is multiplied with or divided by, so that the result is bit for bit that of `node_exporter`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Scale {
    One,
    Times(f64),
    Over(f64),
}

impl Scale {
    /// `value` in the metric's unit.
    pub(crate) fn apply(self, value: f64) -> f64 {
        match self {
            Self::One => value,
            Self::Times(factor) => value * factor,
            Self::Over(divisor) => value / divisor,
        }
    }
}

/// A file, its metric and its unit.
pub(crate) type Attribute = (&'static str, &'static str, Scale);

/// Puts the number in each of the files that is there and has one.
pub(crate) fn put_all(tree: &mut Tree, attributes: &[Attribute], labels: &[(&str, &str)], sink: &mut super::Sink) {
    for &(file, metric, scale) in attributes {
        let Some(content) = tree.text(file) else { continue };
        let number = text::signed(content).map(|number| number as f64);
        if let Some(number) = number.or_else(|| text::any_number(content).map(|number| number as f64)) {
            sink.put(metric, labels, scale.apply(number));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn names_are_sorted_and_contents_trimmed() {
        let directory = tempfile::tempdir().expect("directory");
        for (file, content) in [("b", "0x1f\n"), ("a", " text \n"), ("c", "-5\n")] {
            fs::write(directory.path().join(file), content).expect("write");
        }
        fs::create_dir(directory.path().join("d")).expect("directory");
        let mut tree = Tree::new(directory.path());
        let mut names = Texts::default();
        tree.names(&mut names).expect("directory");
        assert_eq!(names.iter().collect::<Vec<_>>(), ["a", "b", "c", "d"]);
        tree.directories(&mut names).expect("directory");
        assert_eq!(names.iter().collect::<Vec<_>>(), ["d"]);
        assert_eq!(tree.text("a"), Some(&b"text"[..]));
        assert_eq!((tree.number("b"), tree.signed("c"), tree.text("x")), (Some(31), Some(-5), None));
        assert!(tree.has("a") && !tree.has("x"));
        let mark = tree.enter("d");
        assert!(tree.path().ends_with("d"));
        tree.leave(mark);
        assert_eq!(tree.path(), directory.path());
    }
}
