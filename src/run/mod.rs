//! The durable record of one backup of one guest, from backup-start until it is journalled and everything
//! that ran is back.
//!
//! It lies at `/var/lib/stillpoint/runs/VMID.json`. Whoever changes it holds the guest's lock.

mod left;
mod quiesced;
mod started;
mod store;
mod wanted;

pub use left::{Left, LeftContainer};
pub use quiesced::{QUIESCED_DIRECTORY, QUIESCED_FILE, Quiesced, QuiescedContainer};
pub use started::{Pending, Refusal, Seen, Started};
pub use store::{Damaged, Runs};

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::config::Strategy;
use crate::sys::{clock, text};
use crate::vzdump::{GuestType, Job, Mode, Vmid};

/// The engine's default stop timeout, in seconds.
const STOP_TIMEOUT: u64 = 10;

/// The version of the record's shape.
pub const SCHEMA: u32 = 1;

/// Dependencies over all containers of a guest; a stack has a few dozen.
pub const MOST_DEPENDENCIES: usize = 100_000;

/// One backup of one guest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    pub schema: u32,
    /// Unique: also in the file in the guest, so that the two are known to belong together.
    pub id: String,
    pub vmid: Vmid,
    pub guest_type: GuestType,
    pub job: Job,
    pub hostname: Option<String>,
    pub storage: Option<String>,
    pub target: Option<String>,
    pub mode_asked: Mode,
    pub mode_used: Mode,
    /// RFC 3339, UTC.
    pub opened: String,
    /// The volume of the guest's root; another one later means another guest under the same VMID.
    pub root_volume: Option<String>,
    /// Whether the guest ran when the backup began.
    pub was_running: bool,
    /// The guest that wrote the note that this run was read from.
    #[serde(default)]
    pub noted: Option<Vmid>,
    /// Why the backup does not hold the guest's containers themselves, if so.
    #[serde(default)]
    pub incomplete: Option<String>,
    /// What was planned and done to its containers; `None` where there was nothing to do.
    pub quiesce: Option<Quiesce>,
    /// Why the guest was not brought to rest, or no longer was when its data was copied.
    pub unrest: Vec<String>,
    /// What a person should know about this backup.
    pub notes: Vec<String>,
    /// Those of the notes that only name what a container of a copy reads: nothing is wrong with it.
    #[serde(default)]
    pub reads: Vec<String>,
    pub archive: Archive,
    /// The guest's data has been copied: what is brought back now no longer disturbs the backup.
    pub data_copied: bool,
    /// Whether pre-stop has come and looked at the guest.
    pub looked_at: bool,
    /// vzdump has thawed or started the guest again; what becomes of the guest since is not its doing.
    pub guest_returned: bool,
    /// Whether the containers stayed at rest until then has not been looked at yet.
    pub proof_due: bool,
    /// Seen down while its archive was made (stop mode).
    pub seen_down: bool,
    /// vzdump went on to shut the guest down after the plan was written (stop mode).
    pub handed_over: bool,
    /// Milliseconds on the boot clock when vzdump was left to shut the guest down (stop mode).
    #[serde(default)]
    pub shutdown_ms: Option<u64>,
    /// Likewise when the guest was seen started again after that.
    #[serde(default)]
    pub restarted_ms: Option<u64>,
    /// What was done to the guest itself after vzdump had died: `thawed`, `unlocked`, `started`.
    pub revived: Vec<String>,
    /// How the verify began, where there is one.
    pub verify: Option<VerifyStart>,
    /// The `backup` record is about to be written to the journal.
    pub journalling: bool,
    /// The `backup` record is in the journal; the run stays only for what is not back yet.
    pub journalled: bool,
}

/// What became of the archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Archive {
    Pending,
    Complete,
    Failed(String),
}

/// The beginning of a verify, as backup-end saw it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VerifyStart {
    /// `started`, `queued` behind others, `not-due`, or the outcome so far where it could not be started.
    pub state: String,
    pub upid: Option<String>,
    pub reason: Option<String>,
}

/// The containers of a guest on their way down and up.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Quiesce {
    /// Whether we stop the containers, or the guest is shut down as a whole (stop mode).
    pub by: By,
    /// Milliseconds on the boot clock when the first stop was requested.
    pub began_ms: Option<u64>,
    /// Likewise the moment since which nothing more is requested, as far as that is known: who requested has given
    /// up, or somebody else has found the guest's lock free, or vzdump was left to shut the guest down.
    pub requests_ended_ms: Option<u64>,
    /// Likewise when everything was at rest.
    pub rested_ms: Option<u64>,
    /// Likewise when the last start was confirmed.
    pub resumed_ms: Option<u64>,
    /// Somebody had paused containers before, which stay so: not everything is stopped.
    #[serde(default)]
    pub paused_before: bool,
    /// Who requested the stops has given up, and what the steps say of requests is the whole truth.
    pub over: bool,
    pub steps: Vec<Step>,
}

/// Who brings the containers to rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum By {
    Stillpoint,
    GuestShutdown,
    /// Either, as the note in the guest says: in an earlier life of the guest.
    Note,
}

/// One container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub id: String,
    /// The socket of its engine, as a path in the guest; empty in what an older version wrote: the first engine.
    #[serde(default)]
    pub engine: String,
    pub name: String,
    pub project: Option<String>,
    pub service: Option<String>,
    pub action: Strategy,
    /// In seconds, the container's own.
    pub stop_timeout: u64,
    /// What it asks to be run in it before it is brought to rest.
    pub before: Option<String>,
    /// That may have been run: what it asks for once it is back is due.
    #[serde(default)]
    pub prepared: bool,
    /// When the engine had last started it, in its words.
    pub started_at: String,
    /// The steps that are stopped before this one, and started after it: the containers that depend on it.
    pub after: Vec<usize>,
    /// Where data of this container lies that is not in the backup.
    pub not_in_backup: Vec<String>,
    /// Its stop (or pause) has been requested, as far as was written down; see [`Quiesce::over`].
    pub requested: bool,
    /// How long the stop (or pause) took in ms; set when it was confirmed.
    pub stop_ms: Option<u64>,
    /// The engine killed it at the end of its stop timeout, as was seen before it was brought back.
    #[serde(default)]
    pub killed: Option<Killed>,
    /// How long the start (or unpause) took in ms; set when it was confirmed.
    pub start_ms: Option<u64>,
    /// Starts that the engine refused, or that ended at once, so far.
    pub failures: u32,
    /// When the first of them was, on the boot clock in ms.
    pub failing_since_ms: Option<u64>,
    /// Why the last try to bring it back failed, in the engine's words.
    #[serde(default)]
    pub trouble: Option<String>,
    /// The command that makes its stack anew in the guest, where its labels say enough.
    #[serde(default)]
    pub way_back: Option<String>,
    /// Its own health check had found it ill before: nothing waits for it to be healthy.
    #[serde(default)]
    pub unhealthy: bool,
    /// Somebody was stopped once, so that it gets the address that its configuration names.
    #[serde(default)]
    pub room_made: bool,
    /// Since when it waits for others before it is started, on the boot clock in ms.
    #[serde(default)]
    pub waiting_since_ms: Option<u64>,
    /// It was started, and until then (likewise) it is looked at whether it stays up.
    #[serde(default)]
    pub looked_at_until_ms: Option<u64>,
    pub fate: Fate,
}

/// A container that was killed at the end of its stop timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Killed {
    /// It has a volume or bind mount that it may write to, and closed no file in it.
    WithData,
    WithoutData,
}

impl Step {
    /// `db did not stop within 10 s and was killed`
    pub fn kill_in_words(&self) -> String {
        let name = text::printable(&self.name, 80);
        format!("{name} did not stop within {} s and was killed", self.stop_timeout)
    }
}

/// What became of a container after the backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// Not known to be back yet.
    Open,
    /// Runs again, or never stopped.
    Back,
    /// It was started again and has done its work: it ended by itself, with 0.
    Finished,
    /// Removed, and not created anew.
    Gone,
    /// Somebody else has started it and it has ended since, or changed it in another way.
    Left(String),
    /// Could not be started, with the engine's last word.
    Failed(String),
    /// Not started, for the guest is a copy and the container would write to what another guest has too.
    HeldBack(String),
}

impl Run {
    /// A run that begins now and knows only what every caller knows.
    pub fn new(vmid: Vmid, guest_type: GuestType, job: Job, mode: Mode) -> Run {
        Run {
            schema: SCHEMA,
            id: text::token(),
            vmid,
            guest_type,
            job,
            hostname: None,
            storage: None,
            target: None,
            mode_asked: mode,
            mode_used: mode,
            opened: clock::rfc3339(clock::now()),
            root_volume: None,
            was_running: false,
            noted: None,
            incomplete: None,
            quiesce: None,
            unrest: Vec::new(),
            notes: Vec::new(),
            reads: Vec::new(),
            archive: Archive::Pending,
            data_copied: false,
            looked_at: false,
            guest_returned: false,
            proof_due: false,
            seen_down: false,
            handed_over: false,
            shutdown_ms: None,
            restarted_ms: None,
            revived: Vec::new(),
            verify: None,
            journalling: false,
            journalled: false,
        }
    }

    /// Whether containers may still have to be brought back.
    pub fn is_open(&self) -> bool {
        self.quiesce
            .as_ref()
            .is_some_and(|quiesce| quiesce.steps.iter().any(|step| step.fate == Fate::Open))
    }

    /// Its containers that ran before the backup and are not known to run since.
    pub fn not_back(&self) -> impl Iterator<Item = &Step> {
        let steps = self.quiesce.iter().flat_map(|quiesce| &quiesce.steps);
        steps.filter(|step| step.is_not_back())
    }

    /// Whether a container that was started is still looked at, whether it stays up.
    pub fn is_looked_at(&self) -> bool {
        self.quiesce.as_ref().is_some_and(|quiesce| {
            quiesce.steps.iter().any(|step| step.looked_at_until_ms.is_some())
        })
    }

    /// Whether the backup is over and journalled, everything is back, and the run is kept only to see that it stays so.
    pub fn only_looks(&self) -> bool {
        self.journalled && !self.is_open() && self.is_looked_at()
    }

    /// Whether vzdump shuts the guest down for this backup.
    pub fn subject_to_stop(&self) -> bool {
        self.mode_used == Mode::Stop && self.was_running
    }

    /// The engines, by their sockets, of the containers that are not known to be back.
    pub fn engines_of_open(&self) -> BTreeSet<String> {
        let steps = self.quiesce.iter().flat_map(|quiesce| &quiesce.steps);
        steps.filter(|step| step.fate == Fate::Open).map(|step| step.engine.clone()).collect()
    }

    /// In stop mode for how long the guest was down, in ms: from when vzdump was left to shut it down until it was
    /// started again. In the other modes for how long containers were, from the first stop to the last start.
    pub fn downtime_ms(&self) -> Option<u64> {
        match self.mode_used {
            Mode::Stop if self.seen_down => {
                Some(self.restarted_ms?.saturating_sub(self.shutdown_ms?))
            }
            _ => self.quiesce.as_ref()?.downtime_ms(),
        }
    }

    /// The guest runs again after its shutdown for the backup.
    pub fn note_restarted(&mut self) {
        if self.seen_down {
            self.restarted_ms.get_or_insert(clock::boot_ms());
        }
    }

    /// What has become of its containers so far.
    pub fn fates(&self) -> Vec<Fate> {
        let steps = self.quiesce.iter().flat_map(|quiesce| &quiesce.steps);
        steps.map(|step| step.fate.clone()).collect()
    }

    /// How many containers were started (or unpaused) again.
    pub fn started(&self) -> usize {
        let steps = self.quiesce.iter().flat_map(|quiesce| &quiesce.steps);
        steps.filter(|step| step.start_ms.is_some()).count()
    }

    /// Whether we have brought containers to rest and they are meant to be so still.
    pub fn is_at_rest(&self) -> bool {
        let meant = |quiesce: &Quiesce| quiesce.by == By::Stillpoint && !quiesce.over;
        self.quiesce.as_ref().is_some_and(meant) && self.is_open()
    }

    /// The guest in words: `guest 9001 (prod-docker)`.
    pub fn guest(&self) -> String {
        match &self.hostname {
            Some(hostname) => format!("guest {} ({})", self.vmid, text::printable(hostname, 63)),
            None => format!("guest {}", self.vmid),
        }
    }

    /// Adds a note once.
    pub fn note(&mut self, note: String) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// Adds a reason for unrest once.
    pub fn disturb(&mut self, reason: String) {
        if !self.unrest.contains(&reason) {
            self.unrest.push(reason);
        }
    }
}

impl Step {
    /// Whether it ran before the backup and is not known to run since. One that was only paused and is gone was run with
    /// `--rm`: its engine removes it when it ends.
    pub fn is_not_back(&self) -> bool {
        match self.fate {
            Fate::Open | Fate::Failed(_) => true,
            Fate::Gone => self.action == Strategy::Stop,
            Fate::Back | Fate::Finished | Fate::Left(_) | Fate::HeldBack(_) => false,
        }
    }
}

impl Quiesce {
    /// What is planned, before anything is done.
    pub fn new(by: By, steps: Vec<Step>) -> Quiesce {
        Quiesce {
            by,
            began_ms: None,
            requests_ended_ms: None,
            rested_ms: None,
            resumed_ms: None,
            paused_before: false,
            over: false,
            steps,
        }
    }

    /// From the first stop request to the last confirmed start, in ms.
    pub fn downtime_ms(&self) -> Option<u64> {
        Some(self.resumed_ms?.saturating_sub(self.began_ms?))
    }
}

impl From<QuiescedContainer> for Step {
    /// A step that nothing was done for yet, with the engine's default stop timeout.
    fn from(container: QuiescedContainer) -> Step {
        Step {
            id: container.id,
            engine: container.engine,
            name: container.name,
            project: container.project,
            service: container.service,
            action: container.action,
            stop_timeout: STOP_TIMEOUT,
            before: None,
            prepared: false,
            started_at: container.started_at,
            after: container.after,
            not_in_backup: container.not_in_backup,
            requested: false,
            stop_ms: None,
            killed: None,
            start_ms: None,
            failures: 0,
            failing_since_ms: None,
            trouble: None,
            way_back: None,
            unhealthy: false,
            room_made: false,
            waiting_since_ms: None,
            looked_at_until_ms: None,
            fate: Fate::Open,
        }
    }
}
