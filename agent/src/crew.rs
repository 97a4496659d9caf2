//! The threads that sensors run on: one while all goes well, one more for each sensor that takes its time.
//!
//! A worker takes jobs one after the other and tells the coordinator when nothing waits any more, so that a round costs
//! one change of threads there and one back. When a worker is at one sensor for too long, every job that waits gets a
//! worker of its own; of those that have nothing to do, one stays. Invariants: a job is in one place at a time, so that
//! a sensor never runs twice at once; a panic is an answer; nobody ever waits for a worker that hangs.
//! What it deliberately does not do: know deadlines, ticks or rounds (see [`crate::schedule`]).

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::clock;
use crate::reading::{SeriesSet, Sink};
use crate::sensors::{Sensor, SensorError};

/// Only pages that were touched are resident, so that this costs address space alone; an overflow would end the agent.
pub(crate) const STACK_BYTES: usize = 1 << 20;

/// A sensor with what belongs to it, on its way to a worker and back.
pub(crate) struct Job {
    slot: usize,
    sensor: Box<dyn Sensor>,
    sink: Sink,
}

impl Job {
    /// `sensor`, for whoever calls it `slot`.
    pub(crate) fn new(slot: usize, sensor: Box<dyn Sensor>) -> Self {
        Self { slot, sensor, sink: Sink::default() }
    }

    /// As it was made with.
    pub(crate) fn slot(&self) -> usize {
        self.slot
    }

    /// Whether the sensor has a source.
    pub(crate) fn is_present(&self) -> bool {
        self.sensor.is_present()
    }

    fn run(&mut self) -> Answer {
        let (begin, cpu_begin) = (clock::instant(), clock::thread_cpu());
        let result = catch_unwind(AssertUnwindSafe(|| self.sensor.read(&mut self.sink)));
        let duration = begin.elapsed();
        let cpu = clock::thread_cpu().saturating_sub(cpu_begin);
        let error = match result {
            Ok(result) => result.err(),
            Err(panic) => {
                let text = panic.downcast_ref::<&str>().copied();
                let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
                Some(SensorError::Panicked { message: text.unwrap_or("no message").to_owned() })
            }
        };
        let (series, values) = self.sink.take();
        Answer { duration, cpu, error, series, values }
    }
}

/// What a sensor has to say about one round.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) duration: Duration,
    /// Processor time of the worker's thread; zero where the system does not tell.
    pub(crate) cpu: Duration,
    pub(crate) error: Option<SensorError>,
    pub(crate) series: Arc<SeriesSet>,
    pub(crate) values: Vec<f64>,
}

/// What the coordinator hears.
#[derive(Default)]
pub(crate) struct News {
    pub(crate) answers: Vec<(Job, Answer)>,
    pub(crate) is_dismissed: bool,
}

/// Workers and what they share with the coordinator.
#[derive(Clone, Default)]
pub(crate) struct Crew(Arc<Shared>);

#[derive(Default)]
struct Shared {
    board: Mutex<Board>,
    /// For workers: there are jobs, or it is over.
    orders: Condvar,
    /// For the coordinator.
    news: Condvar,
}

#[derive(Default)]
struct Board {
    waiting: VecDeque<Job>,
    answers: Vec<(Job, Answer)>,
    idle_workers: usize,
    is_dismissed: bool,
    is_called: bool,
}

impl std::fmt::Debug for Crew {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Crew")
    }
}

impl Crew {
    /// Has `jobs` done, in this order as long as none takes too long.
    pub(crate) fn order(&self, jobs: Vec<Job>) {
        if jobs.is_empty() {
            return;
        }
        let mut board = self.0.board();
        board.waiting.extend(jobs);
        let is_anybody_idle = board.idle_workers > 0;
        drop(board);
        if is_anybody_idle {
            self.0.orders.notify_one();
        } else {
            self.hire();
        }
    }

    /// Waits for answers, at most for `patience`. When jobs wait and none is answered within `stall`, they get workers
    /// of their own.
    pub(crate) fn wait(&self, patience: Duration, stall: Duration) -> News {
        let mut board = self.0.board();
        let has_news = |board: &Board| {
            board.is_dismissed || board.is_called || (!board.answers.is_empty() && board.waiting.is_empty())
        };
        if !has_news(&board) {
            let patience = if board.waiting.is_empty() { patience } else { patience.min(stall) };
            // Whether it was woken or not: what is there now counts.
            board = self.0.news.wait_timeout(board, patience).unwrap_or_else(PoisonError::into_inner).0;
        }
        let is_stalled = board.answers.is_empty() && !board.is_dismissed;
        let missing = if is_stalled { board.waiting.len() } else { 0 };
        board.is_called = false;
        let news = News { answers: std::mem::take(&mut board.answers), is_dismissed: board.is_dismissed };
        drop(board);
        (0..missing).for_each(|_| self.hire());
        news
    }

    /// Has the coordinator look up from its wait.
    pub(crate) fn call(&self) {
        self.0.board().is_called = true;
        self.0.news.notify_all();
    }

    /// Ends the workers, each when it is free, and tells the coordinator.
    pub(crate) fn dismiss(&self) {
        self.0.board().is_dismissed = true;
        self.0.orders.notify_all();
        self.0.news.notify_all();
    }

    fn hire(&self) {
        let shared = Arc::clone(&self.0);
        let run = move || work(&shared);
        // The job stays where it is until somebody has time for it.
        if let Err(error) = thread::Builder::new().name("sensors".into()).stack_size(STACK_BYTES).spawn(run) {
            tracing::error!(%error, "cannot start a thread for sensors");
        }
    }
}

impl Shared {
    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn work(shared: &Shared) {
    let mut board = shared.board();
    while !board.is_dismissed {
        let Some(mut job) = board.waiting.pop_front() else {
            if board.idle_workers > 0 {
                return;
            }
            board.idle_workers += 1;
            board = shared.orders.wait(board).unwrap_or_else(PoisonError::into_inner);
            board.idle_workers -= 1;
            continue;
        };
        drop(board);
        let answer = job.run();
        board = shared.board();
        board.answers.push((job, answer));
        if board.waiting.is_empty() {
            shared.news.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::mpsc::{Receiver, sync_channel};

    use super::*;

    const PATIENT: Duration = Duration::from_mins(1);

    /// Tells the worker that it runs on, after it was released where it has to wait for that.
    struct Telling(Option<Receiver<()>>);

    impl Sensor for Telling {
        fn name(&self) -> &'static str {
            "telling"
        }

        fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
            if let Some(release) = &self.0 {
                release.recv().ok();
            }
            sink.put("worker", &[("thread", &format!("{:?}", thread::current().id()))], 1.0);
            Ok(())
        }
    }

    fn jobs(slots: std::ops::Range<usize>) -> Vec<Job> {
        slots.map(|slot| Job::new(slot, Box::new(Telling(None)))).collect()
    }

    /// Waits for `count` answers: slot and worker of each.
    fn answers(crew: &Crew, count: usize, stall: Duration) -> Vec<(usize, String)> {
        let mut told = Vec::new();
        while told.len() < count {
            let news = crew.wait(PATIENT, stall);
            let worker = |answer: &Answer| answer.series.0.first().expect("series").labels()[0].1.to_string();
            told.extend(news.answers.iter().map(|(job, answer)| (job.slot(), worker(answer))));
        }
        told
    }

    #[test]
    fn one_worker_does_what_nobody_holds_up() {
        let crew = Crew::default();
        let mut workers = BTreeSet::new();
        for _ in 0..3 {
            crew.order(jobs(0..10));
            let told = answers(&crew, 10, PATIENT);
            assert_eq!(told.iter().map(|(slot, _)| *slot).collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
            workers.extend(told.into_iter().map(|(_, worker)| worker));
            // The next order finds it idle, as it would after a tick.
            while crew.0.board().idle_workers == 0 {
                thread::yield_now();
            }
        }
        assert_eq!(workers.len(), 1);
        crew.dismiss();
    }

    #[test]
    fn whoever_waits_behind_one_that_hangs_gets_another_worker() {
        let crew = Crew::default();
        let (release, wait) = sync_channel(1);
        let mut all = vec![Job::new(0, Box::new(Telling(Some(wait))))];
        all.extend(jobs(1..4));
        crew.order(all);
        let told: BTreeSet<_> = answers(&crew, 3, Duration::from_millis(1)).into_iter().map(|(slot, _)| slot).collect();
        assert_eq!(told, (1..4).collect());
        release.send(()).expect("the sensor");
        assert_eq!(answers(&crew, 1, PATIENT)[0].0, 0);
        crew.dismiss();
        assert!(crew.wait(PATIENT, PATIENT).is_dismissed);
    }
}
