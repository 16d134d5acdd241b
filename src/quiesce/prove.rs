use std::collections::HashSet;
use std::time::Instant;

use chrono::{DateTime, Utc};

use crate::config::Strategy;
use crate::engine::{Container, Engine, Engines, Error, Status};
use crate::run::{Fate, Run, Step};
use crate::sys::{clock, text};

/// Looks, before anything is brought back, whether what was brought to rest still is: a grade is proven, not
/// assumed. What is not goes into the run's reasons.
pub fn prove(run: &mut Run, engines: &Engines, deadline: Instant) {
    let steps: Vec<Step> = run.quiesce.iter().flat_map(|quiesce| quiesce.steps.clone()).collect();
    for step in steps.iter().filter(|step| step.fate == Fate::Open) {
        let reason = match engines.at(&step.engine) {
            Ok(engine) => moved(engine, step, deadline),
            Err(error) => {
                Some(format!("it can't be proven that containers stayed at rest: {error}"))
            }
        };
        reason.into_iter().for_each(|reason| run.disturb(reason));
    }
    let began = run.quiesce.as_ref().and_then(|quiesce| quiesce.began_ms).map(clock::time_at);
    for engine in engines.reachable() {
        match newcomers(&steps, began, engine, deadline) {
            Ok(reasons) => reasons.into_iter().for_each(|reason| run.disturb(reason)),
            Err(error) => {
                run.disturb(format!("it can't be proven that nothing was started: {error}"));
            }
        }
    }
    for why in engines.unreachable().map(|site| site.to_string()) {
        // What is known already, of its own containers or since the plan was made, is not said twice.
        if !run.unrest.iter().any(|known| known.contains(&why)) {
            run.disturb(format!("it can't be proven that nothing was started: {why}"));
        }
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

/// What can be said against containers that the plan does not know: those that run, or may have run since it began.
fn newcomers(
    steps: &[Step],
    began: Option<DateTime<Utc>>,
    engine: &Engine,
    deadline: Instant,
) -> Result<Vec<String>, Error> {
    let known: HashSet<&str> = steps.iter().map(|step| step.id.as_str()).collect();
    let mut reasons = Vec::new();
    for id in engine.running(deadline)? {
        if known.contains(id.as_str()) {
            continue;
        }
        match engine.inspect(&id, deadline) {
            Ok(container) => reasons.extend(ran(&container, began)),
            Err(Error::Gone) => {}
            Err(error) => return Err(error),
        }
    }
    reasons.truncate(20);
    Ok(reasons)
}

/// One that is between two of its restarts has not run where its last end was before.
fn ran(container: &Container, began: Option<DateTime<Utc>>) -> Option<String> {
    let name = text::printable(&container.name, 80);
    match container.status {
        Status::Running => Some(format!("{name} was started while the data was copied")),
        Status::Restarting if !began.is_some_and(|began| container.ended_before(began)) => {
            Some(format!("{name} was restarting again and again while the data was copied"))
        }
        _ => None,
    }
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
