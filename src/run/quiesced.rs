use serde::{Deserialize, Serialize};

use super::{MOST_DEPENDENCIES, Run};
use crate::config::Strategy;
use crate::engine::MOST_CONTAINERS;
use crate::vzdump::Vmid;

/// The version of the note's shape.
const SCHEMA: u32 = 1;

/// Where the guest itself keeps what was running.
pub const QUIESCED_DIRECTORY: &str = "/var/lib/stillpoint";

/// The file's name in there.
pub const QUIESCED_FILE: &str = "quiesced.json";

/// What was running in a guest when its data was copied: it lies in the guest, and so in the backup, for the
/// restore may happen on a host that knows nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quiesced {
    pub schema: u32,
    /// The run's id.
    pub run: String,
    pub vmid: Vmid,
    /// RFC 3339, UTC.
    pub time: String,
    pub containers: Vec<QuiescedContainer>,
}

/// A container that was running.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuiescedContainer {
    pub id: String,
    /// The socket of its engine, as a path in the guest; empty where an older version wrote it: the first engine.
    #[serde(default)]
    pub engine: String,
    pub name: String,
    pub project: Option<String>,
    pub service: Option<String>,
    pub action: Strategy,
    /// It is started only if it does not run and this is still when it was last started.
    pub started_at: String,
    /// The containers, by their place in the list, that are started after this one.
    pub after: Vec<usize>,
    /// Where data of it lay that is not in the backup; nothing in what an older version wrote.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_in_backup: Vec<String>,
}

impl Quiesced {
    /// Reads the file; `None` where it is no note, or none that is sound.
    pub fn parse(bytes: &[u8]) -> Option<Quiesced> {
        serde_json::from_slice(bytes).ok().filter(Quiesced::is_sound)
    }

    /// Whether it is of this shape and of a size that a plan may have, and every container that it refers to is
    /// there. The guest may have changed it.
    pub fn is_sound(&self) -> bool {
        let count = self.containers.len();
        let after = || self.containers.iter().flat_map(|container| &container.after);
        self.schema == SCHEMA
            && count <= MOST_CONTAINERS
            && after().count() <= MOST_DEPENDENCIES
            && after().all(|other| *other < count)
    }

    /// A note that names no container.
    pub fn empty() -> Quiesced {
        Quiesced {
            schema: SCHEMA,
            run: String::new(),
            vmid: Vmid(0),
            time: String::new(),
            containers: Vec::new(),
        }
    }

    /// What to write into the guest of this run.
    pub fn of(run: &Run) -> Quiesced {
        let steps = run.quiesce.iter().flat_map(|quiesce| &quiesce.steps);
        Quiesced {
            schema: SCHEMA,
            run: run.id.clone(),
            vmid: run.vmid,
            time: run.opened.clone(),
            containers: steps.map(QuiescedContainer::from).collect(),
        }
    }
}

impl From<&super::Step> for QuiescedContainer {
    fn from(step: &super::Step) -> QuiescedContainer {
        QuiescedContainer {
            id: step.id.clone(),
            engine: step.engine.clone(),
            name: step.name.clone(),
            project: step.project.clone(),
            service: step.service.clone(),
            action: step.action,
            started_at: step.started_at.clone(),
            after: step.after.clone(),
            not_in_backup: step.not_in_backup.clone(),
        }
    }
}
