//! Updates that wait to be installed, and whether the machine waits for a restart. Names are those of Debian's
//! `prometheus-node-exporter-collectors`.
//!
//! The package manager is asked a minute after the start, when its data changes and each hour, without a lock and without the network,
//! by a thread of its own; what it said last counts until then.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
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
/// Where dnf 4 and dnf 5 keep what they know of repositories.
const DNF_CACHES: [&str; 2] = ["var/cache/dnf", "var/cache/libdnf5"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manager {
    Apt,
    Dnf,
}

/// Number of packages by architecture and origin.
type Pending = BTreeMap<(String, String), u64>;

/// What the package manager said.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    pending: Pending,
    /// Where it is the one that knows.
    is_reboot_required: Option<bool>,
}

/// `apt_upgrades_pending`, `apt_package_cache_timestamp_seconds` or `yum_upgrades_pending`; `node_reboot_required`.
pub(crate) struct Updates {
    manager: Option<Manager>,
    roots: Roots,
    patience: Duration,
    made: Instant,
    asked: Option<Asked<Option<Told>>>,
    began: Option<(Instant, Vec<Option<SystemTime>>)>,
    told: Option<Told>,
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
        Self { manager: manager(roots), roots: roots.clone(), patience, made, asked: None, began: None, told: None }
    }

    /// When what the manager looks at changed last.
    fn changes(&self) -> Vec<Option<SystemTime>> {
        let apt = ["var/lib/dpkg/status", "var/lib/apt/lists"];
        let dnf = ["var/lib/rpm", "usr/lib/sysimage/rpm"];
        apt.iter().chain(&dnf).chain(&DNF_CACHES).map(|file| modified(&self.roots.rootfs.join(file))).collect()
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
                let roots = self.roots.clone();
                self.asked = Asked::start("updates", STACK_BYTES, move || ask(manager, &roots)).ok();
            }
            self.asked.iter_mut().for_each(Asked::ask);
            self.began = Some((clock::instant(), changes));
        }
        if let Some(answer) = self.asked.as_mut().and_then(|asked| asked.answer(self.patience)) {
            self.told = answer;
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
        if let Some(told) = &self.told {
            for ((arch, origin), count) in &told.pending {
                sink.put(metric, &[("arch", arch), ("origin", origin)], *count as f64);
            }
            if told.pending.is_empty() {
                // As theirs does, so that nothing pending is a number.
                sink.put(metric, &[("arch", ""), ("origin", "")], 0.0);
            }
        }
        let mut is_reboot_required = self.told.as_ref().and_then(|told| told.is_reboot_required);
        if manager == Manager::Apt {
            let stamps = ["var/lib/apt/periodic/update-success-stamp", "var/lib/apt/lists/partial"];
            let stamp = stamps.iter().find_map(|file| modified(&self.roots.rootfs.join(file)));
            if let Some(since_epoch) = stamp.and_then(|stamp| stamp.duration_since(UNIX_EPOCH).ok()) {
                sink.put("apt_package_cache_timestamp_seconds", &[], since_epoch.as_secs_f64());
            }
            is_reboot_required = Some(self.roots.rootfs.join("run/reboot-required").exists());
        }
        if let Some(is_required) = is_reboot_required {
            sink.put("node_reboot_required", &[], f64::from(u8::from(is_required)));
        }
        Ok(())
    }
}

fn modified(path: &PathBuf) -> Option<SystemTime> {
    fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

/// `None` where the manager can't tell.
fn ask(manager: Manager, roots: &Roots) -> Option<Told> {
    match manager {
        Manager::Apt => {
            let words = ["--simulate", "-qq", "-o", "Debug::NoLocking=true", "dist-upgrade"];
            let (code, text) = run("/usr/bin/apt-get", &words)?;
            let pending = (code == Some(0)).then(|| parse_apt(&text)).or_else(|| untold(code))?;
            Some(Told { pending, is_reboot_required: None })
        }
        Manager::Dnf => {
            if !has_metadata(roots) {
                // It would say that nothing is pending.
                tracing::warn!("dnf has no metadata of its repositories yet: `dnf makecache` fetches them");
                return None;
            }
            let (code, text) = run("/usr/bin/dnf", &["--quiet", "--cacheonly", "check-update"])?;
            // It ends with 100 where there are some.
            let pending = matches!(code, Some(0 | 100)).then(|| parse_dnf(&text)).or_else(|| untold(code))?;
            let (code, text) = run("/usr/bin/dnf", &["--quiet", "--cacheonly", "needs-restarting", "--reboothint"])?;
            Some(Told { pending, is_reboot_required: parse_reboot_hint(code, &text) })
        }
    }
}

fn untold<T>(code: Option<i32>) -> Option<T> {
    tracing::warn!(code, "the package manager can't tell what is pending");
    None
}

/// Exit status and output.
fn run(program: &str, words: &[&str]) -> Option<(Option<i32>, String)> {
    let mut command = Command::new(program);
    command.args(words).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C.UTF-8");
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output();
    let output = output.inspect_err(|error| tracing::warn!(%error, "cannot ask the package manager")).ok()?;
    Some((output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned()))
}

/// Whether dnf fetched what its repositories have, ever.
fn has_metadata(roots: &Roots) -> bool {
    let repositories = DNF_CACHES.iter().filter_map(|cache| fs::read_dir(roots.rootfs.join(cache)).ok()).flatten();
    repositories.flatten().any(|repository| repository.path().join("repodata/repomd.xml").exists())
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

/// The plugin ends with 1 where a restart is due, as dnf does where it has no such plugin.
fn parse_reboot_hint(code: Option<i32>, text: &str) -> Option<bool> {
    match code {
        Some(0) => Some(false),
        Some(1) if text.contains("Reboot is required") => Some(true),
        _ => None,
    }
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

    #[test]
    fn a_missing_plugin_is_no_restart_that_is_due() {
        let required = "Core libraries or services have been updated since boot-up:\n  * systemd\n\nReboot is required to fully utilize these updates.\n";
        assert_eq!(parse_reboot_hint(Some(1), required), Some(true));
        assert_eq!(parse_reboot_hint(Some(0), "Reboot should not be necessary.\n"), Some(false));
        assert_eq!(parse_reboot_hint(Some(1), ""), None);
    }
}
