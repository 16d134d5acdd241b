//! Backups that a test writes into the simulated server.

use std::collections::BTreeMap;

use super::snapshot::{Damage, File, Snapshot, SnapshotId, hex};
use super::store::{ChunkDamage, Datastore, Group};

/// A backup that has just been written, or is being written.
///
/// Start from [`Backup::of`] and change what matters to the test.
#[derive(Debug, Clone)]
pub struct Backup {
    /// Which snapshot.
    pub id: SnapshotId,
    /// The token or user that writes it.
    pub owner: String,
    /// The encryption key's fingerprint; `None` is an unencrypted backup.
    pub key: Option<String>,
    /// Names and sizes in bytes, in the manifest's order.
    pub files: Vec<(String, u64)>,
    /// Bytes of the manifest.
    pub manifest_size: u64,
    /// The notes.
    pub comment: Option<String>,
    /// Whether it is protected.
    pub protected: bool,
    /// Whether the client log has been uploaded.
    pub client_log: bool,
    /// Whether it is complete; one that is not is locked and has no manifest.
    pub finished: bool,
}

/// The key of the recordings.
pub const KEY: &str = "05:53:55:a0:46:61:81:d8:ad:5b:34:fe:5e:3d:db:c8:\
                       7e:4d:40:47:ff:be:64:2b:1e:e0:10:70:fb:e7:4b:5e";

impl Backup {
    /// A finished, encrypted backup with the files that vzdump writes for that kind of guest.
    pub fn of(id: &SnapshotId, owner: &str) -> Self {
        let files: &[(&str, u64)] = match id.kind.as_str() {
            "vm" => &[("qemu-server.conf.blob", 412), ("drive-scsi0.img.fidx", 4_294_967_296)],
            _ => &[
                ("root.pxar.didx", 9_101_671),
                ("pct.conf.blob", 126),
                ("catalog.pcat1.didx", 1232),
            ],
        };
        Self {
            id: id.clone(),
            owner: owner.to_owned(),
            key: Some(KEY.to_owned()),
            files: files.iter().map(|(name, size)| ((*name).to_owned(), *size)).collect(),
            manifest_size: 543,
            comment: None,
            protected: false,
            client_log: false,
            finished: true,
        }
    }

    /// The same without encryption.
    pub fn unencrypted(mut self) -> Self {
        self.key = None;
        self
    }

    /// The same, still being written.
    pub fn unfinished(mut self) -> Self {
        self.finished = false;
        self
    }
}

impl Datastore {
    /// Stores a backup, and creates its group and namespace if necessary. Chunks that a verify
    /// found damaged are uploaded again, as the client does.
    pub fn add(&mut self, backup: Backup) {
        let id = &backup.id;
        let files: Vec<File> = backup
            .files
            .iter()
            .map(|(name, size)| File { name: name.clone(), size: *size, chunks: chunks(id, name) })
            .collect();
        for chunk in files.iter().flat_map(|file| &file.chunks) {
            if self.bad_chunks.get(chunk) == Some(&ChunkDamage::Found) {
                self.bad_chunks.remove(chunk);
            }
        }
        if !id.ns.is_empty() {
            self.namespaces.insert(id.ns.clone());
        }
        if self.group(&id.ns, &id.kind, &id.id).is_none() {
            self.groups.push(Group {
                ns: id.ns.clone(),
                kind: id.kind.clone(),
                id: id.id.clone(),
                owner: backup.owner,
                snapshots: Vec::new(),
            });
        }
        let snapshot = Snapshot {
            time: id.time,
            files,
            finished: backup.finished,
            client_log: backup.client_log,
            key: backup.key,
            comment: backup.comment,
            protected: backup.protected,
            locked: false,
            verification: None,
            manifest_size: backup.manifest_size,
            damage: BTreeMap::new(),
        };
        for group in &mut self.groups {
            if group.ns == id.ns && group.kind == id.kind && group.id == id.id {
                group.snapshots.retain(|other| other.time != id.time);
                group.snapshots.push(snapshot.clone());
            }
        }
    }

    /// Removes a snapshot, and its group with the last one; returns whether it existed.
    pub fn remove(&mut self, id: &SnapshotId) -> bool {
        let there = self.snapshot(id).is_some();
        for group in &mut self.groups {
            if group.ns == id.ns && group.kind == id.kind && group.id == id.id {
                group.snapshots.retain(|snapshot| snapshot.time != id.time);
            }
        }
        self.groups.retain(|group| !group.snapshots.is_empty());
        there
    }

    /// Damages a chunk of a snapshot: the first that the group's snapshots share, or one of its
    /// own. Returns the digest; `None` if the snapshot has no chunks.
    pub fn damage_chunk(
        &mut self,
        id: &SnapshotId,
        shared: bool,
        damage: ChunkDamage,
    ) -> Option<String> {
        let (_, snapshot) = self.snapshot(id)?;
        let mut files = snapshot.files.iter();
        let file = files.find(|file| !file.chunks.is_empty())?;
        let chunk = if shared { file.chunks.first() } else { file.chunks.last() };
        let chunk = chunk?.clone();
        self.bad_chunks.insert(chunk.clone(), damage);
        Some(chunk)
    }

    /// Damages a file of a snapshot, or with `None` repairs it; returns whether the file exists.
    pub fn damage_file(&mut self, id: &SnapshotId, name: &str, damage: Option<Damage>) -> bool {
        let Some(snapshot) = self.snapshot_mut(id) else {
            return false;
        };
        match damage {
            Some(damage) => drop(snapshot.damage.insert(name.to_owned(), damage)),
            None => drop(snapshot.damage.remove(name)),
        }
        true
    }
}

/// Three chunks that all snapshots of a group share, and one of its own.
fn chunks(id: &SnapshotId, file: &str) -> Vec<String> {
    if file.ends_with(".blob") {
        return Vec::new();
    }
    let group = format!("{}/{}/{}/{}/{file}", id.store, id.ns, id.kind, id.id);
    let mut chunks: Vec<String> = (0..3).map(|part| hex(&format!("{group}/{part}"))).collect();
    chunks.push(hex(&format!("{group}@{}", id.time)));
    chunks
}
