//! The bytes of roll-ups: one row for the buckets of a series and a day. FORMAT.md has them.
//!
//! What does not depend on values (ends, counts, times, markers) is the row's shape, and series of one target mostly have
//! the same: a long one is written once and referred to by number. Columns that follow from others are left out.
//! Invariant: everything but sums comes back bit for bit; a sum may differ in its last bits, where that makes it a decimal
//! as short as the values are.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Transaction, params};
use veghe_model::Bucket;

use crate::bytes::{Cursor, Damaged, put_sized, put_varint, put_zigzag};
use crate::chunks::{ChunkError, Level, Resolution, checked, row, seal_bytes};
use crate::codec::{self, Packing, Scratch};

const OWN_SHAPE: u8 = 0;
const SHARED_SHAPE: u8 = 1;
/// A shape of at most so many bytes is not worth a row of its own.
const SHORT_SHAPE: usize = 32;
/// Bytes of distinct shapes remembered while a day is written; forgetting costs bytes on disk, not correctness.
const REMEMBERED_SHAPES: usize = 4 << 20;
/// More buckets than the longest day of the finest resolution has.
const MAX_BUCKETS: usize = 1_024;

const FIRST_IS_LAST: u8 = 1;
const MIN_IS_FIRST: u8 = 2;
const MIN_IS_LAST: u8 = 4;
const MAX_IS_FIRST: u8 = 8;
const MAX_IS_LAST: u8 = 16;
const SUM_IS_PRODUCT: u8 = 32;
const NO_RESETS: u8 = 64;
const KNOWN_FLAGS: u8 = 127;

/// A column of so few values is not tried with `pco`, which would save little and take long to read.
const SHORT_COLUMN: usize = 64;

/// Writes the shapes of one day.
#[derive(Debug)]
pub(crate) struct Shapes {
    level: Level,
    next: i64,
    bytes: usize,
    written: HashMap<Vec<u8>, u32>,
}

impl Shapes {
    /// Goes on after the shapes that the day has.
    pub(crate) fn new(connection: &Connection, resolution: Resolution, day: i64) -> rusqlite::Result<Self> {
        let level = Level::Rollup(resolution);
        let last: Option<i64> = connection.query_row(
            &format!("SELECT max(id) FROM {} WHERE id BETWEEN ?1 AND ?2", level.times()),
            [row(day, 0), row(day, u32::MAX)],
            |r| r.get(0),
        )?;
        let next = last.map_or(0, |id| (id & i64::from(u32::MAX)) + 1);
        Ok(Self { level, next, bytes: 0, written: HashMap::new() })
    }

    fn put(
        &mut self,
        transaction: &Transaction<'_>,
        day: i64,
        shape: Vec<u8>,
        out: &mut Vec<u8>,
    ) -> rusqlite::Result<()> {
        if shape.len() <= SHORT_SHAPE {
            out.push(OWN_SHAPE);
            put_sized(out, &shape);
            return Ok(());
        }
        let number = if let Some(number) = self.written.get(&shape) {
            *number
        } else {
            let number = self.next as u32;
            let id = row(day, number);
            let mut bytes = shape.clone();
            seal_bytes(id, &mut bytes);
            let statement = format!("INSERT OR REPLACE INTO {} VALUES (?1, ?2)", self.level.times());
            transaction.prepare_cached(&statement)?.execute(params![id, bytes])?;
            self.next += 1;
            self.bytes += shape.len();
            if self.bytes > REMEMBERED_SHAPES {
                self.written.clear();
                self.bytes = shape.len();
            }
            self.written.insert(shape, number);
            number
        };
        out.push(SHARED_SHAPE);
        put_varint(out, u64::from(number));
        Ok(())
    }
}

/// Writes the row of one series; gives its bytes. There is at least one bucket.
pub(crate) fn put(
    transaction: &Transaction<'_>,
    shapes: &mut Shapes,
    resolution: Resolution,
    (day, id): (i64, u32),
    (ends, buckets): (&[i64], &[Bucket]),
    scratch: &mut Scratch,
) -> rusqlite::Result<u64> {
    let mut bytes = Vec::new();
    shapes.put(transaction, day, shape_bytes(resolution, ends, buckets), &mut bytes)?;
    put_values(buckets, scratch, &mut bytes);
    seal_bytes(row(day, id), &mut bytes);
    let statement = format!("INSERT OR REPLACE INTO {} VALUES (?1, ?2)", Level::Rollup(resolution).chunks());
    transaction.prepare_cached(&statement)?.execute(params![row(day, id), bytes])?;
    Ok(bytes.len() as u64)
}

fn shape_bytes(resolution: Resolution, ends: &[i64], buckets: &[Bucket]) -> Vec<u8> {
    let length = resolution.ms();
    let mut out = Vec::new();
    put_varint(&mut out, ends.len() as u64);
    put_zigzag(&mut out, ends[0] / length);
    let mut column: Vec<i64> = ends.windows(2).map(|pair| (pair[1] - pair[0]) / length).collect();
    codec::pack_times(&column, Packing::Bits, &mut out);
    column.clear();
    column.extend(buckets.iter().map(|bucket| i64::from(bucket.count)));
    codec::pack_times(&column, Packing::Bits, &mut out);
    let live = || ends.iter().zip(buckets).filter(|(_, bucket)| bucket.count > 0);
    column.clear();
    column.extend(live().map(|(end, bucket)| end - bucket.first_time));
    codec::pack_times(&column, Packing::Bits, &mut out);
    column.clear();
    column.extend(live().map(|(end, bucket)| end - bucket.last_time));
    codec::pack_times(&column, Packing::Bits, &mut out);
    let stale: Vec<usize> = (0..buckets.len()).filter(|at| buckets[*at].stale).collect();
    put_varint(&mut out, stale.len() as u64);
    let mut after = 0;
    for at in stale {
        put_varint(&mut out, (at - after) as u64);
        after = at + 1;
    }
    out
}

fn put_values(buckets: &[Bucket], scratch: &mut Scratch, out: &mut Vec<u8>) {
    let live: Vec<Bucket> = buckets.iter().filter(|bucket| bucket.count > 0).copied().collect();
    if live.is_empty() {
        return;
    }
    let same = |a: fn(&Bucket) -> f64, b: fn(&Bucket) -> f64| live.iter().all(|x| a(x).to_bits() == b(x).to_bits());
    let flag = |holds: bool, flag: u8| if holds { flag } else { 0 };
    let flags = flag(same(|b| b.first, |b| b.last), FIRST_IS_LAST)
        | flag(same(|b| b.min, |b| b.first), MIN_IS_FIRST)
        | flag(same(|b| b.min, |b| b.last), MIN_IS_LAST)
        | flag(same(|b| b.max, |b| b.first), MAX_IS_FIRST)
        | flag(same(|b| b.max, |b| b.last), MAX_IS_LAST)
        | flag(same(|b| b.sum, product), SUM_IS_PRODUCT)
        | flag(same(|b| b.resets, |_| 0.0), NO_RESETS);
    out.push(flags);
    let mut column: Vec<f64> = live.iter().map(|bucket| bucket.last).collect();
    let mut put = |column: &[f64]| put_column(column, scratch, out);
    put(&column);
    let mut put_unless = |derived: u8, of: fn(&Bucket) -> f64| {
        if flags & derived == 0 {
            column.clear();
            column.extend(live.iter().map(of));
            put(&column);
        }
    };
    put_unless(FIRST_IS_LAST, |b| b.first);
    put_unless(MIN_IS_FIRST | MIN_IS_LAST, |b| b.min);
    put_unless(MAX_IS_FIRST | MAX_IS_LAST, |b| b.max);
    put_unless(NO_RESETS, |b| b.resets);
    if flags & SUM_IS_PRODUCT == 0 {
        put_column(&short_sums(&live, scratch), scratch, out);
    }
}

fn product(bucket: &Bucket) -> f64 {
    bucket.last * f64::from(bucket.count)
}

/// The sums, as decimals as short as the values where they are that but for their last bits.
fn short_sums(live: &[Bucket], scratch: &mut Scratch) -> Vec<f64> {
    let sums: Vec<f64> = live.iter().map(|bucket| bucket.sum).collect();
    let values: Vec<f64> = live.iter().flat_map(|b| [b.first, b.last, b.min, b.max]).collect();
    let Some(power) = codec::power_of(&values, scratch) else { return sums };
    let short = |sum: f64| {
        let short = (sum * power).round() / power;
        ((short - sum).abs() <= sum.abs() * 4.0 * f64::EPSILON).then_some(short)
    };
    sums.iter().map(|sum| short(*sum)).collect::<Option<Vec<f64>>>().unwrap_or(sums)
}

fn put_column(values: &[f64], scratch: &mut Scratch, out: &mut Vec<u8>) {
    let (mut bits, mut packed) = (Vec::new(), Vec::new());
    codec::encode(values, Packing::Bits, scratch, &mut bits);
    if values.len() > SHORT_COLUMN && bits.len() > SHORT_COLUMN {
        codec::encode(values, Packing::Pco, scratch, &mut packed);
    }
    let (column, packing) = if packed.is_empty() || bits.len() <= packed.len() { (bits, 0) } else { (packed, 1) };
    put_varint(out, (column.len() as u64) << 1 | packing);
    out.extend_from_slice(&column);
}

/// Buckets without their values.
#[derive(Debug)]
struct Shape {
    ends: Arc<[i64]>,
    buckets: Vec<Bucket>,
}

/// Decodes rows, each distinct shape once.
#[derive(Default)]
pub(crate) struct RowReader {
    shared: HashMap<(Resolution, i64), Arc<Shape>>,
    /// The one seen last: neighbours mostly have the same.
    own: Option<(Resolution, Vec<u8>, Arc<Shape>)>,
    scratch: codec::DecodeScratch,
    column: Vec<f64>,
}

impl RowReader {
    /// The buckets of a row.
    pub(crate) fn row(
        &mut self,
        connection: &Connection,
        resolution: Resolution,
        (day, id): (i64, u32),
        data: &[u8],
    ) -> Result<(Arc<[i64]>, Vec<Bucket>), ChunkError> {
        let mut cursor = Cursor::new(checked(row(day, id), data)?);
        let shape = match cursor.u8()? {
            OWN_SHAPE => {
                let bytes = cursor.sized()?;
                match &self.own {
                    Some((of, known, shape)) if *of == resolution && known == bytes => Arc::clone(shape),
                    _ => {
                        let shape = Arc::new(take_shape(resolution, bytes)?);
                        self.own = Some((resolution, bytes.to_vec(), Arc::clone(&shape)));
                        shape
                    }
                }
            }
            SHARED_SHAPE => self.shared(connection, resolution, row(day, cursor.varint_u32()?))?,
            _ => return Err(Damaged("its shape is of an unknown kind").into()),
        };
        let mut buckets = shape.buckets.clone();
        self.values(&mut cursor, &mut buckets)?;
        Ok((Arc::clone(&shape.ends), buckets))
    }

    fn shared(&mut self, connection: &Connection, resolution: Resolution, id: i64) -> Result<Arc<Shape>, ChunkError> {
        if let Some(shape) = self.shared.get(&(resolution, id)) {
            return Ok(Arc::clone(shape));
        }
        let bytes: Vec<u8> = connection
            .prepare_cached(&format!("SELECT data FROM {} WHERE id = ?1", Level::Rollup(resolution).times()))?
            .query_row([id], |r| r.get(0))
            .optional()?
            .ok_or(Damaged("its shape is missing"))?;
        let shape = Arc::new(take_shape(resolution, checked(id, &bytes)?)?);
        self.shared.insert((resolution, id), Arc::clone(&shape));
        Ok(shape)
    }

    fn values(&mut self, cursor: &mut Cursor<'_>, buckets: &mut [Bucket]) -> Result<(), Damaged> {
        let live = buckets.iter().filter(|bucket| bucket.count > 0).count();
        if live == 0 {
            return Ok(());
        }
        let flags = cursor.u8()?;
        if flags & !KNOWN_FLAGS != 0 {
            return Err(Damaged("its flags are unknown"));
        }
        self.column(cursor, live, buckets, |bucket, value| bucket.last = value)?;
        let each = |buckets: &mut [Bucket], set: fn(&mut Bucket)| buckets.iter_mut().for_each(set);
        if flags & FIRST_IS_LAST == 0 {
            self.column(cursor, live, buckets, |bucket, value| bucket.first = value)?;
        } else {
            each(buckets, |bucket| bucket.first = bucket.last);
        }
        match (flags & MIN_IS_FIRST != 0, flags & MIN_IS_LAST != 0) {
            (true, _) => each(buckets, |bucket| bucket.min = bucket.first),
            (false, true) => each(buckets, |bucket| bucket.min = bucket.last),
            (false, false) => self.column(cursor, live, buckets, |bucket, value| bucket.min = value)?,
        }
        match (flags & MAX_IS_FIRST != 0, flags & MAX_IS_LAST != 0) {
            (true, _) => each(buckets, |bucket| bucket.max = bucket.first),
            (false, true) => each(buckets, |bucket| bucket.max = bucket.last),
            (false, false) => self.column(cursor, live, buckets, |bucket, value| bucket.max = value)?,
        }
        if flags & NO_RESETS == 0 {
            self.column(cursor, live, buckets, |bucket, value| bucket.resets = value)?;
        }
        if flags & SUM_IS_PRODUCT == 0 {
            self.column(cursor, live, buckets, |bucket, value| bucket.sum = value)?;
        } else {
            each(buckets, |bucket| bucket.sum = product(bucket));
        }
        Ok(())
    }

    fn column(
        &mut self,
        cursor: &mut Cursor<'_>,
        live: usize,
        buckets: &mut [Bucket],
        set: impl Fn(&mut Bucket, f64),
    ) -> Result<(), Damaged> {
        let head = cursor.varint()?;
        let packing = if head & 1 == 0 { Packing::Bits } else { Packing::Pco };
        let length = usize::try_from(head >> 1).or(Err(Damaged("a column is too long")))?;
        let mut bytes = Cursor::new(cursor.take(length)?);
        self.column.clear();
        codec::decode_with(&mut bytes, live, packing, &mut self.scratch, &mut self.column)?;
        if self.column.len() != live {
            return Err(Damaged("a column has not as many values as there are buckets"));
        }
        for (bucket, value) in buckets.iter_mut().filter(|bucket| bucket.count > 0).zip(&self.column) {
            set(bucket, *value);
        }
        Ok(())
    }
}

/// The bucket's shape back from its bytes.
fn take_shape(resolution: Resolution, bytes: &[u8]) -> Result<Shape, Damaged> {
    const WRONG: Damaged = Damaged("its buckets do not follow each other");
    let length = resolution.ms();
    let mut cursor = Cursor::new(bytes);
    let n = usize::try_from(cursor.varint()?).unwrap_or(usize::MAX);
    if n == 0 || n > MAX_BUCKETS {
        return Err(Damaged("it has no or too many buckets"));
    }
    let mut end = cursor.zigzag()?.checked_mul(length).ok_or(WRONG)?;
    let mut ends = vec![end];
    for gap in codec::unpack_times(&mut cursor, n - 1, Packing::Bits)? {
        let step = gap.checked_mul(length).filter(|step| *step > 0).ok_or(WRONG)?;
        end = end.checked_add(step).ok_or(WRONG)?;
        ends.push(end);
    }
    let mut buckets = vec![Bucket::EMPTY; n];
    for (bucket, count) in buckets.iter_mut().zip(codec::unpack_times(&mut cursor, n, Packing::Bits)?) {
        bucket.count = u32::try_from(count).or(Err(Damaged("a bucket's count is wrong")))?;
    }
    let live = buckets.iter().filter(|bucket| bucket.count > 0).count();
    let firsts = codec::unpack_times(&mut cursor, live, Packing::Bits)?;
    let lasts = codec::unpack_times(&mut cursor, live, Packing::Bits)?;
    let mut times = firsts.into_iter().zip(lasts);
    for (bucket, end) in buckets.iter_mut().zip(&ends).filter(|(bucket, _)| bucket.count > 0) {
        let (first, last) = times.next().ok_or(WRONG)?;
        if !(0 <= last && last <= first && first < length) {
            return Err(Damaged("a bucket's samples lie outside of it"));
        }
        (bucket.first_time, bucket.last_time) = (end.saturating_sub(first), end.saturating_sub(last));
    }
    let mut after = 0_usize;
    for _ in 0..cursor.count(1)? {
        let at = usize::try_from(cursor.varint()?).unwrap_or(usize::MAX).saturating_add(after);
        buckets.get_mut(at).ok_or(Damaged("a staleness marker lies outside"))?.stale = true;
        after = at + 1;
    }
    Ok(Shape { ends: ends.into(), buckets })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollup::{rolled, same_buckets};
    use proptest::prelude::*;
    use veghe_model::stale_nan;

    fn database() -> Connection {
        let connection = Connection::open_in_memory().expect("database");
        for resolution in Resolution::ALL {
            let level = Level::Rollup(resolution);
            for table in [level.chunks(), level.times()] {
                let statement = format!("CREATE TABLE {table} (id INTEGER PRIMARY KEY, data BLOB NOT NULL)");
                connection.execute_batch(&statement).expect("table");
            }
        }
        connection
    }

    fn round_trip(samples: &[(i64, f64)]) -> usize {
        let (times, values): (Vec<i64>, Vec<f64>) = samples.iter().copied().unzip();
        let mut connection = database();
        let mut longest = 0;
        for resolution in Resolution::ALL {
            let written = rolled(&times, &values, resolution);
            let transaction = connection.transaction().expect("transaction");
            let mut shapes = Shapes::new(&transaction, resolution, 7).expect("shapes");
            let mut scratch = Scratch::default();
            for id in [3, 4] {
                let bytes = put(&transaction, &mut shapes, resolution, (7, id), (&written.0, &written.1), &mut scratch);
                longest = longest.max(bytes.expect("row") as usize);
            }
            transaction.commit().expect("commit");
            let mut reader = RowReader::default();
            for id in [3, 4] {
                let statement = format!("SELECT data FROM {} WHERE id = ?1", Level::Rollup(resolution).chunks());
                let data: Vec<u8> = connection.query_row(&statement, [row(7, id)], |r| r.get(0)).expect("row");
                let Ok((ends, buckets)) = reader.row(&connection, resolution, (7, id), &data) else {
                    panic!("the row of {id} does not decode");
                };
                assert!(same_buckets((&ends, &buckets), &written), "{buckets:?}\n{:?}", written.1);
            }
        }
        longest
    }

    fn value() -> impl Strategy<Value = f64> {
        prop_oneof![
            8 => (-1_000_000_i64..1_000_000).prop_map(|v| v as f64 / 100.0),
            2 => (0_i64..50).prop_map(|v| v as f64),
            1 => any::<u64>().prop_map(f64::from_bits),
            1 => prop::sample::select(vec![-0.0, f64::NAN, f64::INFINITY, stale_nan(), 1e300, -1e300]),
        ]
    }

    proptest! {
        #[test]
        fn any_day_comes_back(
            first in -86_400_000_i64..86_400_000,
            steps in prop::collection::vec((prop::sample::select(vec![1, 999, 15_000, 60_000, 300_000, 1_234_567]), value()), 1..150),
        ) {
            let mut at = first;
            let samples: Vec<_> = steps.into_iter().map(|(step, value)| { at += step; (at, value) }).collect();
            // A day at most, as in a store.
            let day: Vec<_> = samples.into_iter().take_while(|(time, _)| time - first < 86_400_000).collect();
            round_trip(&day);
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..90)) {
            for resolution in Resolution::ALL {
                if let Ok(shape) = take_shape(resolution, &bytes) {
                    prop_assert_eq!(shape.ends.len(), shape.buckets.len());
                }
            }
            let mut buckets = vec![Bucket { count: 1, ..Bucket::EMPTY }; 5];
            let decoded = RowReader::default().values(&mut Cursor::new(&bytes), &mut buckets);
            prop_assert!(decoded.is_ok() || bytes.len() < 91);
        }
    }

    #[test]
    fn a_constant_series_takes_a_few_bytes_a_day_and_a_counter_a_byte_or_two_a_bucket() {
        let day = |value: fn(i64) -> f64| (0..5_760).map(move |n| (n * 15_000 + 4_321, value(n))).collect::<Vec<_>>();
        assert!(round_trip(&day(|_| 4_096.0)) < 50);
        // Decimals, of which sums are decimals too.
        let bytes = round_trip(&day(|n| (n * 1_480 + n * n % 19) as f64 / 100.0));
        assert!(bytes < 1_500, "{bytes}");
    }
}
