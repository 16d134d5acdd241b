//! Watches, after everything is back, whether it stays so. vzdump does not wait for this.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::bring_back::{BroughtBack, Errand, bring_back};
use super::finish::{finish, recovered, settled};
use super::guard::{an_engine_answers, told_of, way_out};
use super::resume::{look_again, not_here, resume};
use super::revive::left_behind;
use crate::guest::State;
use crate::journal::{Actor, Journal, Record};
use crate::report::log;
use crate::report::not_back::all_back;
use crate::run::{Run, Runs};
use crate::sys::{Root, clock, look};
use crate::vzdump::Vmid;

/// How often to check: a container that has given up is down for at most this long.
pub const LOOK: Duration = Duration::from_secs(1);

/// A process that holds the guest's lock knows more at the moment.
const LOCK_LIMIT: Duration = Duration::from_millis(500);

/// For one check of a handful of containers.
const LOOK_LIMIT: Duration = Duration::from_secs(5);

/// For starting what has given up.
const TRY_LIMIT: Duration = Duration::from_secs(120);

/// If a guest is not back by then, a mail is sent.
const PATIENCE: Duration = Duration::from_secs(120);

const NOT_BACK: &str = "not everything was back after the backup";

/// Checks once whether what this run has started is up. A container that has given up is open again
/// afterwards. A run with nothing left to watch is ended if its backup is over.
pub fn look_once(root: &Root, run: &Run) -> Result<()> {
    let _keeping = look::keep();
    let runs = Runs::of(root);
    let Ok(_lock) = runs.lock(run.vmid, clock::instant() + LOCK_LIMIT) else { return Ok(()) };
    let now = runs.load(run.vmid)?.filter(|now| now.id == run.id && now.is_looked_at());
    let Some(mut run) = now else { return Ok(()) };
    let before = run.clone();
    look_again(root, &mut run, clock::instant() + LOOK_LIMIT);
    let steps = |run: &Run| run.quiesce.as_ref().map(|quiesce| quiesce.steps.clone());
    if steps(&run) == steps(&before) {
        return Ok(());
    }
    if run.journalled.is_done() && !run.is_open() {
        return finish(root, &mut run).map(drop);
    }
    runs.save(&run)?;
    if run.journalled.is_done() && run.is_open() {
        // The backup's record says that it is back.
        let record = recovered(&run, Actor::Guard, NOT_BACK);
        Journal::of(root).append(&Record::Recovered(record))?;
    }
    Ok(())
}

/// Stays with a run whose backup is over, until everything is back and has stayed up, or something
/// has to be done for the guest itself.
pub fn stand_by(root: &Root, vmid: Vmid, id: &str) -> Result<()> {
    let _keeping = look::keep();
    let began = clock::instant();
    let errand = Errand { by: Actor::Guard, reason: NOT_BACK, close: true, run: Some(id) };
    let mut told = Told::default();
    loop {
        let run = match Runs::of(root).load(vmid)? {
            Some(run) if run.id == id && left_behind(root, &run).is_none() => run,
            // It has ended, or this is the next backup's run.
            Some(_) | None => return Ok(()),
        };
        if run.is_looked_at() && !run.is_open() {
            // If this look fails, the next one follows.
            let _ = look_once(root, &run);
        } else if is_silent(root, &run) {
            told.not_yet(
                root,
                vmid,
                "its container engine does not answer".into(),
                clock::since(began),
            );
        } else {
            match bring_back(root, vmid, clock::instant() + TRY_LIMIT, errand) {
                Ok(BroughtBack::Nothing) => {}
                Ok(BroughtBack::All { started, all }) => {
                    told.over(root, vmid, "is back", &all_back(all, started));
                }
                Ok(BroughtBack::NotHere(why)) => {
                    told.over(root, vmid, "is not here any more", &why)
                }
                Ok(BroughtBack::Partly(partly)) => {
                    told_of(root, vmid, NOT_BACK, "after its backup", &partly)?;
                }
                Ok(BroughtBack::NotYet(why)) => told.not_yet(root, vmid, why, clock::since(began)),
                Err(error) => told.not_yet(root, vmid, format!("{error:#}"), clock::since(began)),
            }
        }
        clock::sleep(LOOK);
    }
}

/// Whether the engines of what is not back exist and do not answer. Asked without the guest's lock,
/// which the hook of the next backup may need meanwhile.
fn is_silent(root: &Root, run: &Run) -> bool {
    let is_up =
        matches!(State::of(root, run.vmid), Ok(State::Running(guest)) if !guest.is_frozen());
    run.is_open() && is_up && not_here(root, run).is_none() && !an_engine_answers(root, run)
}

/// What was already reported about a guest that was not back when its backup was over.
#[derive(Default)]
struct Told {
    left: String,
    mailed: bool,
}

impl Told {
    /// Reports once in the system's log, and once in a mail if it takes too long.
    fn not_yet(&mut self, root: &Root, vmid: Vmid, why: String, since: Duration) {
        let message = format!("{NOT_BACK}: {why}");
        if !self.mailed && since >= PATIENCE {
            self.mailed = true;
            let subject = format!("Stillpoint: guest {vmid} is NOT back after its backup");
            log::alarm(root, vmid, &subject, &format!("{message}{}", way_out(root, vmid)));
        } else if why != self.left {
            log::warning(vmid, &message);
        }
        self.left = why;
    }

    /// Sends a mail that says how it ended, if one was sent that it is not back.
    fn over(&mut self, root: &Root, vmid: Vmid, how: &str, words: &str) {
        let message = format!("{NOT_BACK}; {words}");
        if std::mem::take(&mut self.mailed) {
            let subject = format!("Stillpoint: guest {vmid} {how} after its backup");
            return log::alarm(root, vmid, &subject, &message);
        }
        log::notice(vmid, &message);
    }
}

/// As [`stand_by`], for a run that was made from the note in a guest and is already journalled.
/// Ends when a backup of the guest begins, and at `deadline`.
pub fn stand_by_note(root: &Root, mut run: Run, deadline: Instant) -> Result<()> {
    let _keeping = look::keep();
    let runs = Runs::of(root);
    while (run.is_looked_at() || run.is_open()) && clock::instant() < deadline {
        clock::sleep(LOOK);
        let Ok(_lock) = runs.lock(run.vmid, clock::instant() + LOCK_LIMIT) else { continue };
        if !matches!(runs.load(run.vmid), Ok(None)) {
            return Ok(());
        }
        look_again(root, &mut run, clock::instant() + LOOK_LIMIT);
        if !run.is_open() {
            continue;
        }
        let began = clock::instant();
        let left = resume(root, &mut run, began + TRY_LIMIT, Duration::ZERO, Duration::ZERO);
        if left.is_none() {
            let record = settled(&run, Duration::ZERO, clock::since(began), None);
            Journal::of(root).append(&Record::Settled(record))?;
        }
    }
    Ok(())
}
