//! Quotas of users, groups and projects as the kernel keeps them for ext4, XFS and other local file systems: what each takes
//! and may take.
//!
//! Asked by quotactl(2) (`Q_GETNEXTQUOTA`, Linux 4.6 and newer) once a minute, on a thread of its own, as a sick disk may
//! hang. Only who has a limit is told, and by number: whose it is stays on the machine. What this deliberately does not do:
//! quotas of ZFS and Btrfs, which are properties of data sets and subvolumes and no business of this call.

use std::ffi::{CString, c_char, c_int};
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::thread::CapabilitySet;

use super::filesystem::unescaped;
use super::slowly::Slowly;
use super::text;
use super::{Entry, Sensor, SensorError, SensorSettings, Sink, capabilities};
use crate::reading::SeriesName;

pub(crate) const ENTRY: Entry =
    Entry::new("quotas", |settings| vec![mounts(settings)], |settings| Box::new(Quotas::new(settings)))
        .needing(|_| {
            capabilities::missing(CapabilitySet::SYS_ADMIN).map(|names| format!("everybody's quotas: {names}"))
        })
        .on_request();

const EVERY: Duration = Duration::from_mins(1);
/// File systems that keep quotas by this call.
const TYPES: [&str; 9] = ["ext2", "ext3", "ext4", "f2fs", "gfs2", "jfs", "ocfs2", "reiserfs", "xfs"];
const KINDS: [(c_int, &str); 3] = [(0, "user"), (1, "group"), (2, "project")];
/// Who is asked for at all, of one kind on one file system.
const MAX_ASKED: usize = 50_000;
/// Who is told, of one kind on one file system; the others are counted.
const MAX_TOLD: usize = 500;
/// The kernel's, of linux/quota.h.
const GET_NEXT_QUOTA: u32 = 0x0080_0009;
/// Limits are in blocks of this size, whatever those of the file system are.
const LIMIT_BLOCK_BYTES: f64 = 1024.0;

fn mounts(settings: &SensorSettings) -> PathBuf {
    settings.roots.proc.join("self/mounts")
}

/// `struct if_nextdqblk` of linux/quota.h.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Quota {
    hard_blocks: u64,
    soft_blocks: u64,
    used_bytes: u64,
    hard_files: u64,
    soft_files: u64,
    used_files: u64,
    /// Until when the soft limit may be exceeded, since the Unix epoch; 0 while it is not.
    bytes_grace_end_seconds: u64,
    files_grace_end_seconds: u64,
    valid: u32,
    id: u32,
}

/// A file system that may have quotas.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    device: String,
    mountpoint: String,
}

/// `veghe_quota_*`.
pub(crate) struct Quotas(Slowly<io::Result<Vec<(SeriesName, f64)>>>);

impl Quotas {
    fn new(settings: &SensorSettings) -> Self {
        let mounts = mounts(settings);
        Self(Slowly::new("quotas", EVERY, settings.patience, move || {
            let places = places(&fs::read(&mounts)?);
            look(&places, |place, kind, id| next(Path::new(&place.device), kind, id))
        }))
    }
}

impl Sensor for Quotas {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        self.0.put(sink).map_err(|source| SensorError::Ask { call: "quotactl", source })
    }
}

/// Each device once, at the first place where it is mounted.
fn places(mounts: &[u8]) -> Vec<Place> {
    let mut found: Vec<Place> = Vec::new();
    for (_, content) in text::lines(mounts) {
        let mut fields = text::fields(content).map(text::label);
        let (Some(device), Some(mountpoint), Some(fstype)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let is_known = found.iter().any(|place| place.device == *device);
        if device.starts_with('/') && TYPES.contains(&&*fstype) && !is_known {
            let mountpoint = unescaped(&mountpoint);
            found.push(Place { device: device.into_owned(), mountpoint });
        }
    }
    found
}

/// All that has a limit, by `next`: who has a quota and whose number is the given one or the next above.
///
/// # Errors
/// Where the right to ask is missing; a file system that can't tell is passed over.
fn look(
    places: &[Place],
    next: impl Fn(&Place, c_int, u32) -> io::Result<Quota>,
) -> io::Result<Vec<(SeriesName, f64)>> {
    let mut found = Vec::new();
    for place in places {
        for (kind, kind_name) in KINDS {
            let (mut id, mut limited) = (0, None);
            for _ in 0..MAX_ASKED {
                let quota = match next(place, kind, id) {
                    Ok(quota) if quota.id >= id => quota,
                    Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
                    // No more of them, no quotas of this kind, or none at all.
                    _ => break,
                };
                let limited = limited.get_or_insert(0_usize);
                if quota.has_limit() {
                    *limited += 1;
                    if *limited <= MAX_TOLD {
                        quota.put(place, kind_name, &mut found);
                    }
                }
                let Some(after) = quota.id.checked_add(1) else { break };
                id = after;
            }
            if let Some(limited) = limited {
                let labels = [("device", &*place.device), ("mountpoint", &*place.mountpoint), ("type", kind_name)];
                found.push((SeriesName::new("veghe_quota_limited_ids", &labels), limited as f64));
            }
        }
    }
    Ok(found)
}

impl Quota {
    fn has_limit(&self) -> bool {
        [self.hard_blocks, self.soft_blocks, self.hard_files, self.soft_files].iter().any(|limit| *limit > 0)
    }

    /// A limit of 0 is none.
    fn put(&self, place: &Place, kind: &str, found: &mut Vec<(SeriesName, f64)>) {
        let id = self.id.to_string();
        let labels = [("device", &*place.device), ("id", &*id), ("mountpoint", &*place.mountpoint), ("type", kind)];
        let mut put = |metric, value| found.push((SeriesName::new(metric, &labels), value));
        put("veghe_quota_used_bytes", self.used_bytes as f64);
        put("veghe_quota_used_files", self.used_files as f64);
        let limits = [
            ("veghe_quota_soft_limit_bytes", self.soft_blocks as f64 * LIMIT_BLOCK_BYTES),
            ("veghe_quota_hard_limit_bytes", self.hard_blocks as f64 * LIMIT_BLOCK_BYTES),
            ("veghe_quota_soft_limit_files", self.soft_files as f64),
            ("veghe_quota_hard_limit_files", self.hard_files as f64),
            ("veghe_quota_bytes_grace_end_timestamp_seconds", self.bytes_grace_end_seconds as f64),
            ("veghe_quota_files_grace_end_timestamp_seconds", self.files_grace_end_seconds as f64),
        ];
        for (metric, value) in limits.into_iter().filter(|(_, value)| *value > 0.0) {
            put(metric, value);
        }
    }
}

/// The quota of `kind` on `device` whose number is `id` or the next above.
fn next(device: &Path, kind: c_int, id: u32) -> io::Result<Quota> {
    let special = CString::new(device.as_os_str().as_bytes())?;
    let command = ((GET_NEXT_QUOTA << 8) | kind.cast_unsigned() & 0xff).cast_signed();
    let mut quota = MaybeUninit::<Quota>::zeroed();
    let place: *mut c_char = quota.as_mut_ptr().cast();
    #[expect(unsafe_code, reason = "no dependency wraps quotactl(2)")]
    // SAFETY: `special` ends with a zero, `place` has room for what this command writes, and numbers of any value are
    // fine in it.
    let (result, quota) = unsafe {
        let result = libc::quotactl(command, special.as_ptr(), id.cast_signed(), place);
        (result, quota.assume_init())
    };
    if result == 0 { Ok(quota) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    const GIB_IN_BLOCKS: u64 = 1 << 20;

    fn place(device: &str) -> Place {
        Place { device: device.to_owned(), mountpoint: "/srv/Arhiva NAS".to_owned() }
    }

    fn told(found: &[(SeriesName, f64)]) -> Vec<String> {
        let line = |(name, value): &(SeriesName, f64)| {
            assert!(veghe_wire::catalogue::lookup(name.metric()).is_some(), "{}", name.metric());
            let labels: Vec<_> = name.labels().iter().map(|(name, value)| format!("{name}={value}")).collect();
            let metric = name.metric().trim_start_matches("veghe_quota_").to_owned();
            format!("{metric} {} {value}", labels.join(","))
        };
        found.iter().map(line).collect()
    }

    #[test]
    fn who_has_a_limit_is_told_by_number_and_the_others_are_passed_over() {
        let all = [
            (0, Quota { id: 0, used_bytes: 5, ..Quota::default() }),
            (
                0,
                Quota {
                    id: 1000,
                    used_bytes: 3 << 30,
                    used_files: 7,
                    soft_blocks: 2 * GIB_IN_BLOCKS,
                    hard_blocks: 4 * GIB_IN_BLOCKS,
                    bytes_grace_end_seconds: 1_800_000_000,
                    ..Quota::default()
                },
            ),
            (0, Quota { id: u32::MAX, used_files: 1, hard_files: 9, ..Quota::default() }),
            (2, Quota { id: 42, ..Quota::default() }),
        ];
        let next = |_: &Place, kind: c_int, id: u32| {
            let mut of_kind = all.iter().filter(|(of, quota)| *of == kind && quota.id >= id);
            // As the kernel says that there are no more, and that quotas of the kind are off.
            let error = if kind == 1 { Errno::SRCH } else { Errno::NOENT };
            of_kind.next().map(|(_, quota)| *quota).ok_or(error.into())
        };
        let found = look(&[place("/dev/md0")], next).expect("allowed");
        let own = |id: &str| format!("device=/dev/md0,id={id},mountpoint=/srv/Arhiva NAS,type=user");
        let all = |kind: &str| format!("device=/dev/md0,mountpoint=/srv/Arhiva NAS,type={kind}");
        let expected = [
            format!("used_bytes {} 3221225472", own("1000")),
            format!("used_files {} 7", own("1000")),
            format!("soft_limit_bytes {} 2147483648", own("1000")),
            format!("hard_limit_bytes {} 4294967296", own("1000")),
            format!("bytes_grace_end_timestamp_seconds {} 1800000000", own("1000")),
            format!("used_bytes {} 0", own("4294967295")),
            format!("used_files {} 1", own("4294967295")),
            format!("hard_limit_files {} 9", own("4294967295")),
            format!("limited_ids {} 2", all("user")),
            format!("limited_ids {} 0", all("project")),
        ];
        assert_eq!(told(&found), expected);
    }

    #[test]
    fn many_are_bounded_and_counted_and_a_kernel_that_goes_in_circles_ends() {
        let everybody = |_: &Place, kind: c_int, id: u32| match kind {
            0 if id < 2000 => Ok(Quota { id, hard_files: 1, ..Quota::default() }),
            // Never further than this.
            1 => Ok(Quota { id: 7, hard_files: 1, ..Quota::default() }),
            _ => Err(Errno::NOENT.into()),
        };
        let found = look(&[place("/dev/sda1")], everybody).expect("allowed");
        let count = |metric: &str| found.iter().filter(|(name, _)| name.metric() == metric).count();
        assert_eq!(count("veghe_quota_used_bytes"), MAX_TOLD + 1);
        let totals: Vec<f64> = found
            .iter()
            .filter(|(name, _)| name.metric() == "veghe_quota_limited_ids")
            .map(|(_, value)| *value)
            .collect();
        assert_eq!(totals, [2000.0, 1.0]);
    }

    #[test]
    fn without_the_right_to_ask_it_fails() {
        let refused = look(&[place("/dev/sda1")], |_, _, _| Err(Errno::PERM.into()));
        assert_eq!(refused.expect_err("refused").kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn local_disks_are_asked_once_each() {
        let mounts = b"proc /proc proc rw 0 0\n/dev/sda1 / ext4 rw 0 0\n/dev/sda1 /home ext4 rw 0 0\n/dev/mapper/vg-a /srv/Arhiva\\040NAS xfs rw,usrquota 0 0\nnas:/x /net nfs4 rw 0 0\ntmpfs /run tmpfs rw 0 0\nshort\n";
        let found: Vec<_> = places(mounts).into_iter().map(|place| (place.device, place.mountpoint)).collect();
        let expected = [("/dev/sda1", "/"), ("/dev/mapper/vg-a", "/srv/Arhiva NAS")];
        assert_eq!(found, expected.map(|(device, place)| (device.to_owned(), place.to_owned())));
    }

    #[test]
    fn the_kernel_takes_the_question() {
        // A file that is no block device: whatever the kernel can and we may, it says that of the question or of us.
        let error = next(Path::new("/proc/self/mounts"), 0, 0).expect_err("no device");
        let expected = [Errno::NOTBLK, Errno::PERM, Errno::NOSYS].map(Errno::raw_os_error);
        assert!(error.raw_os_error().is_some_and(|code| expected.contains(&code)), "{error}");
        assert_eq!(size_of::<Quota>(), 72);
    }
}
