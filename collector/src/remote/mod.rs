//! Prometheus' remote protocols: what other programs write to this collector.
//!
//! What it deliberately does not do: HTTP (`web`), or keep samples (`veghe-tsdb`).

mod decode;
mod known;
mod receiver;
mod runs;

pub use receiver::{Outcome, Protocol, Receiver, WriteError};
