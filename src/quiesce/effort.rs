//! Starting one container again, whatever its present state is.

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

/// A program that ends within this time after its start has failed to start; one that ends later
/// had started.
const COMING_UP: Duration = Duration::from_secs(10);

/// How long the engine may still be stopping a container after its own stop timeout.
const STOP_MARGIN: Duration = Duration::from_secs(2);

/// A guest that vzdump has asked to shut down is down within this time, or vzdump died before it
/// asked.
pub const SHUTDOWN_LIMIT: Duration = Duration::from_secs(120);

/// The limit for a container's `stillpoint.after` command; its dependents wait meanwhile.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// The result of starting one container again.
pub enum Back {
    /// It runs.
    Already(Said),
    /// Started (or unpaused) under this id, in this many ms. If its engine would not start it
    /// again, it is watched for as long as `looked_at`.
    Started {
        id: String,
        ms: u64,
        looked_at: Option<Duration>,
        said: Said,
    },
    /// Its final fate.
    Fate(Fate),
    /// It is not started yet; what it waits for, in words.
    Waits(String),
    /// The engine refused to start it because another container has its configured address or port:
    /// the container itself, and the engine's error.
    Taken(Box<Container>, String),
    /// It runs, but a requested stop may still happen. It is checked again, while its dependents
    /// are already started, because most such containers keep running.
    NotKnown(Option<&'static str>),
    Failed(Error),
}

/// Remarks about a container that is back.
#[derive(Default)]
pub struct Said {
    /// A problem, such as a failed `stillpoint.after` command.
    pub trouble: Option<String>,
    /// What it only reads although another guest has it too, which is no problem.
    pub reads: Option<String>,
}

/// What is the same for all containers of a run in one engine.
pub struct Effort {
    pub engine: Engine,
    pub by: By,
    /// The steps have every request that was made.
    pub over: bool,
    /// Since when no more stops are requested, in ms on the boot clock.
    pub since: u64,
    /// When the run began, if that is known.
    pub began: Option<DateTime<Utc>>,
    /// The ids of all containers of the run.
    pub known: Arc<HashSet<String>>,
    /// Which steps others wait for in this round, so that they get their configured addresses.
    pub awaited: Arc<[bool]>,
    /// `None` if conditions were checked a moment ago.
    pub checks: Option<Arc<Checks>>,
    pub steps: Arc<[Step]>,
    /// For a copy: what it shares with others.
    pub shared: Option<Arc<Shared>>,
    pub deadline: Instant,
}

impl Effort {
    /// Starts the container of that step again, after what it depends on.
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
                Ok(Back::NotKnown(Some("it runs, and may yet be stopped")))
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
            // A removal that never ends must not be waited for without a limit.
            Status::Removing | Status::Dead | Status::Other => {
                Err(Error::Refused(409, format!("it is {:?}", container.status)))
            }
        }
    }

    /// Until when (boot clock, ms) a running container may still go down: because of a stop request
    /// of ours without a visible answer, or because its guest was asked to shut down and it has not
    /// been started since.
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

    /// Whether somebody else has started it since and it has ended: without an error, or long after
    /// the backup, it is left as it is. One that has just failed is started again.
    fn is_its_own_affair(&self, step: &Step, container: &Container) -> bool {
        container.id == step.id
            && container.started_at != step.started_at
            && (self.by == By::Note || !failed_to_come_up(container))
    }

    /// What to do with a container if the guest is a copy.
    fn verdict(&self, container: &Container) -> Result<Verdict, Error> {
        match &self.shared {
            Some(shared) => shared.verdict(container, &self.engine, self.deadline),
            None => Ok(Verdict::Free),
        }
    }

    /// A container runs; in a copy, its engine may have started it because of its restart policy.
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
        let began = clock::instant();
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
            // It exists: the engine misses something else that it needs.
            Err(Error::Refused(404, why)) => {
                self.engine.inspect(&container.id, self.deadline)?;
                Err(Error::Refused(404, why))
            }
            Err(error) => Err(error),
        }
    }

    /// What the container waits for before it is started. After a backup, only one that its engine
    /// would not restart waits; all others are started at once, as at a reboot. A container with a
    /// fixed address goes before those that might take it, whatever it waits for; if it gives up,
    /// it is started again.
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
        let began = clock::instant();
        self.engine.unpause(&container.id, self.deadline)?;
        Ok(self.started(step, container, began))
    }

    fn started(&self, step: &Step, container: &Container, began: Instant) -> Back {
        let ms = u64::try_from(clock::since(began).as_millis()).unwrap_or(u64::MAX);
        let said = Said { trouble: self.run_after(step, container), reads: None };
        let stopped = step.action == Strategy::Stop;
        let looked_at = stay_up::looked_at(container).filter(|_| stopped);
        Back::Started { id: container.id.clone(), ms, looked_at, said }
    }

    /// Runs a container's `stillpoint.after` command, and returns its error. If the process is
    /// killed between the start and this point, the next one runs it, so it may run twice.
    fn run_after(&self, step: &Step, container: &Container) -> Option<String> {
        let due = match self.by {
            By::Stillpoint => self.may_be_prepared(step),
            // Its data is from a moment before the command.
            By::Note => true,
            By::GuestShutdown => false,
        };
        let command = container.label(AFTER_LABEL).filter(|_| due)?;
        let deadline = self.deadline.min(clock::instant() + COMMAND_LIMIT);
        let error = self.engine.exec(&container.id, command, deadline).err()?;
        Some(format!("{}: its {AFTER_LABEL} failed: {error}", text::printable(&step.name, 80)))
    }

    /// Whether a container's `stillpoint.before` command may have run. A killed hook has not
    /// recorded the last ones, and whatever was begun in a container must be ended.
    fn may_be_prepared(&self, step: &Step) -> bool {
        step.stop.was_prepared() || !self.over
    }

    /// The container that was created with the name of a removed one that belongs to no stack, for
    /// example by an updater (Watchtower).
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

    /// The container that takes the place of a removed one: of the same compose service, not yet
    /// known, and one that ran.
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

/// Whether a started container ended at once with an error.
pub fn failed_to_come_up(container: &Container) -> bool {
    container.exit_code != 0 && container.ran_for().is_some_and(|time| time < COMING_UP)
}

fn both(one: Option<String>, other: Option<String>) -> Option<String> {
    match (one, other) {
        (Some(one), Some(other)) => Some(format!("{one}; {other}")),
        (one, other) => one.or(other),
    }
}
