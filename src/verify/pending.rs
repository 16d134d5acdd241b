use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::advice::Advice;
use super::judge::Verdict;
use crate::journal::VerifyOutcome;
use crate::pbs::{Snapshot, Upid};
use crate::pve::storage::Storage;
use crate::sys::clock;
use crate::sys::process::Process;
use crate::vzdump::{Job, Vmid};

/// How many seconds the server's clock may be behind ours; beyond that, a task that the server
/// started itself is missed.
const CLOCKS_DIFFER: i64 = 3600;

/// The version of the file's shape.
pub const SCHEMA: u32 = 1;

/// A pending verify: its file is in `/var/lib/stillpoint/verifies` from backup-end until its
/// outcome is journalled and reported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    pub schema: u32,
    /// The run that made the snapshot.
    pub run: String,
    pub job: Job,
    pub vmid: Vmid,
    /// The guest in words.
    pub guest: String,
    /// The storage's name in Proxmox VE.
    pub storage: String,
    /// `server:datastore`, the same for all storages of that datastore: verifies of one datastore
    /// wait for each other.
    #[serde(default)]
    pub datastore: String,
    pub snapshot: Snapshot,
    /// Whether a person asked for it: then it belongs to no run and no job.
    #[serde(default)]
    pub by_hand: bool,
    /// An id that it shares with the others that one verify of their group covers.
    #[serde(default)]
    pub group: Option<String>,
    /// No verify was asked for: the snapshot was checked again, and this is over.
    #[serde(default)]
    pub looked: bool,
    #[serde(default)]
    pub purpose: Purpose,
    /// The task on the server; `None` if there is none yet.
    pub upid: Option<Upid>,
    /// The process that is ordering the verify; if it is dead, the verify may have been ordered.
    #[serde(default)]
    pub ordering: Option<Process>,
    /// The verify was ordered with an unknown result: the task may exist.
    #[serde(default)]
    pub unanswered: bool,
    /// The task that had verified the snapshot before ours was ordered: its result proves nothing
    /// now.
    #[serde(default)]
    pub before: Option<Upid>,
    /// Whether the server was asked for a task that it has started itself.
    #[serde(default)]
    pub asked: bool,
    /// How often it was started.
    pub starts: u32,
    /// Why there is no task yet, or none any more.
    #[serde(default)]
    pub trouble: Option<Trouble>,
    /// It is over and journalled, and still has to be reported.
    #[serde(default)]
    pub ended: Option<Ended>,
    /// When the backup was complete. RFC 3339, UTC.
    pub since: String,
}

/// What the server is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    #[default]
    Verify,
    /// Only whether the snapshot is encrypted.
    Encryption,
}

/// An attempt without a result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// RFC 3339, UTC.
    pub at: String,
    /// The outcome if nothing changes.
    pub outcome: VerifyOutcome,
    pub reason: String,
    #[serde(default)]
    pub advice: Advice,
    /// Whether the journal has it already.
    pub journalled: bool,
}

/// An outcome that must be reported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    pub outcome: VerifyOutcome,
    pub reason: Option<String>,
}

impl Pending {
    /// A verify of a snapshot on a storage, due from now on.
    pub fn new(
        run: String,
        job: Job,
        vmid: Vmid,
        storage: &Storage,
        snapshot: Snapshot,
    ) -> Pending {
        Pending {
            schema: SCHEMA,
            run,
            job,
            vmid,
            guest: format!("guest {vmid}"),
            storage: storage.id.clone(),
            datastore: datastore(storage),
            snapshot,
            by_hand: false,
            group: None,
            looked: false,
            purpose: Purpose::Verify,
            upid: None,
            ordering: None,
            unanswered: false,
            before: None,
            asked: false,
            starts: 0,
            trouble: None,
            ended: None,
            since: clock::rfc3339(clock::now()),
        }
    }

    /// The name of its file.
    pub fn file_name(&self) -> String {
        format!("{}-{}.json", self.vmid, self.run)
    }

    /// The name of one order to the server: its own, or its group's.
    pub fn order_name(&self) -> String {
        self.group.clone().unwrap_or_else(|| self.file_name())
    }

    /// Whether another one belongs to the same order and is still open.
    pub fn is_with(&self, other: &Pending) -> bool {
        self.group.is_some()
            && self.group == other.group
            && self.file_name() != other.file_name()
            && self.ended.is_none()
    }

    /// Since when a task of the server may be about it, in seconds since 1970. For a person's
    /// request, earlier results do not count.
    pub fn tasks_since(&self) -> i64 {
        let asked = DateTime::parse_from_rfc3339(&self.since).ok().filter(|_| self.by_hand);
        let before = self.snapshot.backup_time.saturating_sub(CLOCKS_DIFFER);
        asked.map_or(before, |asked| asked.timestamp())
    }

    /// Whether the server works on it, or may do so.
    pub fn is_at_work(&self) -> bool {
        self.ended.is_none() && (self.upid.is_some() || self.is_ordered())
    }

    /// Whether it was ordered, or is being ordered, without a recorded result.
    pub fn is_ordered(&self) -> bool {
        self.unanswered || self.ordering.is_some()
    }

    /// Whether it waits for its turn.
    pub fn is_queued(&self) -> bool {
        self.ended.is_none() && self.purpose == Purpose::Verify && self.upid.is_none()
    }

    /// Seconds since the backup was complete; 0 if the clock was set back.
    pub fn age(&self, now: DateTime<Utc>) -> u64 {
        seconds_between(&self.since, now).unwrap_or(0)
    }

    /// Records why an attempt had no result. It stays known that the journal has it, as long as the
    /// outcome is the same.
    pub fn note(&mut self, verdict: Verdict) {
        let journalled = self.trouble.as_ref().is_some_and(|trouble| trouble.journalled);
        let at = clock::rfc3339(clock::now());
        let Verdict { outcome, reason, advice, .. } = verdict;
        let reason = reason.unwrap_or_default();
        self.trouble = Some(Trouble { at, outcome, reason, advice, journalled });
    }

    /// How many seconds to wait before the next attempt: the longer it takes in all, the longer the
    /// pause. 0 after an attempt in the future, because a clock that was set back would otherwise
    /// cause a pause of years.
    pub fn rest(&self, now: DateTime<Utc>) -> u64 {
        let Some(trouble) = &self.trouble else { return 0 };
        let Some(waited) = seconds_between(&trouble.at, now) else { return 0 };
        let went_on = self.age(now).saturating_sub(waited);
        pause(went_on).saturating_sub(waited)
    }
}

/// The pause after an attempt that came this many seconds after the first: from 2 s to 10 min.
fn pause(went_on: u64) -> u64 {
    (went_on / 2).clamp(2, 600)
}

/// `None` if `then` is a second or more after `now`.
fn seconds_between(then: &str, now: DateTime<Utc>) -> Option<u64> {
    let then = DateTime::parse_from_rfc3339(then).ok()?;
    u64::try_from((now - then.to_utc()).num_seconds()).ok()
}

/// `server:datastore` of a storage, the same for all storages of that datastore; the storage's name
/// if storage.cfg does not say it.
pub fn datastore(storage: &Storage) -> String {
    match &storage.target {
        Some(target) => format!("{}:{}", target.server.to_ascii_lowercase(), target.datastore),
        None => storage.id.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_ten_minutes() {
        let (mut at, mut attempts) = (0, Vec::new());
        while at < 86_400 {
            attempts.push(at);
            at += pause(at);
        }
        assert_eq!(attempts[..4], [0, 2, 4, 6]);
        assert_eq!(pause(at), 600);
        assert!(attempts.len() < 170, "{}", attempts.len());
    }
}
