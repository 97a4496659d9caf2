//! The Veghe collector: broker, storage, queries, alerts and pages in one process with one data directory.
//!
//! `app` wires the modules and nobody imports it; modules below it know the ones they stand on and never the web.

pub mod admin;
pub mod alerting;
pub mod app;
pub mod backup;
pub mod cli;
pub mod clock;
pub mod config;
pub mod digitization;
pub mod fleet;
pub mod housekeeping;
pub mod import;
pub mod ingest;
pub mod ledger;
pub mod query;
pub mod remote;
pub mod secret;
pub mod status;
pub mod terminal;
pub mod web;
