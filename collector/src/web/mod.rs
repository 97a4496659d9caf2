//! .

pub mod public;

/// Tables of this module in the ledger.
pub(crate) const SCHEMA: &str = "";
