//! What btrfs counts of each of its devices, asked of mounted file systems by ioctl(2): `/sys` has none of it in older kernels.
//!
//! Takes no right but that to open the place where the file system is mounted.

use std::io;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::ioctl::{Getter, Opcode, Updater, ioctl, opcode};

use super::filesystem::unescaped;
use super::text;

/// The group of btrfs' calls; their numbers and structures are those of linux/btrfs.h.
const GROUP: u8 = 0x94;
/// `struct btrfs_ioctl_fs_info_args`, whose first words are the greatest number of a device, how many there are, and the UUID.
type FsInfo = [u64; 128];
/// `struct btrfs_ioctl_dev_info_args`: number, UUID in two words, bytes allotted, bytes, then a path in the last 1,024 bytes.
type DevInfo = [u64; 512];
/// `struct btrfs_ioctl_get_dev_stats`: number, how many counters there is room for, flags, counters.
type DevStats = [u64; 129];
const FS_INFO: Opcode = opcode::read::<FsInfo>(GROUP, 31);
const DEV_INFO: Opcode = opcode::read_write::<DevInfo>(GROUP, 30);
const DEV_STATS: Opcode = opcode::read_write::<DevStats>(GROUP, 52);
const PATH_WORDS: usize = 128;
/// Numbers that are tried at all, as those of devices that were taken away stay free.
const MAX_NUMBER: u64 = 4096;

/// The counters of errors, in the kernel's order.
pub(super) const ERRORS: [&str; 5] = ["write", "read", "flush", "corruption", "generation"];

/// One device of a file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Device {
    /// Without its directory, for example `sda`.
    pub(super) name: String,
    pub(super) uuid: String,
    pub(super) bytes: u64,
    /// Allotted to data, metadata or system.
    pub(super) allotted_bytes: u64,
    /// As in [`ERRORS`].
    pub(super) errors: [u64; ERRORS.len()],
}

/// By its UUID, the devices of every file system of this kind that is mounted as `mounts` (`/proc/self/mounts`) has it. One that
/// can't be asked is left out.
pub(super) fn of_mounted(mounts: &[u8]) -> Vec<(String, Vec<Device>)> {
    let mut found: Vec<(String, Vec<Device>)> = Vec::new();
    let mut asked: Vec<&[u8]> = Vec::new();
    for (_, line) in text::lines(mounts) {
        let mut fields = text::fields(line);
        let (Some(device), Some(place), Some(b"btrfs")) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        if asked.contains(&device) {
            continue;
        }
        // Another place may be open to us where this one is not.
        if let Ok((uuid, devices)) = devices(Path::new(&unescaped(&text::label(place)))) {
            asked.push(device);
            if !found.iter().any(|(known, _)| *known == uuid) {
                found.push((uuid, devices));
            }
        }
    }
    found
}

#[expect(unsafe_code, reason = "no dependency wraps these calls of ioctl(2)")]
fn devices(place: &Path) -> io::Result<(String, Vec<Device>)> {
    let directory = rustix::fs::open(place, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    // SAFETY: the kernel writes a `btrfs_ioctl_fs_info_args`, which has this size and for which all bits are values.
    let info: FsInfo = unsafe { ioctl(&directory, Getter::<FS_INFO, FsInfo>::new()) }?;
    let [greatest, count, uuid @ ..] = info;
    let mut found = Vec::new();
    for number in 0..=greatest.min(MAX_NUMBER) {
        if found.len() as u64 == count {
            break;
        }
        let mut of_device: DevInfo = [0; 512];
        of_device[0] = number;
        // SAFETY: the kernel reads and writes a `btrfs_ioctl_dev_info_args`, which has this size and takes all bits.
        match unsafe { ioctl(&directory, Updater::<DEV_INFO, DevInfo>::new(&mut of_device)) } {
            Err(Errno::NODEV) => continue,
            other => other?,
        }
        let mut counted: DevStats = [0; 129];
        counted[..2].copy_from_slice(&[number, ERRORS.len() as u64]);
        // SAFETY: the kernel reads and writes a `btrfs_ioctl_get_dev_stats`, which has this size and takes all bits.
        unsafe { ioctl(&directory, Updater::<DEV_STATS, DevStats>::new(&mut counted)) }?;
        found.push(device(&of_device, &counted));
    }
    Ok((dashed([uuid[0], uuid[1]]), found))
}

fn device(told: &DevInfo, counted: &DevStats) -> Device {
    let [_, uuid_begin, uuid_end, allotted_bytes, bytes, ..] = *told;
    let [_, _, _, write, read, flush, corruption, generation, ..] = *counted;
    let path: Vec<u8> = told[told.len() - PATH_WORDS..].iter().flat_map(|word| word.to_ne_bytes()).collect();
    let path = text::label(path.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned();
    let name = path.rsplit('/').next().unwrap_or_default().to_owned();
    let errors = [write, read, flush, corruption, generation];
    Device { name, uuid: dashed([uuid_begin, uuid_end]), bytes, allotted_bytes, errors }
}

/// A UUID in memory as it is written.
fn dashed(words: [u64; 2]) -> String {
    let mut text = String::with_capacity(36);
    for (place, byte) in words.iter().flat_map(|word| word.to_ne_bytes()).enumerate() {
        if [4, 6, 8, 10].contains(&place) {
            text.push('-');
        }
        text.extend([byte >> 4, byte & 15].map(|digit| char::from_digit(digit.into(), 16).unwrap_or_default()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words<const N: usize>(parts: &[(usize, &[u8])]) -> [u64; N] {
        let mut bytes = vec![0; N * 8];
        for (at, part) in parts {
            bytes[*at..at + part.len()].copy_from_slice(part);
        }
        let mut words = [0; N];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_ne_bytes(bytes.try_into().expect("eight"));
        }
        words
    }

    #[test]
    fn a_device_is_read_from_where_the_kernel_puts_it() {
        let uuid = [0xfe, 0xa4, 0x23, 0xfa, 0x27, 0xb2, 0x40, 0x67, 0x9c, 0x4b, 0x09, 0x15, 0x6f, 0x42, 0xff, 0x3c];
        let told: DevInfo = words(&[
            (8, &uuid),
            (24, &192_u64.to_ne_bytes()),
            (32, &600_u64.to_ne_bytes()),
            (3072, b"/dev/mapper/vg-sdc\0old"),
        ]);
        let counted: DevStats = words(&[(24, &7_u64.to_ne_bytes()), (56, &9_u64.to_ne_bytes())]);
        let expected = Device {
            name: "vg-sdc".to_owned(),
            uuid: "fea423fa-27b2-4067-9c4b-09156f42ff3c".to_owned(),
            bytes: 600,
            allotted_bytes: 192,
            errors: [7, 0, 0, 0, 9],
        };
        assert_eq!(device(&told, &counted), expected);
    }

    #[test]
    fn what_is_no_btrfs_or_can_not_be_asked_is_left_out() {
        let mounts = b"/dev/sda / ext4 rw 0 0\n/dev/sdb /nowhere\\040at\\040all btrfs rw 0 0\n/dev/sdc /proc btrfs rw 0 0\nshort\n";
        assert_eq!(of_mounted(mounts), []);
    }
}
