use std::time::{Duration, Instant};

use anyhow::Result;

use super::bring_back::{BroughtBack, Errand, bring_back_locked};
use super::finish::settled;
use super::note;
use super::resume::{await_engine, look_again, resume};
use crate::guest::State;
use crate::journal::{Journal, Record};
use crate::run::{By, Runs};
use crate::sys::Root;
use crate::vzdump::Vmid;

/// How long a guest that has just started may take until its engine answers.
const ENGINE_WAIT: Duration = Duration::from_secs(300);

/// For all its containers, from then on.
const LIMIT: Duration = Duration::from_secs(600);

/// Brings up, after the start of a guest, what was running when it was brought to rest for a backup: a guest
/// restored from that backup, started on another node, or started late after a power cut.
///
/// Whoever wrote the note may be years away. A container is started only if it does not run and nobody has
/// started it since.
pub fn settle(root: &Root, vmid: Vmid) -> Result<BroughtBack> {
    let runs = Runs::of(root);
    // Waited for without the lock, which others need for their own work.
    await_engine(root, vmid, Instant::now() + ENGINE_WAIT);
    let deadline = Instant::now() + LIMIT;
    let _lock = runs.lock(vmid, deadline)?;
    match runs.load(vmid) {
        Ok(None) => {}
        // vzdump has started its guest again and goes on itself.
        Ok(Some(run)) if run.job.worker.alive() => {
            return Ok(BroughtBack::NotYet("a backup of it is under way".to_string()));
        }
        // A run of this node knows more than the note does.
        Ok(Some(_)) | Err(_) => {
            let errand =
                Errand { by: "settle", reason: "the guest was started", close: true, run: None };
            return bring_back_locked(root, vmid, deadline, errand);
        }
    }
    let State::Running(guest) = State::of(root, vmid)? else {
        return Ok(BroughtBack::NotYet("it is not running".to_string()));
    };
    let Some(found) = note::read(&guest)? else { return Ok(BroughtBack::Nothing) };
    let began = Instant::now();
    let mut run = note::run_of(found, vmid, By::Note);
    let mut left = resume(root, &mut run, deadline, Duration::ZERO);
    if left.is_none() {
        look_again(root, &mut run, deadline);
        left = resume(root, &mut run, deadline, Duration::ZERO);
    }
    Journal::of(root).append(&Record::Settled(settled(&run, began.elapsed(), left.clone())))?;
    if let Some(why) = left {
        // The note stays for the next start.
        return Ok(BroughtBack::NotYet(why));
    }
    note::remove(&run.id, &guest)?;
    Ok(BroughtBack::All(run.started()))
}
