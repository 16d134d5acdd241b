use serde::{Deserialize, Serialize};

use super::QuiescedContainer;
use super::state::{Failures, HealthBefore, Killed, Room, Start, Stop};
use crate::config::Strategy;
use crate::sys::text;

/// The engine's default stop timeout, in seconds.
const STOP_TIMEOUT: u64 = 10;

/// One container of a guest that is backed up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub id: String,
    /// The socket of its engine, as a path in the guest; empty in files of older versions, meaning
    /// the first engine.
    #[serde(default)]
    pub engine: String,
    pub name: String,
    pub project: Option<String>,
    pub service: Option<String>,
    pub action: Strategy,
    /// The container's own stop timeout, in seconds.
    pub stop_timeout: u64,
    /// The command to run in it before it is stopped or paused.
    pub before: Option<String>,
    /// When the engine had last started it, in the engine's format.
    pub started_at: String,
    /// The runtime that starts it; empty where that is the engine's affair.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub runtime: String,
    /// The steps that are stopped before this one and started after it: the containers that depend
    /// on it.
    pub after: Vec<usize>,
    /// Paths of this container's data that are not in the backup.
    pub not_in_backup: Vec<String>,
    pub health_before: HealthBefore,
    pub stop: Stop,
    pub start: Start,
    pub failures: Failures,
    /// Why the last attempt to start it failed, in the engine's words.
    pub trouble: Option<String>,
    /// The command that creates its stack again in the guest, if its labels say enough.
    pub way_back: Option<String>,
    pub room: Room,
    pub fate: Fate,
}

/// What became of a container after the backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// Not known to be back yet.
    Open,
    /// Runs again, or never stopped.
    Back,
    /// It was started again and has done its work: it ended by itself, with 0.
    Finished,
    /// Removed, and not created again.
    Gone,
    /// Somebody else has started it and it has ended since, or somebody has changed it in another
    /// way.
    Left(String),
    /// Could not be started; the engine's last error.
    Failed(String),
    /// Not started, because the guest is a copy and the container would write to what another guest
    /// has too.
    HeldBack(String),
}

impl Step {
    /// Whether it ran before the backup and is not known to have run since. A container that was
    /// only paused and is gone was started with `--rm`: its engine removes it when it ends.
    pub fn is_not_back(&self) -> bool {
        match self.fate {
            Fate::Open | Fate::Failed(_) => true,
            Fate::Gone => self.action == Strategy::Stop,
            Fate::Back | Fate::Finished | Fate::Left(_) | Fate::HeldBack(_) => false,
        }
    }

    /// Whether it was removed, other than by its own `--rm`.
    pub fn is_removed(&self) -> bool {
        self.fate == Fate::Gone && self.is_not_back()
    }

    /// Why it is not back.
    pub fn why_not_back(&self) -> String {
        match (&self.fate, &self.trouble) {
            (Fate::Failed(why), _) | (_, Some(why)) => why.clone(),
            (Fate::Gone, None) => "it was removed".to_string(),
            (_, None) => "nobody has seen it run since".to_string(),
        }
    }

    /// `db did not stop within 10 s and was killed`
    pub fn kill_in_words(&self) -> String {
        let name = text::printable(&self.name, 80);
        match self.stop.killed() {
            Some(Killed::Starved) => format!("{name} was killed for want of memory (OOM)"),
            _ => format!("{name} did not stop within {} s and was killed", self.stop_timeout),
        }
    }
}

impl From<QuiescedContainer> for Step {
    /// A step of which nothing is done yet, with the engine's default stop timeout.
    fn from(container: QuiescedContainer) -> Step {
        Step {
            id: container.id,
            engine: container.engine,
            name: container.name,
            project: container.project,
            service: container.service,
            action: container.action,
            stop_timeout: STOP_TIMEOUT,
            before: None,
            started_at: container.started_at,
            runtime: String::new(),
            after: container.after,
            not_in_backup: container.not_in_backup,
            health_before: HealthBefore::NotIll,
            stop: Stop::Planned,
            start: Start::NotStarted,
            failures: Failures::None,
            trouble: None,
            way_back: None,
            room: Room::NotMade,
            fate: Fate::Open,
        }
    }
}
