//! A question that may take its time, or never be answered: each has a thread of its own, so that only that one waits.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

/// The thread that asks, and its answers.
#[derive(Debug)]
pub(crate) struct Asked<T> {
    ask: SyncSender<()>,
    answers: Receiver<T>,
    /// Whether an answer is outstanding.
    is_outstanding: bool,
}

impl<T: Send + 'static> Asked<T> {
    /// A thread called `name` that runs `question` each time it is asked; it ends with this value, once it is free.
    pub(crate) fn start(
        name: &str,
        stack_bytes: usize,
        mut question: impl FnMut() -> T + Send + 'static,
    ) -> io::Result<Self> {
        let (ask, asked) = sync_channel(1);
        let (answer, answers) = sync_channel(1);
        let run = move || {
            while asked.recv().is_ok() && answer.send(question()).is_ok() {}
        };
        thread::Builder::new().name(name.into()).stack_size(stack_bytes).spawn(run)?;
        Ok(Self { ask, answers, is_outstanding: false })
    }

    /// Asks, unless an answer is outstanding. What came too late for the time before is forgotten.
    pub(crate) fn ask(&mut self) {
        if self.is_outstanding && self.answers.try_recv().is_ok() {
            self.is_outstanding = false;
        }
        if !self.is_outstanding {
            self.is_outstanding = self.ask.try_send(()).is_ok();
        }
    }

    /// The answer, for which it waits at most for `patience`.
    pub(crate) fn answer(&mut self, patience: Duration) -> Option<T> {
        if !self.is_outstanding {
            return None;
        }
        let answer = self.answers.recv_timeout(patience).ok()?;
        self.is_outstanding = false;
        Some(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_hangs_is_outstanding_once_until_it_answers() {
        let (release, wait) = sync_channel::<u32>(0);
        let mut asked = Asked::start("test", 64 << 10, move || wait.recv()).expect("thread");
        assert_eq!(asked.answer(Duration::ZERO), None, "nobody asked");
        asked.ask();
        assert_eq!(asked.answer(Duration::ZERO), None);
        // Another question would need another answer.
        asked.ask();
        release.send(1).expect("the thread");
        assert_eq!(asked.answer(Duration::from_mins(1)), Some(Ok(1)));
        assert_eq!(asked.answer(Duration::ZERO), None);
        asked.ask();
        release.send(2).expect("the thread");
        assert_eq!(asked.answer(Duration::from_mins(1)), Some(Ok(2)));
    }
}
