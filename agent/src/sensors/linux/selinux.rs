//! Whether `SELinux` watches over this machine, and how strictly.

use std::fs;
use std::path::PathBuf;

use super::source::Source;
use super::tree::Tree;
use super::{Entry, Roots, Sensor, SensorError, Sink};

pub(crate) const ENTRY: Entry =
    Entry::new("selinux", |_| Vec::new(), |settings| Box::new(Selinux::new(&settings.roots)));

/// `node_selinux_enabled`, and where it is 1, `node_selinux_config_mode` and `node_selinux_current_mode`.
pub(crate) struct Selinux {
    selinuxfs: Tree,
    context: Source,
    config: PathBuf,
}

impl Selinux {
    pub(crate) fn new(roots: &Roots) -> Self {
        Self {
            selinuxfs: Tree::new(&roots.sys.join("fs/selinux")),
            context: Source::new(roots.proc.join("self/attr/current")),
            config: roots.rootfs.join("etc/selinux/config"),
        }
    }

    /// Its file system is mounted, and processes have a context that a policy gave them.
    fn is_enabled(&mut self) -> bool {
        // The context ends with a zero byte.
        let end = |byte: &u8| *byte == 0 || *byte == b'\n';
        let is_of_policy = |context: &[u8]| context.split(end).next() != Some(b"kernel");
        self.selinuxfs.has("enforce") && self.context.read().is_ok_and(is_of_policy)
    }

    /// 1 enforcing, 0 permissive, -1 disabled or not told.
    fn configured(&self) -> f64 {
        let config = fs::read_to_string(&self.config).unwrap_or_default();
        let mut lines = config.lines().filter_map(|line| line.trim().strip_prefix("SELINUX="));
        match lines.next().map(str::trim) {
            Some("enforcing") => 1.0,
            Some("permissive") => 0.0,
            _ => -1.0,
        }
    }
}

impl Sensor for Selinux {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        let is_enabled = self.is_enabled();
        sink.put("node_selinux_enabled", &[], f64::from(u8::from(is_enabled)));
        if is_enabled {
            sink.put("node_selinux_config_mode", &[], self.configured());
            sink.put(
                "node_selinux_current_mode",
                &[],
                self.selinuxfs.number("enforce").map_or(-1.0, |mode| mode as f64),
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_told_where_a_policy_is_loaded() {
        let root = tempfile::tempdir().expect("directory");
        for (file, content) in [
            ("sys/fs/selinux/enforce", "1"),
            ("proc/self/attr/current", "system_u:system_r:init_t:s0\0"),
            ("etc/selinux/config", "# comment\nSELINUX=permissive\nSELINUXTYPE=targeted\n"),
        ] {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().expect("parent")).expect("directory");
            fs::write(path, content).expect("write");
        }
        let at = |part: &str| root.path().join(part);
        let roots = Roots { proc: at("proc"), sys: at("sys"), rootfs: at(""), ..Roots::default() };
        let mut sink = Sink::default();
        Selinux::new(&roots).read(&mut sink).expect("readable");
        assert_eq!(sink.take().1, [1.0, 0.0, 1.0]);
        fs::write(at("proc/self/attr/current"), "kernel\0").expect("write");
        Selinux::new(&roots).read(&mut sink).expect("readable");
        assert_eq!(sink.take().1, [0.0]);
    }
}
