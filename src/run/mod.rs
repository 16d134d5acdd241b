//! The durable record of one backup of one guest, from backup-start until it is journalled and
//! everything that ran is back.
//!
//! It is at `/var/lib/stillpoint/runs/VMID.json`. Whoever changes it holds the guest's lock.

mod left;
pub mod locked;
mod quiesce;
mod quiesced;
mod schema1;
mod started;
mod state;
mod step;
mod store;
mod wanted;

pub use left::{Left, LeftContainer};
pub use quiesce::{By, Quiesce};
pub use quiesced::{QUIESCED_DIRECTORY, QUIESCED_FILE, Quiesced, QuiescedContainer};
pub use started::{Pending, Refusal, Seen, Started};
pub use state::{
    DataCopy, Failures, GuestBefore, HealthBefore, Journalled, Killed, PreStop, Proof, Rest,
    Resuming, Room, Shutdown, Start, Stop, Stopped,
};
pub use step::{Fate, Step};
pub use store::{Damaged, Runs};

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::journal::{GuestAction, VerifyStart};
use crate::sys::{clock, text};
use crate::vzdump::{GuestType, Job, Mode, Vmid};

/// The version of the record's shape.
pub const SCHEMA: u32 = 2;

/// The limit of dependencies over all containers of a guest; a stack has a few dozen.
pub const MOST_DEPENDENCIES: usize = 100_000;

/// One backup of one guest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// The version of its file: a run keeps the version that it was opened with, because its guard
    /// may be of that version.
    pub schema: u32,
    /// Unique, and also in the file in the guest, so that the two can be matched.
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
    pub guest_before: GuestBefore,
    /// The guest whose note this run was read from.
    pub noted: Option<Vmid>,
    /// Why the guest's containers themselves are not in the backup, if so.
    pub incomplete: Option<String>,
    /// What was planned and done with its containers; `None` if there was nothing to do.
    pub quiesce: Option<Quiesce>,
    /// Why not all containers were at rest when the guest's data was copied.
    pub unrest: Vec<String>,
    /// What an admin should know about this backup.
    pub notes: Vec<String>,
    /// Those of the notes that only name what a container of a copy reads, which is no problem.
    pub reads: Vec<String>,
    pub archive: Archive,
    pub pre_stop: PreStop,
    pub data_copy: DataCopy,
    pub proof: Proof,
    pub shutdown: Shutdown,
    /// What was done to the guest itself after vzdump had died.
    pub revived: Vec<GuestAction>,
    /// How the verify began, if there is one.
    pub verify: Option<VerifyStart>,
    pub journalled: Journalled,
}

/// The state of the archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Archive {
    Pending,
    Complete,
    Failed(String),
}

impl Run {
    /// A run that begins now, with what every caller knows.
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
            guest_before: GuestBefore::Down,
            noted: None,
            incomplete: None,
            quiesce: None,
            unrest: Vec::new(),
            notes: Vec::new(),
            reads: Vec::new(),
            archive: Archive::Pending,
            pre_stop: PreStop::NotCome,
            data_copy: DataCopy::Pending,
            proof: Proof::NotDue,
            shutdown: Shutdown::NotAsked,
            revived: Vec::new(),
            verify: None,
            journalled: Journalled::No,
        }
    }

    /// Whether containers may still have to be started again.
    pub fn is_open(&self) -> bool {
        self.quiesce
            .as_ref()
            .is_some_and(|quiesce| quiesce.steps.iter().any(|step| step.fate == Fate::Open))
    }

    /// The containers that ran before the backup and are not known to have run since.
    pub fn not_back(&self) -> impl Iterator<Item = &Step> {
        let steps = self.quiesce.iter().flat_map(|quiesce| &quiesce.steps);
        steps.filter(|step| step.is_not_back())
    }

    /// Whether a started container is still being watched.
    pub fn is_looked_at(&self) -> bool {
        self.quiesce.as_ref().is_some_and(|quiesce| {
            quiesce.steps.iter().any(|step| step.start.watched_until_ms().is_some())
        })
    }

    /// Whether the backup is over and journalled, everything is back, and the run only stays to
    /// watch that.
    pub fn only_looks(&self) -> bool {
        self.journalled.is_done() && !self.is_open() && self.is_looked_at()
    }

    /// Whether vzdump shuts the guest down for this backup.
    pub fn subject_to_stop(&self) -> bool {
        self.mode_used == Mode::Stop && self.was_running()
    }

    /// The engines, by their sockets, of the containers that are not known to be back.
    pub fn engines_of_open(&self) -> BTreeSet<String> {
        let steps = self.quiesce.iter().flat_map(|quiesce| &quiesce.steps);
        steps.filter(|step| step.fate == Fate::Open).map(|step| step.engine.clone()).collect()
    }

    /// How long the guest was down in stop mode, in ms: from the shutdown request until it was
    /// started again. In the other modes how long containers were down, from the first stop to the
    /// last start.
    pub fn downtime_ms(&self) -> Option<u64> {
        match self.mode_used {
            Mode::Stop if self.shutdown.was_down() => self.shutdown.downtime_ms(),
            _ => self.quiesce.as_ref()?.downtime_ms(),
        }
    }

    /// Whether the guest ran when the backup began.
    pub fn was_running(&self) -> bool {
        self.guest_before == GuestBefore::Running
    }

    /// Since when no more stops are requested (boot clock), if that is known.
    pub fn requests_ended_ms(&self) -> Option<u64> {
        let quiesce = self.quiesce.as_ref()?;
        quiesce.resuming.requests_ended_ms().or(match (quiesce.by, quiesce.rest) {
            (By::Stillpoint, Rest::GivenUp { at_ms, .. }) => Some(at_ms),
            (By::GuestShutdown, _) => self.shutdown.asked_ms(),
            _ => None,
        })
    }

    /// Whether the steps have every request that was made: a killed hook has not recorded its last
    /// ones, and a guest that vzdump is shutting down may take all its containers with it.
    pub fn requests_are_known(&self) -> bool {
        self.quiesce.as_ref().is_none_or(|quiesce| match quiesce.by {
            By::Stillpoint => quiesce.rest.is_given_up(),
            By::GuestShutdown => !self.shutdown.may_still_come(),
            By::Note => false,
        })
    }

    /// The holder of the guest's lock starts the containers again: no more stops are requested from
    /// now on.
    pub fn begin_resuming(&mut self, now_ms: u64) {
        let ended = self.requests_ended_ms();
        if let Some(quiesce) = self.quiesce.as_mut() {
            quiesce.resuming.begin(ended, now_ms);
        }
    }

    /// What has become of its containers so far.
    pub fn fates(&self) -> Vec<Fate> {
        let steps = self.quiesce.iter().flat_map(|quiesce| &quiesce.steps);
        steps.map(|step| step.fate.clone()).collect()
    }

    /// How many of its containers are back, or have done their work.
    pub fn back(&self) -> usize {
        let back = |fate: &&Fate| matches!(fate, Fate::Back | Fate::Finished);
        self.fates().iter().filter(back).count()
    }

    /// How many containers were started (or unpaused) again.
    pub fn started(&self) -> usize {
        let steps = self.quiesce.iter().flat_map(|quiesce| &quiesce.steps);
        steps.filter(|step| step.start.ms().is_some()).count()
    }

    /// Whether Stillpoint has stopped the containers and they are still meant to be stopped.
    pub fn is_at_rest(&self) -> bool {
        let meant = |quiesce: &Quiesce| quiesce.by == By::Stillpoint && !quiesce.rest.is_given_up();
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

    /// Adds a reason why the guest was not at rest, once.
    pub fn disturb(&mut self, reason: String) {
        if !self.unrest.contains(&reason) {
            self.unrest.push(reason);
        }
    }
}
