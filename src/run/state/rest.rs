use serde::{Deserialize, Serialize};

/// How far the containers are on their way to rest. Of a guest that is shut down as a whole this stays `Planned`, and
/// [`Shutdown`](super::Shutdown) says how far that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rest {
    /// The plan is written down, and nothing is requested.
    Planned,
    /// Stops are requested. A hook that was killed leaves it so, and may have requested more than it has written down.
    Stopping { began_ms: u64 },
    /// All containers are at rest.
    AtRest { began_ms: u64, rested_ms: u64 },
    /// Who requested the stops has given up, and what the steps say of requests is the whole truth.
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

    /// Not everything can be brought to rest, or nobody needs it any more: all of it is to come back.
    pub fn give_up(&mut self, now_ms: u64) {
        if !self.is_given_up() {
            *self = Rest::GivenUp { began_ms: self.began_ms(), at_ms: now_ms };
        }
    }

    /// Whether who requested the stops has given up.
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

    /// How long it took to bring everything to rest.
    pub fn took_ms(self) -> Option<u64> {
        match self {
            Rest::AtRest { began_ms, rested_ms } => Some(rested_ms.saturating_sub(began_ms)),
            _ => None,
        }
    }
}

/// How far the containers are on their way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resuming {
    NotBegun,
    /// Somebody who held the guest's lock has begun, and so nothing more is requested.
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
    /// Somebody begins to bring back, or goes on with it. `requests_ended_ms`: since when nothing is requested, where who
    /// requested has said so. A boot clock that has begun anew is earlier than any time before.
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

    /// Since when nothing more is requested.
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
