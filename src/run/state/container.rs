use serde::{Deserialize, Serialize};

/// A container's progress towards rest: its stop, or its pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stop {
    /// Nothing was requested, as far as it was recorded; see [`Rest::GivenUp`](super::Rest).
    Planned,
    /// Its `stillpoint.before` command has failed, so it was not asked to stop.
    Unprepared,
    /// Its stop was requested, and no answer is known. A container that the settings leave running
    /// stays in this state.
    Requested,
    Stopped(Stopped),
    /// It was back, and is asked to stop once more, to give up an address. Its stop for the backup
    /// is the one that counts.
    Yielding(Option<Stopped>),
}

/// How a container stopped for the backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopped {
    /// How long the stop (or pause) took.
    pub ms: u64,
    /// The engine killed it at the end of its stop timeout; checked before it is started again.
    pub killed: Option<Killed>,
}

/// How a container that was killed rather than stopped counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Killed {
    /// At the end of its stop timeout. It has a volume or bind mount that it may write to, and could
    /// not close its files.
    WithData,
    WithoutData,
    /// By the kernel, which had no memory left for it; with such data.
    Starved,
}

impl Stop {
    /// Its `stillpoint.before` command runs, and then its stop is requested.
    pub fn request(&mut self) {
        if *self == Stop::Planned {
            *self = Stop::Requested;
        }
    }

    /// Its `stillpoint.before` command has failed.
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

    /// It was killed, as the inspection shows.
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

    /// Whether its stop was requested and no answer is known.
    pub fn is_unanswered(self) -> bool {
        matches!(self, Stop::Requested | Stop::Yielding(_))
    }

    /// Whether its `stillpoint.before` command may have run.
    pub fn was_prepared(self) -> bool {
        self != Stop::Planned
    }

    /// How long its stop took, if it was confirmed.
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

/// A container's progress back to running.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    NotStarted,
    /// Its start waits until others are ready.
    Waiting {
        since_ms: u64,
    },
    /// Its start (or unpause) is confirmed; how long it took.
    Started {
        ms: u64,
    },
    /// The same, and until this time it is watched whether it stays up.
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

    /// Its start is confirmed. `until_ms`: it is watched until then.
    pub fn confirm(&mut self, ms: u64, until_ms: Option<u64>) {
        if self.ms().is_none() {
            *self = match until_ms {
                Some(until_ms) => Start::Watched { ms, until_ms },
                None => Start::Started { ms },
            };
        }
    }

    /// Watching is over: it stays up, or its end is known.
    pub fn stay_up(&mut self) {
        if let Start::Watched { ms, .. } = *self {
            *self = Start::Started { ms };
        }
    }

    /// It has ended, or was stopped once more: it must be started again.
    pub fn end(&mut self) {
        if self.ms().is_some() {
            *self = Start::NotStarted;
        }
    }

    /// How long its start took, if it was started.
    pub fn ms(self) -> Option<u64> {
        match self {
            Start::NotStarted | Start::Waiting { .. } => None,
            Start::Started { ms } | Start::Watched { ms, .. } => Some(ms),
        }
    }

    /// Until when it is watched, if so.
    pub fn watched_until_ms(self) -> Option<u64> {
        match self {
            Start::Watched { until_ms, .. } => Some(until_ms),
            _ => None,
        }
    }

    /// Since when its start waits for others, if so.
    pub fn waiting_since_ms(self) -> Option<u64> {
        match self {
            Start::Waiting { since_ms } => Some(since_ms),
            _ => None,
        }
    }
}

/// Failed starts of a container: the engine refused, or the container ended at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Failures {
    None,
    Since { first_ms: u64, count: u32 },
}

impl Failures {
    /// Counts one more; returns for how long the starts have failed. After a reboot the boot clock
    /// has started again, so counting starts again too.
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

/// The result of a container's own health check before the backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HealthBefore {
    /// Healthy, or without a health check.
    NotIll,
    /// It was unhealthy, so nothing waits until it is healthy.
    Ill,
}

/// Whether another container was stopped once, so that this one gets the address in its
/// configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Room {
    NotMade,
    Made,
}

impl Room {
    /// Another container is asked to stop. This is tried once in a run.
    pub fn make(&mut self) {
        *self = Room::Made;
    }
}
