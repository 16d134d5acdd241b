use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use chrono::{DateTime, TimeDelta, Utc};

use super::conditions::{self, Checks};
use super::effort::{Back, Effort, Said};
use super::free::{Refused, free};
use super::order::{Event, in_order};
use super::prove::prove;
use super::shared::Shared;
use super::start_order::StartOrder;
use super::stay_up;
use super::trial;
use crate::engine::{Container, Engines, Error, Health};
use crate::guest::State;
use crate::pve::Place;
use crate::report::not_back::still_open;
use crate::run::{By, Fate, Proof, Run, Runs, Step};
use crate::sys::look::Watched;
use crate::sys::{Root, bounded, clock, failpoint, text};
use crate::vzdump::Vmid;

/// A container that cannot start is reported as failed after this many attempts, by whatever
/// process, and at least this much time: an engine that is restarting refuses everything for a
/// while.
const MOST_FAILURES: u32 = 6;
const FAILING_FOR_MS: u64 = 60_000;

/// Pauses between the rounds of one call; later callers try again.
const PAUSES: [Duration; 3] =
    [Duration::from_millis(300), Duration::from_secs(1), Duration::from_secs(3)];

/// How long Docker may take to start by itself in a guest that has just started.
const WAKE_AFTER: TimeDelta = TimeDelta::seconds(30);

/// How long one call waits for a requested shutdown of the guest; the next caller checks it too.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(3);

/// An engine that does not answer within this time counts as not running.
const PING_LIMIT: Duration = Duration::from_secs(5);

/// How often to check a guest without an answering engine. Each check asks its monitor, so a slow
/// one is checked less often.
const LOOK: Duration = Duration::from_millis(100);
const LATER_LOOK: Duration = Duration::from_millis(500);
const LATER: Duration = Duration::from_secs(15);

/// For reading the guest's configuration: microseconds, unless pmxcfs hangs.
const CLUSTER_LIMIT: Duration = Duration::from_secs(5);

/// Starts what the run says was running. What is back, or given up, is not touched again, so this
/// may be called at any time and any number of times. The caller holds the guest's lock.
///
/// Waits at most `engine_wait` for the engines; containers of an engine that answers do not wait
/// for another. Waits at most `condition_wait` for the conditions of containers that may not start
/// at once. Returns why not everything is back, if so: then the run stays open for the next caller.
pub fn resume(
    root: &Root,
    run: &mut Run,
    deadline: Instant,
    engine_wait: Duration,
    condition_wait: Duration,
) -> Option<String> {
    if !run.is_open() {
        return None;
    }
    if let Some(why) = not_here(root, run) {
        give_up(run, &why);
        save(root, run);
        return None;
    }
    let until = clock::instant() + engine_wait;
    let mut engines =
        match reach(root, run.vmid, &run.engines_of_open(), &run.opened, until, deadline) {
            Ok(engines) => engines,
            Err(why) => return Some(why),
        };
    run.begin_resuming(clock::boot_ms());
    if run.proof == Proof::Due {
        prove(run, &engines, deadline);
        failpoint::reach(root, "proven");
    }
    let before: Vec<Step> = run.quiesce.iter().flat_map(|quiesce| quiesce.steps.clone()).collect();
    loop {
        rounds(root, run, &engines, deadline, condition_wait);
        let missing: BTreeSet<String> = run
            .engines_of_open()
            .into_iter()
            .filter(|engine| engines.at(engine).is_err())
            .collect();
        if missing.is_empty() || clock::instant() >= deadline {
            break;
        }
        match reach(root, run.vmid, &missing, &run.opened, until, deadline) {
            Ok(more) => engines = more,
            Err(_) => break,
        }
    }
    trial::learn(root, run, &before, &engines, deadline);
    for step in run.quiesce.iter_mut().flat_map(|quiesce| &mut quiesce.steps) {
        if let (Fate::Open, Err(error)) = (&step.fate, engines.at(&step.engine)) {
            step.trouble = Some(error.to_string());
        }
    }
    still_open(run)
}

/// The result of one round.
#[derive(Default)]
struct Round {
    failed: bool,
    /// It may change without our doing.
    unknown: bool,
    waits: bool,
    taken: Vec<(usize, Box<Container>, String)>,
}

/// Tries everything that is not back, of the engines that answer, until it is back or a pause would
/// not help.
fn rounds(
    root: &Root,
    run: &mut Run,
    engines: &Engines,
    deadline: Instant,
    condition_wait: Duration,
) {
    let shared = shared_of(root, run).map(Arc::new);
    let mut pauses = PAUSES.iter();
    let patience = match run.quiesce.as_ref().map(|quiesce| quiesce.by) {
        Some(By::GuestShutdown) => deadline.min(clock::instant() + SHUTDOWN_PATIENCE),
        _ => deadline,
    };
    let conditions_until = clock::instant() + condition_wait;
    let mut looked: Option<Instant> = None;
    loop {
        let due = looked.is_none_or(|looked| clock::since(looked) >= conditions::LOOK);
        if due {
            looked = Some(clock::instant());
        }
        let mut round = one_round(root, run, engines, shared.as_ref(), deadline, due);
        let mut room = false;
        for (index, container, why) in std::mem::take(&mut round.taken) {
            let refused = Refused { index, container: &container, why };
            room |= free(root, run, engines, refused, deadline);
        }
        if room && clock::instant() < deadline {
            continue;
        }
        let now = clock::instant();
        let waits = round.waits && now < conditions_until;
        let pause = match (round.failed, round.unknown && now < patience) {
            (true, _) => pauses.next().or(waits.then_some(&conditions::LOOK)),
            (false, true) => Some(&LOOK),
            (false, false) => waits.then_some(&conditions::LOOK),
        };
        let open = run.engines_of_open().iter().any(|engine| engines.at(engine).is_ok());
        match pause {
            Some(pause) if open && clock::instant() + *pause < deadline => clock::sleep(*pause),
            _ => break,
        }
        if Runs::of(root).is_wanted(run.vmid) {
            break;
        }
    }
}

/// What the guest shares with others, if its containers are started from the note in it and it may
/// be a copy.
fn shared_of(root: &Root, run: &Run) -> Option<Shared> {
    run.quiesce.as_ref().filter(|quiesce| quiesce.by == By::Note)?;
    let State::Running(guest) = State::of(root, run.vmid).ok()? else { return None };
    Shared::of(root, run.vmid, run.noted, Some(&guest))
}

/// Why the guest of the run is no longer this one: gone, moved, or replaced under the same VMID. If
/// `/etc/pve` does not answer, it is not waited for, because the guest runs without it.
pub fn not_here(root: &Root, run: &Run) -> Option<String> {
    // A run without a recorded root volume cannot be compared.
    let root_volume = run.root_volume.as_ref()?;
    let why = || why_not_here(Place::of(root, run.vmid), root_volume);
    bounded::within(&Watched::cluster(root), CLUSTER_LIMIT, why).ok().flatten()
}

fn why_not_here(place: Result<Place>, root_volume: &str) -> Option<String> {
    match place {
        Ok(Place::Gone) => Some("the guest is gone".to_string()),
        Ok(Place::Elsewhere(node)) => {
            Some(format!("the guest has moved to node {}", text::printable(&node, 63)))
        }
        Ok(Place::Here(config))
            if config.root_volume.as_ref().is_some_and(|now| now != root_volume) =>
        {
            Some("the guest was replaced by another of the same VMID".to_string())
        }
        // If it is unknown, the containers are still started.
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

/// Waits until one of these engines of the guest answers, or certainly will not. Returns those that
/// do not answer.
pub fn await_engines(
    root: &Root,
    vmid: Vmid,
    wanted: &BTreeSet<String>,
    since: &str,
    until: Instant,
) -> BTreeSet<String> {
    // The error comes up again when an engine is asked for something.
    let engines = reach(root, vmid, wanted, since, until, until + PING_LIMIT).unwrap_or_default();
    wanted.iter().filter(|engine| engines.at(engine).is_err()).cloned().collect()
}

/// The guest's engines, as soon as one of the wanted ones answers. They ran at `since` (RFC 3339).
/// No engine is waited for beyond `until`, and no answer beyond `deadline`.
fn reach(
    root: &Root,
    vmid: Vmid,
    wanted: &BTreeSet<String>,
    since: &str,
    until: Instant,
    deadline: Instant,
) -> Result<Engines, String> {
    let began = clock::instant();
    loop {
        let why = match State::of(root, vmid) {
            Ok(State::Stopped) => return Err("the guest is down".to_string()),
            Ok(State::Running(guest)) if guest.is_frozen() => {
                return Err("the guest is frozen".to_string());
            }
            Ok(State::Running(guest)) => match Engines::of(&guest) {
                Ok(engines) => {
                    let docker = may_wake(guest.started(), since, clock::now());
                    match answering(engines.woken(wanted, docker), wanted, deadline) {
                        Ok(engines) => return Ok(engines),
                        Err(why) => why,
                    }
                }
                Err(error) => error.to_string(),
            },
            Err(error) => format!("{error:#}"),
        };
        if clock::instant() >= until {
            return Err(why);
        }
        clock::sleep(if clock::since(began) < LATER { LOOK } else { LATER_LOOK });
    }
}

/// Whether Docker may be started by connecting to it. It is, if the guest was restarted since it
/// ran with containers: a guest that starts Docker only on a connection (docker.socket without
/// docker.service) would wait for ever. If the guest was not restarted, somebody has stopped Docker
/// on purpose.
fn may_wake(started: Option<DateTime<Utc>>, since: &str, now: DateTime<Utc>) -> bool {
    let since = DateTime::parse_from_rfc3339(since).ok();
    let (Some(started), Some(since)) = (started, since) else { return false };
    started > since && now - started >= WAKE_AFTER
}

/// The engines that answer, if a wanted one is among them; else why none of them does.
fn answering(
    engines: Engines,
    wanted: &BTreeSet<String>,
    deadline: Instant,
) -> Result<Engines, String> {
    let limit = deadline.saturating_duration_since(clock::instant()).min(PING_LIMIT);
    let engines = engines.answering(limit);
    let reasons: Vec<String> = wanted
        .iter()
        .filter_map(|engine| engines.at(engine).err())
        .map(|error| error.to_string())
        .collect();
    let any = wanted.is_empty() || reasons.len() < wanted.len();
    if any { Ok(engines) } else { Err(reasons.join("; ")) }
}

/// Tries once every container that is not back, of the engines that answer. Conditions are checked
/// if `conditions_due` says so.
fn one_round(
    root: &Root,
    run: &mut Run,
    engines: &Engines,
    shared: Option<&Arc<Shared>>,
    deadline: Instant,
    conditions_due: bool,
) -> Round {
    let mut round = Round::default();
    let Some(quiesce) = run.quiesce.as_ref() else { return round };
    let steps: Arc<[Step]> = quiesce.steps.as_slice().into();
    let StartOrder { waits_for, awaited } = StartOrder::of(&steps, engines, deadline);
    let known: Arc<HashSet<String>> = Arc::new(steps.iter().map(|step| step.id.clone()).collect());
    let by = quiesce.by;
    let over = run.requests_are_known();
    let since = run.requests_ended_ms().unwrap_or(0);
    let began = run.opened.parse().ok();
    let checks = conditions_due.then(|| Arc::new(Checks::default()));
    let mut efforts: HashMap<String, Option<Effort>> = HashMap::new();
    for step in steps.iter() {
        efforts.entry(step.engine.clone()).or_insert_with_key(|engine| {
            let engine = engines.at(engine).ok()?.clone();
            let (known, steps) = (Arc::clone(&known), Arc::clone(&steps));
            let (awaited, checks, shared) = (Arc::clone(&awaited), checks.clone(), shared.cloned());
            Some(Effort {
                engine,
                by,
                over,
                since,
                began,
                known,
                awaited,
                checks,
                steps,
                shared,
                deadline,
            })
        });
    }
    let mut changed = false;
    let (runs, vmid) = (Runs::of(root), run.vmid);
    in_order(
        &waits_for,
        move |index| match efforts.get(&steps[index].engine) {
            Some(Some(effort)) => effort.bring_back(index),
            // Nothing is known of it as long as its engine does not answer.
            Some(None) | None => Back::NotKnown(None),
        },
        |event| {
            match event {
                Event::Done(index, result) => {
                    changed |= round.take_in(root, run, index, result);
                    failpoint::reach(root, "started");
                }
                Event::WriteDown if changed => {
                    save(root, run);
                    changed = false;
                    failpoint::reach(root, "start-confirmed");
                }
                Event::WriteDown | Event::Begins(_) | Event::Look => {}
            }
            // vzdump waits for a hook that wants the guest's lock; the holder of the lock can
            // continue later.
            if clock::instant() >= deadline || runs.is_wanted(vmid) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        },
    );
    round
}

impl Round {
    /// Records the result for one container; returns whether it is new.
    fn take_in(&mut self, root: &Root, run: &mut Run, index: usize, result: Back) -> bool {
        self.failed |= matches!(result, Back::Failed(_) | Back::Taken(..));
        self.unknown |= matches!(result, Back::NotKnown(_));
        match result {
            Back::Waits(why) => {
                self.waits = true;
                let step = run.quiesce.as_mut().and_then(|quiesce| quiesce.steps.get_mut(index));
                step.is_some_and(|step| {
                    step.trouble = Some(why);
                    step.start.wait(clock::boot_ms())
                })
            }
            Back::Taken(container, why) => {
                self.taken.push((index, container, why));
                false
            }
            result => record(root, run, index, result),
        }
    }
}

/// Records the result for one container; returns whether it is new.
fn record(root: &Root, run: &mut Run, index: usize, result: Back) -> bool {
    let Some(quiesce) = run.quiesce.as_mut() else { return false };
    let Some(step) = quiesce.steps.get_mut(index) else { return false };
    if step.fate != Fate::Open {
        return false;
    }
    match result {
        Back::Already(said) => {
            step.fate = Fate::Back;
            take_down(run, said);
        }
        Back::Started { id, ms, looked_at, said } => {
            step.start.confirm(ms, looked_at.map(|time| stay_up::until(root, time)));
            step.id = id;
            step.fate = Fate::Back;
            quiesce.resuming.start(clock::boot_ms());
            take_down(run, said);
        }
        Back::Fate(fate) => step.fate = fate,
        Back::NotKnown(seen) => {
            step.trouble = seen.map(String::from).or(step.trouble.take());
            return false;
        }
        Back::Waits(_) | Back::Taken(..) => return false,
        Back::Failed(Error::Refused(_, why)) => fail(step, why),
        // No answer says nothing about the container.
        Back::Failed(error) => {
            step.trouble = Some(error.to_string());
            return false;
        }
    }
    true
}

fn take_down(run: &mut Run, said: Said) {
    said.trouble.into_iter().for_each(|trouble| run.note(trouble));
    if let Some(reads) = said.reads {
        if !run.reads.contains(&reads) {
            run.reads.push(reads.clone());
        }
        run.note(reads);
    }
}

/// Counts a failed start; after enough of them the container is given up.
pub fn fail(step: &mut Step, why: String) {
    let long = step.failures.add(clock::boot_ms()) >= FAILING_FOR_MS;
    step.trouble = Some(why.clone());
    step.fate =
        if step.failures.count() >= MOST_FAILURES && long { Fate::Failed(why) } else { Fate::Open };
}

/// Checks whether what was started is up, and opens it again if not: a program may give up after a
/// while because its database is not ready yet. A container that was up long enough, and has ended
/// since, has ended for a reason of its own.
pub fn look_again(root: &Root, run: &mut Run, deadline: Instant) {
    let Some(quiesce) = run.quiesce.as_mut() else { return };
    if !quiesce.steps.iter().any(stay_up::is_started) {
        return;
    }
    let started = quiesce.steps.iter().filter(|step| stay_up::is_started(step));
    let wanted = started.map(|step| step.engine.clone()).collect();
    let engines =
        reach(root, run.vmid, &wanted, &run.opened, clock::instant(), deadline).unwrap_or_default();
    let inspect = |step: &Step| Some(engines.at(&step.engine).ok()?.inspect(&step.id, deadline));
    stay_up::look(&mut quiesce.steps, inspect, fail);
}

/// Notes which running containers fail their own health check.
pub fn note_unhealthy(root: &Root, run: &mut Run, deadline: Instant) {
    let steps: Vec<Step> = run.quiesce.iter().flat_map(|quiesce| quiesce.steps.clone()).collect();
    let wanted = steps.iter().map(|step| step.engine.clone()).collect();
    let Ok(engines) = reach(root, run.vmid, &wanted, &run.opened, clock::instant(), deadline)
    else {
        return;
    };
    for step in steps.iter().filter(|step| step.fate == Fate::Back) {
        let Ok(engine) = engines.at(&step.engine) else { continue };
        let health = engine.inspect(&step.id, deadline).ok().and_then(|found| found.health);
        if health == Some(Health::Unhealthy) {
            run.note(format!("{} runs but is not healthy", text::printable(&step.name, 80)));
        }
    }
}

/// Saves the run. A full disk must not keep anything down: the file is then merely out of date. A
/// run made from the note in a guest is not this node's and is not saved.
pub fn save(root: &Root, run: &mut Run) {
    if run.quiesce.as_ref().is_some_and(|quiesce| quiesce.by == By::Note) {
        return;
    }
    if let Err(error) = Runs::of(root).save(run) {
        run.note(format!("{error:#}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_is_woken_only_in_a_guest_that_was_started_since_it_ran() {
        let time = |text: &str| DateTime::parse_from_rfc3339(text).unwrap().to_utc();
        let (ran, later) = ("2026-11-21T23:00:00.000Z", time("2026-11-21T23:01:00Z"));
        assert!(may_wake(Some(time("2026-11-21T23:00:10Z")), ran, later));
        assert!(!may_wake(Some(time("2026-11-21T23:00:40Z")), ran, later), "it may come by itself");
        assert!(!may_wake(Some(time("2026-11-21T22:00:00Z")), ran, later), "somebody has ended it");
        assert!(!may_wake(None, ran, later) && !may_wake(Some(later), "", later));
    }
}
