//! vzdump, typed: what it says when it calls the hook, and the job that the call belongs to.
//!
//! Pure but for reading the parent's command line and the task log.

mod call;
mod job;
mod task_log;
mod tasks;
mod upid;

pub use call::{Call, GuestType, Mode, Phase, Subject};
pub use job::Job;
pub use task_log::TaskLog;
pub use tasks::{Task, tasks};
pub use upid::Upid;

use serde::{Deserialize, Serialize};
use std::fmt;

/// The number of a guest, unique in the whole cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Vmid(pub u32);

impl fmt::Display for Vmid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::str::FromStr for Vmid {
    type Err = anyhow::Error;

    /// A decimal number of at least 100, as PVE gives them.
    fn from_str(text: &str) -> anyhow::Result<Vmid> {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse() {
            Ok(number) if digits && number >= 100 => Ok(Vmid(number)),
            _ => anyhow::bail!(
                "'{}' is not a VMID: a number from 100 on, as `pct list` shows it",
                crate::sys::text::printable(text, 40)
            ),
        }
    }
}
