//! Asking how a task stands, and what a task that has ended comes to.

use anyhow::Result;

use super::{Collection, Collector, LIMIT, limit};
use crate::config::Settings;
use crate::journal::VerifyOutcome;
use crate::pbs::{Entry, Pbs, TaskStatus};
use crate::sys::clock;
use crate::verify::ending::End;
use crate::verify::judge::{Verdict, judge, not_encrypted, unanswered};
use crate::verify::pending::Pending;

/// How often a verify that proved nothing is started.
const MOST_STARTS: u32 = 3;

/// Lines of a task's log: the one that tells of a skipped verify, and the first that tell of damage, are among them.
const LOG_LINES: u32 = 500;

impl Collection<'_> {
    /// Asks how a task stands, and judges one that has ended.
    pub(super) fn poll(&mut self, pending: &Pending, settings: &Settings) -> Result<()> {
        let Some(upid) = &pending.upid else { return Ok(()) };
        if let Some(poll) = self.polls.get_mut(&pending.file_name()) {
            poll.back_off();
        }
        let pbs = match self.servers.get(pending) {
            Ok(pbs) => pbs,
            Err(error) => return self.not_answered(pending, None, &error),
        };
        let exitstatus = match pbs.status(upid, self.question()) {
            Ok(TaskStatus::Running) => {
                let left = pending.age(clock::now()) > LIMIT;
                let reason = format!("the server is at it for longer than {}: {upid}", limit());
                return match left {
                    true => self.give_up(pending, &pbs, VerifyOutcome::Unknown, reason),
                    false => Ok(()),
                };
            }
            Ok(TaskStatus::Stopped { exitstatus }) => exitstatus,
            Err(error) => return self.not_answered(pending, Some(&pbs), &error),
        };
        let state = pbs.state(&pending.snapshot, self.question());
        let mut verdict = judge(upid, &exitstatus, &state, &[]);
        if let Err(error) = &state
            && verdict.outcome == VerifyOutcome::Unreachable
        {
            return self.not_answered(pending, Some(&pbs), error);
        }
        if let Err(error) = &state {
            self.servers.note(&pbs, error);
        }
        if verdict.outcome != VerifyOutcome::Ok && !self.servers.is_silent(&pbs) {
            match pbs.log(upid, LOG_LINES, self.question()) {
                Ok(log) => verdict = judge(upid, &exitstatus, &state, &log),
                // What the log says is worth a question, and no more.
                Err(error) => self.servers.note(&pbs, &error),
            }
        }
        if verdict.again && pending.starts < MOST_STARTS && pending.age(clock::now()) <= LIMIT {
            return self.again(pending, verdict, settings);
        }
        let policy = settings.verify_of(pending.vmid.0, &pending.storage);
        if let (VerifyOutcome::Ok, true, Ok(state)) =
            (verdict.outcome, policy.require_encryption, &state)
            && let Some(failure) = not_encrypted(state, &pending.storage)
        {
            verdict = failure;
        }
        let entry = state.as_ref().ok().and_then(|_| self.entry(pending, &pbs));
        self.close(pending, End::of(verdict, &pbs, state.ok()).listed(entry))
    }

    /// What the server lists of the snapshot; no outcome hangs on it.
    pub(super) fn entry(&self, pending: &Pending, pbs: &Pbs) -> Option<Entry> {
        let entries = pbs.list(&pending.snapshot, self.question()).ok()?;
        entries.into_iter().find(|entry| entry.snapshot == pending.snapshot)
    }

    /// A verify that proved nothing is started again: at once the first time, after a pause then.
    pub(super) fn again(
        &mut self,
        pending: &Pending,
        verdict: Verdict,
        settings: &Settings,
    ) -> Result<()> {
        if pending.starts <= 1 && !matches!(self.collector, Collector::BackupEnd { .. }) {
            return self.start(pending, settings);
        }
        self.queue.change(pending, |mut pending| {
            pending.upid = None;
            pending.note(verdict.outcome, verdict.reason.unwrap_or_default());
            Ok(Some(pending))
        })?;
        Ok(())
    }

    /// Whether a snapshot that is not verified is encrypted, as its policy asks for.
    pub(super) fn look_at_encryption(
        &mut self,
        pending: &Pending,
        settings: &Settings,
    ) -> Result<()> {
        let policy = settings.verify_of(pending.vmid.0, &pending.storage);
        if !policy.require_encryption {
            self.queue.change(pending, |_| Ok(None))?;
            return Ok(());
        }
        let pbs = match self.servers.get(pending) {
            Ok(pbs) => pbs,
            Err(error) => {
                self.note(pending, &unanswered(&error))?;
                return self.last_word(pending, None, &error);
            }
        };
        match pbs.state(&pending.snapshot, self.question()) {
            Ok(state) => match not_encrypted(&state, &pending.storage) {
                Some(failure) => self.close(pending, End::of(failure, &pbs, Some(state))),
                None => {
                    self.queue.change(pending, |_| Ok(None))?;
                    Ok(())
                }
            },
            Err(error) => {
                self.servers.note(&pbs, &error);
                self.note(pending, &unanswered(&error))?;
                self.last_word(pending, Some(&pbs), &error)
            }
        }
    }
}
