//! What happened: `/var/lib/stillpoint/journal.jsonl`, one JSON object a line.
//!
//! A record is one write under `flock` and is acknowledged only when it is on disk. A line that a
//! power cut left incomplete is ended before the next record; damage in the middle is reported and
//! never repaired. A journal that has grown becomes `journal.jsonl.1`; of the previous older file,
//! the newest records of each guest are kept.

mod bound;
mod carry;
#[cfg(test)]
mod examples;
mod file;
mod newest;
mod rate;
mod record;
mod words;
mod written;

#[cfg(test)]
pub(crate) use examples::examples;
pub use file::{Entry, Journal};
pub use record::{
    Backup, ContainerRecord, Grade, Identity, IdentityOutcome, LeftOut, Outcome, Record, Recovered,
    Renewed, SettingChange, Settled, Verify, VerifyOutcome, VerifyStart,
};
pub use words::{Action, Actor, ContainerFate, GuestAction, VerifyState, Word};
pub use written::Written;
