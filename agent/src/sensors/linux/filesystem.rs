//! Mounted file systems: how large, how full, whether writable.
//!
//! A file system of another machine may hang. Such a one is asked by a thread of its own, and is reported with
//! `node_filesystem_device_error` 1 until it answers, while the others are reported as ever. What is wrong with one that
//! is not well is said by `veghe_filesystem_fault`, which is there only then. ext4 also keeps a count of its errors.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::statfs;
use rustix::io::Errno;

use super::asked::Asked;
use super::ext4::{self, Errors, Ext4};
use super::glob::Globs;
use super::source::Source;
use super::text::{self, Malformed};
use super::{Entry, Roots, Sensor, SensorError, Sink};
use crate::clock;

pub(crate) const ENTRY: Entry = Entry::new(
    "filesystem",
    |settings| vec![settings.roots.proc.join("self/mounts")],
    |settings| Box::new(Filesystem::new(&settings.roots, settings.ignored("filesystem"))),
);

const EXCLUDED_TYPES: [&str; 24] = [
    "autofs",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "fusectl",
    "hugetlbfs",
    "iso9660",
    "mqueue",
    "nsfs",
    "overlay",
    "proc",
    "procfs",
    "pstore",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "squashfs",
    "sysfs",
    "tracefs",
];
/// Excluded with everything below.
const EXCLUDED_TREES: [&str; 6] = ["/dev", "/proc", "/run", "/sys", "/mnt", "/media"];
/// Excluded is what is below, not the place itself.
const EXCLUDED_BELOW: [&str; 2] = ["/var/lib/docker/", "/var/lib/containers/storage/"];
/// Types whose data is elsewhere, so that a question can hang.
const REMOTE_TYPES: [&str; 15] = [
    "9p",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "fuse",
    "gfs2",
    "glusterfs",
    "lustre",
    "ncpfs",
    "nfs",
    "nfs4",
    "ocfs2",
    "smb3",
    "smbfs",
];
/// How long all remote file systems together are waited for.
const REMOTE_PATIENCE: Duration = Duration::from_millis(150);
/// More are asked directly.
const REMOTE_MAX: usize = 64;
const STACK_BYTES: usize = 64 << 10;

/// Types that are read-only by nature, however they are mounted.
const FIXED_TYPES: [&str; 5] = ["cramfs", "erofs", "iso9660", "squashfs", "udf"];

/// `node_filesystem_*`, `veghe_filesystem_fault`, `veghe_filesystem_recorded_errors`.
pub(crate) struct Filesystem {
    /// That of the first process, which sees what services see; without right to it, our own.
    sources: [Source; 2],
    roots: Roots,
    /// Mount points.
    ignored: Globs,
    /// What `mounts` was made from.
    listed: Vec<u8>,
    mounts: Vec<Mount>,
    remotes: Vec<Remote>,
}

struct Mount {
    device: String,
    mountpoint: String,
    fstype: String,
    is_readonly: bool,
    /// Whether the kernel, or somebody at another mount of the same, made it read-only: the mount itself asks for writing.
    is_forced: bool,
    ext4: Option<Ext4>,
    path: PathBuf,
}

/// One remote file system.
struct Remote {
    path: PathBuf,
    asked: Asked<io::Result<Space>>,
}

/// Why a file system tells nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Hung,
    StaleHandle,
    Disconnected,
    Io,
    Other,
}

impl Fault {
    fn of(error: &io::Error) -> Self {
        match Errno::from_io_error(error) {
            Some(Errno::STALE) => Self::StaleHandle,
            Some(Errno::NOTCONN | Errno::HOSTDOWN | Errno::HOSTUNREACH | Errno::TIMEDOUT | Errno::CONNREFUSED) => {
                Self::Disconnected
            }
            Some(Errno::IO | Errno::SHUTDOWN) => Self::Io,
            _ => Self::Other,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Hung => "hung",
            Self::StaleHandle => "stale_handle",
            Self::Disconnected => "disconnected",
            Self::Io => "io_error",
            Self::Other => "other",
        }
    }
}

#[derive(Clone, Copy)]
struct Space {
    size_bytes: f64,
    free_bytes: f64,
    avail_bytes: f64,
    files: f64,
    files_free: f64,
}

impl Filesystem {
    pub(crate) fn new(roots: &Roots, ignored: Globs) -> Self {
        Self {
            sources: [Source::new(roots.proc.join("1/mounts")), Source::new(roots.proc.join("self/mounts"))],
            roots: roots.clone(),
            ignored,
            listed: Vec::new(),
            mounts: Vec::new(),
            remotes: Vec::new(),
        }
    }

    /// Reads the list of mounts, and works on it only if it changed.
    fn list(&mut self) -> Result<(), SensorError> {
        let [first, own] = &mut self.sources;
        let source = if first.read().is_ok() { first } else { own };
        let now = source.read()?;
        if now != self.listed {
            self.listed.clear();
            self.listed.extend_from_slice(now);
            let mounts = parse(&self.listed, &self.roots.rootfs);
            // Read again next time if it is malformed now.
            self.mounts = mounts.map_err(|error| {
                self.listed.clear();
                source.malformed(error)
            })?;
            self.mounts.retain(|mount| !self.ignored.matches(&mount.mountpoint));
            if self.mounts.iter().any(|mount| mount.may_be_forced() || mount.is_ext4()) {
                let infos = source.path().with_file_name("mountinfo");
                look_up(&mut self.mounts, &fs::read(infos).unwrap_or_default(), &self.roots);
            }
            let mounts = &self.mounts;
            self.remotes.retain(|remote| mounts.iter().any(|mount| mount.path == remote.path));
        }
        Ok(())
    }
}

impl Sensor for Filesystem {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        self.list()?;
        for mount in self.mounts.iter().filter(|mount| mount.is_remote()) {
            if !self.remotes.iter().any(|remote| remote.path == mount.path) && self.remotes.len() < REMOTE_MAX {
                self.remotes.extend(Remote::start(&mount.path).ok());
            }
        }
        self.remotes.iter_mut().for_each(|remote| remote.asked.ask());
        let begin = clock::instant();
        for mount in &mut self.mounts {
            let space = match self.remotes.iter_mut().find(|remote| remote.path == mount.path) {
                Some(remote) => {
                    let patience = REMOTE_PATIENCE.saturating_sub(begin.elapsed());
                    remote.asked.answer(patience).map_or(Err(Fault::Hung), |answer| answer.map_err(|e| Fault::of(&e)))
                }
                None => space(&mount.path).map_err(|error| Fault::of(&error)),
            };
            let errors = mount.ext4.as_mut().and_then(Ext4::errors);
            mount.put(space, errors, sink);
        }
        Ok(())
    }
}

impl Mount {
    fn is_remote(&self) -> bool {
        REMOTE_TYPES.contains(&self.fstype.as_str()) || self.fstype.starts_with("fuse.")
    }

    fn may_be_forced(&self) -> bool {
        self.is_readonly && !FIXED_TYPES.contains(&self.fstype.as_str())
    }

    fn is_ext4(&self) -> bool {
        ext4::TYPES.contains(&self.fstype.as_str())
    }

    fn put(&self, space: Result<Space, Fault>, errors: Option<Errors>, sink: &mut Sink) {
        let labels =
            [("device", self.device.as_str()), ("fstype", &self.fstype), ("mountpoint", self.mountpoint.as_str())];
        let mut put = |name, value| sink.put(name, &labels, value);
        put("node_filesystem_device_error", f64::from(u8::from(space.is_err())));
        if let Ok(space) = space {
            put("node_filesystem_size_bytes", space.size_bytes);
            put("node_filesystem_free_bytes", space.free_bytes);
            put("node_filesystem_avail_bytes", space.avail_bytes);
            put("node_filesystem_files", space.files);
            put("node_filesystem_files_free", space.files_free);
            put("node_filesystem_readonly", f64::from(u8::from(self.is_readonly)));
        }
        if let Some(errors) = errors {
            put("veghe_filesystem_recorded_errors", errors.count as f64);
        }
        let has_ended = !self.is_readonly && errors.is_some_and(|errors| errors.have_ended_writing);
        let forced = (self.is_forced || has_ended).then_some("read_only");
        for fault in space.err().map(Fault::name).into_iter().chain(forced) {
            let [device, rest @ ..] = labels;
            sink.put("veghe_filesystem_fault", &[device, ("fault", fault), rest[0], rest[1]], 1.0);
        }
    }
}

impl Remote {
    fn start(path: &Path) -> io::Result<Self> {
        let own_path = path.to_owned();
        let asked = Asked::start("statfs", STACK_BYTES, move || space(&own_path))?;
        Ok(Self { path: path.to_owned(), asked })
    }
}

fn space(path: &Path) -> io::Result<Space> {
    let stat = statfs(path)?;
    let block_bytes = stat.f_bsize as f64;
    Ok(Space {
        size_bytes: stat.f_blocks as f64 * block_bytes,
        free_bytes: stat.f_bfree as f64 * block_bytes,
        avail_bytes: stat.f_bavail as f64 * block_bytes,
        files: stat.f_files as f64,
        files_free: stat.f_ffree as f64,
    })
}

fn parse(bytes: &[u8], rootfs: &Path) -> Result<Vec<Mount>, Malformed> {
    let mut mounts: Vec<Mount> = Vec::new();
    for (line, content) in text::lines(bytes) {
        let mut fields = text::fields(content);
        let mut field = || {
            let field = fields.next().ok_or(Malformed { line, expected: "device, mount point, type and options" })?;
            Ok(text::label(field))
        };
        let (device, mountpoint, fstype, options) = (field()?, field()?, field()?, field()?);
        let Some(mountpoint) = relative_to(rootfs, &unescaped(&mountpoint)) else { continue };
        if EXCLUDED_TYPES.contains(&fstype.as_ref()) || is_excluded(&mountpoint) {
            continue;
        }
        // The same place may be listed twice; a series may not.
        let is_known =
            |mount: &Mount| mount.device == *device && mount.mountpoint == mountpoint && mount.fstype == *fstype;
        if mounts.iter().any(is_known) {
            continue;
        }
        mounts.push(Mount {
            device: device.into_owned(),
            path: rootfs.join(mountpoint.trim_start_matches('/')),
            mountpoint,
            fstype: fstype.into_owned(),
            is_readonly: has_option(&options, "ro"),
            // What ext4 of newer kernels says instead of `ro`.
            is_forced: has_option(&options, "emergency_ro"),
            ext4: None,
        });
    }
    Ok(mounts)
}

fn has_option(options: &str, wanted: &str) -> bool {
    options.split(',').any(|option| option == wanted)
}

pub(super) fn unescaped(mountpoint: &str) -> String {
    mountpoint.replace("\\040", " ").replace("\\011", "\t")
}

/// Looks in `infos`, what `mountinfo` says, which of `mounts` were made read-only below a mount that asks for writing, and which
/// are ext4's. A line that is malformed says nothing.
fn look_up(mounts: &mut [Mount], infos: &[u8], roots: &Roots) {
    for (_, content) in text::lines(infos) {
        // Identifier, parent, device's number, root, mount point, the mount's options, tags, `-`, type, device, the file
        // system's options.
        let fields: Vec<_> = text::fields(content).map(text::label).collect();
        let Some(end) = fields.iter().position(|field| field == "-") else { continue };
        let fields = [2, 4, 5, end + 2, end + 3].map(|at| fields.get(at));
        let [Some(number), Some(mountpoint), Some(own), Some(device), Some(shared)] = fields else { continue };
        let Some(mountpoint) = relative_to(&roots.rootfs, &unescaped(mountpoint)) else { continue };
        let is_forced = has_option(own, "rw") && has_option(shared, "ro");
        for mount in mounts.iter_mut().filter(|mount| mount.mountpoint == mountpoint) {
            mount.is_forced |= is_forced && mount.may_be_forced();
            if mount.is_ext4() && mount.device == **device {
                mount.ext4 = Ext4::new(number, roots);
            }
        }
    }
}

/// `mountpoint` as the host sees it whose root is at `rootfs`.
fn relative_to(rootfs: &Path, mountpoint: &str) -> Option<String> {
    if rootfs == Path::new("/") {
        return Some(mountpoint.to_owned());
    }
    match Path::new(mountpoint).strip_prefix(rootfs) {
        Ok(rest) => Some(format!("/{}", rest.to_str()?)),
        Err(_) => Some(mountpoint.to_owned()),
    }
}

/// `^/(dev|proc|run|sys|mnt|media|var/lib/docker/.+|var/lib/containers/storage/.+)($|/)`
fn is_excluded(mountpoint: &str) -> bool {
    let is_in =
        |tree: &&str| mountpoint.strip_prefix(*tree).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let is_below = |tree: &&str| mountpoint.strip_prefix(*tree).is_some_and(|rest| !rest.is_empty());
    EXCLUDED_TREES.iter().any(is_in) || EXCLUDED_BELOW.iter().any(is_below)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_excluded_as_node_exporter_does() {
        for out in ["/dev", "/dev/shm", "/run/user/0", "/mnt/x", "/media", "/var/lib/docker/overlay2/x"] {
            assert!(is_excluded(out), "{out}");
        }
        for stay in ["/", "/home", "/devices", "/var/lib/docker", "/var/lib/docker/", "/data/dev", "/running"] {
            assert!(!is_excluded(stay), "{stay}");
        }
    }

    #[test]
    fn spaces_are_unescaped_and_repeats_left_out() {
        let text = b"/dev/sda1 /srv/Arhiva\\040NAS ext4 ro,noatime 0 0\n/dev/sda1 /srv/Arhiva\\040NAS ext4 rw 0 0\n";
        let mounts = parse(text, Path::new("/")).expect("well formed");
        let [mount] = &mounts[..] else { panic!("one mount") };
        assert_eq!((mount.mountpoint.as_str(), mount.is_readonly), ("/srv/Arhiva NAS", true));
    }

    #[test]
    fn a_host_seen_from_a_container_is_reported_as_the_host_sees_itself() {
        let mounts = parse(b"/dev/sda1 /host/srv ext4 rw 0 0\n", Path::new("/host")).expect("well formed");
        assert_eq!((mounts[0].mountpoint.as_str(), mounts[0].path.as_path()), ("/srv", Path::new("/host/srv")));
    }

    #[test]
    fn what_the_kernel_made_read_only_is_told_from_what_was_mounted_so() {
        let mounts = b"/dev/sda1 /srv/forced ext4 ro 0 0\n/dev/sdb1 /srv/meant ext4 ro 0 0\n/dev/loop1 /srv/fixed udf ro 0 0\n/dev/sdc1 /srv/a\\040b xfs ro 0 0\n/dev/sdd1 /srv/newer ext4 rw,relatime,errors=remount-ro,emergency_ro 0 0\n";
        let infos = b"30 1 8:1 / /srv/forced rw,relatime shared:1 - ext4 /dev/sda1 ro,errors=remount-ro\n31 1 8:17 / /srv/meant ro,relatime - ext4 /dev/sdb1 ro\n32 1 7:1 / /srv/fixed rw - udf /dev/loop1 ro\n33 1 8:33 / /srv/a\\040b rw master:1 shared:2 - xfs /dev/sdc1 ro\nmalformed - \n";
        let mut mounts = parse(mounts, Path::new("/")).expect("well formed");
        look_up(&mut mounts, infos, &Roots::default());
        let forced: Vec<_> = mounts.iter().filter(|m| m.is_forced).map(|m| m.mountpoint.as_str()).collect();
        assert_eq!(forced, ["/srv/forced", "/srv/a b", "/srv/newer"]);
    }
}
