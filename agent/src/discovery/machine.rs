//! What names of files, directories and devices tell.

use std::fs;
use std::path::Path;

use veghe_wire::remote::Finding;

use super::plain;
use crate::sensors::Roots;
use crate::sensors::linux::is_numbered;

/// Entries of one directory that are looked at.
const MAX_ENTRIES: usize = 1000;

/// USB vendors whose devices are mostly uninterruptible power supplies, as in NUT's list of drivers, or a few products.
const UPS_VENDORS: [(&str, &str); 8] = [
    ("0463", "Eaton or MGE"),
    ("0483", "AEG or Protect"),
    ("051d", "APC"),
    ("06da", "Phoenixtec or Mecer"),
    ("0665", "Cypress (many brands)"),
    ("0764", "CyberPower"),
    ("09ae", "Tripp Lite"),
    ("09d6", "KSTAR"),
];
/// 0483 is also of many other things by that maker of chips.
const UPS_PRODUCTS: [(&str, &str); 1] = [("0483", "a113")];

/// Where certificates of services lie; never the system's roots of trust.
const CERTIFICATES: [&str; 8] = [
    "/etc/letsencrypt/live/*/fullchain.pem",
    "/etc/ssl/private/*.crt",
    "/etc/ssl/private/*.pem",
    "/etc/nginx/ssl/*.crt",
    "/etc/nginx/ssl/*.pem",
    "/etc/apache2/ssl/*.crt",
    "/etc/apache2/ssl/*.pem",
    "/etc/haproxy/certs/*.pem",
];

const SOCKETS: [(&str, &str, &str); 8] = [
    ("database", "/run/postgresql/.s.PGSQL.5432", "PostgreSQL"),
    ("database", "/run/mysqld/mysqld.sock", "MySQL or MariaDB"),
    ("database", "/run/redis/redis-server.sock", "Redis"),
    ("database", "/run/valkey/valkey.sock", "Valkey"),
    ("database", "/tmp/mongodb-27017.sock", "MongoDB"),
    ("containers", "/run/docker.sock", "Docker"),
    ("containers", "/run/podman/podman.sock", "Podman"),
    ("containers", "/run/containerd/containerd.sock", "containerd"),
];

/// Each with the settings that it is for, if it is for any alone.
const TOOLS: [(&str, &str, &str); 6] = [
    ("smartctl", "health of drives", ""),
    ("restic", "backups", ""),
    ("borg", "backups", ""),
    ("sanoid", "snapshots of ZFS", ""),
    ("scanimage", "scanners that SANE lists", "sensors:\n  sane: {enabled: true}\n"),
    ("tape-status", "tape drives", ""),
];
const TOOL_DIRECTORIES: [&str; 4] = ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin"];

/// What there is, in no order.
pub(super) fn look(roots: &Roots) -> Vec<Finding> {
    let mut found = Vec::new();
    for device in names(&roots.sys.join("class/nvme")) {
        let model = text(&roots.sys.join("class/nvme").join(&device).join("model"));
        found.push(plain("nvme", device, model));
    }
    for device in names(&roots.sys.join("class/scsi_tape")) {
        // A drive has other devices for its modes.
        if is_numbered(&device, "st") {
            let model = text(&roots.sys.join("class/scsi_tape").join(&device).join("device/model"));
            let settings = "sensors:\n  tape: {enabled: true}\n".to_owned();
            found.push(Finding { settings, ..plain("tape", device, model) });
        }
    }
    for device in names(&roots.sys.join("block")) {
        let array = roots.sys.join("block").join(&device).join("md");
        if array.is_dir() {
            let detail = format!("{}, {} drives", text(&array.join("level")), text(&array.join("raid_disks")));
            found.push(plain("array", device, detail));
        }
    }
    for device in names(&roots.sys.join("bus/usb/devices")) {
        let path = roots.sys.join("bus/usb/devices").join(&device);
        let (vendor, product) = (text(&path.join("idVendor")), text(&path.join("idProduct")));
        let is_one_of_many = UPS_PRODUCTS.iter().any(|(of, _)| *of == vendor);
        let is_other = is_one_of_many && !UPS_PRODUCTS.contains(&(vendor.as_str(), product.as_str()));
        if let (Some((_, maker)), false) = (UPS_VENDORS.iter().find(|(id, _)| *id == vendor), is_other) {
            let name = text(&path.join("product"));
            let detail = if name.is_empty() { format!("{maker}, {vendor}:{product}") } else { name };
            found.push(plain("ups", format!("usb {device}"), detail));
        }
    }
    let below = |path: &str| roots.rootfs.join(path.trim_start_matches('/'));
    for pattern in CERTIFICATES {
        let files = crate::sensors::found_files(&below(pattern).to_string_lossy(), MAX_ENTRIES).len();
        if files > 0 {
            let settings = format!("sensors:\n  certificates:\n    files: [\"{pattern}\"]\n");
            found.push(Finding { settings, ..plain("certificates", pattern, format!("{files} files")) });
        }
    }
    for (kind, path, what) in SOCKETS.iter().filter(|(_, path, _)| below(path).exists()) {
        found.push(plain(kind, *path, *what));
    }
    for (tool, what, settings) in TOOLS {
        if let Some(path) =
            TOOL_DIRECTORIES.iter().map(|dir| format!("{dir}/{tool}")).find(|path| below(path).is_file())
        {
            found.push(Finding { settings: settings.to_owned(), ..plain("tool", tool, format!("{path}, {what}")) });
        }
    }
    found
}

fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let entries = entries.flatten().take(MAX_ENTRIES);
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// A small file's text, empty where it can't be read.
fn text(path: &Path) -> String {
    fs::read(path).map_or_else(|_absent| String::new(), |bytes| String::from_utf8_lossy(&bytes).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use veghe_wire::remote::FOUND_WORDS;

    use super::*;

    /// Names of products are the same in every language; whatever else is said is in the list that pages translate.
    #[test]
    fn what_is_said_in_words_is_said_in_words_that_pages_know() {
        const NAMES: [&str; 29] = [
            "APC",
            "Apache",
            "Ceph",
            "CoreDNS",
            "CyberPower",
            "Docker",
            "Dovecot",
            "Elasticsearch",
            "HAProxy",
            "KSTAR",
            "Kafka",
            "MinIO",
            "MongoDB",
            "PHP-FPM",
            "Podman",
            "Postfix",
            "PostgreSQL",
            "Proxmox",
            "RabbitMQ",
            "Redis",
            "SMART",
            "Tripp Lite",
            "Unbound",
            "Valkey",
            "ZFS",
            "containerd",
            "memcached",
            "nginx",
            "restic",
        ];
        let exporters = super::super::exporters::KNOWN.iter().map(|(_, _, what)| *what);
        let makers = UPS_VENDORS.iter().map(|(_, maker)| *maker);
        let sockets = SOCKETS.iter().map(|(_, _, what)| *what);
        let details = exporters.chain(makers).chain(sockets).chain(TOOLS.iter().map(|(_, what, _)| *what));
        let kinds = SOCKETS.iter().map(|(kind, ..)| *kind);
        let unknown: Vec<&str> =
            details.chain(kinds).filter(|word| !FOUND_WORDS.contains(word) && !NAMES.contains(word)).collect();
        assert_eq!(unknown, [""; 0], "add them to FOUND_WORDS or, if they are names, here");
    }

    #[test]
    fn a_server_with_everything_is_described() {
        let dir = tempfile::tempdir().expect("directory");
        let file = |path: &str, content: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().expect("parent")).expect("directory");
            fs::write(path, content).expect("write");
        };
        file("sys/class/nvme/nvme0/model", "Samsung SSD 990 PRO 2TB                 \n");
        file("sys/class/scsi_tape/st0/device/model", "ULT3580-TDA     \n");
        file("sys/class/scsi_tape/nst0/device/model", "ULT3580-TDA     \n");
        file("sys/block/md0/md/level", "raid1\n");
        file("sys/block/md0/md/raid_disks", "2\n");
        file("sys/block/sda/size", "1\n");
        file("sys/bus/usb/devices/1-4/idVendor", "051d\n");
        file("sys/bus/usb/devices/1-4/product", "Back-UPS ES 700G\n");
        file("sys/bus/usb/devices/1-5/idVendor", "0483\n");
        file("sys/bus/usb/devices/1-5/idProduct", "5740\n");
        file("etc/letsencrypt/live/arhiva.cjtimis.ro/fullchain.pem", "");
        file("etc/ssl/certs/ca.pem", "");
        file("run/postgresql/.s.PGSQL.5432", "");
        file("run/docker.sock", "");
        file("usr/bin/restic", "");
        file("usr/bin/scanimage", "");
        let roots = Roots {
            proc: dir.path().join("proc"),
            sys: dir.path().join("sys"),
            udev: dir.path().join("udev"),
            rootfs: dir.path().to_owned(),
        };
        let found = super::super::bounded(look(&roots));
        let lines: Vec<String> = found.iter().map(|f| format!("{} {}: {}", f.kind, f.name, f.detail)).collect();
        assert_eq!(
            lines,
            [
                "array md0: raid1, 2 drives",
                "certificates /etc/letsencrypt/live/*/fullchain.pem: 1 files",
                "containers /run/docker.sock: Docker",
                "database /run/postgresql/.s.PGSQL.5432: PostgreSQL",
                "nvme nvme0: Samsung SSD 990 PRO 2TB",
                "tape st0: ULT3580-TDA",
                "tool restic: /usr/bin/restic, backups",
                "tool scanimage: /usr/bin/scanimage, scanners that SANE lists",
                "ups usb 1-4: Back-UPS ES 700G",
            ]
        );
        for finding in found.iter().filter(|finding| !finding.settings.is_empty()) {
            let checked = crate::remote::check(Path::new("x"), &finding.settings, crate::remote::Programs::Refused);
            checked.expect("valid settings");
        }
    }
}
