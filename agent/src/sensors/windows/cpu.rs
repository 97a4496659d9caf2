//! Processor time by what it went into, as `node_exporter` has it: counted by Windows, in steps of 100 ns. On a machine with
//! more than 64 processors those of the agent's own group.

use super::{Entry, Sensor, SensorError, Sink, ask};

pub(crate) const ENTRY: Entry = Entry::new("cpu", |_| Vec::new(), |_| Box::new(Cpu));

/// `node_cpu_seconds_total`.
struct Cpu;

impl Sensor for Cpu {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        let call = "NtQuerySystemInformation";
        let processors = ask::processors().map_err(|source| SensorError::Ask { call, source })?;
        for (number, times) in processors.into_iter().enumerate() {
            let number = number.to_string();
            for (mode, seconds) in [
                ("idle", times.idle),
                ("irq", times.irq),
                ("softirq", times.softirq),
                ("system", times.system),
                ("user", times.user),
            ] {
                sink.put("node_cpu_seconds_total", &[("cpu", &number), ("mode", mode)], seconds);
            }
        }
        Ok(())
    }
}
