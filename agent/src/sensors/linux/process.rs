//! `/proc/self/stat`: what the agent itself takes. And since when another process runs.

use super::source::Source;
use super::text::{self, Malformed};
use super::{Roots, SensorError};

/// The kernel's unit of processor time in `/proc`, on every architecture that Rust knows.
const TICKS_PER_SECOND: f64 = 100.0;

/// Always the real `/proc`: the agent's own process is in no captured tree.
pub(crate) struct OwnProcess {
    stat: Source,
    page_bytes: f64,
}

impl OwnProcess {
    pub(crate) fn new() -> Self {
        let stat = Source::new(Roots::default().proc.join("self/stat"));
        Self { stat, page_bytes: rustix::param::page_size() as f64 }
    }

    /// Seconds of processor time since the agent's start, and resident bytes.
    pub(crate) fn read(&mut self) -> Result<(f64, f64), SensorError> {
        let parsed = parse(self.stat.read()?);
        let process = parsed.map_err(|error| self.stat.malformed(error))?;
        Ok((process.cpu_ticks as f64 / TICKS_PER_SECOND, process.resident_pages as f64 * self.page_bytes))
    }
}

struct Process {
    cpu_ticks: u64,
    resident_pages: u64,
}

/// Field numbers as in proc(5), which counts from 1.
fn parse(bytes: &[u8]) -> Result<Process, Malformed> {
    const EXPECTED: Malformed = Malformed { line: 1, expected: "a process's state as in proc(5)" };
    let mut fields = after_name(bytes).ok_or(EXPECTED)?;
    let user = fields.nth(14 - 3).and_then(text::number).ok_or(EXPECTED)?;
    let system = fields.next().and_then(text::number).ok_or(EXPECTED)?;
    let resident_pages = fields.nth(24 - 16).and_then(text::number).ok_or(EXPECTED)?;
    Ok(Process { cpu_ticks: user.saturating_add(system), resident_pages })
}

/// When the process of this `stat` began, in whole seconds after the system did.
pub(super) fn started(stat: &[u8]) -> Option<u64> {
    let ticks = after_name(stat)?.nth(22 - 3).and_then(text::number)?;
    Some(ticks / TICKS_PER_SECOND as u64)
}

/// The fields from the third on. The second is the program's name in parentheses and may hold spaces and parentheses itself.
pub(super) fn after_name(stat: &[u8]) -> Option<impl Iterator<Item = &[u8]>> {
    let end_of_name = stat.iter().rposition(|&byte| byte == b')')?;
    Some(text::fields(stat.get(end_of_name + 1..).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_a_strange_name_is_read() {
        let stat = b"42 (a) b (c)) S 1 42 42 0 -1 4194304 100 0 0 0 7 5 0 0 20 0 14 0 1000 9000000 1234 184 rest\n";
        let process = parse(stat).expect("well formed");
        assert_eq!((process.cpu_ticks, process.resident_pages), (12, 1234));
        assert_eq!(started(stat), Some(10));
    }

    #[test]
    fn the_agent_is_in_memory() {
        let (_, resident_bytes) = OwnProcess::new().read().expect("/proc/self/stat");
        assert!(resident_bytes > 0.0);
    }
}
