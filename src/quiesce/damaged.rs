use anyhow::Result;

use super::finish::recovered;
use super::note::{read, run_of};
use crate::guest::State;
use crate::journal::{Actor, Journal, Record};
use crate::run::{By, Damaged, Quiesced, Run, Runs};
use crate::sys::Root;
use crate::vzdump::Vmid;

/// Rebuilds a run with a damaged file from the note in the guest. The result is used in memory, and
/// the damaged file stays until everything is back. `None` if there is no note; the file is then
/// moved away.
pub fn reconstruct(root: &Root, vmid: Vmid, damaged: &Damaged) -> Result<Option<Run>> {
    let guest = match State::of(root, vmid)? {
        State::Running(guest) if !guest.is_frozen() => guest,
        _ => anyhow::bail!("{damaged}; the note in the guest can be read when it runs"),
    };
    let note = read(&guest)?.filter(|note| note.vmid == vmid);
    let runs = Runs::of(root);
    let Some(note) = note else {
        let kept = runs.keep_damaged(vmid)?;
        let reason = format!(
            "{damaged}, and the guest holds no note of what was running; the file is kept as {}",
            kept.display()
        );
        let run = run_of(Quiesced::empty(), vmid, By::Stillpoint);
        Journal::of(root).append(&Record::Recovered(recovered(
            &run,
            Actor::DamagedRun,
            &reason,
        )))?;
        runs.remove(vmid)?;
        return Ok(None);
    };
    let mut run = run_of(note, vmid, By::Stillpoint);
    // If a full disk keeps no copy, the containers are started anyway.
    run.note(match runs.keep_damaged(vmid) {
        Ok(kept) => format!("{damaged}; it is kept as {}", kept.display()),
        Err(error) => format!("{damaged}; no copy is kept: {error:#}"),
    });
    // It is unknown whose backup it was, so there is none to journal.
    run.journalled.done();
    Ok(Some(run))
}
