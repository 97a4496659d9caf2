//! Prometheus' remote protocols: what other programs write to this collector, and what it writes to others.
//!
//! What it deliberately does not do: serve HTTP (`web`), or keep samples (`veghe-tsdb`).

mod client;
mod decode;
mod encode;
mod metrics;
mod part;
mod receiver;
mod sender;
#[cfg(test)]
mod sender_tests;
mod settings;

pub use receiver::{Outcome, Protocol, Receiver, WriteError};
pub use sender::{StartError, start_senders};
pub use settings::{Credentials, Queue, Target};
