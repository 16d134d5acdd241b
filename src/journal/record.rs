use std::fmt;

use serde::{Deserialize, Serialize};

use super::words::{Action, Actor, ContainerFate, GuestAction, VerifyState, Word};
use crate::sys::sha256::Sha256;
use crate::vzdump::{GuestType, Mode, Vmid};

/// How consistent a backup is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grade {
    /// Every container was stopped, or the guest was shut down.
    Clean,
    /// Every container was paused.
    Paused,
    /// Some were stopped and some were paused.
    Mixed,
    /// Not all containers stayed stopped or paused: as after a power cut.
    CrashConsistent,
    /// The containers themselves are not in the backup: the engine keeps them on a volume that is
    /// not in it.
    Incomplete,
    /// The guest was not running.
    Offline,
    /// There was nothing to stop: no engine, no running container, or a VM.
    None,
}

impl fmt::Display for Grade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Grade::Clean => "clean",
            Grade::Paused => "paused",
            Grade::Mixed => "mixed",
            Grade::CrashConsistent => "crash-consistent",
            Grade::Incomplete => "incomplete",
            Grade::Offline => "offline",
            Grade::None => "none",
        })
    }
}

/// Whether there is an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    Ok,
    Failed,
}

/// The result of verifying a snapshot on a Proxmox Backup Server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VerifyOutcome {
    /// The snapshot's own state says `ok`, by our task or one started no earlier.
    Ok,
    /// The snapshot's own state says `failed`, or the server found no manifest to verify.
    Failed,
    /// The server did not read it.
    Skipped,
    /// There is no proof either way.
    Unknown,
    /// The server could not be reached.
    Unreachable,
    /// The storage's login has no right to do it.
    Denied,
}

impl fmt::Display for VerifyOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            VerifyOutcome::Ok => "verified",
            VerifyOutcome::Failed => "FAILED to verify",
            VerifyOutcome::Skipped => "verify skipped",
            VerifyOutcome::Unknown => "verify outcome unknown",
            VerifyOutcome::Unreachable => "not verified: server unreachable",
            VerifyOutcome::Denied => "not verified: denied",
        })
    }
}

/// A record of the journal; `kind` tells which.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Record {
    Backup(Backup),
    Verify(Verify),
    Recovered(Recovered),
    Settled(Settled),
    Identity(Identity),
    Renewed(Renewed),
    LeftOut(LeftOut),
    Removed(Removed),
}

/// One backup of one guest, made or failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Backup {
    /// The run's id.
    pub run: String,
    /// The job's UPID; if the caller was no task of Proxmox VE, its pid and start time in words.
    pub job: String,
    pub vmid: Vmid,
    pub guest_type: GuestType,
    pub hostname: Option<String>,
    pub storage: Option<String>,
    pub target: Option<String>,
    pub mode_asked: Mode,
    pub mode_used: Mode,
    /// RFC 3339, UTC.
    pub started: String,
    pub outcome: Outcome,
    /// Why it failed.
    pub error: Option<String>,
    /// Only for a successful backup.
    pub grade: Option<Grade>,
    /// Why the grade is `crash-consistent` or `incomplete`.
    pub reasons: Vec<String>,
    /// What else to know.
    pub notes: Vec<String>,
    pub containers: Vec<ContainerRecord>,
    /// From the first stop request to the last confirmed start, in ms; in stop mode from the
    /// shutdown request until the guest was started again. Absent if nothing was stopped.
    pub downtime_ms: Option<u64>,
    /// How the verify began; its result is in a record of its own.
    pub verify: Option<VerifyStart>,
}

/// The start of a verify in backup-end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VerifyStart {
    pub state: Word<VerifyState>,
    pub upid: Option<String>,
    pub reason: Option<String>,
}

/// One container in a backup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContainerRecord {
    pub name: String,
    pub id: String,
    /// The compose project.
    pub stack: Option<String>,
    pub service: Option<String>,
    pub action: Word<Action>,
    pub stop_ms: Option<u64>,
    pub start_ms: Option<u64>,
    pub fate: Word<ContainerFate>,
    /// Why it is not back, or was not touched.
    pub error: Option<String>,
    /// It ran before the backup and is not known to have run since; false in records of older
    /// versions.
    #[serde(default)]
    pub not_back: bool,
    /// For a removed container: the command that creates its stack again in the guest, if its
    /// labels say enough.
    #[serde(default)]
    pub way_back: Option<String>,
    /// Paths of its data that are not in the backup.
    pub not_in_backup: Vec<String>,
}

/// The server's result for one snapshot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verify {
    /// The run that made the snapshot.
    pub run: Option<String>,
    pub job: Option<String>,
    pub vmid: Vmid,
    pub storage: String,
    /// `server:datastore#fingerprint`: the same for the same server, whatever the storage's name.
    pub storage_id: String,
    pub outcome: VerifyOutcome,
    pub reason: Option<String>,
    pub namespace: Option<String>,
    /// `ct` or `vm`.
    pub backup_type: String,
    pub backup_id: String,
    /// Seconds since 1970.
    pub backup_time: i64,
    /// Bytes.
    pub size: Option<u64>,
    pub owner: Option<String>,
    pub protected: Option<bool>,
    pub encrypted: Option<bool>,
    /// The encryption key's fingerprint.
    pub key_fingerprint: Option<String>,
    /// The snapshot's own state, in the server's words.
    pub verify_state: Option<String>,
    /// The task that set this state.
    pub verify_upid: Option<String>,
    /// The task that we started.
    pub started_upid: Option<String>,
    /// [`Actor::Server`] if we did not ask for a verify: a later check found that the server's
    /// state has changed.
    #[serde(default)]
    pub by: Option<Word<Actor>>,
}

impl Verify {
    /// Whether another record is about the same snapshot.
    pub fn is_of_the_same_snapshot(&self, other: &Verify) -> bool {
        let of = |it: &Verify| {
            (it.backup_type.clone(), it.backup_id.clone(), it.backup_time, it.namespace.clone())
        };
        self.storage == other.storage && of(self) == of(other)
    }
}

/// Containers that were started outside of the normal course of a backup.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Recovered {
    pub run: String,
    pub job: String,
    pub vmid: Vmid,
    pub by: Word<Actor>,
    /// Why it was needed.
    pub reason: String,
    pub containers: Vec<ContainerRecord>,
    /// What was done to the guest itself.
    pub guest: Vec<Word<GuestAction>>,
    pub downtime_ms: Option<u64>,
}

/// Containers that were started after the start of a guest with a note of what ran.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settled {
    /// The run that wrote the note.
    pub run: String,
    pub vmid: Vmid,
    /// When that run began, RFC 3339, UTC.
    pub quiesced: String,
    pub containers: Vec<ContainerRecord>,
    /// What else to know, such as a container that runs but is not healthy.
    pub notes: Vec<String>,
    /// What was missing in the backup that the guest was restored from, in sentences.
    #[serde(default)]
    pub lost: Vec<String>,
    /// How long the guest's engine took to start, in ms.
    pub engine_ms: u64,
    /// From then until everything ran, in ms.
    pub took_ms: u64,
    /// Why not everything runs.
    pub left: Option<String>,
}

/// What was done about a guest's identity, or should be.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Identity {
    pub vmid: Vmid,
    pub outcome: IdentityOutcome,
    /// The guest that it is a copy of, if that is known.
    pub original: Option<Vmid>,
    pub reason: String,
    pub changes: Vec<SettingChange>,
}

/// What was done about a guest's identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IdentityOutcome {
    /// It was a copy and got its own identity.
    Changed,
    /// It may be a copy; nothing was changed.
    InDoubt,
    /// An admin gave a copy the identity of its original.
    Adopted,
}

/// A setting in a guest's configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SettingChange {
    /// `hostname`, `net0`, ...
    pub key: String,
    pub from: String,
    pub to: String,
}

/// What was replaced inside a restored copy after its start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Renewed {
    pub vmid: Vmid,
    /// The guest that it is a copy of, if that is known.
    pub original: Option<Vmid>,
    /// When its identity was given, RFC 3339, UTC.
    pub copied: String,
    /// `machine-id`, `ssh-host-keys`.
    pub done: Vec<String>,
    /// What could not be done, and why; it is tried again at the next start.
    pub failed: Vec<String>,
    pub took_ms: u64,
}

/// A file of the journal that was deleted, because all of its records had become older than
/// `journal.keep`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Removed {
    /// Its name.
    pub file: String,
    /// When its newest record was written, RFC 3339, UTC.
    pub until: String,
    /// The SHA-256 of its last line, which the first remaining line follows on.
    pub last: Sha256,
    pub reason: String,
}

/// Records that were not written, of a guest that caused more than 30 within an hour.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeftOut {
    pub vmid: Vmid,
    /// When that hour began, RFC 3339, UTC.
    pub since: String,
    /// How many records of the kinds `settled`, `recovered` and `identity`; none of them was a
    /// failure.
    pub records: u64,
}
