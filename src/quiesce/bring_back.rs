use std::time::{Duration, Instant};

use anyhow::Result;

use super::damaged::reconstruct;
use super::finish::{finish, is_made, recovered};
use super::left::look_for_removed;
use super::resume::{look_again, resume};
use crate::journal::{Actor, Journal, Record};
use crate::report::not_back::Partly;
use crate::run::{Archive, Damaged, Runs};
use crate::sys::{Root, look};
use crate::vzdump::Vmid;

/// What bringing back a guest's containers came to.
#[derive(Debug, PartialEq, Eq)]
pub enum BroughtBack {
    /// There is no run, or nothing is open in it.
    Nothing,
    /// Everything is back.
    All {
        /// How many containers were started.
        started: usize,
        /// How many there are.
        all: usize,
    },
    /// What is not back is not tried any more in this run.
    Partly(Partly),
    /// Not yet, and why.
    NotYet(String),
}

/// Who brings back, and why: for the journal.
#[derive(Clone, Copy, Debug)]
pub struct Errand<'a> {
    pub by: Actor,
    /// Goes into the backup's reasons too, where its data was not copied yet.
    pub reason: &'a str,
    /// The job that the run belongs to is over or dead: the run is ended.
    pub close: bool,
    /// Only this run, and none that has come after it.
    pub run: Option<&'a str>,
}

/// Brings back what a run of this guest left at rest and journals it, for whoever comes outside the order of a
/// backup.
///
/// What can't be written down (a full disk) keeps nothing from being brought back; it is an error afterwards.
pub fn bring_back(
    root: &Root,
    vmid: Vmid,
    deadline: Instant,
    errand: Errand<'_>,
) -> Result<BroughtBack> {
    let runs = Runs::of(root);
    let _lock = match errand.by {
        // vzdump waits for these.
        Actor::JobStart | Actor::JobEnd => runs.lock_first(vmid, deadline)?,
        _ => runs.lock(vmid, deadline)?,
    };
    bring_back_locked(root, vmid, deadline, errand)
}

/// As [`bring_back`], for a caller that holds the guest's lock already.
pub fn bring_back_locked(
    root: &Root,
    vmid: Vmid,
    deadline: Instant,
    errand: Errand<'_>,
) -> Result<BroughtBack> {
    let _keeping = look::keep();
    let runs = Runs::of(root);
    let mut run = match runs.load(vmid) {
        Ok(None) => return Ok(BroughtBack::Nothing),
        Ok(Some(run)) if errand.run.is_some_and(|id| id != run.id) => {
            return Ok(BroughtBack::Nothing);
        }
        Ok(Some(run)) => run,
        Err(error) => match error.downcast::<Damaged>() {
            Ok(damaged) => match reconstruct(root, vmid, &damaged)? {
                Some(run) => run,
                None => return Ok(BroughtBack::Nothing),
            },
            Err(error) => return Err(error),
        },
    };
    let before = run.clone();
    look_for_removed(root, &mut run, deadline);
    let mut left = resume(root, &mut run, deadline, Duration::ZERO, Duration::ZERO);
    if left.is_none() && before.is_open() {
        look_again(root, &mut run, deadline);
        left = resume(root, &mut run, deadline, Duration::ZERO, Duration::ZERO);
    }
    let moved = run.fates() != before.fates();
    // What may yet be stopped by a request is waited for from then on, however often it is tried.
    let learned = moved || run.requests_ended_ms() != before.requests_ended_ms();
    if moved && run.archive == Archive::Pending && !run.data_copy.is_done() {
        let reason = errand.reason;
        run.disturb(format!(
            "its containers were brought back before its data was copied: {reason}"
        ));
    }
    if let Some(left) = left {
        if learned {
            runs.save(&run)?;
        }
        return Ok(BroughtBack::NotYet(left));
    }
    if moved {
        let record = recovered(&run, errand.by, errand.reason);
        Journal::of(root).append(&Record::Recovered(record))?;
    }
    if errand.close {
        if run.archive == Archive::Pending {
            run.archive = match is_made(root, &run) {
                true => Archive::Complete,
                false => Archive::Failed(errand.reason.to_string()),
            };
        }
        if let Some(left) = finish(root, &mut run)? {
            return Ok(BroughtBack::NotYet(left));
        }
    } else if moved {
        runs.save(&run)?;
    }
    Ok(match (Partly::of(&run), run.started().saturating_sub(before.started())) {
        (Some(partly), _) => BroughtBack::Partly(partly),
        (None, 0) if !moved => BroughtBack::Nothing,
        (None, started) => BroughtBack::All { started, all: run.fates().len() },
    })
}
