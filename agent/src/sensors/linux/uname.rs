//! uname(2): what system this is.

use super::text;
use super::{Entry, Sensor, SensorError, Sink};

pub(crate) const ENTRY: Entry = Entry::new("uname", |_| Vec::new(), |_| Box::new(Uname));

/// `node_uname_info`.
pub(crate) struct Uname;

impl Sensor for Uname {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        let name = rustix::system::uname();
        let labels = [
            ("domainname", text::label(name.domainname().to_bytes())),
            ("machine", text::label(name.machine().to_bytes())),
            ("nodename", text::label(name.nodename().to_bytes())),
            ("release", text::label(name.release().to_bytes())),
            ("sysname", text::label(name.sysname().to_bytes())),
            ("version", text::label(name.version().to_bytes())),
        ];
        sink.put("node_uname_info", &labels.each_ref().map(|(name, value)| (*name, value.as_ref())), 1.0);
        Ok(())
    }
}
