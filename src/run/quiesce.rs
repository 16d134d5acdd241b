use serde::{Deserialize, Serialize};

use super::Step;
use super::state::{Rest, Resuming};

/// The containers of a guest while they are stopped and started again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Quiesce {
    /// Whether Stillpoint stops the containers, or the whole guest is shut down (stop mode).
    pub by: By,
    pub rest: Rest,
    pub resuming: Resuming,
    /// How many containers somebody had paused before. They stay paused: not everything is stopped.
    pub paused_before: usize,
    pub steps: Vec<Step>,
}

/// What brings the containers to rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum By {
    Stillpoint,
    GuestShutdown,
    /// One of these, from the note in the guest: before the guest was restored or restarted.
    Note,
}

impl Quiesce {
    /// A plan of which nothing is done yet.
    pub fn new(by: By, steps: Vec<Step>) -> Quiesce {
        Quiesce { by, rest: Rest::Planned, resuming: Resuming::NotBegun, paused_before: 0, steps }
    }

    /// Not everything can be stopped: no more stops are requested from now on, and everything is to
    /// be started again.
    pub fn give_up(&mut self, now_ms: u64) {
        self.rest.give_up(now_ms);
        // A container that was used for the test has been started again before.
        if self.resuming != Resuming::NotBegun {
            self.resuming.request_again(now_ms);
        }
    }

    /// From the first stop request to the last confirmed start, in ms.
    pub fn downtime_ms(&self) -> Option<u64> {
        Some(self.resuming.last_start_ms()?.saturating_sub(self.rest.began_ms()?))
    }
}
