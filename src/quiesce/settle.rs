use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::bring_back::{BroughtBack, Errand, bring_back_locked};
use super::finish::{settled, why_over};
use super::guard::watch;
use super::left::{mark_told_locked, set_aside, take_out};
use super::look_out::stand_by_note;
use super::lost::lost;
use super::note::{self, Found};
use super::resume::{await_engines, look_again, note_unhealthy, resume};
use super::revive::still_locked;
use crate::guest::State;
use crate::journal::{
    Action, Actor, ContainerFate, ContainerRecord, Journal, Record, Settled, Word,
};
use crate::report::lines::say;
use crate::report::not_back::{Partly, all_back};
use crate::report::{log, mail};
use crate::run::{By, Fate, Left, QUIESCED_DIRECTORY, QUIESCED_FILE, Quiesced, Run, Runs};
use crate::sys::text::{count, printable, seconds};
use crate::sys::{Root, clock, failpoint};
use crate::vzdump::Vmid;

/// How long the engines of a guest that has just started may take to answer.
const ENGINE_WAIT: Duration = Duration::from_secs(300);

/// For all its containers, from then on.
const LIMIT: Duration = Duration::from_secs(600);

/// After the start of a guest, starts what ran when it was stopped for a backup: the guest may be
/// restored from that backup, started on another node, or started late after a power cut.
///
/// The note may be years old. A container is started only if it does not run and nobody has started
/// it since. What does not start is journalled and reported in the system's log and by mail. This
/// may be called any number of times for one start, also at once.
pub fn settle(root: &Root, vmid: Vmid) -> Result<BroughtBack> {
    let runs = Runs::of(root);
    // Most guests that start have neither a run nor a note: nothing is waited for.
    let (mut wanted, since) = match runs.load(vmid) {
        Ok(None) => match note_in(root, vmid)? {
            Note::Here(note) => {
                let run = note::run_of(*note, vmid, By::Note);
                (run.engines_of_open(), run.opened)
            }
            Note::Missing => return Ok(BroughtBack::Nothing),
            Note::Unreachable => return Ok(not_running()),
        },
        Ok(Some(run)) => (run.engines_of_open(), run.opened),
        // For a damaged run the first engine is used.
        Err(_) => (BTreeSet::from([String::new()]), String::new()),
    };
    let began = clock::instant();
    let until = began + ENGINE_WAIT;
    // Waits without the lock, which others need for their own work.
    let mut early = None;
    loop {
        let late = await_engines(root, vmid, &wanted, &since, until);
        if late.is_empty() || late.len() == wanted.len() {
            break;
        }
        // Containers of a running engine do not wait for another engine: a user's own may start
        // only when the user logs in.
        early = begin(root, vmid, early)?;
        wanted = late;
    }
    let waited = clock::since(began);
    let deadline = clock::instant() + LIMIT;
    let lock = runs.lock(vmid, deadline)?;
    match runs.load(vmid) {
        Ok(None) => {}
        // vzdump has started its guest again and continues itself.
        Ok(Some(run)) if run.job.worker.alive() && !run.only_looks() => {
            return Ok(BroughtBack::NotYet("a backup of it is under way".to_string()));
        }
        // A run of this node knows more than the note does.
        Ok(Some(run)) => {
            let brought_back = end_run(root, &run, deadline)?;
            // What is not back yet, or is still looked at, has a guard.
            if matches!(runs.load(vmid), Ok(Some(run)) if run.only_looks() || run.is_open()) {
                watch(root, vmid)?;
            }
            return Ok(brought_back);
        }
        Err(_) => return bring_back_locked(root, vmid, deadline, errand("the guest was started")),
    }
    match note_in(root, vmid)? {
        Note::Here(note) => {
            let run = early.filter(|run| run.id == note.run);
            let mut run = run.unwrap_or_else(|| note::run_of(*note, vmid, By::Note));
            let brought_back = bring_up(root, vmid, &mut run, waited, deadline)?;
            drop(lock);
            if matches!(brought_back, BroughtBack::All { .. } | BroughtBack::Partly(_)) {
                stand_by_note(root, run, deadline)?;
            }
            Ok(brought_back)
        }
        // The process that held the lock has done it.
        Note::Missing => Ok(BroughtBack::Nothing),
        Note::Unreachable => Ok(not_running()),
    }
}

fn errand(reason: &str) -> Errand<'_> {
    Errand { by: Actor::Settle, reason, close: true, run: None }
}

/// Starts what a run of this node left stopped. An interrupted one is reported by mail, as
/// `recover` does if it comes first.
fn end_run(root: &Root, run: &Run, deadline: Instant) -> Result<BroughtBack> {
    let why = why_over(run);
    let brought_back = bring_back_locked(root, run.vmid, deadline, errand(why))?;
    if let BroughtBack::All { started, all } = brought_back
        && !run.journalled.is_done()
    {
        let subject = format!("Stillpoint: guest {} is back after an interrupted backup", run.vmid);
        let (back, locked) = (all_back(all, started), still_locked(root, run.vmid));
        log::alarm(root, run.vmid, &subject, &format!("{why}; {back}{locked}"));
    }
    Ok(brought_back)
}

/// Starts the containers of the engines that already answer, while others are still waited for.
/// Returns the run with the results, if the note is the only source.
fn begin(root: &Root, vmid: Vmid, early: Option<Run>) -> Result<Option<Run>> {
    let runs = Runs::of(root);
    let deadline = clock::instant() + LIMIT;
    let _lock = runs.lock(vmid, deadline)?;
    match runs.load(vmid) {
        Ok(None) => {}
        Ok(Some(run)) if run.job.worker.alive() => return Ok(None),
        Ok(Some(run)) => {
            end_run(root, &run, deadline)?;
            return Ok(None);
        }
        Err(_) => {
            bring_back_locked(root, vmid, deadline, errand("the guest was started"))?;
            return Ok(None);
        }
    }
    let Note::Here(note) = note_in(root, vmid)? else { return Ok(None) };
    let run = early.filter(|run| run.id == note.run);
    let mut run = run.unwrap_or_else(|| note::run_of(*note, vmid, By::Note));
    // What is left is tried again, and reported then.
    let _ = resume(root, &mut run, deadline, Duration::ZERO, LIMIT);
    Ok(Some(run))
}

enum Note {
    Here(Box<Quiesced>),
    Missing,
    Unreachable,
}

fn note_in(root: &Root, vmid: Vmid) -> Result<Note> {
    let State::Running(guest) = State::of(root, vmid)? else { return Ok(Note::Unreachable) };
    Ok(match note::find(&guest)? {
        Found::Nothing => Note::Missing,
        Found::Note(note) => Note::Here(Box::new(note)),
        Found::Unusable(why) => {
            let message = format!(
                "what was running in it when it was backed up is not started: \
                 {QUIESCED_DIRECTORY}/{QUIESCED_FILE} in the guest can't be used: {}",
                printable(&why, 300)
            );
            log::warning(vmid, &message);
            bail!(message);
        }
    })
}

fn not_running() -> BroughtBack {
    BroughtBack::NotYet("it is not running".to_string())
}

/// The ids of its containers, before a successor takes a place.
fn ids_of(run: &Run) -> Vec<String> {
    let steps = run.quiesce.iter().flat_map(|quiesce| &quiesce.steps);
    steps.map(|step| step.id.clone()).collect()
}

fn bring_up(
    root: &Root,
    vmid: Vmid,
    run: &mut Run,
    waited: Duration,
    deadline: Instant,
) -> Result<BroughtBack> {
    let began = clock::instant();
    let ids = ids_of(run);
    let mut left = resume(root, run, deadline, Duration::ZERO, LIMIT);
    if left.is_none() {
        look_again(root, run, deadline);
        left = resume(root, run, deadline, Duration::ZERO, LIMIT);
    }
    note_unhealthy(root, run, deadline);
    // Somebody stopped it meanwhile: that is no failure, and its next start finds the note.
    if !State::of(root, vmid)?.is_running() {
        return Ok(not_running());
    }
    let record = Settled {
        lost: lost(root, run),
        ..settled(run, waited, clock::since(began), left.clone())
    };
    tell(root, &record, &run.reads);
    failpoint::reach(root, "settled");
    // After a failed journal write (a full disk), the next start must still not repeat everything.
    let journalled = Journal::of(root).append(&Record::Settled(record));
    if let Some(why) = left {
        // The note stays for the next start.
        return journalled.map(|()| BroughtBack::NotYet(why));
    }
    take_out(root, Left::load(root, vmid)?, run, &ids, (Actor::Settle, "the guest was started"))?;
    set_aside(root, run)?;
    mark_told_locked(root, vmid)?;
    if let Some(partly) = Partly::of(run) {
        return journalled.map(|()| BroughtBack::Partly(partly));
    }
    let held_back = run.fates().iter().filter(|fate| matches!(fate, Fate::HeldBack(_))).count();
    let (started, all) = (run.started(), run.fates().len() - held_back);
    journalled.map(|()| BroughtBack::All { started, all })
}

/// Nobody watches when a guest starts, so what did not start is reported by log and mail. What is
/// only read is named.
fn tell(root: &Root, record: &Settled, reads: &[String]) {
    let started = record.containers.iter().filter(|container| container.start_ms.is_some()).count();
    let complaints = complaints(record, reads);
    if complaints.is_empty() {
        let mut words = format!(
            "{} that ran when it was backed up {} started in {}",
            count(started, "container"),
            if started == 1 { "was" } else { "were" },
            seconds(record.took_ms)
        );
        reads.iter().take(20).for_each(|reads| words.push_str(&format!("; {reads}")));
        return log::notice(record.vmid, &words);
    }
    let message = format!("not everything that ran when it was backed up is up: {complaints}");
    // An admin who ran the command reads it here; for a unit, the system's log has it.
    say(&format!("guest {}: {message}", record.vmid));
    log::warning(record.vmid, &message);
    let subject = format!("Stillpoint: guest {} did not come up as it was", record.vmid);
    if let Err(error) = mail::about(root, record.vmid, &subject, &message) {
        log::warning(record.vmid, &format!("{error:#}"));
    }
}

/// What did not start, and why; empty if everything did. A note in `reads` is no complaint.
fn complaints(record: &Settled, reads: &[String]) -> String {
    let failed = |container: &ContainerRecord| match container.fate.known()? {
        ContainerFate::Failed => Some(format!(
            "{} could not be started: {}",
            printable(&container.name, 80),
            printable(container.error.as_deref().unwrap_or_default(), 300)
        )),
        ContainerFate::HeldBack => Some(format!(
            "{} is not started: {}",
            printable(&container.name, 80),
            printable(container.error.as_deref().unwrap_or_default(), 1000)
        )),
        // A container that was only paused was run with --rm: its engine removes it when it finds
        // it dead.
        ContainerFate::Gone if container.action == Word::Known(Action::Stop) => {
            Some(format!("{} is no longer there", printable(&container.name, 80)))
        }
        _ => None,
    };
    let mut complaints: Vec<String> = record.containers.iter().filter_map(failed).collect();
    complaints.truncate(20);
    complaints.extend(record.lost.iter().cloned());
    let wrong = record.notes.iter().filter(|note| !reads.contains(note));
    complaints.extend(wrong.take(20).cloned());
    complaints.extend(record.left.clone());
    complaints.join("; ")
}
