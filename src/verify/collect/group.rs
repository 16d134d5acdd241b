//! The verify of a whole group: one request to the server that covers all of its snapshots.

use std::collections::BTreeMap;
use std::thread;

use anyhow::Result;

use super::ordering::{ON_ITS_WAY, may_have_begun, tells_nothing};
use super::{Collection, Poll};
use crate::pbs::{Error, Pbs, TaskStatus, Upid};
use crate::verify::judge::unanswered;
use crate::verify::pending::Pending;

/// The result of ordering a group's verify.
struct Given {
    upid: Upid,
    /// Whether the server was asked to begin it now.
    begun: bool,
    /// The tasks that had verified its snapshots before, by the snapshots' times.
    before: BTreeMap<i64, Upid>,
}

impl Collection<'_> {
    /// Orders the verify of a group for all verifies that wait for it; `claimed` stands for them.
    /// `blind`: an earlier order may have had an unknown result.
    pub(super) fn start_group(&mut self, claimed: Pending, blind: bool) -> Result<()> {
        let given = self.give_group(&claimed, blind);
        let mut members = vec![claimed.clone()];
        self.queue.refresh()?;
        let with = |other: &&Pending| other.is_with(&claimed) && other.upid.is_none();
        members.extend(self.queue.all().into_iter().filter(with).cloned());
        match given {
            Ok(given) => members.iter().try_for_each(|member| self.share(member, &given)),
            Err(error) => {
                let lost = may_have_begun(&error) && !matches!(error, Error::Invalid(_));
                for member in members {
                    let mut changed = member.clone();
                    changed.ordering = None;
                    changed.unanswered = lost || blind && unanswered_is_open(&error);
                    changed.note(unanswered(&error));
                    if self.queue.change(&member, |_| Ok(Some(changed.clone())))? {
                        self.not_answered(&changed, None, &error)?;
                    }
                }
                Ok(())
            }
        }
    }

    /// If the process that assigned a task to the group was killed meanwhile, assigns the same task
    /// to the others.
    pub(super) fn share_again(&mut self) -> Result<()> {
        let all: Vec<Pending> = self.queue.all().into_iter().cloned().collect();
        for member in all.iter().filter(|member| member.is_queued() && member.group.is_some()) {
            let task = |other: &Pending| other.upid.clone().filter(|_| other.is_with(member));
            if let Some(upid) = all.iter().find_map(task) {
                let before = member.before.iter().cloned();
                let before = before.map(|upid| (member.snapshot.backup_time, upid)).collect();
                self.share(member, &Given { upid, begun: true, before })?;
            }
        }
        Ok(())
    }

    fn share(&mut self, member: &Pending, given: &Given) -> Result<()> {
        let mut changed = member.clone();
        changed.ordering = None;
        changed.unanswered = false;
        changed.trouble = None;
        changed.starts += u32::from(given.begun);
        changed.before = given.before.get(&member.snapshot.backup_time).cloned();
        changed.upid = Some(given.upid.clone());
        self.polls.insert(member.file_name(), Poll::started());
        self.queue.change(member, |_| Ok(Some(changed)))?;
        Ok(())
    }

    fn give_group(&mut self, claimed: &Pending, blind: bool) -> Result<Given, Error> {
        let pbs = self.servers.get(claimed)?;
        let given = self.ask_for_group(&pbs, claimed, blind);
        if let Err(error) = &given {
            self.servers.note(&pbs, error);
        }
        given
    }

    fn ask_for_group(&self, pbs: &Pbs, claimed: &Pending, blind: bool) -> Result<Given, Error> {
        let of = &claimed.snapshot;
        let entries = pbs.list(of, self.question())?;
        let verified =
            |entry: crate::pbs::Entry| Some((entry.snapshot.backup_time, entry.verification?.upid));
        let before = entries.into_iter().filter_map(verified).collect();
        if blind {
            match self.begun_group(pbs, claimed) {
                Ok(Some(upid)) => return Ok(Given { upid, begun: false, before }),
                Err(error) if !tells_nothing(&error) => return Err(error),
                Ok(None) | Err(_) => {}
            }
        }
        let upid = pbs.start_group_verify(of, self.question())?;
        Ok(Given { upid, begun: true, before })
    }

    /// A task from an order whose process is gone, even if the task has only just been requested.
    /// Clocks may differ, so it counts only while it runs.
    fn begun_group(&self, pbs: &Pbs, claimed: &Pending) -> Result<Option<Upid>, Error> {
        for attempt in 0..2 {
            if attempt > 0 {
                thread::sleep(ON_ITS_WAY);
            }
            let (of, since) = (&claimed.snapshot, claimed.tasks_since());
            if let Some(upid) = pbs.group_verify_task(of, since, self.question())?
                && pbs.status(&upid, self.question())? == TaskStatus::Running
            {
                return Ok(Some(upid));
            }
        }
        Ok(None)
    }
}

/// Whether an earlier order may still have led to a task, after this error about it.
fn unanswered_is_open(error: &Error) -> bool {
    matches!(error, Error::Unreachable { .. }) || error.not_now().is_some()
}
