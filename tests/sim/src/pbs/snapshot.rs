//! One snapshot: its name, its files, its manifest and its damage.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Value, json};

use super::store::Group;
use crate::tls::sha256;

/// Names one snapshot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SnapshotId {
    /// The datastore.
    pub store: String,
    /// The namespace, empty for the root.
    pub ns: String,
    /// `ct`, `vm` or `host`.
    pub kind: String,
    /// The guest's id.
    pub id: String,
    /// Epoch seconds.
    pub time: i64,
}

impl SnapshotId {
    /// A snapshot's name from its parts; `ns` is empty for the root namespace.
    pub fn new(store: &str, ns: &str, kind: &str, id: &str, time: i64) -> Self {
        Self {
            store: store.to_owned(),
            ns: ns.to_owned(),
            kind: kind.to_owned(),
            id: id.to_owned(),
            time,
        }
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.kind, self.id, rfc3339(self.time))
    }
}

/// `2026-11-21T23:14:34Z`.
pub fn rfc3339(epoch: i64) -> String {
    chrono::DateTime::from_timestamp(epoch, 0)
        .unwrap_or_default()
        .format("%Y-%m-%dT%H:%M:%SZ")
        .to_string()
}

/// One file of a snapshot.
#[derive(Debug, Clone)]
pub struct File {
    /// Such as `root.pxar.didx`.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Digests of its chunks; blobs have none.
    pub chunks: Vec<String>,
}

/// The damage of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// Its bytes changed.
    Altered,
    /// It is gone.
    Missing,
}

/// The verify state of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verification {
    /// `ok` or `failed`.
    pub state: &'static str,
    /// The task that set it.
    pub upid: String,
    /// When that task started, epoch seconds.
    pub starttime: i64,
}

/// One snapshot.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Epoch seconds.
    pub time: i64,
    /// The files of the manifest, in its order.
    pub files: Vec<File>,
    /// Whether the manifest has been written; a backup that still runs has none.
    pub finished: bool,
    /// Whether the client has uploaded its log.
    pub client_log: bool,
    /// The encryption key's fingerprint; encrypted if set.
    pub key: Option<String>,
    /// The notes.
    pub comment: Option<String>,
    /// Whether it is protected from pruning.
    pub protected: bool,
    /// Whether its lock is held, as by a running backup, prune or forget.
    pub locked: bool,
    /// The last verify.
    pub verification: Option<Verification>,
    /// Bytes of `index.json.blob` before any verify.
    pub manifest_size: u64,
    /// Files that are damaged, by name.
    pub damage: BTreeMap<String, Damage>,
}

/// The manifest's file name.
pub const MANIFEST: &str = "index.json.blob";
const CLIENT_LOG: &str = "client.log.blob";
/// About how many bytes a verify state adds to a compressed manifest.
const VERIFY_STATE_SIZE: u64 = 111;

impl Snapshot {
    /// Whether the manifest can be read.
    pub fn readable(&self) -> bool {
        self.finished && !self.damage.contains_key(MANIFEST)
    }

    fn manifest_file_size(&self) -> u64 {
        self.manifest_size + self.verification.as_ref().map_or(0, |_| VERIFY_STATE_SIZE)
    }

    fn crypt_mode(&self) -> &'static str {
        self.key.as_ref().map_or("none", |_| "encrypt")
    }

    /// The names in the snapshot's directory.
    pub fn directory(&self) -> Vec<&str> {
        let files = self.files.iter().map(|file| file.name.as_str());
        let mut names: Vec<&str> = files.collect();
        if self.finished && self.damage.get(MANIFEST) != Some(&Damage::Missing) {
            names.push(MANIFEST);
        }
        if self.client_log {
            names.push(CLIENT_LOG);
        }
        names.reverse();
        names
    }

    /// The `files` of a list entry; without a readable manifest only the names are known.
    pub fn list_files(&self) -> Value {
        if !self.readable() {
            let names = self.directory();
            return names.iter().map(|name| json!({ "filename": name })).collect();
        }
        let mode = self.crypt_mode();
        let entry = |name: &str, mode: &str, size: u64| json!({"filename": name, "crypt-mode": mode, "size": size});
        let mut list: Vec<Value> =
            self.files.iter().map(|file| entry(&file.name, mode, file.size)).collect();
        let signed = if self.key.is_some() { "sign-only" } else { "none" };
        list.push(entry(MANIFEST, signed, self.manifest_file_size()));
        if self.client_log {
            list.push(json!({ "filename": CLIENT_LOG }));
        }
        Value::Array(list)
    }

    /// A list entry, its keys in the server's order.
    pub fn entry(&self, group: &Group) -> String {
        let mut pairs = vec![
            ("backup-type", json!(group.kind)),
            ("backup-id", json!(group.id)),
            ("backup-time", json!(self.time)),
        ];
        if self.readable() {
            if let Some(comment) = &self.comment {
                pairs.push(("comment", json!(comment)));
            }
            if let Some(last) = &self.verification {
                let last = json!({"upid": last.upid, "state": last.state});
                pairs.push(("verification", last));
            }
            if let Some(key) = &self.key {
                pairs.push(("fingerprint", json!(key)));
            }
        }
        pairs.push(("files", self.list_files()));
        if self.readable() {
            let files: u64 = self.files.iter().map(|file| file.size).sum();
            pairs.push(("size", json!(files + self.manifest_file_size())));
        }
        pairs.push(("owner", json!(group.owner)));
        pairs.push(("protected", json!(self.protected)));
        ordered(&pairs)
    }

    /// The manifest, as `download-decoded` returns it.
    pub fn manifest(&self, group: &Group) -> Value {
        let mode = self.crypt_mode();
        let files: Vec<Value> = self
            .files
            .iter()
            .map(|file| {
                let csum = hex(&format!("{}{}{}", group.id, self.time, file.name));
                json!({"crypt-mode": mode, "csum": csum, "filename": file.name, "size": file.size})
            })
            .collect();
        let size: u64 = self.files.iter().map(|file| file.size).sum();
        let mut unprotected = json!({
            "chunk_upload_stats": {"compressed_size": size, "count": 7, "duplicates": 0, "size": size},
        });
        if let Some(key) = &self.key {
            unprotected["key-fingerprint"] = json!(key);
        }
        if let Some(comment) = &self.comment {
            unprotected["notes"] = json!(comment);
        }
        if let Some(last) = &self.verification {
            unprotected["verify_state"] = json!({"state": last.state, "upid": last.upid});
        }
        let signature = self.key.as_ref().map(|key| hex(&format!("{key}{}", self.time)));
        json!({
            "backup-id": group.id,
            "backup-time": self.time,
            "backup-type": group.kind,
            "files": files,
            "signature": signature,
            "unprotected": unprotected,
        })
    }
}

/// JSON text with the keys in this very order.
pub fn ordered(pairs: &[(&str, Value)]) -> String {
    let pairs = pairs.iter().map(|(name, value)| format!("\"{name}\":{value}"));
    format!("{{{}}}", pairs.collect::<Vec<_>>().join(","))
}

/// SHA-256 in hex.
pub fn hex(text: &str) -> String {
    let digest = sha256(text.as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
