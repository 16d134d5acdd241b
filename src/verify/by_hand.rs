//! Verifies that a person asks for. They are queued, collected and journalled like those of a job,
//! but belong to no job.

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};

use super::pending::Pending;
use super::queue::{DIRECTORY, Queue};
use crate::journal::{Journal, Verify, VerifyOutcome};
use crate::pbs::{Snapshot, Upid};
use crate::pve::storage;
use crate::sys::process::{self, Process};
use crate::sys::{Root, text};
use crate::vzdump::{Job, Vmid};

/// A verify that was asked for.
#[derive(Clone, Debug)]
pub struct Order {
    pending: Pending,
}

/// The state of such a verify.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The server has not accepted it yet; and why the last attempt failed, if there was one.
    Waiting(Option<String>),
    /// The server is running it.
    Running(Upid),
    /// It is in the journal.
    Over { outcome: VerifyOutcome, reason: Option<String> },
}

/// Queues durably the verify of snapshots of one group: of one snapshot, or of all of the group,
/// which one verify covers. A verify that is already asked for is not ordered again. The caller
/// must start a collector after that.
///
/// # Errors
/// If it cannot be written.
pub fn order(
    root: &Root,
    storage: &str,
    vmid: Vmid,
    snapshots: Vec<Snapshot>,
) -> Result<Vec<Order>> {
    let me = std::process::id().cast_signed();
    let worker = Process::find(me).context("this process")?;
    let session = process::session_of(me).context("the session of this process")?;
    let found = storage::find(root, storage)
        .context("/etc/pve/storage.cfg")?
        .with_context(|| format!("storage {storage} is not in /etc/pve/storage.cfg"))?;
    let group = text::token();
    let wanted = snapshots.into_iter().map(|snapshot| {
        let run = format!("by-hand-{}", text::token());
        let job = Job { upid: None, worker: worker.clone(), session };
        let pending = Pending::new(run, job, vmid, &found, snapshot);
        Pending { by_hand: true, asked: true, group: Some(group.clone()), ..pending }
    });
    let enlisted = Queue::of(root).enlist(wanted.collect())?;
    Ok(enlisted.into_iter().map(|pending| Order { pending }).collect())
}

impl Order {
    /// The snapshot.
    pub fn snapshot(&self) -> &Snapshot {
        &self.pending.snapshot
    }

    /// Whether one verify covers both.
    pub fn is_with(&self, other: &Order) -> bool {
        self.pending.is_with(&other.pending)
    }

    /// The name of its file, which exists until it is over.
    pub fn file(&self) -> String {
        format!("{DIRECTORY}/{}", self.pending.file_name())
    }

    /// Its present state.
    ///
    /// # Errors
    /// If it cannot be read, or its file is gone without an outcome in the journal.
    pub fn standing(&self, root: &Root) -> Result<Standing> {
        let mut queue = Queue::of(root);
        queue.refresh()?;
        match queue.get(&self.pending.file_name()) {
            Some(Pending { ended: Some(ended), .. }) => {
                Ok(Standing::Over { outcome: ended.outcome, reason: ended.reason.clone() })
            }
            Some(Pending { upid: Some(upid), .. }) => Ok(Standing::Running(upid.clone())),
            Some(Pending { trouble, .. }) => {
                Ok(Standing::Waiting(trouble.as_ref().map(|trouble| trouble.reason.clone())))
            }
            None => self
                .outcome(root)?
                .context("it is no longer pending, and the journal has no outcome of it"),
        }
    }

    fn outcome(&self, root: &Root) -> Result<Option<Standing>> {
        let mut found = None;
        let since = self.pending.since.parse::<DateTime<Utc>>().unwrap_or_default();
        Journal::of(root).recent(since, |written| {
            let verify = written.verify().filter(|verify| self.is_about(verify));
            let verify = verify.filter(|_| written.time().is_some_and(|time| time >= since));
            found = verify.map(|Verify { outcome, reason, .. }| Standing::Over { outcome, reason });
            found.is_none()
        })?;
        Ok(found)
    }

    fn is_about(&self, verify: &Verify) -> bool {
        let snapshot = &self.pending.snapshot;
        verify.run.is_none()
            && verify.by.is_none()
            && verify.storage == self.pending.storage
            && verify.backup_type == snapshot.backup_type.as_str()
            && verify.backup_id == snapshot.backup_id
            && verify.backup_time == snapshot.backup_time
    }
}
