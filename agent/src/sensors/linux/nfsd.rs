//! `/proc/net/rpc/nfsd`: what the kernel's NFS server is asked.

use super::nfs_lines;
use super::source::Source;
use super::{Entry, Roots, Sensor, SensorError, Sink};

pub(crate) const ENTRY: Entry = Entry::new(
    "nfsd",
    |settings| vec![settings.roots.proc.join("net/rpc/nfsd")],
    |settings| Box::new(Nfsd::new(&settings.roots)),
);

/// Operations of version 4, in the order of their numbers; empty where `node_exporter` has none.
const V4: [&str; 38] = [
    "",
    "",
    "",
    "Access",
    "Close",
    "Commit",
    "Create",
    "DelegPurge",
    "DelegReturn",
    "GetAttr",
    "GetFH",
    "Link",
    "Lock",
    "Lockt",
    "Locku",
    "Lookup",
    "LookupRoot",
    "Nverify",
    "Open",
    "OpenAttr",
    "OpenConfirm",
    "OpenDgrd",
    "PutFH",
    "",
    "",
    "Read",
    "ReadDir",
    "ReadLink",
    "Remove",
    "Rename",
    "Renew",
    "RestoreFH",
    "SaveFH",
    "SecInfo",
    "SetAttr",
    "Verify",
    "Write",
    "RelLockOwner",
];
const REQUESTS: &str = "node_nfsd_requests_total";

/// `node_nfsd_*`.
pub(crate) struct Nfsd {
    source: Source,
}

impl Nfsd {
    pub(crate) fn new(roots: &Roots) -> Self {
        Self { source: Source::new(roots.proc.join("net/rpc/nfsd")) }
    }
}

impl Sensor for Nfsd {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        let version_2 = without_null(nfs_lines::V2);
        // Newer kernels are built without it.
        let mut has_version_2 = false;
        let parsed = nfs_lines::parse(self.source.read()?, |word, numbers| {
            has_version_2 |= word == b"proc2";
            let mut put = |metric, labels: &[(&str, &str)], position| {
                sink.put(metric, labels, numbers.get(position)?);
                Ok(())
            };
            match word {
                b"rc" => {
                    put("node_nfsd_reply_cache_hits_total", &[], 0)?;
                    put("node_nfsd_reply_cache_misses_total", &[], 1)?;
                    put("node_nfsd_reply_cache_nocache_total", &[], 2)?;
                }
                b"fh" => put("node_nfsd_file_handles_stale_total", &[], 0)?,
                b"io" => {
                    put("node_nfsd_disk_bytes_read_total", &[], 0)?;
                    put("node_nfsd_disk_bytes_written_total", &[], 1)?;
                }
                b"th" => put("node_nfsd_server_threads", &[], 0)?,
                b"ra" => {
                    put("node_nfsd_read_ahead_cache_size_blocks", &[], 0)?;
                    put("node_nfsd_read_ahead_cache_not_found_total", &[], 11)?;
                }
                b"net" => {
                    put("node_nfsd_packets_total", &[("proto", "udp")], 1)?;
                    put("node_nfsd_packets_total", &[("proto", "tcp")], 2)?;
                    put("node_nfsd_connections_total", &[], 3)?;
                }
                b"rpc" => {
                    put("node_nfsd_server_rpcs_total", &[], 0)?;
                    put("node_nfsd_rpc_errors_total", &[("error", "fmt")], 2)?;
                    put("node_nfsd_rpc_errors_total", &[("error", "auth")], 3)?;
                    put("node_nfsd_rpc_errors_total", &[("error", "cInt")], 4)?;
                }
                b"proc2" => numbers.put_methods(REQUESTS, "2", &version_2, sink)?,
                b"proc3" => numbers.put_methods(REQUESTS, "3", &without_null(nfs_lines::V3), sink)?,
                b"proc4ops" => numbers.put_methods(REQUESTS, "4", &V4, sink)?,
                _ => {}
            }
            Ok(())
        });
        if !has_version_2 {
            nfs_lines::put_none(REQUESTS, "2", &version_2, sink);
        }
        parsed.map_err(|error| self.source.malformed(error))
    }
}

/// The procedure 0 does nothing.
fn without_null<const N: usize>(mut methods: [&'static str; N]) -> [&'static str; N] {
    if let Some(null) = methods.first_mut() {
        *null = "";
    }
    methods
}
