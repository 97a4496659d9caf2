//! This side: builds the programs, boots the machine and tells what it tells.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use veghe_tests::process::{self, Process, cargo, profile_directory};

use crate::checks;
use crate::packages::{Layer, call};

/// As in `inside`: the last line that the machine tells.
pub(crate) const END: &str = "end:";
const QEMU: &str = "qemu-system-x86_64";
/// Disks by the bus that they are on; each is a sparse file.
const DISKS: [(&str, &str); 8] = [
    ("sata0", "ide-hd,bus=ide.0,serial=SATA0"),
    ("sata1", "ide-hd,bus=ide.1,serial=SATA1"),
    ("sata2", "ide-hd,bus=ide.2,serial=SATA2"),
    ("sata3", "ide-hd,bus=ide.3,serial=SATA3"),
    ("nvme0", "nvme,serial=NVME0"),
    ("nvme1", "nvme,serial=NVME1"),
    // node_exporter 1.5 knows no serial number of these.
    ("virtio0", "virtio-blk-pci"),
    ("virtio1", "virtio-blk-pci"),
];
const DISK_BYTES: u64 = 600 << 20;
/// An emulated machine that says nothing for so long hangs.
const SILENCE: Duration = Duration::from_mins(15);

/// Prints the checks.
pub(crate) fn list() -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for check in checks::ALL {
        writeln!(out, "{:<24} {}", check.name, check.shows)?;
    }
    Ok(())
}

/// Boots the machine and runs the checks `only`, or all.
///
/// # Errors
/// Where there is no QEMU or kernel, the programs can't be built, or the machine says nothing any more.
pub(crate) fn run(only: &[String]) -> anyhow::Result<ExitCode> {
    let qemu = Command::new(QEMU).arg("--version").stdout(Stdio::null()).status();
    qemu.with_context(|| format!("no {QEMU}; install the Debian package qemu-system-x86"))?;
    let dir = profile_directory().parent().context("target directory")?.join("machine");
    let layer = Layer::make(&dir).context("no kernel and programs for the machine")?;
    let programs = process::program("veghe-agent").parent().context("programs")?.to_owned();
    let work = dir.join("work");
    if work.exists() {
        fs::remove_dir_all(&work)?;
    }
    fs::create_dir_all(&work)?;
    fs::write(work.join("tests.json"), serde_json::to_vec(&tests()?)?)?;
    install(&layer, &programs, only)?;
    let mut machine = boot(&layer, &dir, &work)?;
    let ended = follow(&mut machine, &work.join("results"));
    machine.kill()?;
    let code = ended.with_context(|| format!("the machine's console is in {}", dir.join("console").display()))?;
    Ok(ExitCode::from(code))
}

/// The agent's tests that the checks run, by name.
fn tests() -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let mut command = cargo();
    command.args(["test", "--package", "veghe-agent", "--no-run", "--quiet", "--message-format=json"]);
    command.args(checks::TESTS.iter().flat_map(|test| ["--test", test]));
    let output = command.stderr(Stdio::inherit()).output().context("cargo")?;
    ensure!(output.status.success(), "cannot build the agent's tests");
    let mut found = BTreeMap::new();
    for line in BufReader::new(&*output.stdout).lines() {
        let Ok(message) = serde_json::from_str::<Value>(&line?) else { continue };
        let name = message["target"]["name"].as_str().filter(|name| checks::TESTS.contains(name));
        if let (Some(name), Some(path)) = (name, message["executable"].as_str()) {
            found.insert(name.to_owned(), path.into());
        }
    }
    for test in checks::TESTS {
        ensure!(found.contains_key(test), "cargo tells no program of the test {test}");
    }
    Ok(found)
}

/// The unit that runs the checks in the machine.
fn install(layer: &Layer, programs: &Path, only: &[String]) -> anyhow::Result<()> {
    let units = layer.root.join("etc/systemd/system");
    fs::create_dir_all(&units)?;
    fs::write(units.join("machine.target"), include_str!("machine.target"))?;
    // Of the build just made: this program may have been replaced by it.
    let own = programs.join("machine");
    let only = only.iter().fold(String::new(), |words, name| words + " --only " + name);
    let unit = format!(
        "[Unit]\nDescription=The checks\nAfter=basic.target\n[Service]\nType=exec\nExecStart={} --inside{only}\n\
         StandardOutput=file:/mnt/work/results\nStandardError=inherit\nTasksMax=infinity\n\
         Environment=HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin VEGHE_PROGRAMS={}\n\
         ExecStopPost=/usr/bin/systemctl poweroff --force --force\n",
        own.display(),
        programs.display()
    );
    fs::write(units.join("machine.service"), unit)?;
    // Host's files in /tmp are not to be tidied up in memory.
    let tidied = layer.root.join("etc/tmpfiles.d");
    fs::create_dir_all(&tidied)?;
    fs::write(tidied.join("tmp.conf"), "")?;
    Ok(())
}

/// Whether the processor runs another system by itself, and this user may have it do so.
fn has_kvm() -> bool {
    let flags = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let can = flags.split_whitespace().any(|flag| ["vmx", "svm"].contains(&flag));
    can && File::options().read(true).write(true).open("/dev/kvm").is_ok()
}

fn boot(layer: &Layer, dir: &Path, work: &Path) -> anyhow::Result<Process> {
    let mut qemu = Command::new(QEMU);
    qemu.args(["-nodefaults", "-display", "none", "-no-reboot", "-machine", "q35"]);
    // A processor with little more than the least: what it has more is slow where it is emulated.
    let accelerator = if has_kvm() { "kvm" } else { "tcg,thread=multi,tb-size=512" };
    qemu.args(["-accel", accelerator, "-cpu", "Nehalem", "-smp", "2,sockets=2", "-m", "3G"]);
    for node in 0..2 {
        qemu.arg("-object").arg(format!("memory-backend-ram,id=m{node},size=1536M"));
        qemu.arg("-numa").arg(format!("node,cpus={node},memdev=m{node}"));
    }
    qemu.arg("-kernel").arg(&layer.kernel).arg("-initrd").arg(&layer.initramfs);
    qemu.args(["-append", "console=ttyS0 quiet modprobe.blacklist=kvm_amd,kvm_intel systemd.show_status=no"]);
    let console = dir.join("console");
    qemu.arg("-serial").arg(format!("file:{}", console.display()));
    qemu.arg("-acpitable").arg(format!("file={}", layer.acpi_table.display()));
    for (tag, path, rest) in [
        ("host", Path::new("/"), ",readonly=on,multidevs=remap"),
        ("layer", &layer.root, ",readonly=on"),
        ("work", work, ""),
    ] {
        let path = path.display();
        qemu.arg("-virtfs").arg(format!("local,path={path},mount_tag={tag},security_model=none{rest}"));
    }
    let disks = dir.join("disks");
    fs::create_dir_all(&disks)?;
    for (name, device) in DISKS {
        let path = disks.join(name);
        File::create(&path)?.set_len(DISK_BYTES)?;
        qemu.arg("-drive").arg(format!("if=none,id={name},file={},format=raw,cache=unsafe", path.display()));
        qemu.arg("-device").arg(format!("{device},drive={name}"));
    }
    for (name, device) in [("net0", "e1000"), ("net1", "e1000"), ("net2", "virtio-net-pci")] {
        // Each with the others, and nobody else.
        qemu.arg("-netdev").arg(format!("hubport,id={name},hubid=0"));
        qemu.arg("-device").arg(format!("{device},netdev={name}"));
    }
    qemu.args(["-device", "i6300esb", "-device", "virtio-balloon"]);
    Process::start(&mut qemu, &dir.join("qemu.log"))
}

/// Prints what comes into `results` until the machine says how it ended.
fn follow(machine: &mut Process, results: &Path) -> anyhow::Result<u8> {
    let (mut told, mut last) = (0, process::now());
    loop {
        let mut text = String::new();
        if let Ok(mut file) = File::open(results) {
            file.seek(SeekFrom::Start(told))?;
            file.read_to_string(&mut text)?;
        }
        // The rest of a line comes later.
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        for line in text.get(..whole).unwrap_or_default().lines() {
            last = process::now();
            if let Some(code) = line.strip_prefix(END) {
                return code.trim().parse().context("the machine's last line");
            }
            writeln!(std::io::stdout(), "{line}")?;
        }
        told += whole as u64;
        ensure!(whole > 0 || machine.is_running()?, "the machine ended early: {}", machine.output()?);
        ensure!(last.elapsed() < SILENCE, "the machine says nothing any more");
        thread::sleep(Duration::from_millis(200));
    }
}

/// Of `call`, which the checks use too.
pub(crate) fn shell(script: &str) -> anyhow::Result<()> {
    call(Command::new("bash").args(["-euc", script]))
}
