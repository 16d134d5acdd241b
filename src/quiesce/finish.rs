//! Journals a run that is over, and ends it.

use std::time::Duration;

use anyhow::Result;

use super::grade::grade;
use super::left::set_aside;
use super::revive::{Left, left_behind};
use super::trial;
use crate::journal::{
    Action, Actor, Backup, ContainerFate, ContainerRecord, Journal, Outcome, Record, Recovered,
    Settled, Word,
};
use crate::run::{Archive, By, Fate, Journalled, Run, Runs, Step};
use crate::sys::{Root, clock, failpoint};
use crate::vzdump::TaskLog;

/// Journals a run whose backup is over, and ends it if everything is back. Returns why it cannot be
/// ended yet, if so.
pub fn finish(root: &Root, run: &mut Run) -> Result<Option<String>> {
    trial::clean_up(root, run.vmid);
    record(root, run)?;
    if let Some(left) = left_behind(root, run) {
        Runs::of(root).save(run)?;
        return Ok(Some(left.to_string()));
    }
    if run.is_open() {
        Runs::of(root).save(run)?;
        return Ok(Some("not every container is back".to_string()));
    }
    if run.is_looked_at() {
        // Its guard watches whether what was started stays up, and then ends the run.
        set_aside(root, run)?;
        return Runs::of(root).save(run).map(|()| None);
    }
    close(root, run).map(|()| None)
}

/// Journals a run whose backup is over, without ending it: nothing is asked of the guest.
pub fn journal(root: &Root, run: &mut Run) -> Result<()> {
    record(root, run)?;
    Runs::of(root).save(run)
}

fn record(root: &Root, run: &mut Run) -> Result<()> {
    let known = match run.journalled {
        Journalled::No => false,
        Journalled::Writing => is_journalled(root, run)?,
        Journalled::Yes => true,
    };
    if !known {
        // Tells whoever continues if this process dies between writing the record and the run. On a
        // full disk this cannot be stored; then the record may be there twice, which is better than
        // not at all.
        run.journalled.begin();
        let _ = Runs::of(root).save(run);
        Journal::of(root).append(&Record::Backup(backup_record(run)))?;
        failpoint::reach(root, "journalled");
    }
    run.journalled.done();
    Ok(())
}

/// Whether the archive is complete, according to vzdump's own log, if no hook could record it.
pub fn is_made(root: &Root, run: &Run) -> bool {
    let log = || TaskLog::read(root, run.job.upid.as_ref()?).ok();
    match run.archive {
        Archive::Complete => true,
        Archive::Failed(_) => false,
        Archive::Pending => log().is_some_and(|log| log.is_finished(run.vmid)),
    }
}

/// Closes a run that is over but cannot be finished, so that the guest's next backup is made:
/// containers that are not back are set aside. Returns why that is impossible, if so: a guest that
/// is itself down or frozen must still be brought back.
pub fn give_up(root: &Root, run: &mut Run, why: &str) -> Result<Option<String>> {
    match left_behind(root, run) {
        // By now it is the next backup's lock.
        None | Some(Left::Locked) => {}
        Some(left) => return Ok(Some(left.to_string())),
    }
    let known = run.journalled.is_done();
    for step in run.quiesce.iter_mut().flat_map(|quiesce| &mut quiesce.steps) {
        if step.fate == Fate::Open {
            step.fate = Fate::Failed(step.trouble.clone().unwrap_or_else(|| why.to_string()));
        }
    }
    if known && run.not_back().next().is_some() {
        let record = recovered(run, Actor::JobStart, "the next backup of the guest begins");
        Journal::of(root).append(&Record::Recovered(record))?;
    }
    record(root, run)?;
    close(root, run).map(|()| None)
}

fn is_journalled(root: &Root, run: &Run) -> Result<bool> {
    let mut found = false;
    let opened = run.opened.parse().unwrap_or_default();
    Journal::of(root).recent(opened, |written| {
        found = written.is_backup_of(&run.id);
        !found
    })?;
    Ok(found)
}

/// Removes the run, and the note in the guest if it is this run's. Containers that are not back are
/// set aside first.
fn close(root: &Root, run: &Run) -> Result<()> {
    set_aside(root, run)?;
    failpoint::reach(root, "closing");
    Runs::of(root).remove(run.vmid)
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

/// Why a run is ended by something other than its own vzdump.
pub fn why_over(run: &Run) -> &'static str {
    match (run.journalled.is_done(), run.job.worker.is_of_this_boot()) {
        (true, _) => "the backup is over",
        (false, false) => "the node went down during the backup",
        (false, true) => "the job that quiesced it is dead",
    }
}

/// The record of containers that were started outside of the normal course of a backup.
pub fn recovered(run: &Run, by: Actor, reason: &str) -> Recovered {
    Recovered {
        run: run.id.clone(),
        job: run.job.name(),
        vmid: run.vmid,
        by: by.into(),
        reason: reason.to_string(),
        containers: container_records(run),
        guest: run.revived.iter().copied().map(Word::Known).collect(),
        downtime_ms: downtime_ms(run),
    }
}

/// The record of containers that were started after the start of a guest: how long the engine took
/// to answer, and how long the rest took.
pub fn settled(run: &Run, engine: Duration, took: Duration, left: Option<String>) -> Settled {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Settled {
        run: run.id.clone(),
        vmid: run.vmid,
        quiesced: run.opened.clone(),
        containers: container_records(run),
        notes: run.notes.clone(),
        lost: Vec::new(),
        engine_ms: ms(engine),
        took_ms: ms(took),
        left,
    }
}

/// The boot clock starts again with each boot.
fn downtime_ms(run: &Run) -> Option<u64> {
    let same_boot = run.job.worker.boot == clock::boot_id();
    run.downtime_ms().filter(|_| same_boot)
}

/// The containers of a run in the form of the journal.
fn container_records(run: &Run) -> Vec<ContainerRecord> {
    let Some(quiesce) = &run.quiesce else { return Vec::new() };
    let record = |step: &Step| {
        let (fate, error) = match &step.fate {
            Fate::Open => (ContainerFate::Open, step.trouble.clone()),
            Fate::Back => (ContainerFate::Back, None),
            Fate::Finished => (ContainerFate::Finished, None),
            Fate::Gone => (ContainerFate::Gone, step.is_removed().then(|| step.why_not_back())),
            Fate::Left(why) => (ContainerFate::Left, Some(why.clone())),
            Fate::Failed(why) => (ContainerFate::Failed, Some(why.clone())),
            Fate::HeldBack(why) => (ContainerFate::HeldBack, Some(why.clone())),
        };
        let action = match quiesce.by {
            By::GuestShutdown => Action::Shutdown,
            By::Stillpoint | By::Note => step.action.into(),
        };
        ContainerRecord {
            name: step.name.clone(),
            id: step.id.clone(),
            stack: step.project.clone(),
            service: step.service.clone(),
            action: action.into(),
            stop_ms: step.stop.ms(),
            start_ms: step.start.ms(),
            fate: fate.into(),
            error,
            not_back: step.is_not_back(),
            way_back: step.way_back.clone().filter(|_| step.is_removed()),
            not_in_backup: step.not_in_backup.clone(),
        }
    };
    quiesce.steps.iter().map(record).collect()
}
