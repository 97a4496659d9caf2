//! `/proc/net/rpc/nfs`: what the NFS client asks servers.

use super::nfs_lines::{self, V2, V3};
use super::source::Source;
use super::{Entry, Roots, Sensor, SensorError, Sink};

pub(crate) const ENTRY: Entry = Entry::new(
    "nfs",
    |settings| vec![settings.roots.proc.join("net/rpc/nfs")],
    |settings| Box::new(Nfs::new(&settings.roots)),
);

/// Procedures of version 4, in the order of their numbers.
const V4: [&str; 59] = [
    "Null",
    "Read",
    "Write",
    "Commit",
    "Open",
    "OpenConfirm",
    "OpenNoattr",
    "OpenDowngrade",
    "Close",
    "Setattr",
    "FsInfo",
    "Renew",
    "SetClientID",
    "SetClientIDConfirm",
    "Lock",
    "Lockt",
    "Locku",
    "Access",
    "Getattr",
    "Lookup",
    "LookupRoot",
    "Remove",
    "Rename",
    "Link",
    "Symlink",
    "Create",
    "Pathconf",
    "StatFs",
    "ReadLink",
    "ReadDir",
    "ServerCaps",
    "DelegReturn",
    "GetACL",
    "SetACL",
    "FsLocations",
    "ReleaseLockowner",
    "Secinfo",
    "FsidPresent",
    "ExchangeID",
    "CreateSession",
    "DestroySession",
    "Sequence",
    "GetLeaseTime",
    "ReclaimComplete",
    "LayoutGet",
    "GetDeviceInfo",
    "LayoutCommit",
    "LayoutReturn",
    "SecinfoNoName",
    "TestStateID",
    "FreeStateID",
    "GetDeviceList",
    "BindConnToSession",
    "DestroyClientID",
    "Seek",
    "Allocate",
    "DeAllocate",
    "LayoutStats",
    "Clone",
];
const REQUESTS: &str = "node_nfs_requests_total";

/// `node_nfs_*`.
pub(crate) struct Nfs {
    source: Source,
}

impl Nfs {
    pub(crate) fn new(roots: &Roots) -> Self {
        Self { source: Source::new(roots.proc.join("net/rpc/nfs")) }
    }
}

impl Sensor for Nfs {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        // Newer kernels are built without it.
        let mut has_version_2 = false;
        let parsed = nfs_lines::parse(self.source.read()?, |word, numbers| {
            has_version_2 |= word == b"proc2";
            match word {
                b"net" => {
                    sink.put("node_nfs_packets_total", &[("protocol", "udp")], numbers.get(1)?);
                    sink.put("node_nfs_packets_total", &[("protocol", "tcp")], numbers.get(2)?);
                    sink.put("node_nfs_connections_total", &[], numbers.get(3)?);
                }
                b"rpc" => {
                    sink.put("node_nfs_rpcs_total", &[], numbers.get(0)?);
                    sink.put("node_nfs_rpc_retransmissions_total", &[], numbers.get(1)?);
                    sink.put("node_nfs_rpc_authentication_refreshes_total", &[], numbers.get(2)?);
                }
                b"proc2" => numbers.put_methods(REQUESTS, "2", &V2, sink)?,
                b"proc3" => numbers.put_methods(REQUESTS, "3", &V3, sink)?,
                b"proc4" => numbers.put_methods(REQUESTS, "4", &V4, sink)?,
                _ => {}
            }
            Ok(())
        });
        if !has_version_2 {
            nfs_lines::put_none(REQUESTS, "2", &V2, sink);
        }
        parsed.map_err(|error| self.source.malformed(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_version_2_has_none_of_its_requests() {
        let proc = tempfile::tempdir().expect("directory");
        std::fs::create_dir_all(proc.path().join("net/rpc")).expect("directory");
        let text = "net 0 0 0 0\nrpc 17 0 17\nproc3 22 1 2 0 1 1 0 0 0 0 0 0 0 0 0 0 0 0 0 0 2 1 0\n";
        std::fs::write(proc.path().join("net/rpc/nfs"), text).expect("write");
        let roots = Roots { proc: proc.path().to_owned(), ..Roots::default() };
        let mut sink = Sink::default();
        Nfs::new(&roots).read(&mut sink).expect("a list");
        let (series, values) = sink.take();
        let of = |wanted: &str| -> Vec<f64> {
            let has = |name: &crate::reading::SeriesName| name.labels().iter().any(|(_, value)| **value == *wanted);
            series.0.iter().zip(&values).filter(|(name, _)| has(name)).map(|(_, value)| *value).collect()
        };
        assert_eq!(of("2"), [0.0; 18]);
        assert_eq!(of("3").iter().sum::<f64>(), 8.0);
    }
}
