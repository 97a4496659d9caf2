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
        let parsed = nfs_lines::parse(self.source.read()?, |word, numbers| {
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
        parsed.map_err(|error| self.source.malformed(error))
    }
}
