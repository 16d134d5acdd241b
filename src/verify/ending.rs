use anyhow::Result;

use super::judge::Verdict;
use super::pending::{Ended, Pending};
use super::queue::Queue;
use crate::journal::{Journal, Record, Verify, VerifyOutcome};
use crate::pbs::{Entry, Pbs, State, VerifyState, encrypted};
use crate::sys::Root;

/// The end of a verify, with what the server says of the snapshot.
pub struct End {
    pub verdict: Verdict,
    /// `server:datastore#fingerprint`, where the server was asked.
    storage_id: Option<String>,
    state: Option<State>,
    entry: Option<Entry>,
}

impl End {
    /// After the server was asked.
    pub fn of(verdict: Verdict, pbs: &Pbs, state: Option<State>) -> End {
        End { verdict, storage_id: Some(pbs.target().durable_id()), state, entry: None }
    }

    /// With what the server lists of the snapshot.
    pub fn listed(self, entry: Option<Entry>) -> End {
        End { entry, ..self }
    }

    /// Without an answer of the server.
    pub fn unasked(verdict: Verdict) -> End {
        End { verdict, storage_id: None, state: None, entry: None }
    }
}

/// Journals the outcome and ends the verify, once, however many collect at the same time. A bad one that nobody is
/// `told` of stays until somebody has been. Whether it was the caller that ended it.
///
/// # Errors
/// When the journal or the queue can't be written; it is pending still then.
pub fn close(
    root: &Root,
    queue: &mut Queue,
    pending: &Pending,
    end: End,
    told: bool,
) -> Result<bool> {
    let record = record(pending, end);
    let (outcome, reason) = (record.outcome, record.reason.clone());
    queue.change(pending, |pending| {
        Journal::of(root).append(&Record::Verify(record))?;
        let stays = outcome != VerifyOutcome::Ok && !told;
        Ok(stays.then_some(Pending { ended: Some(Ended { outcome, reason }), ..pending }))
    })
}

/// The record of an outcome.
pub fn record(pending: &Pending, end: End) -> Verify {
    let Verdict { outcome, reason, .. } = end.verdict.with_way_out(pending);
    let state = end.state.as_ref();
    let verification = state.and_then(|state| state.verification.as_ref());
    let snapshot = &pending.snapshot;
    Verify {
        run: (!pending.by_hand).then(|| pending.run.clone()),
        job: (!pending.by_hand).then(|| pending.job.name()),
        vmid: pending.vmid,
        storage: pending.storage.clone(),
        storage_id: end.storage_id.unwrap_or_else(|| pending.datastore.clone()),
        outcome,
        reason,
        namespace: snapshot.namespace.clone(),
        backup_type: snapshot.backup_type.as_str().to_string(),
        backup_id: snapshot.backup_id.clone(),
        backup_time: snapshot.backup_time,
        size: state.and_then(|state| state.files.iter().map(|file| file.size).sum()),
        owner: end.entry.as_ref().and_then(|entry| entry.owner.clone()),
        protected: end.entry.as_ref().map(|entry| entry.protected),
        encrypted: state.map(|state| encrypted(&state.files)),
        key_fingerprint: state.and_then(|state| state.fingerprint.clone()),
        verify_state: verification.map(|verification| match verification.state {
            VerifyState::Ok => "ok".to_string(),
            VerifyState::Failed => "failed".to_string(),
        }),
        verify_upid: verification.map(|verification| verification.upid.to_string()),
        started_upid: pending.upid.as_ref().map(ToString::to_string),
    }
}
