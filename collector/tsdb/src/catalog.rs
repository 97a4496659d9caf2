//! The labels of series in the database: neighbours stand together in blocks that are compressed as one, because most of
//! what is in one label set is in the next one too. FORMAT.md has the bytes.
//!
//! Invariants: a series is in the block of its number and in no other; blocks are rewritten whole, in the caller's
//! transaction. Rows of `series`, one a series, are of formats 1 and 2: they are read, and never written.

use std::collections::BTreeMap;

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

/// Why the labels of some series can't be had.
#[derive(Debug)]
pub(crate) enum CatalogError {
    Database(rusqlite::Error),
    /// Which row, and what is wrong with it.
    Damaged(String),
}

impl From<rusqlite::Error> for CatalogError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error)
    }
}

/// Every series that is there.
pub(crate) fn load(connection: &Connection) -> Result<Vec<(u32, Labels)>, CatalogError> {
    let mut series = Vec::new();
    let mut statement = connection.prepare("SELECT id, labels FROM series")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (id, bytes): (i64, Vec<u8>) = (row.get(0)?, row.get(1)?);
        let damaged = |damage: Damaged| CatalogError::Damaged(format!("series {id}: {damage}"));
        let number = u32::try_from(id).ok().filter(|id| *id < u32::MAX);
        let number = number.ok_or(Damaged("no series has such a number")).map_err(damaged)?;
        let labels = checked(id, &bytes).and_then(|body| log::take_labels(&mut Cursor::new(body))).map_err(damaged)?;
        series.push((number, labels));
    }
    let mut statement = connection.prepare("SELECT block, data FROM series_block")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (block, bytes): (i64, Vec<u8>) = (row.get(0)?, row.get(1)?);
        let labels_of_block = || {
            let first = u32::try_from(block).ok().and_then(|block| block.checked_mul(1 << BLOCK_BITS));
            let first = first.ok_or(Damaged("no series has such a number"))?;
            let labels = decode(block, &bytes)?
                .into_iter()
                .map(|(place, labels)| Ok((first + u32::from(place), log::take_labels(&mut Cursor::new(&labels))?)));
            labels.collect::<Result<Vec<_>, Damaged>>()
        };
        let damaged = |damage: Damaged| CatalogError::Damaged(format!("series block {block}: {damage}"));
        series.extend(labels_of_block().map_err(damaged)?);
    }
    Ok(series)
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

fn read(transaction: &Transaction<'_>, number: u32) -> rusqlite::Result<Option<Block>> {
    let mut statement = transaction.prepare("SELECT data FROM series_block WHERE block = ?1")?;
    let bytes: Option<Vec<u8>> = statement.query_row([number], |row| row.get(0)).optional()?;
    bytes
        .map(|bytes| decode(i64::from(number), &bytes))
        .transpose()
        .map_err(|damage| rusqlite::Error::FromSqlConversionFailure(1, rusqlite::types::Type::Blob, Box::new(damage)))
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
        connection.execute_batch(SCHEMA).expect("table");
        connection
    }

    fn ids(connection: &Connection) -> Vec<u32> {
        let mut all = load(connection).expect("catalog");
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
    fn a_damaged_block_is_named() {
        let mut connection = database();
        let transaction = connection.transaction().expect("transaction");
        put(&transaction, &[(700, labels(700))]).expect("put");
        transaction.execute("UPDATE series_block SET data = zeroblob(20)", []).expect("damage");
        assert!(put(&transaction, &[(701, labels(701))]).is_err(), "what can't be read is not replaced");
        transaction.commit().expect("commit");
        let Err(CatalogError::Damaged(detail)) = load(&connection) else { panic!("must be told") };
        assert_eq!(detail, "series block 2: its checksum differs");
    }
}
