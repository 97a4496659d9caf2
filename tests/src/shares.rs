//! A hot folder on a real Samba's share, mounted through the kernel's FUSE, whose files another machine writes: the share's own
//! side. The client gives every path another file id, knows whole seconds and tells no inotify: the worst of what mounts do.
//!
//! What it does not show: the kernel's own clients for SMB and NFS, which the machines of the tests do not have.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::http;
use crate::process::{Collector, Process, agent, wait_for};

/// A mounted share; unmounted when dropped.
struct Share {
    mount: Process,
    _server: Process,
    /// Where the server has the files.
    served: PathBuf,
    /// Where this machine sees them.
    seen: PathBuf,
}

impl Share {
    fn start(dir: &Path) -> anyhow::Result<Self> {
        let (served, seen, own) = (dir.join("served"), dir.join("seen"), dir.join("samba"));
        for folder in [&served, &seen, &own] {
            fs::create_dir_all(folder)?;
        }
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let settings = dir.join("smb.conf");
        let own = own.display();
        fs::write(
            &settings,
            format!(
                "[global]\nserver role = standalone server\nsmb ports = {port}\ninterfaces = lo\nbind interfaces only = yes\n\
                 state directory = {own}\nlock directory = {own}\npid directory = {own}\ncache directory = {own}\n\
                 private dir = {own}\nncalrpc dir = {own}/nc\nlog file = {own}/log\nmap to guest = Bad User\n\
                 guest account = root\nload printers = no\ndisable spoolss = yes\n\
                 [scans]\npath = {}\nguest ok = yes\nread only = no\nforce user = root\n",
                served.display()
            ),
        )?;
        let mut samba = Command::new("smbd");
        samba.args(["-F", "--no-process-group", "-s"]).arg(&settings);
        let server = Process::start(&mut samba, &dir.join("smbd.log"))?;
        wait_for("Samba listens", || Ok(std::net::TcpStream::connect(("127.0.0.1", port)).ok()))?;
        let mut rclone = Command::new("rclone");
        rclone.arg("mount").arg(format!(":smb,host=127.0.0.1,port={port},user=guest:scans")).arg(&seen).args([
            "--dir-cache-time",
            "500ms",
            "--attr-timeout",
            "500ms",
            "--vfs-cache-mode",
            "off",
        ]);
        let mut mount = Process::start(&mut rclone, &dir.join("rclone.log"))?;
        fs::write(served.join("mounted"), "")?;
        let probe = seen.join("mounted");
        wait_for("the share is mounted", || {
            ensure!(mount.is_running()?, "the mount ended: {}", mount.output()?);
            Ok(probe.exists().then_some(()))
        })?;
        fs::remove_file(served.join("mounted"))?;
        Ok(Self { mount, _server: server, served, seen })
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = Pid::from_raw(self.mount.id().cast_signed()).context("process id")?;
        kill_process(pid, signal).context("cannot signal the mount")
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        // Whoever waits for the mount gets an error then.
        drop(self.signal(Signal::CONT));
        drop(Command::new("umount").arg("--lazy").arg(&self.seen).status());
    }
}

/// Runs it in `dir`.
///
/// # Errors
/// Where a count differs, or the hung share is not told.
pub fn run(dir: &Path) -> anyhow::Result<()> {
    let mut share = Share::start(dir)?;
    let data_dir = dir.join("collector");
    let collector = Collector::up(&data_dir)?;
    let inventory = dir.join("inventar.csv");
    fs::write(&inventory, "cod_unitate;nr_file;latime_mm\nU-1;100;31\nU-2;100;31\n")?;
    collector.admin(&["inventory", "import", inventory.to_str().context("path")?, "--yes"])?;
    let (state_dir, disk) = (dir.join("agent"), dir.join("disk"));
    collector.join("scan-1", &state_dir, "1s")?;
    let settings = File::options().append(true).open(state_dir.join("agent.yaml"))?;
    write!(&settings, "digitization:\n  hot_folders:\n")?;
    for (name, path) in [("share", &share.seen), ("disk", &disk)] {
        fs::create_dir_all(path)?;
        let path = path.display();
        writeln!(
            &settings,
            "    - {{name: {name}, path: {path}, template: \"{{unit}}/...\", watch: scan, scan: 300ms, reconcile: 1s, settle: 2500ms}}"
        )?;
    }
    let mut watcher = agent(&state_dir)?;

    // Each of these is one image, however it came.
    let folder = share.served.join("U-1");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("0001.tif"), page(dir, "1240x1753", 1)?)?;
    let slow = page(dir, "124x175", 2)?;
    let mut file = File::create(folder.join("0002.tif"))?;
    for part in slow.chunks(slow.len() / 3 + 1) {
        file.write_all(part)?;
        thread::sleep(Duration::from_millis(600));
    }
    drop(file);
    fs::write(folder.join("0003.tif.tmp"), page(dir, "124x175", 3)?)?;
    fs::rename(folder.join("0003.tif.tmp"), folder.join("0003.tif"))?;
    let torn = page(dir, "124x175", 4)?;
    fs::write(folder.join("0004.tif"), &torn[..torn.len() / 2])?;
    let images = |unit: &str| -> anyhow::Result<u64> {
        let url = collector.listeners.ops.join("/v1/digitization/units/")?.join(unit)?;
        let told: Value = serde_json::from_str(&http::get(&url)?)?;
        told["images"].as_u64().context("no images")
    };
    let number = |expression: &str| http::query_one(&collector.listeners.ops, expression);
    wait_for("three are counted", || Ok((images("U-1")? == 3).then_some(())))?;
    ensure!(images("U-1")? == 3, "a torn file counts");
    fs::write(folder.join("0004.tif"), &torn)?;
    wait_for("the torn one is whole", || Ok((images("U-1")? == 4).then_some(())))?;

    // A rename gives another file id there, and a rewrite another content: neither is an image more.
    fs::rename(folder.join("0001.tif"), folder.join("0001-r.tif"))?;
    fs::write(folder.join("0002.tif"), page(dir, "124x175", 5)?)?;
    for outcome in ["moved", "replaced"] {
        let series = format!(r#"digitization_hotfolder_files_total{{folder="share",outcome="{outcome}"}}"#);
        wait_for(outcome, || Ok((number(&series)? == Some(1.0)).then_some(())))?;
    }
    ensure!(images("U-1")? == 4, "{} images", images("U-1")?);

    // A share that hangs is a metric, and the other folder goes on.
    share.signal(Signal::STOP)?;
    let silent = r#"digitization_hotfolder_silent_seconds{folder="share"}"#;
    wait_for("the silence is told", || Ok(number(silent)?.filter(|seconds| *seconds > 3.0)))?;
    fs::create_dir_all(disk.join("U-2"))?;
    fs::write(disk.join("U-2/0001.tif"), page(dir, "124x175", 6)?)?;
    wait_for("the other folder is counted", || Ok((images("U-2")? == 1).then_some(())))?;
    ensure!(number(silent)?.is_some_and(|seconds| seconds > 3.0), "the share answers");
    fs::write(folder.join("0005.tif"), page(dir, "124x175", 7)?)?;
    share.signal(Signal::CONT)?;
    wait_for("what came meanwhile is counted", || Ok((images("U-1")? == 5).then_some(())))?;
    wait_for("it answers again", || Ok((number(silent)? == Some(0.0)).then_some(())))?;

    // Nobody has to wait for a hung share to stop the agent.
    share.signal(Signal::STOP)?;
    wait_for("it hangs again", || Ok(number(silent)?.filter(|seconds| *seconds > 1.0)))?;
    watcher.interrupt()?;
    ensure!(share.mount.is_running()?, "the mount ended");
    Ok(())
}

/// An uncompressed page of that size, of which every number has other pixels.
fn page(dir: &Path, size: &str, number: u32) -> anyhow::Result<Vec<u8>> {
    let path = dir.join(format!("page-{number}.tif"));
    let made = Command::new("/usr/bin/convert")
        .args(["-size", size, "-seed", &number.to_string(), "plasma:", "-depth", "8", "-type", "TrueColor"])
        .args(["-compress", "None", "-units", "PixelsPerInch", "-density", "150"])
        .arg(&path)
        .status()
        .context("ImageMagick; tests/run installs it")?;
    ensure!(made.success(), "no page");
    Ok(fs::read(path)?)
}
