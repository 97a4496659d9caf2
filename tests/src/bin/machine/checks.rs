//! The checks, in the order in which they run: each leaves the machine so that the next finds what it needs.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};
use veghe_tests::process::wait_for;

use crate::host::shell;
use crate::inside::{Machine, WORK};
use crate::{clock, shares, unit};

/// The agent's tests that run in the machine.
pub(crate) const TESTS: [&str; 5] = ["drives_and_volumes", "hung_mount", "node_exporter", "quotas", "timesync"];

/// A name, what it shows, and how.
pub(crate) struct Check {
    pub(crate) name: &'static str,
    pub(crate) shows: &'static str,
    /// What it found.
    pub(crate) run: fn(&Machine) -> anyhow::Result<String>,
}

pub(crate) const ALL: &[Check] = &[
    Check { name: "devices", shows: "arrays, file systems, pools, a bond, sensors and shares are made", run: devices },
    Check {
        name: "node_exporter",
        shows: "every series of the default set equals node_exporter's",
        run: |machine| beside(machine, "node_exporter"),
    },
    Check { name: "degraded", shows: "the same with a failed disk in an array and in a bond", run: degraded },
    Check { name: "recovering", shows: "the same while the array is rebuilt", run: recovering },
    Check {
        name: "quotas",
        shows: "quotas of ext4 and XFS are told as the kernel keeps them",
        run: |machine| {
            let name = "a_users_quota_is_told_as_the_kernel_keeps_it";
            machine.test("quotas", "quotas", name, "quotas of mkfs.xfs were read")
        },
    },
    Check {
        name: "hung_mount",
        shows: "a stuck FUSE mount leaves all others on time",
        run: |machine| {
            let name = "a_stuck_file_system_and_a_silent_server_leave_all_others_on_time";
            machine.test("hung_mount", "hung_mount", name, "test result: ok")
        },
    },
    Check {
        name: "broken_ext4",
        shows: "an ext4 that the kernel stopped writing to is told, and its errors until it is repaired",
        run: |machine| {
            let name = "a_file_system_that_the_kernel_made_read_only_is_told_as_such";
            machine.test("broken_ext4", "hung_mount", name, "test result: ok")
        },
    },
    Check {
        name: "drives",
        shows: "SMART of NVMe and SATA drives is what smartctl says",
        run: |machine| {
            let name = "drives_tell_what_smartctl_says_of_them";
            let told = machine.test("drives", "drives_and_volumes", name, "of 6 drives are smartctl's")?;
            ensure!(!told.contains(", 0 of"), "{told}");
            Ok(told)
        },
    },
    Check {
        name: "volumes",
        shows: "a thin pool, its volume and a snapshot are told as lvs, vgs and pvs do",
        run: |machine| {
            let name = "volumes_tell_what_lvs_vgs_and_pvs_say_of_them";
            machine.test("volumes", "drives_and_volumes", name, "with 1 thin pools and 1 snapshots")
        },
    },
    Check {
        name: "unit",
        shows: "the packaged unit runs without privileges, and with those it asks for",
        run: unit::unit,
    },
    Check { name: "timesyncd", shows: "when systemd-timesyncd last heard a server is told", run: clock::timesyncd },
    Check { name: "nfs4", shows: "a hot folder over the kernel's NFS 4.2, and its server silent", run: shares::nfs4 },
    Check { name: "nfs3", shows: "the same over NFS 3", run: shares::nfs3 },
    Check { name: "cifs", shows: "the same over the kernel's SMB 3.1.1 and Samba", run: shares::cifs },
];

fn devices(_: &Machine) -> anyhow::Result<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bin/machine/devices.sh");
    // No pipe: servers that it starts would keep it open.
    let log = Path::new(WORK).join("devices.log");
    let said = File::create(&log)?;
    let made = Command::new("bash").arg("-eux").arg(script).stdout(said.try_clone()?).stderr(said).status()?;
    let said = fs::read_to_string(&log)?;
    ensure!(made.success(), "{}", said.lines().rev().take(8).collect::<Vec<_>>().join(" <- "));
    Ok(fs::read_to_string("/run/devices")?.trim().replace('\n', ", "))
}

fn beside(machine: &Machine, log: &str) -> anyhow::Result<String> {
    machine.test(log, "node_exporter", "every_series_of_this_host_is_that_of_node_exporter", "families, 0 differ")
}

fn degraded(machine: &Machine) -> anyhow::Result<String> {
    shell(
        "mdadm --quiet /dev/md0 --fail /dev/sdb; ip link set dev $(cut -d' ' -f1 /sys/class/net/bond0/bonding/slaves) down",
    )?;
    let state = fs::read_to_string("/sys/block/md0/md/degraded")?;
    ensure!(state.trim() == "1", "md0 is not degraded: {state}");
    beside(machine, "degraded")
}

fn recovering(machine: &Machine) -> anyhow::Result<String> {
    // Slowly, so that it is still at it when it is looked at.
    shell(
        "echo 2000 > /sys/block/md0/md/sync_speed_max; mdadm --quiet /dev/md0 --remove /dev/sdb; mdadm --zero-superblock /dev/sdb; mdadm --quiet /dev/md0 --add /dev/sdb",
    )?;
    let action = || fs::read_to_string("/sys/block/md0/md/sync_action").context("sync_action");
    wait_for("the array is rebuilt", || Ok((action()?.trim() == "recover").then_some(())))?;
    let told = beside(machine, "recovering")?;
    ensure!(action()?.trim() == "recover", "it was rebuilt before the end");
    shell("echo 2000000 > /sys/block/md0/md/sync_speed_max")?;
    wait_for("the array is whole", || Ok((action()?.trim() == "idle").then_some(())))?;
    Ok(told)
}
