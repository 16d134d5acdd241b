//! Reports to people: lines in the task log, the system's log, mail, the status, metrics, a ping.

mod after;
mod checkpoint;
pub(crate) mod history;
pub mod lines;
pub mod log;
pub mod mail;
pub mod metrics;
pub mod not_back;
pub mod ping;
pub mod record;
pub mod status;

pub use after::{after_job, after_verifies, later, tell_later};
pub use checkpoint::head as checkpoint_head;
pub use history::read as history;
