//! What the system tests and the long runs share: starting the real programs on free ports, speaking to them over
//! their real interfaces, and waiting for conditions.

pub mod archive;
pub mod digitize;
pub mod fleet;
pub mod fuzz;
pub mod hot_folder;
pub mod http;
pub mod load;
pub mod nothing_lost;
pub mod offline_day;
pub mod process;
pub mod recording;
pub mod shares;
pub mod soak;
pub mod troubles;
pub mod workflow;
