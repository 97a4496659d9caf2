//! A question that is asked now and then by a thread of its own, and whose last answer counts in between: for programs and
//! other sources that take their time.

#[cfg(target_os = "linux")]
use std::io;
use std::time::{Duration, Instant};

#[cfg(target_os = "linux")]
use super::Sink;
use super::asked::Asked;
use crate::clock;
#[cfg(target_os = "linux")]
use crate::reading::SeriesName;

/// Libraries of Windows that are asked in the program itself need more; only touched pages are resident.
const STACK_BYTES: usize = if cfg!(windows) { 1 << 20 } else { 256 << 10 };

type Question<T> = Box<dyn FnMut() -> T + Send>;

/// The question and its last answer.
pub(crate) struct Slowly<T> {
    name: &'static str,
    every: Duration,
    /// How long a round waits for an answer that is outstanding.
    patience: Duration,
    question: Option<Question<T>>,
    asked: Option<Asked<T>>,
    /// When it is asked next.
    due: Instant,
    last: Option<T>,
}

impl<T: Send + 'static> Slowly<T> {
    /// Asks `question` at the first look and then at most once in `every`.
    pub(crate) fn new(
        name: &'static str,
        every: Duration,
        patience: Duration,
        question: impl FnMut() -> T + Send + 'static,
    ) -> Self {
        let question: Question<T> = Box::new(question);
        Self { name, every, patience, question: Some(question), asked: None, due: clock::instant(), last: None }
    }

    /// The same, but asked for the first time after `delay`, unless a round waits for it.
    #[cfg_attr(not(windows), expect(dead_code, reason = "only a question of Windows costs much"))]
    pub(crate) fn after(self, delay: Duration) -> Self {
        let delay = if self.patience.is_zero() { delay } else { Duration::ZERO };
        Self { due: self.due + delay, ..self }
    }

    /// The last answer; `None` before the first one.
    pub(crate) fn latest(&mut self) -> Option<&T> {
        if let Some(question) = self.question.take() {
            match Asked::start(self.name, STACK_BYTES, question) {
                Ok(asked) => self.asked = Some(asked),
                Err(error) => tracing::warn!(%error, sensor = self.name, "cannot start a thread"),
            }
        }
        let asked = self.asked.as_mut()?;
        let now = clock::instant();
        if now >= self.due {
            asked.ask();
            self.due = now + self.every;
        }
        if let Some(answer) = asked.answer(self.patience) {
            self.last = Some(answer);
        }
        self.last.as_ref()
    }
}

#[cfg(target_os = "linux")]
impl Slowly<io::Result<Vec<(SeriesName, f64)>>> {
    /// Puts what the last answer tells; nothing before the first one.
    ///
    /// # Errors
    /// What the last answer was instead.
    pub(crate) fn put(&mut self, sink: &mut Sink) -> io::Result<()> {
        match self.latest() {
            Some(Ok(found)) => found.iter().for_each(|(name, value)| sink.put_named(name, *value)),
            Some(Err(error)) => return Err(io::Error::new(error.kind(), error.to_string())),
            None => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_answer_counts_until_it_is_time_to_ask_again() {
        let mut count = 0;
        let question = move || {
            count += 1;
            count
        };
        let mut slowly = Slowly::new("test", Duration::from_hours(1), Duration::from_mins(1), question);
        assert_eq!(slowly.latest(), Some(&1));
        assert_eq!(slowly.latest(), Some(&1));
        slowly.due = clock::instant();
        assert_eq!(slowly.latest(), Some(&2));
    }
}
