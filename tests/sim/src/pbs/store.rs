//! The content of a datastore.

use std::collections::{BTreeMap, BTreeSet};

use super::snapshot::{Snapshot, SnapshotId, rfc3339};

/// The damage of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkDamage {
    /// Its bytes changed, and no verify has seen it yet.
    Altered,
    /// It is gone, and no verify has seen it yet.
    Missing,
    /// A verify has seen it: the next backup uploads the chunk again.
    Found,
}

/// All snapshots of one guest in one namespace.
#[derive(Debug, Clone)]
pub struct Group {
    /// The namespace, empty for the root.
    pub ns: String,
    /// `ct`, `vm` or `host`.
    pub kind: String,
    /// The guest's id.
    pub id: String,
    /// The user or token that owns it.
    pub owner: String,
    /// In no particular order.
    pub snapshots: Vec<Snapshot>,
}

/// Why a datastore cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Maintenance {
    /// Nothing works; the message.
    Offline(String),
    /// Reading and verifying work; the message.
    ReadOnly(String),
    /// It is being unmounted, which waits for a task that still uses it.
    Unmounting,
    /// It is being deleted.
    Deleting,
    /// Its disk is not mounted.
    NotMounted,
    /// Its directory is not there: the file system that holds it is not mounted.
    NoDirectory,
    /// Its directory went away while the server was using it: it looks empty, and nobody knows how much room it has.
    Vanished,
    /// Its contents are read anew from the object store; the message.
    Refresh(String),
}

impl Maintenance {
    /// Why the datastore cannot be used at all; `None` if it can be read.
    pub fn refusal(&self, store: &str) -> Option<String> {
        let why = match self {
            Self::ReadOnly(_) | Self::Vanished => return None,
            Self::NoDirectory => {
                return Some(format!(
                    "unable to open chunk store at \"/mnt/{store}/.chunks\" - No such file or directory (os error 2)"
                ));
            }
            Self::Refresh(message) => format!("S3 refresh maintenance mode: {message}"),
            Self::NotMounted => return Some(format!("datastore '{store}' is not mounted")),
            Self::Offline(message) => format!("offline maintenance mode: {message}"),
            Self::Unmounting => "datastore is being unmounted".to_owned(),
            Self::Deleting => "datastore is being deleted".to_owned(),
        };
        Some(format!("datastore '{store}' is unavailable: {why}"))
    }
}

/// One datastore.
#[derive(Debug, Clone)]
pub struct Datastore {
    /// Its name.
    pub name: String,
    /// Its directory on the server, which error texts show.
    pub path: String,
    /// The comment in its settings.
    pub comment: Option<String>,
    /// Total, used and free bytes.
    pub space: [u64; 3],
    /// `filesystem` or `s3`.
    pub backend: &'static str,
    /// Whether it is under maintenance.
    pub maintenance: Option<Maintenance>,
    /// Whether the server verifies each new backup itself.
    pub verify_new: bool,
    /// Its namespaces besides the root.
    pub namespaces: BTreeSet<String>,
    /// Its groups, of all namespaces.
    pub groups: Vec<Group>,
    /// Damaged chunks, by digest.
    pub bad_chunks: BTreeMap<String, ChunkDamage>,
    /// How many more verifies find the snapshot's manifest locked when they want to write their
    /// result.
    pub manifest_locked: u32,
    /// How many additional generated snapshots a list of the root namespace has.
    pub made_up: u64,
}

impl Datastore {
    /// An empty datastore.
    pub fn new(name: &str, path: &str) -> Self {
        Self {
            name: name.to_owned(),
            path: path.to_owned(),
            comment: None,
            space: [270_553_174_016, 21_096_648_704, 76_476_100_608],
            backend: "filesystem",
            maintenance: None,
            verify_new: false,
            namespaces: BTreeSet::new(),
            groups: Vec::new(),
            bad_chunks: BTreeMap::new(),
            manifest_locked: 0,
            made_up: 0,
        }
    }

    /// Whether its disk is full.
    pub fn is_full(&self) -> bool {
        self.space[2] == 0
    }

    /// Whether the namespace exists.
    pub fn has_namespace(&self, ns: &str) -> bool {
        ns.is_empty() || self.namespaces.contains(ns)
    }

    /// The group, if there is one.
    pub fn group(&self, ns: &str, kind: &str, id: &str) -> Option<&Group> {
        self.groups.iter().find(|group| group.ns == ns && group.kind == kind && group.id == id)
    }

    /// The snapshot and its group, if there is one.
    pub fn snapshot(&self, id: &SnapshotId) -> Option<(&Group, &Snapshot)> {
        let group = self.group(&id.ns, &id.kind, &id.id)?;
        let mut snapshots = group.snapshots.iter();
        Some((group, snapshots.find(|snapshot| snapshot.time == id.time)?))
    }

    /// The snapshot, for changing.
    pub fn snapshot_mut(&mut self, id: &SnapshotId) -> Option<&mut Snapshot> {
        let group = self
            .groups
            .iter_mut()
            .find(|group| group.ns == id.ns && group.kind == id.kind && group.id == id.id)?;
        let mut snapshots = group.snapshots.iter_mut();
        snapshots.find(|snapshot| snapshot.time == id.time)
    }

    /// The directory of a group: `PATH[/ns/NS]/ct/9001`.
    pub fn group_path(&self, ns: &str, kind: &str, id: &str) -> String {
        let ns = namespace_path(ns);
        let separator = if ns.is_empty() { "" } else { "/" };
        format!("{}{separator}{ns}/{kind}/{id}", self.path)
    }

    /// The directory of a snapshot.
    pub fn snapshot_path(&self, id: &SnapshotId) -> String {
        let group = self.group_path(&id.ns, &id.kind, &id.id);
        format!("{group}/{}", rfc3339(id.time))
    }
}

/// `a/b` as `ns/a/ns/b`, the root as nothing.
pub fn namespace_path(ns: &str) -> String {
    let parts = ns.split('/').filter(|part| !part.is_empty());
    let parts = parts.map(|part| format!("ns/{part}"));
    parts.collect::<Vec<_>>().join("/")
}
