//! A hot folder on a share whose files another machine writes: the share's own side.
//!
//! Here it is a real Samba's, mounted through the kernel's FUSE: the client gives every path another file id, knows whole seconds
//! and tells no inotify, the worst of what mounts do. The kernel's own clients for SMB and NFS go through the same in the
//! machine that `--bin machine` boots.

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

/// A mounted share.
pub trait Share {
    /// Where the server has the files.
    fn served(&self) -> &Path;
    /// Where this machine sees them.
    fn seen(&self) -> &Path;
    /// Where it is mounted: `seen` or a directory above it.
    fn mountpoint(&self) -> &Path;
    /// From now on the server does not answer, and tells nobody so.
    ///
    /// # Errors
    /// Where that can't be had.
    fn hang(&mut self) -> anyhow::Result<()>;
    /// It answers again.
    ///
    /// # Errors
    /// Where that can't be had.
    fn answer(&mut self) -> anyhow::Result<()>;
}

/// Starts a Samba that serves `served` to everybody under the name `scans`, with its own files in `dir`; it and its port.
///
/// # Errors
/// Where it does not start.
pub fn samba(dir: &Path, served: &Path) -> anyhow::Result<(Process, u16)> {
    let own = dir.join("samba");
    for folder in [served, &own] {
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
    Ok((server, port))
}

/// Mounted in user space; unmounted when dropped.
struct Rclone {
    mount: Process,
    _server: Process,
    served: PathBuf,
    seen: PathBuf,
}

impl Rclone {
    fn start(dir: &Path) -> anyhow::Result<Self> {
        let (served, seen) = (dir.join("served"), dir.join("seen"));
        fs::create_dir_all(&seen)?;
        let (server, port) = samba(dir, &served)?;
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

impl Share for Rclone {
    fn served(&self) -> &Path {
        &self.served
    }

    fn seen(&self) -> &Path {
        &self.seen
    }

    fn mountpoint(&self) -> &Path {
        &self.seen
    }

    fn hang(&mut self) -> anyhow::Result<()> {
        ensure!(self.mount.is_running()?, "the mount ended");
        self.signal(Signal::STOP)
    }

    fn answer(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::CONT)
    }
}

impl Drop for Rclone {
    fn drop(&mut self) {
        // Whoever waits for the mount gets an error then.
        drop(self.signal(Signal::CONT));
        drop(Command::new("umount").arg("--lazy").arg(&self.seen).status());
    }
}

/// Runs it in `dir` with a mount in user space.
///
/// # Errors
/// As of [`run_on`].
pub fn run(dir: &Path) -> anyhow::Result<()> {
    run_on(dir, &mut Rclone::start(dir)?)
}

/// Runs it on `share`, with everything else in `dir`.
///
/// # Errors
/// Where a count differs, or the hung share is not told.
pub fn run_on(dir: &Path, share: &mut dyn Share) -> anyhow::Result<()> {
    let data_dir = dir.join("collector");
    let collector = Collector::up(&data_dir)?;
    let inventory = dir.join("inventar.csv");
    fs::write(&inventory, "cod_unitate;nr_file;latime_mm\nU-1;100;31\nU-2;100;31\n")?;
    collector.admin(&["inventory", "import", inventory.to_str().context("path")?, "--yes"])?;
    let (state_dir, disk) = (dir.join("agent"), dir.join("disk"));
    collector.join("scan-1", &state_dir, "1s")?;
    let settings = File::options().append(true).open(state_dir.join("agent.yaml"))?;
    write!(&settings, "digitization:\n  hot_folders:\n")?;
    for (name, path) in [("share", share.seen()), ("disk", &disk)] {
        fs::create_dir_all(path)?;
        let path = path.display();
        writeln!(
            &settings,
            "    - {{name: {name}, path: {path}, template: \"{{unit}}/...\", watch: scan, scan: 300ms, reconcile: 1s, settle: 2500ms}}"
        )?;
    }
    let mut watcher = agent(&state_dir)?;

    // Each of these is one image, however it came.
    let folder = share.served().join("U-1");
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
        let told = wait_for(outcome, || Ok((number(&series)? == Some(1.0)).then_some(())));
        told.or_else(|error| {
            let all = http::query(&collector.listeners.ops, r#"digitization_hotfolder_files_total{folder="share"}"#)?;
            let seen = fs::read_dir(share.seen().join("U-1"))?.map(|entry| entry.map(|entry| entry.file_name()));
            Err(error.context(format!("{all:?}, {:?}", seen.collect::<Result<Vec<_>, _>>()?)))
        })?;
    }
    ensure!(images("U-1")? == 4, "{} images", images("U-1")?);

    // What is written over the mount counts like what its server writes; a copy is no image more.
    let over = share.seen().join("U-1");
    fs::write(over.join("0006.tif"), page(dir, "124x175", 8)?)?;
    wait_for("what this machine writes is counted", || Ok((images("U-1")? == 5).then_some(())))?;
    fs::copy(folder.join("0006.tif"), folder.join("0007.tif"))?;
    let duplicates = r#"digitization_hotfolder_files_total{folder="share",outcome="duplicate"}"#;
    wait_for("a duplicate", || Ok((number(duplicates)? == Some(1.0)).then_some(())))?;
    ensure!(images("U-1")? == 5, "{} images", images("U-1")?);

    // A share that hangs is a metric, and all else goes on: the other folder, and the sensors.
    let samples = |metric: &str| -> anyhow::Result<f64> {
        let counted = number(&format!(r#"count_over_time({metric}{{instance="scan-1"}}[1d])"#))?;
        counted.with_context(|| format!("no {metric}"))
    };
    let of_sensors = ["veghe_agent_cycles_total", "node_memory_MemAvailable_bytes"];
    share.hang()?;
    let silent = r#"digitization_hotfolder_silent_seconds{folder="share"}"#;
    wait_for("the silence is told", || Ok(number(silent)?.filter(|seconds| *seconds > 3.0)))?;
    // The collector's own agent sees the mount too.
    let hung = format!(
        r#"veghe_filesystem_fault{{instance="scan-1",fault="hung",mountpoint="{}"}}"#,
        share.mountpoint().display()
    );
    wait_for("the mount is told to hang", || Ok((number(&hung)? == Some(1.0)).then_some(())))?;
    let before = of_sensors.map(samples);
    fs::create_dir_all(disk.join("U-2"))?;
    fs::write(disk.join("U-2/0001.tif"), page(dir, "124x175", 6)?)?;
    wait_for("the other folder is counted", || Ok((images("U-2")? == 1).then_some(())))?;
    let [cycles, memory] = before;
    let (cycles, memory) = (cycles?, memory?);
    let grown = wait_for("the rounds go on", || {
        let grown = samples(of_sensors[0])? - cycles;
        Ok((grown >= 5.0).then_some(grown))
    })?;
    let others = samples(of_sensors[1])? - memory;
    ensure!(others >= grown - 1.0, "{others} values of memory in {grown} rounds");
    ensure!(number(silent)?.is_some_and(|seconds| seconds > 3.0), "the share answers");
    fs::write(folder.join("0005.tif"), page(dir, "124x175", 7)?)?;
    share.answer()?;
    wait_for("what came meanwhile is counted", || Ok((images("U-1")? == 6).then_some(())))?;
    wait_for("it answers again", || Ok((number(silent)? == Some(0.0)).then_some(())))?;
    wait_for("the mount does not hang any more", || Ok(number(&hung)?.is_none().then_some(())))?;

    // Nobody has to wait for a hung share to stop the agent.
    share.hang()?;
    wait_for("it hangs again", || Ok(number(silent)?.filter(|seconds| *seconds > 1.0)))?;
    let ended = watcher.interrupt();
    let ended = ended.with_context(|| stacks(watcher.id()));
    share.answer()?;
    ended.map(|_| ())
}

/// Where in the kernel the threads of a process are that does not end. The kernel tells root alone.
fn stacks(process: u32) -> String {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let of_task = tasks.map(|task| {
        let read = |file: &str| fs::read_to_string(task.path().join(file)).unwrap_or_default();
        format!("{}\n{}", read("comm"), read("stack"))
    });
    of_task.collect()
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
