//! Debian's kernel and the programs that the checks use, unpacked beside this machine's own files: nothing is installed.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

const PACKAGES: [&str; 21] = [
    "acpica-tools",
    "btrfs-progs",
    "busybox-static",
    "cifs-utils",
    "dbus",
    "dmsetup",
    "keyutils",
    "kmod",
    "linux-image-amd64",
    "lvm2",
    "mdadm",
    "nfs-common",
    "nfs-kernel-server",
    "nftables",
    "quota",
    "rpcbind",
    "smartmontools",
    "systemd",
    "systemd-timesyncd",
    "thin-provisioning-tools",
    "udev",
];
/// What the first program needs before there are files, in any order.
const EARLY_MODULES: [&str; 4] = ["virtio_pci", "9pnet_virtio", "9p", "overlay"];
/// The tables of a battery and a thermal zone, which QEMU does not have.
const POWER: &str = include_str!("power.asl");
const INIT: &str = include_str!("init.sh");

/// Debian's files below one directory.
pub(crate) struct Layer {
    /// Laid over this machine's own files.
    pub(crate) root: PathBuf,
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
    pub(crate) acpi_table: PathBuf,
}

impl Layer {
    /// Downloads and unpacks what is not there yet into `dir`.
    ///
    /// # Errors
    /// Where the packages can't be had, or have not what they should.
    pub(crate) fn make(dir: &Path) -> anyhow::Result<Self> {
        let (archives, root) = (dir.join("archives"), dir.join("layer"));
        download(&archives)?;
        if root.exists() {
            fs::remove_dir_all(&root)?;
        }
        fs::create_dir_all(&root)?;
        for entry in fs::read_dir(&archives)? {
            let archive = entry?.path();
            if archive.extension().is_some_and(|extension| extension == "deb") {
                call(Command::new("dpkg-deb").arg("--extract").arg(&archive).arg(&root))?;
            }
        }
        // Directories here would hide the links of the machine's own root.
        for name in ["bin", "lib", "sbin"] {
            let (old, usr) = (root.join(name), root.join("usr").join(name));
            if old.is_dir() && !old.is_symlink() {
                fs::create_dir_all(&usr)?;
                call(Command::new("cp").arg("--archive").arg("--target-directory").arg(&usr).arg(old.join(".")))?;
                fs::remove_dir_all(&old)?;
            }
        }
        let modules = root.join("usr/lib/modules");
        let version = fs::read_dir(&modules)?.next().context("the kernel's package has no modules")??.file_name();
        let version = version.to_str().context("a version in UTF-8")?;
        // `depmod` looks below `lib`, which is the machine's own link later on.
        symlink("usr/lib", root.join("lib"))?;
        let kmod = root.join("usr/bin/kmod");
        call(Command::new(&kmod).arg0("depmod").arg("--basedir").arg(&root).arg(version))?;
        fs::remove_file(root.join("lib"))?;
        let table = dir.join("power.aml");
        fs::write(table.with_extension("asl"), POWER)?;
        let mut iasl = Command::new(root.join("usr/bin/iasl"));
        call(iasl.arg("-p").arg(table.with_extension("")).arg(table.with_extension("asl")))?;
        let initramfs = dir.join("initramfs");
        pack(&root, &modules.join(version), dir)?;
        let kernel = root.join("boot").join(format!("vmlinuz-{version}"));
        ensure!(kernel.exists(), "{} is missing", kernel.display());
        Ok(Self { root, kernel, initramfs, acpi_table: table })
    }
}

/// Has apt find out what this machine lacks of them, dependencies included.
fn download(archives: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(archives.join("partial"))?;
    let mut apt = Command::new("apt-get");
    apt.args(["install", "--quiet=2", "--yes", "--no-install-recommends", "--reinstall", "--download-only"]);
    // Whoever it is, nothing of apt's own is written.
    apt.args(["-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=", "-o"]);
    apt.arg(format!("Dir::Cache::archives={}", archives.display())).args(PACKAGES);
    call(&mut apt)
}

/// The first files of the machine: a shell, what reaches the others, and `init.sh`.
fn pack(root: &Path, modules: &Path, dir: &Path) -> anyhow::Result<()> {
    let stage = dir.join("initramfs.d");
    if stage.exists() {
        fs::remove_dir_all(&stage)?;
    }
    for name in ["bin", "dev", "host", "layer", "modules", "new", "proc", "sys", "work", "written"] {
        fs::create_dir_all(stage.join(name))?;
    }
    let busybox = root.join("usr/bin/busybox");
    fs::copy(&busybox, stage.join("bin/busybox"))?;
    let listed = fs::read_to_string(modules.join("modules.dep"))?;
    let needs: BTreeMap<&str, &str> = listed.lines().filter_map(|line| line.split_once(':')).collect();
    let mut order: Vec<&str> = Vec::new();
    for name in EARLY_MODULES {
        let file = format!("/{name}.ko");
        let (own, needed) =
            needs.iter().find(|(path, _)| path.ends_with(&file)).with_context(|| format!("no module {name}"))?;
        // What others need stands last.
        for path in needed.split_whitespace().rev().chain([*own]) {
            if !order.contains(&path) {
                order.push(path);
            }
        }
    }
    let mut loads = String::new();
    for path in order {
        let name = Path::new(path).file_name().and_then(|name| name.to_str()).context("a module's name")?;
        fs::copy(modules.join(path), stage.join("modules").join(name))?;
        loads = format!("{loads} {name}");
    }
    let init = stage.join("init");
    fs::write(&init, INIT.replace("@MODULES@", &loads))?;
    call(Command::new("chmod").arg("755").arg(&init))?;
    let script = "cd \"$1\" && find . | \"$2\" cpio -o -H newc > \"$3\" 2>/dev/null";
    let archive = dir.join("initramfs");
    call(Command::new("sh").args(["-c", script, "sh"]).arg(&stage).arg(&busybox).arg(&archive))
}

/// Runs `command` silently.
///
/// # Errors
/// Where it fails, with what it said.
pub(crate) fn call(command: &mut Command) -> anyhow::Result<()> {
    let name = command.get_program().display().to_string();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {name}"))?;
    ensure!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
