//! Asks for the state of a task, and judges a task that has ended.

use anyhow::Result;

use super::{Collection, Collector, LIMIT, limit};
use crate::config::Settings;
use crate::journal::VerifyOutcome;
use crate::pbs::{Error, Findings, Pbs, TaskStatus, Upid};
use crate::sys::clock;
use crate::verify::ending::End;
use crate::verify::judge::{Evidence, Retry, Verdict, not_encrypted, unanswered};
use crate::verify::pending::Pending;

/// How many times a verify without a result is started.
const MOST_STARTS: u32 = 3;

impl Collection<'_> {
    /// Asks for the state of a task, and judges one that has ended.
    pub(super) fn poll(&mut self, pending: &Pending, settings: &Settings) -> Result<()> {
        let Some(upid) = &pending.upid else { return Ok(()) };
        if let Some(poll) = self.polls.get_mut(&pending.file_name()) {
            poll.back_off();
        }
        let pbs = match self.servers.get(pending) {
            Ok(pbs) => pbs,
            Err(error) => return self.not_answered(pending, None, &error),
        };
        let ending = match self.status(&pbs, upid) {
            Ok(TaskStatus::Running) => {
                let left = pending.age(clock::now()) > LIMIT;
                let reason = format!("the server is at it for longer than {}: {upid}", limit());
                return if left { self.give_up(pending, &pbs, reason) } else { Ok(()) };
            }
            Ok(TaskStatus::Stopped(ending)) => ending,
            Err(error) => return self.not_answered(pending, Some(&pbs), &error),
        };
        let state = pbs.state(&pending.snapshot, self.question());
        let before = pending.before.as_ref();
        let mut evidence =
            Evidence { ours: upid, before, ending: &ending, state: &state, log: None };
        let mut verdict = evidence.judge();
        if let Err(error) = &state {
            if verdict.outcome == VerifyOutcome::Unreachable {
                return self.not_answered(pending, Some(&pbs), error);
            }
            self.servers.note(&pbs, error);
        }
        let findings;
        if verdict.outcome != VerifyOutcome::Ok && !self.servers.is_silent(&pbs) {
            findings = self.findings(upid, pending, &pbs);
            evidence.log = findings.as_ref();
            verdict = evidence.judge();
        }
        // If the verify of a group skipped it, that says nothing yet: it is verified by itself.
        let passed_over =
            verdict.outcome == VerifyOutcome::Skipped && verdict.retry != Retry::Never;
        if pending.group.is_some() && passed_over {
            verdict.outcome = VerifyOutcome::Unknown;
        }
        let more = match verdict.retry {
            Retry::Never => false,
            Retry::FewTimes => pending.starts < MOST_STARTS,
            Retry::ForADay => true,
        };
        if more && pending.age(clock::now()) <= LIMIT {
            return self.again(pending, verdict, settings);
        }
        let policy = settings.verify_of(pending.vmid.0, &pending.storage);
        if let (VerifyOutcome::Ok, true, Ok(state)) =
            (verdict.outcome, policy.require_encryption, &state)
            && let Some(failure) = not_encrypted(state, &pending.storage)
        {
            verdict = failure;
        }
        // The outcome does not depend on it.
        let asked = state.as_ref().ok().filter(|_| !self.servers.is_silent(&pbs));
        let protected =
            asked.and_then(|_| pbs.is_protected(&pending.snapshot, self.question()).ok());
        self.close(pending, End::of(verdict, &pbs, state.ok()).protected(protected))
    }

    /// The state of a task; each is asked for once in a round.
    fn status(&mut self, pbs: &Pbs, upid: &Upid) -> Result<TaskStatus, Error> {
        if let Some(known) = self.statuses.get(upid.as_str()) {
            return Ok(known.clone());
        }
        let status = pbs.status(upid, self.question())?;
        self.statuses.insert(upid.as_str().to_owned(), status.clone());
        Ok(status)
    }

    /// What a task's log says about a snapshot; `None` if the log cannot be read.
    fn findings(&mut self, upid: &Upid, pending: &Pending, pbs: &Pbs) -> Option<Findings> {
        if self.log.as_ref().is_none_or(|(of, _)| of != upid) {
            match pbs.telling_log(upid, self.question()) {
                Ok(lines) => self.log = Some((upid.clone(), lines)),
                // The log is worth one request, and no more.
                Err(error) => self.servers.note(pbs, &error),
            }
        }
        let (of, lines) = self.log.as_ref()?;
        (of == upid).then(|| Findings::of(lines, &pending.snapshot))
    }

    /// Starts a verify without a result again: at once the first time, later after a pause. Waiting
    /// for something temporary does not count as an attempt.
    pub(super) fn again(
        &mut self,
        pending: &Pending,
        verdict: Verdict,
        settings: &Settings,
    ) -> Result<()> {
        let in_the_way = verdict.retry == Retry::ForADay;
        let first = pending.starts <= 1 && !in_the_way && pending.group.is_none();
        if first && !matches!(self.collector, Collector::BackupEnd { .. }) {
            return self.start(pending, settings);
        }
        self.queue.change(pending, |mut pending| {
            pending.upid = None;
            pending.group = None;
            pending.starts -= u32::from(in_the_way && pending.starts > 0);
            pending.note(verdict);
            Ok(Some(pending))
        })?;
        Ok(())
    }

    /// Checks whether a snapshot that is not verified is encrypted, if its policy requires that.
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
