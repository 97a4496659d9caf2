//! `/sys/fs/xfs`: what file systems of this kind do.

use super::class::Class;
use super::glob::Globs;
use super::text;
use super::{Entry, Roots, Sensor, SensorError, Sink};

pub(crate) const ENTRY: Entry = Entry::new(
    "xfs",
    |settings| vec![settings.roots.sys.join("fs/xfs")],
    |settings| Box::new(Xfs::new(&settings.roots)),
);

/// The word that a line begins with, and the metrics of its numbers.
const LINES: [(&[u8], &[&str]); 8] = [
    (
        b"extent_alloc",
        &[
            "node_xfs_extent_allocation_extents_allocated_total",
            "node_xfs_extent_allocation_blocks_allocated_total",
            "node_xfs_extent_allocation_extents_freed_total",
            "node_xfs_extent_allocation_blocks_freed_total",
        ],
    ),
    (
        b"abt",
        &[
            "node_xfs_allocation_btree_lookups_total",
            "node_xfs_allocation_btree_compares_total",
            "node_xfs_allocation_btree_records_inserted_total",
            "node_xfs_allocation_btree_records_deleted_total",
        ],
    ),
    (
        b"blk_map",
        &[
            "node_xfs_block_mapping_reads_total",
            "node_xfs_block_mapping_writes_total",
            "node_xfs_block_mapping_unmaps_total",
            "node_xfs_block_mapping_extent_list_insertions_total",
            "node_xfs_block_mapping_extent_list_deletions_total",
            "node_xfs_block_mapping_extent_list_lookups_total",
            "node_xfs_block_mapping_extent_list_compares_total",
        ],
    ),
    (
        b"bmbt",
        &[
            "node_xfs_block_map_btree_lookups_total",
            "node_xfs_block_map_btree_compares_total",
            "node_xfs_block_map_btree_records_inserted_total",
            "node_xfs_block_map_btree_records_deleted_total",
        ],
    ),
    (
        b"dir",
        &[
            "node_xfs_directory_operation_lookup_total",
            "node_xfs_directory_operation_create_total",
            "node_xfs_directory_operation_remove_total",
            "node_xfs_directory_operation_getdents_total",
        ],
    ),
    (
        b"ig",
        &[
            "node_xfs_inode_operation_attempts_total",
            "node_xfs_inode_operation_found_total",
            "node_xfs_inode_operation_recycled_total",
            "node_xfs_inode_operation_missed_total",
            "node_xfs_inode_operation_duplicates_total",
            "node_xfs_inode_operation_reclaims_total",
            "node_xfs_inode_operation_attribute_changes_total",
        ],
    ),
    (b"rw", &["node_xfs_write_calls_total", "node_xfs_read_calls_total"]),
    (
        b"vnodes",
        &[
            "node_xfs_vnode_active_total",
            "node_xfs_vnode_allocate_total",
            "node_xfs_vnode_get_total",
            "node_xfs_vnode_hold_total",
            "node_xfs_vnode_release_total",
            "node_xfs_vnode_reclaim_total",
            "node_xfs_vnode_remove_total",
        ],
    ),
];

/// `node_xfs_*`.
pub(crate) struct Xfs {
    class: Class,
}

impl Xfs {
    pub(crate) fn new(roots: &Roots) -> Self {
        Self { class: Class::new(&roots.sys.join("fs/xfs"), Globs::default()) }
    }
}

impl Sensor for Xfs {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        self.class.each(
            // `stats` is the sum of all, `error` no file system.
            |name| name != "stats",
            |tree, device, _, sink| {
                let Some(content) = tree.text("stats/stats") else { return };
                for (word, metrics) in LINES {
                    let line = text::lines(content).find(|(_, line)| text::fields(line).next() == Some(word));
                    let mut numbers = text::fields(line.map_or(b"", |(_, line)| line)).skip(1).map(text::number);
                    for metric in metrics {
                        // A kernel that does not count it says nothing.
                        let number = numbers.next().flatten().unwrap_or_default();
                        sink.put(metric, &[("device", device)], number as f64);
                    }
                }
            },
            sink,
        )
    }
}
