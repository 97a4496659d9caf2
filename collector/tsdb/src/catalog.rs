//! The labels of series in the database: neighbours stand together in blocks that are compressed as one, because most of
//! what is in one label set is in the next one too. FORMAT.md has the bytes.
//!
//! Invariants: a series is in the block of its number and in no other; blocks are rewritten whole, in the caller's
//! transaction. Rows of `series`, one a series, are of formats 1 and 2: they are read, and never written.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use roaring::RoaringBitmap;
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use veghe_model::Labels;

use crate::bytes::{Cursor, Damaged, put_varint};
use crate::chunks::{checked, seal_bytes};
use crate::log;

/// Since format 3.
pub(crate) const SCHEMA: &str = "CREATE TABLE series_block (block INTEGER PRIMARY KEY, data BLOB NOT NULL);";

/// Series of a block: enough to compress well, few enough to rewrite when one more comes.
const BLOCK_BITS: u32 = 8;
/// Before compression: 4 MiB of labels for each series, which writers stay far below.
const MAX_RAW_BYTES: usize = 1 << 30;
const LEVEL: i32 = 3;

/// Encoded labels by place in the block.
type Block = BTreeMap<u8, Vec<u8>>;

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
    let mut statement = connection.prepare("SELECT block, data FROM series_block ORDER BY block")?;
    let mut rows = statement.query([])?;
    let mut next = 0;
    loop {
        match rows.next() {
            Ok(Some(row)) => {
                let block: i64 = row.get(0)?;
                next = block.saturating_add(1);
                loaded.block(block, &row.get::<_, Vec<u8>>(1).unwrap_or_default());
            }
            Ok(None) => break,
            Err(error) => {
                // Pages are damaged: what lies behind them can still be looked up.
                let mut one = connection.prepare("SELECT data FROM series_block WHERE block = ?1")?;
                let last = highest.map_or(-1, |highest| i64::from(highest >> BLOCK_BITS));
                for block in next..=last {
                    match one.query_row([block], |row| row.get::<_, Vec<u8>>(0)).optional() {
                        Ok(Some(bytes)) => loaded.block(block, &bytes),
                        Ok(None) => {}
                        Err(_) => loaded.lose_block(block, &error.to_string()),
                    }
                }
                break;
            }
        }
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

    fn block(&mut self, block: i64, bytes: &[u8]) {
        match labels_of_block(block, bytes) {
            Ok(series) => self.series.extend(series),
            Err(damage) => self.lose_block(block, &damage.to_string()),
        }
    }

    fn lose_block(&mut self, block: i64, detail: &str) {
        let first = first_of(block).unwrap_or(u32::MAX);
        let ids = first..=first.saturating_add((1 << BLOCK_BITS) - 1);
        self.lost.push(Lost { place: format!("table series_block, row {block}"), ids, detail: detail.to_owned() });
    }
}

fn first_of(block: i64) -> Option<u32> {
    u32::try_from(block).ok().filter(|block| *block <= u32::MAX >> BLOCK_BITS).map(|block| block << BLOCK_BITS)
}

fn labels_of_block(block: i64, bytes: &[u8]) -> Result<Vec<(u32, Labels)>, Damaged> {
    let first = first_of(block).ok_or(Damaged("no series has such a number"))?;
    let labels = decode(block, bytes)?
        .into_iter()
        .map(|(place, labels)| Ok((first + u32::from(place), log::take_labels(&mut Cursor::new(&labels))?)));
    labels.collect()
}

/// The labels of one series, if they can be read.
pub(crate) fn labels_of(connection: &Connection, id: u32) -> Option<Labels> {
    let block = i64::from(id >> BLOCK_BITS);
    let get = |statement: &str, row: i64| connection.query_row(statement, [row], |r| r.get::<_, Vec<u8>>(0)).ok();
    if let Some(bytes) = get("SELECT data FROM series_block WHERE block = ?1", block)
        && let Some((_, labels)) = labels_of_block(block, &bytes).ok()?.into_iter().find(|(found, _)| *found == id)
    {
        return Some(labels);
    }
    let bytes = get("SELECT labels FROM series WHERE id = ?1", i64::from(id))?;
    log::take_labels(&mut Cursor::new(checked(i64::from(id), &bytes).ok()?)).ok()
}

/// Adds series, or replaces them.
pub(crate) fn put(transaction: &Transaction<'_>, series: &[(u32, Labels)]) -> rusqlite::Result<()> {
    let mut by_block: BTreeMap<u32, Block> = BTreeMap::new();
    for (id, labels) in series {
        let mut bytes = Vec::new();
        log::put_labels(&mut bytes, labels);
        by_block.entry(id >> BLOCK_BITS).or_default().insert(*id as u8, bytes);
    }
    for (number, added) in by_block {
        let mut block = read(transaction, number)?.unwrap_or_default();
        block.extend(added);
        write(transaction, number, &block)?;
    }
    Ok(())
}

/// Removes series, whether or not they are there.
pub(crate) fn remove(transaction: &Transaction<'_>, series: &RoaringBitmap) -> rusqlite::Result<()> {
    let mut statement = transaction.prepare("DELETE FROM series WHERE id = ?1")?;
    let mut by_block: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    for id in series {
        statement.execute([i64::from(id)])?;
        by_block.entry(id >> BLOCK_BITS).or_default().push(id as u8);
    }
    for (number, places) in by_block {
        let Some(mut block) = read(transaction, number)? else { continue };
        block.retain(|place, _| !places.contains(place));
        write(transaction, number, &block)?;
    }
    Ok(())
}

/// A block, if it is there. One that can't be read is kept aside: it must not keep new series from being written.
fn read(transaction: &Transaction<'_>, number: u32) -> rusqlite::Result<Option<Block>> {
    let mut statement = transaction.prepare("SELECT data FROM series_block WHERE block = ?1")?;
    let bytes: Option<Vec<u8>> = statement.query_row([number], |row| row.get(0)).optional()?;
    let Some(bytes) = bytes else { return Ok(None) };
    match decode(i64::from(number), &bytes) {
        Ok(block) => Ok(Some(block)),
        Err(damage) => {
            tracing::error!(block = number, %damage, "block of series is damaged; it is kept aside and begun anew");
            transaction
                .execute("INSERT INTO damaged (chunk, data) VALUES (?1, ?2)", params![-1 - i64::from(number), bytes])?;
            Ok(None)
        }
    }
}

fn write(transaction: &Transaction<'_>, number: u32, block: &Block) -> rusqlite::Result<()> {
    if block.is_empty() {
        return transaction.execute("DELETE FROM series_block WHERE block = ?1", [number]).map(drop);
    }
    let data =
        encode(i64::from(number), block).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
    let mut statement = transaction.prepare("INSERT OR REPLACE INTO series_block VALUES (?1, ?2)")?;
    statement.execute(params![number, data]).map(drop)
}

fn encode(number: i64, block: &Block) -> std::io::Result<Vec<u8>> {
    let mut raw = Vec::new();
    for (place, labels) in block {
        raw.push(*place);
        put_varint(&mut raw, labels.len() as u64);
        raw.extend_from_slice(labels);
    }
    let mut data = Vec::from((raw.len() as u32).to_le_bytes());
    data.extend(zstd::bulk::compress(&raw, LEVEL)?);
    seal_bytes(number, &mut data);
    Ok(data)
}

fn decode(number: i64, data: &[u8]) -> Result<Block, Damaged> {
    let mut cursor = Cursor::new(checked(number, data)?);
    let raw_bytes = cursor.u32()? as usize;
    if raw_bytes > MAX_RAW_BYTES {
        return Err(Damaged("it is longer than a block can be"));
    }
    let raw = zstd::bulk::decompress(cursor.rest(), raw_bytes).or(Err(Damaged("it does not decompress")))?;
    let mut cursor = Cursor::new(&raw);
    let mut block = Block::new();
    while cursor.left() > 0 {
        block.insert(cursor.u8()?, cursor.sized()?.to_vec());
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
            .query_row("SELECT total(length(data)) FROM series_block", [], |r| r.get::<_, f64>(0))
            .map(|b| b as i64)
            .expect("sum");
        assert!(bytes < 8 * 1_003, "{bytes} bytes");
    }

    #[test]
    fn a_damaged_block_is_named_and_kept_aside() {
        let mut connection = database();
        let transaction = connection.transaction().expect("transaction");
        put(&transaction, &[(3, labels(3)), (700, labels(700))]).expect("put");
        transaction.execute("UPDATE series_block SET data = zeroblob(20) WHERE block = 2", []).expect("damage");
        let loaded = load(&transaction, Some(700)).expect("catalog");
        assert_eq!(loaded.series, [(3, labels(3))]);
        let [lost] = &loaded.lost[..] else { panic!("{loaded:?}") };
        assert_eq!((&*lost.place, lost.ids.clone()), ("table series_block, row 2", 512..=767));
        assert_eq!(lost.detail, "its checksum differs");
        put(&transaction, &[(701, labels(701))]).expect("put");
        assert_eq!(load(&transaction, None).expect("catalog").series, [(3, labels(3)), (701, labels(701))]);
        let aside = "SELECT length(data) FROM damaged WHERE chunk = -3";
        assert_eq!(transaction.query_row(aside, [], |r| r.get::<_, i64>(0)), Ok(20));
    }
}
