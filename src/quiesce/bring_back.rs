use std::time::{Duration, Instant};

use anyhow::Result;

use super::finish::{finish, recovered};
use super::note;
use super::resume::{look_again, resume};
use crate::journal::{Journal, Record};
use crate::run::{Archive, Damaged, Run, Runs};
use crate::sys::Root;
use crate::vzdump::Vmid;

/// What bringing back a guest's containers came to.
#[derive(Debug, PartialEq, Eq)]
pub enum BroughtBack {
    /// There is no run, or nothing is open in it.
    Nothing,
    /// Everything that can be back is; so many containers were started.
    All(usize),
    /// Not yet, and why.
    NotYet(String),
}

/// Brings back what a run of this guest left at rest and journals it, for whoever comes outside the order of a
/// backup: the guard, the boot, the next job, a person.
///
/// `by` and `reason` go into the journal, and into the backup's reasons where its data was not copied yet. With
/// `close` the run is ended: the job that it belongs to is over or dead.
pub fn bring_back(
    root: &Root,
    vmid: Vmid,
    deadline: Instant,
    by: &str,
    reason: &str,
    close: bool,
) -> Result<BroughtBack> {
    let _lock = Runs::of(root).lock(vmid, deadline)?;
    bring_back_locked(root, vmid, deadline, by, reason, close)
}

/// As [`bring_back`], for a caller that holds the guest's lock already.
pub fn bring_back_locked(
    root: &Root,
    vmid: Vmid,
    deadline: Instant,
    by: &str,
    reason: &str,
    close: bool,
) -> Result<BroughtBack> {
    let runs = Runs::of(root);
    let mut run = match runs.load(vmid) {
        Ok(None) => return Ok(BroughtBack::Nothing),
        Ok(Some(run)) => run,
        Err(error) => match error.downcast::<Damaged>() {
            Ok(damaged) => match note::reconstruct(root, vmid, &damaged)? {
                Some(run) => run,
                None => return Ok(BroughtBack::Nothing),
            },
            Err(error) => return Err(error),
        },
    };
    let was_open = run.is_open();
    if was_open && run.archive == Archive::Pending && !run.data_copied {
        run.disturb(format!(
            "its containers were brought back before its data was copied: {reason}"
        ));
        if let Some(quiesce) = run.quiesce.as_mut() {
            quiesce.over = true;
        }
        runs.save(&run)?;
    }
    let before = started(&run);
    let mut left = resume(root, &mut run, deadline, Duration::ZERO);
    if left.is_none() && was_open {
        look_again(root, &mut run, deadline);
        left = resume(root, &mut run, deadline, Duration::ZERO);
    }
    if let Some(left) = left {
        runs.save(&run)?;
        return Ok(BroughtBack::NotYet(left));
    }
    if was_open {
        Journal::of(root).append(&Record::Recovered(recovered(&run, by, reason)))?;
    }
    if close {
        if run.archive == Archive::Pending {
            run.archive = Archive::Failed(reason.to_string());
        }
        finish(root, &mut run)?;
    } else {
        runs.save(&run)?;
    }
    match started(&run) - before {
        0 if !was_open => Ok(BroughtBack::Nothing),
        count => Ok(BroughtBack::All(count)),
    }
}

fn started(run: &Run) -> usize {
    let steps = run.quiesce.iter().flat_map(|quiesce| &quiesce.steps);
    steps.filter(|step| step.start_ms.is_some()).count()
}
