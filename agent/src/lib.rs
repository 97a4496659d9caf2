//! The agent of one machine: sensors, their schedule, the spool and the uplink to the collector.

pub mod clock;
pub mod delivery;
pub mod health;
pub mod identity;
pub mod reading;
pub mod schedule;
pub mod sensors;
pub mod session;
pub mod spool;
pub mod tls;
pub mod uplink;
