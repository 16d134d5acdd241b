//! Containers that could not be started, after their run was closed: they are checked, tried again,
//! and reported.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::finish::recovered;
use super::note;
use super::resume::{not_here, resume};
use crate::engine::{Container, Engines, Error, Status};
use crate::guest::{Guest, State};
use crate::journal::{Actor, Journal, Record};
use crate::report::log;
use crate::report::not_back::{Lost, advice};
use crate::run::{By, Failures, Fate, Left, LeftContainer, Quiesced, Run, Runs, Step};
use crate::sys::{Root, clock};
use crate::vzdump::Vmid;

/// A unit of the guest that creates its stack again (`Restart=always`) has done so within this time
/// after the removal.
pub const ANEW: Duration = Duration::from_secs(10);

/// How often to check for it meanwhile.
const LOOK: Duration = Duration::from_millis(500);

/// An engine that does not answer within this time counts as not running.
const PING_LIMIT: Duration = Duration::from_secs(2);

/// For the guest's lock before a check: another check takes less, and a process that starts
/// containers takes longer.
const SIGHT_LOCK_LIMIT: Duration = Duration::from_secs(1);

/// For the lock of a guest that nothing waits for.
const LOCK_LIMIT: Duration = Duration::from_secs(5);

/// Sets aside the containers of a closing run that are not back, and leaves them in the note in the
/// guest, so that the next start of the guest tries them, as does a restore of the next backup.
pub fn set_aside(root: &Root, run: &Run) -> Result<()> {
    if run.quiesce.is_none() {
        return Ok(());
    }
    // A list that cannot be read is replaced.
    let before = Left::load(root, run.vmid).ok();
    let mut left = before.clone().unwrap_or_else(|| Left::none(run.vmid));
    left.take_in(run);
    if before.is_none_or(|before| !before.containers.is_empty() || !left.containers.is_empty()) {
        left.save(root)?;
    }
    leave_note(root, run.vmid, &run.id, &left);
    Ok(())
}

/// A guest that is down keeps its note, which starts nothing that somebody else has started since.
/// What the guest does to its own files is not our concern.
fn leave_note(root: &Root, vmid: Vmid, run: &str, left: &Left) {
    let Ok(State::Running(guest)) = State::of(root, vmid) else { return };
    if guest.is_frozen() {
        return;
    }
    let containers: Vec<_> = left.noted().collect();
    let _ = match containers.is_empty() {
        true => note::remove(run, &guest),
        false => {
            note::replace(&Quiesced { run: run.to_string(), containers, ..left.as_note() }, &guest)
        }
    };
}

/// Checks a guest's list without starting anything, and removes what runs, was removed, or was
/// started by somebody. Returns what is not back. If another process works on the guest, or its
/// engine does not answer, the list stays as it is.
pub fn sight(root: &Root, vmid: Vmid, deadline: Instant) -> Result<Vec<LeftContainer>> {
    if Left::load(root, vmid)?.containers.is_empty() {
        return Ok(Vec::new());
    }
    let Ok(_lock) = Runs::of(root).lock(vmid, deadline.min(clock::instant() + SIGHT_LOCK_LIMIT))
    else {
        return Ok(Left::load(root, vmid)?.containers);
    };
    sight_locked(root, vmid, deadline)
}

/// As [`sight`], for a caller that holds the guest's lock.
pub fn sight_locked(root: &Root, vmid: Vmid, deadline: Instant) -> Result<Vec<LeftContainer>> {
    let left = Left::load(root, vmid)?;
    if let Some(why) = not_here(root, &as_run(&left)) {
        return let_go(root, left, Actor::Somebody, &why).map(|_| Vec::new());
    }
    let Some(engines) = engines_of(root, vmid, deadline).filter(|_| !left.containers.is_empty())
    else {
        return Ok(left.containers);
    };
    let mut run = as_run(&left);
    let wanted = left.containers.iter().any(|left| left.removed);
    let anew = Anew::among(&engines, wanted, deadline);
    let ids = left.ids();
    let mut anew = Anew { known: ids.iter().cloned().collect(), ..anew };
    for step in run.quiesce.iter_mut().flat_map(|quiesce| &mut quiesce.steps) {
        let found = engines.at(&step.engine).and_then(|engine| engine.inspect(&step.id, deadline));
        step.fate = match found {
            Ok(container) => seen(&container, &step.started_at),
            Err(Error::Gone) => match anew.take(&step.name, &step.project, &step.service) {
                Some(_) => Fate::Back,
                None => Fate::Gone,
            },
            Err(_) => Fate::Open,
        };
    }
    take_out(root, left, &run, &ids, (Actor::Somebody, "it was seen running or removed"))
}

/// The new knowledge about a container of the list after inspecting it.
fn seen(container: &Container, started_at: &str) -> Fate {
    match container.status {
        Status::Running => Fate::Back,
        Status::Paused => Fate::Left("somebody else has paused it".to_string()),
        Status::Exited if container.started_at != started_at => {
            Fate::Left("it was started again and has ended since".to_string())
        }
        _ => Fate::Open,
    }
}

/// Tries once more to start what is left of a guest; the caller holds its lock. Returns what is not
/// back.
pub fn try_again(
    root: &Root,
    vmid: Vmid,
    deadline: Instant,
    errand: (Actor, &str),
) -> Result<Vec<LeftContainer>> {
    let left = Left::load(root, vmid)?;
    if left.containers.is_empty() {
        return Ok(Vec::new());
    }
    let mut run = as_run(&left);
    let ids = left.ids();
    // The reason is kept with each container.
    let _ = resume(root, &mut run, deadline, Duration::ZERO, Duration::ZERO);
    take_out(root, left, &run, &ids, errand)
}

/// Updates the list from the results of a run made of it, and journals what is back. `ids`: the ids
/// of the run's containers before successors took their places. Returns what is not back.
pub fn take_out(
    root: &Root,
    mut left: Left,
    run: &Run,
    ids: &[String],
    (by, reason): (Actor, &str),
) -> Result<Vec<LeftContainer>> {
    let steps = run.quiesce.iter().flat_map(|quiesce| &quiesce.steps);
    let steps: HashMap<&String, &Step> = ids.iter().zip(steps).collect();
    let before = std::mem::take(&mut left.containers);
    let mut changed = Vec::new();
    for entry in &before {
        let Some(step) = steps.get(&entry.container.id) else {
            left.containers.push(entry.clone());
            continue;
        };
        let over = match &step.fate {
            Fate::Back | Fate::Finished | Fate::Left(_) | Fate::HeldBack(_) => true,
            // A container that somebody has removed since does not count as missing; one that was
            // removed during the backup does.
            Fate::Gone => !entry.removed,
            Fate::Open | Fate::Failed(_) => false,
        };
        if over {
            changed.push(entry.run.clone());
            continue;
        }
        let why = step.trouble.clone().unwrap_or_else(|| entry.why.clone());
        let untried = entry.untried && step.failures == Failures::None;
        left.containers.push(LeftContainer { why, untried, ..entry.clone() });
    }
    if left.containers == before {
        return Ok(left.containers);
    }
    changed.sort();
    changed.dedup();
    for id in changed {
        let mut of_run = run.clone();
        of_run.id.clone_from(&id);
        if let Some(quiesce) = of_run.quiesce.as_mut() {
            let of_it = before.iter().filter(|entry| entry.run == id);
            let its = of_it.filter_map(|entry| Some((entry, steps.get(&entry.container.id)?)));
            quiesce.steps = its.map(|(entry, step)| outcome(entry, step)).collect();
        }
        Journal::of(root).append(&Record::Recovered(recovered(&of_run, by, reason)))?;
    }
    // A reader of both finds it in at least one of them at any time.
    left.save(root)?;
    leave_note(root, left.vmid, &left.run.clone(), &left);
    Ok(left.containers)
}

/// How a container of the list is journalled: one that somebody has removed since does not count as
/// missing.
fn outcome(entry: &LeftContainer, step: &Step) -> Step {
    let mut step = step.clone();
    if step.fate == Fate::Gone && !entry.removed {
        step.fate = Fate::Left("somebody has removed it since".to_string());
    }
    step
}

/// Empties a guest's list on an admin's request. Returns how many containers it had.
pub fn forget(root: &Root, vmid: Vmid) -> Result<usize> {
    let _lock = Runs::of(root).lock(vmid, clock::instant() + LOCK_LIMIT)?;
    let left = Left::load(root, vmid)?;
    let number = left.containers.len();
    let_go(root, left, Actor::Person, "a person gave it up (resume --forget)").map(|_| number)
}

fn let_go(root: &Root, left: Left, by: Actor, why: &str) -> Result<Vec<LeftContainer>> {
    let mut run = as_run(&left);
    for step in run.quiesce.iter_mut().flat_map(|quiesce| &mut quiesce.steps) {
        step.fate = Fate::Left(why.to_string());
    }
    let ids = left.ids();
    take_out(root, left, &run, &ids, (by, why))
}

/// The list as a run, with no more knowledge than a note has.
fn as_run(left: &Left) -> Run {
    let mut run = note::run_of(left.as_note(), left.vmid, By::Note);
    run.root_volume.clone_from(&left.root_volume);
    run
}

/// Sends one mail about what is not back in this guest. Removed containers are looked for until
/// they had time to come back by themselves. Returns what is not back.
pub fn tell(root: &Root, vmid: Vmid, reason: &str, deadline: Instant) -> Result<Vec<Lost>> {
    let mut left = sight(root, vmid, deadline)?;
    while left.iter().any(|left| left.removed && !left.told && is_young(left))
        && clock::instant() + LOOK < deadline
    {
        clock::sleep(LOOK);
        left = sight(root, vmid, deadline)?;
    }
    let lost: Vec<Lost> = left.iter().map(Lost::from).collect();
    if left.iter().any(|left| !left.told) && mark_told(root, vmid)? {
        let subject = format!("Stillpoint: guest {vmid} is NOT back after its backup");
        log::alarm(root, vmid, &subject, &format!("{reason}. {}", advice(root, vmid, &lost)));
    }
    Ok(lost)
}

/// Whether what was removed may still come back by itself.
fn is_young(left: &LeftContainer) -> bool {
    let since = left.since.parse::<chrono::DateTime<chrono::Utc>>();
    since.is_ok_and(|since| (clock::now() - since).to_std().is_ok_and(|age| age < ANEW))
}

/// Marks what is not back of a guest as reported; returns whether this call has marked something.
pub fn mark_told(root: &Root, vmid: Vmid) -> Result<bool> {
    let _lock = Runs::of(root).lock(vmid, clock::instant() + LOCK_LIMIT)?;
    mark_told_locked(root, vmid)
}

/// As [`mark_told`], for a caller that holds the guest's lock.
pub fn mark_told_locked(root: &Root, vmid: Vmid) -> Result<bool> {
    let mut left = Left::load(root, vmid)?;
    let untold = left.containers.iter().any(|left| !left.told);
    left.containers.iter_mut().for_each(|left| left.told = true);
    if untold {
        left.save(root)?;
    }
    Ok(untold)
}

/// Checks whether somebody has created again what was removed during the backup.
pub fn look_for_removed(root: &Root, run: &mut Run, deadline: Instant) {
    if !run.not_back().any(|step| step.is_removed()) {
        return;
    }
    let Some(engines) = engines_of(root, run.vmid, deadline) else { return };
    let mut anew = Anew::among(&engines, true, deadline);
    let Some(quiesce) = run.quiesce.as_mut() else { return };
    anew.known = quiesce.steps.iter().map(|step| step.id.clone()).collect();
    for step in quiesce.steps.iter_mut().filter(|step| step.is_removed()) {
        if let Some(id) = anew.take(&step.name, &step.project, &step.service) {
            step.id = id;
            step.fate = Fate::Back;
        }
    }
}

/// The guest's engines, as far as they answer.
fn engines_of(root: &Root, vmid: Vmid, deadline: Instant) -> Option<Engines> {
    let guest: Guest = match State::of(root, vmid) {
        Ok(State::Running(guest)) if !guest.is_frozen() => guest,
        _ => return None,
    };
    let limit = deadline.saturating_duration_since(clock::instant()).min(PING_LIMIT);
    Some(Engines::of(&guest).ok()?.answering(limit))
}

/// The running containers that can take the place of a removed one.
struct Anew {
    known: HashSet<String>,
    running: Vec<Container>,
}

impl Anew {
    fn among(engines: &Engines, wanted: bool, deadline: Instant) -> Anew {
        let mut running = Vec::new();
        for engine in engines.reachable().filter(|_| wanted) {
            for id in engine.running(deadline).unwrap_or_default() {
                match engine.inspect(&id, deadline) {
                    Ok(container) if container.status == Status::Running => running.push(container),
                    Ok(_) | Err(Error::Gone) => {}
                    Err(_) => break,
                }
            }
        }
        Anew { known: HashSet::new(), running }
    }

    /// One with the removed one's name, or of its service; each is used once.
    fn take(
        &mut self,
        name: &str,
        project: &Option<String>,
        service: &Option<String>,
    ) -> Option<String> {
        let fits = |it: &Container| {
            let of_service = project.is_some() && service.is_some();
            let same = it.project() == project.as_deref() && it.service() == service.as_deref();
            let one_off = it.label("com.docker.compose.oneoff") == Some("True");
            !self.known.contains(&it.id) && (it.name == name || of_service && same && !one_off)
        };
        let id = self.running.iter().find(|it| fits(it))?.id.clone();
        self.known.insert(id.clone());
        Some(id)
    }
}
