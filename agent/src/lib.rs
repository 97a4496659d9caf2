//! The agent of one machine: sensors, their schedule, the spool and the uplink to the collector.

pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
mod crew;
#[cfg(target_os = "linux")]
pub mod database;
pub mod delivery;
#[cfg(target_os = "linux")]
pub mod departure;
#[cfg(target_os = "linux")]
pub mod digitization;
pub mod discovery;
pub mod exposition;
#[cfg(target_os = "linux")]
pub mod fixity;
pub mod footprint;
pub mod health;
pub mod identity;
pub mod inspect;
pub mod join;
pub mod log_budget;
pub mod openmetrics;
pub mod reading;
pub mod remote;
pub mod schedule;
pub mod sensors;
#[cfg(windows)]
pub mod service;
pub mod session;
pub mod spool;
pub mod system;
#[cfg(target_os = "linux")]
pub mod thrift;
pub mod tls;
pub mod uplink;
