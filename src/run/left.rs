use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::{By, Failures, Quiesced, QuiescedContainer, Run};
use crate::sys::{Root, clock, file};
use crate::vzdump::Vmid;

/// The version of the list's shape.
const SCHEMA: u32 = 1;

/// A thousand containers of about 500 bytes each, and room for long names.
const LIMIT: u64 = 16 << 20;

/// How many containers are kept for one guest; the newest. A malicious guest could add some with
/// each backup.
const MOST: usize = 1000;

/// The directory; one file for each guest.
const DIRECTORY: &str = "/var/lib/stillpoint/left";

/// The containers of a guest that ran before a backup and could not be started again. Their run is
/// closed, so that it does not block the next backup. This list, at
/// `/var/lib/stillpoint/left/VMID.json`, stays until each container runs, was removed, or was
/// started by somebody. Whoever changes it holds the guest's lock.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Left {
    pub schema: u32,
    pub vmid: Vmid,
    /// The volume of the guest's root; another one later means another guest under the same VMID.
    pub root_volume: Option<String>,
    /// The run that closed last: its note in the guest names these containers too.
    pub run: String,
    pub containers: Vec<LeftContainer>,
}

/// A container that is not back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftContainer {
    /// The run after which it was not back.
    pub run: String,
    /// Since when it is in this list, RFC 3339, UTC.
    pub since: String,
    /// Why, in the engine's words.
    pub why: String,
    /// It was removed while the backup was made: there is nothing to start, but a successor may
    /// appear.
    pub removed: bool,
    /// The command that creates its stack again in the guest.
    pub way_back: Option<String>,
    /// Its engine has never refused to start it: the engine did not answer, or there was no time to
    /// ask it.
    #[serde(default)]
    pub untried: bool,
    /// A mail about it was sent.
    pub told: bool,
    #[serde(flatten)]
    pub container: QuiescedContainer,
}

impl Left {
    /// The list of a guest; empty if it has none.
    ///
    /// # Errors
    /// If the file is not a valid list.
    pub fn load(root: &Root, vmid: Vmid) -> Result<Left> {
        let path = path(root, vmid);
        let bytes = match file::read(&path, LIMIT) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Left::none(vmid)),
            other => other.with_context(|| path.display().to_string())?,
        };
        let read = || -> Result<Left> {
            let left: Left = serde_json::from_slice(&bytes)?;
            ensure!(left.schema == SCHEMA, "it is of schema {}", left.schema);
            ensure!(left.vmid == vmid, "it is of guest {}", left.vmid);
            Ok(left)
        };
        read().with_context(|| path.display().to_string())
    }

    /// Writes the list durably; an empty one is removed.
    pub fn save(&self, root: &Root) -> Result<()> {
        let path = path(root, self.vmid);
        let write = || -> Result<()> {
            if self.containers.is_empty() {
                return Ok(file::remove(&path)?);
            }
            file::own_directory(&root.path(DIRECTORY))?;
            let bytes = serde_json::to_vec_pretty(self)?;
            ensure!(bytes.len() as u64 <= LIMIT, "it would be larger than {LIMIT} bytes");
            Ok(file::replace(&path, &bytes, 0o600)?)
        };
        write().with_context(|| path.display().to_string())
    }

    /// The guests with such a list.
    pub fn guests(root: &Root) -> Result<Vec<Vmid>> {
        let directory = root.path(DIRECTORY);
        let entries = match fs::read_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.with_context(|| directory.display().to_string())?,
        };
        let vmid = |entry: io::Result<fs::DirEntry>| -> Option<Vmid> {
            entry.ok()?.file_name().to_str()?.strip_suffix(".json")?.parse().ok()
        };
        let mut guests: Vec<Vmid> = entries.filter_map(vmid).collect();
        guests.sort();
        Ok(guests)
    }

    /// Adds the containers of a closing run that are not back, each once, and removes those that
    /// the run has brought back.
    pub fn take_in(&mut self, run: &Run) {
        self.run.clone_from(&run.id);
        if run.root_volume.is_some() && self.root_volume != run.root_volume {
            // Entries of another guest with the same VMID no longer count.
            if self.root_volume.is_some() {
                self.containers.clear();
            }
            self.root_volume.clone_from(&run.root_volume);
        }
        let steps = || run.quiesce.iter().flat_map(|quiesce| &quiesce.steps);
        let is_back = |left: &LeftContainer| {
            steps().any(|step| step.id == left.container.id && !step.is_not_back())
        };
        self.containers.retain(|left| !is_back(left));
        let since = clock::rfc3339(clock::now());
        // A note does not say when a container was removed.
        let by_note = run.quiesce.as_ref().is_some_and(|quiesce| quiesce.by == By::Note);
        let left = run.not_back().filter(|step| !(by_note && step.is_removed())).map(|step| {
            LeftContainer {
                run: run.id.clone(),
                since: since.clone(),
                why: step.why_not_back(),
                removed: step.is_removed(),
                untried: step.failures == Failures::None && !step.is_removed(),
                way_back: step.way_back.clone(),
                told: false,
                // The containers that it depends on are in another list.
                container: QuiescedContainer { after: Vec::new(), ..QuiescedContainer::from(step) },
            }
        });
        for new in left {
            let known = self.containers.iter_mut().find(|it| it.container.id == new.container.id);
            match known {
                Some(known) => {
                    known.why = new.why;
                    known.untried &= new.untried;
                }
                None => self.containers.push(new),
            }
        }
        let more = self.containers.len().saturating_sub(MOST);
        self.containers.drain(..more);
    }

    /// The note's entries for those that can still be started.
    pub fn noted(&self) -> impl Iterator<Item = QuiescedContainer> {
        self.containers.iter().filter(|left| !left.removed).map(|left| left.container.clone())
    }

    /// Their ids, in their order.
    pub fn ids(&self) -> Vec<String> {
        self.containers.iter().map(|left| left.container.id.clone()).collect()
    }

    /// The sockets of the engines of those that can still be started.
    pub fn engines(&self) -> BTreeSet<String> {
        let left = self.containers.iter().filter(|left| !left.removed);
        left.map(|left| left.container.engine.clone()).collect()
    }

    /// All of them as a note, in order.
    pub fn as_note(&self) -> Quiesced {
        Quiesced {
            run: self.run.clone(),
            vmid: self.vmid,
            time: self.containers.last().map(|left| left.since.clone()).unwrap_or_default(),
            containers: self.containers.iter().map(|left| left.container.clone()).collect(),
            ..Quiesced::empty()
        }
    }

    /// An empty list.
    pub fn none(vmid: Vmid) -> Left {
        let containers = Vec::new();
        Left { schema: SCHEMA, vmid, root_volume: None, run: String::new(), containers }
    }
}

fn path(root: &Root, vmid: Vmid) -> PathBuf {
    root.path(DIRECTORY).join(format!("{vmid}.json"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Strategy;
    use crate::run::{By, Fate, Quiesce, Step};
    use crate::vzdump::{GuestType, Job, Mode};

    fn run(fates: &[(&str, Fate)]) -> Run {
        let worker = crate::sys::process::Process { pid: 0, started: 0, boot: String::new() };
        let job = Job { upid: None, worker, session: 0 };
        let step = |(id, fate): &(&str, Fate)| {
            let json = format!(
                r#"{{"id":"{id}","name":"{id}","project":null,"service":null,"action":"stop","started_at":"","after":[]}}"#
            );
            let container: QuiescedContainer = serde_json::from_str(&json).unwrap();
            Step { fate: fate.clone(), ..Step::from(container) }
        };
        let steps = fates.iter().map(step).collect();
        let mut run = Run::new(Vmid(9001), GuestType::Lxc, job, Mode::Snapshot);
        run.root_volume = Some("local:9001/x.raw".to_string());
        run.quiesce = Some(Quiesce::new(By::Stillpoint, steps));
        run
    }

    fn names(left: &Left) -> Vec<&str> {
        left.containers.iter().map(|left| left.container.name.as_str()).collect()
    }

    #[test]
    fn what_is_not_back_stays_until_a_later_run_has_brought_it_back() {
        let refused = Fate::Failed("permission denied".to_string());
        let mut left = Left::none(Vmid(9001));
        left.take_in(&run(&[("db", refused), ("web", Fate::Gone), ("cache", Fate::Back)]));
        assert_eq!(names(&left), ["db", "web"]);
        assert_eq!(
            (left.containers[0].why.as_str(), left.containers[1].removed),
            ("permission denied", true)
        );
        assert_eq!(left.noted().count(), 1, "there is nothing to start of what was removed");
        left.take_in(&run(&[("db", Fate::Back), ("proxy", Fate::Open)]));
        assert_eq!(names(&left), ["web", "proxy"]);
        let other = Run { root_volume: Some("local:9001/y.raw".to_string()), ..run(&[]) };
        left.take_in(&other);
        assert!(names(&left).is_empty(), "another guest owes nothing");
    }

    #[test]
    fn what_was_only_paused_and_is_gone_ended_by_itself() {
        let mut run = run(&[("job", Fate::Gone)]);
        for step in run.quiesce.iter_mut().flat_map(|quiesce| &mut quiesce.steps) {
            step.action = Strategy::Pause;
        }
        assert_eq!(run.not_back().count(), 0);
    }
}
