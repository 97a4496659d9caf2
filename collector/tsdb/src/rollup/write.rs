//! Makes roll-ups: those of an hour with the chunk of a day in one transaction, and in small parts for days that have
//! none yet; those of 5 minutes, which take about as much room as samples a minute apart, only in the place of samples
//! that retention takes, again in one transaction.
//!
//! Few samples of a day are read as fast as their roll-ups, which would take a good part of their room: those have none.
//! Invariants: a series is in a day's list of roll-ups exactly where its row is and stands for its day chunk as that is;
//! so whoever writes a day chunk anew writes its roll-ups with it, or removes them. A series that has roll-ups of a day and no
//! samples was rolled up whole before retention took the samples: those roll-ups are final.
//! What it deliberately does not do: roll up windows. What is not merged to a day is rolled up by whoever reads it.

use std::collections::BTreeMap;
use std::sync::Arc;

use roaring::RoaringBitmap;
use rusqlite::{Connection, OptionalExtension, Transaction};
use veghe_model::Bucket;

use super::bucket::{roll, rolled};
use super::rows::{self, RowReader, Shapes};
use crate::chunks::{self, ChunkError, Level, ROLLED_UP, Resolution, TimesReader, row};
use crate::codec::Scratch;
use crate::merge::SAMPLES_PER_CALL;
use crate::seal::{SERIES_PER_CALL, Sealer};
use crate::store::{Inner, read, write};
use crate::tombstone::Tombstones;
use crate::{SealError, SealReport};

/// The series that have roll-ups, by day.
type Lists = BTreeMap<i64, Arc<RoaringBitmap>>;

/// Beside fewer samples of a series and day roll-ups are not kept: one in 43 s.
const WORTHWHILE_SAMPLES: usize = 2_000;

/// Which series have roll-ups of which days.
#[derive(Clone, Debug)]
pub(crate) struct Rolled {
    minutes5: Lists,
    hour: Lists,
    /// Beside how many samples of a series and day roll-ups are kept.
    pub(crate) from: usize,
}

impl Default for Rolled {
    fn default() -> Self {
        Self { minutes5: Lists::new(), hour: Lists::new(), from: WORTHWHILE_SAMPLES }
    }
}

impl Rolled {
    pub(crate) fn of(&self, resolution: Resolution) -> &Lists {
        match resolution {
            Resolution::Minutes5 => &self.minutes5,
            Resolution::Hour => &self.hour,
        }
    }

    pub(crate) fn of_mut(&mut self, resolution: Resolution) -> &mut Lists {
        match resolution {
            Resolution::Minutes5 => &mut self.minutes5,
            Resolution::Hour => &mut self.hour,
        }
    }

    pub(crate) fn list(&self, resolution: Resolution, day: i64) -> RoaringBitmap {
        self.of(resolution).get(&day).map_or_else(RoaringBitmap::new, |series| (**series).clone())
    }

    /// The series that have roll-ups of a day at any resolution.
    pub(crate) fn any(&self, day: i64) -> RoaringBitmap {
        Resolution::ALL.iter().fold(RoaringBitmap::new(), |all, resolution| all | self.list(*resolution, day))
    }

    /// Says what the list of a day is now; none removes it.
    pub(crate) fn set(&mut self, resolution: Resolution, day: i64, series: Arc<RoaringBitmap>) {
        if series.is_empty() {
            self.of_mut(resolution).remove(&day);
        } else {
            self.of_mut(resolution).insert(day, series);
        }
    }
}

/// Down to which length buckets are kept of samples that go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finest {
    Hour,
    Minutes5,
}

/// Writes the roll-ups of one day; one that a transaction failed of is of no use any more.
#[derive(Debug)]
pub(crate) struct DayRoller {
    day: i64,
    shapes: [Shapes; 2],
    lists: [RoaringBitmap; 2],
    from: usize,
    changed: bool,
    pub(crate) bytes: u64,
    buckets: (Vec<i64>, Vec<Bucket>),
}

impl DayRoller {
    pub(crate) fn new(connection: &Connection, rolled: &Rolled, day: i64) -> rusqlite::Result<Self> {
        let [fine, coarse] = Resolution::ALL;
        Ok(Self {
            day,
            shapes: [Shapes::new(connection, fine, day)?, Shapes::new(connection, coarse, day)?],
            lists: [rolled.list(fine, day), rolled.list(coarse, day)],
            from: rolled.from,
            changed: false,
            bytes: 0,
            buckets: Default::default(),
        })
    }

    /// Whether a series has roll-ups of the day.
    pub(crate) fn has(&self, id: u32) -> bool {
        self.lists.iter().any(|list| list.contains(id))
    }

    /// Writes what the samples of a day, at least one, amount to by the hour, where that is worth its room.
    pub(crate) fn put(
        &mut self,
        transaction: &Transaction<'_>,
        id: u32,
        samples: (&[i64], &[f64]),
        scratch: &mut Scratch,
    ) -> rusqlite::Result<()> {
        if samples.0.len() < self.from {
            return self.remove_of(transaction, Resolution::Hour, id);
        }
        self.put_hours(transaction, id, samples, scratch)
    }

    fn put_hours(
        &mut self,
        transaction: &Transaction<'_>,
        id: u32,
        (times, values): (&[i64], &[f64]),
        scratch: &mut Scratch,
    ) -> rusqlite::Result<()> {
        let (mut ends, mut buckets) = std::mem::take(&mut self.buckets);
        ends.clear();
        buckets.clear();
        roll(times, values, Resolution::Hour.ms(), &mut ends, &mut buckets);
        self.put_buckets(transaction, Resolution::Hour, id, (&ends, &buckets), scratch)?;
        self.buckets = (ends, buckets);
        Ok(())
    }

    /// Writes roll-ups of chunks that are about to go, by the hour where they are not there yet and, where `finest`, by 5
    /// minutes, and the lists.
    pub(crate) fn put_last(
        &mut self,
        transaction: &Transaction<'_>,
        series: &RoaringBitmap,
        finest: Finest,
    ) -> rusqlite::Result<()> {
        let (mut reader, mut scratch) = (TimesReader::default(), Scratch::default());
        for id in series {
            let there = self.lists[1].contains(id);
            if finest == Finest::Hour && there {
                continue;
            }
            let Some((times, values)) = day_chunk(transaction, &mut reader, (self.day, id))? else { continue };
            if !there {
                self.put_hours(transaction, id, (&times, &values), &mut scratch)?;
            }
            if finest == Finest::Minutes5 {
                let (ends, buckets) = rolled(&times, &values, Resolution::Minutes5);
                self.put_buckets(transaction, Resolution::Minutes5, id, (&ends, &buckets), &mut scratch)?;
            }
        }
        self.put_lists(transaction)
    }

    /// Writes buckets as they are.
    fn put_buckets(
        &mut self,
        transaction: &Transaction<'_>,
        resolution: Resolution,
        id: u32,
        rolled: (&[i64], &[Bucket]),
        scratch: &mut Scratch,
    ) -> rusqlite::Result<()> {
        let at = usize::from(resolution == Resolution::Hour);
        let shapes = &mut self.shapes[at];
        self.changed |= self.lists[at].insert(id);
        self.bytes += rows::put(transaction, shapes, resolution, (self.day, id), rolled, scratch)?;
        Ok(())
    }

    fn remove_of(&mut self, transaction: &Transaction<'_>, resolution: Resolution, id: u32) -> rusqlite::Result<()> {
        if self.lists[usize::from(resolution == Resolution::Hour)].remove(id) {
            let statement = format!("DELETE FROM {} WHERE id = ?1", Level::Rollup(resolution).chunks());
            transaction.prepare_cached(&statement)?.execute([row(self.day, id)])?;
            self.changed = true;
        }
        Ok(())
    }

    /// Removes what a series has.
    pub(crate) fn remove(&mut self, transaction: &Transaction<'_>, id: u32) -> rusqlite::Result<()> {
        Resolution::ALL.into_iter().try_for_each(|resolution| self.remove_of(transaction, resolution, id))
    }

    /// Writes the lists, last in each transaction.
    pub(crate) fn put_lists(&self, transaction: &Transaction<'_>) -> rusqlite::Result<()> {
        if self.changed {
            for (resolution, list) in Resolution::ALL.into_iter().zip(&self.lists) {
                chunks::put_list(transaction, Level::Rollup(resolution), self.day, list)?;
            }
        }
        Ok(())
    }

    /// Shows the lists to readers, once the transaction is committed.
    pub(crate) fn publish(&mut self, inner: &Inner) {
        if std::mem::take(&mut self.changed) {
            let mut rolled = write(&inner.rolled);
            for (resolution, list) in Resolution::ALL.into_iter().zip(&self.lists) {
                rolled.set(resolution, self.day, Arc::new(list.clone()));
            }
        }
    }
}

/// What is known of days without roll-ups while the process lives.
#[derive(Default)]
pub(crate) struct Catcher {
    /// Whether every day of earlier formats was looked at, once that was asked.
    done: Option<bool>,
    /// Series without roll-ups: too few samples, or their chunk is damaged, or is none.
    without: BTreeMap<i64, RoaringBitmap>,
}

impl Inner {
    /// The oldest day with chunks that are not rolled up, and their series.
    fn next_unrolled(&self, catcher: &Catcher) -> Option<(i64, RoaringBitmap)> {
        let days = read(&self.days);
        let rolled = read(&self.rolled);
        let missing = |(day, series): (&i64, &Arc<RoaringBitmap>)| {
            let mut left = match rolled.of(Resolution::Hour).get(day) {
                Some(list) if **list == **series => return None,
                Some(list) => &**series - &**list,
                None => (**series).clone(),
            };
            if let Some(without) = catcher.without.get(day) {
                left -= without;
            }
            (!left.is_empty()).then_some((*day, left))
        };
        days.iter().find_map(missing)
    }

    /// Takes deleted buckets out of roll-ups that have no samples any more; with samples they are made anew from those.
    pub(crate) fn clean_rollups(&self, sealer: &mut Sealer, tombstones: &Tombstones) -> rusqlite::Result<()> {
        let known: Vec<i64> = read(&self.rolled).of(Resolution::Hour).keys().copied().collect();
        for day in known {
            let (start, end) = self.day_range(day);
            let there = read(&self.days).get(&day).map_or_else(RoaringBitmap::new, |series| (**series).clone());
            let touched = (tombstones.series_between(start, end) & read(&self.rolled).any(day)) - there;
            let mut ids = touched.iter().peekable();
            while ids.peek().is_some() {
                let mut roller = DayRoller::new(&sealer.connection, &read(&self.rolled), day)?;
                let transaction = sealer.connection.transaction()?;
                for id in ids.by_ref().take(SERIES_PER_CALL) {
                    for resolution in Resolution::ALL {
                        clean_row(&transaction, &mut roller, tombstones, resolution, id)?;
                    }
                }
                roller.put_lists(&transaction)?;
                transaction.commit()?;
                roller.publish(self);
            }
        }
        Ok(())
    }

    /// Whether there is a day to look at now.
    pub(crate) fn may_roll(&self, sealer: &mut Sealer) -> rusqlite::Result<bool> {
        let Sealer { connection, catcher, .. } = sealer;
        let done = match catcher.done {
            Some(done) => done,
            // Damaged counts as not there: every day is looked at again.
            None => *catcher.done.insert(chunks::meta(connection, ROLLED_UP)?.is_some_and(|found| found == Ok(1))),
        };
        Ok(!done && self.next_unrolled(catcher).is_some())
    }

    /// Looks at a part of the oldest day that has chunks without roll-ups, which are those of earlier formats, and rolls up
    /// what is worth it. Once all are looked at, that is noted: what is merged later is rolled up then or never.
    pub(crate) fn catch_up(&self, sealer: &mut Sealer, report: &mut SealReport) -> Result<(), SealError> {
        let Some((day, series)) = self.next_unrolled(&sealer.catcher) else { return Ok(()) };
        let mut without = RoaringBitmap::new();
        let written = (|| {
            let mut roller = DayRoller::new(&sealer.connection, &read(&self.rolled), day)?;
            let transaction = sealer.connection.transaction()?;
            let (mut reader, mut scratch, mut samples) = (TimesReader::default(), Scratch::default(), 0);
            for id in series.iter().take(SERIES_PER_CALL) {
                if let Some((times, values)) = day_chunk(&transaction, &mut reader, (day, id))? {
                    roller.put(&transaction, id, (&times, &values), &mut scratch)?;
                    samples += times.len() as u64;
                }
                if !roller.has(id) {
                    without.insert(id);
                }
                if samples >= SAMPLES_PER_CALL {
                    break;
                }
            }
            roller.put_lists(&transaction)?;
            transaction.commit()?;
            Ok(roller)
        })();
        let mut roller = written.map_err(SealError::Database)?;
        roller.publish(self);
        report.rollup_bytes += roller.bytes;
        *sealer.catcher.without.entry(day).or_default() |= without;
        if self.next_unrolled(&sealer.catcher).is_none() {
            chunks::put_meta(&sealer.connection, ROLLED_UP, 1).map_err(SealError::Database)?;
            (sealer.catcher.done, sealer.catcher.without) = (Some(true), BTreeMap::new());
        }
        Ok(())
    }
}

/// Time stamps and values.
type Columns = (Arc<[i64]>, Vec<f64>);

/// The samples of a day chunk, if it is there and holds.
fn day_chunk(
    transaction: &Transaction<'_>,
    reader: &mut TimesReader,
    (day, id): (i64, u32),
) -> rusqlite::Result<Option<Columns>> {
    let data: Option<Vec<u8>> = transaction
        .prepare_cached("SELECT data FROM day_chunk WHERE id = ?1")?
        .query_row([row(day, id)], |r| r.get(0))
        .optional()?;
    let Some(data) = data else { return Ok(None) };
    match reader.chunk(transaction, Level::Day, (day, id), &data) {
        Ok(samples) => Ok(Some(samples)),
        Err(ChunkError::Database(error)) => Err(error),
        Err(ChunkError::Damaged(damage)) => {
            tracing::error!(series = id, day, %damage, "chunk is damaged and can't be rolled up");
            Ok(None)
        }
    }
}

fn clean_row(
    transaction: &Transaction<'_>,
    roller: &mut DayRoller,
    tombstones: &Tombstones,
    resolution: Resolution,
    id: u32,
) -> rusqlite::Result<()> {
    let statement = format!("SELECT data FROM {} WHERE id = ?1", Level::Rollup(resolution).chunks());
    let data: Option<Vec<u8>> =
        transaction.prepare_cached(&statement)?.query_row([row(roller.day, id)], |r| r.get(0)).optional()?;
    let Some(data) = data else { return Ok(()) };
    match RowReader::default().row(transaction, resolution, (roller.day, id), &data) {
        Ok((mut ends, mut buckets)) => {
            let had = buckets.len();
            tombstones.strike_buckets(id, &mut ends, &mut buckets);
            if buckets.is_empty() {
                roller.remove_of(transaction, resolution, id)
            } else if buckets.len() < had {
                roller.put_buckets(transaction, resolution, id, (&ends, &buckets), &mut Scratch::default())
            } else {
                Ok(())
            }
        }
        Err(ChunkError::Database(error)) => Err(error),
        Err(ChunkError::Damaged(damage)) => {
            tracing::error!(series = id, day = roller.day, %damage, "roll-ups are damaged; deletions leave them as they are");
            Ok(())
        }
    }
}
