//! Never stop what may not start: an update in a running guest can leave its containers running and
//! make every start fail. Before anything is stopped, a container must have been seen to start,
//! since this start of the guest and with exactly the present versions; otherwise a throwaway
//! container is tested.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, bail};

use super::plan::Plan;
use super::resume;
use super::runtime_files;
use super::stop::{self, Quiesced};
use super::throwaway::{self, Outcome};
use crate::config::{OnError, Settings, Strategy, Trial};
use crate::engine::{self, Engine, Engines, Restart, Versions};
use crate::guest::{Guest, State};
use crate::report::log;
use crate::run::{By, Fate, Run, Runs, Started, Step};
use crate::sys::{Root, clock, text};
use crate::vzdump::Vmid;

/// For all engines of a guest, one after the other; normally a test takes 0.3 s.
const LIMIT: Duration = Duration::from_secs(30);

/// For asking an engine what has started its containers: vzdump waits for this, and what is not
/// learnt now is tested before the next stop.
const LEARN_LIMIT: Duration = Duration::from_secs(3);

/// For removing what an earlier test has left; an engine that does not answer is left to the next
/// caller.
const CLEAN_UP_LIMIT: Duration = Duration::from_secs(3);

/// For the test with a container of the guest: stopping it and starting it.
const CONTAINER_LIMIT: Duration = Duration::from_secs(60);

/// The part of the plan that may be carried out: unchanged if its engines are known to start
/// containers; with pauses if only unpausing is known to work; without the containers of an engine
/// for which neither is known, which becomes a reason of the grade.
///
/// # Errors
/// Why nothing is stopped, in words for a person; the containers keep running, except one that was
/// stopped as the test itself.
pub fn allowed(
    root: &Root,
    settings: &Settings,
    run: &mut Run,
    guest: &Guest,
    engines: &Engines,
    mut plan: Plan,
    deadline: Instant,
) -> Result<Plan> {
    let until = deadline.min(clock::instant() + CONTAINER_LIMIT);
    let deadline = deadline.min(clock::instant() + LIMIT);
    let mut reasons = Vec::new();
    let started_by = stopped_by(&plan);
    for (index, (path, runtime)) in started_by.iter().enumerate() {
        let (path, runtime) = (path.clone(), runtime.clone());
        let deadline = turn(deadline, index, started_by.len());
        let unknown = match engines.at(&path) {
            Ok(engine) => match known(root, run.vmid, guest, engine, &runtime, deadline) {
                Ok(()) => continue,
                Err(unknown) => unknown,
            },
            Err(error) => Box::new(Unknown::of(error.to_string())),
        };
        if settings.quiesce.trial == Trial::Container
            && !unknown.container_failed
            && let (Ok(engine), Some(versions)) = (engines.at(&path), &unknown.versions)
        {
            let least = least(&plan.steps, engine, &runtime, deadline);
            let tried = with_container(root, run, guest, engines, least, &mut plan, until);
            let mut started = Started::load_of(root, run.vmid, &guest.boot);
            match &tried {
                Ok(()) => started.saw_start(versions),
                Err(error) => started.saw_refusal(versions, &format!("{error:#}"), true),
            }
            save(root, run.vmid, &started);
            tried?;
            continue;
        }
        if unknown.is_new {
            alarm(root, run.vmid, &unknown.reason);
        }
        let instead = if unknown.unpauses { Strategy::Pause } else { Strategy::None };
        if unknown.unpauses {
            run.note(format!("its containers are paused and not stopped: {}", unknown.reason));
        } else {
            reasons.push(unknown.reason);
        }
        for step in plan.steps.iter_mut().filter(|step| is_stopped_by(step, &path, &runtime)) {
            step.action = instead;
        }
    }
    let rests = plan.steps.iter().any(|step| step.action != Strategy::None);
    if !reasons.is_empty() && (!rests || settings.quiesce.on_error == OnError::Fail) {
        bail!("nothing is stopped: {}", reasons.join("; "));
    }
    for reason in reasons {
        run.disturb(format!("some containers are left running: {reason}"));
    }
    Ok(plan)
}

/// Why the shutdown of the whole guest, which vzdump has decided on, is risky: its containers are
/// not known to start again after it.
pub fn warning(
    root: &Root,
    run: &Run,
    guest: &Guest,
    engines: &Engines,
    plan: &Plan,
    deadline: Instant,
) -> Option<String> {
    let deadline = deadline.min(clock::instant() + LIMIT);
    // All of them go down, whatever the plan would do with each.
    let started_by: BTreeSet<(String, String)> =
        plan.steps.iter().map(|step| (step.engine.clone(), step.runtime.clone())).collect();
    let of = |(index, (path, runtime)): (usize, &(String, String))| {
        let (engine, deadline) = (engines.at(path).ok()?, turn(deadline, index, started_by.len()));
        Some(known(root, run.vmid, guest, engine, runtime, deadline).err()?.reason)
    };
    let reasons: Vec<String> = started_by.iter().enumerate().filter_map(of).collect();
    (!reasons.is_empty()).then(|| {
        let reasons = reasons.join("; ");
        format!("its containers may not start again after the guest's shutdown: {reasons}")
    })
}

/// Tests an engine now, whatever was seen before, for an admin. Returns the versions that were seen
/// to start a container. The caller holds the guest's lock.
///
/// # Errors
/// Why the engine is not known to start containers.
pub fn try_now(root: &Root, vmid: Vmid, guest: &Guest, engine: &Engine) -> Result<Versions> {
    let deadline = clock::instant() + LIMIT;
    let own = InUse::of(root, guest, engine, "", deadline).with_context(|| no_versions(engine))?;
    let mut started = Started::load_of(root, vmid, &guest.boot);
    let mut runtimes = BTreeSet::from([String::new()]);
    for id in engine.running(deadline)? {
        match engine.inspect(&id, deadline) {
            Ok(container) => runtimes.insert(container.runtime),
            Err(engine::Error::Gone) => false,
            Err(error) => return Err(error.into()),
        };
    }
    runtimes.remove(&own.versions.runtime);
    for runtime in runtimes {
        let in_use = InUse::of(root, guest, engine, &runtime, deadline)
            .with_context(|| no_versions(engine))?;
        tried(root, vmid, engine, &in_use, &mut started, deadline).map_err(Error::msg)?;
    }
    Ok(own.versions)
}

/// Records what starting a guest's containers has shown about its engines: in these versions they
/// start or unpause containers, or have refused every start, which cancels earlier evidence.
/// `before`: the steps before that. The caller holds the guest's lock.
pub fn learn(root: &Root, run: &Run, before: &[Step], engines: &Engines, deadline: Instant) {
    let started_by = |step: &Step| (step.engine.clone(), step.runtime.clone());
    let steps = run.quiesce.iter().flat_map(|quiesce| &quiesce.steps);
    let is_new = |(step, before): &(&Step, &Step)| {
        step.start.ms().is_some() && before.start.ms().is_none() && step.fate == Fate::Back
    };
    let refused: BTreeSet<(String, String)> = (steps.clone().zip(before))
        .filter(|(step, before)| step.failures.count() > before.failures.count())
        .map(|(step, _)| started_by(step))
        .collect();
    let new: BTreeSet<((String, String), bool)> = steps
        .zip(before)
        .filter(is_new)
        .map(|(step, _)| (started_by(step), step.action == Strategy::Pause))
        .collect();
    if new.is_empty() && refused.is_empty() {
        return;
    }
    // What cannot be learnt now is tested before the next stop.
    let Ok(State::Running(guest)) = State::of(root, run.vmid) else { return };
    let deadline = deadline.min(clock::instant() + LEARN_LIMIT);
    let mut started = Started::load_of(root, run.vmid, &guest.boot);
    let versions = |(path, runtime): &(String, String)| {
        let in_use = InUse::of(root, &guest, engines.at(path).ok()?, runtime, deadline);
        Some(in_use.ok()?.versions)
    };
    for by in refused.into_iter().filter(|by| !new.contains(&(by.clone(), false))) {
        versions(&by).into_iter().for_each(|versions| started.doubt(&versions));
    }
    for (by, paused) in new {
        let Some(versions) = versions(&by) else { continue };
        match paused {
            true => started.saw_unpause(&versions),
            false => started.saw_start(&versions),
        }
    }
    save(root, run.vmid, &started);
}

/// Removes throwaway containers of this guest that their creator could not remove. The caller holds
/// the guest's lock.
pub fn clean_up(root: &Root, vmid: Vmid) {
    let mut started = Started::load(root, vmid);
    if started.pending.is_empty() {
        return;
    }
    let Ok(State::Running(guest)) = State::of(root, vmid) else { return };
    if guest.is_frozen() {
        return;
    }
    let Ok(engines) = Engines::of(&guest) else { return };
    let before = started.pending.len();
    let deadline = clock::instant() + CLEAN_UP_LIMIT;
    for engine in engines.answering(CLEAN_UP_LIMIT).reachable() {
        throwaway::remove_pending(engine, &mut started, deadline);
    }
    if started.pending.len() < before {
        save(root, vmid, &started);
    }
}

/// The same for all guests of this node; skips guests that another process works on. After a boot
/// of the node the engines are still starting: waits at most `engine_wait` for each guest with
/// something to remove.
pub fn clean_up_all(root: &Root, engine_wait: Duration) {
    for vmid in Started::guests(root) {
        let pending = Started::load(root, vmid).pending;
        if pending.is_empty() {
            continue;
        }
        let engines: BTreeSet<String> = pending.into_iter().map(|pending| pending.engine).collect();
        // No engine is started for this: the time since when it is known to have run is left empty.
        resume::await_engines(root, vmid, &engines, "", clock::instant() + engine_wait);
        if let Ok(_lock) = Runs::of(root).lock(vmid, clock::instant()) {
            clean_up(root, vmid);
        }
    }
}

/// The end of one engine's turn; several are asked one after the other until `deadline`. One that
/// never answers leaves the others their turns, and two more for stopping and starting.
fn turn(deadline: Instant, index: usize, engines: usize) -> Instant {
    let parts = if engines > 1 { engines - index + 2 } else { 1 };
    stop::part(deadline, LIMIT, u32::try_from(parts).unwrap_or(u32::MAX))
}

/// The sockets of the engines that would have to start again what this plan stops, each with the
/// runtime that its container names.
fn stopped_by(plan: &Plan) -> BTreeSet<(String, String)> {
    let stopped = plan.steps.iter().filter(|step| step.action == Strategy::Stop);
    stopped.map(|step| (step.engine.clone(), step.runtime.clone())).collect()
}

fn is_stopped_by(step: &Step, engine: &str, runtime: &str) -> bool {
    step.action == Strategy::Stop && step.engine == engine && step.runtime == runtime
}

/// What starts a container now.
struct InUse {
    versions: Versions,
    /// Its runtime, if it is not the engine's default.
    named: Option<String>,
}

impl InUse {
    fn of(
        root: &Root,
        guest: &Guest,
        engine: &Engine,
        runtime: &str,
        deadline: Instant,
    ) -> Result<InUse, engine::Error> {
        let mut versions = engine.versions(deadline)?;
        let is_own = runtime.is_empty() || runtime == versions.runtime;
        if !is_own {
            versions.runtime = runtime.to_string();
        }
        versions.files = runtime_files::marks(root, guest, &versions.runtime);
        Ok(InUse { versions, named: (!is_own).then(|| runtime.to_string()) })
    }
}

/// Why an engine is not known to start containers.
#[derive(Default)]
struct Unknown {
    reason: String,
    versions: Option<Versions>,
    /// In these versions it was seen to unpause a container.
    unpauses: bool,
    /// A container of the guest was already used for a test, and did not start again.
    container_failed: bool,
    /// It was not reported yet.
    is_new: bool,
}

impl Unknown {
    fn of(reason: String) -> Unknown {
        Unknown { reason, ..Unknown::default() }
    }
}

fn no_versions(engine: &Engine) -> String {
    let socket = text::printable(engine.socket(), 200);
    format!("the engine at {socket} does not say in which versions it would start containers")
}

/// Whether the engine is known to start containers, or a test shows it now.
fn known(
    root: &Root,
    vmid: Vmid,
    guest: &Guest,
    engine: &Engine,
    runtime: &str,
    deadline: Instant,
) -> Result<(), Box<Unknown>> {
    let in_use = InUse::of(root, guest, engine, runtime, deadline)
        .map_err(|error| Unknown::of(format!("{}: {error}", no_versions(engine))))?;
    let versions = in_use.versions.clone();
    let mut started = Started::load_of(root, vmid, &guest.boot);
    if started.starts(&versions) {
        if throwaway::remove_pending(engine, &mut started, deadline) {
            save(root, vmid, &started);
        }
        return Ok(());
    }
    let seen = started.of(&versions).cloned().unwrap_or_default();
    match tried(root, vmid, engine, &in_use, &mut started, deadline) {
        Ok(()) => Ok(()),
        Err(reason) => Err(Box::new(Unknown {
            reason,
            versions: Some(versions),
            unpauses: seen.unpaused.is_some(),
            is_new: seen.refusal.is_none(),
            container_failed: seen.refusal.is_some_and(|refusal| refusal.container),
        })),
    }
}

/// Tests with a throwaway container and records the result; returns why it is unknown, if so.
fn tried(
    root: &Root,
    vmid: Vmid,
    engine: &Engine,
    InUse { versions, named }: &InUse,
    started: &mut Started,
    deadline: Instant,
) -> Result<(), String> {
    let mut socket = text::printable(engine.socket(), 200);
    if let Some(runtime) = named {
        socket.push_str(&format!(", with the runtime {},", text::printable(runtime, 80)));
    }
    let result = match throwaway::run(root, vmid, engine, named.as_deref(), started, deadline) {
        Outcome::Starts => Ok(()),
        Outcome::Refused(words) => {
            Err(format!("the engine at {socket} could not start a throwaway container: {words}"))
        }
        Outcome::Untried(why) => Err(format!(
            "it is not known whether the engine at {socket} can start containers: {why}"
        )),
    };
    match &result {
        Ok(()) => started.saw_start(versions),
        Err(reason) => {
            let before = started.of(versions).and_then(|seen| seen.refusal.as_ref());
            let container = before.is_some_and(|before| before.container);
            started.saw_refusal(versions, reason, container);
        }
    }
    save(root, vmid, started);
    result
}

/// The first refusal of these versions is mailed; those of the following nights are in the jobs'
/// own mails.
fn alarm(root: &Root, vmid: Vmid, reason: &str) {
    let subject = format!("Stillpoint: backups of guest {vmid} do not stop its containers");
    let message = format!(
        "{reason}. Until this is mended, backups leave its containers running, because what is stopped might not start \
         again. `stillpoint try {vmid}` tries again."
    );
    log::alarm(root, vmid, &subject, &message);
}

/// Stops and starts the least important container of the guest, if the settings allow it. If it
/// does not start, it stays in the run, and every process that starts the run's containers keeps
/// trying.
fn with_container(
    root: &Root,
    run: &mut Run,
    guest: &Guest,
    engines: &Engines,
    least: Option<usize>,
    plan: &mut Plan,
    deadline: Instant,
) -> Result<()> {
    let index = least.context("nothing is stopped: no container is suitable for the test")?;
    let engine = engines.at(&plan.steps[index].engine)?;
    let step = Step { after: Vec::new(), ..plan.steps[index].clone() };
    let (id, name) = (step.id.clone(), text::printable(&step.name, 80));
    let only = Plan { steps: vec![step], paused_before: plan.paused_before, ..Plan::default() };
    // The other half is for its start.
    let half = deadline.saturating_duration_since(clock::instant()) / 2;
    let limit = only.longest_chain().min(half);
    stop::write_down(root, run, guest, only, By::Stillpoint)?;
    if let Quiesced::Disturbed(why) = stop::stop_all(root, run, engines, limit) {
        bail!("nothing else is stopped: {name} was stopped and started as a test: {why}");
    }
    if let Err(error) = engine.start(&id, deadline) {
        bail!("nothing else is stopped: {name} was stopped as a test and did not start: {error}");
    }
    // It runs; its `stillpoint.after` command is still due.
    if let Some(left) = resume::resume(root, run, deadline, Duration::ZERO, Duration::ZERO) {
        bail!("nothing else is stopped: {name} was stopped and started as a test: {left}");
    }
    let again = engine.inspect(&id, deadline).with_context(|| name.clone())?;
    plan.steps[index].started_at = again.started_at;
    run.note(format!("{name} was stopped and started first, to see whether containers start"));
    Ok(())
}

/// The container whose loss would matter least: no `stillpoint.before` command, no dependents, no
/// data of its own, and a restart policy.
fn least(steps: &[Step], engine: &Engine, runtime: &str, deadline: Instant) -> Option<usize> {
    let its = |step: &Step| is_stopped_by(step, engine.socket(), runtime);
    let stopped = steps.iter().enumerate().filter(|(_, step)| its(step));
    let weighed = stopped.filter_map(|(index, step)| {
        let container = engine.inspect(&step.id, deadline).ok()?;
        let (data, stays_down) = (!container.data.is_empty(), container.restart == Restart::No);
        Some(((step.before.is_some(), !step.after.is_empty(), data, stays_down), index))
    });
    weighed.min().map(|(_, index)| index)
}

/// What cannot be recorded is observed again before the next stop.
fn save(root: &Root, vmid: Vmid, started: &Started) {
    if let Err(error) = started.save(root, vmid) {
        log::warning(vmid, &format!("{error:#}"));
    }
}
