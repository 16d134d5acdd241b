//! The order in which one round starts what is down.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::addresses;
use super::order::{Event, acyclic, in_order, turned_round};
use crate::engine::{Container, Engines, Status};
use crate::run::{Fate, Room, Step};
use crate::sys::clock;

/// For inspecting everything that is down. A container without an answer by then gets no special
/// order, so it does not delay others.
const LOOK_LIMIT: Duration = Duration::from_secs(2);

/// Who waits for whom.
pub struct StartOrder {
    /// For each step, the steps that are tried before it.
    pub waits_for: Vec<Vec<usize>>,
    /// Which of them others wait for, so that their addresses are still free.
    pub awaited: Arc<[bool]>,
}

impl StartOrder {
    /// The order for these steps in the containers' present state. Containers that were refused
    /// their address before, and for which room was made, go first.
    pub fn of(steps: &Arc<[Step]>, engines: &Engines, deadline: Instant) -> StartOrder {
        let down = down(steps, engines, deadline.min(clock::instant() + LOOK_LIMIT));
        let down: Vec<Option<&Container>> = down.iter().map(Option::as_ref).collect();
        let mut first_come = addresses::first_come(&down);
        let refused = (0..steps.len())
            .filter(|index| steps[*index].room == Room::Made && down[*index].is_some());
        addresses::make_way(&mut first_come, &refused.collect(), &down);
        let awaited = addresses::awaited(&first_come).into();
        StartOrder { waits_for: addresses::joined(start_order(steps), &first_come), awaited }
    }
}

/// For each step, the steps that are started before it: its dependencies. This is the stop order
/// reversed.
///
/// A plan has no circle, but a note in the guest may: whatever waits in one would never be started.
pub fn start_order(steps: &[Step]) -> Vec<Vec<usize>> {
    let after: Vec<Vec<usize>> = steps.iter().map(|step| step.after.clone()).collect();
    let mut waits_for = turned_round(&after);
    acyclic(&mut waits_for);
    waits_for
}

/// The containers of open steps that are down, as far as their engines answer in time.
fn down(steps: &Arc<[Step]>, engines: &Engines, deadline: Instant) -> Vec<Option<Container>> {
    let mut down: Vec<Option<Container>> = vec![None; steps.len()];
    let open: Vec<usize> =
        (0..steps.len()).filter(|index| steps[*index].fate == Fate::Open).collect();
    if open.len() < 2 {
        return down;
    }
    let look = {
        let (steps, engines, open) = (Arc::clone(steps), engines.clone(), open.clone());
        move |at: usize| {
            let step = &steps[open[at]];
            let container = engines.at(&step.engine).ok()?.inspect(&step.id, deadline).ok()?;
            matches!(container.status, Status::Exited | Status::Created).then_some(container)
        }
    };
    in_order(&vec![Vec::new(); open.len()], look, |event| {
        if let Event::Done(at, found) = event {
            down[open[at]] = found;
        }
        if clock::instant() >= deadline {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    down
}
