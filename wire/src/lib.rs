//! The contract between agent and collector. PROTOCOL.md beside this crate tells it in words and bytes.
//!
//! Here are the topics, the payloads, the limits on both, the catalogue of every metric and the form of settings
//! documents. What it deliberately does not do: touch a network, a file or the clock.

pub mod ack;
pub mod batch;
pub mod catalogue;
pub mod document;
pub mod enrolment;
pub mod event;
pub mod remote;
pub mod topic;

pub use topic::{AgentId, AgentIdError, Topic};

/// The protocol's major version: the first byte of every payload. A receiver refuses any other.
pub const MAJOR: u8 = 1;
/// The protocol's minor version: told in every batch; receivers tolerate newer ones and ignore fields they don't know.
pub const MINOR: u32 = 1;
/// The largest MQTT packet that either side accepts.
pub const MAX_PACKET_BYTES: usize = 1 << 20;
/// The largest batch after decompression.
pub const MAX_BATCH_BYTES: usize = 8 << 20;
/// The name in every collector certificate. Agents check it instead of a host name: the pinned CA is the collector's
/// own, and the address by which an agent reaches it may change.
pub const COLLECTOR_SERVER_NAME: &str = "veghe-collector";
