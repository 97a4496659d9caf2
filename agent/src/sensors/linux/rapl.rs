//! `/sys/class/powercap`: energy that parts of processors have taken.
//!
//! Linux 5.10 and newer let only root read it, as it tells what others compute.

use super::text::{self, Composed};
use super::tree::{Texts, Tree};
use super::{Entry, Roots, Sensor, SensorError, Sink};

pub(crate) const ENTRY: Entry = Entry::new(
    "rapl",
    |settings| vec![settings.roots.sys.join("class/powercap/intel-rapl:0")],
    |settings| Box::new(Rapl::new(&settings.roots)),
)
.needing(|settings| {
    let energy = settings.roots.sys.join("class/powercap/intel-rapl:0/energy_uj");
    super::unreadable(&energy).then(|| "energy: CAP_DAC_READ_SEARCH".to_owned())
});

const MICROJOULES: f64 = 1_000_000.0;

/// `node_rapl_<zone>_joules_total`.
pub(crate) struct Rapl {
    tree: Tree,
    directories: Texts,
    names: Texts,
    metric: Composed,
    /// What index a zone whose name has none was given; the names repeat.
    indices: Vec<(String, u64)>,
}

impl Rapl {
    pub(crate) fn new(roots: &Roots) -> Self {
        Self {
            tree: Tree::new(&roots.sys.join("class/powercap")),
            directories: Texts::default(),
            names: Texts::default(),
            metric: Composed::default(),
            indices: Vec::new(),
        }
    }
}

impl Sensor for Rapl {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        let tree = &mut self.tree;
        let list = tree.directories(&mut self.directories);
        list.map_err(|source| SensorError::Read { path: tree.path().to_owned(), source })?;
        self.indices.iter_mut().for_each(|(_, next)| *next = 0);
        for directory in self.directories.iter() {
            let mark = tree.enter(directory);
            let name = tree.text("name");
            self.names.clear();
            let is_zone = name.is_some();
            self.names.push(name.unwrap_or_default());
            let (name, given) = name_and_index(self.names.get(0));
            let known = self.indices.iter().position(|(known, _)| known == name);
            let position = known.unwrap_or_else(|| {
                self.indices.push((name.to_owned(), 0));
                self.indices.len() - 1
            });
            let Some((_, next)) = self.indices.get_mut(position) else { continue };
            let index = given.unwrap_or(*next);
            if is_zone {
                *next = index + 1;
                if let Some(energy) = tree.number("energy_uj") {
                    let mut digits = [0; 20];
                    let path = tree.path().to_string_lossy();
                    let labels = [("index", text::digits(index, &mut digits)), ("path", &*path)];
                    let metric = self.metric.name("node_rapl_", name.as_bytes(), "_joules_total");
                    sink.put(metric, &labels, energy as f64 / MICROJOULES);
                }
            }
            tree.leave(mark);
        }
        Ok(())
    }
}

/// `package-0` is `package` with the index 0.
fn name_and_index(name: &str) -> (&str, Option<u64>) {
    match name.split_once('-') {
        Some((stem, index)) => match text::number(index.as_bytes()) {
            Some(index) => (stem, Some(index)),
            None => (name, None),
        },
        None => (name, None),
    }
}
