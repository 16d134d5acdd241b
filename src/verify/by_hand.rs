//! Verifies that a person asks for: they wait for their turn, are collected and journalled like those of a job, and
//! belong to none.

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};

use super::pending::{Pending, SCHEMA};
use crate::journal::{Entry, Journal, VerifyOutcome};
use crate::pbs::{Snapshot, Upid};
use crate::sys::process::{self, Process};
use crate::sys::{Root, clock, text};
use crate::vzdump::{Job, Vmid};

/// A verify that was asked for.
#[derive(Clone, Debug)]
pub struct Order {
    pending: Pending,
}

/// How far a verify is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The server has not taken the order yet.
    Waiting,
    /// The server is at it.
    Running(Upid),
    /// It is in the journal.
    Over { outcome: VerifyOutcome, reason: Option<String> },
}

/// Writes down durably that a snapshot is to be verified. A collector has to be started after that.
///
/// # Errors
/// When it can't be written down.
pub fn order(root: &Root, storage: &str, vmid: Vmid, snapshot: &Snapshot) -> Result<Order> {
    let me = std::process::id().cast_signed();
    let worker = Process::find(me).context("this process")?;
    let session = process::session_of(me).context("the session of this process")?;
    let pending = Pending {
        schema: SCHEMA,
        run: format!("by-hand-{}", text::token()),
        job: Job { upid: None, worker, session },
        vmid,
        guest: format!("guest {vmid}"),
        storage: storage.to_string(),
        snapshot: snapshot.clone(),
        by_hand: true,
        upid: None,
        starts: 0,
        since: clock::rfc3339(clock::now()),
    };
    pending.save(root)?;
    Ok(Order { pending })
}

impl Order {
    /// How far it is.
    ///
    /// # Errors
    /// When that can't be read, or it is gone without an outcome in the journal.
    pub fn standing(&self, root: &Root) -> Result<Standing> {
        let mut all = Pending::all(root)?.into_iter();
        match all.find(|pending| pending.run == self.pending.run) {
            Some(pending) => Ok(pending.upid.map_or(Standing::Waiting, Standing::Running)),
            None => self.outcome(root)?.context("it is gone, and the journal has no outcome of it"),
        }
    }

    fn outcome(&self, root: &Root) -> Result<Option<Standing>> {
        let mut found = None;
        Journal::of(root).read(|entry| {
            if let Entry::Record(record) = entry
                && self.is_about(&record)
            {
                found = serde_json::from_value(record["outcome"].clone()).ok().map(|outcome| {
                    let reason = record["reason"].as_str().map(str::to_owned);
                    Standing::Over { outcome, reason }
                });
            }
            true
        })?;
        Ok(found)
    }

    fn is_about(&self, record: &serde_json::Value) -> bool {
        let snapshot = &self.pending.snapshot;
        record["kind"] == "verify"
            && record["run"].is_null()
            && record["storage"] == *self.pending.storage
            && record["backup_type"] == snapshot.backup_type.as_str()
            && record["backup_id"] == *snapshot.backup_id
            && record["backup_time"] == snapshot.backup_time
            && time(&record["time"]) >= time(&self.pending.since.as_str().into())
    }
}

fn time(text: &serde_json::Value) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc3339(text.as_str()?).ok().map(|time| time.to_utc())
}
