use std::collections::HashSet;
use std::ops::ControlFlow;
use std::thread;
use std::time::{Duration, Instant};

use super::order::{Event, acyclic, in_order, turned_round};
use crate::config::Strategy;
use crate::engine::{Container, Engine, Error, Status};
use crate::guest::{Place, State};
use crate::run::{By, Fate, Run, Runs, Step};
use crate::sys::{Root, clock, failpoint, text};

/// Starts of one container before it is reported as failed, over all who try.
const MOST_FAILURES: u32 = 8;

/// Pauses between rounds of one call; who comes later tries again.
const PAUSES: [Duration; 3] =
    [Duration::from_millis(300), Duration::from_secs(1), Duration::from_secs(3)];

/// How long after a container's own stop timeout the engine may still be at stopping it.
const STOP_MARGIN: Duration = Duration::from_secs(2);

/// An engine that is there but does not answer within this is as good as not up.
const PING_LIMIT: Duration = Duration::from_secs(5);

/// How often something that changes by itself is looked at again.
const LOOK: Duration = Duration::from_millis(50);

/// Brings back what the run says was running; what is back or given up already is not touched again, so it may
/// be called at any time and any number of times. The caller holds the guest's lock.
///
/// Waits at most `engine_wait` for the engine to come up. Returns why not everything is back, if so: the run
/// stays open then for the next caller.
pub fn resume(
    root: &Root,
    run: &mut Run,
    deadline: Instant,
    engine_wait: Duration,
) -> Option<String> {
    if !run.is_open() {
        return None;
    }
    if let Some(why) = not_here(root, run) {
        give_up(run, &why);
        save(root, run);
        return None;
    }
    let engine = match reach(root, run, Instant::now() + engine_wait) {
        Ok(engine) => engine,
        Err(why) => return Some(why),
    };
    if run.proof_due {
        prove(run, &engine, deadline);
        failpoint::reach(root, "proven");
    }
    for round in 0..=PAUSES.len() {
        one_round(root, run, &engine, deadline);
        let Some(pause) = PAUSES.get(round).filter(|_| run.is_open()) else { break };
        if Instant::now() + *pause >= deadline {
            break;
        }
        thread::sleep(*pause);
    }
    let mut steps = run.quiesce.iter().flat_map(|quiesce| &quiesce.steps);
    let open = steps.find(|step| step.fate == Fate::Open)?;
    Some(format!("{} is not back yet", text::printable(&open.name, 80)))
}

/// Why the run's guest is not the one that is here now: gone, moved, or another under the same VMID.
fn not_here(root: &Root, run: &Run) -> Option<String> {
    // A run that never saw a configuration can't tell.
    let root_volume = run.root_volume.as_ref()?;
    match Place::of(root, run.vmid) {
        Ok(Place::Gone) => Some("the guest is gone".to_string()),
        Ok(Place::Elsewhere(node)) => {
            Some(format!("the guest has moved to node {}", text::printable(&node, 63)))
        }
        Ok(Place::Here(config))
            if config.root_volume.as_ref().is_some_and(|now| now != root_volume) =>
        {
            Some("the guest was replaced by another of the same VMID".to_string())
        }
        // Not known is no reason to leave anything down.
        Ok(Place::Here(_)) | Err(_) => None,
    }
}

fn give_up(run: &mut Run, why: &str) {
    for step in run.quiesce.iter_mut().flat_map(|quiesce| &mut quiesce.steps) {
        if step.fate == Fate::Open {
            step.fate = Fate::Left(why.to_string());
        }
    }
}

fn reach(root: &Root, run: &Run, until: Instant) -> Result<Engine, String> {
    loop {
        let why = match State::of(root, run.vmid) {
            Ok(State::Stopped) => return Err("the guest is down".to_string()),
            Ok(State::Running(guest)) if guest.is_frozen() => {
                return Err("the guest is frozen".to_string());
            }
            Ok(State::Running(guest)) => match Engine::of(&guest) {
                Ok(Some(engine)) => match engine.ping(Instant::now() + PING_LIMIT) {
                    Ok(()) => return Ok(engine),
                    Err(error) => format!("its container engine does not answer: {error}"),
                },
                Ok(None) => "its container engine is not up".to_string(),
                Err(error) => error.to_string(),
            },
            Err(error) => format!("{error:#}"),
        };
        if Instant::now() >= until {
            return Err(why);
        }
        thread::sleep(LOOK * 2);
    }
}

fn one_round(root: &Root, run: &mut Run, engine: &Engine, deadline: Instant) {
    let Some(quiesce) = run.quiesce.as_ref() else { return };
    let steps = quiesce.steps.clone();
    let waits_for = start_order(&steps);
    let known: HashSet<String> = steps.iter().map(|step| step.id.clone()).collect();
    let (by, over) = (quiesce.by, quiesce.over);
    let effort = Effort { engine: engine.clone(), by, over, known, steps, deadline };
    in_order(
        &waits_for,
        move |index| effort.bring_back(index),
        |event| {
            if let Event::Done(index, result) = event {
                record(run, index, result);
                failpoint::reach(root, "started");
                save(root, run);
                failpoint::reach(root, "start-confirmed");
            }
            if Instant::now() >= deadline {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        },
    );
}

/// For each step, those that are started before it: what it depends on. Stopping, turned round.
///
/// A plan has no circle, but a note in the guest may: what waits in one would never be started.
pub fn start_order(steps: &[Step]) -> Vec<Vec<usize>> {
    let after: Vec<Vec<usize>> = steps.iter().map(|step| step.after.clone()).collect();
    let mut waits_for = turned_round(&after);
    acyclic(&mut waits_for);
    waits_for
}

/// What bringing back one container came to.
enum Back {
    /// Nothing to do.
    Already,
    /// Started (or unpaused) under this id, in so many ms.
    Started {
        id: String,
        ms: u64,
    },
    /// The end of it.
    Fate(Fate),
    /// It runs, but may yet be stopped by a request that is under way.
    StillStopping,
    Failed(Error),
}

fn record(run: &mut Run, index: usize, result: Back) {
    let Some(quiesce) = run.quiesce.as_mut() else { return };
    let Some(step) = quiesce.steps.get_mut(index) else { return };
    if step.fate != Fate::Open {
        return;
    }
    match result {
        Back::Already => step.fate = Fate::Back,
        Back::Started { id, ms } => {
            step.id = id;
            step.start_ms = Some(ms);
            step.fate = Fate::Back;
            quiesce.resumed_ms = Some(clock::boot_ms());
        }
        Back::Fate(fate) => step.fate = fate,
        Back::StillStopping => {}
        Back::Failed(error) => {
            step.failures = step.failures.saturating_add(1);
            if step.failures >= MOST_FAILURES {
                step.fate = Fate::Failed(error.to_string());
            }
        }
    }
}

struct Effort {
    engine: Engine,
    by: By,
    over: bool,
    known: HashSet<String>,
    steps: Vec<Step>,
    deadline: Instant,
}

impl Effort {
    fn bring_back(&self, index: usize) -> Back {
        let step = &self.steps[index];
        if step.fate != Fate::Open || step.action == Strategy::None && self.by == By::Stillpoint {
            return Back::Already;
        }
        self.try_to(step).unwrap_or_else(Back::Failed)
    }

    fn try_to(&self, step: &Step) -> Result<Back, Error> {
        let may_be_stopped_until =
            Instant::now().checked_add(self.window(step)).unwrap_or(self.deadline);
        loop {
            let container = match self.engine.inspect(&step.id, self.deadline) {
                Ok(container) => container,
                Err(Error::Gone) => match self.successor(step)? {
                    Some(container) => container,
                    None => return Ok(Back::Fate(Fate::Gone)),
                },
                Err(error) => return Err(error),
            };
            match container.status {
                Status::Running if Instant::now() < may_be_stopped_until => {}
                Status::Running | Status::Restarting => return Ok(Back::Already),
                Status::Paused if step.action == Strategy::Pause => {
                    return self.unpause(&container);
                }
                Status::Paused => {
                    return Ok(Back::Fate(Fate::Left("somebody else has paused it".to_string())));
                }
                Status::Exited | Status::Created if self.is_its_own_affair(step, &container) => {
                    let why = "it was started again and has ended since".to_string();
                    return Ok(Back::Fate(Fate::Left(why)));
                }
                Status::Exited | Status::Created => return self.start(&container),
                Status::Removing if Instant::now() < self.deadline => {}
                Status::Removing | Status::Dead | Status::Other => {
                    return Err(Error::Failed(format!("it is {:?}", container.status)));
                }
            }
            if Instant::now() >= self.deadline {
                return Ok(Back::StillStopping);
            }
            thread::sleep(LOOK);
        }
    }

    /// How long a container that runs may yet be stopped by a request of ours whose answer nobody saw.
    fn window(&self, step: &Step) -> Duration {
        let unanswered = step.stop_ms.is_none() && (step.requested || !self.over);
        match (self.by, step.action) {
            (By::Stillpoint, Strategy::Stop) if unanswered => {
                Duration::from_secs(step.stop_timeout).saturating_add(STOP_MARGIN)
            }
            (By::Stillpoint, Strategy::Pause) if unanswered => STOP_MARGIN,
            _ => Duration::ZERO,
        }
    }

    /// Started since we looked, by whomever, and ended: without an error, or long after the backup, that is not
    /// ours to change. One that has just failed is started again.
    fn is_its_own_affair(&self, step: &Step, container: &Container) -> bool {
        container.id == step.id
            && container.started_at != step.started_at
            && (container.exit_code == 0 || self.by == By::Note)
    }

    fn start(&self, container: &Container) -> Result<Back, Error> {
        let began = Instant::now();
        self.engine.start(&container.id, self.deadline)?;
        Ok(started(container, began))
    }

    fn unpause(&self, container: &Container) -> Result<Back, Error> {
        let began = Instant::now();
        self.engine.unpause(&container.id, self.deadline)?;
        Ok(started(container, began))
    }

    /// The container that stands in a removed one's place: of the same compose service, and none of those we
    /// know already.
    fn successor(&self, step: &Step) -> Result<Option<Container>, Error> {
        let (Some(project), Some(service)) = (&step.project, &step.service) else {
            return Ok(None);
        };
        let mut best: Option<Container> = None;
        for id in self.engine.of_service(project, service, self.deadline)? {
            if self.known.contains(&id) {
                continue;
            }
            let container = match self.engine.inspect(&id, self.deadline) {
                Err(Error::Gone) => continue,
                other => other?,
            };
            let rank = |container: &Container| {
                (container.name == step.name, container.status == Status::Running)
            };
            if best.as_ref().is_none_or(|best| rank(&container) > rank(best)) {
                best = Some(container);
            }
        }
        Ok(best)
    }
}

fn started(container: &Container, began: Instant) -> Back {
    let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    Back::Started { id: container.id.clone(), ms }
}

/// Looks, before anything is brought back, whether what was brought to rest still is: a grade is proven, not
/// assumed. What is not goes into the run's reasons.
fn prove(run: &mut Run, engine: &Engine, deadline: Instant) {
    let open = run.quiesce.iter().flat_map(|quiesce| &quiesce.steps);
    let reasons: Vec<String> = open
        .filter(|step| step.fate == Fate::Open)
        .filter_map(|step| moved(engine, step, deadline))
        .collect();
    for reason in reasons {
        run.disturb(reason);
    }
    run.proof_due = false;
}

fn moved(engine: &Engine, step: &Step, deadline: Instant) -> Option<String> {
    let name = text::printable(&step.name, 80);
    let at_rest = |container: &Container| match step.action {
        Strategy::None => true,
        Strategy::Pause => container.status == Status::Paused,
        Strategy::Stop => {
            container.started_at == step.started_at
                && matches!(container.status, Status::Exited | Status::Created | Status::Dead)
        }
    };
    match engine.inspect(&step.id, deadline) {
        Ok(container) if at_rest(&container) => None,
        Ok(_) => Some(format!("{name} was started by somebody else while its data was copied")),
        Err(Error::Gone) => Some(format!("{name} was removed while its data was copied")),
        Err(error) => Some(format!("it can't be proven that {name} stayed at rest: {error}")),
    }
}

/// Looks at what was started whether it still runs, and opens it again where it failed: a program that finds
/// its database not ready yet may give up after a second.
pub fn look_again(root: &Root, run: &mut Run, deadline: Instant) {
    let started = |step: &&mut Step| step.fate == Fate::Back && step.start_ms.is_some();
    let Some(quiesce) = run.quiesce.as_ref() else { return };
    if !quiesce.steps.iter().any(|step| step.fate == Fate::Back && step.start_ms.is_some()) {
        return;
    }
    // Without an answer there is nothing to learn; what was confirmed stays confirmed.
    let Ok(engine) = reach(root, run, Instant::now()) else { return };
    let Some(quiesce) = run.quiesce.as_mut() else { return };
    for step in quiesce.steps.iter_mut().filter(started) {
        let Ok(container) = engine.inspect(&step.id, deadline) else { continue };
        if container.status == Status::Exited && container.exit_code != 0 {
            step.failures = step.failures.saturating_add(1);
            step.fate = match step.failures {
                MOST_FAILURES.. => Fate::Failed(format!("it ends with {}", container.exit_code)),
                _ => Fate::Open,
            };
        }
    }
}

/// A disk that is full is no reason to leave anything down: the run is then merely older than it should be. What
/// was read from a note in the guest is no run of this node's.
fn save(root: &Root, run: &mut Run) {
    if run.quiesce.as_ref().is_some_and(|quiesce| quiesce.by == By::Note) {
        return;
    }
    if let Err(error) = Runs::of(root).save(run) {
        run.note(format!("{error:#}"));
    }
}
