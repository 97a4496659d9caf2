//! The labels of series in the database: neighbours stand together in blocks that are compressed as one, because most of
//! what is in one label set is in the next one too, and most of what is in one host's in the next host's. FORMAT.md has the
//! bytes.
//!
//! Invariants: a series is in one block of its number; blocks are rewritten whole, in the caller's transaction. Small blocks are
//! of formats 3 to 5: those that are there are written on, no more are begun. Rows of `series`, one a series, are of formats 1
//! and 2: they are read, and never written.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use roaring::RoaringBitmap;
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use veghe_model::Labels;

use crate::bytes::{Cursor, Damaged, put_varint};
use crate::chunks::{checked, seal_bytes};
use crate::log;

/// Since format 3.
pub(crate) const SCHEMA: &str = "CREATE TABLE series_block (block INTEGER PRIMARY KEY, data BLOB NOT NULL);";

/// What format 6 has in addition.
pub(crate) const SCHEMA_OF_LARGE: &str = "CREATE TABLE series_4096 (block INTEGER PRIMARY KEY, data BLOB NOT NULL);";

/// How many series stand together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    /// 256.
    Small,
    /// 4,096: several hosts, and few enough to rewrite when one more series comes, in some milliseconds.
    Large,
}

impl Size {
    const ALL: [Self; 2] = [Self::Small, Self::Large];

    fn table(self) -> &'static str {
        match self {
            Self::Small => "series_block",
            Self::Large => "series_4096",
        }
    }

    fn bits(self) -> u32 {
        match self {
            Self::Small => 8,
            Self::Large => 12,
        }
    }

    /// The number of the block of a series.
    fn block(self, id: u32) -> u32 {
        id >> self.bits()
    }

    /// The place of a series in its block.
    fn place(self, id: u32) -> u16 {
        (id & ((1 << self.bits()) - 1)) as u16
    }

    /// The first series of a block, if there is such a block.
    fn first(self, block: i64) -> Option<u32> {
        u32::try_from(block).ok().filter(|block| *block <= u32::MAX >> self.bits()).map(|block| block << self.bits())
    }

    /// How a damaged block is named in the table of what is kept aside, where chunks have numbers from 0.
    fn aside(self, block: u32) -> i64 {
        let number = -1 - i64::from(block);
        match self {
            Self::Small => number,
            Self::Large => number - (1 << 32),
        }
    }
}

/// Before compression: 4 MiB of labels for each series, which writers stay far below.
const MAX_RAW_BYTES: usize = 1 << 30;
const LEVEL: i32 = 3;

/// Encoded labels by place in the block.
type Block = BTreeMap<u16, Vec<u8>>;

/// Series whose labels can't be had.
#[derive(Debug)]
pub(crate) struct Lost {
    /// Which table and row.
    pub(crate) place: String,
    pub(crate) ids: RangeInclusive<u32>,
    pub(crate) detail: String,
}

/// What is there.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) series: Vec<(u32, Labels)>,
    pub(crate) lost: Vec<Lost>,
}

/// Every series that is there; `highest` is the greatest number known from elsewhere.
///
/// # Errors
/// Where there are no such tables. What can't be read of them is named.
pub(crate) fn load(connection: &Connection, highest: Option<u32>) -> rusqlite::Result<Loaded> {
    let mut loaded = Loaded::default();
    let mut statement = connection.prepare("SELECT id, labels FROM series")?;
    let mut rows = statement.query([])?;
    loop {
        match rows.next() {
            Ok(Some(row)) => loaded.row(row.get(0)?, &row.get::<_, Vec<u8>>(1).unwrap_or_default()),
            Ok(None) => break,
            Err(error) => {
                let (place, ids, detail) = ("table series".to_owned(), 0..=u32::MAX, error.to_string());
                loaded.lost.push(Lost { place, ids, detail });
                break;
            }
        }
    }
    for size in Size::ALL {
        loaded.blocks(connection, size, highest)?;
    }
    Ok(loaded)
}

impl Loaded {
    fn row(&mut self, id: i64, bytes: &[u8]) {
        let number = u32::try_from(id).ok().filter(|id| *id < u32::MAX);
        let labels = checked(id, bytes).and_then(|body| log::take_labels(&mut Cursor::new(body)));
        match (number, labels) {
            (Some(id), Ok(labels)) => self.series.push((id, labels)),
            (number, labels) => {
                let detail = labels.err().unwrap_or(Damaged("no series has such a number")).to_string();
                let place = format!("table series, row {id}");
                self.lost.push(Lost { place, ids: number.map_or(u32::MAX..=u32::MAX, |id| id..=id), detail });
            }
        }
    }

    fn blocks(&mut self, connection: &Connection, size: Size, highest: Option<u32>) -> rusqlite::Result<()> {
        let mut statement = connection.prepare(&format!("SELECT block, data FROM {} ORDER BY block", size.table()))?;
        let mut rows = statement.query([])?;
        let mut next = 0;
        loop {
            match rows.next() {
                Ok(Some(row)) => {
                    let block: i64 = row.get(0)?;
                    next = block.saturating_add(1);
                    self.block(size, block, &row.get::<_, Vec<u8>>(1).unwrap_or_default());
                }
                Ok(None) => return Ok(()),
                Err(error) => {
                    // Pages are damaged: what lies behind them can still be looked up.
                    let mut one = connection.prepare(&format!("SELECT data FROM {} WHERE block = ?1", size.table()))?;
                    let last = highest.map_or(-1, |highest| i64::from(size.block(highest)));
                    for block in next..=last {
                        match one.query_row([block], |row| row.get::<_, Vec<u8>>(0)).optional() {
                            Ok(Some(bytes)) => self.block(size, block, &bytes),
                            Ok(None) => {}
                            Err(_) => self.lose_block(size, block, &error.to_string()),
                        }
                    }
                    return Ok(());
                }
            }
        }
    }

    fn block(&mut self, size: Size, block: i64, bytes: &[u8]) {
        match labels_of_block(size, block, bytes) {
            Ok(series) => self.series.extend(series),
            Err(damage) => self.lose_block(size, block, &damage.to_string()),
        }
    }

    fn lose_block(&mut self, size: Size, block: i64, detail: &str) {
        let first = size.first(block).unwrap_or(u32::MAX);
        let ids = first..=first.saturating_add((1 << size.bits()) - 1);
        let place = format!("table {}, row {block}", size.table());
        self.lost.push(Lost { place, ids, detail: detail.to_owned() });
    }
}

fn labels_of_block(size: Size, block: i64, bytes: &[u8]) -> Result<Vec<(u32, Labels)>, Damaged> {
    let first = size.first(block).ok_or(Damaged("no series has such a number"))?;
    let labels = decode(size, block, bytes)?
        .into_iter()
        .map(|(place, labels)| Ok((first + u32::from(place), log::take_labels(&mut Cursor::new(&labels))?)));
    labels.collect()
}

/// The labels of one series, if they can be read.
pub(crate) fn labels_of(connection: &Connection, id: u32) -> Option<Labels> {
    let get = |statement: &str, row: i64| connection.query_row(statement, [row], |r| r.get::<_, Vec<u8>>(0)).ok();
    for size in Size::ALL {
        let block = i64::from(size.block(id));
        if let Some(bytes) = get(&format!("SELECT data FROM {} WHERE block = ?1", size.table()), block)
            && let Ok(labels) = labels_of_block(size, block, &bytes)
            && let Some((_, labels)) = labels.into_iter().find(|(found, _)| *found == id)
        {
            return Some(labels);
        }
    }
    let bytes = get("SELECT labels FROM series WHERE id = ?1", i64::from(id))?;
    log::take_labels(&mut Cursor::new(checked(i64::from(id), &bytes).ok()?)).ok()
}

/// Adds series, or replaces them.
pub(crate) fn put(transaction: &Transaction<'_>, series: &[(u32, Labels)]) -> rusqlite::Result<()> {
    let mut there = transaction.prepare("SELECT 1 FROM series_block WHERE block = ?1")?;
    let mut by_block: BTreeMap<(bool, u32), Block> = BTreeMap::new();
    let mut last = None;
    for (id, labels) in series {
        let small = Size::Small.block(*id);
        let is_small = match last {
            Some((block, is_small)) if block == small => is_small,
            _ => there.exists([small])?,
        };
        last = Some((small, is_small));
        let size = if is_small { Size::Small } else { Size::Large };
        let mut bytes = Vec::new();
        log::put_labels(&mut bytes, labels);
        by_block.entry((is_small, size.block(*id))).or_default().insert(size.place(*id), bytes);
    }
    for ((is_small, number), added) in by_block {
        let size = if is_small { Size::Small } else { Size::Large };
        let mut block = read(transaction, size, number)?.unwrap_or_default();
        block.extend(added);
        write(transaction, size, number, &block)?;
    }
    Ok(())
}

/// Removes series, whether or not they are there.
pub(crate) fn remove(transaction: &Transaction<'_>, series: &RoaringBitmap) -> rusqlite::Result<()> {
    let mut statement = transaction.prepare("DELETE FROM series WHERE id = ?1")?;
    for id in series {
        statement.execute([i64::from(id)])?;
    }
    for size in Size::ALL {
        let mut by_block: BTreeMap<u32, BTreeSet<u16>> = BTreeMap::new();
        for id in series {
            by_block.entry(size.block(id)).or_default().insert(size.place(id));
        }
        for (number, places) in by_block {
            let Some(mut block) = read(transaction, size, number)? else { continue };
            block.retain(|place, _| !places.contains(place));
            write(transaction, size, number, &block)?;
        }
    }
    Ok(())
}

/// A block, if it is there. One that can't be read is kept aside: it must not keep new series from being written.
fn read(transaction: &Transaction<'_>, size: Size, number: u32) -> rusqlite::Result<Option<Block>> {
    let statement = format!("SELECT data FROM {} WHERE block = ?1", size.table());
    let bytes: Option<Vec<u8>> = transaction.query_row(&statement, [number], |row| row.get(0)).optional()?;
    let Some(bytes) = bytes else { return Ok(None) };
    match decode(size, i64::from(number), &bytes) {
        Ok(block) => Ok(Some(block)),
        Err(damage) => {
            tracing::error!(
                table = size.table(),
                block = number,
                %damage,
                "block of series is damaged; it is kept aside and begun anew"
            );
            transaction
                .execute("INSERT INTO damaged (chunk, data) VALUES (?1, ?2)", params![size.aside(number), bytes])?;
            Ok(None)
        }
    }
}

fn write(transaction: &Transaction<'_>, size: Size, number: u32, block: &Block) -> rusqlite::Result<()> {
    let table = size.table();
    if block.is_empty() {
        return transaction.execute(&format!("DELETE FROM {table} WHERE block = ?1"), [number]).map(drop);
    }
    let data = encode(size, i64::from(number), block)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
    transaction.execute(&format!("INSERT OR REPLACE INTO {table} VALUES (?1, ?2)"), params![number, data]).map(drop)
}

fn encode(size: Size, number: i64, block: &Block) -> std::io::Result<Vec<u8>> {
    let mut raw = Vec::new();
    for (place, labels) in block {
        match size {
            Size::Small => raw.push(*place as u8),
            Size::Large => raw.extend_from_slice(&place.to_le_bytes()),
        }
        put_varint(&mut raw, labels.len() as u64);
        raw.extend_from_slice(labels);
    }
    let mut data = Vec::from((raw.len() as u32).to_le_bytes());
    data.extend(zstd::bulk::compress(&raw, LEVEL)?);
    seal_bytes(number, &mut data);
    Ok(data)
}

fn decode(size: Size, number: i64, data: &[u8]) -> Result<Block, Damaged> {
    let mut cursor = Cursor::new(checked(number, data)?);
    let raw_bytes = cursor.u32()? as usize;
    if raw_bytes > MAX_RAW_BYTES {
        return Err(Damaged("it is longer than a block can be"));
    }
    let raw = zstd::bulk::decompress(cursor.rest(), raw_bytes).or(Err(Damaged("it does not decompress")))?;
    let mut cursor = Cursor::new(&raw);
    let mut block = Block::new();
    while cursor.left() > 0 {
        let place = match size {
            Size::Small => u16::from(cursor.u8()?),
            Size::Large => u16::from_le_bytes(cursor.array()?),
        };
        if place >> size.bits() > 0 {
            return Err(Damaged("a series is not of this block"));
        }
        block.insert(place, cursor.sized()?.to_vec());
    }
    Ok(block)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(n: u32) -> Labels {
        Labels::from_pairs([("__name__", "node_cpu_seconds_total"), ("cpu", &n.to_string()), ("instance", "ăâîșț")])
    }

    fn database() -> Connection {
        let connection = Connection::open_in_memory().expect("database");
        connection.execute_batch("CREATE TABLE series (id INTEGER PRIMARY KEY, labels BLOB NOT NULL);").expect("table");
        let aside = "CREATE TABLE damaged (id INTEGER PRIMARY KEY, chunk INTEGER NOT NULL, data BLOB NOT NULL);";
        connection.execute_batch(aside).expect("table");
        connection.execute_batch(SCHEMA).expect("table");
        connection.execute_batch(SCHEMA_OF_LARGE).expect("table");
        connection
    }

    fn ids(connection: &Connection) -> Vec<u32> {
        let loaded = load(connection, None).expect("catalog");
        assert!(loaded.lost.is_empty(), "{loaded:?}");
        let mut all = loaded.series;
        all.sort_by_key(|(id, _)| *id);
        assert!(all.iter().all(|(id, found)| *found == labels(*id)));
        all.into_iter().map(|(id, _)| id).collect()
    }

    #[test]
    fn series_come_and_go_in_any_order_and_take_a_few_bytes_each() {
        let mut connection = database();
        let transaction = connection.transaction().expect("transaction");
        let batches = [vec![300, 1, 2], (500..1_500).collect(), vec![0, 2, u32::MAX - 1]];
        for batch in &batches {
            put(&transaction, &batch.iter().map(|id| (*id, labels(*id))).collect::<Vec<_>>()).expect("put");
        }
        remove(&transaction, &[1, 300, 301].into_iter().collect()).expect("removed");
        transaction.commit().expect("commit");
        let mut expected = vec![0, 2];
        expected.extend(500..1_500);
        expected.push(u32::MAX - 1);
        assert_eq!(ids(&connection), expected);
        let bytes: i64 = connection
            .query_row("SELECT total(length(data)) FROM series_4096", [], |r| r.get::<_, f64>(0))
            .map(|b| b as i64)
            .expect("sum");
        assert!(bytes < 8 * 1_003, "{bytes} bytes");
    }

    #[test]
    fn a_damaged_block_is_named_and_kept_aside() {
        for (size, row, lost_ids) in [(Size::Small, 2, 512..=767), (Size::Large, 1, 4_096..=8_191)] {
            let mut connection = database();
            let transaction = connection.transaction().expect("transaction");
            let id = *lost_ids.start() + 188;
            if size == Size::Small {
                small(&transaction, &[3, id]);
            } else {
                put(&transaction, &[(3, labels(3)), (id, labels(id))]).expect("put");
            }
            let damage = format!("UPDATE {} SET data = zeroblob(20) WHERE block = {row}", size.table());
            assert_eq!(transaction.execute(&damage, []).expect("damage"), 1);
            let loaded = load(&transaction, Some(id)).expect("catalog");
            assert_eq!(loaded.series, [(3, labels(3))]);
            let [lost] = &loaded.lost[..] else { panic!("{loaded:?}") };
            assert_eq!((&*lost.place, lost.ids.clone()), (&*format!("table {}, row {row}", size.table()), lost_ids));
            assert_eq!(lost.detail, "its checksum differs");
            put(&transaction, &[(id + 1, labels(id + 1))]).expect("put");
            let loaded = load(&transaction, None).expect("catalog");
            assert_eq!((loaded.series, loaded.lost.len()), (vec![(3, labels(3)), (id + 1, labels(id + 1))], 0));
            let aside = "SELECT length(data) FROM damaged WHERE chunk = ?1";
            assert_eq!(transaction.query_row(aside, [size.aside(row)], |r| r.get::<_, i64>(0)), Ok(20));
        }
    }

    /// Writes series as formats 3 to 5 did.
    fn small(transaction: &Transaction<'_>, ids: &[u32]) {
        for id in ids {
            let number = Size::Small.block(*id);
            let mut block = read(transaction, Size::Small, number).expect("read").unwrap_or_default();
            let mut bytes = Vec::new();
            log::put_labels(&mut bytes, &labels(*id));
            block.insert(Size::Small.place(*id), bytes);
            write(transaction, Size::Small, number, &block).expect("write");
        }
    }

    #[test]
    fn small_blocks_are_written_on_and_no_more_are_begun() {
        let mut connection = database();
        let transaction = connection.transaction().expect("transaction");
        small(&transaction, &[1, 300]);
        let added = [2, 301, 511, 512, 5_000].map(|id| (id, labels(id)));
        put(&transaction, &added).expect("put");
        let rows = |table: &str| -> i64 {
            transaction.query_row(&format!("SELECT count(*) FROM {table}"), [], |r| r.get(0)).expect("count")
        };
        assert_eq!((rows("series_block"), rows("series_4096")), (2, 2));
        assert_eq!(labels_of(&transaction, 301), Some(labels(301)));
        assert_eq!(labels_of(&transaction, 512), Some(labels(512)));
        remove(&transaction, &[1, 2, 512].into_iter().collect()).expect("removed");
        assert_eq!((rows("series_block"), rows("series_4096")), (1, 1));
        transaction.commit().expect("commit");
        assert_eq!(ids(&connection), [300, 301, 511, 5_000]);
    }
}
