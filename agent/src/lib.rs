//! The agent of one machine: sensors, their schedule, the spool and the uplink to the collector.

pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
mod crew;
pub mod delivery;
#[cfg(target_os = "linux")]
pub mod digitization;
pub mod exposition;
#[cfg(target_os = "linux")]
pub mod fixity;
pub mod health;
pub mod identity;
pub mod inspect;
pub mod join;
pub mod openmetrics;
pub mod reading;
pub mod schedule;
pub mod sensors;
pub mod session;
pub mod spool;
pub mod tls;
pub mod uplink;
