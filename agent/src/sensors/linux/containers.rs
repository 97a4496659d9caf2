//! Containers, virtual machines and slices by their control groups (cgroup v2). Names are `cadvisor`'s.
//!
//! Groups are looked for once a minute and read in each round; a bounded number is told. A container is known by its
//! path: that of docker, podman, LXC, containerd, cri-o, systemd-nspawn and libvirt. What it deliberately does not do:
//! ask an engine for names and images, which takes the right to control it; read cgroup v1.

use std::time::{Duration, Instant};

use super::text;
use super::tree::{Texts, Tree};
use super::{Entry, Roots, Sensor, SensorError, Sink};
use crate::clock;

pub(crate) const ENTRY: Entry = Entry::new(
    "containers",
    // Version 1 lacks this file at this place.
    |settings| vec![settings.roots.sys.join("fs/cgroup/cgroup.controllers")],
    |settings| Box::new(Containers::new(&settings.roots)),
)
.on_request();

const MAX_GROUPS: usize = 512;
const MAX_DEPTH: usize = 8;
const LOOK_INTERVAL: Duration = Duration::from_mins(1);
/// The unit of `cpu.stat`.
const MICROSECONDS: f64 = 1e6;

/// `container_*`.
pub(crate) struct Containers {
    tree: Tree,
    groups: Vec<Group>,
    looked: Option<Instant>,
}

/// A control group that is told about.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    /// Its path, as `/system.slice`.
    id: String,
    name: String,
}

impl Containers {
    pub(crate) fn new(roots: &Roots) -> Self {
        Self { tree: Tree::new(&roots.sys.join("fs/cgroup")), groups: Vec::new(), looked: None }
    }
}

impl Sensor for Containers {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        if self.looked.is_none_or(|looked| looked.elapsed() >= LOOK_INTERVAL) {
            self.groups.clear();
            look(&mut self.tree, "", 0, &mut self.groups);
            self.groups.sort_by(|a, b| a.id.cmp(&b.id));
            self.looked = Some(clock::instant());
        }
        for group in &self.groups {
            let mark = self.tree.enter(group.id.trim_start_matches('/'));
            put(&mut self.tree, group, sink);
            self.tree.leave(mark);
        }
        Ok(())
    }
}

/// Finds groups below where `tree` is. What is inside of a container is its own.
fn look(tree: &mut Tree, id: &str, depth: usize, found: &mut Vec<Group>) {
    let mut names = Texts::default();
    if depth >= MAX_DEPTH || tree.directories(&mut names).is_err() {
        return;
    }
    for name in names.iter() {
        if found.len() >= MAX_GROUPS {
            return;
        }
        let id = format!("{id}/{name}");
        let parent = id.rsplit('/').nth(1).unwrap_or_default();
        if let Some(container) = container(parent, name) {
            found.push(Group { id, name: container });
            continue;
        }
        if depth == 0 && name.rsplit_once('.').is_some_and(|(_, kind)| kind == "slice") {
            found.push(Group { id: id.clone(), name: name.to_owned() });
        }
        let mark = tree.enter(name);
        look(tree, &id, depth + 1, found);
        tree.leave(mark);
    }
}

/// What the container or machine in the group `name` below `parent` is called; `None` for other groups.
fn container(parent: &str, name: &str) -> Option<String> {
    let short = |id: &str| {
        let is_id = id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_id.then(|| id.get(..12).unwrap_or_default().to_owned())
    };
    if let Some(scope) = name.strip_suffix(".scope") {
        for engine in ["docker-", "libpod-", "cri-containerd-", "crio-", "nerdctl-"] {
            if let Some(id) = scope.strip_prefix(engine) {
                return short(id);
            }
        }
        let machine = unescape(scope.strip_prefix("machine-")?);
        // libvirt puts driver and number before the name.
        let libvirt = machine.strip_prefix("qemu-").or_else(|| machine.strip_prefix("lxc-"));
        let domain = libvirt.and_then(|rest| rest.split_once('-'));
        let domain = domain.filter(|(number, _)| number.bytes().all(|byte| byte.is_ascii_digit()));
        return Some(domain.map_or(machine.clone(), |(_, domain)| domain.to_owned()));
    }
    if let Some(machine) = name.strip_prefix("systemd-nspawn@").and_then(|rest| rest.strip_suffix(".service")) {
        return Some(unescape(machine));
    }
    if let Some(lxc) = name.strip_prefix("lxc.payload.") {
        return Some(lxc.to_owned());
    }
    match parent {
        "docker" | "libpod_parent" => short(name.strip_prefix("libpod-").unwrap_or(name)),
        "lxc" | "lxc.payload" => Some(name.to_owned()),
        _ => None,
    }
}

/// `\x2d` is `-`, as systemd escapes names.
fn unescape(name: &str) -> String {
    let mut parts = name.split("\\x");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part.get(..2).and_then(|code| u8::from_str_radix(code, 16).ok()).filter(u8::is_ascii_graphic);
        if let Some(code) = code {
            text.push(char::from(code));
            text.push_str(part.get(2..).unwrap_or_default());
        } else {
            text.push_str("\\x");
            text.push_str(part);
        }
    }
    text
}

/// The number after `key` at the begin of a line.
fn value(file: &[u8], key: &str) -> Option<f64> {
    let line = text::lines(file).find_map(|(_, line)| line.strip_prefix(key.as_bytes())?.strip_prefix(b" "));
    text::number(line?.trim_ascii()).map(|number| number as f64)
}

fn put(tree: &mut Tree, group: &Group, sink: &mut Sink) {
    let labels = [("id", group.id.as_str()), ("name", group.name.as_str())];
    if let Some(stat) = tree.text("cpu.stat") {
        let mut put = |metric, key, scale| {
            if let Some(value) = value(stat, key) {
                sink.put(metric, &labels, value / scale);
            }
        };
        put("container_cpu_usage_seconds_total", "usage_usec", MICROSECONDS);
        put("container_cpu_user_seconds_total", "user_usec", MICROSECONDS);
        put("container_cpu_system_seconds_total", "system_usec", MICROSECONDS);
        put("container_cpu_cfs_periods_total", "nr_periods", 1.0);
        put("container_cpu_cfs_throttled_periods_total", "nr_throttled", 1.0);
        put("container_cpu_cfs_throttled_seconds_total", "throttled_usec", MICROSECONDS);
    }
    if let Some(used) = tree.number("memory.current") {
        let used = used as f64;
        sink.put("container_memory_usage_bytes", &labels, used);
        if let Some(stat) = tree.text("memory.stat") {
            let inactive = value(stat, "inactive_file").unwrap_or(0.0);
            sink.put("container_memory_working_set_bytes", &labels, (used - inactive).max(0.0));
            for (metric, key) in [("container_memory_rss", "anon"), ("container_memory_cache", "file")] {
                if let Some(value) = value(stat, key) {
                    sink.put(metric, &labels, value);
                }
            }
        }
        // Without a limit there is no number.
        let limit = tree.number("memory.max").unwrap_or(0);
        sink.put("container_spec_memory_limit_bytes", &labels, limit as f64);
        if let Some(swap) = tree.number("memory.swap.current") {
            sink.put("container_memory_swap", &labels, swap as f64);
        }
        if let Some(kills) = tree.text("memory.events").and_then(|events| value(events, "oom_kill")) {
            sink.put("container_oom_events_total", &labels, kills);
        }
    }
    if let Some(stat) = tree.text("io.stat") {
        let metrics = [
            ("container_fs_reads_bytes_total", "rbytes="),
            ("container_fs_reads_total", "rios="),
            ("container_fs_writes_bytes_total", "wbytes="),
            ("container_fs_writes_total", "wios="),
        ];
        for (metric, key) in metrics {
            let counts = text::lines(stat).flat_map(|(_, line)| text::fields(line));
            let counts = counts.filter_map(|field| text::number(field.strip_prefix(key.as_bytes())?));
            sink.put(metric, &labels, counts.map(|count| count as f64).sum());
        }
    }
    if let Some(tasks) = tree.number("pids.current") {
        sink.put("container_threads", &labels, tasks as f64);
        sink.put("container_threads_max", &labels, tree.number("pids.max").unwrap_or(0) as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn containers_and_machines_are_known_by_their_paths() {
        let docker = format!("docker-{ID}.scope");
        let podman = format!("libpod-{ID}.scope");
        for (parent, name, expected) in [
            ("system.slice", docker.as_str(), Some("0123456789ab")),
            ("user.slice", &podman, Some("0123456789ab")),
            ("docker", ID, Some("0123456789ab")),
            ("docker", "buildkit", None),
            ("lxc", "web", Some("web")),
            ("", "lxc.payload.db", Some("db")),
            ("machine.slice", "machine-qemu\\x2d3\\x2dcatalog\\x2d2.scope", Some("catalog-2")),
            ("machine.slice", "machine-debian.scope", Some("debian")),
            ("machine.slice", "systemd-nspawn@a\\x2db.service", Some("a-b")),
            ("system.slice", "ssh.service", None),
            ("user.slice", "session-1.scope", None),
            ("system.slice", "docker-zz.scope", None),
        ] {
            assert_eq!(container(parent, name).as_deref(), expected, "{parent}/{name}");
        }
        assert_eq!(unescape("a\\xzz\\x2"), "a\\xzz\\x2");
    }

    #[test]
    fn a_group_tells_processor_memory_input_output_and_tasks() {
        let root = tempfile::tempdir().expect("directory");
        let group = root.path().join(format!("fs/cgroup/system.slice/docker-{ID}.scope"));
        std::fs::create_dir_all(group.join("init.scope")).expect("directory");
        std::fs::create_dir_all(root.path().join("fs/cgroup/system.slice/ssh.service")).expect("directory");
        for (file, content) in [
            (
                "cpu.stat",
                "usage_usec 2500000\nuser_usec 1500000\nsystem_usec 1000000\nnr_periods 10\nnr_throttled 2\nthrottled_usec 50000\n",
            ),
            ("memory.current", "104857600\n"),
            (
                "memory.stat",
                "anon 60000000\nfile 40000000\nkernel 100\ninactive_anon 5\nactive_file 1\ninactive_file 4857600\n",
            ),
            ("memory.max", "max\n"),
            ("memory.swap.current", "4096\n"),
            ("memory.events", "low 0\nhigh 0\nmax 0\noom 3\noom_kill 2\n"),
            (
                "io.stat",
                "8:0 rbytes=1000 wbytes=2000 rios=3 wios=4 dbytes=0 dios=0\n8:16 rbytes=500 wbytes=0 rios=1 wios=0 dbytes=0 dios=0\n",
            ),
            ("pids.current", "7\n"),
            ("pids.max", "4915\n"),
        ] {
            std::fs::write(group.join(file), content).expect("write");
        }
        let roots = Roots { sys: root.path().to_owned(), ..Roots::default() };
        let mut sink = Sink::default();
        Containers::new(&roots).read(&mut sink).expect("never fails");
        let (series, values) = sink.take();
        let found: Vec<_> =
            series.0.iter().zip(values).map(|(name, value)| (name.metric().to_owned(), value)).collect();
        let expected = [
            ("container_cpu_usage_seconds_total", 2.5),
            ("container_cpu_user_seconds_total", 1.5),
            ("container_cpu_system_seconds_total", 1.0),
            ("container_cpu_cfs_periods_total", 10.0),
            ("container_cpu_cfs_throttled_periods_total", 2.0),
            ("container_cpu_cfs_throttled_seconds_total", 0.05),
            ("container_memory_usage_bytes", 104_857_600.0),
            ("container_memory_working_set_bytes", 100_000_000.0),
            ("container_memory_rss", 60_000_000.0),
            ("container_memory_cache", 40_000_000.0),
            ("container_spec_memory_limit_bytes", 0.0),
            ("container_memory_swap", 4096.0),
            ("container_oom_events_total", 2.0),
            ("container_fs_reads_bytes_total", 1500.0),
            ("container_fs_reads_total", 4.0),
            ("container_fs_writes_bytes_total", 2000.0),
            ("container_fs_writes_total", 4.0),
            ("container_threads", 7.0),
            ("container_threads_max", 4915.0),
        ];
        assert_eq!(found, expected.map(|(name, value)| (name.to_owned(), value)));
        let names: Vec<_> = series.0.iter().map(|name| name.labels()[1].1.to_string()).collect();
        assert!(names.iter().all(|name| name == "0123456789ab"), "{names:?}");
    }
}
