use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::judge::{Verdict, judge, unanswered};
use super::pending::Pending;
use crate::journal::{Journal, Record, Verify, VerifyOutcome};
use crate::pbs::{Entry, Error, Pbs, State, TaskStatus, VerifyState, encrypted, skipped};
use crate::sys::{Root, lock, signal};
use crate::vzdump::Job;

/// One question to the server.
const QUESTION_LIMIT: Duration = Duration::from_secs(20);

/// Polling begins with the first and backs off to the second.
const FIRST_POLL: Duration = Duration::from_millis(200);
const SLOWEST_POLL: Duration = Duration::from_secs(30);

/// How often a verify that proved nothing is started.
const MOST_STARTS: u32 = 3;

/// Lines of a task's log; the one that tells of a skipped verify is among the first.
const LOG_LINES: u32 = 500;

/// What was collected.
#[derive(Debug, Default)]
pub struct Collected {
    /// Guest in words, outcome and reason of each verify that is over.
    pub outcomes: Vec<(String, VerifyOutcome, Option<String>)>,
    /// How many are still under way.
    pub left: usize,
}

/// Collects the outcomes of pending verifies (of one job, or all) until `deadline`, and journals each. A verify
/// that the server could not be asked to start is over after one more try.
pub fn collect(root: &Root, job: Option<&Job>, deadline: Instant) -> Result<Collected> {
    let mut collected = Collected::default();
    let mut waiting: Vec<Pending> = Pending::all(root)?
        .into_iter()
        .filter(|pending| job.is_none_or(|job| pending.job == *job))
        .collect();
    let mut pause = FIRST_POLL;
    loop {
        let mut still = Vec::new();
        for mut pending in waiting {
            match look(root, &mut pending, deadline) {
                None => still.push(pending),
                Some(end) => {
                    let (outcome, reason) = (end.verdict.outcome, end.verdict.reason.clone());
                    close(root, &pending, end)?;
                    collected.outcomes.push((pending.guest, outcome, reason));
                }
            }
        }
        waiting = still;
        if waiting.is_empty() || Instant::now() + pause >= deadline || signal::asked_to_stop() {
            collected.left = waiting.len();
            return Ok(collected);
        }
        thread::sleep(pause);
        pause = (pause * 3 / 2).min(SLOWEST_POLL);
    }
}

struct End {
    verdict: Verdict,
    storage_id: String,
    state: Option<State>,
    entry: Option<Entry>,
}

/// Looks at one verify; `None` while it is under way.
fn look(root: &Root, pending: &mut Pending, deadline: Instant) -> Option<End> {
    let question = || Instant::now() + QUESTION_LIMIT;
    let pbs = match Pbs::open(root, &pending.storage) {
        Ok(pbs) => pbs,
        Err(error) => return Some(End::unanswered(&error, String::new())),
    };
    let storage_id = pbs.target().durable_id();
    let Some(upid) = pending.upid.clone() else {
        // The order may have reached the server though its answer did not reach us.
        if let Some(verdict) = found(pending, &pbs, question()) {
            return Some(End::of(verdict, storage_id, pending, &pbs, question()));
        }
        return match pending.start(&pbs, question()) {
            Ok(()) => written(root, pending),
            Err(error) => Some(End::unanswered(&error, storage_id)),
        };
    };
    let exitstatus = match pbs.status(&upid, question()) {
        Ok(TaskStatus::Running) => return None,
        Ok(TaskStatus::Stopped { exitstatus }) => exitstatus,
        // It was started, so it may end well yet: the server is asked again until the time is over.
        Err(Error::Unreachable { .. }) => return None,
        Err(error) => return Some(End::unanswered(&error, storage_id)),
    };
    let state = pbs.state(&pending.snapshot, question());
    let log = pbs.log(&upid, LOG_LINES, question()).unwrap_or_default();
    let verdict = judge(&upid, &exitstatus, &state, skipped(&log));
    if verdict.outcome == VerifyOutcome::Unreachable {
        return None;
    }
    if verdict.again && pending.starts < MOST_STARTS && Instant::now() < deadline {
        return match pending.start(&pbs, question()) {
            Ok(()) => written(root, pending),
            Err(error) => Some(End::unanswered(&error, storage_id)),
        };
    }
    Some(End::of(verdict, storage_id, pending, &pbs, question()))
}

/// The verdict of a verify that began after ours was ordered, whoever ordered it.
fn found(pending: &Pending, pbs: &Pbs, deadline: Instant) -> Option<Verdict> {
    let since = chrono::DateTime::parse_from_rfc3339(&pending.since).ok()?.timestamp();
    let verification = pbs.state(&pending.snapshot, deadline).ok()?.verification?;
    if verification.upid.started() < since {
        return None;
    }
    Some(match verification.state {
        VerifyState::Ok => Verdict { outcome: VerifyOutcome::Ok, reason: None, again: false },
        VerifyState::Failed => Verdict {
            outcome: VerifyOutcome::Failed,
            reason: Some("the server says that the snapshot failed to verify".to_string()),
            again: false,
        },
    })
}

/// The new task's name is kept, so that whoever goes on finds it; without that the outcome would be lost.
fn written(root: &Root, pending: &Pending) -> Option<End> {
    let lock = root.path("/run/stillpoint/verifies.lock");
    let saved = lock::take(&lock, Instant::now() + QUESTION_LIMIT)
        .map_err(anyhow::Error::from)
        // One that another collector has closed meanwhile is not brought to life again.
        .and_then(|_lock| if pending.exists(root) { pending.save(root) } else { Ok(()) });
    let error = saved.err()?;
    let verdict = Verdict {
        outcome: VerifyOutcome::Unknown,
        reason: Some(format!("{error:#}")),
        again: false,
    };
    Some(End { verdict, storage_id: String::new(), state: None, entry: None })
}

impl End {
    /// With what else the server says of the snapshot: worth two questions, but no outcome hangs on them.
    fn of(
        verdict: Verdict,
        storage_id: String,
        pending: &Pending,
        pbs: &Pbs,
        deadline: Instant,
    ) -> End {
        let snapshot = &pending.snapshot;
        let list = pbs.list(snapshot.backup_type, &snapshot.backup_id, deadline).ok();
        let entry = list.into_iter().flatten().find(|entry| entry.snapshot == *snapshot);
        End { verdict, storage_id, state: pbs.state(snapshot, deadline).ok(), entry }
    }

    fn unanswered(error: &Error, storage_id: String) -> End {
        End { verdict: unanswered(error), storage_id, state: None, entry: None }
    }
}

/// Journals the outcome and ends the verify, once, however many collect at the same time.
fn close(root: &Root, pending: &Pending, end: End) -> Result<()> {
    let lock = root.path("/run/stillpoint/verifies.lock");
    let _lock = lock::take(&lock, Instant::now() + QUESTION_LIMIT)?;
    if !pending.exists(root) {
        return Ok(());
    }
    let (state, entry) = (end.state.as_ref(), end.entry.as_ref());
    let verification = state.and_then(|state| state.verification.as_ref());
    let snapshot = &pending.snapshot;
    Journal::of(root).append(&Record::Verify(Verify {
        run: (!pending.by_hand).then(|| pending.run.clone()),
        job: (!pending.by_hand).then(|| pending.job.name()),
        vmid: pending.vmid,
        storage: pending.storage.clone(),
        storage_id: end.storage_id,
        outcome: end.verdict.outcome,
        reason: end.verdict.reason,
        namespace: snapshot.namespace.clone(),
        backup_type: snapshot.backup_type.as_str().to_string(),
        backup_id: snapshot.backup_id.clone(),
        backup_time: snapshot.backup_time,
        size: entry.and_then(|entry| entry.size),
        owner: entry.and_then(|entry| entry.owner.clone()),
        protected: entry.map(|entry| entry.protected),
        encrypted: state.map(|state| encrypted(&state.files)),
        key_fingerprint: state.and_then(|state| state.fingerprint.clone()),
        verify_state: verification.map(|verification| match verification.state {
            VerifyState::Ok => "ok".to_string(),
            VerifyState::Failed => "failed".to_string(),
        }),
        verify_upid: verification.map(|verification| verification.upid.to_string()),
        started_upid: pending.upid.as_ref().map(ToString::to_string),
    }))?;
    pending.remove(root)
}
