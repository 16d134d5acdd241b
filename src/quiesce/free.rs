//! Gets a configured address back from a container of the same run that happens to have it.

use std::time::{Duration, Instant};

use super::resume::fail;
use super::taken::{holder, may_yield};
use crate::engine::{Container, Engine, Engines};
use crate::run::{By, Fate, Room, Run, Runs};
use crate::sys::{Root, clock, text};

/// How long an engine needs after a container's stop timeout to kill it and clean up.
const STOP_MARGIN: Duration = Duration::from_secs(10);

/// A container that was refused its start because another one has its configured address or port.
pub struct Refused<'a> {
    pub index: usize,
    pub container: &'a Container,
    /// The engine's error.
    pub why: String,
}

/// Stops the container that has the address, if it belongs to this run and any other address would
/// do for it; the next round starts both, the one with the configured address first. Any other
/// container is named and not touched. This is tried once in a run. Returns whether the address is
/// free now.
///
/// If the process dies in here, the run says that both containers must be started.
pub fn free(
    root: &Root,
    run: &mut Run,
    engines: &Engines,
    refused: Refused<'_>,
    deadline: Instant,
) -> bool {
    let Refused { index, container, mut why } = refused;
    let Some(quiesce) = run.quiesce.as_mut() else { return false };
    let Some(step) = quiesce.steps.get(index) else { return false };
    let engine = engines.at(&step.engine).ok().cloned();
    let found =
        engine.as_ref().and_then(|engine| holder(engine, container, &why, deadline).ok()?);
    let mut yields = None;
    if let Some(holder) = &found {
        why = format!("{why} ({} has it)", text::printable(&holder.name, 80));
        yields =
            may_yield(holder, container, &quiesce.steps).filter(|_| step.room == Room::NotMade);
    }
    fail(&mut quiesce.steps[index], why);
    let (Some(engine), Some(holder), Some(yields)) = (engine, found, yields) else { return false };
    quiesce.steps[index].room.make();
    take_from(root, run, &engine, &holder, yields, deadline)
}

fn take_from(
    root: &Root,
    run: &mut Run,
    engine: &Engine,
    holder: &Container,
    index: usize,
    deadline: Instant,
) -> bool {
    let Some(quiesce) = run.quiesce.as_mut() else { return false };
    let Some(step) = quiesce.steps.get_mut(index) else { return false };
    let before = step.clone();
    step.fate = Fate::Open;
    step.started_at.clone_from(&holder.started_at);
    step.start.end();
    step.stop.ask_to_yield();
    let limit = Duration::from_secs(step.stop_timeout).saturating_add(STOP_MARGIN);
    quiesce.resuming.request_again(clock::boot_ms());
    let durable = quiesce.by == By::Note || Runs::of(root).save(run).is_ok();
    let stopped =
        durable && engine.stop(&holder.id, deadline.min(clock::instant() + limit)).is_ok();
    let Some(quiesce) = run.quiesce.as_mut() else { return false };
    let Some(step) = quiesce.steps.get_mut(index) else { return false };
    if !durable {
        *step = before;
    } else if stopped {
        step.stop.yield_up();
    }
    stopped
}
