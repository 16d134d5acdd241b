//! From a run that is over to its records, and the end of the run.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::grade::grade;
use super::resume::{look_again, resume};
use crate::config::Strategy;
use crate::guest::State;
use crate::journal::{Backup, ContainerRecord, Journal, Outcome, Record, Recovered};
use crate::run::{
    Archive, By, Damaged, Fate, QUIESCED_DIRECTORY, QUIESCED_FILE, Quiesce, Quiesced, Run, Runs,
    Step,
};
use crate::sys::process::Process;
use crate::sys::{Root, bounded, clock, failpoint, text};
use crate::vzdump::{GuestType, Job, Mode, Vmid};

/// A plan of ten thousand containers.
const QUIESCED_LIMIT: u64 = 16 << 20;

/// For reading or removing one file in a guest.
const FILE_LIMIT: Duration = Duration::from_secs(10);

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
            Ok(damaged) => match reconstruct(root, vmid, &damaged)? {
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

/// Journals a run whose backup is over; ends the run where everything is back.
pub fn finish(root: &Root, run: &mut Run) -> Result<()> {
    if !run.journalled {
        Journal::of(root).append(&Record::Backup(backup_record(run)))?;
        failpoint::reach(root, "journalled");
        run.journalled = true;
    }
    if run.is_open() { Runs::of(root).save(run) } else { close(root, run) }
}

/// Removes the run, and the note in the guest if it is this run's. A guest that is down keeps its note: it
/// starts nothing that somebody else has started since.
pub fn close(root: &Root, run: &Run) -> Result<()> {
    if run.quiesce.is_some()
        && let Ok(State::Running(guest)) = State::of(root, run.vmid)
        && !guest.is_frozen()
    {
        let id = run.id.clone();
        // What the guest makes of its own file system is its own affair.
        let _ = bounded::within(FILE_LIMIT, move || {
            let path = format!("{QUIESCED_DIRECTORY}/{QUIESCED_FILE}");
            let bytes = guest.tree.read(&path, QUIESCED_LIMIT).ok()??;
            let note: Quiesced = serde_json::from_slice(&bytes).ok()?;
            (note.run == id).then(|| guest.tree.remove(QUIESCED_DIRECTORY, QUIESCED_FILE))
        });
    }
    failpoint::reach(root, "closing");
    Runs::of(root).remove(run.vmid)
}

/// A run's file is damaged: the note in the guest says the same. `None` where there is none; the damaged file
/// is then put aside.
fn reconstruct(root: &Root, vmid: Vmid, damaged: &Damaged) -> Result<Option<Run>> {
    let guest = match State::of(root, vmid)? {
        State::Running(guest) if !guest.is_frozen() => guest,
        _ => anyhow::bail!("{damaged}; the note in the guest can be read when it runs"),
    };
    let path = format!("{QUIESCED_DIRECTORY}/{QUIESCED_FILE}");
    let tree = guest.tree;
    let read = bounded::within(FILE_LIMIT, move || tree.read(&path, QUIESCED_LIMIT))?;
    let note = match read {
        Ok(Some(bytes)) => serde_json::from_slice::<Quiesced>(&bytes).ok(),
        _ => None,
    };
    let aside = Runs::of(root).put_aside(vmid)?;
    let mut run = match note.filter(|note| note.vmid == vmid) {
        Some(note) => run_of(note),
        None => {
            let reason = format!(
                "{damaged}, and the guest holds no note of what was running; the file is kept as {}",
                aside.display()
            );
            let id = text::token();
            let mut run = run_of(Quiesced { run: id, vmid, ..Quiesced::empty() });
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

/// A run as far as the note in the guest knows it; its job is nobody's.
fn run_of(note: Quiesced) -> Run {
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
        by: By::Stillpoint,
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
            note.vmid,
            GuestType::Lxc,
            Job { upid: None, worker: nobody, session: 0 },
            Mode::Snapshot,
        )
    }
}

fn backup_record(run: &Run) -> Backup {
    let (grade, reasons) = grade(run);
    let error = match &run.archive {
        Archive::Complete => None,
        Archive::Failed(reason) => Some(reason.clone()),
        Archive::Pending => Some("vzdump never said that the archive is complete".to_string()),
    };
    Backup {
        run: run.id.clone(),
        job: run.job.name(),
        vmid: run.vmid,
        guest_type: run.guest_type,
        hostname: run.hostname.clone(),
        storage: run.storage.clone(),
        target: run.target.clone(),
        mode_asked: run.mode_asked,
        mode_used: run.mode_used,
        started: run.opened.clone(),
        outcome: if error.is_none() { Outcome::Ok } else { Outcome::Failed },
        grade: if error.is_none() { grade } else { None },
        error,
        reasons,
        notes: run.notes.clone(),
        containers: container_records(run),
        downtime_ms: downtime_ms(run),
        verify: run.verify.clone(),
    }
}

fn recovered(run: &Run, by: &str, reason: &str) -> Recovered {
    Recovered {
        run: run.id.clone(),
        job: run.job.name(),
        vmid: run.vmid,
        by: by.to_string(),
        reason: reason.to_string(),
        containers: container_records(run),
        guest: run.revived.clone(),
        downtime_ms: downtime_ms(run),
    }
}

/// The boot clock begins anew with each boot.
fn downtime_ms(run: &Run) -> Option<u64> {
    let same_boot = run.job.worker.boot == clock::boot_id();
    run.quiesce.as_ref().filter(|_| same_boot).and_then(Quiesce::downtime_ms)
}

/// The containers of a run as the journal tells them.
pub fn container_records(run: &Run) -> Vec<ContainerRecord> {
    let Some(quiesce) = &run.quiesce else { return Vec::new() };
    let record = |step: &Step| {
        let (fate, error) = match &step.fate {
            Fate::Open => ("open", None),
            Fate::Back => ("back", None),
            Fate::Gone => ("gone", None),
            Fate::Left(why) => ("left", Some(why.clone())),
            Fate::Failed(why) => ("failed", Some(why.clone())),
        };
        let action = match (quiesce.by, step.action) {
            (By::GuestShutdown, _) => "shutdown",
            (By::Stillpoint, Strategy::Stop) => "stop",
            (By::Stillpoint, Strategy::Pause) => "pause",
            (By::Stillpoint, Strategy::None) => "none",
        };
        ContainerRecord {
            name: step.name.clone(),
            id: step.id.clone(),
            stack: step.project.clone(),
            service: step.service.clone(),
            action: action.to_string(),
            stop_ms: step.stop_ms,
            start_ms: step.start_ms,
            fate: fate.to_string(),
            error,
            not_in_backup: step.not_in_backup.clone(),
        }
    };
    quiesce.steps.iter().map(record).collect()
}
