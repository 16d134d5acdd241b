//! The end of each verify, and what happens to one without an answer.

use anyhow::Result;

use super::{Collection, Collector, LIMIT, Over, is_unreachable, limit};
use crate::journal::{Journal, Record, VerifyOutcome};
use crate::pbs::{Error, Pbs};
use crate::sys::clock;
use crate::verify::advice::Advice;
use crate::verify::ending::{self, End};
use crate::verify::judge::{Retry, Verdict, unanswered};
use crate::verify::pending::{Pending, Trouble};

impl Collection<'_> {
    pub(super) fn note(&mut self, pending: &Pending, verdict: &Verdict) -> Result<()> {
        self.queue.change(pending, |mut pending| {
            pending.note(verdict.clone());
            Ok(Some(pending))
        })?;
        Ok(())
    }

    pub(super) fn not_answered(
        &mut self,
        pending: &Pending,
        pbs: Option<&Pbs>,
        error: &Error,
    ) -> Result<()> {
        if let Some(pbs) = pbs {
            self.servers.note(pbs, error);
        }
        self.last_word(pending, pbs, error)
    }

    /// Ends a verify that the server has finally refused, or whose server could not be asked for
    /// too long.
    pub(super) fn last_word(
        &mut self,
        pending: &Pending,
        pbs: Option<&Pbs>,
        error: &Error,
    ) -> Result<()> {
        let verdict = unanswered(error);
        let past = pending.age(clock::now()) > LIMIT;
        let again = verdict.retry == Retry::ForADay;
        if matches!(self.collector, Collector::BackupEnd { .. }) || again && !past {
            return Ok(());
        }
        self.queue.refresh()?;
        let Some(now) = self.queue.get(&pending.file_name()).cloned() else { return Ok(()) };
        if now.upid != pending.upid {
            return Ok(());
        }
        let reason = verdict.reason.clone().unwrap_or_default();
        match (again, pbs) {
            (true, _) => {
                let reason = format!("{reason} (for {})", limit());
                let verdict = Verdict { reason: Some(reason), ..verdict };
                self.close(&now, End::unasked(verdict))
            }
            (false, Some(pbs)) => self.close(&now, End::of(verdict, pbs, None)),
            (false, None) => self.close(&now, End::unasked(verdict)),
        }
    }

    /// Ends a verify that could not be started within the limit.
    pub(super) fn never_started(&mut self, pending: &Pending) -> Result<()> {
        let (outcome, reason, advice) = match &pending.trouble {
            Some(trouble) => (trouble.outcome, trouble.reason.as_str(), trouble.advice),
            None => {
                let reason = "others of its datastore were in front (verify.parallel)";
                (VerifyOutcome::Unknown, reason, Advice::VerifyAgain)
            }
        };
        let reason = Some(format!("not started within {}: {reason}", limit()));
        let verdict = Verdict { outcome, reason, advice, retry: Retry::Never };
        self.close(pending, End::unasked(verdict))
    }

    /// Ends a verify that has run on the server for too long.
    pub(super) fn give_up(&mut self, pending: &Pending, pbs: &Pbs, reason: String) -> Result<()> {
        if matches!(self.collector, Collector::BackupEnd { .. }) {
            return Ok(());
        }
        let (outcome, advice) = (VerifyOutcome::Unknown, Advice::VerifyAgain);
        let verdict = Verdict { outcome, reason: Some(reason), advice, retry: Retry::Never };
        self.close(pending, End::of(verdict, pbs, None))
    }

    pub(super) fn close(&mut self, pending: &Pending, end: End) -> Result<()> {
        // A bad outcome is reported by the summary of its job, or, if there is none, by the unit,
        // which mails root.
        let told = matches!(self.collector, Collector::JobEnd { .. }) && self.is_meant(pending);
        let outcome = end.verdict.outcome;
        if ending::close(self.root, &mut self.queue, pending, end, told)? {
            let (vmid, storage) = (pending.vmid, pending.storage.clone());
            self.collected.over.push(Over { vmid, storage, outcome });
        }
        Ok(())
    }

    /// When the job ends, verifies that could not be started are journalled with their outcome so
    /// far.
    pub(super) fn journal_troubles(&mut self) -> Result<()> {
        let down = self.down();
        let mut told = Vec::new();
        for pending in self.queue.all() {
            let trouble = pending.trouble.as_ref().filter(|_| is_unreachable(pending));
            let others = down.get(&pending.datastore).and_then(|down| down.trouble.as_ref());
            let open = pending.ended.is_none() && pending.upid.is_none() && self.is_meant(pending);
            if let Some(trouble) = trouble.or(others)
                && open
                && !pending.trouble.as_ref().is_some_and(|trouble| trouble.journalled)
            {
                told.push((pending.clone(), trouble.clone()));
            }
        }
        for (pending, trouble) in told {
            let reason = format!("{}; it is tried again for {}", trouble.reason, limit());
            let Trouble { outcome, advice, .. } = trouble;
            let verdict = Verdict { outcome, reason: Some(reason), advice, retry: Retry::Never };
            let noted = Verdict { reason: Some(trouble.reason), ..verdict.clone() };
            let record = Record::Verify(ending::record(&pending, End::unasked(verdict)));
            let journal = Journal::of(self.root);
            self.queue.change(&pending, |mut pending| {
                journal.append(&record)?;
                if pending.trouble.is_none() {
                    pending.note(noted);
                }
                if let Some(trouble) = &mut pending.trouble {
                    trouble.journalled = true;
                }
                Ok(Some(pending))
            })?;
        }
        Ok(())
    }

    /// The job's summary reports what was over before the job.
    pub(super) fn leave_to_summary(&mut self) -> Result<()> {
        self.queue.refresh()?;
        let over = |pending: &&Pending| pending.ended.is_some() && self.is_meant(pending);
        let over: Vec<Pending> = self.queue.all().into_iter().filter(over).cloned().collect();
        for pending in over {
            self.queue.change(&pending, |_| Ok(None))?;
        }
        Ok(())
    }
}
