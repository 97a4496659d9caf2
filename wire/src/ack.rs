//! What the collector answers, and how agents announce themselves. Payloads are the major version in one byte and a
//! protobuf message.

use prost::Message;

use crate::MAJOR;

/// Settles batches of one spool id. Acks may be lost or repeated: every batch that is sent again is answered again.
#[derive(Clone, PartialEq, Message)]
pub struct Ack {
    /// [`crate::MINOR`] of the collector.
    #[prost(uint32, tag = "1")]
    pub minor: u32,
    /// Which run of the agent.
    #[prost(fixed64, tag = "2")]
    pub spool_id: u64,
    /// Sequences whose batches are on the collector's disk: the agent forgets them.
    #[prost(uint64, repeated, tag = "3")]
    pub accepted: Vec<u64>,
    /// Batches that can never be accepted: the agent counts, logs and forgets them.
    #[prost(message, repeated, tag = "4")]
    pub refused: Vec<Refusal>,
    /// Batches that can't be accepted now: the agent keeps them.
    #[prost(message, repeated, tag = "5")]
    pub held: Vec<Hold>,
}

/// One batch that can never be accepted.
#[derive(Clone, PartialEq, Message)]
pub struct Refusal {
    /// Which batch.
    #[prost(uint64, tag = "1")]
    pub sequence: u64,
    /// What is wrong with it, for a person.
    #[prost(string, tag = "2")]
    pub reason: String,
}

/// One batch that waits.
#[derive(Clone, PartialEq, Message)]
pub struct Hold {
    /// Which batch; 0 where the payload could not be read so far.
    #[prost(uint64, tag = "1")]
    pub sequence: u64,
    /// Why.
    #[prost(enumeration = "HoldCause", tag = "2")]
    pub cause: i32,
    /// The same for a person.
    #[prost(string, tag = "3")]
    pub reason: String,
    /// When to try again, in milliseconds from now.
    #[prost(uint32, tag = "4")]
    pub retry_after_ms: u32,
}

/// Why a batch waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum HoldCause {
    /// A cause this version does not know: wait.
    Unknown = 0,
    /// The collector can't store at present, for example because its disk is full.
    Unavailable = 1,
    /// The collector lacks definitions: send the batch again at once with the whole dictionary.
    Dictionary = 2,
    /// The collector speaks another major version: keep everything until one side is updated.
    Version = 3,
}

/// How an agent announces itself; the same with `online` false is its last will.
#[derive(Clone, PartialEq, Message)]
pub struct Presence {
    /// Whether the agent is connected.
    #[prost(bool, tag = "1")]
    pub online: bool,
    /// The agent's version, for example `0.1.0`.
    #[prost(string, tag = "2")]
    pub version: String,
    /// The current run's spool id.
    #[prost(fixed64, tag = "3")]
    pub spool_id: u64,
    /// The collection interval in milliseconds.
    #[prost(uint32, tag = "4")]
    pub interval_ms: u32,
    /// [`crate::MAJOR`] and [`crate::MINOR`] of the agent, for example `1.0`.
    #[prost(string, tag = "5")]
    pub protocol: String,
}

/// Why a payload can't be read.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// Nothing there at all.
    #[error("payload is empty")]
    Empty,
    /// Made by a newer or older protocol.
    #[error("payload has protocol major version {given}, this program speaks {MAJOR}; update the older of the two")]
    Major {
        /// The version in the payload.
        given: u8,
    },
    /// The bytes are not the message.
    #[error("cannot decode message")]
    Decode(#[source] prost::DecodeError),
}

/// The payload of `message`.
pub fn encode(message: &impl Message) -> Vec<u8> {
    let mut payload = vec![MAJOR];
    payload.extend(message.encode_to_vec());
    payload
}

/// The message in `payload`.
///
/// # Errors
/// See [`MessageError`].
pub fn decode<M: Message + Default>(payload: &[u8]) -> Result<M, MessageError> {
    let (&major, rest) = payload.split_first().ok_or(MessageError::Empty)?;
    if major != MAJOR {
        return Err(MessageError::Major { given: major });
    }
    M::decode(rest).map_err(MessageError::Decode)
}
