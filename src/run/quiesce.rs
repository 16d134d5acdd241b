use serde::{Deserialize, Serialize};

use super::Step;
use super::state::{Rest, Resuming};

/// The containers of a guest on their way down and up.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Quiesce {
    /// Whether we stop the containers, or the guest is shut down as a whole (stop mode).
    pub by: By,
    pub rest: Rest,
    pub resuming: Resuming,
    /// How many containers somebody had paused before. They stay so: not everything is stopped.
    pub paused_before: usize,
    pub steps: Vec<Step>,
}

/// Who brings the containers to rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum By {
    Stillpoint,
    GuestShutdown,
    /// Either, as the note in the guest says: in an earlier life of the guest.
    Note,
}

impl Quiesce {
    /// What is planned, before anything is done.
    pub fn new(by: By, steps: Vec<Step>) -> Quiesce {
        Quiesce { by, rest: Rest::Planned, resuming: Resuming::NotBegun, paused_before: 0, steps }
    }

    /// Not everything can be brought to rest: nothing more is requested from now on, and all of it is to come back.
    pub fn give_up(&mut self, now_ms: u64) {
        self.rest.give_up(now_ms);
        // A container that was the try has been brought back before.
        if self.resuming != Resuming::NotBegun {
            self.resuming.request_again(now_ms);
        }
    }

    /// From the first stop request to the last confirmed start, in ms.
    pub fn downtime_ms(&self) -> Option<u64> {
        Some(self.resuming.last_start_ms()?.saturating_sub(self.rest.began_ms()?))
    }
}
