//! Which series each thread of a selection takes next, so that none gets far ahead of another.
//!
//! Invariant: a series is not begun before all that lie `SERIES_OUT_OF_ORDER` or more before it are done, so whoever needs them in
//! order holds back so many at most.

use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use veghe_model::SERIES_OUT_OF_ORDER;

/// Places of `0..count`, handed out in order some at a time.
pub(crate) struct Turns {
    count: usize,
    at_once: usize,
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Default)]
struct State {
    next: usize,
    /// Where what threads are at begins.
    at_work: Vec<usize>,
}

/// Places that are one thread's to do; done when it is dropped.
pub(crate) struct Turn<'t> {
    turns: &'t Turns,
    pub(crate) places: Range<usize>,
}

impl Turns {
    /// All of `0..count`, `at_once` at a time.
    pub(crate) fn new(count: usize, at_once: usize) -> Self {
        Self { count, at_once, state: Mutex::default(), moved: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next places; waits while another thread is far behind; none when all are given out.
    pub(crate) fn take(&self) -> Option<Turn<'_>> {
        let mut state = self.lock();
        loop {
            let from = state.next;
            if from >= self.count {
                return None;
            }
            let to = self.count.min(from + self.at_once);
            let behind = state.at_work.iter().min().copied().unwrap_or(from);
            if to - behind <= SERIES_OUT_OF_ORDER || behind == from {
                state.next = to;
                state.at_work.push(from);
                return Some(Turn { turns: self, places: from..to });
            }
            state = self.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Gives out nothing any more.
    pub(crate) fn end(&self) {
        self.lock().next = self.count;
        self.moved.notify_all();
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.turns.lock();
        if let Some(at) = state.at_work.iter().position(|from| *from == self.places.start) {
            state.at_work.swap_remove(at);
        }
        drop(state);
        self.turns.moved.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use super::*;

    #[test]
    fn no_thread_begins_a_series_far_ahead_of_one_that_is_not_done() {
        let (turns, done) = (Turns::new(6_000, 16), Mutex::new(BTreeSet::new()));
        let furthest = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for thread in 0..4_usize {
                let (turns, done, furthest) = (&turns, &done, &furthest);
                scope.spawn(move || {
                    while let Some(turn) = turns.take() {
                        for place in turn.places.clone() {
                            // One thread is much slower than the others.
                            (0..if thread == 0 { 50 } else { 0 }).for_each(|_| std::thread::yield_now());
                            let mut done = done.lock().expect("lock");
                            let first_open =
                                (0..).zip(done.iter()).find(|(n, d)| n != *d).map_or(done.len(), |(n, _)| n);
                            furthest.fetch_max(place.saturating_sub(first_open), SeqCst);
                            done.insert(place);
                        }
                    }
                });
            }
        });
        assert_eq!(done.lock().expect("lock").len(), 6_000);
        assert!(furthest.into_inner() < SERIES_OUT_OF_ORDER);
    }

    #[test]
    fn a_thread_that_panics_keeps_no_other_waiting() {
        let turns = Turns::new(3_000, 16);
        let panicked = std::thread::scope(|scope| {
            let turns = &turns;
            scope
                .spawn(move || {
                    let _turn = turns.take();
                    std::panic::resume_unwind(Box::new("as a defect would"));
                })
                .join()
        });
        assert!(panicked.is_err());
        let mut left = 0;
        while let Some(turn) = turns.take() {
            left += turn.places.len();
        }
        assert_eq!(left, 3_000 - 16);
    }

    #[test]
    fn nothing_is_given_out_after_the_end() {
        let turns = Turns::new(100, 16);
        assert_eq!(turns.take().map(|turn| turn.places.clone()), Some(0..16));
        turns.end();
        assert!(turns.take().is_none());
    }
}
