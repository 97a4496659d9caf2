//! Whether the machine waits for a restart: what Windows Update, the component store and installers leave in the registry.
//! What it deliberately does not do: search for updates, which takes minutes of a processor.

use super::{Entry, Sensor, SensorError, Sink, ask};

pub(crate) const ENTRY: Entry = Entry::new("updates", |_| Vec::new(), |_| Box::new(Updates));

const KEYS: [&str; 2] = [
    r"SOFTWARE\Microsoft\Windows\CurrentVersion\Component Based Servicing\RebootPending",
    r"SOFTWARE\Microsoft\Windows\CurrentVersion\WindowsUpdate\Auto Update\RebootRequired",
];
/// Files that are replaced at the next start.
const RENAMES: (&str, &str) = (r"SYSTEM\CurrentControlSet\Control\Session Manager", "PendingFileRenameOperations");

/// `node_reboot_required`.
struct Updates;

impl Sensor for Updates {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        let wrong = |call| move |source| SensorError::Ask { call, source };
        let mut is_required = ask::has_value(RENAMES.0, RENAMES.1).map_err(wrong("RegGetValueW"))?;
        for key in KEYS {
            is_required |= ask::has_key(key).map_err(wrong("RegOpenKeyExW"))?;
        }
        sink.put("node_reboot_required", &[], f64::from(u8::from(is_required)));
        Ok(())
    }
}
