//! Snapshots of a backup server: their names, the list of a guest's, and the state of one.

use std::fmt;
use std::str::FromStr;
use std::time::Instant;

use chrono::{DateTime, NaiveDateTime};
use serde::{Deserialize, Serialize};

use super::Upid;
use super::client::{Error, Pbs, json, small};

const MANIFEST: &str = "index.json.blob";
/// Files of a snapshot that are not the guest's data: the manifest, which is only signed; the
/// client's log; and the key, itself encrypted with the master key.
const NO_DATA: [&str; 3] = [MANIFEST, "client.log.blob", "rsa-encrypted.key.blob"];

const TIME: &str = "%Y-%m-%dT%H:%M:%SZ";

/// The type of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackupType {
    Vm,
    Ct,
    Host,
}

impl BackupType {
    /// The word in names and requests.
    pub fn as_str(self) -> &'static str {
        match self {
            BackupType::Vm => "vm",
            BackupType::Ct => "ct",
            BackupType::Host => "host",
        }
    }
}

/// The name of a snapshot in a datastore.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Snapshot {
    pub backup_type: BackupType,
    /// For a guest, its VMID.
    pub backup_id: String,
    /// Seconds since the epoch.
    pub backup_time: i64,
    /// `None` is the root namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

impl Snapshot {
    /// The same snapshot in a namespace: vzdump's TARGET does not contain it, the storage's
    /// settings do.
    pub fn in_namespace(self, namespace: Option<String>) -> Snapshot {
        let namespace = namespace.filter(|name| !name.is_empty());
        Snapshot { namespace, ..self }
    }

    /// The fields of its group in a request, `ns` only if there is one.
    pub(super) fn group_fields(&self) -> Vec<(&'static str, &str)> {
        let mut fields = vec![
            ("backup-type", self.backup_type.as_str()),
            ("backup-id", self.backup_id.as_str()),
        ];
        fields.extend(namespace(self.namespace.as_deref()));
        fields
    }

    /// The fields of the snapshot in a request, `ns` only if there is one. `time` is `backup_time`
    /// as text.
    pub(super) fn fields<'a>(&'a self, time: &'a str) -> Vec<(&'static str, &'a str)> {
        let mut fields = vec![
            ("backup-type", self.backup_type.as_str()),
            ("backup-id", self.backup_id.as_str()),
            ("backup-time", time),
        ];
        fields.extend(namespace(self.namespace.as_deref()));
        fields
    }
}

pub(super) fn namespace(name: Option<&str>) -> Option<(&'static str, &str)> {
    name.filter(|name| !name.is_empty()).map(|name| ("ns", name))
}

/// The text is not a snapshot's name.
#[derive(Debug, PartialEq, Eq)]
pub struct NoSnapshot;

impl fmt::Display for NoSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not the name of a snapshot (TYPE/ID/YYYY-MM-DDThh:mm:ssZ)")
    }
}

impl std::error::Error for NoSnapshot {}

/// Reads `ct/9001/2026-11-21T23:22:56Z`, vzdump's TARGET on a backup server.
impl FromStr for Snapshot {
    type Err = NoSnapshot;

    fn from_str(text: &str) -> Result<Snapshot, NoSnapshot> {
        let mut parts = text.split('/');
        let (Some(kind), Some(id), Some(time), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(NoSnapshot);
        };
        let backup_type = match kind {
            "vm" => BackupType::Vm,
            "ct" => BackupType::Ct,
            "host" => BackupType::Host,
            _ => return Err(NoSnapshot),
        };
        let in_id = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        if id.is_empty() || id.starts_with(['.', '-']) || !id.bytes().all(in_id) {
            return Err(NoSnapshot);
        }
        let time = NaiveDateTime::parse_from_str(time, TIME).map_err(|_| NoSnapshot)?;
        let snapshot = Snapshot {
            backup_type,
            backup_id: id.to_owned(),
            backup_time: time.and_utc().timestamp(),
            namespace: None,
        };
        // Of the notations of a time, only this one is the snapshot's name.
        if snapshot.backup_time <= 0 || snapshot.to_string() != text {
            return Err(NoSnapshot);
        }
        Ok(snapshot)
    }
}

/// The name within its namespace, as in vzdump's TARGET.
impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/", self.backup_type.as_str(), self.backup_id)?;
        match DateTime::from_timestamp(self.backup_time, 0) {
            Some(time) => write!(f, "{}", time.format(TIME)),
            None => write!(f, "{}", self.backup_time),
        }
    }
}

/// The result of the last verify.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VerifyState {
    Ok,
    Failed,
}

impl VerifyState {
    /// The server's word.
    pub fn as_str(self) -> &'static str {
        match self {
            VerifyState::Ok => "ok",
            VerifyState::Failed => "failed",
        }
    }
}

/// The last verify of a snapshot. Of two concurrent ones, the one that ended last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    pub state: VerifyState,
    /// The task that verified this snapshot, its group, or the whole datastore.
    pub upid: Upid,
}

/// A file of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SnapshotFile {
    pub filename: String,
    /// `encrypt`, `sign-only` or `none`; `None` if the manifest is missing, damaged or does not
    /// name the file.
    pub crypt_mode: Option<String>,
    /// In bytes; `None` as for `crypt_mode`.
    pub size: Option<u64>,
}

/// Whether every file with the guest's data was encrypted before it was sent. False if that is
/// unknown.
pub fn encrypted(files: &[SnapshotFile]) -> bool {
    let data = || files.iter().filter(|file| !NO_DATA.contains(&file.filename.as_str()));
    data().next().is_some() && data().all(|file| file.crypt_mode.as_deref() == Some("encrypt"))
}

/// The files with the guest's data that were not encrypted before they were sent, or may not have
/// been; a remark if no file with data is known. Empty if [`encrypted`] is true.
pub fn unencrypted(files: &[SnapshotFile]) -> Vec<&str> {
    let data = || files.iter().filter(|file| !NO_DATA.contains(&file.filename.as_str()));
    if data().next().is_none() {
        return vec!["no file with data is named in the manifest"];
    }
    data()
        .filter(|file| file.crypt_mode.as_deref() != Some("encrypt"))
        .map(|file| file.filename.as_str())
        .collect()
}

/// A snapshot in the list of a datastore.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Entry {
    #[serde(flatten)]
    pub snapshot: Snapshot,
    pub files: Vec<SnapshotFile>,
    /// The sum of its files before deduplication, in bytes. `None` while it is being written or if
    /// its manifest is damaged.
    pub size: Option<u64>,
    /// The user or token that owns the group.
    pub owner: Option<String>,
    #[serde(default)]
    pub protected: bool,
    /// The fingerprint of the encryption key, for an encrypted snapshot.
    pub fingerprint: Option<String>,
    /// The first line of the notes.
    pub comment: Option<String>,
    /// `None` before the first verify.
    pub verification: Option<Verification>,
}

impl Entry {
    /// Whether the backup is complete: an incomplete one has no manifest.
    pub fn is_finished(&self) -> bool {
        self.files.iter().any(|file| file.filename == MANIFEST)
    }

    /// As [`encrypted`].
    pub fn is_encrypted(&self) -> bool {
        encrypted(&self.files)
    }
}

/// A snapshot as its own manifest describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// The files with the guest's data.
    pub files: Vec<SnapshotFile>,
    /// `None` before the first verify.
    pub verification: Option<Verification>,
    /// The fingerprint of the encryption key, for an encrypted or signed snapshot.
    pub fingerprint: Option<String>,
}

impl Pbs {
    /// The state of one snapshot, by one small request, whatever the size of the datastore. Needs
    /// the right to read it, or to back up and be its owner.
    ///
    /// # Errors
    /// As all calls; a snapshot that does not exist is [`Error::Gone`], one that has no manifest
    /// [`Error::Refused`].
    pub fn state(&self, snapshot: &Snapshot, deadline: Instant) -> Result<State, Error> {
        let time = snapshot.backup_time.to_string();
        let mut query = snapshot.fields(&time);
        query.push(("file-name", MANIFEST));
        let path = self.datastore("download-decoded");
        let answer = self.get_raw(&path, &query, small(deadline));
        let answer = answer.map_err(|error| self.gone_or(error, snapshot, deadline))?;
        let manifest: Manifest = json(&answer)?;
        manifest.of(snapshot)
    }

    /// Whether a snapshot is protected from pruning.
    ///
    /// # Errors
    /// As all calls.
    pub fn is_protected(&self, snapshot: &Snapshot, deadline: Instant) -> Result<bool, Error> {
        let time = snapshot.backup_time.to_string();
        self.get(&self.datastore("protected"), &snapshot.fields(&time), small(deadline))
    }
}

/// The used parts of the decoded `index.json.blob`.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Manifest {
    #[serde(flatten)]
    snapshot: Snapshot,
    files: Vec<SnapshotFile>,
    #[serde(default)]
    unprotected: Unprotected,
}

/// The part that the server may change after the backup, which the client's signature does not
/// cover.
#[derive(Deserialize, Default)]
struct Unprotected {
    verify_state: Option<Verification>,
    #[serde(rename = "key-fingerprint")]
    fingerprint: Option<String>,
}

impl Manifest {
    /// Checks that the answer is about the requested snapshot.
    fn of(self, asked: &Snapshot) -> Result<State, Error> {
        let namespace = asked.namespace.clone();
        let snapshot = Snapshot { namespace, ..self.snapshot };
        if snapshot != *asked {
            let text = format!("asked for {asked}, got {snapshot}");
            return Err(Error::Invalid(super::client::printable(text.as_bytes())));
        }
        Ok(State {
            files: self.files,
            verification: self.unprotected.verify_state,
            fingerprint: self.unprotected.fingerprint,
        })
    }
}

#[cfg(test)]
mod tests;
