//! Containers that were held back at the last start of a copy, as long as they are still down.

use std::time::{Duration, Instant};

use crate::engine::{Engines, Error, Status};
use crate::guest::State;
use crate::report::history::HeldBack;
use crate::sys::Root;
use crate::vzdump::Vmid;

/// A status command must not wait long for an engine.
const LIMIT: Duration = Duration::from_secs(2);

/// Those that are still held back, without the ones that a person has started or removed since. All
/// of them, if the engine cannot be asked.
pub fn still<'a>(root: &Root, vmid: Vmid, all: &'a [HeldBack]) -> Vec<&'a HeldBack> {
    let Ok(State::Running(guest)) = State::of(root, vmid) else { return all.iter().collect() };
    if all.is_empty() || guest.is_frozen() {
        return all.iter().collect();
    }
    let Ok(engines) = Engines::of(&guest) else { return all.iter().collect() };
    let deadline = Instant::now() + LIMIT;
    let is_over = |held: &&HeldBack| {
        let mut gone = 0;
        let mut asked = 0;
        for engine in engines.reachable() {
            asked += 1;
            match engine.inspect(&held.id, deadline) {
                Ok(container) => {
                    return matches!(container.status, Status::Running | Status::Paused);
                }
                Err(Error::Gone) => gone += 1,
                Err(_) => {}
            }
        }
        asked > 0 && gone == asked
    };
    all.iter().filter(|held| !is_over(held)).collect()
}
