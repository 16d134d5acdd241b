use serde::{Deserialize, Serialize};

use super::{MOST_DEPENDENCIES, Run};
use crate::config::Strategy;
use crate::engine::MOST_CONTAINERS;
use crate::vzdump::Vmid;

/// The version of the note's shape.
const SCHEMA: u32 = 1;

/// The directory in the guest for the note of what ran.
pub const QUIESCED_DIRECTORY: &str = "/var/lib/stillpoint";

/// The file's name in that directory.
pub const QUIESCED_FILE: &str = "quiesced.json";

/// What ran in a guest when its data was copied. It is in the guest, and so in the backup, because
/// the restore may happen on a host that knows nothing.
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
    /// The socket of its engine, as a path in the guest; empty in files of older versions, meaning
    /// the first engine.
    #[serde(default)]
    pub engine: String,
    pub name: String,
    pub project: Option<String>,
    pub service: Option<String>,
    pub action: Strategy,
    /// It is started only if it does not run and was last started at this time.
    pub started_at: String,
    /// The containers that are started after this one, by their index in the list.
    pub after: Vec<usize>,
    /// Paths of its data that were not in the backup; empty in files of older versions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_in_backup: Vec<String>,
}

impl Quiesced {
    /// Reads the file; `None` if it is not a valid note.
    pub fn parse(bytes: &[u8]) -> Option<Quiesced> {
        serde_json::from_slice(bytes).ok().filter(Quiesced::is_sound)
    }

    /// Whether it has the right schema and size, and every index in it is valid. The guest may have
    /// changed it.
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

    /// The note to write into the guest of this run.
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
