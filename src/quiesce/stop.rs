use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::left_out::follow_links;
use super::note;
use super::order::{Event, in_order};
use super::plan::{BEFORE_LABEL, Plan, plan};
use super::survey::survey;
use super::trial;
use crate::config::{OnError, Settings, Strategy};
use crate::engine::{Engine, Engines, Error, Unreachable, at_once};
use crate::guest::{Guest, State, Volumes};
use crate::pve::Place;
use crate::run::{By, Fate, Quiesce, Run, Runs, Step};
use crate::sys::{Root, clock, detach, failpoint, signal, text};

/// For asking a guest's engines what runs, and then how they are.
const SURVEY_LIMIT: Duration = Duration::from_secs(20);

/// If a guest has several engines, one question to all of them takes at most this part of the
/// remaining time, so that an engine that never answers leaves the others enough.
const SURVEY_PART: u32 = 5;

/// With less time than this, nothing is asked to stop: it would only have to be started again.
const LEAST: Duration = Duration::from_millis(500);

/// How long a pause may take: the engine's freezer needs milliseconds.
const PAUSE_LIMIT: Duration = Duration::from_secs(10);

/// How long an engine needs after a container's stop timeout to kill it and clean up.
const STOP_MARGIN: Duration = Duration::from_secs(10);

/// The result of stopping a guest's containers.
#[derive(Debug, PartialEq, Eq)]
pub enum Quiesced {
    /// There was nothing to stop, and why.
    Nothing(String),
    /// Everything planned is at rest.
    AtRest,
    /// Not everything is at rest; what was touched must be started again.
    Disturbed(String),
}

/// The result of recording what runs in a guest that is about to be shut down.
#[derive(Debug, PartialEq, Eq)]
pub enum Noted {
    /// There was nothing to record, and why.
    Nothing(String),
    /// It is recorded; and why its containers might not start again, if so.
    Written(Option<String>),
    /// The guest must not be shut down, because of the settings; and why.
    Refused(String),
}

/// Stops the running containers of a guest. The caller holds the guest's lock and has armed the
/// guard.
///
/// The plan is durable on the node before the first stop. Every confirmed step is recorded. After
/// half of the time until `deadline` it gives up: the other half is for starting everything again.
pub fn quiesce(root: &Root, settings: &Settings, run: &mut Run, deadline: Instant) -> Quiesced {
    match prepare(root, settings, run, deadline) {
        Ok(Prepared::Nothing(why)) => Quiesced::Nothing(why),
        Ok(Prepared::Engines(engines, limit)) => stop_all(root, run, &engines, limit),
        Err(error) => Quiesced::Disturbed(format!("{error:#}")),
    }
}

/// Records what runs, on the node and in the guest: in stop mode the whole guest is shut down, and
/// its containers must run again after its start.
pub fn note_running(
    root: &Root,
    settings: &Settings,
    run: &mut Run,
    deadline: Instant,
) -> Result<Noted> {
    let looked = look(root, settings, run, deadline)?;
    for why in looked.unreachable {
        run.note(format!("{why}: which of its containers run is not written down"));
    }
    let (guest, engines, plan) = match looked.found {
        Found::Nothing(why) => return Ok(Noted::Nothing(why)),
        Found::Plan(guest, engines, plan) => (guest, engines, plan),
    };
    let reachable: Vec<Engine> = engines.reachable().cloned().collect();
    let parts = if reachable.len() > 1 { SURVEY_PART } else { 1 };
    let until = part(deadline, SURVEY_LIMIT, parts);
    let why = at_once(&reachable, |engine| left_running_by(engine, until));
    run.unrest.extend(why.into_iter().flatten());
    let warning = trial::warning(root, run, &guest, &engines, &plan, deadline);
    if let Some(warning) = &warning {
        if settings.quiesce.on_error == OnError::Fail {
            return Ok(Noted::Refused(warning.clone()));
        }
        run.note(warning.clone());
    }
    for step in plan.steps.iter().filter(|step| step.before.is_some()) {
        let name = text::printable(&step.name, 80);
        run.note(format!(
            "{name}: its {BEFORE_LABEL} is not run, for the whole guest is shut down"
        ));
    }
    write_down(root, run, &guest, *plan, By::GuestShutdown)?;
    Ok(Noted::Written(warning))
}

/// Starts the guard of a run that is already on disk: it guards the containers, and the guest
/// itself, until the run is closed.
pub fn arm(root: &Root, run: &Run) -> Result<()> {
    let unit = format!("stillpoint-guard-{}-{}", run.vmid, run.id);
    detach::start(root, &unit, &["guard", &run.vmid.to_string()])
        .map(drop)
        .context("nobody would watch over stopped containers, so nothing is stopped")?;
    failpoint::reach(root, "armed");
    Ok(())
}

/// Why a container is not at rest.
enum NotAtRest {
    /// Its `stillpoint.before` command failed, so the engine was not asked to stop it.
    Unprepared(Error),
    Running(Error),
}

/// What there is to stop.
enum Found {
    Nothing(String),
    Plan(Box<Guest>, Engines, Box<Plan>),
}

struct Look {
    found: Found,
    unreachable: Vec<Unreachable>,
}

enum Prepared {
    Nothing(String),
    Engines(Engines, Duration),
}

fn prepare(root: &Root, settings: &Settings, run: &mut Run, deadline: Instant) -> Result<Prepared> {
    let looked = look(root, settings, run, deadline)?;
    if settings.quiesce.on_error == OnError::Fail && !looked.unreachable.is_empty() {
        let reasons: Vec<String> = looked.unreachable.iter().map(ToString::to_string).collect();
        anyhow::bail!(reasons.join("; "));
    }
    for why in looked.unreachable {
        run.disturb(format!("{why}, so its containers were not brought to rest"));
    }
    let (guest, engines, plan) = match looked.found {
        Found::Nothing(why) => return Ok(Prepared::Nothing(why)),
        Found::Plan(guest, engines, plan) => (guest, engines, plan),
    };
    let plan = trial::allowed(root, settings, run, &guest, &engines, *plan, deadline)?;
    let half = deadline.saturating_duration_since(clock::instant()) / 2;
    let limit = plan.time_limit(settings).min(half);
    anyhow::ensure!(limit >= LEAST, "nothing is stopped: too little time is left (quiesce.budget)");
    write_down(root, run, &guest, plan, By::Stillpoint)?;
    Ok(Prepared::Engines(engines, limit))
}

/// Why the end of this engine, as at its guest's shutdown, does not stop its containers, if so.
fn left_running_by(engine: &Engine, deadline: Instant) -> Option<String> {
    match engine.info(deadline) {
        Ok(info) if info.live_restore => Some(
            "its engine leaves containers running when it ends (live-restore), so that the guest's shutdown kills them"
                .to_string(),
        ),
        Ok(_) => None,
        Err(error) => Some(format!("whether its engine stops its containers when it ends is not known: {error}")),
    }
}

/// The end of something that may take so long, and no more than one part of what is left until `deadline`.
pub(super) fn part(deadline: Instant, limit: Duration, parts: u32) -> Instant {
    let now = clock::instant();
    now + limit.min(deadline.saturating_duration_since(now) / parts)
}

fn look(root: &Root, settings: &Settings, run: &mut Run, deadline: Instant) -> Result<Look> {
    let guest = match State::of(root, run.vmid)? {
        // vzdump says that it runs.
        State::Stopped => anyhow::bail!("the guest's init is not found"),
        State::Running(guest) => guest,
    };
    anyhow::ensure!(!guest.is_frozen(), "the guest is frozen");
    let engines = Engines::of(&guest)?;
    let parts = if engines.reachable().count() > 1 { SURVEY_PART } else { 1 };
    let survey = survey(&engines, part(deadline, SURVEY_LIMIT, parts))
        .any()
        .context("the guest's container engines can't be asked what runs")?;
    // Who did not answer is not asked again.
    let engines = engines.without(&survey.unreachable);
    let config = match Place::of(root, run.vmid) {
        Ok(Place::Here(config)) => Some(config),
        _ => None,
    };
    let (mut volumes, note) = Volumes::of(config, &guest);
    let unfollowed = follow_links(&mut volumes, &guest, &survey.containers);
    let mut plan = plan(run.vmid, &survey.containers, settings, &volumes);
    plan.notes.extend(note.into_iter().chain(unfollowed));
    plan.see_clients(&survey);
    plan.see_engines(&engines, &volumes, part(deadline, SURVEY_LIMIT, parts));
    run.incomplete = plan.incomplete.take();
    let found = match (engines.is_empty(), plan.steps.is_empty()) {
        (true, _) => Found::Nothing("the guest has no container engine".to_string()),
        (false, true) => Found::Nothing("no container is running".to_string()),
        (false, false) => Found::Plan(Box::new(guest), engines, Box::new(plan)),
    };
    Ok(Look { found, unreachable: survey.unreachable })
}

/// Makes the plan durable on the node (otherwise nothing is stopped) and in the guest (otherwise a
/// restore does not start its stacks, which is reported).
pub(super) fn write_down(
    root: &Root,
    run: &mut Run,
    guest: &Guest,
    plan: Plan,
    by: By,
) -> Result<()> {
    for note in plan.notes {
        run.note(note);
    }
    let paused_before = plan.paused_before;
    run.quiesce = Some(Quiesce { paused_before, ..Quiesce::new(by, plan.steps) });
    if let Err(error) = Runs::of(root).save(run) {
        run.quiesce = None;
        return Err(error.context("what runs can't be written down, so nothing is stopped"));
    }
    failpoint::reach(root, "planned");
    if let Err(error) = note::write(root, run, guest) {
        run.note(format!(
            "what runs can't be written into the guest ({error:#}): a restore will not start its stacks"
        ));
    }
    failpoint::reach(root, "noted");
    Ok(())
}

pub(super) fn stop_all(root: &Root, run: &mut Run, engines: &Engines, limit: Duration) -> Quiesced {
    let deadline = clock::instant() + limit;
    let runs = Runs::of(root);
    let Some(quiesce) = run.quiesce.as_mut() else {
        return Quiesced::Disturbed("there is no plan".to_string());
    };
    quiesce.rest.begin(clock::boot_ms());
    let after: Vec<Vec<usize>> = quiesce.steps.iter().map(|step| step.after.clone()).collect();
    let given_up = Arc::new(AtomicBool::new(false));
    let work = {
        let (engines, given_up) = (engines.clone(), Arc::clone(&given_up));
        let steps = quiesce.steps.clone();
        move |index: usize| {
            let step = &steps[index];
            let engine = engines.at(&step.engine).map_err(NotAtRest::Unprepared)?;
            let began = clock::instant();
            if let Some(command) = &step.before {
                engine.exec(&step.id, command, deadline).map_err(NotAtRest::Unprepared)?;
                // By now the others may already be starting again.
                if given_up.load(Ordering::SeqCst) {
                    let error = Error::Failed("it ended too late".to_string());
                    return Err(NotAtRest::Unprepared(error));
                }
            }
            let done = match step.action {
                Strategy::Stop => {
                    let own = Duration::from_secs(step.stop_timeout) + STOP_MARGIN;
                    engine.stop(&step.id, deadline.min(began + own))
                }
                Strategy::Pause => engine.pause(&step.id, deadline.min(began + PAUSE_LIMIT)),
                Strategy::None => Ok(()),
            };
            // A 404 on stop is not proof: inspect the container.
            let done = match done {
                Err(Error::Gone) if engine.inspect(&step.id, deadline).is_ok() => Err(
                    Error::Refused(404, "it does not find a container that it lists".to_string()),
                ),
                done => done,
            };
            done.map(|()| u64::try_from(clock::since(began).as_millis()).unwrap_or(u64::MAX))
                .map_err(NotAtRest::Running)
        }
    };
    let mut trouble: Option<String> = None;
    let mut missing = after.len();
    in_order(&after, work, |event| {
        match event {
            Event::Begins(index) => {
                request(run, index);
                failpoint::reach(root, "stop-requested");
            }
            Event::Done(index, result) => {
                trouble = confirm(run, index, result);
                missing -= 1;
                if let Some(quiesce) = run.quiesce.as_mut().filter(|_| missing == 0) {
                    quiesce.rest.finish(clock::boot_ms());
                }
                failpoint::reach(root, "stop-confirmed");
            }
            Event::WriteDown => {
                let failed = runs.save(run).err();
                trouble = failed
                    .map(|error| format!("what was stopped can't be written down: {error:#}"));
            }
            Event::Look if signal::asked_to_stop() => {
                trouble = Some("the backup was interrupted".to_string());
            }
            Event::Look if clock::instant() >= deadline => {
                trouble = Some(format!("it took longer than {} s", limit.as_secs()));
            }
            Event::Look => {}
        }
        if trouble.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    given_up.store(true, Ordering::SeqCst);
    trouble.map_or(Quiesced::AtRest, Quiesced::Disturbed)
}

fn request(run: &mut Run, index: usize) {
    if let Some(step) = step(run, index) {
        step.stop.request();
    }
}

/// Records the result of a stop; returns what went wrong.
fn confirm(run: &mut Run, index: usize, result: Result<u64, NotAtRest>) -> Option<String> {
    let step = step(run, index)?;
    let name = text::printable(&step.name, 80);
    match result {
        Ok(_) if step.action == Strategy::None => {}
        Ok(ms) => step.stop.confirm(ms),
        // It ended by itself and was removed: a removed container is at rest.
        Err(NotAtRest::Unprepared(Error::Gone) | NotAtRest::Running(Error::Gone)) => {
            step.fate = Fate::Gone;
        }
        Err(NotAtRest::Unprepared(error)) => {
            step.stop.refuse();
            return Some(format!("{BEFORE_LABEL} of {name} failed: {error}"));
        }
        Err(NotAtRest::Running(error)) => {
            return Some(format!("{name} could not be stopped: {error}"));
        }
    }
    None
}

fn step(run: &mut Run, index: usize) -> Option<&mut Step> {
    run.quiesce.as_mut()?.steps.get_mut(index)
}
