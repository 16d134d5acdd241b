//! Bringing back one container, whatever state it is found in.

use std::collections::HashSet;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::plan::AFTER_LABEL;
use super::shared::{Shared, Verdict};
use crate::config::Strategy;
use crate::engine::{Container, Engine, Error, Health, Status};
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

/// How long a container waits for the one that is to be healthy before it. A health check that says nothing until
/// then is no reason to leave a stack down.
const HEALTHY_LIMIT: Duration = Duration::from_secs(180);

/// How often the engine is asked for a container's health.
const LOOK: Duration = Duration::from_millis(200);

/// What bringing back one container came to.
pub enum Back {
    /// It runs; and what went wrong with its command for being back, if so.
    Already(Option<String>),
    /// Started (or unpaused) under this id, in so many ms; likewise.
    Started {
        id: String,
        ms: u64,
        trouble: Option<String>,
    },
    /// The end of it.
    Fate(Fate),
    /// It runs, but may yet be stopped by a request that is under way. To be looked at again, while what depends on
    /// it is started: more often than not it runs on.
    NotKnown,
    Failed(Error),
}

/// What is known to everybody who brings back one of a run's containers that this engine has.
pub struct Effort {
    pub engine: Engine,
    pub by: By,
    /// The steps say of every request whether it was made.
    pub over: bool,
    /// Since when nothing more is requested, on the boot clock in ms.
    pub since: u64,
    /// The ids of all containers of the run.
    pub known: Arc<HashSet<String>>,
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
            return Back::Already(None);
        }
        self.try_to(step).unwrap_or_else(Back::Failed)
    }

    fn try_to(&self, step: &Step) -> Result<Back, Error> {
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
            Status::Exited | Status::Created => self.start(step, &container),
            // A removal that does not come to its end keeps nobody waiting for ever either.
            Status::Removing | Status::Dead | Status::Other => {
                Err(Error::Refused(409, format!("it is {:?}", container.status)))
            }
        }
    }

    /// Until when (boot clock, ms) a container that runs may yet go down: by a request of ours whose answer nobody
    /// saw, or with its guest, where that was asked to shut down and the container has not been started since.
    fn window(&self, step: &Step, container: &Container) -> u64 {
        let unanswered = step.stop_ms.is_none() && (step.requested || !self.over);
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
        let shares = match self.verdict(container)? {
            Verdict::Free => None,
            Verdict::Reads(what) => Some(what),
            Verdict::Held(why) => Some(format!("{name} runs already, and {why}")),
        };
        Ok(Back::Already(both(trouble, shares)))
    }

    fn start(&self, step: &Step, container: &Container) -> Result<Back, Error> {
        let reads = match (self.verdict(container)?, &self.shared) {
            (Verdict::Held(why), Some(shared)) => {
                let way = shared.way_to_start(container, &self.engine);
                let why = format!("{why}; to start it all the same: {way}");
                return Ok(Back::Fate(Fate::HeldBack(why)));
            }
            (Verdict::Reads(what), _) => Some(what),
            _ => None,
        };
        if self.by == By::Note {
            self.await_healthy(container);
        }
        let began = Instant::now();
        match self.engine.start(&container.id, self.deadline) {
            // It is there all the same: the engine misses something that it needs.
            Err(Error::Refused(404, why)) => {
                self.engine.inspect(&container.id, self.deadline)?;
                Err(Error::Refused(404, why))
            }
            done => done,
        }?;
        Ok(match self.started(step, container, began) {
            Back::Started { id, ms, trouble } => {
                Back::Started { id, ms, trouble: both(trouble, reads) }
            }
            other => other,
        })
    }

    /// Waits, as compose does where the stack says so, until what the container needs is healthy, or known not to be.
    /// Only where a whole guest comes up: after a backup nobody waits for the first look of a health check.
    fn await_healthy(&self, container: &Container) {
        let until = self.deadline.min(Instant::now() + HEALTHY_LIMIT);
        let Some(project) = container.project() else { return };
        for service in container.needs_healthy() {
            // Without an answer there is nothing to wait for, and the start itself will tell.
            let ids = self.engine.of_service(project, service, until).unwrap_or_default();
            for id in ids {
                while Instant::now() < until && self.is_becoming_healthy(&id, until) {
                    thread::sleep(LOOK);
                }
            }
        }
    }

    fn is_becoming_healthy(&self, id: &str, until: Instant) -> bool {
        self.engine.inspect(id, until).is_ok_and(|container| {
            container.status == Status::Running && container.health == Some(Health::Starting)
        })
    }

    fn unpause(&self, step: &Step, container: &Container) -> Result<Back, Error> {
        let began = Instant::now();
        self.engine.unpause(&container.id, self.deadline)?;
        Ok(self.started(step, container, began))
    }

    fn started(&self, step: &Step, container: &Container, began: Instant) -> Back {
        let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let trouble = self.run_after(step, container);
        Back::Started { id: container.id.clone(), ms, trouble }
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
        step.prepared || !self.over
    }

    /// The container that stands in a removed one's place: of the same compose service, and none of those we
    /// know already.
    fn successor(&self, step: &Step) -> Result<Option<Container>, Error> {
        let (Some(project), Some(service)) = (&step.project, &step.service) else {
            return Ok(None);
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
