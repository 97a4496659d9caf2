//! Shares that the kernel itself mounts, each going through what `veghe_tests::shares` does to one that user space mounts.

use std::fs;
use std::path::{Path, PathBuf};

use veghe_tests::process::Process;
use veghe_tests::shares::{Share, run_on, samba};

use crate::host::shell;
use crate::inside::{Machine, SCRATCH};

/// Whose packets to and from one port of this machine may be dropped.
struct Mounted {
    served: PathBuf,
    seen: PathBuf,
    mountpoint: PathBuf,
    port: u16,
    _server: Option<Process>,
}

impl Mounted {
    fn drop_packets(&self) -> anyhow::Result<()> {
        let port = self.port;
        shell(&format!(
            "nft add table inet silence; nft add chain inet silence in '{{ type filter hook input priority 0; }}'; \
             nft add rule inet silence in tcp dport {port} drop; nft add rule inet silence in tcp sport {port} drop"
        ))
    }
}

impl Share for Mounted {
    fn served(&self) -> &Path {
        &self.served
    }

    fn seen(&self) -> &Path {
        &self.seen
    }

    fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    fn hang(&mut self) -> anyhow::Result<()> {
        self.drop_packets()
    }

    fn answer(&mut self) -> anyhow::Result<()> {
        shell("nft delete table inet silence")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Fails where nothing is dropped.
        self.answer().ok();
    }
}

/// The kernel's NFS server of `devices.sh`, seen through the mount at `mountpoint`.
fn nfs(mountpoint: &str, name: &str) -> anyhow::Result<String> {
    let dir = Path::new(SCRATCH).join(name);
    let served = Path::new(SCRATCH).join("export").join(name);
    for path in [&dir, &served] {
        fs::create_dir_all(path)?;
    }
    let (mountpoint, seen) = (PathBuf::from(mountpoint), Path::new(mountpoint).join(name));
    run_on(&dir, &mut Mounted { served, seen, mountpoint, port: 2049, _server: None })?;
    Ok("six images counted once each, none early; a silent server is told, and all else goes on".to_owned())
}

pub(crate) fn nfs3(_: &Machine) -> anyhow::Result<String> {
    nfs("/srv/nfs3", "scans3")
}

pub(crate) fn nfs4(_: &Machine) -> anyhow::Result<String> {
    nfs("/srv/nfs4", "scans4")
}

pub(crate) fn cifs(_: &Machine) -> anyhow::Result<String> {
    let dir = Path::new(SCRATCH).join("cifs");
    let (served, seen) = (dir.join("served"), PathBuf::from("/srv/cifs"));
    for path in [&served, &seen] {
        fs::create_dir_all(path)?;
    }
    let (server, port) = samba(&dir, &served)?;
    let options = format!("port={port},username=guest,password=guest,vers=3.1.1,hard");
    shell(&format!("mount -t cifs -o {options} //127.0.0.1/scans {}", seen.display()))?;
    let mountpoint = seen.clone();
    run_on(&dir, &mut Mounted { served, seen, mountpoint, port, _server: Some(server) })?;
    shell("umount --lazy /srv/cifs")?;
    Ok("six images counted once each, none early; a silent server is told, and all else goes on".to_owned())
}
