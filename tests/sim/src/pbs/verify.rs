//! The result of verifying one snapshot, and its log lines.

use std::collections::BTreeSet;
use std::fmt;

use super::snapshot::{Damage, File, MANIFEST, Snapshot, SnapshotId};
use super::store::{ChunkDamage, Datastore};

/// The result of checking one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// The lines that the task logs, the line of the first file first.
    pub lines: Vec<String>,
    /// Whether the snapshot is good.
    pub ok: bool,
}

const NO_FILE: &str = "No such file or directory (os error 2)";
const WRONG_CRC: &str = "Data blob has wrong CRC checksum.";

/// The error of loading a blob: the server quotes the path twice.
pub fn blob_error(path: &str, damage: Damage) -> String {
    let why = match damage {
        Damage::Altered => WRONG_CRC,
        Damage::Missing => NO_FILE,
    };
    format!("unable to load blob '{path:?}' - {why}")
}

/// Why a manifest cannot be loaded, in the words of a verify; other calls have other words if it is
/// missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ManifestError {
    /// There is none.
    Missing(String),
    /// It has changed since it was written.
    Altered(String),
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ManifestError::Missing(text) | ManifestError::Altered(text)) = self;
        f.write_str(text)
    }
}

/// The error if there is no manifest.
pub fn missing(store: &Datastore, id: &SnapshotId) -> ManifestError {
    let path = format!("{}/{MANIFEST}", store.snapshot_path(id));
    ManifestError::Missing(blob_error(&path, Damage::Missing))
}

/// Why a manifest cannot be loaded; `None` if it can.
pub fn manifest_error(
    store: &Datastore,
    id: &SnapshotId,
    snapshot: &Snapshot,
) -> Option<ManifestError> {
    let damage = snapshot.damage.get(MANIFEST).copied();
    match damage.or((!snapshot.finished).then_some(Damage::Missing))? {
        Damage::Missing => Some(missing(store, id)),
        Damage::Altered => {
            let path = format!("{}/{MANIFEST}", store.snapshot_path(id));
            Some(ManifestError::Altered(blob_error(&path, Damage::Altered)))
        }
    }
}

/// Checks all files of a snapshot. Damaged chunks are kept in `corrupt` for the rest of the task,
/// and renamed on disk, so that the next backup uploads them again.
pub fn check_snapshot(
    store: &mut Datastore,
    id: &SnapshotId,
    corrupt: &mut BTreeSet<String>,
) -> Option<Checked> {
    let (_, snapshot) = store.snapshot(id)?;
    let snapshot = snapshot.clone();
    let directory = store.snapshot_path(id);
    let mut lines = Vec::new();
    let mut ok = true;
    for file in &snapshot.files {
        let name = &file.name;
        let path = format!("{directory}/{name}");
        lines.push(format!("  check {name}"));
        let damage = snapshot.damage.get(name).copied();
        let error = match damage {
            Some(damage) if name.ends_with(".blob") => Some(blob_error(&path, damage)),
            Some(Damage::Altered) => Some("wrong index checksum".to_owned()),
            Some(Damage::Missing) => {
                let kind = if name.ends_with(".fidx") { "fixed" } else { "dynamic" };
                Some(format!("Unable to open {kind} index {path:?} - {NO_FILE}"))
            }
            None if name.ends_with(".blob") => None,
            None => check_chunks(store, file, corrupt, &mut lines),
        };
        if let Some(error) = error {
            ok = false;
            lines.push(format!("verify {}:{id}/{name} failed: {error}", id.store));
        }
    }
    Some(Checked { lines, ok })
}

fn check_chunks(
    store: &mut Datastore,
    file: &File,
    corrupt: &mut BTreeSet<String>,
    lines: &mut Vec<String>,
) -> Option<String> {
    let mut errors = 0;
    for chunk in &file.chunks {
        if corrupt.contains(chunk) {
            lines.push(format!("chunk {chunk} was marked as corrupt"));
            errors += 1;
        } else if let Some(damage) = store.bad_chunks.get_mut(chunk) {
            *damage = ChunkDamage::Found;
            corrupt.insert(chunk.clone());
            errors += 1;
        }
    }
    let size = file.size as f64 / f64::from(1 << 20);
    let speed = size / 0.01;
    lines.push(format!(
        "  verified {size:.2}/{size:.2} MiB in 0.01 seconds, speed {speed:.2}/{speed:.2} MiB/s \
         ({errors} errors)"
    ));
    (errors > 0).then(|| "chunks could not be verified".to_owned())
}
