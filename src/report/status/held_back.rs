//! What was held back at the last start of a copy, as long as it is.

use std::time::{Duration, Instant};

use crate::engine::{Engines, Error, Status};
use crate::guest::State;
use crate::report::history::HeldBack;
use crate::sys::Root;
use crate::vzdump::Vmid;

/// A status is no reason to wait for an engine.
const LIMIT: Duration = Duration::from_secs(2);

/// Those that are held back still: what a person has started or removed since is not. Where the engine cannot be asked,
/// all of them.
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
