//! Debian's systemd-timesyncd, which keeps the machine's clock by a chrony beside it that leaves the clock alone.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::ensure;
use veghe_tests::process::{Process, wait_for};

use crate::host::shell;
use crate::inside::{Machine, SCRATCH, WORK};

const SYNCHRONIZED: &str = "/run/systemd/timesync/synchronized";

pub(crate) fn timesyncd(machine: &Machine) -> anyhow::Result<String> {
    let dir = Path::new(SCRATCH).join("ntp");
    fs::create_dir_all(&dir)?;
    let own = dir.display();
    let text = format!(
        "local stratum 8\nbindaddress 127.0.0.1\nallow 127.0.0.1\nuser root\ncmdport 0\nbindcmdaddress /\npidfile {own}/pid\n"
    );
    fs::write(dir.join("chrony.conf"), text)?;
    let mut command = Command::new("/usr/sbin/chronyd");
    command.args(["-x", "-d", "-f"]).arg(dir.join("chrony.conf"));
    let mut server = Process::start(&mut command, &Path::new(WORK).join("chronyd.log"))?;
    let settings = Path::new("/etc/systemd/timesyncd.conf.d");
    fs::create_dir_all(settings)?;
    fs::write(settings.join("machine.conf"), "[Time]\nNTP=127.0.0.1\n")?;
    // What the package's installation does. Where it was enabled once it runs already, with another server.
    shell("systemd-sysusers systemd-timesync.conf; systemctl restart systemd-timesyncd")?;
    let synchronized = wait_for("systemd-timesyncd synchronizes", || {
        ensure!(server.is_running()?, "chronyd ended: {}", server.output()?);
        Ok(Path::new(SYNCHRONIZED).exists().then_some(()))
    });
    shell(&format!("journalctl --no-pager --output=cat --unit=systemd-timesyncd > {WORK}/systemd-timesyncd.log"))?;
    synchronized?;
    let name = "a_real_timesyncd_tells_when_it_synchronized_last";
    let told = machine.test("timesyncd", "timesync", name, "synchronized at")?;
    shell("systemctl stop systemd-timesyncd")?;
    Ok(told)
}
