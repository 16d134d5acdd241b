use anyhow::Result;

use super::judge::Verdict;
use super::pending::{Ended, Pending};
use super::queue::Queue;
use crate::journal::{Actor, Journal, Record, Verify, VerifyOutcome};
use crate::pbs::{Pbs, State, encrypted};
use crate::pve::storage::Target;
use crate::sys::Root;

/// The end of a verify, with the server's data about the snapshot.
pub struct End {
    pub verdict: Verdict,
    /// Where the server was asked, if it was.
    target: Option<Target>,
    state: Option<State>,
    protected: Option<bool>,
}

impl End {
    /// After the server was asked.
    pub fn of(verdict: Verdict, pbs: &Pbs, state: Option<State>) -> End {
        End { verdict, target: Some(pbs.target().clone()), state, protected: None }
    }

    /// Adds whether the snapshot is protected.
    pub fn protected(self, protected: Option<bool>) -> End {
        End { protected, ..self }
    }

    /// Without an answer of the server.
    pub fn unasked(verdict: Verdict) -> End {
        End { verdict, target: None, state: None, protected: None }
    }
}

/// Journals the outcome and ends the verify, once, even if several processes collect. A bad outcome
/// that is not `told` yet stays until it was reported. Returns whether this call has ended it.
///
/// # Errors
/// If the journal or the queue cannot be written; then it is still pending.
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

/// The record of an outcome: the reason, with the advice.
pub fn record(pending: &Pending, end: End) -> Verify {
    let Verdict { outcome, reason, advice, .. } = end.verdict;
    let target = end.target.as_ref();
    let reason = match (reason, advice.words(pending, target)) {
        (Some(reason), Some(advice)) => Some(format!("{reason}; {advice}")),
        (reason, advice) => reason.or(advice),
    };
    let state = end.state.as_ref();
    let verification = state.and_then(|state| state.verification.as_ref());
    let snapshot = &pending.snapshot;
    Verify {
        run: (!pending.by_hand).then(|| pending.run.clone()),
        job: (!pending.by_hand).then(|| pending.job.name()),
        vmid: pending.vmid,
        storage: pending.storage.clone(),
        storage_id: target.map_or(pending.datastore.clone(), Target::durable_id),
        outcome,
        reason,
        namespace: snapshot.namespace.clone(),
        backup_type: snapshot.backup_type.as_str().to_string(),
        backup_id: snapshot.backup_id.clone(),
        backup_time: snapshot.backup_time,
        size: state.and_then(|state| state.files.iter().map(|file| file.size).sum()),
        owner: target.filter(|_| state.is_some()).and_then(|target| owner(pending, target)),
        protected: end.protected,
        encrypted: state.map(|state| encrypted(&state.files)),
        key_fingerprint: state.and_then(|state| state.fingerprint.clone()),
        verify_state: verification.map(|verification| verification.state.as_str().to_string()),
        verify_upid: verification.map(|verification| verification.upid.to_string()),
        started_upid: pending.upid.as_ref().map(ToString::to_string),
        by: pending.looked.then(|| Actor::Server.into()),
    }
}

/// The owner of a backup that was just made: a server lets a token write only into its own groups.
/// For another backup, the guest's whole list would be needed.
fn owner(pending: &Pending, target: &Target) -> Option<String> {
    let own = !pending.by_hand && target.username.contains('!');
    own.then(|| target.username.clone())
}
