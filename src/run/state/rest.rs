use serde::{Deserialize, Serialize};

/// The containers' progress towards rest. If the whole guest is shut down this stays `Planned`;
/// [`Shutdown`](super::Shutdown) has the progress then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rest {
    /// The plan is recorded, and nothing was requested.
    Planned,
    /// Stops are being requested. A killed hook leaves this state, and may have requested more than
    /// it has recorded.
    Stopping { began_ms: u64 },
    /// All containers are at rest.
    AtRest { began_ms: u64, rested_ms: u64 },
    /// The requesting process has given up, so the steps have every request that was made.
    GivenUp { began_ms: Option<u64>, at_ms: u64 },
}

impl Rest {
    /// The first stop is requested.
    pub fn begin(&mut self, now_ms: u64) {
        if *self == Rest::Planned {
            *self = Rest::Stopping { began_ms: now_ms };
        }
    }

    /// The last stop is confirmed.
    pub fn finish(&mut self, now_ms: u64) {
        if let Rest::Stopping { began_ms } = *self {
            *self = Rest::AtRest { began_ms, rested_ms: now_ms };
        }
    }

    /// Not everything can be stopped, or it is no longer needed: everything is to be started again.
    pub fn give_up(&mut self, now_ms: u64) {
        if !self.is_given_up() {
            *self = Rest::GivenUp { began_ms: self.began_ms(), at_ms: now_ms };
        }
    }

    /// Whether the requesting process has given up.
    pub fn is_given_up(self) -> bool {
        matches!(self, Rest::GivenUp { .. })
    }

    /// When the first stop was requested.
    pub fn began_ms(self) -> Option<u64> {
        match self {
            Rest::Planned => None,
            Rest::Stopping { began_ms } | Rest::AtRest { began_ms, .. } => Some(began_ms),
            Rest::GivenUp { began_ms, .. } => began_ms,
        }
    }

    /// How long it took until everything was at rest.
    pub fn took_ms(self) -> Option<u64> {
        match self {
            Rest::AtRest { began_ms, rested_ms } => Some(rested_ms.saturating_sub(began_ms)),
            _ => None,
        }
    }
}

/// The containers' progress back to running.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resuming {
    NotBegun,
    /// A process with the guest's lock has begun, so no more stops are requested.
    Begun {
        requests_ended_ms: u64,
    },
    /// Containers were started.
    Started {
        requests_ended_ms: u64,
        last_ms: u64,
    },
}

impl Resuming {
    /// A process starts the containers again, or continues. `requests_ended_ms`: since when no more
    /// stops are requested, if the requesting process has recorded that. After a reboot the boot
    /// clock has started again, at a time before all others.
    pub fn begin(&mut self, requests_ended_ms: Option<u64>, now_ms: u64) {
        match self {
            Resuming::NotBegun => {
                let requests_ended_ms = requests_ended_ms.unwrap_or(now_ms).min(now_ms);
                *self = Resuming::Begun { requests_ended_ms };
            }
            Resuming::Begun { requests_ended_ms } | Resuming::Started { requests_ended_ms, .. } => {
                *requests_ended_ms = now_ms.min(*requests_ended_ms);
            }
        }
    }

    /// A start is confirmed.
    pub fn start(&mut self, now_ms: u64) {
        let requests_ended_ms = self.requests_ended_ms().unwrap_or(now_ms);
        *self = Resuming::Started { requests_ended_ms, last_ms: now_ms };
    }

    /// A container is asked to stop once more, now, to make room for another.
    pub fn request_again(&mut self, now_ms: u64) {
        match self {
            Resuming::NotBegun => *self = Resuming::Begun { requests_ended_ms: now_ms },
            Resuming::Begun { requests_ended_ms } | Resuming::Started { requests_ended_ms, .. } => {
                *requests_ended_ms = now_ms
            }
        }
    }

    /// Since when no more stops are requested.
    pub fn requests_ended_ms(self) -> Option<u64> {
        match self {
            Resuming::NotBegun => None,
            Resuming::Begun { requests_ended_ms } | Resuming::Started { requests_ended_ms, .. } => {
                Some(requests_ended_ms)
            }
        }
    }

    /// When the last start was confirmed.
    pub fn last_start_ms(self) -> Option<u64> {
        match self {
            Resuming::Started { last_ms, .. } => Some(last_ms),
            _ => None,
        }
    }
}
