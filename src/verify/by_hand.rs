//! Verifies that a person asks for: they wait for their turn, are collected and journalled like those of a job, and
//! belong to none.

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};

use super::pending::Pending;
use super::queue::{DIRECTORY, Queue};
use crate::journal::{Entry, Journal, Verify, VerifyOutcome};
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

/// How far a verify is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The server has not taken the order yet; and why the last attempt was in vain, if there was one.
    Waiting(Option<String>),
    /// The server is at it.
    Running(Upid),
    /// It is in the journal.
    Over { outcome: VerifyOutcome, reason: Option<String> },
}

/// Writes down durably that snapshots of one group are to be verified, one, or all of the group: those by one verify of
/// the group. What is asked for already is not ordered again. A collector has to be started after that.
///
/// # Errors
/// When it can't be written down.
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

    /// Whether one verify is to prove both.
    pub fn is_with(&self, other: &Order) -> bool {
        self.pending.is_with(&other.pending)
    }

    /// The file that stands for it as long as it is not over.
    pub fn file(&self) -> String {
        format!("{DIRECTORY}/{}", self.pending.file_name())
    }

    /// How far it is.
    ///
    /// # Errors
    /// When that can't be read, or it is gone without an outcome in the journal.
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
        let since = self.pending.since.parse::<DateTime<Utc>>().ok();
        Journal::of(root).read(|entry| {
            if let Entry::Record(written) = entry
                && written.time() >= since
                && let Some(Verify { outcome, reason, .. }) =
                    written.verify().filter(|verify| self.is_about(verify))
            {
                found = Some(Standing::Over { outcome, reason });
            }
            true
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
