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
use veghe_wire::batch::{Batch, append_frame};

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
    /// How long an acknowledgement may take before the batch is sent again.
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
        let mut payload = Vec::with_capacity(stored.frame.len() + 64);
        if let Err(error) = append_frame(&mut payload, &prelude) {
            tracing::error!(%error, "cannot compress");
            return Ok(None);
        }
        payload.extend_from_slice(&stored.frame);
        Ok(Some(payload))
    }
}
