//! Which batch is sent when: fresh ones at once, older ones behind them with a limit, each until the collector settles
//! it.
//!
//! Invariants: only an acknowledgement settles; nothing unsettled is forgotten, as the spool is asked for what is left;
//! what is in flight is bounded; fresh batches never wait for older ones. The first batch of each spool id on a
//! connection carries all definitions, later ones what is new.
//! What it deliberately does not do: network, clock (the time is an argument), files other than through the spool.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use veghe_wire::ack::{Ack, HoldCause};
use veghe_wire::batch::Batch;

use crate::session::{Extent, Session};
use crate::spool::{BatchId, Spool, SpoolError};

/// Fresh batches in flight; more wait their turn.
const FRESH_WINDOW: usize = 16;
/// Older batches in flight.
const BACKFILL_WINDOW: usize = 16;
/// Fresh batches that wait their turn; what is beyond is sent as older ones.
const MAX_FRESH_WAITING: usize = 64;
/// Sent again when no acknowledgement comes in this time.
const ACK_PATIENCE: Duration = Duration::from_secs(30);
/// The least and most that a collector may ask to wait.
const HOLD_RANGE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_mins(5));
/// How long to wait when the collector speaks another major version, or asks for a dictionary that it has been sent.
const VERSION_RETRY: Duration = Duration::from_mins(1);
/// A batch for which the collector asked for definitions this often in a row waits.
const MAX_DICTIONARY_REPEATS: u32 = 3;

/// How fast and how patient.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// Older batches in a second.
    pub backfill_per_second: f64,
    /// How long to wait for an acknowledgement until a batch is sent again, 30 s by default.
    pub ack_patience: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { backfill_per_second: 20.0, ack_patience: ACK_PATIENCE }
    }
}

/// What an acknowledgement changed.
#[derive(Debug, Default, PartialEq)]
pub struct Settled {
    /// Batches that the collector has, for the first time told.
    pub accepted: u64,
    /// Batches that the collector never wants, with its reason.
    pub refused: Vec<(BatchId, String)>,
    /// Why the collector asks to wait, for a person.
    pub held: Option<(HoldCause, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Fresh,
    Backfill,
}

#[derive(Debug)]
struct Sent {
    kind: Kind,
    due: Instant,
}

/// What is under way on the present connection.
#[derive(Debug)]
pub struct Delivery {
    pace: Pace,
    connected: bool,
    fresh: VecDeque<BatchId>,
    in_flight: BTreeMap<BatchId, Sent>,
    /// The definitions that the collector was sent on this connection, by spool id.
    known: BTreeMap<u64, Extent>,
    /// Batches whose definitions were asked for, and how often.
    dictionary_asked: BTreeMap<BatchId, u32>,
    /// To be sent before anything else: the collector asked for them.
    urgent: VecDeque<(BatchId, Kind)>,
    /// Where the search for older batches goes on.
    cursor: Option<BatchId>,
    tokens: f64,
    tokens_at: Option<Instant>,
    held_until: Option<Instant>,
    is_ending: bool,
}

impl Delivery {
    /// Older batches follow at this rate a second from now on.
    pub fn set_backfill(&mut self, per_second: f64) {
        self.pace.backfill_per_second = per_second;
    }

    /// Nothing under way, not connected.
    pub fn new(pace: Pace) -> Self {
        Self {
            pace,
            connected: false,
            fresh: VecDeque::new(),
            in_flight: BTreeMap::new(),
            known: BTreeMap::new(),
            dictionary_asked: BTreeMap::new(),
            urgent: VecDeque::new(),
            cursor: None,
            tokens: 0.0,
            tokens_at: None,
            held_until: None,
            is_ending: false,
        }
    }

    /// A connection is there; the newest batch counts as fresh.
    pub fn connect(&mut self, newest: Option<BatchId>, now: Instant) {
        self.disconnect();
        self.connected = true;
        self.tokens = 1.0;
        self.tokens_at = Some(now);
        self.fresh.extend(newest);
    }

    /// The connection is gone: all that was in flight is to be sent again.
    pub fn disconnect(&mut self) {
        let pace = self.pace;
        *self = Self::new(pace);
    }

    /// A batch was taken just now.
    pub fn offer(&mut self, id: BatchId) {
        if !self.connected {
            return;
        }
        if self.fresh.len() == MAX_FRESH_WAITING {
            self.fresh.pop_front();
        }
        self.fresh.push_back(id);
    }

    /// Whether the collector asked to wait.
    pub fn is_held(&self, now: Instant) -> bool {
        self.held_until.is_some_and(|until| until > now)
    }

    /// The collector can't be understood: nothing is sent for a while.
    pub fn hold(&mut self, now: Instant) {
        self.held_until = Some(now + VERSION_RETRY);
    }

    /// No older batches any more: the agent ends.
    pub fn end_backfill(&mut self) {
        self.is_ending = true;
    }

    /// Whether nothing is under way or waits its turn as fresh.
    pub fn is_idle(&self) -> bool {
        self.fresh.is_empty() && self.in_flight.is_empty() && self.urgent.is_empty()
    }

    /// What the collector says.
    pub fn acknowledge(&mut self, ack: &Ack, spool: &mut Spool, now: Instant) -> Settled {
        let mut settled = Settled::default();
        let id = |sequence: u64| BatchId { spool_id: ack.spool_id, sequence };
        let accepted: Vec<BatchId> = ack.accepted.iter().map(|sequence| id(*sequence)).collect();
        let refused: Vec<BatchId> = ack.refused.iter().map(|refusal| id(refusal.sequence)).collect();
        for id in accepted.iter().chain(&refused) {
            self.in_flight.remove(id);
            self.dictionary_asked.remove(id);
        }
        settled.accepted = spool.settle(&accepted).len() as u64;
        for id in spool.settle(&refused) {
            let reason = ack.refused.iter().find(|r| r.sequence == id.sequence).map(|r| r.reason.clone());
            settled.refused.push((id, reason.unwrap_or_default()));
        }
        if !ack.accepted.is_empty() {
            self.held_until = None;
        }
        for hold in &ack.held {
            let cause = HoldCause::try_from(hold.cause).unwrap_or(HoldCause::Unknown);
            let sent = self.in_flight.remove(&id(hold.sequence));
            let wait = match (cause, sent) {
                (HoldCause::Dictionary, Some(sent)) => {
                    self.known.remove(&ack.spool_id);
                    let asked = self.dictionary_asked.entry(id(hold.sequence)).or_default();
                    *asked += 1;
                    if *asked <= MAX_DICTIONARY_REPEATS {
                        self.urgent.push_back((id(hold.sequence), sent.kind));
                        continue;
                    }
                    // It was sent everything there is; perhaps the collector is at fault, perhaps the spool.
                    self.in_flight.insert(id(hold.sequence), Sent { kind: sent.kind, due: now + VERSION_RETRY });
                    *asked = 0;
                    settled.held = Some((cause, hold.reason.clone()));
                    continue;
                }
                // The answer to something that was settled or sent again meanwhile.
                (HoldCause::Dictionary, None) => continue,
                (HoldCause::Version, _) => VERSION_RETRY,
                (HoldCause::Unavailable | HoldCause::Unknown, _) => {
                    Duration::from_millis(hold.retry_after_ms.into()).clamp(HOLD_RANGE.0, HOLD_RANGE.1)
                }
            };
            let until = now + wait;
            self.held_until = Some(self.held_until.map_or(until, |other| other.max(until)));
            settled.held = Some((cause, hold.reason.clone()));
        }
        settled
    }

    /// The next payload to send, if one may be sent now.
    ///
    /// # Errors
    /// Where the spool can't be read; that batch is left alone for a while.
    pub fn next_payload(
        &mut self,
        spool: &mut Spool,
        session: &Session,
        now: Instant,
    ) -> Result<Option<Vec<u8>>, SpoolError> {
        if !self.connected || self.is_held(now) {
            return Ok(None);
        }
        self.held_until = None;
        while let Some((id, kind)) = self.choose(spool, now) {
            // Marked first: where it can't be read, the next attempt comes with the patience over.
            self.in_flight.insert(id, Sent { kind, due: now + self.pace.ack_patience });
            match self.payload(id, spool, session) {
                Ok(Some(payload)) => return Ok(Some(payload)),
                Ok(None) => {
                    // Indexed but not readable any more, such as a record damaged since: it can never be sent.
                    self.in_flight.remove(&id);
                    if !spool.settle(&[id]).is_empty() {
                        tracing::warn!(sequence = id.sequence, "spooled batch is damaged and given up");
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// When [`Self::next_payload`] may have something to say that it has not now.
    pub fn wake_at(&self, spool: &Spool, now: Instant) -> Option<Instant> {
        if !self.connected {
            return None;
        }
        if let Some(until) = self.held_until.filter(|until| *until > now) {
            return Some(until);
        }
        let due = self.in_flight.values().map(|sent| sent.due).min();
        let has_backfill = spool.batches() > (self.in_flight.len() + self.fresh.len()) as u64
            && self.count(Kind::Backfill) < BACKFILL_WINDOW;
        let token = has_backfill.then(|| {
            let missing = (1.0 - self.tokens).max(0.001);
            self.tokens_at.unwrap_or(now) + Duration::from_secs_f64(missing / self.pace.backfill_per_second.max(0.001))
        });
        due.into_iter().chain(token).min()
    }

    fn count(&self, kind: Kind) -> usize {
        self.in_flight.values().filter(|sent| sent.kind == kind).count()
    }

    fn choose(&mut self, spool: &Spool, now: Instant) -> Option<(BatchId, Kind)> {
        while let Some((id, kind)) = self.urgent.pop_front() {
            if spool.is_unsettled(id) {
                return Some((id, kind));
            }
        }
        let overdue = self.in_flight.iter().find(|(_, sent)| sent.due <= now).map(|(id, sent)| (*id, sent.kind));
        if let Some((id, kind)) = overdue {
            self.in_flight.remove(&id);
            if spool.is_unsettled(id) {
                // What was sent with it may not have arrived either.
                self.known.remove(&id.spool_id);
                return Some((id, kind));
            }
            return self.choose(spool, now);
        }
        while self.count(Kind::Fresh) < FRESH_WINDOW
            && let Some(id) = self.fresh.pop_front()
        {
            if !self.in_flight.contains_key(&id) && spool.is_unsettled(id) {
                return Some((id, Kind::Fresh));
            }
        }
        self.choose_backfill(spool, now).map(|id| (id, Kind::Backfill))
    }

    fn choose_backfill(&mut self, spool: &Spool, now: Instant) -> Option<BatchId> {
        let under_way = (self.in_flight.len() + self.fresh.len()) as u64;
        if self.is_ending || spool.batches() <= under_way || self.count(Kind::Backfill) >= BACKFILL_WINDOW {
            return None;
        }
        let rate = self.pace.backfill_per_second;
        let since = self.tokens_at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.tokens = (self.tokens + since.as_secs_f64() * rate).min(rate.max(1.0));
        self.tokens_at = Some(now);
        if self.tokens < 1.0 {
            return None;
        }
        let mut wrapped = self.cursor.is_none();
        loop {
            let next = spool.next_unsettled(self.cursor);
            self.cursor = next;
            match next {
                Some(id) if self.in_flight.contains_key(&id) || self.fresh.contains(&id) => {}
                Some(id) => {
                    self.tokens -= 1.0;
                    return Some(id);
                }
                None if wrapped => return None,
                None => wrapped = true,
            }
        }
    }

    fn payload(&mut self, id: BatchId, spool: &mut Spool, session: &Session) -> Result<Option<Vec<u8>>, SpoolError> {
        let Some(stored) = spool.load(id)? else { return Ok(None) };
        let is_present = id.spool_id == session.spool_id();
        let oldest_sequence = spool.oldest_sequence(id.spool_id, id.sequence);
        let known = self.known.get(&id.spool_id).copied().unwrap_or_default();
        let mut dictionary = None;
        if !known.covers(stored.needs) {
            let definitions = if is_present { Some(session.definitions()) } else { spool.definitions(id)? };
            if let Some(definitions) = definitions {
                dictionary = definitions.since(known);
                self.known.insert(id.spool_id, definitions.extent());
            }
        }
        let prelude = Batch { oldest_sequence, dictionary, ..Batch::default() };
        match spool.frame(&prelude) {
            Ok(prelude) => Ok(Some([&[veghe_wire::MAJOR][..], &prelude, &stored.frame].concat())),
            Err(error) => {
                tracing::error!(%error, "cannot compress");
                Ok(None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use proptest::prelude::*;
    use veghe_wire::ack::{Hold, Refusal};
    use veghe_wire::batch::Decoder;

    use super::*;
    use crate::clock;
    use crate::reading::{Reading, Round, SeriesName, SeriesSet};
    use crate::spool::{Durability, Limits};

    const SECOND: Duration = Duration::from_secs(1);

    /// Spool and session of one run, a delivery, and a clock that only the test moves.
    struct Place {
        spool: Spool,
        session: Session,
        delivery: Delivery,
        now: Instant,
        taken: u64,
        _dir: tempfile::TempDir,
    }

    impl Place {
        fn new(backfill_per_second: f64) -> Self {
            let dir = tempfile::tempdir().expect("directory");
            Self {
                spool: Spool::open(dir.path(), Limits::default()).expect("spool"),
                session: Session::new(7).expect("session"),
                delivery: Delivery::new(Pace { backfill_per_second, ..Pace::default() }),
                now: clock::instant(),
                taken: 0,
                _dir: dir,
            }
        }

        /// Spools a round and offers it, as the uplink does.
        fn take(&mut self) -> BatchId {
            self.taken += 1;
            let series = Arc::new(SeriesSet(vec![SeriesName::new("node_load1", &[])]));
            let reading = Reading { sensor: "loadavg", series, values: vec![self.taken as f64], ended: None };
            let round = Round { timestamp_ms: self.taken as i64, readings: vec![reading] };
            let encoded = self.session.encode(&round).expect("encode");
            let id = BatchId { spool_id: 7, sequence: encoded.sequence };
            assert!(self.spool.append(encoded, &self.session, Durability::Written).disk_error.is_none());
            self.delivery.offer(id);
            id
        }

        fn take_many(&mut self, count: usize) {
            for _ in 0..count {
                self.take();
            }
        }

        fn connect(&mut self) {
            let newest = (self.taken > 0).then_some(BatchId { spool_id: 7, sequence: self.taken });
            self.delivery.connect(newest, self.now);
        }

        /// Everything that may be sent now.
        fn send(&mut self) -> Vec<Batch> {
            let mut decoder = Decoder::new().expect("decoder");
            let mut sent = Vec::new();
            while let Some(payload) =
                self.delivery.next_payload(&mut self.spool, &self.session, self.now).expect("readable")
            {
                sent.push(decoder.decode(&payload).expect("batch"));
            }
            sent
        }

        fn sequences(&mut self) -> Vec<u64> {
            self.send().iter().map(|batch| batch.sequence).collect()
        }

        fn acknowledge(&mut self, ack: Ack) -> Settled {
            self.delivery.acknowledge(&Ack { spool_id: 7, ..ack }, &mut self.spool, self.now)
        }

        fn accept(&mut self, sequences: impl IntoIterator<Item = u64>) -> Settled {
            self.acknowledge(Ack { accepted: sequences.into_iter().collect(), ..Ack::default() })
        }

        fn hold(&mut self, sequence: u64, cause: HoldCause, retry_after_ms: u32) -> Settled {
            let hold = Hold { sequence, cause: cause as i32, reason: "the test wants it".into(), retry_after_ms };
            self.acknowledge(Ack { held: vec![hold], ..Ack::default() })
        }
    }

    #[test]
    fn nothing_is_sent_without_a_connection_and_the_newest_goes_first_with_one() {
        let mut place = Place::new(1.0);
        place.take_many(5);
        assert!(place.sequences().is_empty());
        assert_eq!(place.delivery.wake_at(&place.spool, place.now), None);
        place.connect();
        assert_eq!(place.sequences(), [5, 1], "the newest, and one older by the rate");
        place.take();
        assert_eq!(place.sequences(), [6], "fresh ones have no rate");
    }

    /// A day offline at 15 s; then seconds pass, the collector answers each in the next one, and rounds go on.
    #[test]
    fn a_day_offline_follows_at_its_rate_and_delays_no_fresh_batch() {
        const DAY: usize = 24 * 60 * 4;
        let mut place = Place::new(20.0);
        place.take_many(DAY);
        place.connect();
        let mut in_flight = place.sequences();
        assert_eq!(in_flight.first(), Some(&(DAY as u64)), "the newest goes first");
        let (mut seconds, mut fresh) = (0, 0);
        while place.spool.batches() > 0 {
            seconds += 1;
            assert!(seconds < DAY / 20 * 2, "{} are left after {seconds} s", place.spool.batches());
            place.now += Duration::from_secs(1);
            place.accept(std::mem::take(&mut in_flight));
            if seconds % 15 == 0 {
                let newest = place.take().sequence;
                in_flight = place.sequences();
                assert_eq!(in_flight.first(), Some(&newest), "a fresh one is sent at once, before all others");
                fresh += 1;
            } else {
                in_flight = place.sequences();
            }
            assert!(in_flight.len() <= 22, "the rate holds: {}", in_flight.len());
        }
        assert!(fresh >= DAY / 20 / 15, "{fresh} fresh ones in {seconds} s");
    }

    #[test]
    fn older_batches_keep_to_their_rate_and_their_window() {
        let mut place = Place::new(4.0);
        place.take_many(100);
        place.connect();
        place.sequences();
        for second in 1..=3 {
            place.now += SECOND;
            let sent = place.sequences();
            assert_eq!(sent.len(), 4, "second {second}: {sent:?}");
        }
        place.now += SECOND * 10;
        assert_eq!(place.sequences().len(), BACKFILL_WINDOW - 13, "the window is full of what nobody settles");
        place.now += SECOND;
        assert!(place.sequences().is_empty());
        assert_eq!(place.accept(1..=16).accepted, 16);
        place.now += SECOND;
        assert_eq!(place.sequences(), [17, 18, 19, 20]);
    }

    #[test]
    fn fresh_batches_in_flight_are_bounded_and_the_rest_follows_what_is_settled() {
        let mut place = Place::new(0.0);
        place.connect();
        place.take_many(20);
        assert_eq!(place.sequences(), (1..=FRESH_WINDOW as u64).collect::<Vec<_>>());
        place.accept([3]);
        assert_eq!(place.sequences(), [17]);
        assert!(!place.delivery.is_idle());
        place.accept((1..=20).filter(|sequence| *sequence != 3));
        assert!(place.delivery.is_idle() || place.sequences().is_empty());
        assert_eq!(place.spool.batches(), 0);
    }

    #[test]
    fn what_nobody_answers_is_sent_again_with_its_definitions_when_the_patience_is_over() {
        let mut place = Place::new(1.0);
        place.connect();
        place.take();
        place.take();
        let sent = place.send();
        assert!(sent[0].dictionary.is_some() && sent[1].dictionary.is_none());
        let due = place.delivery.wake_at(&place.spool, place.now).expect("a time");
        assert_eq!(due, place.now + ACK_PATIENCE);
        place.now += SECOND * 29;
        assert!(place.sequences().is_empty());
        place.now = due;
        let again = place.send();
        assert_eq!(again.iter().map(|batch| batch.sequence).collect::<Vec<_>>(), [1, 2]);
        assert!(again[0].dictionary.is_some());
        assert_eq!(place.accept([1, 2]).accepted, 2);
        assert_eq!(place.accept([1, 2]).accepted, 0, "told once");
    }

    #[test]
    fn a_collector_that_asks_to_wait_is_left_alone_for_that_time_within_limits() {
        for (asked_ms, expected) in [(0, HOLD_RANGE.0), (2_000, SECOND * 2), (u32::MAX, HOLD_RANGE.1)] {
            let mut place = Place::new(1.0);
            place.connect();
            place.take();
            assert_eq!(place.sequences(), [1]);
            let settled = place.hold(1, HoldCause::Unavailable, asked_ms);
            assert_eq!(settled.held, Some((HoldCause::Unavailable, "the test wants it".to_owned())));
            place.take();
            assert!(place.sequences().is_empty());
            assert_eq!(place.delivery.wake_at(&place.spool, place.now), Some(place.now + expected));
            place.now += expected;
            assert!(!place.delivery.is_held(place.now));
            assert!(place.sequences().contains(&2));
        }
    }

    #[test]
    fn an_acceptance_ends_a_hold() {
        let mut place = Place::new(1.0);
        place.connect();
        place.take();
        place.take();
        place.sequences();
        place.hold(2, HoldCause::Unavailable, 60_000);
        assert!(place.delivery.is_held(place.now));
        place.accept([1]);
        assert!(!place.delivery.is_held(place.now));
        place.now += SECOND;
        assert_eq!(place.sequences(), [2]);
    }

    #[test]
    fn definitions_are_sent_again_at_once_but_not_for_ever() {
        let mut place = Place::new(1.0);
        place.connect();
        place.take();
        assert!(place.send()[0].dictionary.is_some());
        for _ in 0..MAX_DICTIONARY_REPEATS {
            assert_eq!(place.hold(1, HoldCause::Dictionary, 0), Settled::default());
            let again = place.send();
            assert!(again.len() == 1 && again[0].dictionary.is_some(), "{again:?}");
        }
        let settled = place.hold(1, HoldCause::Dictionary, 0);
        assert_eq!(settled.held.map(|(cause, _)| cause), Some(HoldCause::Dictionary));
        assert!(place.sequences().is_empty());
        place.take();
        assert_eq!(place.sequences(), [2], "others go on");
        place.now += VERSION_RETRY;
        assert!(place.sequences().contains(&1));
    }

    #[test]
    fn what_is_refused_is_told_with_its_reason_and_forgotten() {
        let mut place = Place::new(1.0);
        place.connect();
        let id = place.take();
        place.sequences();
        let refused = vec![Refusal { sequence: 1, reason: "too many series".into() }];
        let settled = place.acknowledge(Ack { refused, ..Ack::default() });
        assert_eq!(settled.refused, [(id, "too many series".to_owned())]);
        place.now += ACK_PATIENCE * 2;
        assert!(place.sequences().is_empty());
        assert_eq!(place.spool.batches(), 0);
    }

    #[test]
    fn at_the_end_no_older_batches_are_begun() {
        let mut place = Place::new(100.0);
        place.take_many(5);
        place.connect();
        place.delivery.end_backfill();
        assert_eq!(place.sequences(), [5]);
        place.now += SECOND;
        assert!(place.sequences().is_empty());
        place.accept([5]);
        assert!(place.delivery.is_idle());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Take,
        Wait(u64),
        Reconnect,
        Accept(prop::sample::Index),
        HoldUnavailable(prop::sample::Index),
        HoldDictionary(prop::sample::Index),
        Lose(prop::sample::Index),
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever the collector answers: windows hold, nothing is settled that it did not accept, and once it accepts
        /// everything, everything arrives by nothing but waking up when told to.
        #[test]
        fn everything_arrives_once_the_collector_takes_it(steps in prop::collection::vec(prop_oneof![
            6 => Just(Step::Take),
            2 => (0u64..40_000).prop_map(Step::Wait),
            1 => Just(Step::Reconnect),
            4 => any::<prop::sample::Index>().prop_map(Step::Accept),
            1 => any::<prop::sample::Index>().prop_map(Step::HoldUnavailable),
            1 => any::<prop::sample::Index>().prop_map(Step::HoldDictionary),
            1 => any::<prop::sample::Index>().prop_map(Step::Lose),
        ], 1..80)) {
            let mut place = Place::new(20.0);
            let mut in_flight: Vec<u64> = Vec::new();
            let mut accepted = BTreeSet::new();
            for step in steps {
                let mut any = |index: prop::sample::Index| {
                    (!in_flight.is_empty()).then(|| in_flight.remove(index.index(in_flight.len())))
                };
                match step {
                    Step::Take => place.take_many(1),
                    Step::Wait(ms) => place.now += Duration::from_millis(ms),
                    Step::Reconnect => {
                        place.connect();
                        in_flight.clear();
                    }
                    Step::Accept(index) => if let Some(sequence) = any(index) {
                        accepted.insert(sequence);
                        place.accept([sequence]);
                    },
                    Step::HoldUnavailable(index) => if let Some(sequence) = any(index) {
                        place.hold(sequence, HoldCause::Unavailable, 500);
                    },
                    Step::HoldDictionary(index) => if let Some(sequence) = any(index) {
                        place.hold(sequence, HoldCause::Dictionary, 0);
                    },
                    Step::Lose(index) => drop(any(index)),
                }
                in_flight.extend(place.sequences());
                prop_assert!(place.delivery.count(Kind::Fresh) <= FRESH_WINDOW);
                prop_assert!(place.delivery.count(Kind::Backfill) <= BACKFILL_WINDOW);
                prop_assert_eq!(place.spool.batches(), place.taken - accepted.len() as u64);
            }
            place.connect();
            // Each turn is a wake-up; a delivery that sleeps through its work would never end.
            for _ in 0..1000 {
                let sent = place.sequences();
                accepted.extend(&sent);
                place.accept(sent);
                if place.spool.batches() == 0 {
                    break;
                }
                place.now = place.delivery.wake_at(&place.spool, place.now).expect("there is something to do");
            }
            prop_assert_eq!(accepted.len() as u64, place.taken);
            prop_assert_eq!(place.spool.batches(), 0);
        }
    }
}
