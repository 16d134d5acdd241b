//! Orders a verify, or finds one that was already ordered or that the server has started itself.

use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::{Collection, Poll};
use crate::config::Settings;
use crate::journal::VerifyOutcome;
use crate::pbs::{Error, Pbs, TaskStatus, Upid};
use crate::verify::judge::unanswered;
use crate::verify::pending::Pending;
use crate::verify::queue::Claim;

/// A server starts a task within milliseconds of the request.
pub(super) const ON_ITS_WAY: Duration = Duration::from_secs(1);

impl Collection<'_> {
    /// Whether the server may have started a verify of the snapshot itself: that is not known yet,
    /// and it has not left another new snapshot of this job and datastore without one.
    pub(super) fn may_have_its_own(&self, pending: &Pending) -> bool {
        let left_alone = |other: &&Pending| {
            other.asked && !other.by_hand && (other.starts > 0 || other.upid.is_none())
        };
        let alike =
            |other: &&Pending| other.job == pending.job && other.datastore == pending.datastore;
        !pending.asked
            && !self.queue.all().into_iter().filter(alike).any(|other| left_alone(&other))
    }

    /// Asks whether the server has started a verify of the snapshot itself.
    pub(super) fn ask(&mut self, pending: &Pending) -> Result<()> {
        let found = self.servers.get(pending).and_then(|pbs| {
            let found = pbs.verify_task(&pending.snapshot, pending.tasks_since(), self.question());
            if let Err(error) = &found {
                self.servers.note(&pbs, error);
            }
            found
        });
        match found {
            Ok(upid) => {
                self.queue.change(pending, |mut pending| {
                    pending.asked = true;
                    pending.upid = upid;
                    Ok(Some(pending))
                })?;
                Ok(())
            }
            Err(error) if tells_nothing(&error) => {
                self.queue
                    .change(pending, |pending| Ok(Some(Pending { asked: true, ..pending })))?;
                Ok(())
            }
            Err(error) => self.note(pending, &unanswered(&error)),
        }
    }

    /// Starts a verify, if it is its turn.
    pub(super) fn start(&mut self, seen: &Pending, settings: &Settings) -> Result<()> {
        let (mut pending, blind) = match self.queue.claim(seen, settings.verify.parallel)? {
            Claim::Mine { pending, blind } => (*pending, blind),
            Claim::Full | Claim::Others => return Ok(()),
        };
        let claimed = pending.clone();
        if pending.group.is_some() {
            return self.start_group(claimed, blind);
        }
        let given = self.give(&mut pending, blind);
        pending.ordering = None;
        match &given {
            Ok(()) => pending.trouble = None,
            Err(error) => {
                pending.note(unanswered(error));
            }
        }
        self.polls.insert(pending.file_name(), Poll::started());
        if !self.queue.change(&claimed, |_| Ok(Some(pending.clone())))? {
            return Ok(());
        }
        match given {
            Ok(()) => Ok(()),
            Err(error) => {
                let pbs = self.servers.get(&pending).ok();
                self.last_word(&pending, pbs.as_deref(), &error)
            }
        }
    }

    /// Orders the verify, or finds an earlier order; `blind`: an earlier order may have had an
    /// unknown result.
    pub(super) fn give(&mut self, pending: &mut Pending, blind: bool) -> Result<(), Error> {
        pending.unanswered = blind;
        let pbs = self.servers.get(pending)?;
        pending.before = self.verified_by(&pbs, pending)?;
        if blind || self.may_have_its_own(pending) {
            match self.begun(&pbs, pending, blind) {
                Err(error) if !tells_nothing(&error) => {
                    self.servers.note(&pbs, &error);
                    return Err(error);
                }
                found => {
                    pending.asked = true;
                    pending.unanswered = false;
                    pending.upid = found.ok().flatten();
                }
            }
        }
        if pending.upid.is_some() {
            return Ok(());
        }
        match pbs.start_verify(&pending.snapshot, self.question()) {
            Ok(upid) => {
                pending.starts += 1;
                pending.upid = Some(upid);
                Ok(())
            }
            Err(error) => {
                pending.unanswered = may_have_begun(&error);
                // A verify that did not begin has no result and does not count as an attempt.
                pending.starts += u32::from(pending.unanswered);
                self.servers.note(&pbs, &error);
                Err(error)
            }
        }
    }

    /// The last task that has verified the snapshot. An unreadable manifest contains none.
    fn verified_by(&mut self, pbs: &Pbs, pending: &Pending) -> Result<Option<Upid>, Error> {
        match pbs.state(&pending.snapshot, self.question()) {
            Ok(state) => Ok(state.verification.map(|verification| verification.upid)),
            Err(error @ Error::Refused { .. }) if error.not_now().is_none() => Ok(None),
            Err(error) => {
                self.servers.note(pbs, &error);
                Err(error)
            }
        }
    }

    /// A task that may already verify it, including one from an order that is still on its way, for
    /// example of a process that was killed a moment ago.
    fn begun(&self, pbs: &Pbs, pending: &Pending, ordered: bool) -> Result<Option<Upid>, Error> {
        let found = self.task(pbs, pending)?;
        if found.is_some() || !ordered {
            return Ok(found);
        }
        thread::sleep(ON_ITS_WAY);
        self.task(pbs, pending)
    }

    /// A task that may already verify it. Results from before a person's request do not count, and
    /// clocks may differ: for such a request it counts only while it runs.
    fn task(&self, pbs: &Pbs, pending: &Pending) -> Result<Option<Upid>, Error> {
        let found = pbs.verify_task(&pending.snapshot, pending.tasks_since(), self.question())?;
        match found {
            Some(upid) if pending.by_hand => {
                let running = pbs.status(&upid, self.question())? == TaskStatus::Running;
                Ok(running.then_some(upid))
            }
            found => Ok(found),
        }
    }
}

/// Whether the server may have started it anyway: mainly if its answer did not arrive.
pub(super) fn may_have_begun(error: &Error) -> bool {
    !matches!(
        error,
        Error::Unreachable { unsent: true, .. }
            | Error::Misconfigured(_)
            | Error::Denied { .. }
            | Error::Refused { .. }
            | Error::Gone
    )
}

/// Whether a server that does not list its tasks may verify anyway.
pub(super) fn tells_nothing(error: &Error) -> bool {
    !matches!(error, Error::Denied { status: 401, .. } | Error::Misconfigured(_))
        && unanswered(error).outcome != VerifyOutcome::Unreachable
}
