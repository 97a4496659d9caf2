//! Updates that wait to be installed, and whether the machine waits for a restart. Names are those of Debian's
//! `prometheus-node-exporter-collectors`.
//!
//! The package manager is asked a minute after the start, when its data changes and each hour, without a lock and without the network,
//! by a thread of its own; what it said last counts until then.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::asked::Asked;
use super::{Entry, Roots, Sensor, SensorError, Sink};
use crate::clock;

pub(crate) const ENTRY: Entry =
    Entry::new("updates", |_| Vec::new(), |settings| Box::new(Updates::new(&settings.roots, settings.patience)))
        .unless(|settings| {
            let has_none = manager(&settings.roots).is_none();
            has_none.then(|| "there is neither /var/lib/dpkg/status with apt-get nor dnf".to_owned())
        });

const INTERVAL: Duration = Duration::from_hours(1);
/// While packages are installed their data changes all the time.
const INTERVAL_MIN: Duration = Duration::from_mins(1);
const STACK_BYTES: usize = 256 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manager {
    Apt,
    Dnf,
}

/// Number of packages by architecture and origin.
type Pending = BTreeMap<(String, String), u64>;

/// `apt_upgrades_pending`, `apt_package_cache_timestamp_seconds` or `yum_upgrades_pending`; `node_reboot_required`.
pub(crate) struct Updates {
    manager: Option<Manager>,
    roots: Roots,
    patience: Duration,
    made: Instant,
    asked: Option<Asked<Option<Pending>>>,
    began: Option<(Instant, Vec<Option<SystemTime>>)>,
    pending: Option<Pending>,
}

fn manager(roots: &Roots) -> Option<Manager> {
    let has = |path: &str| roots.rootfs.join(path).exists();
    if has("var/lib/dpkg/status") && has("usr/bin/apt-get") {
        Some(Manager::Apt)
    } else if has("usr/bin/dnf") {
        Some(Manager::Dnf)
    } else {
        None
    }
}

impl Updates {
    pub(crate) fn new(roots: &Roots, patience: Duration) -> Self {
        let made = clock::instant();
        Self { manager: manager(roots), roots: roots.clone(), patience, made, asked: None, began: None, pending: None }
    }

    /// When what the manager looks at changed last.
    fn changes(&self) -> Vec<Option<SystemTime>> {
        let files = ["var/lib/dpkg/status", "var/lib/apt/lists", "var/lib/rpm", "var/cache/dnf"];
        files.iter().map(|file| modified(&self.roots.rootfs.join(file))).collect()
    }

    fn refresh(&mut self, manager: Manager) {
        let changes = self.changes();
        let is_due = match &self.began {
            // It costs seconds of processor time, which a machine that starts has no use for.
            None => !self.patience.is_zero() || self.made.elapsed() >= INTERVAL_MIN,
            Some((began, before)) => {
                let age = began.elapsed();
                age >= INTERVAL || age >= INTERVAL_MIN && *before != changes
            }
        };
        if is_due {
            if self.asked.is_none() {
                self.asked = Asked::start("updates", STACK_BYTES, move || ask(manager)).ok();
            }
            self.asked.iter_mut().for_each(Asked::ask);
            self.began = Some((clock::instant(), changes));
        }
        if let Some(answer) = self.asked.as_mut().and_then(|asked| asked.answer(self.patience)) {
            self.pending = answer;
        }
    }
}

impl Sensor for Updates {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        let Some(manager) = self.manager else { return Ok(()) };
        self.refresh(manager);
        let metric = match manager {
            Manager::Apt => "apt_upgrades_pending",
            Manager::Dnf => "yum_upgrades_pending",
        };
        for ((arch, origin), count) in self.pending.iter().flatten() {
            sink.put(metric, &[("arch", arch), ("origin", origin)], *count as f64);
        }
        if self.pending.as_ref().is_some_and(BTreeMap::is_empty) {
            // As theirs does, so that nothing pending is a number.
            sink.put(metric, &[("arch", ""), ("origin", "")], 0.0);
        }
        if manager == Manager::Apt {
            let stamps = ["var/lib/apt/periodic/update-success-stamp", "var/lib/apt/lists/partial"];
            let stamp = stamps.iter().find_map(|file| modified(&self.roots.rootfs.join(file)));
            if let Some(since_epoch) = stamp.and_then(|stamp| stamp.duration_since(UNIX_EPOCH).ok()) {
                sink.put("apt_package_cache_timestamp_seconds", &[], since_epoch.as_secs_f64());
            }
            let is_required = self.roots.rootfs.join("run/reboot-required").exists();
            sink.put("node_reboot_required", &[], f64::from(u8::from(is_required)));
        }
        Ok(())
    }
}

fn modified(path: &PathBuf) -> Option<SystemTime> {
    fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

/// `None` where the manager can't tell.
fn ask(manager: Manager) -> Option<Pending> {
    let (program, arguments): (&Path, &[&str]) = match manager {
        Manager::Apt => {
            (Path::new("/usr/bin/apt-get"), &["--simulate", "-qq", "-o", "Debug::NoLocking=true", "dist-upgrade"])
        }
        Manager::Dnf => (Path::new("/usr/bin/dnf"), &["--quiet", "--cacheonly", "check-update"]),
    };
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C.UTF-8");
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output();
    let output = output.inspect_err(|error| tracing::warn!(%error, "cannot ask the package manager")).ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    // dnf ends with 100 where there are some.
    match (manager, output.status.code()) {
        (Manager::Apt, Some(0)) => Some(parse_apt(&text)),
        (Manager::Dnf, Some(0 | 100)) => Some(parse_dnf(&text)),
        (_, code) => {
            tracing::warn!(code, "the package manager can't tell what is pending");
            None
        }
    }
}

/// `Inst libc6 [2.36-9+deb12u3] (2.36-9+deb12u4 Debian:12.5/stable [amd64])`; without an old version it is a new package.
fn parse_apt(text: &str) -> Pending {
    let mut pending = Pending::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("Inst ")) {
        let Some((old, new)) = line.split_once(" (") else { continue };
        let Some((new, arch)) = new.split_once(')').and_then(|(new, _)| new.rsplit_once(" [")) else { continue };
        let Some((_, origin)) = new.split_once(' ').filter(|_| old.ends_with(']')) else { continue };
        let arch = arch.trim_end_matches(']').to_owned();
        *pending.entry((arch, origin.replace(", ", ","))).or_default() += 1;
    }
    pending
}

/// `kernel.x86_64  5.14.0-427.13.1.el9_4  baseos`, up to a list of what becomes obsolete.
fn parse_dnf(text: &str) -> Pending {
    let mut pending = Pending::new();
    for line in text.lines().take_while(|line| !line.starts_with("Obsoleting")) {
        let mut words = line.split_ascii_whitespace();
        let (Some(package), Some(_), Some(origin), None) = (words.next(), words.next(), words.next(), words.next())
        else {
            continue;
        };
        if let Some((_, arch)) = package.rsplit_once('.') {
            *pending.entry((arch.to_owned(), origin.to_owned())).or_default() += 1;
        }
    }
    pending
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(arch: &str, origin: &str) -> (String, String) {
        (arch.to_owned(), origin.to_owned())
    }

    #[test]
    fn upgrades_are_counted_by_architecture_and_origin() {
        let text = "Inst libc6 [2.36-9+deb12u3] (2.36-9+deb12u4 Debian:12.5/stable, Debian-Security:12/stable-security [amd64]) []\nInst linux-image-6.1.0-21-amd64 (6.1.90-1 Debian-Security:12/stable-security [amd64])\nInst tzdata [2023c] (2024a Debian:12.5/stable [all])\nInst bash [5.2-1] (5.2-2 Debian:12.5/stable [amd64])\nConf bash (5.2-2 Debian:12.5/stable [amd64])\nInst odd\nInst (\n";
        let expected = [
            (key("all", "Debian:12.5/stable"), 1),
            (key("amd64", "Debian:12.5/stable"), 1),
            (key("amd64", "Debian:12.5/stable,Debian-Security:12/stable-security"), 1),
        ];
        assert_eq!(parse_apt(text), expected.into());
        let text = "\nkernel.x86_64    5.14.0-427.el9   baseos\nbash.x86_64  5.1.8-9.el9  baseos\nObsoleting Packages\nx.noarch 1 y\n";
        assert_eq!(parse_dnf(text), [(key("x86_64", "baseos"), 2)].into());
    }
}
