//! The state of each guest of this node.

mod check;
mod gather;
mod held_back;
mod judge;
mod locked;
mod table;
mod words;

pub use check::{check, checkmk};
pub use gather::gather;
pub use judge::Limits;
pub use table::{Paper, table};

use serde::{Deserialize, Serialize};

use crate::journal::{Grade, Outcome, VerifyOutcome, VerifyState, Word};
use crate::pve::OnStart;
use crate::vzdump::{GuestType, Mode, Vmid};

/// How bad something is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    #[default]
    Ok,
    Warning,
    Critical,
}

/// The state of this node's guests. Its JSON is `stillpoint status --json`; ages are whole seconds,
/// times RFC 3339 in UTC.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    pub schema: u32,
    pub time: String,
    pub node: String,
    /// The worst of all.
    pub level: Level,
    /// What is wrong with the node itself.
    pub problems: Vec<Problem>,
    pub guests: Vec<Guest>,
    /// What is going on.
    pub now: Vec<Now>,
}

/// A problem, in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub level: Level,
    pub message: String,
}

/// The state of one guest.
#[derive(Clone, Debug, Serialize)]
pub struct Guest {
    pub vmid: Vmid,
    pub name: Option<String>,
    #[serde(rename = "type")]
    pub guest_type: GuestType,
    pub level: Level,
    pub problems: Vec<Problem>,
    /// The last backup, made or failed.
    pub backup: Option<Backup>,
    /// The last successful backup.
    pub last_success: Option<Moment>,
    /// The proof of that backup; `None` if it is on no backup server.
    pub verify: Option<Verify>,
    /// When a backup of this guest was last proven to be good.
    pub last_verified: Option<Moment>,
    /// What calls Stillpoint when it starts, as after a restore.
    pub on_start: OnStart,
    /// What is still wrong since its last start after a restore.
    pub settled: Option<Settled>,
    /// Containers that ran before a backup and are not back, if more than their names is known.
    pub not_back: Vec<NotBack>,
    /// Why its engine might not start containers, so that backups do not stop them.
    pub start_refused: Option<String>,
}

/// A container that ran before a backup and is not back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NotBack {
    pub name: String,
    /// In the engine's words.
    pub why: String,
    /// Whether it was removed while the backup was made, so that there is nothing to start.
    pub removed: bool,
    /// What to run on the node if `stillpoint resume` is not enough: the start of a guest that is
    /// down, or the command that creates the stack of a removed container again.
    pub way_back: Option<String>,
}

/// What is still wrong since the last start of a restored guest.
#[derive(Clone, Debug, Serialize)]
pub struct Settled {
    #[serde(flatten)]
    pub moment: Moment,
    /// Containers that were not started, because they would write to what another guest has too;
    /// without those that a person has started since.
    pub held_back: Vec<HeldBack>,
    /// What the backup did not contain, in sentences.
    pub lost: Vec<String>,
}

/// A container that was held back.
#[derive(Clone, Debug, Serialize)]
pub struct HeldBack {
    pub name: String,
    /// The reason, with the command that starts it.
    pub reason: String,
}

/// A point in time, and its age.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Moment {
    pub time: String,
    pub age_s: u64,
}

/// The last backup of a guest.
#[derive(Clone, Debug, Serialize)]
pub struct Backup {
    #[serde(flatten)]
    pub moment: Moment,
    pub outcome: Outcome,
    pub error: Option<String>,
    pub grade: Option<Grade>,
    pub reasons: Vec<String>,
    pub mode_asked: Mode,
    pub mode_used: Mode,
    pub downtime_ms: Option<u64>,
    /// Containers that ran before it and are not known to be back.
    pub not_back: Vec<String>,
    pub storage: Option<String>,
    pub target: Option<String>,
}

/// The proof of a backup.
#[derive(Clone, Debug, Serialize)]
pub struct Verify {
    pub state: ProofState,
    /// Since when that is so.
    #[serde(flatten)]
    pub moment: Option<Moment>,
    pub reason: Option<String>,
}

/// Whether a backup is proven.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProofState {
    /// The server is at it.
    Pending,
    #[serde(untagged)]
    Known(VerifyOutcome),
    /// It was not asked; the journal's word for why.
    #[serde(untagged)]
    NotAsked(Word<VerifyState>),
}

/// Something that is in progress, or was left over.
#[derive(Clone, Debug, Serialize)]
pub struct Now {
    pub vmid: Vmid,
    pub what: What,
    #[serde(flatten)]
    pub since: Option<Moment>,
    /// In words.
    pub message: String,
}

/// What is going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// A backup is running.
    Backup,
    /// An interrupted backup, whose containers are not all back.
    LeftOver,
    /// A verify is pending.
    Verify,
    /// A proven backup that could not be checked again.
    Unseen,
}
