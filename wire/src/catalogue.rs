//! The catalogue: every metric that agent or collector makes, with its kind, unit, help and labels.
//!
//! Names and helps of host metrics are `node_exporter`'s. `instance` and `job` tell where a series comes from and are not
//! listed. What this module deliberately does not do: hold values.

use std::borrow::Cow;

mod devices;
mod digitization;
mod host;
mod machine;
mod network;
mod snmp;
mod storage;
mod xfs;

/// How a metric's values behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Grows, and begins at zero again when its source is started anew.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counters by bucket: the series are `<name>_bucket`, `<name>_sum` and `<name>_count`.
    Histogram,
    /// Nobody says; `node_exporter` has some of these.
    Untyped,
}

impl Kind {
    /// The word in Prometheus' text format.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Untyped => "untyped",
        }
    }
}

/// What one is one of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A plain number: things counted, yes (1) or no (0).
    One,
    /// Seconds; of a time stamp, since the Unix epoch.
    Seconds,
    /// Bytes.
    Bytes,
    /// A share of 1.
    Ratio,
    /// Times a second.
    Hertz,
    /// Turns a minute.
    Rpm,
    /// Bytes a second.
    BytesPerSecond,
    /// Degrees Celsius.
    Celsius,
    /// Volts.
    Volts,
    /// Amperes.
    Amperes,
    /// Watts.
    Watts,
    /// Joules.
    Joules,
}

/// One metric, or a family of metrics that the kernel names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// The name; a `*` in it stands for whatever the source calls it.
    pub name: &'static str,
    /// How its values behave.
    pub kind: Kind,
    /// What they count.
    pub unit: Unit,
    /// What it tells; a `*` in it stands for the same as in the name.
    pub help: &'static str,
    /// Labels that tell its series apart, ascending.
    pub labels: &'static [&'static str],
}

impl Metric {
    /// The help for the metric `name`, which this one stands for.
    pub fn help_for(&self, name: &str) -> Cow<'static, str> {
        match (self.wildcard(name), self.name.contains('*')) {
            (Some(wildcard), true) => Cow::Owned(self.help.replacen('*', wildcard, 1)),
            _ => Cow::Borrowed(self.help),
        }
    }

    /// What the `*` stands for in `name`: empty for a name without one, `None` if the two do not match.
    fn wildcard<'a>(&self, name: &'a str) -> Option<&'a str> {
        match self.name.split_once('*') {
            Some((prefix, suffix)) => {
                name.strip_prefix(prefix)?.strip_suffix(suffix).filter(|wildcard| !wildcard.is_empty())
            }
            None => (self.name == name).then_some(""),
        }
    }
}

/// All lists; a name is in one of them.
const LISTS: [&[Metric]; 9] = [
    METRICS,
    devices::METRICS,
    digitization::METRICS,
    host::METRICS,
    machine::METRICS,
    network::METRICS,
    snmp::METRICS,
    storage::METRICS,
    xfs::METRICS,
];

/// The entry for the metric, or for a series of the histogram, called `name`.
pub fn lookup(name: &str) -> Option<&'static Metric> {
    find(name).or_else(|| {
        let stem = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix))?;
        find(stem).filter(|metric| metric.kind == Kind::Histogram)
    })
}

/// An exact name in any list comes before a pattern.
fn find(name: &str) -> Option<&'static Metric> {
    let parts = LISTS.map(|list| list.split_at(list.partition_point(|metric| !metric.name.contains('*'))));
    let exact = |(names, _): &(&'static [Metric], _)| {
        let position = names.binary_search_by(|metric| metric.name.cmp(name)).ok()?;
        names.get(position)
    };
    let pattern =
        |(_, patterns): &(_, &'static [Metric])| patterns.iter().find(|metric| metric.wildcard(name).is_some());
    parts.iter().find_map(exact).or_else(|| parts.iter().find_map(pattern))
}

const fn metric(
    kind: Kind,
    name: &'static str,
    unit: Unit,
    help: &'static str,
    labels: &'static [&'static str],
) -> Metric {
    Metric { name, kind, unit, help, labels }
}

const fn counter(name: &'static str, unit: Unit, help: &'static str, labels: &'static [&'static str]) -> Metric {
    metric(Kind::Counter, name, unit, help, labels)
}

const fn gauge(name: &'static str, unit: Unit, help: &'static str, labels: &'static [&'static str]) -> Metric {
    metric(Kind::Gauge, name, unit, help, labels)
}

const fn histogram(name: &'static str, unit: Unit, help: &'static str, labels: &'static [&'static str]) -> Metric {
    metric(Kind::Histogram, name, unit, help, labels)
}

const fn untyped(name: &'static str, unit: Unit, help: &'static str, labels: &'static [&'static str]) -> Metric {
    metric(Kind::Untyped, name, unit, help, labels)
}

/// Ascending by name; patterns after all names, the narrower first.
const METRICS: &[Metric] = &[
    gauge("ALERTS", Unit::One, "1 for each alert that is pending or firing.", &["alertname", "alertstate"]),
    gauge(
        "ALERTS_FOR_STATE",
        Unit::Seconds,
        "Since when an alert is active, in seconds since the Unix epoch.",
        &["alertname"],
    ),
    gauge("apt_package_cache_timestamp_seconds", Unit::Seconds, "Apt update last run time.", &[]),
    gauge("apt_upgrades_pending", Unit::One, "Apt packages pending updates by origin.", &["arch", "origin"]),
    gauge("digitization_damaged_objects", Unit::One, "Objects by storage that are not as they were.", &["storage"]),
    gauge(
        "digitization_first_pass_ratio",
        Unit::Ratio,
        "Share of units accepted at the first look, of the last 20 working days.",
        &[],
    ),
    gauge("digitization_fixity_checks", Unit::One, "Fixity checks by storage and outcome.", &["outcome", "storage"]),
    gauge(
        "digitization_forecast_finish_timestamp_seconds",
        Unit::Seconds,
        "The day on which everything is back on its shelf, by how likely it is sooner.",
        &["quantile"],
    ),
    gauge("digitization_images", Unit::One, "Images of the units by how far they are.", &["measure"]),
    gauge("digitization_incomplete_files", Unit::One, "Files that were not whole.", &[]),
    gauge(
        "digitization_open_outlier_units",
        Unit::One,
        "Units whose images do not fit their leaves and whose paper is not back on the shelf.",
        &[],
    ),
    gauge("digitization_outlier_units", Unit::One, "Units whose images do not fit their leaves.", &[]),
    gauge("digitization_overdue_units", Unit::One, "Units whose paper is overdue.", &[]),
    counter(
        "digitization_person_fields_total",
        Unit::One,
        "Fields of events that named a person, by what became of them.",
        &["outcome"],
    ),
    gauge("digitization_quarantined_events", Unit::One, "Events that wait for their unit.", &[]),
    gauge(
        "digitization_rework_ratio",
        Unit::Ratio,
        "Images made again for each new one, of the last 20 working days.",
        &[],
    ),
    gauge(
        "digitization_schedule_ahead_working_days",
        Unit::One,
        "Working days ahead of the plan, below 0 behind it; absent without a plan.",
        &[],
    ),
    gauge(
        "digitization_schedule_performance_ratio",
        Unit::Ratio,
        "Working days of the plan that were earned for each that is gone, SPI(t).",
        &[],
    ),
    gauge("digitization_sheets", Unit::One, "Sheets of the units by how far they are.", &["measure"]),
    gauge("digitization_shelf_metres", Unit::One, "Shelf length by how far it is.", &["measure"]),
    gauge("digitization_stage_units", Unit::One, "Units by stage and what they do there.", &["doing", "stage"]),
    gauge(
        "digitization_station_idle_seconds",
        Unit::Seconds,
        "Time without an image of an expected station within its shift; 0 outside.",
        &["station"],
    ),
    gauge("digitization_station_images", Unit::One, "New images of today by station.", &["station"]),
    gauge(
        "digitization_station_rescanned_images",
        Unit::One,
        "Images made again on the last 20 working days by station.",
        &["station"],
    ),
    gauge(
        "digitization_storage_full_timestamp_seconds",
        Unit::Seconds,
        "The day on which a storage is full before everything is scanned, by how likely it is sooner.",
        &["quantile", "storage"],
    ),
    gauge(
        "digitization_storage_short_bytes",
        Unit::Bytes,
        "Bytes that a storage lacks for everything that is still to be scanned.",
        &["storage"],
    ),
    gauge(
        "digitization_storage_units_left",
        Unit::One,
        "Units still to be scanned that a storage holds.",
        &["storage"],
    ),
    gauge("digitization_units", Unit::One, "Units by how far they are.", &["measure"]),
    gauge(
        "namedprocess_namegroup_memory_bytes",
        Unit::Bytes,
        "number of bytes of memory in use",
        &["groupname", "memtype"],
    ),
    gauge("namedprocess_namegroup_num_procs", Unit::One, "number of processes in this group", &["groupname"]),
    gauge(
        "namedprocess_namegroup_oldest_start_time_seconds",
        Unit::Seconds,
        "start time in seconds since 1970/01/01 of oldest process in group",
        &["groupname"],
    ),
    gauge("node_boot_time_seconds", Unit::Seconds, "Node boot time, in unixtime.", &[]),
    counter("node_context_switches_total", Unit::One, "Total number of context switches.", &[]),
    counter(
        "node_cpu_core_throttles_total",
        Unit::One,
        "Number of times this CPU core has been throttled.",
        &["core", "package"],
    ),
    counter(
        "node_cpu_guest_seconds_total",
        Unit::Seconds,
        "Seconds the CPUs spent in guests (VMs) for each mode.",
        &["cpu", "mode"],
    ),
    gauge(
        "node_cpu_isolated",
        Unit::One,
        "Whether each core is isolated, information from /sys/devices/system/cpu/isolated.",
        &["cpu"],
    ),
    counter(
        "node_cpu_package_throttles_total",
        Unit::One,
        "Number of times this CPU package has been throttled.",
        &["package"],
    ),
    counter("node_cpu_seconds_total", Unit::Seconds, "Seconds the CPUs spent in each mode.", &["cpu", "mode"]),
    gauge("node_disk_ata_rotation_rate_rpm", Unit::Rpm, "ATA disk rotation rate in RPMs (0 for SSDs).", &["device"]),
    gauge("node_disk_ata_write_cache", Unit::One, "ATA disk has a write cache.", &["device"]),
    gauge("node_disk_ata_write_cache_enabled", Unit::One, "ATA disk has its write cache enabled.", &["device"]),
    gauge(
        "node_disk_device_mapper_info",
        Unit::One,
        "Info about disk device mapper.",
        &["device", "lv_layer", "lv_name", "name", "uuid", "vg_name"],
    ),
    counter(
        "node_disk_discard_time_seconds_total",
        Unit::Seconds,
        "This is the total number of seconds spent by all discards.",
        &["device"],
    ),
    counter(
        "node_disk_discarded_sectors_total",
        Unit::One,
        "The total number of sectors discarded successfully.",
        &["device"],
    ),
    counter(
        "node_disk_discards_completed_total",
        Unit::One,
        "The total number of discards completed successfully.",
        &["device"],
    ),
    counter("node_disk_discards_merged_total", Unit::One, "The total number of discards merged.", &["device"]),
    gauge(
        "node_disk_filesystem_info",
        Unit::One,
        "Info about disk filesystem.",
        &["device", "type", "usage", "uuid", "version"],
    ),
    counter(
        "node_disk_flush_requests_time_seconds_total",
        Unit::Seconds,
        "This is the total number of seconds spent by all flush requests.",
        &["device"],
    ),
    counter(
        "node_disk_flush_requests_total",
        Unit::One,
        "The total number of flush requests completed successfully",
        &["device"],
    ),
    gauge(
        "node_disk_info",
        Unit::One,
        "Info of /sys/block/<block_device>.",
        &["device", "major", "minor", "model", "path", "revision", "serial", "wwn"],
    ),
    gauge("node_disk_io_now", Unit::One, "The number of I/Os currently in progress.", &["device"]),
    counter("node_disk_io_time_seconds_total", Unit::Seconds, "Total seconds spent doing I/Os.", &["device"]),
    counter(
        "node_disk_io_time_weighted_seconds_total",
        Unit::Seconds,
        "The weighted # of seconds spent doing I/Os.",
        &["device"],
    ),
    counter("node_disk_read_bytes_total", Unit::Bytes, "The total number of bytes read successfully.", &["device"]),
    counter(
        "node_disk_read_time_seconds_total",
        Unit::Seconds,
        "The total number of seconds spent by all reads.",
        &["device"],
    ),
    counter(
        "node_disk_reads_completed_total",
        Unit::One,
        "The total number of reads completed successfully.",
        &["device"],
    ),
    counter("node_disk_reads_merged_total", Unit::One, "The total number of reads merged.", &["device"]),
    counter(
        "node_disk_write_time_seconds_total",
        Unit::Seconds,
        "This is the total number of seconds spent by all writes.",
        &["device"],
    ),
    counter(
        "node_disk_writes_completed_total",
        Unit::One,
        "The total number of writes completed successfully.",
        &["device"],
    ),
    counter("node_disk_writes_merged_total", Unit::One, "The number of writes merged.", &["device"]),
    counter(
        "node_disk_written_bytes_total",
        Unit::Bytes,
        "The total number of bytes written successfully.",
        &["device"],
    ),
    gauge(
        "node_filesystem_avail_bytes",
        Unit::Bytes,
        "Filesystem space available to non-root users in bytes.",
        &["device", "fstype", "mountpoint"],
    ),
    gauge(
        "node_filesystem_device_error",
        Unit::One,
        "Whether an error occurred while getting statistics for the given device.",
        &["device", "fstype", "mountpoint"],
    ),
    gauge("node_filesystem_files", Unit::One, "Filesystem total file nodes.", &["device", "fstype", "mountpoint"]),
    gauge(
        "node_filesystem_files_free",
        Unit::One,
        "Filesystem total free file nodes.",
        &["device", "fstype", "mountpoint"],
    ),
    gauge(
        "node_filesystem_free_bytes",
        Unit::Bytes,
        "Filesystem free space in bytes.",
        &["device", "fstype", "mountpoint"],
    ),
    gauge("node_filesystem_readonly", Unit::One, "Filesystem read-only status.", &["device", "fstype", "mountpoint"]),
    gauge("node_filesystem_size_bytes", Unit::Bytes, "Filesystem size in bytes.", &["device", "fstype", "mountpoint"]),
    counter("node_forks_total", Unit::One, "Total number of forks.", &[]),
    counter("node_intr_total", Unit::One, "Total number of interrupts serviced.", &[]),
    gauge("node_load1", Unit::One, "1m load average.", &[]),
    gauge("node_load15", Unit::One, "15m load average.", &[]),
    gauge("node_load5", Unit::One, "5m load average.", &[]),
    counter(
        "node_pressure_cpu_waiting_seconds_total",
        Unit::Seconds,
        "Total time in seconds that processes have waited for CPU time",
        &[],
    ),
    counter(
        "node_pressure_io_stalled_seconds_total",
        Unit::Seconds,
        "Total time in seconds no process could make progress due to IO congestion",
        &[],
    ),
    counter(
        "node_pressure_io_waiting_seconds_total",
        Unit::Seconds,
        "Total time in seconds that processes have waited due to IO congestion",
        &[],
    ),
    counter(
        "node_pressure_memory_stalled_seconds_total",
        Unit::Seconds,
        "Total time in seconds no process could make progress due to memory congestion",
        &[],
    ),
    counter(
        "node_pressure_memory_waiting_seconds_total",
        Unit::Seconds,
        "Total time in seconds that processes have waited for memory",
        &[],
    ),
    gauge("node_procs_blocked", Unit::One, "Number of processes blocked waiting for I/O to complete.", &[]),
    gauge("node_procs_running", Unit::One, "Number of processes in runnable state.", &[]),
    gauge("node_reboot_required", Unit::One, "Node reboot is required for software updates.", &[]),
    gauge(
        "node_time_clocksource_available_info",
        Unit::One,
        "Available clocksources read from '/sys/devices/system/clocksource'.",
        &["clocksource", "device"],
    ),
    gauge(
        "node_time_clocksource_current_info",
        Unit::One,
        "Current clocksource read from '/sys/devices/system/clocksource'.",
        &["clocksource", "device"],
    ),
    gauge("node_time_seconds", Unit::Seconds, "System time in seconds since epoch (1970).", &[]),
    gauge("node_time_zone_offset_seconds", Unit::Seconds, "System time zone offset in seconds.", &["time_zone"]),
    gauge("node_timex_estimated_error_seconds", Unit::Seconds, "Estimated error in seconds.", &[]),
    gauge("node_timex_frequency_adjustment_ratio", Unit::Ratio, "Local clock frequency adjustment.", &[]),
    gauge("node_timex_loop_time_constant", Unit::One, "Phase-locked loop time constant.", &[]),
    gauge("node_timex_maxerror_seconds", Unit::Seconds, "Maximum error in seconds.", &[]),
    gauge("node_timex_offset_seconds", Unit::Seconds, "Time offset in between local system and reference clock.", &[]),
    counter("node_timex_pps_calibration_total", Unit::One, "Pulse per second count of calibration intervals.", &[]),
    counter("node_timex_pps_error_total", Unit::One, "Pulse per second count of calibration errors.", &[]),
    gauge("node_timex_pps_frequency_hertz", Unit::Hertz, "Pulse per second frequency.", &[]),
    gauge("node_timex_pps_jitter_seconds", Unit::Seconds, "Pulse per second jitter.", &[]),
    counter("node_timex_pps_jitter_total", Unit::One, "Pulse per second count of jitter limit exceeded events.", &[]),
    gauge("node_timex_pps_shift_seconds", Unit::Seconds, "Pulse per second interval duration.", &[]),
    counter(
        "node_timex_pps_stability_exceeded_total",
        Unit::One,
        "Pulse per second count of stability limit exceeded events.",
        &[],
    ),
    gauge(
        "node_timex_pps_stability_hertz",
        Unit::Hertz,
        "Pulse per second stability, average of recent frequency changes.",
        &[],
    ),
    gauge("node_timex_status", Unit::One, "Value of the status array bits.", &[]),
    gauge("node_timex_sync_status", Unit::One, "Is clock synchronized to a reliable server (1 = yes, 0 = no).", &[]),
    gauge("node_timex_tai_offset_seconds", Unit::Seconds, "International Atomic Time (TAI) offset.", &[]),
    gauge("node_timex_tick_seconds", Unit::Seconds, "Seconds between clock ticks.", &[]),
    gauge(
        "node_uname_info",
        Unit::One,
        "Labeled system information as provided by the uname system call.",
        &["domainname", "machine", "nodename", "release", "sysname", "version"],
    ),
    counter("process_cpu_seconds_total", Unit::Seconds, "Total user and system CPU time spent in seconds.", &[]),
    gauge("process_max_fds", Unit::One, "Maximum number of open file descriptors.", &[]),
    gauge("process_open_fds", Unit::One, "Number of open file descriptors.", &[]),
    gauge("process_resident_memory_bytes", Unit::Bytes, "Resident memory size in bytes.", &[]),
    gauge("process_start_time_seconds", Unit::Seconds, "Start time of the process since unix epoch in seconds.", &[]),
    gauge("process_virtual_memory_bytes", Unit::Bytes, "Virtual memory size in bytes.", &[]),
    counter(
        "prometheus_remote_storage_bytes_total",
        Unit::Bytes,
        "The total number of bytes of samples sent by the queue after compression.",
        &["remote_name", "url"],
    ),
    gauge(
        "prometheus_remote_storage_queue_highest_sent_timestamp_seconds",
        Unit::Seconds,
        "Highest timestamp successfully sent by this queue, seconds since epoch.",
        &["remote_name", "url"],
    ),
    counter(
        "prometheus_remote_storage_samples_dropped_total",
        Unit::One,
        "Total number of samples which were dropped before being sent via remote write, by reason.",
        &["reason", "remote_name", "url"],
    ),
    counter(
        "prometheus_remote_storage_samples_failed_total",
        Unit::One,
        "Total number of samples which failed on send to remote storage, non-recoverable errors.",
        &["remote_name", "url"],
    ),
    gauge(
        "prometheus_remote_storage_samples_pending",
        Unit::One,
        "The number of samples pending in the queue to be sent to the remote storage.",
        &["remote_name", "url"],
    ),
    counter(
        "prometheus_remote_storage_samples_retried_total",
        Unit::One,
        "Total number of samples which failed on send to remote storage but were retried because the send error was recoverable.",
        &["remote_name", "url"],
    ),
    counter(
        "prometheus_remote_storage_samples_total",
        Unit::One,
        "Total number of samples sent to remote storage.",
        &["remote_name", "url"],
    ),
    histogram(
        "prometheus_remote_storage_sent_batch_duration_seconds",
        Unit::Seconds,
        "Duration of send calls to the remote storage.",
        &["remote_name", "url"],
    ),
    gauge(
        "prometheus_remote_storage_shards",
        Unit::One,
        "The number of shards used for parallel sending to the remote storage.",
        &["remote_name", "url"],
    ),
    gauge(
        "redfish_chassis_fan_health",
        Unit::One,
        "Health of a fan: 1 (OK), 2 (Warning), 3 (Critical).",
        &["chassis_id", "fan", "fan_id", "fan_unit", "resource"],
    ),
    gauge(
        "redfish_chassis_fan_rpm",
        Unit::One,
        "Turns a minute of a fan, or percent where `fan_unit` says so.",
        &["chassis_id", "fan", "fan_id", "fan_unit", "resource"],
    ),
    gauge(
        "redfish_chassis_fan_state",
        Unit::One,
        "State of a fan: 1 (Enabled), 2 (Disabled), 3 (StandbyOffline), 4 (StandbySpare), 5 (InTest), 6 (Starting), 7 (Absent), 8 (UnavailableOffline), 9 (Deferring), 10 (Quiesced), 11 (Updating).",
        &["chassis_id", "fan", "fan_id", "fan_unit", "resource"],
    ),
    gauge(
        "redfish_chassis_health",
        Unit::One,
        "Health of a case: 1 (OK), 2 (Warning), 3 (Critical).",
        &["chassis_id", "resource"],
    ),
    gauge(
        "redfish_chassis_model_info",
        Unit::One,
        "Maker and model of a case.",
        &["chassis_id", "manufacturer", "model", "part_number", "resource"],
    ),
    gauge(
        "redfish_chassis_power_average_consumed_watts",
        Unit::Watts,
        "Power that a case took on average.",
        &["chassis_id", "power_voltage", "power_voltage_id", "resource"],
    ),
    gauge(
        "redfish_chassis_power_powersupply_health",
        Unit::One,
        "Health of a power supply: 1 (OK), 2 (Warning), 3 (Critical).",
        &["chassis_id", "power_supply", "power_supply_id", "resource"],
    ),
    gauge(
        "redfish_chassis_power_powersupply_last_power_output_watts",
        Unit::Watts,
        "Power that a power supply gave on average.",
        &["chassis_id", "power_supply", "power_supply_id", "resource"],
    ),
    gauge(
        "redfish_chassis_power_powersupply_power_capacity_watts",
        Unit::Watts,
        "Power that a power supply can give.",
        &["chassis_id", "power_supply", "power_supply_id", "resource"],
    ),
    gauge(
        "redfish_chassis_power_powersupply_power_input_watts",
        Unit::Watts,
        "Power that a power supply takes.",
        &["chassis_id", "power_supply", "power_supply_id", "resource"],
    ),
    gauge(
        "redfish_chassis_power_powersupply_power_output_watts",
        Unit::Watts,
        "Power that a power supply gives.",
        &["chassis_id", "power_supply", "power_supply_id", "resource"],
    ),
    gauge(
        "redfish_chassis_power_powersupply_state",
        Unit::One,
        "State of a power supply: 1 (Enabled), 2 (Disabled), 3 (StandbyOffline), 4 (StandbySpare), 5 (InTest), 6 (Starting), 7 (Absent), 8 (UnavailableOffline), 9 (Deferring), 10 (Quiesced), 11 (Updating).",
        &["chassis_id", "power_supply", "power_supply_id", "resource"],
    ),
    gauge(
        "redfish_chassis_state",
        Unit::One,
        "State of a case: 1 (Enabled), 2 (Disabled), 3 (StandbyOffline), 4 (StandbySpare), 5 (InTest), 6 (Starting), 7 (Absent), 8 (UnavailableOffline), 9 (Deferring), 10 (Quiesced), 11 (Updating).",
        &["chassis_id", "resource"],
    ),
    gauge(
        "redfish_chassis_temperature_celsius",
        Unit::Celsius,
        "Temperature at a place of a case.",
        &["chassis_id", "resource", "sensor", "sensor_id"],
    ),
    gauge(
        "redfish_chassis_temperature_sensor_state",
        Unit::One,
        "State of a temperature sensor: 1 (Enabled), 2 (Disabled), 3 (StandbyOffline), 4 (StandbySpare), 5 (InTest), 6 (Starting), 7 (Absent), 8 (UnavailableOffline), 9 (Deferring), 10 (Quiesced), 11 (Updating).",
        &["chassis_id", "resource", "sensor", "sensor_id"],
    ),
    gauge(
        "redfish_system_health_state",
        Unit::One,
        "Health of a computer: 1 (OK), 2 (Warning), 3 (Critical).",
        &["hostname", "resource", "system_id"],
    ),
    gauge(
        "redfish_system_power_state",
        Unit::One,
        "Power of a computer: 1 (On), 2 (Off), 3 (PoweringOn), 4 (PoweringOff).",
        &["hostname", "resource", "system_id"],
    ),
    gauge(
        "redfish_system_state",
        Unit::One,
        "State of a computer: 1 (Enabled), 2 (Disabled), 3 (StandbyOffline), 4 (StandbySpare), 5 (InTest), 6 (Starting), 7 (Absent), 8 (UnavailableOffline), 9 (Deferring), 10 (Quiesced), 11 (Updating).",
        &["hostname", "resource", "system_id"],
    ),
    gauge(
        "redfish_system_storage_drive_capacity",
        Unit::Bytes,
        "Size of a drive.",
        &["drive", "drive_id", "hostname", "resource", "system_id"],
    ),
    gauge(
        "redfish_system_storage_drive_health_state",
        Unit::One,
        "Health of a drive: 1 (OK), 2 (Warning), 3 (Critical).",
        &["drive", "drive_id", "hostname", "resource", "system_id"],
    ),
    gauge(
        "redfish_system_storage_drive_state",
        Unit::One,
        "State of a drive: 1 (Enabled), 2 (Disabled), 3 (StandbyOffline), 4 (StandbySpare), 5 (InTest), 6 (Starting), 7 (Absent), 8 (UnavailableOffline), 9 (Deferring), 10 (Quiesced), 11 (Updating).",
        &["drive", "drive_id", "hostname", "resource", "system_id"],
    ),
    gauge(
        "redfish_system_total_memory_health_state",
        Unit::One,
        "Health of all memory of a computer: 1 (OK), 2 (Warning), 3 (Critical).",
        &["hostname", "resource", "system_id"],
    ),
    gauge("redfish_up", Unit::One, "1 if the management controller answered, else 0.", &[]),
    gauge("scrape_duration_seconds", Unit::Seconds, "How long the exporter's last scrape took.", &[]),
    gauge(
        "scrape_samples_post_metric_relabeling",
        Unit::One,
        "Samples of the exporter's last scrape that were left after `metric_relabel_configs`.",
        &[],
    ),
    gauge("scrape_samples_scraped", Unit::One, "Samples that the exporter's last scrape gave.", &[]),
    gauge("up", Unit::One, "1 while the agent of this instance reports, 0 once it is overdue.", &[]),
    counter("veghe_agent_batches_accepted_total", Unit::One, "Batches that the collector has on disk.", &[]),
    counter("veghe_agent_batches_refused_total", Unit::One, "Batches that the collector refused for ever.", &[]),
    counter("veghe_agent_batches_sent_total", Unit::One, "Batches handed to the broker, repeats included.", &[]),
    gauge("veghe_agent_build_info", Unit::One, "1; the label tells the agent's version.", &["version"]),
    counter(
        "veghe_agent_clock_steps_total",
        Unit::One,
        "Steps of the system clock by more than half a second, and wake-ups from sleep.",
        &[],
    ),
    gauge(
        "veghe_agent_config_number",
        Unit::One,
        "Number of the collector's settings that the agent runs with, 0 for its own file alone.",
        &[],
    ),
    gauge("veghe_agent_config_on_trial", Unit::One, "1 while those settings are on trial, else 0.", &[]),
    counter(
        "veghe_agent_config_refused_total",
        Unit::One,
        "Settings of the collector that the agent refused since its start.",
        &[],
    ),
    counter("veghe_agent_cycles_total", Unit::One, "Collection cycles since the agent's start, one sample each.", &[]),
    gauge(
        "veghe_agent_interval_stretch",
        Unit::One,
        "By what the intervals of optional sensors are multiplied while the machine is busy; 1 while it is not.",
        &[],
    ),
    counter(
        "veghe_agent_log_lines_dropped_total",
        Unit::One,
        "Lines that the agent's log left out because there were more than its budget.",
        &[],
    ),
    counter(
        "veghe_agent_rounds_dropped_total",
        Unit::One,
        "Rounds of readings that were lost because the spool did not take them in time.",
        &[],
    ),
    gauge(
        "veghe_agent_shed_sensors",
        Unit::One,
        "Optional sensors that the agent left out to stay below its ceilings of processor time and memory.",
        &[],
    ),
    gauge("veghe_agent_spool_batches", Unit::One, "Batches in the spool.", &[]),
    gauge("veghe_agent_spool_bytes", Unit::Bytes, "Bytes that the spool has on disk.", &[]),
    counter(
        "veghe_agent_spool_dropped_batches_total",
        Unit::One,
        "Batches that the spool gave up unsent, oldest first, because it was full or they were too old.",
        &[],
    ),
    gauge(
        "veghe_agent_spool_oldest_timestamp_seconds",
        Unit::Seconds,
        "Time stamp of the oldest batch in the spool, in seconds since the Unix epoch; 0 while it is empty.",
        &[],
    ),
    gauge("veghe_agent_uplink_connected", Unit::One, "1 while the agent is connected to the broker, else 0.", &[]),
    counter("veghe_agent_uplink_connects_total", Unit::One, "Connections to the broker that were made.", &[]),
    gauge("veghe_agent_uplink_held", Unit::One, "1 while the collector asks the agent to wait, else 0.", &[]),
    counter(
        "veghe_alert_notifications_total",
        Unit::One,
        "Attempts to notify: delivered, retry, failed (refused), expired (given up), dropped (queue full).",
        &["outcome", "receiver"],
    ),
    gauge("veghe_alert_outbox_messages", Unit::One, "Notifications that wait for their receiver.", &["receiver"]),
    gauge("veghe_alerts", Unit::One, "Alerts by state.", &["state"]),
    gauge("veghe_backup_files", Unit::One, "Files that the backup has.", &["backup"]),
    gauge("veghe_backup_newest_bytes", Unit::Bytes, "Size of the backup's newest file.", &["backup"]),
    gauge(
        "veghe_backup_newest_timestamp_seconds",
        Unit::Seconds,
        "When the backup's newest file was written, in seconds since the Unix epoch.",
        &["backup"],
    ),
    gauge("veghe_broker_connected_agents", Unit::One, "Agents with a live connection.", &[]),
    counter(
        "veghe_broker_refusals_total",
        Unit::One,
        "Connections, subscriptions and messages that the broker refused, by cause.",
        &["cause"],
    ),
    counter("veghe_enrolments_total", Unit::One, "Enrolments of agents by outcome.", &["outcome"]),
    gauge(
        "veghe_filesystem_fault",
        Unit::One,
        "1 for what is wrong with a file system that is not well: hung, stale_handle, disconnected, io_error, read_only (mounted for writing) or other.",
        &["device", "fault", "fstype", "mountpoint"],
    ),
    gauge(
        "veghe_filesystem_recorded_errors",
        Unit::One,
        "Errors that the file system recorded on its disk since it was last repaired (ext4).",
        &["device", "fstype", "mountpoint"],
    ),
    gauge(
        "veghe_fleet_config_agents",
        Unit::One,
        "Agents by what they do with the collector's settings: runs, trial, waits, refuses or own (their own file alone).",
        &["state"],
    ),
    gauge("veghe_fleet_discovered", Unit::One, "Things that agents found on their machines, by their life.", &["life"]),
    gauge(
        "veghe_fleet_groups_success",
        Unit::One,
        "1 if the group files were good when they were read last, else 0.",
        &[],
    ),
    counter(
        "veghe_fleet_rollouts_total",
        Unit::One,
        "Roll-outs of settings that ended, by outcome: done or rolled_back.",
        &["outcome"],
    ),
    counter(
        "veghe_http_connections_closed_total",
        Unit::One,
        "Connections that ended for want of places: silent ones that gave way, new ones while all were busy.",
        &["listener", "reason"],
    ),
    counter("veghe_http_refused_credentials_total", Unit::One, "Requests refused for their credentials.", &["reason"]),
    histogram(
        "veghe_http_request_duration_seconds",
        Unit::Seconds,
        "Time from the end of a request's head to the beginning of its response.",
        &["listener", "route"],
    ),
    counter("veghe_http_requests_total", Unit::One, "HTTP requests answered.", &["code", "listener", "route"]),
    counter(
        "veghe_ingest_batches_total",
        Unit::One,
        "Batches of agents by what became of them: stored, repeated, refused or held.",
        &["outcome"],
    ),
    histogram("veghe_ingest_commit_duration_seconds", Unit::Seconds, "Time that a group commit took.", &[]),
    counter("veghe_ingest_commit_failures_total", Unit::One, "Group commits that the store could not keep.", &[]),
    counter("veghe_ingest_defects_total", Unit::One, "Panics while batches were read: defects of this program.", &[]),
    gauge("veghe_ingest_queue_length", Unit::One, "Messages of agents that wait to be stored.", &[]),
    counter("veghe_ingest_refusals_total", Unit::One, "Batches refused or held, by cause.", &["cause"]),
    counter("veghe_ingest_samples_total", Unit::One, "Samples of agents that were stored.", &[]),
    gauge("veghe_ingest_sessions", Unit::One, "Runs of agents whose dictionaries are in memory.", &[]),
    gauge("veghe_program_duration_seconds", Unit::Seconds, "How long the program's last run took.", &["program"]),
    gauge(
        "veghe_program_success",
        Unit::One,
        "1 if the program's last run ended in time with metrics, else 0.",
        &["program"],
    ),
    gauge(
        "veghe_remote_write_caught_up_timestamp_seconds",
        Unit::Seconds,
        "When everything stored had been sent to the target last, in seconds since the Unix epoch; at first the collector's start.",
        &["remote_name", "url"],
    ),
    counter(
        "veghe_remote_write_log_errors_total",
        Unit::One,
        "Places of the log that could not be read, whose samples were not sent to the target.",
        &["remote_name", "url"],
    ),
    counter(
        "veghe_remote_write_receiver_dropped_total",
        Unit::One,
        "What remote writes held that is not kept: exemplars and native histograms.",
        &["kind"],
    ),
    counter(
        "veghe_remote_write_receiver_partial_total",
        Unit::One,
        "Remote writes that were refused in part: what was wrong with them is in the answer.",
        &[],
    ),
    histogram(
        "veghe_rule_evaluation_duration_seconds",
        Unit::Seconds,
        "Time that the evaluation of one rule takes.",
        &[],
    ),
    counter("veghe_rule_evaluation_failures_total", Unit::One, "Rule evaluations that gave an error.", &["rule_group"]),
    counter(
        "veghe_rule_group_iterations_missed_total",
        Unit::One,
        "Evaluations of a rule group that were skipped because they came due too late.",
        &["rule_group"],
    ),
    counter("veghe_rule_reloads_total", Unit::One, "Reloads of rule files.", &["outcome"]),
    counter(
        "veghe_sensor_deadline_exceeded_total",
        Unit::One,
        "Rounds that the sensor did not finish within its deadline.",
        &["sensor"],
    ),
    gauge("veghe_sensor_duration_seconds", Unit::Seconds, "How long the sensor's last round took.", &["sensor"]),
    counter(
        "veghe_sensor_failures_total",
        Unit::One,
        "Rounds in which the sensor had an error or panicked.",
        &["sensor"],
    ),
    gauge(
        "veghe_sensor_success",
        Unit::One,
        "1 if the sensor had its last round complete and in time, else 0.",
        &["sensor"],
    ),
    gauge("veghe_tsdb_chunk_bytes", Unit::Bytes, "Bytes of the chunk database on disk.", &[]),
    counter(
        "veghe_tsdb_committed_samples_total",
        Unit::One,
        "Samples that were committed, the collector's own included.",
        &[],
    ),
    counter(
        "veghe_tsdb_duplicate_samples_total",
        Unit::One,
        "Samples dropped because their series already had one at that time.",
        &[],
    ),
    gauge("veghe_tsdb_free_bytes", Unit::Bytes, "Bytes that the store's file system has free.", &[]),
    gauge("veghe_tsdb_head_bytes", Unit::Bytes, "Memory that samples of the head take.", &[]),
    gauge("veghe_tsdb_head_samples", Unit::One, "Samples in memory, not yet in chunks.", &[]),
    gauge("veghe_tsdb_log_bytes", Unit::Bytes, "Bytes of the log on disk.", &[]),
    gauge("veghe_tsdb_log_segments", Unit::One, "Segments of the log on disk.", &[]),
    gauge(
        "veghe_tsdb_read_only",
        Unit::One,
        "1 while readings are refused because the disk is full up to its reserve.",
        &[],
    ),
    gauge("veghe_tsdb_series", Unit::One, "Series in the store's index.", &[]),
    gauge(
        "veghe_windows_updates_pending",
        Unit::One,
        "Updates of Windows that are neither installed nor hidden, by kind: security or other.",
        &["kind"],
    ),
    gauge(
        "windows_service_info",
        Unit::One,
        "A metric with a constant '1' value labeled with service information",
        &["display_name", "name", "path_name", "run_as"],
    ),
    gauge(
        "windows_service_start_mode",
        Unit::One,
        "The start mode of the service (StartMode)",
        &["name", "start_mode"],
    ),
    gauge("windows_service_state", Unit::One, "The state of the service (State)", &["name", "state"]),
    gauge(
        "windows_update_pending_info",
        Unit::One,
        "Expose information for a single pending update item",
        &["category", "severity", "title"],
    ),
    gauge(
        "windows_update_pending_published_timestamp",
        Unit::Seconds,
        "Expose last published timestamp for a single pending update item",
        &["title"],
    ),
    gauge(
        "windows_update_scrape_query_duration_seconds",
        Unit::Seconds,
        "Duration of the last scrape query to the Windows Update API",
        &[],
    ),
    gauge("windows_update_scrape_timestamp_seconds", Unit::Seconds, "Timestamp of the last scrape", &[]),
    gauge(
        "x509_cert_expired",
        Unit::One,
        "Indicates if the certificate is expired",
        &["filename", "filepath", "issuer_CN", "serial_number", "subject_CN"],
    ),
    gauge(
        "x509_cert_not_after",
        Unit::Seconds,
        "Indicates the certificate's not after timestamp",
        &["filename", "filepath", "issuer_CN", "serial_number", "subject_CN"],
    ),
    gauge(
        "x509_cert_not_before",
        Unit::Seconds,
        "Indicates the certificate's not before timestamp",
        &["filename", "filepath", "issuer_CN", "serial_number", "subject_CN"],
    ),
    gauge("x509_read_errors", Unit::One, "Indicates the number of read failure(s)", &[]),
    gauge("yum_upgrades_pending", Unit::One, "Yum packages pending updates by origin.", &["arch", "origin"]),
    gauge("node_memory_*_bytes", Unit::Bytes, "Memory information field *_bytes.", &[]),
    gauge("node_memory_*", Unit::One, "Memory information field *.", &[]),
    counter("node_network_*_bytes_total", Unit::Bytes, "Network device statistic *_bytes.", &["device"]),
    counter("node_network_*_total", Unit::One, "Network device statistic *.", &["device"]),
    untyped("node_vmstat_*", Unit::One, "/proc/vmstat information field *.", &[]),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn is_ours(metric: &Metric) -> bool {
        metric.name.starts_with("veghe_") || metric.name.starts_with("digitization_")
    }

    fn all() -> impl Iterator<Item = &'static Metric> {
        LISTS.into_iter().flatten()
    }

    #[test]
    fn names_are_valid_and_each_is_there_once() {
        for list in LISTS {
            let (patterns, names): (Vec<&Metric>, Vec<&Metric>) =
                list.iter().partition(|metric| metric.name.contains('*'));
            assert!(list.iter().rev().take(patterns.len()).all(|metric| metric.name.contains('*')));
            assert!(names.is_sorted_by(|a, b| a.name < b.name));
        }
        let mut seen = std::collections::HashSet::new();
        for metric in all() {
            assert!(seen.insert(metric.name), "{} twice", metric.name);
            let valid = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '*';
            assert!(metric.name.chars().all(valid), "{}", metric.name);
            assert!(!metric.name.starts_with(|c: char| c.is_ascii_digit()), "{}", metric.name);
            assert!(metric.labels.is_sorted_by(|a, b| a < b), "{}", metric.name);
            assert_eq!(metric.name.contains('*'), metric.help.contains('*'), "{}", metric.name);
        }
    }

    #[test]
    fn our_names_tell_kind_and_unit() {
        for metric in all().filter(|metric| is_ours(metric)) {
            let stem = metric.name.strip_suffix("_total");
            assert_eq!(stem.is_some(), metric.kind == Kind::Counter, "{}", metric.name);
            let stem = stem.unwrap_or(metric.name);
            assert_eq!(stem.ends_with("_seconds"), metric.unit == Unit::Seconds, "{}", metric.name);
            assert_eq!(stem.ends_with("_bytes"), metric.unit == Unit::Bytes, "{}", metric.name);
            assert_eq!(stem.ends_with("_ratio"), metric.unit == Unit::Ratio, "{}", metric.name);
        }
    }

    #[test]
    fn helps_are_sentences() {
        for metric in all().filter(|metric| is_ours(metric)) {
            assert!(metric.help.ends_with('.') && !metric.help.contains('\n'), "{}", metric.name);
        }
    }

    #[test]
    fn the_narrowest_pattern_answers_and_fills_in_the_help() {
        let memory = lookup("node_memory_MemTotal_bytes").expect("entry");
        assert_eq!(memory.unit, Unit::Bytes);
        assert_eq!(memory.help_for("node_memory_MemTotal_bytes"), "Memory information field MemTotal_bytes.");
        assert_eq!(lookup("node_memory_HugePages_Free").expect("entry").unit, Unit::One);
        let name = "node_network_carrier_changes_total";
        assert_eq!(lookup(name).expect("entry").name, name, "a name comes before a pattern of another list");
        assert_eq!(lookup("node_zfs_zpool_dataset_reads").expect("entry").labels, ["dataset", "zpool"]);
        assert_eq!(lookup("node_memory_"), None);
        assert_eq!(lookup("node_time_seconds_bucket"), None);
        assert_eq!(lookup("nonsense"), None);
    }
}
