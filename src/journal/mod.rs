//! What happened, for good: `/var/lib/stillpoint/journal.jsonl`, one JSON object a line.
//!
//! A record is one write under `flock` and acknowledged only when it is on disk. A line that a power cut tore
//! is sealed before the next record; damage in the middle is reported and never repaired. A journal that has grown becomes
//! `journal.jsonl.1`; of the records in the one before, the newest of each guest are kept.

mod bound;
mod carry;
#[cfg(test)]
mod examples;
mod file;
mod newest;
mod rate;
mod record;

#[cfg(test)]
pub(crate) use examples::examples;
pub use file::{Entry, Journal};
pub use record::{
    BY_SERVER, Backup, ContainerRecord, Grade, Identity, IdentityOutcome, LeftOut, Outcome, Record,
    Recovered, Renewed, SettingChange, Settled, Verify, VerifyOutcome,
};
