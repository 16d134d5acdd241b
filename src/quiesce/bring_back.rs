use std::time::{Duration, Instant};

use anyhow::Result;

use super::damaged::reconstruct;
use super::finish::{finish, is_made, recovered};
use super::left::look_for_removed;
use super::resume::{look_again, not_here, resume};
use crate::journal::{Actor, Journal, Record};
use crate::report::not_back::Partly;
use crate::run::{Archive, Damaged, Runs};
use crate::sys::{Root, look};
use crate::vzdump::Vmid;

/// The result of starting a guest's containers again.
#[derive(Debug, PartialEq, Eq)]
pub enum BroughtBack {
    /// There is no run, or nothing is open in it.
    Nothing,
    /// Everything is back.
    All {
        /// How many containers were started.
        started: usize,
        /// How many are back; whoever dealt with one of them has it left to them.
        all: usize,
    },
    /// The guest itself is gone from this node, and why.
    NotHere(String),
    /// This run no longer tries to start those that are not back.
    Partly(Partly),
    /// Not yet, and why.
    NotYet(String),
}

/// Who starts the containers, and why: for the journal.
#[derive(Clone, Copy, Debug)]
pub struct Errand<'a> {
    pub by: Actor,
    /// It also becomes a reason of the backup, if the backup's data was not copied yet.
    pub reason: &'a str,
    /// The job of the run is over or dead: the run is closed.
    pub close: bool,
    /// Only this run, not a later one.
    pub run: Option<&'a str>,
}

/// Starts the containers that a run of this guest left stopped and journals that, for callers
/// outside of the normal course of a backup.
///
/// A failed write (a full disk) must not keep anything down; it is returned as an error afterwards.
pub fn bring_back(
    root: &Root,
    vmid: Vmid,
    deadline: Instant,
    errand: Errand<'_>,
) -> Result<BroughtBack> {
    let runs = Runs::of(root);
    let _lock = match errand.by {
        // vzdump waits for these callers.
        Actor::JobStart | Actor::JobEnd => runs.lock_first(vmid, deadline)?,
        _ => runs.lock(vmid, deadline)?,
    };
    bring_back_locked(root, vmid, deadline, errand)
}

/// As [`bring_back`], for a caller that already holds the guest's lock.
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
    // From then on the time counts in which a requested stop may still happen, however often this
    // is repeated.
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
    if moved && let Some(why) = not_here(root, &run) {
        return Ok(BroughtBack::NotHere(why));
    }
    Ok(match (Partly::of(&run), run.started().saturating_sub(before.started())) {
        (Some(partly), _) => BroughtBack::Partly(partly),
        (None, 0) if !moved => BroughtBack::Nothing,
        (None, started) => BroughtBack::All { started, all: run.back() },
    })
}
