//! `/sys/class/net/bonding_masters`: network devices that are several in one, and how many of those work.

use super::text;
use super::tree::{Texts, Tree};
use super::{Entry, Roots, Sensor, SensorError, Sink};

pub(crate) const ENTRY: Entry = Entry::new(
    "bonding",
    |settings| vec![settings.roots.sys.join("class/net/bonding_masters")],
    |settings| Box::new(Bonding::new(&settings.roots)),
);

/// `node_bonding_slaves`, `node_bonding_active`.
pub(crate) struct Bonding {
    tree: Tree,
    masters: Texts,
    slaves: Texts,
    directory: String,
}

impl Bonding {
    pub(crate) fn new(roots: &Roots) -> Self {
        let (masters, slaves) = (Texts::default(), Texts::default());
        Self { tree: Tree::new(&roots.sys.join("class/net")), masters, slaves, directory: String::new() }
    }
}

/// The words of `file`, into `words`.
fn words(tree: &mut Tree, file: &str, words: &mut Texts) -> Result<(), SensorError> {
    words.clear();
    match tree.read(file) {
        Ok(content) => text::fields(content).for_each(|word| words.push(word)),
        Err(source) => return Err(SensorError::Read { path: tree.path().join(file), source }),
    }
    Ok(())
}

impl Sensor for Bonding {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        let Self { tree, masters, slaves, directory } = self;
        words(tree, "bonding_masters", masters)?;
        for master in masters.iter() {
            let mark = tree.enter(master);
            let read = words(tree, "bonding/slaves", slaves);
            let is_active = |slave: &&str| {
                // Kernels before 3.13 say `slave_`.
                ["lower_", "slave_"].iter().any(|prefix| {
                    directory.clear();
                    directory.extend([prefix, *slave, "/bonding_slave/mii_status"]);
                    tree.text(directory) == Some(b"up")
                })
            };
            let active = slaves.iter().filter(is_active).count();
            tree.leave(mark);
            read?;
            sink.put("node_bonding_slaves", &[("master", master)], slaves.len() as f64);
            sink.put("node_bonding_active", &[("master", master)], active as f64);
        }
        Ok(())
    }
}
