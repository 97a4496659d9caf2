//! What the statistics of NFS' client and server share: lines of a word and numbers, and the names of procedures.

use super::Sink;
use super::text::{self, Malformed};

/// Procedures of version 2, in the order of their numbers.
pub(crate) const V2: [&str; 18] = [
    "Null", "GetAttr", "SetAttr", "Root", "Lookup", "ReadLink", "Read", "WrCache", "Write", "Create", "Remove",
    "Rename", "Link", "SymLink", "MkDir", "RmDir", "ReadDir", "FsStat",
];
/// Procedures of version 3, in the order of their numbers.
pub(crate) const V3: [&str; 22] = [
    "Null",
    "GetAttr",
    "SetAttr",
    "Lookup",
    "Access",
    "ReadLink",
    "Read",
    "Write",
    "Create",
    "MkDir",
    "SymLink",
    "MkNod",
    "Remove",
    "RmDir",
    "Rename",
    "Link",
    "ReadDir",
    "ReadDirPlus",
    "FsStat",
    "FsInfo",
    "PathConf",
    "Commit",
];

/// Calls `each` with the word and the numbers of each line.
pub(crate) fn parse<'a>(
    bytes: &'a [u8],
    mut each: impl FnMut(&'a [u8], Numbers<'a>) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    for (line, content) in text::lines(bytes) {
        let content = content.trim_ascii();
        let end = content.iter().position(|&byte| byte == b' ').unwrap_or(content.len());
        let (word, numbers) = content.split_at(end);
        each(word, Numbers { line, numbers })?;
    }
    Ok(())
}

/// The numbers of one line.
#[derive(Clone, Copy)]
pub(crate) struct Numbers<'a> {
    line: usize,
    numbers: &'a [u8],
}

impl Numbers<'_> {
    /// The number at `position`, from 0.
    pub(crate) fn get(self, position: usize) -> Result<f64, Malformed> {
        let number = text::fields(self.numbers).nth(position).and_then(text::number);
        number.map(|number| number as f64).ok_or(Malformed { line: self.line, expected: "more numbers" })
    }

    /// Puts a count for each of `methods`, which follow a number that says how many they are; those that an older kernel
    /// does not have are 0.
    pub(crate) fn put_methods(
        self,
        metric: &str,
        version: &str,
        methods: &[&str],
        sink: &mut Sink,
    ) -> Result<(), Malformed> {
        let malformed = Malformed { line: self.line, expected: "as many numbers as the first one says" };
        let mut numbers = text::fields(self.numbers).map(text::number);
        let count = numbers.next().flatten().ok_or(malformed)?;
        let is_complete = text::fields(self.numbers).count() as u64 == count.saturating_add(1);
        if !is_complete {
            return Err(malformed);
        }
        for method in methods {
            let value = numbers.next().map_or(Some(0), |number| number).ok_or(malformed)?;
            // Numbers that no procedure has.
            if !method.is_empty() {
                sink.put(metric, &[("method", method), ("proto", version)], value as f64);
            }
        }
        Ok(())
    }
}

/// Puts 0 for each of `methods` of a version of the protocol that this kernel does not have, as for a method that it does not have.
pub(crate) fn put_none(metric: &str, version: &str, methods: &[&str], sink: &mut Sink) {
    for method in methods.iter().filter(|method| !method.is_empty()) {
        sink.put(metric, &[("method", method), ("proto", version)], 0.0);
    }
}
