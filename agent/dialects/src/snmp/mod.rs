//! SNMP: version 2c (RFC 3416) and version 3 with the user-based security model (RFC 3414, 3826, 7860).

pub mod ber;
pub mod message;
pub mod oid;
pub mod usm;

pub use message::{Pdu, PduType, Value};
pub use oid::Oid;
