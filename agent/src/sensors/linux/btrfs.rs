//! `/sys/fs/btrfs`: what file systems of this kind have allotted, and used of it; of those that are mounted also what is left
//! of each device, and its errors.

use std::path::PathBuf;

use super::btrfs_devices::{self, Device, ERRORS};
use super::class::Class;
use super::glob::Globs;
use super::tree::{Texts, Tree};
use super::{Entry, Roots, Sensor, SensorError, Sink};

pub(crate) const ENTRY: Entry = Entry::new(
    "btrfs",
    |settings| vec![settings.roots.sys.join("fs/btrfs")],
    |settings| Box::new(Btrfs::new(&settings.roots)),
);

const SECTOR_BYTES: f64 = 512.0;

/// `node_btrfs_*`.
pub(crate) struct Btrfs {
    class: Class,
    names: Texts,
    mounts: PathBuf,
}

impl Btrfs {
    pub(crate) fn new(roots: &Roots) -> Self {
        Self {
            class: Class::new(&roots.sys.join("fs/btrfs"), Globs::default()),
            names: Texts::default(),
            mounts: roots.proc.join("self/mounts"),
        }
    }
}

impl Sensor for Btrfs {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        let (names, mounts) = (&mut self.names, &self.mounts);
        // Where there is none, as a rule, nothing is asked.
        let mut mounted = None;
        let each = |tree: &mut Tree, uuid: &str, texts: &mut Texts, sink: &mut Sink| {
            let mounted = mounted.get_or_insert_with(|| {
                let mounts = std::fs::read(mounts).unwrap_or_default();
                btrfs_devices::of_mounted(&mounts)
            });
            let devices = mounted.iter().find(|(known, _)| known == uuid).map(|(_, devices)| &**devices);
            put(tree, uuid, devices, texts, names, sink);
        };
        self.class.each(|name| name.contains('-'), each, sink)
    }
}

fn put(
    tree: &mut Tree,
    directory: &str,
    asked: Option<&[Device]>,
    texts: &mut Texts,
    names: &mut Texts,
    sink: &mut Sink,
) {
    texts.push(tree.text("metadata_uuid").unwrap_or_default());
    texts.push(tree.text("label").unwrap_or_default());
    let uuid = Some(texts.get(0)).filter(|uuid| !uuid.is_empty()).unwrap_or(directory);
    sink.put("node_btrfs_info", &[("label", texts.get(1)), ("uuid", uuid)], 1.0);
    let reserve = tree.number("allocation/global_rsv_size").unwrap_or_default();
    sink.put("node_btrfs_global_rsv_size_bytes", &[("uuid", uuid)], reserve as f64);
    let mark = tree.enter("devices");
    // Gone in between: nothing to tell.
    tree.names(names).unwrap_or_else(|_| names.clear());
    let devices = names.len() as f64;
    for device in names.iter().filter(|_| asked.is_none()) {
        let mark = tree.enter(device);
        let sectors = tree.number("size").unwrap_or_default();
        tree.leave(mark);
        let labels = [("device", device), ("uuid", uuid)];
        sink.put("node_btrfs_device_size_bytes", &labels, sectors as f64 * SECTOR_BYTES);
    }
    tree.leave(mark);
    for device in asked.into_iter().flatten() {
        put_device(device, uuid, sink);
    }
    for kind in ["data", "metadata", "system"] {
        let allocation = tree.enter("allocation");
        tree.enter(kind);
        let reserved = tree.number("bytes_reserved").unwrap_or_default();
        sink.put("node_btrfs_reserved_bytes", &[("block_group_type", kind), ("uuid", uuid)], reserved as f64);
        tree.directories(names).unwrap_or_else(|_| names.clear());
        for mode in names.iter() {
            let mark = tree.enter(mode);
            let labels = [("block_group_type", kind), ("mode", mode), ("uuid", uuid)];
            let used = tree.number("used_bytes").unwrap_or_default();
            let total = tree.number("total_bytes").unwrap_or_default();
            tree.leave(mark);
            sink.put("node_btrfs_used_bytes", &labels, used as f64);
            sink.put("node_btrfs_size_bytes", &labels, total as f64);
            sink.put("node_btrfs_allocation_ratio", &labels, ratio(mode, devices));
        }
        tree.leave(allocation);
    }
}

fn put_device(device: &Device, uuid: &str, sink: &mut Sink) {
    let labels = [("btrfs_dev_uuid", &*device.uuid), ("device", &*device.name), ("uuid", uuid)];
    sink.put("node_btrfs_device_size_bytes", &labels, device.bytes as f64);
    let unused = device.bytes.saturating_sub(device.allotted_bytes);
    sink.put("node_btrfs_device_unused_bytes", &labels, unused as f64);
    let [own, name, whole] = labels;
    for (kind, count) in ERRORS.into_iter().zip(device.errors) {
        sink.put("node_btrfs_device_errors_total", &[own, name, ("type", kind), whole], count as f64);
    }
}

/// Bytes on disk for each byte of data.
fn ratio(mode: &str, devices: f64) -> f64 {
    match mode {
        "single" | "raid0" => 1.0,
        "dup" | "raid1" | "raid10" => 2.0,
        "raid5" => devices / (devices - 1.0),
        "raid6" => devices / (devices - 2.0),
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parity_is_spread_over_all_devices() {
        assert_eq!((ratio("raid5", 3.0), ratio("raid6", 4.0), ratio("raid1c3", 3.0)), (1.5, 2.0, 0.0));
    }
}
