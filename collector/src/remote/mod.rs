//! Prometheus' remote protocols: what other programs write to this collector and read from it, and what it writes to others.
//!
//! What it deliberately does not do: serve HTTP (`web`), or keep samples (`veghe-tsdb`).

mod client;
mod decode;
mod encode;
mod known;
mod messages;
mod metrics;
mod part;
mod read;
mod receiver;
mod runs;
mod sender;
#[cfg(test)]
mod sender_tests;
mod settings;
mod xor;

pub use read::{ReadRefusal, Reading, Taken};
pub use receiver::{Outcome, Protocol, Receiver, WriteError};
pub use sender::{StartError, hold_for_targets, start_senders};
pub use settings::{Credentials, Queue, Target};
