use std::collections::HashSet;
use std::time::Instant;

use crate::config::Strategy;
use crate::engine::{Container, Engine, Error, Status};
use crate::run::{Fate, Run, Step};
use crate::sys::text;

/// Looks, before anything is brought back, whether what was brought to rest still is: a grade is proven, not
/// assumed. What is not goes into the run's reasons.
pub fn prove(run: &mut Run, engine: &Engine, deadline: Instant) {
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
