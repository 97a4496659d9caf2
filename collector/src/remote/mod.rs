//! Prometheus' remote protocols: what other programs write to this collector and read from it.
//!
//! What it deliberately does not do: HTTP (`web`), or keep samples (`veghe-tsdb`).

mod decode;
mod known;
mod messages;
mod read;
mod receiver;
mod runs;
mod xor;

pub use read::{ReadRefusal, Reading, Taken};
pub use receiver::{Outcome, Protocol, Receiver, WriteError};
