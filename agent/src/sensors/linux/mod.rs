//! What Linux tells: one file per source, nearly all of it below `/proc` and `/sys`; and what only runs there so far.

use std::fs::File;
use std::io;
use std::path::Path;

pub(crate) use self::class::is_numbered;
use super::{Entry, Roots, Sensor, SensorError, SensorSettings, Sink, asked, glob, named_processes, slowly};

mod arp;
pub mod backups;
mod bonding;
mod btrfs;
mod btrfs_devices;
mod capabilities;
mod certificates;
mod class;
mod conntrack;
mod containers;
mod cpu;
mod cpufreq;
mod dbus;
mod diskstats;
mod dmi;
mod edac;
mod entropy;
pub mod escl;
mod ethtool;
mod ext4;
mod fibrechannel;
mod filefd;
mod filesystem;
pub(crate) mod found;
mod http;
mod hwmon;
mod infiniband;
mod ipvs;
mod loadavg;
pub mod logs;
mod lvm;
mod mdadm;
pub(crate) mod meminfo;
pub mod mqtt_json;
mod netclass;
mod netdev;
mod netstat;
mod nfs;
mod nfs_lines;
mod nfsd;
pub mod nut;
mod nvme;
mod os;
mod polled;
mod ports;
mod powersupply;
mod pressure;
pub(crate) mod process;
mod processes;
pub mod programs;
mod quotas;
mod rapl;
pub mod redfish;
pub mod repositories;
pub(crate) mod run;
mod sane;
mod schedstat;
pub mod scrapes;
#[cfg(test)]
#[path = "../../../tests/script/mod.rs"]
mod script;
mod selinux;
pub mod settings;
pub mod smart;
pub mod snmp;
mod sockstat;
mod softnet;
mod source;
mod stat;
pub mod statsd;
pub mod systemd;
pub mod tape;
mod tapestats;
mod tcpstat;
mod text;
mod textfile;
mod thermal_zone;
mod time;
mod timesync;
mod timex;
mod tree;
mod udp_queues;
mod uname;
mod updates;
mod vmstat;
mod watchdog;
mod xfs;
mod zfs;

/// Every sensor, in the order of their names.
pub(super) const ENTRIES: &[Entry] = &[
    arp::ENTRY,
    backups::ENTRY,
    bonding::ENTRY,
    btrfs::ENTRY,
    certificates::ENTRY,
    conntrack::ENTRY,
    containers::ENTRY,
    cpu::ENTRY,
    cpufreq::ENTRY,
    diskstats::ENTRY,
    dmi::ENTRY,
    edac::ENTRY,
    entropy::ENTRY,
    escl::ENTRY,
    ethtool::ENTRY,
    fibrechannel::ENTRY,
    filefd::ENTRY,
    filesystem::ENTRY,
    hwmon::ENTRY,
    infiniband::ENTRY,
    ipvs::ENTRY,
    loadavg::ENTRY,
    logs::ENTRY,
    lvm::ENTRY,
    mdadm::ENTRY,
    meminfo::ENTRY,
    mqtt_json::ENTRY,
    named_processes::ENTRY,
    netclass::ENTRY,
    netdev::ENTRY,
    netstat::ENTRY,
    nfs::ENTRY,
    nfsd::ENTRY,
    nut::ENTRY,
    nvme::ENTRY,
    os::ENTRY,
    ports::ENTRY,
    powersupply::ENTRY,
    pressure::ENTRY,
    processes::ENTRY,
    programs::ENTRY,
    quotas::ENTRY,
    rapl::ENTRY,
    redfish::ENTRY,
    sane::ENTRY,
    schedstat::ENTRY,
    scrapes::ENTRY,
    selinux::ENTRY,
    smart::ENTRY,
    snmp::ENTRY,
    sockstat::ENTRY,
    softnet::ENTRY,
    stat::ENTRY,
    statsd::ENTRY,
    systemd::ENTRY,
    tape::ENTRY,
    tapestats::ENTRY,
    tcpstat::ENTRY,
    textfile::ENTRY,
    thermal_zone::ENTRY,
    time::ENTRY,
    timesync::ENTRY,
    timex::ENTRY,
    udp_queues::ENTRY,
    uname::ENTRY,
    updates::ENTRY,
    vmstat::ENTRY,
    watchdog::ENTRY,
    xfs::ENTRY,
    zfs::ENTRY,
];

/// What would let this process read `path`, for a person.
pub(crate) fn right_to_read(path: &Path) -> String {
    format!("{}: CAP_DAC_READ_SEARCH, or a group that may read it", path.display())
}

/// Whether `path` is there, but may not be read.
pub(crate) fn unreadable(path: &Path) -> bool {
    File::open(path).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}
