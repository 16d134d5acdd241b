//! Bringing back one container, whatever state it is found in.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

use super::conditions::{self, Checks, Place};
use super::plan::AFTER_LABEL;
use super::shared::{Shared, Verdict};
use super::stay_up;
use super::successor::is_successor;
use super::taken;
use crate::config::Strategy;
use crate::engine::{Container, Engine, Error, Status};
use crate::run::{By, Fate, Step};
use crate::sys::{clock, text};

/// A program that ends within this after its start has failed to come up; one that ends later was up.
const COMING_UP: Duration = Duration::from_secs(10);

/// How long after a container's own stop timeout the engine may still be at stopping it.
const STOP_MARGIN: Duration = Duration::from_secs(2);

/// A guest that vzdump has asked to shut down is down within this, or vzdump has died before it asked.
pub const SHUTDOWN_LIMIT: Duration = Duration::from_secs(120);

/// What a container asks to be run once it is back may take this long; what depends on it waits meanwhile.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// What bringing back one container came to.
pub enum Back {
    /// It runs.
    Already(Said),
    /// Started (or unpaused) under this id, in so many ms. Where its engine does not start it again should it
    /// give up, it is looked at for as long as `looked_at`.
    Started {
        id: String,
        ms: u64,
        looked_at: Option<Duration>,
        said: Said,
    },
    /// The end of it.
    Fate(Fate),
    /// It is not started yet: what it waits for, in words.
    Waits(String),
    /// The engine refused to start it because somebody has the address or port that its configuration names: the
    /// container itself, and the engine's words.
    Taken(Box<Container>, String),
    /// It runs, but may yet be stopped by a request that is under way. To be looked at again, while what depends on
    /// it is started: more often than not it runs on.
    NotKnown,
    Failed(Error),
}

/// What there is to say of a container that is back.
#[derive(Default)]
pub struct Said {
    /// What is wrong, such as a command for being back that failed.
    pub trouble: Option<String>,
    /// What it only reads and another guest has too: nothing is wrong with that.
    pub reads: Option<String>,
}

/// What is known to everybody who brings back one of a run's containers that this engine has.
pub struct Effort {
    pub engine: Engine,
    pub by: By,
    /// The steps say of every request whether it was made.
    pub over: bool,
    /// Since when nothing more is requested, on the boot clock in ms.
    pub since: u64,
    /// When the run began, as far as that is known.
    pub began: Option<DateTime<Utc>>,
    /// The ids of all containers of the run.
    pub known: Arc<HashSet<String>>,
    /// Which steps others wait for in this round, so that they get the addresses that their configurations name.
    pub awaited: Arc<[bool]>,
    /// `None` where conditions were looked at a moment ago.
    pub checks: Option<Arc<Checks>>,
    pub steps: Arc<[Step]>,
    /// Of a copy: what it shares with others.
    pub shared: Option<Arc<Shared>>,
    pub deadline: Instant,
}

impl Effort {
    /// Brings back the container of that step, after what it depends on.
    pub fn bring_back(&self, index: usize) -> Back {
        let step = &self.steps[index];
        let untouched = !self.may_be_prepared(step) || step.before.is_none();
        if step.fate != Fate::Open
            || step.action == Strategy::None && self.by == By::Stillpoint && untouched
        {
            return Back::Already(Said::default());
        }
        self.try_to(index).unwrap_or_else(Back::Failed)
    }

    fn try_to(&self, index: usize) -> Result<Back, Error> {
        let step = &self.steps[index];
        let container = match self.engine.inspect(&step.id, self.deadline) {
            Err(Error::Gone) => match self.successor(step)? {
                Some(container) => container,
                None => return Ok(Back::Fate(Fate::Gone)),
            },
            other => other?,
        };
        match container.status {
            Status::Running if clock::boot_ms() < self.window(step, &container) => {
                Ok(Back::NotKnown)
            }
            Status::Running => self.runs(&container, self.run_after(step, &container)),
            Status::Restarting => self.runs(&container, None),
            Status::Paused if step.action == Strategy::Pause => self.unpause(step, &container),
            Status::Paused => Ok(Back::Fate(Fate::Left("somebody else has paused it".to_string()))),
            Status::Exited | Status::Created if self.is_its_own_affair(step, &container) => {
                let why = "it was started again and has ended since".to_string();
                Ok(Back::Fate(Fate::Left(why)))
            }
            Status::Exited | Status::Created if container.is_one_off() => {
                let why =
                    "it was made to run one command (docker compose run), which is not begun anew";
                Ok(Back::Fate(Fate::Left(why.to_string())))
            }
            Status::Exited | Status::Created => self.start(index, container),
            // A removal that does not come to its end keeps nobody waiting for ever either.
            Status::Removing | Status::Dead | Status::Other => {
                Err(Error::Refused(409, format!("it is {:?}", container.status)))
            }
        }
    }

    /// Until when (boot clock, ms) a container that runs may yet go down: by a request of ours whose answer nobody
    /// saw, or with its guest, where that was asked to shut down and the container has not been started since.
    fn window(&self, step: &Step, container: &Container) -> u64 {
        let unanswered = step.stop.ms().is_none() && (step.stop.is_unanswered() || !self.over);
        let limit = match (self.by, step.action) {
            (By::Stillpoint, Strategy::Stop) if unanswered => {
                Duration::from_secs(step.stop_timeout).saturating_add(STOP_MARGIN)
            }
            (By::Stillpoint, Strategy::Pause) if unanswered => STOP_MARGIN,
            (By::GuestShutdown, _) if !self.over && container.started_at == step.started_at => {
                SHUTDOWN_LIMIT
            }
            _ => return 0,
        };
        self.since.saturating_add(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX))
    }

    /// Started since we looked, by whomever, and ended: without an error, or long after the backup, that is not
    /// ours to change. One that has just failed is started again.
    fn is_its_own_affair(&self, step: &Step, container: &Container) -> bool {
        container.id == step.id
            && container.started_at != step.started_at
            && (self.by == By::Note || !failed_to_come_up(container))
    }

    /// What is to become of a container, where the guest is a copy.
    fn verdict(&self, container: &Container) -> Result<Verdict, Error> {
        match &self.shared {
            Some(shared) => shared.verdict(container, &self.engine, self.deadline),
            None => Ok(Verdict::Free),
        }
    }

    /// A container runs; that of a copy may have been started by its engine, by its restart policy.
    fn runs(&self, container: &Container, trouble: Option<String>) -> Result<Back, Error> {
        let name = text::printable(&container.name, 80);
        let (writes, reads) = match self.verdict(container)? {
            Verdict::Free => (None, None),
            Verdict::Reads(what) => (None, Some(what)),
            Verdict::Held(why) => (Some(format!("{name} runs already, and {why}")), None),
        };
        Ok(Back::Already(Said { trouble: both(trouble, writes), reads }))
    }

    fn start(&self, index: usize, container: Container) -> Result<Back, Error> {
        let step = &self.steps[index];
        let reads = match (self.verdict(&container)?, &self.shared) {
            (Verdict::Held(why), Some(shared)) => {
                let way = shared.way_to_start(&container, &self.engine);
                let why = format!("{why}; to start it all the same: {way}");
                return Ok(Back::Fate(Fate::HeldBack(why)));
            }
            (Verdict::Reads(what), _) => Some(what),
            _ => None,
        };
        if let Some(why) = self.unmet(index, &container) {
            return Ok(Back::Waits(why));
        }
        let began = Instant::now();
        match self.engine.start(&container.id, self.deadline) {
            Ok(()) => Ok(match self.started(step, &container, began) {
                Back::Started { id, ms, looked_at, said } => {
                    Back::Started { id, ms, looked_at, said: Said { reads, ..said } }
                }
                other => other,
            }),
            Err(Error::Refused(_, why)) if taken::is_taken(&why) => {
                Ok(Back::Taken(Box::new(container), why))
            }
            // It is there all the same: the engine misses something that it needs.
            Err(Error::Refused(404, why)) => {
                self.engine.inspect(&container.id, self.deadline)?;
                Err(Error::Refused(404, why))
            }
            Err(error) => Err(error),
        }
    }

    /// What the container waits for before it is started. After a backup only one that its engine would not start again:
    /// all others are started at once, as a reboot does, and find their way. One that has an address of its own goes
    /// before those that might take it, whatever it waits for; should it give up, it is started again.
    fn unmet(&self, index: usize, container: &Container) -> Option<String> {
        let step = &self.steps[index];
        let matters = self.by == By::Note || !container.is_kept_up();
        let longest = u64::try_from(conditions::LONGEST_WAIT.as_millis()).unwrap_or(u64::MAX);
        let too_long = step
            .start
            .waiting_since_ms()
            .is_some_and(|since| clock::boot_ms().saturating_sub(since) >= longest);
        if !matters || too_long || self.awaited.get(index) == Some(&true) {
            return None;
        }
        let Some(checks) = &self.checks else {
            let waits = container.dependencies().next().is_some();
            return waits.then(|| "its stack is still starting".to_string());
        };
        let (engine, steps, deadline) = (&self.engine, &self.steps, self.deadline);
        Place { engine, steps, checks, deadline }.unmet(container)
    }

    fn unpause(&self, step: &Step, container: &Container) -> Result<Back, Error> {
        let began = Instant::now();
        self.engine.unpause(&container.id, self.deadline)?;
        Ok(self.started(step, container, began))
    }

    fn started(&self, step: &Step, container: &Container, began: Instant) -> Back {
        let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let said = Said { trouble: self.run_after(step, container), reads: None };
        let stopped = step.action == Strategy::Stop;
        let looked_at = stay_up::looked_at(container).filter(|_| stopped);
        Back::Started { id: container.id.clone(), ms, looked_at, said }
    }

    /// Runs what a container asks to be run once it is back, and returns what went wrong. Whoever is killed between
    /// the start and here leaves it to the next, so it may be run twice.
    fn run_after(&self, step: &Step, container: &Container) -> Option<String> {
        let due = match self.by {
            By::Stillpoint => self.may_be_prepared(step),
            // Its data is as of a moment before the command.
            By::Note => true,
            By::GuestShutdown => false,
        };
        let command = container.label(AFTER_LABEL).filter(|_| due)?;
        let deadline = self.deadline.min(Instant::now() + COMMAND_LIMIT);
        let error = self.engine.exec(&container.id, command, deadline).err()?;
        Some(format!("{}: its {AFTER_LABEL} failed: {error}", text::printable(&step.name, 80)))
    }

    /// Whether a container may have been asked to prepare itself. A hook that was killed has not written down the last
    /// ones, and what was begun in one has to be ended.
    fn may_be_prepared(&self, step: &Step) -> bool {
        step.stop.was_prepared() || !self.over
    }

    /// The container that was made under the name of a removed one that belongs to no stack, as by whoever updates
    /// containers (Watchtower).
    fn namesake(&self, step: &Step) -> Result<Option<Container>, Error> {
        let container = match self.engine.inspect(&step.name, self.deadline) {
            Err(Error::Gone) => return Ok(None),
            other => other?,
        };
        let is_it = container.name == step.name
            && !self.known.contains(&container.id)
            && is_successor(&container, &step.name, self.began);
        Ok(Some(container).filter(|_| is_it))
    }

    /// The container that stands in a removed one's place: of the same compose service, none of those we know already,
    /// and none that did not run.
    fn successor(&self, step: &Step) -> Result<Option<Container>, Error> {
        let (Some(project), Some(service)) = (&step.project, &step.service) else {
            return self.namesake(step);
        };
        let mut best: Option<Container> = None;
        for id in self.engine.of_service(project, service, self.deadline)? {
            if self.known.contains(&id) {
                continue;
            }
            let container = match self.engine.inspect(&id, self.deadline) {
                Err(Error::Gone) => continue,
                other => other?,
            };
            if !is_successor(&container, &step.name, self.began) {
                continue;
            }
            let rank = |container: &Container| {
                (container.name == step.name, container.status == Status::Running)
            };
            if best.as_ref().is_none_or(|best| rank(&container) > rank(best)) {
                best = Some(container);
            }
        }
        Ok(best)
    }
}

/// Whether a container that was started ended again at once, and with an error.
pub fn failed_to_come_up(container: &Container) -> bool {
    container.exit_code != 0 && container.ran_for().is_some_and(|time| time < COMING_UP)
}

fn both(one: Option<String>, other: Option<String>) -> Option<String> {
    match (one, other) {
        (Some(one), Some(other)) => Some(format!("{one}; {other}")),
        (one, other) => one.or(other),
    }
}
