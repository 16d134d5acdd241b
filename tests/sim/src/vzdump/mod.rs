//! vzdump as it was recorded: the recordings, what vzdump does between two hook calls, and the
//! processes that play it.

pub mod bystander;
pub mod daemon;
pub mod director;
pub mod failure;
pub mod log;
pub mod placing;
pub mod plan;
pub mod replay;
pub mod report;
pub mod result;
pub mod stage;
pub mod trace;
pub mod wire;
pub mod worker;
