//! Hosts whose series have `node_exporter`'s names, labels and ways of moving: counters busy and idle, gauges, constants,
//! states and a histogram. The same number makes the same host, so that several servers can be told the same.
//!
//! Synthetic: how much chance is in the increments decides the bytes a sample of every store, so those say nothing of
//! recorded data.

use anyhow::Context as _;

/// Series that one host has.
pub const SERIES_PER_HOST: usize = 500;

/// How a series moves from row to row.
#[derive(Clone, Copy, Debug)]
enum Movement {
    /// Never.
    Still,
    /// Up by `base` plus chance below `spread`, in units of `unit`.
    Up { base: u32, spread: u32, unit: f64 },
    /// Up or down by less than `spread` units, within the half and the one and a half of where it began.
    Wander { spread: u32, unit: f64 },
    /// Up by one, one time in `one_in`.
    Seldom { one_in: u32 },
    /// The buckets of a histogram: up by what fell into this one and those below.
    Bucket { within: u32 },
}

struct Series {
    /// Ascending by name, without `instance`.
    labels: Vec<(String, String)>,
    movement: Movement,
    start: f64,
}

/// A host and the present value of each of its series.
pub struct FleetHost {
    /// Its label `instance`.
    pub instance: String,
    series: Vec<Series>,
    /// The protobuf of each series' labels in remote write 1.0.
    encoded: Vec<Vec<u8>>,
    values: Vec<f64>,
    random: u64,
}

impl FleetHost {
    /// Host `number`, with its first `series` series.
    pub fn new(number: usize, series: usize) -> Self {
        let instance = format!("host-{number:04}");
        let mut series_of = Template::default().host(number);
        series_of.truncate(series);
        let encoded = series_of.iter().map(|one| encoded_labels(&one.labels, &instance)).collect();
        let mut host = Self {
            instance,
            values: series_of.iter().map(|one| one.start).collect(),
            series: series_of,
            encoded,
            random: (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15),
        };
        for at in 0..host.series.len() {
            // No two hosts count from the same number.
            if let Movement::Up { unit, .. } = host.series[at].movement {
                host.values[at] += f64::from(host.below(1 << 20)) * unit;
            }
        }
        host
    }

    /// The labels of each series without `instance`, ascending by name.
    pub fn labels(&self) -> impl Iterator<Item = &[(String, String)]> {
        self.series.iter().map(|one| one.labels.as_slice())
    }

    /// A number that tells this host from others.
    pub fn seed(&self) -> u64 {
        self.random
    }

    /// The next row of values.
    pub fn step(&mut self) -> &[f64] {
        // How many requests fell below each bound of the histogram in this row.
        let requests = self.below(40);
        for at in 0..self.series.len() {
            let (value, start) = (self.values[at], self.series[at].start);
            self.values[at] = match self.series[at].movement {
                Movement::Still => value,
                Movement::Up { base, spread, unit } => up(value, i64::from(base) + i64::from(self.below(spread)), unit),
                Movement::Wander { spread, unit } => {
                    let by = i64::from(self.below(2 * spread + 1)) - i64::from(spread);
                    let next = up(value, by, unit);
                    if (start / 2.0..=start * 1.5).contains(&next) { next } else { value }
                }
                Movement::Seldom { one_in } => value + f64::from(u8::from(self.below(one_in) == 0)),
                Movement::Bucket { within } => value + f64::from(requests * within / 100),
            };
        }
        &self.values
    }

    fn below(&mut self, bound: u32) -> u32 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) % u64::from(bound.max(1))) as u32
    }
}

/// `value`, a whole number of units, and `by` more of them: rounding never adds up.
fn up(value: f64, by: i64, unit: f64) -> f64 {
    if unit >= 1.0 {
        return value + by as f64 * unit;
    }
    let per = (1.0 / unit).round();
    ((value * per).round() + by as f64) / per
}

/// Some rows of a host as one remote-write 1.0 request, compressed with snappy: `rows` rows from `start_ms`, `step_ms` apart.
///
/// # Errors
/// Where it can't be compressed.
pub fn remote_write(hosts: &mut [FleetHost], rows: usize, start_ms: i64, step_ms: i64) -> anyhow::Result<Vec<u8>> {
    let mut body = Vec::new();
    for host in hosts {
        let columns = host.series.len();
        let mut table = Vec::with_capacity(rows * columns);
        for _ in 0..rows {
            table.extend_from_slice(host.step());
        }
        let mut samples = Vec::new();
        for (at, labels) in host.encoded.iter().enumerate() {
            samples.clear();
            for row in 0..rows {
                let mut sample = vec![0x09];
                sample.extend_from_slice(&table[row * columns + at].to_bits().to_le_bytes());
                sample.push(0x10);
                put_varint(&mut sample, (start_ms + row as i64 * step_ms) as u64);
                put_field(&mut samples, 2, &sample);
            }
            body.push(0x0a);
            put_varint(&mut body, (labels.len() + samples.len()) as u64);
            body.extend_from_slice(labels);
            body.extend_from_slice(&samples);
        }
    }
    snap::raw::Encoder::new().compress_vec(&body).context("cannot compress a request")
}

fn encoded_labels(labels: &[(String, String)], instance: &str) -> Vec<u8> {
    let mut all: Vec<(&str, &str)> = labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    all.push(("instance", instance));
    all.sort_unstable();
    let mut out = Vec::new();
    for (name, value) in all {
        let mut label = Vec::new();
        put_field(&mut label, 1, name.as_bytes());
        put_field(&mut label, 2, value.as_bytes());
        put_field(&mut out, 1, &label);
    }
    out
}

fn put_field(out: &mut Vec<u8>, number: u8, content: &[u8]) {
    out.push(number << 3 | 2);
    put_varint(out, content.len() as u64);
    out.extend_from_slice(content);
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Builds the series of a host, those that long queries ask for first.
#[derive(Default)]
struct Template {
    series: Vec<Series>,
}

impl Template {
    fn host(mut self, number: usize) -> Vec<Series> {
        let site = ["arhiva", "depozit", "sediu", "atelier"][number % 4];
        self.load_and_memory(number);
        self.cpu(2);
        self.network(&["eth0", "eth1"]);
        self.filesystems(&["/", "/boot"]);
        self.disks(&["sda"]);
        self.more_cpu(2..6);
        self.network(&["lo"]);
        self.filesystems(&["/var", "/srv/scan", "/srv/master", "/home"]);
        self.disks(&["sdb", "nvme0n1"]);
        self.histogram("http_request_duration_seconds", &["/upload", "/status"]);
        self.units();
        let mut at = 0;
        while self.series.len() < SERIES_PER_HOST {
            // The kernel's counters: half of them never move.
            let movement = if at % 2 == 0 { Movement::Still } else { Movement::Up { base: 3, spread: 60, unit: 1.0 } };
            self.add(&format!("node_vmstat_counter_{at:03}"), &[], movement, 40_000.0 * f64::from(at + 1));
            at += 1;
        }
        self.series.truncate(SERIES_PER_HOST);
        for one in &mut self.series {
            one.labels.push(("job".to_owned(), "node".to_owned()));
            one.labels.push(("site".to_owned(), site.to_owned()));
            one.labels.sort();
        }
        self.series
    }

    fn add(&mut self, name: &str, labels: &[(&str, &str)], movement: Movement, start: f64) {
        let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let labels = [("__name__", name)].iter().chain(labels).map(pair).collect();
        self.series.push(Series { labels, movement, start });
    }

    fn load_and_memory(&mut self, number: usize) {
        self.add("up", &[], Movement::Still, 1.0);
        for (name, spread) in [("node_load1", 30), ("node_load5", 8), ("node_load15", 3)] {
            self.add(name, &[], Movement::Wander { spread, unit: 0.01 }, 4.0);
        }
        let nodename = format!("srv-{number:04}");
        let uname = [("machine", "x86_64"), ("nodename", nodename.as_str()), ("release", "6.1.0-18-amd64")];
        self.add("node_uname_info", &uname, Movement::Still, 1.0);
        self.add("node_boot_time_seconds", &[], Movement::Still, 1_700_000_000.0 + number as f64);
        self.add("node_time_seconds", &[], Movement::Up { base: 15_000, spread: 3, unit: 0.001 }, 1.7e9);
        self.add("node_procs_running", &[], Movement::Wander { spread: 2, unit: 1.0 }, 8.0);
        self.add("node_context_switches_total", &[], Movement::Up { base: 20_000, spread: 9_000, unit: 1.0 }, 9e9);
        self.add("node_memory_MemTotal_bytes", &[], Movement::Still, 33_554_432_000.0);
        for (i, name) in ["MemAvailable", "MemFree", "Cached", "Active", "Inactive", "Dirty"].into_iter().enumerate() {
            let start = 4096.0 * 300_000.0 * (7 - i) as f64;
            self.add(&format!("node_memory_{name}_bytes"), &[], Movement::Wander { spread: 900, unit: 4096.0 }, start);
        }
        for name in ["SwapTotal", "HugePages_Total", "Hugepagesize", "VmallocTotal", "HardwareCorrupted", "CommitLimit"]
        {
            self.add(&format!("node_memory_{name}_bytes"), &[], Movement::Still, 2_147_479_552.0);
        }
    }

    fn cpu(&mut self, cpus: usize) {
        self.more_cpu(0..cpus);
    }

    fn more_cpu(&mut self, cpus: std::ops::Range<usize>) {
        for cpu in cpus {
            let cpu = cpu.to_string();
            for (mode, movement) in [
                ("idle", Movement::Up { base: 1_200, spread: 250, unit: 0.01 }),
                ("user", Movement::Up { base: 10, spread: 180, unit: 0.01 }),
                ("system", Movement::Up { base: 3, spread: 60, unit: 0.01 }),
                ("iowait", Movement::Up { base: 0, spread: 8, unit: 0.01 }),
                ("softirq", Movement::Up { base: 0, spread: 3, unit: 0.01 }),
                ("irq", Movement::Still),
                ("nice", Movement::Still),
                ("steal", Movement::Still),
            ] {
                let labels = [("cpu", cpu.as_str()), ("mode", mode)];
                self.add("node_cpu_seconds_total", &labels, movement, 2_000_000.0);
            }
        }
    }

    fn network(&mut self, devices: &[&str]) {
        for device in devices {
            let labels = [("device", *device)];
            let busy = *device != "eth1";
            for way in ["receive", "transmit"] {
                let mut add = |what: &str, movement: Movement, start: f64| {
                    self.add(&format!("node_network_{way}_{what}_total"), &labels, movement, start);
                };
                let up = |base, spread| if busy { Movement::Up { base, spread, unit: 1.0 } } else { Movement::Still };
                add("bytes", up(200_000, 1_500_000), 5e10);
                add("packets", up(900, 3_000), 5e8);
                for still in ["errs", "drop", "fifo", "compressed"] {
                    add(still, Movement::Still, 0.0);
                }
            }
            for (name, value) in [("mtu_bytes", 1500.0), ("up", 1.0), ("carrier", 1.0), ("speed_bytes", 125e6)] {
                self.add(&format!("node_network_{name}"), &labels, Movement::Still, value);
            }
        }
    }

    fn filesystems(&mut self, mountpoints: &[&str]) {
        for (i, mountpoint) in mountpoints.iter().enumerate() {
            let device = format!("/dev/mapper/vg0-{}", mountpoint.trim_matches('/').replace('/', "-"));
            let labels = [("device", device.as_str()), ("fstype", "ext4"), ("mountpoint", *mountpoint)];
            let size = 4096.0 * 50_000_000.0 * (i + 1) as f64;
            self.add("node_filesystem_size_bytes", &labels, Movement::Still, size);
            let moves = Movement::Wander { spread: 300, unit: 4096.0 };
            for (name, share) in [("free", 0.5), ("avail", 0.25)] {
                let start = (size * share / 4096.0).round() * 4096.0;
                self.add(&format!("node_filesystem_{name}_bytes"), &labels, moves, start);
            }
            self.add("node_filesystem_files", &labels, Movement::Still, 12_500_000.0);
            self.add("node_filesystem_files_free", &labels, Movement::Wander { spread: 5, unit: 1.0 }, 11e6);
            self.add("node_filesystem_readonly", &labels, Movement::Still, 0.0);
            self.add("node_filesystem_device_error", &labels, Movement::Still, 0.0);
        }
    }

    fn disks(&mut self, devices: &[&str]) {
        for device in devices {
            let labels = [("device", *device)];
            for (name, base, spread, unit) in [
                ("reads_completed", 5, 200, 1.0),
                ("read_bytes", 40, 1_600, 4096.0),
                ("read_time_seconds", 0, 90, 0.001),
                ("writes_completed", 20, 400, 1.0),
                ("written_bytes", 160, 3_200, 4096.0),
                ("write_time_seconds", 0, 200, 0.001),
                ("io_time_seconds", 0, 400, 0.001),
                ("io_time_weighted_seconds", 0, 900, 0.001),
            ] {
                let movement = Movement::Up { base, spread, unit };
                self.add(&format!("node_disk_{name}_total"), &labels, movement, 1_000_000.0 * unit);
            }
            for name in ["discards_completed", "discarded_sectors", "discard_time_seconds", "flush_requests"] {
                self.add(&format!("node_disk_{name}_total"), &labels, Movement::Still, 0.0);
            }
        }
    }

    fn histogram(&mut self, name: &str, handlers: &[&str]) {
        let bounds = [
            ("0.005", 5),
            ("0.01", 20),
            ("0.025", 45),
            ("0.05", 60),
            ("0.1", 75),
            ("0.25", 88),
            ("0.5", 93),
            ("1", 96),
        ];
        let bounds = bounds.into_iter().chain([("2.5", 98), ("5", 99), ("10", 100), ("+Inf", 100)]);
        for handler in handlers {
            for (bound, within) in bounds.clone() {
                let labels = [("handler", *handler), ("le", bound)];
                self.add(&format!("{name}_bucket"), &labels, Movement::Bucket { within }, 9_000.0 * f64::from(within));
            }
            let labels = [("handler", *handler)];
            self.add(&format!("{name}_count"), &labels, Movement::Bucket { within: 100 }, 900_000.0);
            self.add(&format!("{name}_sum"), &labels, Movement::Up { base: 1, spread: 4_000, unit: 0.001 }, 5e4);
        }
    }

    fn units(&mut self) {
        for unit in
            ["cron", "dbus", "nginx", "postgresql", "scan-import", "smartd", "sshd", "systemd-journald", "veghe"]
        {
            let name = format!("{unit}.service");
            for state in ["activating", "active", "deactivating", "failed", "inactive"] {
                let labels = [("name", name.as_str()), ("state", state)];
                let on = f64::from(u8::from(state == "active"));
                self.add("node_systemd_unit_state", &labels, Movement::Still, on);
            }
            self.add("node_systemd_unit_tasks", &[("name", &name)], Movement::Wander { spread: 1, unit: 1.0 }, 12.0);
            let restarts = Movement::Seldom { one_in: 5_000 };
            self.add("node_systemd_service_restart_total", &[("name", &name)], restarts, 3.0);
        }
    }
}
