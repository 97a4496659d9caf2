//! The `updates` sensor at a real dnf with a repository of its own, in a name space of mounts where Debian's packages are unseen.

#![cfg(target_os = "linux")]

mod apart;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use veghe_agent::reading::{SeriesName, Sink};
use veghe_agent::sensors::{self, SensorSettings};

#[test]
fn dnf_tells_pending_updates_and_a_restart_that_is_due() {
    apart::run("dnf_tells_pending_updates_and_a_restart_that_is_due", "/usr/bin/dnf", inside);
}

fn run(program: &str, words: &[&str]) {
    let output = Command::new(program).args(words).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Builds a package and returns its path.
fn package(work: &Path, name: &str, version: &str) -> String {
    let spec = work.join(format!("{name}-{version}.spec"));
    let text = format!(
        "Name: {name}\nVersion: {version}\nRelease: 1\nSummary: A package\nLicense: MIT\nBuildArch: noarch\n%description\nA package.\n%files\n"
    );
    fs::write(&spec, text).expect("spec");
    let (top, spec) = (format!("_topdir {}", work.display()), spec.to_str().expect("text"));
    run("rpmbuild", &["--quiet", "-bb", "--define", &top, spec]);
    format!("{}/RPMS/noarch/{name}-{version}-1.noarch.rpm", work.display())
}

/// What the sensor tells of packages and restarts.
fn told() -> Vec<String> {
    let settings = SensorSettings { patience: Duration::from_mins(2), ..SensorSettings::default() };
    let mut sensor = sensors::all(&settings).into_iter().find(|sensor| sensor.name() == "updates").expect("the sensor");
    let mut sink = Sink::default();
    sensor.read(&mut sink).expect("never fails");
    let (series, values) = sink.take();
    let line = |(name, value): (&SeriesName, f64)| {
        let labels: Vec<_> = name.labels().iter().map(|(label, value)| format!("{label}={value}")).collect();
        format!("{}{{{}}} {value}", name.metric(), labels.join(","))
    };
    series.0.iter().zip(values).map(line).collect()
}

fn inside() {
    let work = tempfile::tempdir().expect("directory");
    let [old, new] = ["1", "2"].map(|version| package(work.path(), "scanare", version));
    let repository = work.path().join("repository");
    fs::create_dir(&repository).expect("directory");
    fs::copy(new, repository.join("scanare-2.rpm")).expect("copy");
    run("createrepo_c", &["--quiet", repository.to_str().expect("text")]);

    // Debian's own packages are out of sight, and rpm's database is where Red Hat has it.
    for place in ["/var/lib/dpkg", "/var/lib/rpm", "/var/cache/dnf", "/var/lib/dnf", "/usr/lib/rpm/macros.d"] {
        run("mount", &["-t", "tmpfs", "-o", "mode=755", "tmpfs", place]);
    }
    fs::write("/usr/lib/rpm/macros.d/macros.database", "%_dbpath /var/lib/rpm\n").expect("macros");
    let place = repository.display();
    let text = format!("[main]\nreposdir={place}\n[arhiva]\nname=Arhiva\nbaseurl=file://{place}\ngpgcheck=0\n");
    let settings = work.path().join("dnf.conf");
    fs::write(&settings, text).expect("settings");
    run("mount", &["--bind", settings.to_str().expect("text"), "/etc/dnf/dnf.conf"]);
    run("rpm", &["--initdb"]);
    run("rpm", &["--install", "--nodeps", "--force-debian", &old]);

    assert_eq!(told(), Vec::<String>::new(), "nothing is known of the repository yet");
    run("dnf", &["--quiet", "makecache"]);
    let pending = "yum_upgrades_pending{arch=noarch,origin=arhiva} 1";
    assert_eq!(told(), [pending, "node_reboot_required{} 0"]);

    // One of those after whose update dnf asks for a restart.
    run("rpm", &["--install", "--nodeps", "--force-debian", &package(work.path(), "systemd", "1")]);
    assert_eq!(told(), [pending, "node_reboot_required{} 1"]);

    run("dnf", &["--quiet", "--assumeyes", "upgrade", "scanare"]);
    assert_eq!(told(), ["yum_upgrades_pending{arch=,origin=} 0", "node_reboot_required{} 1"]);
}
