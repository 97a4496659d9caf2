//! What sensors of a directory of `/sys/class` share: one entry for each device.

use std::path::Path;

use super::glob::Globs;
use super::tree::{Texts, Tree};
use super::{SensorError, Sink};

/// A directory with a directory (as a rule a link) for each device.
#[derive(Debug)]
pub(crate) struct Class {
    tree: Tree,
    devices: Texts,
    ignored: Globs,
    /// For label values.
    texts: Texts,
}

impl Class {
    pub(crate) fn new(root: &Path, ignored: Globs) -> Self {
        Self { tree: Tree::new(root), devices: Texts::default(), ignored, texts: Texts::default() }
    }

    /// Calls `each` in the directory of every device that `is_wanted`, with a buffer for label values.
    pub(crate) fn each(
        &mut self,
        is_wanted: impl Fn(&str) -> bool,
        mut each: impl FnMut(&mut Tree, &str, &mut Texts, &mut Sink),
        sink: &mut Sink,
    ) -> Result<(), SensorError> {
        let tree = &mut self.tree;
        let list = tree.directories(&mut self.devices);
        list.map_err(|source| SensorError::Read { path: tree.path().to_owned(), source })?;
        for device in self.devices.iter().filter(|name| is_wanted(name) && !self.ignored.matches(name)) {
            let mark = tree.enter(device);
            self.texts.clear();
            each(tree, device, &mut self.texts, sink);
            tree.leave(mark);
        }
        Ok(())
    }
}

/// Whether `name` is `prefix` and digits.
pub(crate) fn is_numbered(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()))
}
