//! The inventory: read from a file with every problem told, compared with the version in force, written out again.

mod columns;
mod diff;
mod read;
mod room;
#[cfg(test)]
mod tests;
mod write;

pub use self::columns::{COLUMNS, Mapping, MappingError};
pub use self::diff::{Change, Diff, compare};
pub(in crate::digitization) use self::read::read_any;
pub use self::read::{FileError, Problem, Reading, read_csv, read_file};
pub use self::write::to_csv;
