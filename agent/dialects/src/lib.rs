//! What devices on a network say: bytes in, values out.
//!
//! Invariants: nothing here panics, recurses without a bound or allocates more than a small multiple of its input,
//! whatever the bytes are; every module is fed by a fuzz target. What it deliberately does not do: open sockets, know the
//! time or random numbers (they are arguments), name metrics.

pub mod escl;
pub mod mdns;
pub mod nut;
pub mod snmp;
pub mod statsd;
