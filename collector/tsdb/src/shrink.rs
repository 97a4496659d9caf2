//! Gives free pages of the database back to the file system, a bounded part at a time, when nothing else is to do.
//!
//! Invariants: what every day frees and fills again stays, so that a store in its daily round writes nothing for this;
//! each part is a transaction of its own that moves pages from the end of the file into free ones.
//! What it deliberately does not do: shrink files that were made before format 5. `SQLite` can't without writing all of
//! them anew, which `compact` does; their free pages are filled again.

use rusqlite::Connection;

use crate::SealError;
use crate::seal::Sealer;

/// Pages given back by one call: 4 MiB.
const PAGES_PER_CALL: i64 = 256;
/// Fewer free pages than this stay whatever part of the file they are: 1 MiB.
const SPARE_PAGES: i64 = 64;
/// Shrinking begins where more than this part of the file is free.
const LARGEST_FREE_PART: i64 = 16;
/// It ends where less is.
const KEPT_FREE_PART: i64 = 32;

/// What is known of the file while the process lives.
#[derive(Default)]
pub(crate) struct Shrinker {
    /// Whether the file can shrink, once that was asked.
    able: Option<bool>,
    going: bool,
}

/// Gives a part back where much is free.
pub(crate) fn shrink(sealer: &mut Sealer) -> Result<(), SealError> {
    if due(sealer).map_err(SealError::Database)? {
        let give = |connection: &Connection| {
            let mut statement = connection.prepare_cached(&format!("PRAGMA incremental_vacuum({PAGES_PER_CALL})"))?;
            let mut rows = statement.query([])?;
            // Each step frees a page.
            while rows.next()?.is_some() {}
            Ok::<_, rusqlite::Error>(())
        };
        give(&sealer.connection).map_err(SealError::Database)?;
    }
    Ok(())
}

/// Whether a part is to be given back.
pub(crate) fn due(sealer: &mut Sealer) -> rusqlite::Result<bool> {
    let Sealer { connection, shrinker, .. } = sealer;
    let pragma = |name: &str| connection.query_row(&format!("PRAGMA {name}"), [], |r| r.get::<_, i64>(0));
    if shrinker.able == Some(false) {
        return Ok(false);
    }
    let (free, pages) = (pragma("freelist_count")?, pragma("page_count")?);
    if shrinker.able.is_none() && !*shrinker.able.insert(pragma("auto_vacuum")? == 2) {
        if free > SPARE_PAGES && free > pages / LARGEST_FREE_PART {
            let free_bytes = free * pragma("page_size")?;
            tracing::info!(free_bytes, "the database of chunks can't give free room back until it is compacted");
        }
        return Ok(false);
    }
    let part = if shrinker.going { KEPT_FREE_PART } else { LARGEST_FREE_PART };
    shrinker.going = free > SPARE_PAGES && free > pages / part;
    Ok(shrinker.going)
}
