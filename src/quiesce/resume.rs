use std::collections::HashSet;
use std::ops::ControlFlow;
use std::thread;
use std::time::{Duration, Instant};

use super::order::{Event, in_order, turned_round};
use crate::config::Strategy;
use crate::engine::{Container, Engine, Error, Status};
use crate::guest::{Place, State};
use crate::run::{By, Fate, Run, Runs, Step};
use crate::sys::{Root, clock, failpoint, text};
use crate::vzdump::Vmid;

/// A container that cannot start is reported as failed after so many tries, over all who try, and so long: an
/// engine that is being restarted refuses everything for a while.
const MOST_FAILURES: u32 = 6;
const FAILING_FOR_MS: u64 = 60_000;

/// A program that ends within this after its start has failed to come up; one that ends later was up.
const COMING_UP: Duration = Duration::from_secs(10);

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
    let engine = match reach(root, run.vmid, Instant::now() + engine_wait) {
        Ok(engine) => engine,
        Err(why) => return Some(why),
    };
    if let Some(quiesce) = run.quiesce.as_mut() {
        quiesce.requests_ended_ms.get_or_insert_with(clock::boot_ms);
    }
    if run.proof_due {
        prove(run, &engine, deadline);
        failpoint::reach(root, "proven");
    }
    let mut pauses = PAUSES.iter();
    while run.is_open() {
        let pause = match one_round(root, run, &engine, deadline) {
            Round::StillStopping => Some(&PAUSES[0]),
            Round::Over => pauses.next(),
        };
        let Some(pause) =
            pause.filter(|pause| run.is_open() && Instant::now() + **pause < deadline)
        else {
            break;
        };
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

/// Waits until the guest's engine answers, or is known not to.
pub fn await_engine(root: &Root, vmid: Vmid, until: Instant) {
    // What stood in the way is found again by whoever asks the engine for something.
    let _ = reach(root, vmid, until);
}

fn reach(root: &Root, vmid: Vmid, until: Instant) -> Result<Engine, String> {
    loop {
        let why = match State::of(root, vmid) {
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

/// What a round of bringing back came to.
#[derive(PartialEq)]
enum Round {
    /// Something runs that may yet be stopped by a request that is under way.
    StillStopping,
    Over,
}

fn one_round(root: &Root, run: &mut Run, engine: &Engine, deadline: Instant) -> Round {
    let Some(quiesce) = run.quiesce.as_ref() else { return Round::Over };
    let steps = quiesce.steps.clone();
    // What a container depends on is started before it: stopping, turned round.
    let after: Vec<Vec<usize>> = steps.iter().map(|step| step.after.clone()).collect();
    let known: HashSet<String> = steps.iter().map(|step| step.id.clone()).collect();
    let (by, over) = (quiesce.by, quiesce.over);
    let since = quiesce.requests_ended_ms.unwrap_or(0);
    let engine = engine.clone();
    let effort = Effort { engine, by, over, since, known, steps, deadline };
    let (mut came_to, mut news) = (Round::Over, false);
    in_order(
        &turned_round(&after),
        move |index| effort.bring_back(index),
        |event| {
            match event {
                Event::Done(index, result) => {
                    match result {
                        Back::StillStopping => came_to = Round::StillStopping,
                        _ => news |= record(run, index, result),
                    }
                    failpoint::reach(root, "started");
                }
                Event::WriteDown => {
                    if std::mem::take(&mut news) {
                        save(root, run);
                    }
                    failpoint::reach(root, "start-confirmed");
                }
                Event::Begins(_) | Event::Look => {}
            }
            if Instant::now() >= deadline {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        },
    );
    came_to
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
    /// It runs, but may yet be stopped by a request that is under way. What depends on it does not wait for that.
    StillStopping,
    Failed(Error),
}

/// Returns whether there is something new to write down.
fn record(run: &mut Run, index: usize, result: Back) -> bool {
    let Some(quiesce) = run.quiesce.as_mut() else { return false };
    let Some(step) = quiesce.steps.get_mut(index) else { return false };
    if step.fate != Fate::Open {
        return false;
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
        Back::StillStopping => return false,
        Back::Failed(Error::Refused(_, why)) => fail(step, why),
        // No answer says nothing about the container.
        Back::Failed(_) => return false,
    }
    true
}

fn fail(step: &mut Step, why: String) {
    let now = clock::boot_ms();
    step.failures += 1;
    let since = *step.failing_since_ms.get_or_insert(now);
    // A boot clock that has begun anew counts anew.
    step.failing_since_ms = Some(since.min(now));
    let long = now.saturating_sub(since) >= FAILING_FOR_MS;
    step.fate = if step.failures >= MOST_FAILURES && long { Fate::Failed(why) } else { Fate::Open };
}

struct Effort {
    engine: Engine,
    by: By,
    over: bool,
    /// Since when nothing more is requested, on the boot clock in ms.
    since: u64,
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
        let may_be_stopped_until = self.window(step);
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
                Status::Running if clock::boot_ms() < may_be_stopped_until => {
                    return Ok(Back::StillStopping);
                }
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
                    return Err(Error::Refused(409, format!("it is {:?}", container.status)));
                }
            }
            thread::sleep(LOOK);
        }
    }

    /// Until when (boot clock, ms) a container that runs may yet be stopped by a request of ours whose answer nobody
    /// saw.
    fn window(&self, step: &Step) -> u64 {
        let unanswered = step.stop_ms.is_none() && (step.requested || !self.over);
        let limit = match (self.by, step.action) {
            (By::Stillpoint, Strategy::Stop) if unanswered => {
                Duration::from_secs(step.stop_timeout) + STOP_MARGIN
            }
            (By::Stillpoint, Strategy::Pause) if unanswered => STOP_MARGIN,
            _ => return 0,
        };
        self.since.saturating_add(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX))
    }

    /// Started since we looked, by whomever, and ended: without an error, or long after the backup, that is not
    /// ours to change. One that has just failed is started again.
    fn is_its_own_affair(&self, step: &Step, container: &Container) -> bool {
        container.id == step.id
            && container.started_at != step.started_at
            && (self.by == By::Note || !failed_to_come_up(container))
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
    let steps: Vec<Step> = run.quiesce.iter().flat_map(|quiesce| quiesce.steps.clone()).collect();
    for step in steps.iter().filter(|step| step.fate == Fate::Open) {
        if let Some(reason) = moved(engine, step, deadline) {
            run.disturb(reason);
        }
    }
    match newcomers(&steps, engine, deadline) {
        Ok(names) => {
            for name in names {
                run.disturb(format!("{name} was started while the data was copied"));
            }
        }
        Err(error) => run.disturb(format!("it can't be proven that nothing was started: {error}")),
    }
    let killed = |step: &&Step| {
        step.action == Strategy::Stop
            && step.stop_ms.is_some_and(|ms| ms >= step.stop_timeout.saturating_mul(1000))
    };
    for step in steps.iter().filter(killed) {
        let name = text::printable(&step.name, 80);
        run.note(format!("{name} did not stop by itself within its {} s", step.stop_timeout));
    }
    run.proof_due = false;
}

/// The names of containers that run and that the plan does not know.
fn newcomers(steps: &[Step], engine: &Engine, deadline: Instant) -> Result<Vec<String>, Error> {
    let known: HashSet<&str> = steps.iter().map(|step| step.id.as_str()).collect();
    let mut names = Vec::new();
    for id in engine.running(deadline)? {
        if known.contains(id.as_str()) {
            continue;
        }
        match engine.inspect(&id, deadline) {
            Ok(container) if container.status == Status::Running => {
                names.push(text::printable(&container.name, 80));
            }
            Ok(_) | Err(Error::Gone) => {}
            Err(error) => return Err(error),
        }
    }
    names.truncate(20);
    Ok(names)
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

/// Looks at what was started whether it came up, and opens it again where it did not: a program that finds its
/// database not ready yet may give up after a second. One that was up and has ended since has ended for a reason
/// of its own.
pub fn look_again(root: &Root, run: &mut Run, deadline: Instant) {
    let started = |step: &Step| step.fate == Fate::Back && step.start_ms.is_some();
    let Some(quiesce) = run.quiesce.as_mut() else { return };
    if !quiesce.steps.iter().any(started) {
        return;
    }
    // Without an answer there is nothing to learn; what was confirmed stays confirmed.
    let Ok(engine) = reach(root, run.vmid, Instant::now()) else { return };
    for step in quiesce.steps.iter_mut().filter(|step| started(step)) {
        let Ok(container) = engine.inspect(&step.id, deadline) else { continue };
        if container.status == Status::Exited && failed_to_come_up(&container) {
            fail(step, format!("it ends with {} right after its start", container.exit_code));
        }
    }
}

fn failed_to_come_up(container: &Container) -> bool {
    container.exit_code != 0 && container.ran_for().is_some_and(|time| time < COMING_UP)
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
