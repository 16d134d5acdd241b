use serde::{Deserialize, Serialize};

/// How far a container is on its way to rest: its stop, or its pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stop {
    /// Nothing is requested, as far as is written down; see [`Rest::GivenUp`](super::Rest).
    Planned,
    /// What it asks to be run before has failed, so it was not asked to stop.
    Unprepared,
    /// Its stop is requested, and no answer is known. One that is left running by its setting stays so.
    Requested,
    Stopped(Stopped),
    /// It was back, and is asked to stop once more, to give up an address. How it had stopped for the backup counts.
    Yielding(Option<Stopped>),
}

/// How a container stopped for the backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopped {
    /// How long the stop (or pause) took.
    pub ms: u64,
    /// The engine killed it at the end of its stop timeout, as was seen before it was brought back.
    pub killed: Option<Killed>,
}

/// A container that was killed at the end of its stop timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Killed {
    /// It has a volume or bind mount that it may write to, and closed no file in it.
    WithData,
    WithoutData,
}

impl Stop {
    /// It is asked to prepare itself, and to stop.
    pub fn request(&mut self) {
        if *self == Stop::Planned {
            *self = Stop::Requested;
        }
    }

    /// What it asks to be run before has failed.
    pub fn refuse(&mut self) {
        if *self == Stop::Requested {
            *self = Stop::Unprepared;
        }
    }

    /// The engine says that it has stopped.
    pub fn confirm(&mut self, ms: u64) {
        if *self == Stop::Requested {
            *self = Stop::Stopped(Stopped { ms, killed: None });
        }
    }

    /// It was seen killed.
    pub fn kill(&mut self, how: Killed) {
        if let Stop::Stopped(stopped) = self {
            stopped.killed = Some(how);
        }
    }

    /// It is asked to stop once more.
    pub fn ask_to_yield(&mut self) {
        if !matches!(self, Stop::Yielding(_)) {
            *self = Stop::Yielding(self.stopped());
        }
    }

    /// It has stopped once more, or was not asked to.
    pub fn yield_up(&mut self) {
        if let Stop::Yielding(before) = *self {
            *self = before.map_or(Stop::Requested, Stop::Stopped);
        }
    }

    /// Whether its stop is requested and no answer is known.
    pub fn is_unanswered(self) -> bool {
        matches!(self, Stop::Requested | Stop::Yielding(_))
    }

    /// Whether it was asked to prepare itself.
    pub fn was_prepared(self) -> bool {
        self != Stop::Planned
    }

    /// How long its stop took, where that is confirmed.
    pub fn ms(self) -> Option<u64> {
        match self {
            Stop::Stopped(stopped) => Some(stopped.ms),
            _ => None,
        }
    }

    /// How it was killed when it stopped for the backup, if so.
    pub fn killed(self) -> Option<Killed> {
        self.stopped().and_then(|stopped| stopped.killed)
    }

    fn stopped(self) -> Option<Stopped> {
        match self {
            Stop::Stopped(stopped) | Stop::Yielding(Some(stopped)) => Some(stopped),
            _ => None,
        }
    }
}

/// How far a container is on its way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    NotStarted,
    /// It is not started before others are ready.
    Waiting {
        since_ms: u64,
    },
    /// Its start (or unpause) is confirmed and took so long.
    Started {
        ms: u64,
    },
    /// Likewise, and until then it is looked at whether it stays up.
    Watched {
        ms: u64,
        until_ms: u64,
    },
}

impl Start {
    /// It waits for others; returns whether that is new.
    pub fn wait(&mut self, now_ms: u64) -> bool {
        let is_new = *self == Start::NotStarted;
        if is_new {
            *self = Start::Waiting { since_ms: now_ms };
        }
        is_new
    }

    /// Its start is confirmed. `until_ms`: it is looked at until then.
    pub fn confirm(&mut self, ms: u64, until_ms: Option<u64>) {
        if self.ms().is_none() {
            *self = match until_ms {
                Some(until_ms) => Start::Watched { ms, until_ms },
                None => Start::Started { ms },
            };
        }
    }

    /// Nothing more is to be seen of it: it stays up, or its end is known.
    pub fn stay_up(&mut self) {
        if let Start::Watched { ms, .. } = *self {
            *self = Start::Started { ms };
        }
    }

    /// It has ended, or was stopped once more: it is to be started again.
    pub fn end(&mut self) {
        if self.ms().is_some() {
            *self = Start::NotStarted;
        }
    }

    /// How long its start took, where it was started.
    pub fn ms(self) -> Option<u64> {
        match self {
            Start::NotStarted | Start::Waiting { .. } => None,
            Start::Started { ms } | Start::Watched { ms, .. } => Some(ms),
        }
    }

    /// Until when it is looked at whether it stays up, if so.
    pub fn watched_until_ms(self) -> Option<u64> {
        match self {
            Start::Watched { until_ms, .. } => Some(until_ms),
            _ => None,
        }
    }

    /// Since when it waits for others, if so.
    pub fn waiting_since_ms(self) -> Option<u64> {
        match self {
            Start::Waiting { since_ms } => Some(since_ms),
            _ => None,
        }
    }
}

/// Starts of a container that the engine refused, or that ended at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Failures {
    None,
    Since { first_ms: u64, count: u32 },
}

impl Failures {
    /// One more; returns for how long it has failed. A boot clock that has begun anew counts anew.
    pub fn add(&mut self, now_ms: u64) -> u64 {
        let first_ms = match *self {
            Failures::None => now_ms,
            Failures::Since { first_ms, .. } => first_ms,
        };
        let count = self.count().saturating_add(1);
        *self = Failures::Since { first_ms: first_ms.min(now_ms), count };
        now_ms.saturating_sub(first_ms)
    }

    /// How many there were.
    pub fn count(self) -> u32 {
        match self {
            Failures::None => 0,
            Failures::Since { count, .. } => count,
        }
    }
}

/// What a container's own health check had found before the backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HealthBefore {
    /// Nothing bad, or it has none.
    NotIll,
    /// Nothing waits for it to be healthy.
    Ill,
}

/// Whether another container was stopped once, so that this one gets the address that its configuration names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Room {
    NotMade,
    Made,
}

impl Room {
    /// Another container is asked to stop. Once in a run is enough to see whether it helps.
    pub fn make(&mut self) {
        *self = Room::Made;
    }
}
