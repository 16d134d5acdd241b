//! The note in the guest that says what was running, and the run that can be made from it.

use std::time::Duration;

use anyhow::Result;

use super::finish::recovered;
use crate::guest::{Guest, State};
use crate::journal::{Journal, Record};
use crate::run::{
    By, Damaged, Fate, QUIESCED_DIRECTORY, QUIESCED_FILE, Quiesce, Quiesced, Run, Runs, Step,
};
use crate::sys::process::Process;
use crate::sys::{Root, bounded};
use crate::vzdump::{GuestType, Job, Mode, Vmid};

/// A plan of ten thousand containers.
const LIMIT: u64 = 16 << 20;

/// For reading, writing or removing one file in a guest.
const FILE_LIMIT: Duration = Duration::from_secs(10);

/// Writes the note of a run into its guest, durably.
pub fn write(run: &Run, guest: &Guest) -> Result<()> {
    let content = serde_json::to_vec_pretty(&Quiesced::of(run))?;
    let tree = guest.tree.try_clone()?;
    bounded::within(FILE_LIMIT, move || {
        tree.replace(QUIESCED_DIRECTORY, QUIESCED_FILE, &content)
    })??;
    Ok(())
}

/// Reads the note in a guest; `None` where there is none, or none that is understood.
pub fn read(guest: &Guest) -> Result<Option<Quiesced>> {
    let tree = guest.tree.try_clone()?;
    let path = format!("{QUIESCED_DIRECTORY}/{QUIESCED_FILE}");
    let read = bounded::within(FILE_LIMIT, move || tree.read(&path, LIMIT))?;
    let bytes = read.ok().flatten();
    Ok(bytes.and_then(|bytes| Quiesced::parse(&bytes)))
}

/// Removes the note from a guest, if it is the one of this run.
pub fn remove(run_id: &str, guest: &Guest) -> Result<()> {
    if read(guest)?.is_some_and(|note| note.run == run_id) {
        let tree = guest.tree.try_clone()?;
        bounded::within(FILE_LIMIT, move || tree.remove(QUIESCED_DIRECTORY, QUIESCED_FILE))??;
    }
    Ok(())
}

/// A run's file is damaged: the note in the guest says the same. `None` where there is none; the damaged file
/// is then put aside.
pub fn reconstruct(root: &Root, vmid: Vmid, damaged: &Damaged) -> Result<Option<Run>> {
    let guest = match State::of(root, vmid)? {
        State::Running(guest) if !guest.is_frozen() => guest,
        _ => anyhow::bail!("{damaged}; the note in the guest can be read when it runs"),
    };
    let note = read(&guest)?;
    let aside = Runs::of(root).put_aside(vmid)?;
    let mut run = match note.filter(|note| note.vmid == vmid) {
        Some(note) => run_of(note, vmid, By::Stillpoint),
        None => {
            let reason = format!(
                "{damaged}, and the guest holds no note of what was running; the file is kept as {}",
                aside.display()
            );
            let mut run = run_of(Quiesced::empty(), vmid, By::Stillpoint);
            run.disturb(reason.clone());
            Journal::of(root).append(&Record::Recovered(recovered(
                &run,
                "damaged run",
                &reason,
            )))?;
            return Ok(None);
        }
    };
    run.note(format!(
        "{damaged}; the note in the guest was used, the file is kept as {}",
        aside.display()
    ));
    Runs::of(root).save(&run)?;
    Ok(Some(run))
}

/// A run as far as the note in a guest knows it; its job is nobody's.
pub fn run_of(note: Quiesced, vmid: Vmid, by: By) -> Run {
    let nobody = Process { pid: 0, started: 0, boot: String::new() };
    let steps = note.containers.into_iter().map(|container| Step {
        id: container.id,
        name: container.name,
        project: container.project,
        service: container.service,
        action: container.action,
        stop_timeout: 10,
        started_at: container.started_at,
        after: container.after,
        not_in_backup: Vec::new(),
        requested: false,
        stop_ms: None,
        start_ms: None,
        failures: 0,
        fate: Fate::Open,
    });
    let quiesce = Quiesce {
        by,
        began_ms: None,
        rested_ms: None,
        resumed_ms: None,
        over: false,
        steps: steps.collect(),
    };
    Run {
        id: note.run,
        opened: note.time,
        was_running: true,
        quiesce: Some(quiesce),
        ..Run::new(
            vmid,
            GuestType::Lxc,
            Job { upid: None, worker: nobody, session: 0 },
            Mode::Snapshot,
        )
    }
}
