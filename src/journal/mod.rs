//! What happened: `/var/lib/stillpoint/journal.jsonl`, one JSON object a line.
//!
//! A record is one write under `flock` and is acknowledged only when it is on disk. A line that a
//! power cut left incomplete is ended before the next record; damage in the middle is reported and
//! never repaired.
//!
//! | file | what it does |
//! |---|---|
//! | `file` | appends a record |
//! | `segments`, `keep`, `carry` | which files there are; which are too old; what is kept of those |
//! | `read`, `query` | reads all lines, new ones, or those that are asked for |
//! | `link`, `chain` | ties each record to the line before it; checks that |
//! | `bound`, `rate` | how long a record may be, and how many a guest may cause |

mod bound;
mod carry;
mod chain;
#[cfg(test)]
mod examples;
mod file;
mod keep;
mod lines;
mod link;
mod position;
mod query;
mod rate;
mod read;
mod record;
mod segments;
mod words;
mod written;

pub use chain::{Break, Chain, Place};
#[cfg(test)]
pub(crate) use examples::examples;
pub use file::Journal;
pub use position::Position;
pub use query::Query;
pub use read::Entry;
pub use record::{
    Backup, ContainerRecord, Grade, Identity, IdentityOutcome, LeftOut, Outcome, Record, Recovered,
    Removed, Renewed, SettingChange, Settled, Verify, VerifyOutcome, VerifyStart,
};
pub use words::{Action, Actor, ContainerFate, GuestAction, VerifyState, Word};
pub use written::Written;
