//! How many processes and threads there are, and in which states. Costs two files for each process.

use super::process::after_name;
use super::source::Source;
use super::text;
use super::tree::{Texts, Tree};
use super::{Entry, Roots, Sensor, SensorError, Sink};

pub(crate) const ENTRY: Entry = Entry::new(
    "processes",
    |settings| vec![settings.roots.proc.join("sys/kernel/threads-max")],
    |settings| Box::new(Processes::new(&settings.roots)),
)
.on_request();

/// The kernel's letters.
const STATES: [(u8, &str); 9] = [
    (b'D', "D"),
    (b'I', "I"),
    (b'R', "R"),
    (b'S', "S"),
    (b'T', "T"),
    (b'X', "X"),
    (b'Z', "Z"),
    (b't', "t"),
    (b'P', "P"),
];

/// `node_processes_*`.
pub(crate) struct Processes {
    tree: Tree,
    pids: Texts,
    tasks: Texts,
    thread_limit: Source,
    pid_limit: Source,
}

#[derive(Default)]
struct Count([u64; STATES.len()]);

impl Count {
    fn add(&mut self, state: u8) {
        if let Some(position) = STATES.iter().position(|(known, _)| *known == state)
            && let Some(count) = self.0.get_mut(position)
        {
            *count += 1;
        }
    }

    fn put(&self, metric: &str, label: &str, sink: &mut Sink) {
        for ((_, state), &count) in STATES.iter().zip(&self.0).filter(|(_, count)| **count > 0) {
            sink.put(metric, &[(label, state)], count as f64);
        }
    }
}

impl Processes {
    pub(crate) fn new(roots: &Roots) -> Self {
        let source = |file| Source::new(roots.proc.join("sys/kernel").join(file));
        Self {
            tree: Tree::new(&roots.proc),
            pids: Texts::default(),
            tasks: Texts::default(),
            thread_limit: source("threads-max"),
            pid_limit: source("pid_max"),
        }
    }
}

impl Sensor for Processes {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        let tree = &mut self.tree;
        let list = tree.directories(&mut self.pids);
        list.map_err(|source| SensorError::Read { path: tree.path().to_owned(), source })?;
        let (mut processes, mut threads) = (Count::default(), Count::default());
        let (mut process_count, mut thread_count) = (0u64, 0);
        for process in self.pids.iter().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())) {
            let mark = tree.enter(process);
            // It may end in between.
            if let Some((state, count)) = tree.text("stat").and_then(state_and_threads) {
                processes.add(state);
                process_count += 1;
                thread_count += count;
                if count == 1 {
                    threads.add(state);
                } else {
                    let task = tree.enter("task");
                    if tree.directories(&mut self.tasks).is_ok() {
                        for thread in self.tasks.iter() {
                            let mark = tree.enter(thread);
                            if let Some((state, _)) = tree.text("stat").and_then(state_and_threads) {
                                threads.add(state);
                            }
                            tree.leave(mark);
                        }
                    }
                    tree.leave(task);
                }
            }
            tree.leave(mark);
        }
        sink.put("node_processes_threads", &[], thread_count as f64);
        threads.put("node_processes_threads_state", "thread_state", sink);
        sink.put("node_processes_max_threads", &[], self.thread_limit.number()?);
        processes.put("node_processes_state", "state", sink);
        sink.put("node_processes_pids", &[], process_count as f64);
        sink.put("node_processes_max_processes", &[], self.pid_limit.number()?);
        Ok(())
    }
}

/// State and number of threads, the third and the twentieth field of proc(5).
fn state_and_threads(stat: &[u8]) -> Option<(u8, u64)> {
    let mut fields = after_name(stat)?;
    let state = *fields.next()?.first()?;
    Some((state, fields.nth(20 - 4).and_then(text::number)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_a_strange_name_is_counted() {
        let stat = b"42 (a) b (c)) D 1 42 42 0 -1 4194304 100 0 0 0 7 5 0 0 20 0 14 0 1000 9000000 1234 184";
        assert_eq!(state_and_threads(stat), Some((b'D', 14)));
        assert_eq!(state_and_threads(b"42 (x"), None);
    }
}
