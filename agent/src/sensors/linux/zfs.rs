//! `/proc/spl/kstat/zfs`: what ZFS caches, reads and writes, and how its pools are.

use std::path::PathBuf;

use super::source::Source;
use super::text::{self, Composed, Malformed};
use super::tree::{Texts, Tree};
use super::{Entry, Roots, Sensor, SensorError, Sink};

pub(crate) const ENTRY: Entry = Entry::new(
    "zfs",
    |settings| vec![settings.roots.proc.join("spl/kstat/zfs")],
    |settings| Box::new(Zfs::new(&settings.roots)),
);

/// Files and the beginnings of their metrics' names. Some come and go with versions of ZFS.
const SUBSYSTEMS: [(&str, &str); 11] = [
    ("abdstats", "node_zfs_abd_"),
    ("arcstats", "node_zfs_arc_"),
    ("dbufstats", "node_zfs_dbuf_"),
    ("dmu_tx", "node_zfs_dmu_tx_"),
    ("dnodestats", "node_zfs_dnode_"),
    ("fm", "node_zfs_fm_"),
    ("vdev_cache_stats", "node_zfs_vdev_cache_"),
    ("vdev_mirror_stats", "node_zfs_vdev_mirror_"),
    ("xuio_stats", "node_zfs_xuio_"),
    ("zfetchstats", "node_zfs_zfetch_"),
    ("zil", "node_zfs_zil_"),
];
const POOL_STATES: [&str; 7] = ["online", "degraded", "faulted", "offline", "removed", "unavail", "suspended"];
/// The kind of value that is an unsigned number of 64 bits.
const UINT64: &[u8] = b"4";

/// `node_zfs_*`.
pub(crate) struct Zfs {
    subsystems: Vec<(&'static str, Source)>,
    tree: Tree,
    pools: Texts,
    files: Texts,
    /// Files of pools, which are made and destroyed: opened anew each time.
    buffer: Vec<u8>,
    name: Composed,
}

impl Zfs {
    pub(crate) fn new(roots: &Roots) -> Self {
        let root = roots.proc.join("spl/kstat/zfs");
        let source = |(file, prefix): &(&str, &'static str)| (*prefix, Source::new(root.join(file)));
        Self {
            subsystems: SUBSYSTEMS.iter().map(source).collect(),
            tree: Tree::new(&root),
            pools: Texts::default(),
            files: Texts::default(),
            buffer: Vec::new(),
            name: Composed::default(),
        }
    }
}

impl Sensor for Zfs {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        let name = &mut self.name;
        for (prefix, source) in &mut self.subsystems {
            let Some(bytes) = source.read_if_present()? else { continue };
            let parsed = parse(bytes, |field, kind, value| {
                if kind == UINT64 {
                    let value = text::number(value)?;
                    sink.put(name.name(prefix, field, ""), &[], value as f64);
                }
                Some(())
            });
            parsed.map_err(|error| source.malformed(error))?;
        }
        let (tree, pools, files, buffer) = (&mut self.tree, &mut self.pools, &mut self.files, &mut self.buffer);
        let list = tree.directories(pools);
        list.map_err(|source| SensorError::Read { path: tree.path().to_owned(), source })?;
        for pool in pools.iter() {
            let mark = tree.enter(pool);
            let result = put_pool(tree, pool, files, buffer, name, sink);
            tree.leave(mark);
            result?;
        }
        Ok(())
    }
}

fn put_pool(
    tree: &mut Tree,
    pool: &str,
    files: &mut Texts,
    buffer: &mut Vec<u8>,
    name: &mut Composed,
    sink: &mut Sink,
) -> Result<(), SensorError> {
    let zpool = ("zpool", pool);
    if let Some(io) = tree.text("io") {
        // OpenZFS 2.0 and older: a line of names and one of numbers.
        let mut lines = text::lines(io).skip_while(|(_, line)| text::fields(line).next() != Some(b"nread"));
        if let (Some((_, names)), Some((_, numbers))) = (lines.next(), lines.next()) {
            for (field, number) in text::fields(names).zip(text::fields(numbers)) {
                if let Some(number) = text::number(number) {
                    sink.put(name.name("node_zfs_zpool_", field, ""), &[zpool], number as f64);
                }
            }
        }
    }
    tree.names(files).unwrap_or_else(|_| files.clear());
    for file in files.iter().filter(|file| file.starts_with("objset-")) {
        // It may be gone by now.
        let Some(content) = tree.text(file) else { continue };
        buffer.clear();
        buffer.extend_from_slice(content);
        let mut dataset = "".into();
        let parsed = parse(buffer, |field, kind, value| {
            if field == b"dataset_name" {
                dataset = text::label(value);
            } else if kind == UINT64 {
                let value = text::number(value)?;
                let labels = [("dataset", &*dataset), zpool];
                sink.put(name.name("node_zfs_zpool_dataset_", field, ""), &labels, value as f64);
            }
            Some(())
        });
        parsed.map_err(|error| malformed(tree.path().join(file), error))?;
    }
    if let Some(state) = tree.text("state") {
        for known in POOL_STATES {
            let is_in = f64::from(u8::from(state.eq_ignore_ascii_case(known.as_bytes())));
            sink.put("node_zfs_zpool_state", &[("state", known), zpool], is_in);
        }
    }
    Ok(())
}

fn malformed(path: PathBuf, error: Malformed) -> SensorError {
    SensorError::Malformed { path, line: error.line, expected: error.expected }
}

/// Calls `each` with name, kind and data of each line after the one that says `name type data`.
fn parse<'a>(
    bytes: &'a [u8],
    mut each: impl FnMut(&'a [u8], &'a [u8], &'a [u8]) -> Option<()>,
) -> Result<(), Malformed> {
    let is_head = |line: &[u8]| text::fields(line).eq([&b"name"[..], b"type", b"data"]);
    let mut lines = text::lines(bytes).skip_while(|(_, line)| !is_head(line));
    lines.next().ok_or(Malformed { line: 1, expected: "a line `name type data`" })?;
    for (line, content) in lines {
        let mut fields = text::fields(content);
        if let (Some(name), Some(kind), Some(data)) = (fields.next(), fields.next(), fields.next()) {
            each(name, kind, data).ok_or(Malformed { line, expected: "a number" })?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_tells_the_line() {
        let number = |_: &[u8], _: &[u8], value: &[u8]| text::number(value).map(drop);
        assert_eq!(parse(b"1 2\n", number).expect_err("malformed").expected, "a line `name type data`");
        let error = parse(b"6 1 0x01\nname type data\nhits 4 many\n", number).expect_err("malformed");
        assert_eq!(error, Malformed { line: 3, expected: "a number" });
    }
}
