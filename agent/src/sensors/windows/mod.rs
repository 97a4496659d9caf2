//! What Windows tells beside what every platform does ([`super::portable`]).

use super::{Entry, Sensor, SensorError, SensorSettings, Sink, named_processes, portable, slowly};

mod ask;
mod automation;
mod cpu;
mod services;
mod updates;

/// Every sensor, in the order of their names.
pub(super) const ENTRIES: &[Entry] =
    &[cpu::ENTRY, named_processes::ENTRY, portable::ENTRY, services::ENTRY, updates::ENTRY];
