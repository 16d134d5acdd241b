//! Whether a guest's engines were seen to start containers, or failed to.
//!
//! It is at `/var/lib/stillpoint/started/VMID.json`. Whoever changes it holds the guest's lock.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::engine::Versions;
use crate::sys::{Root, clock, file};
use crate::vzdump::Vmid;

/// The version of the file's shape.
const SCHEMA: u32 = 1;

/// [`MOST_SEEN`] engines with their components, and [`MOST_PENDING`] names, in bytes.
const LIMIT: u64 = 256 << 10;

/// How many versions are kept: a guest has one engine, or a few.
const MOST_SEEN: usize = 8;

/// How many throwaway containers that could not be removed are remembered. If there are more, no
/// other is made.
const MOST_PENDING: usize = 16;

/// The observations about the engines of one guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    pub schema: u32,
    /// The guest's start that the observations belong to ([`Guest::boot`](crate::guest::Guest)).
    pub boot: String,
    /// The newest last.
    pub seen: Vec<Seen>,
    /// Throwaway containers that are about to be made, or could not be removed yet.
    pub pending: Vec<Pending>,
}

/// A throwaway container that may exist.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// The socket of its engine.
    pub engine: String,
    /// The value of its label.
    pub token: String,
}

/// The observations about an engine in one set of versions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    pub versions: Versions,
    /// When it was last seen to start a container; RFC 3339, UTC.
    #[serde(default)]
    pub started: Option<String>,
    /// When it was last seen to unpause a container; RFC 3339, UTC.
    #[serde(default)]
    pub unpaused: Option<String>,
    /// Why it is not known to start containers since the last test.
    #[serde(default)]
    pub refusal: Option<Refusal>,
}

/// A test that did not show that an engine starts containers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// RFC 3339, UTC.
    pub time: String,
    /// Why, with the engine's own words.
    pub reason: String,
    /// The test used a container of the guest, which did not start again.
    #[serde(default)]
    pub container: bool,
}

impl Default for Started {
    fn default() -> Started {
        Started { schema: SCHEMA, boot: String::new(), seen: Vec::new(), pending: Vec::new() }
    }
}

impl Started {
    /// The observations about a guest, from any of its starts. An invalid file counts as missing:
    /// everything in it can be observed again.
    pub fn load(root: &Root, vmid: Vmid) -> Started {
        let read = file::read(&path(root, vmid), LIMIT).ok();
        let known = read.and_then(|bytes| serde_json::from_slice::<Started>(&bytes).ok());
        known.filter(|known| known.schema == SCHEMA).unwrap_or_default()
    }

    /// The observations since that start of the guest; earlier ones no longer count. Throwaway
    /// containers to remove are always included.
    pub fn load_of(root: &Root, vmid: Vmid, boot: &str) -> Started {
        let known = Started::load(root, vmid);
        if known.boot == boot {
            return known;
        }
        Started { boot: boot.to_string(), pending: known.pending, ..Started::default() }
    }

    /// Writes it durably.
    ///
    /// # Errors
    /// If it cannot be written; the error names the path.
    pub fn save(&self, root: &Root, vmid: Vmid) -> Result<()> {
        let path = path(root, vmid);
        let write = || -> Result<()> {
            file::own_directory(&directory(root))?;
            Ok(file::replace(&path, &serde_json::to_vec_pretty(self)?, 0o600)?)
        };
        write().with_context(|| path.display().to_string())
    }

    /// The observation of an engine in these versions.
    pub fn of(&self, versions: &Versions) -> Option<&Seen> {
        self.seen.iter().find(|seen| seen.versions == *versions)
    }

    /// Whether an engine of these versions was seen to start a container, and has not failed to
    /// since. Nothing else was seen in between: who goes back to versions that once worked goes
    /// back to other files.
    pub fn starts(&self, versions: &Versions) -> bool {
        let is_its = |seen: &&Seen| {
            (&seen.versions.socket, &seen.versions.runtime) == (&versions.socket, &versions.runtime)
        };
        let last = self.seen.iter().rev().find(is_its).filter(|seen| seen.versions == *versions);
        last.is_some_and(|seen| seen.started.is_some() && seen.refusal.is_none())
    }

    /// Records that an engine in these versions has just started a container.
    pub fn saw_start(&mut self, versions: &Versions) {
        self.latest(versions).started = Some(clock::rfc3339(clock::now()));
        self.answered(versions);
    }

    /// An engine in these versions has refused what it started before: test it before the next
    /// stop.
    pub fn doubt(&mut self, versions: &Versions) {
        if let Some(seen) = self.seen.iter_mut().find(|seen| seen.versions == *versions) {
            seen.started = None;
        }
    }

    /// Records that it has just unpaused a container.
    pub fn saw_unpause(&mut self, versions: &Versions) {
        self.latest(versions).unpaused = Some(clock::rfc3339(clock::now()));
    }

    /// Records that a test has just not shown that it starts containers.
    pub fn saw_refusal(&mut self, versions: &Versions, reason: &str, container: bool) {
        let time = clock::rfc3339(clock::now());
        self.answered(versions);
        self.latest(versions).refusal =
            Some(Refusal { time, reason: reason.to_string(), container });
    }

    /// Records a throwaway container that is about to be made; false if there are too many.
    pub fn expect(&mut self, engine: &str, token: &str) -> bool {
        if self.pending.len() >= MOST_PENDING {
            return false;
        }
        self.pending.push(Pending { engine: engine.to_string(), token: token.to_string() });
        true
    }

    /// Records that it was removed.
    pub fn gone(&mut self, token: &str) {
        self.pending.retain(|pending| pending.token != token);
    }

    /// The last refusal, unless a later test of the same engine had another result.
    pub fn refusal(&self) -> Option<&Refusal> {
        self.seen.iter().rev().find_map(|seen| seen.refusal.as_ref())
    }

    /// What the same engine refused before with this runtime, also in other versions, is no longer
    /// the last that was seen of it.
    fn answered(&mut self, versions: &Versions) {
        let is_its = |seen: &&mut Seen| {
            (&seen.versions.socket, &seen.versions.runtime) == (&versions.socket, &versions.runtime)
        };
        for seen in self.seen.iter_mut().filter(is_its) {
            seen.refusal = None;
        }
    }

    /// The guests with observations.
    pub fn guests(root: &Root) -> Vec<Vmid> {
        let entries = fs::read_dir(directory(root)).into_iter().flatten().flatten();
        let vmid = |name: &str| name.strip_suffix(".json")?.parse().ok();
        let mut guests: Vec<Vmid> =
            entries.filter_map(|entry| vmid(entry.file_name().to_str()?)).collect();
        guests.sort();
        guests
    }

    fn latest(&mut self, versions: &Versions) -> &mut Seen {
        let known = self.seen.iter().position(|seen| seen.versions == *versions);
        let seen = match known {
            Some(at) => self.seen.remove(at),
            None => Seen { versions: versions.clone(), ..Seen::default() },
        };
        if self.seen.len() >= MOST_SEEN {
            self.seen.remove(0);
        }
        self.seen.push(seen);
        let last = self.seen.len() - 1;
        &mut self.seen[last]
    }
}

fn directory(root: &Root) -> PathBuf {
    root.path("/var/lib/stillpoint/started")
}

fn path(root: &Root, vmid: Vmid) -> PathBuf {
    directory(root).join(format!("{vmid}.json"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::text;

    fn versions(runc: &str) -> Versions {
        Versions {
            socket: "/run/docker.sock".into(),
            engine: "5f9c1f5e".into(),
            runtime: "runc".into(),
            components: vec!["Engine 29.0.1".into(), format!("runc {runc}")],
            files: vec!["/usr/bin/runc 1 2 3".into()],
        }
    }

    #[test]
    fn evidence_is_of_exactly_these_versions() {
        let mut started = Started::default();
        started.saw_start(&versions("1.3.0"));
        assert!(started.starts(&versions("1.3.0")));
        assert!(!started.starts(&versions("1.3.3")));
        let other = Versions { engine: "another".into(), ..versions("1.3.0") };
        assert!(!started.starts(&other));
        let other = Versions { runtime: "crun".into(), ..versions("1.3.0") };
        assert!(!started.starts(&other));
        let other = Versions { files: vec!["/usr/bin/runc 2 2 3".into()], ..versions("1.3.0") };
        assert!(!started.starts(&other));
    }

    #[test]
    fn what_was_seen_last_counts() {
        let mut started = Started::default();
        started.saw_start(&versions("1"));
        started.saw_refusal(&versions("1"), "permission denied", false);
        assert!(!started.starts(&versions("1")));
        assert_eq!(started.refusal().unwrap().reason, "permission denied");
        started.saw_start(&versions("1"));
        assert!(started.starts(&versions("1")) && started.refusal().is_none());
        started.saw_refusal(&versions("2"), "permission denied", false);
        assert!(!started.starts(&versions("1")), "what it goes back to is seen anew");
        let other = Versions { runtime: "crun".into(), ..versions("1") };
        started.saw_start(&other);
        assert!(started.refusal().is_some(), "another runtime says nothing of this one");
        started.saw_start(&versions("3"));
        assert_eq!(started.refusal(), None, "an update has mended it");
    }

    #[test]
    fn evidence_ends_with_the_guests_boot_and_what_is_to_be_removed_stays() {
        let directory = std::env::temp_dir().join(format!("stillpoint-started-{}", text::token()));
        let root = Root::at(&directory);
        let mut started = Started::load_of(&root, Vmid(9001), "boot:1:7");
        assert_eq!(started.boot, "boot:1:7");
        started.saw_start(&versions("1"));
        assert!(started.expect("/run/docker.sock", "a"));
        started.save(&root, Vmid(9001)).unwrap();
        assert_eq!(Started::load_of(&root, Vmid(9001), "boot:1:7"), started);
        let next = Started::load_of(&root, Vmid(9001), "boot:1:8");
        assert!(!next.starts(&versions("1")));
        assert_eq!(next.pending[0].token, "a");
        assert_eq!(Started::guests(&root), [Vmid(9001)]);
        fs::write(path(&root, Vmid(9001)), "[").unwrap();
        assert_eq!(Started::load(&root, Vmid(9001)), Started::default());
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn no_more_is_remembered_than_is_needed() {
        let mut started = Started::default();
        for build in 0..100 {
            started.saw_start(&versions(&build.to_string()));
        }
        assert_eq!(started.seen.len(), MOST_SEEN);
        assert!(started.starts(&versions("99")) && !started.starts(&versions("9")));
        let expected = (0..100).filter(|token| started.expect("", &token.to_string())).count();
        assert_eq!(expected, MOST_PENDING);
    }
}
