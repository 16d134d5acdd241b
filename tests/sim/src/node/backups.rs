//! The backup server of the node's PBS storages, and what vzdump writes to it.

use super::Node;
use crate::pbs::{Backup, Config, SimPbs, SnapshotId};
use anyhow::{Context, Result};
use serde_json::Value;
use std::fs::Permissions;
use std::mem;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The datastore of the node's storages.
pub const DATASTORE: &str = "backups";
/// The token of the node's storages.
pub const TOKEN: &str = "stillpoint@pbs!node";
/// Its secret.
pub const SECRET: &str = "2c6f7e6d-0000-4000-8000-5111b01d0000";

/// Longer than any test.
const FOR_EVER: Duration = Duration::from_secs(24 * 3600);

/// A backup server with the node as its client.
pub struct BackupServer {
    /// The server.
    pub pbs: SimPbs,
    namespace: String,
    writing: Mutex<Vec<SnapshotId>>,
}

impl Node {
    /// The backup server, if a storage uses one.
    pub fn backup_server(&self) -> Option<&BackupServer> {
        self.backups.as_ref()
    }

    /// Adds a PBS storage with that id. The first one starts the server, on a port of 127.0.0.1,
    /// with a datastore and a token that has the role `DatastoreBackup` on it.
    ///
    /// # Errors
    /// If the server does not start or the node's files cannot be written.
    pub fn add_backup_server(&mut self, id: &str, namespace: Option<&str>) -> Result<()> {
        if self.backups.is_none() {
            let pbs = SimPbs::start(Config::default())?;
            pbs.edit(|state| {
                state.add_datastore(DATASTORE);
                state.access.add_token(TOKEN, SECRET);
                state.access.grant_both(
                    &format!("/datastore/{DATASTORE}"),
                    TOKEN,
                    "DatastoreBackup",
                );
            });
            let namespace = namespace.unwrap_or_default().to_owned();
            let writing = Mutex::default();
            self.backups = Some(BackupServer { pbs, namespace, writing });
        }
        let server = self.backups.as_ref().context("the server has just been started")?;
        let (port, fingerprint) = (server.pbs.port().to_string(), server.pbs.fingerprint());
        let mut keys = vec![
            ("datastore", DATASTORE),
            ("server", "127.0.0.1"),
            ("content", "backup"),
            ("fingerprint", &fingerprint),
            ("port", &port),
            ("prune-backups", "keep-all=1"),
            ("username", TOKEN),
        ];
        if let Some(namespace) = namespace {
            keys.push(("namespace", namespace));
        }
        self.add_storage("pbs", id, &keys)?;
        let secret = format!("etc/pve/priv/storage/{id}.pw");
        self.write(&secret, &format!("{SECRET}\n"))?;
        std::fs::set_permissions(self.path(&secret), Permissions::from_mode(0o600))
            .context("hiding the secret")
    }
}

impl BackupServer {
    fn writing(&self) -> MutexGuard<'_, Vec<SnapshotId>> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `ct/9001/2026-11-21T23:22:56Z`, in the storage's namespace.
    fn snapshot(&self, target: &str) -> Result<SnapshotId> {
        let words = target.splitn(3, '/').collect::<Vec<_>>();
        let [kind, id, time] = words[..] else {
            anyhow::bail!("{target} is no snapshot's name");
        };
        let time = chrono::DateTime::parse_from_rfc3339(time)
            .with_context(|| format!("{target} has no time"))?;
        Ok(SnapshotId::new(DATASTORE, &self.namespace, kind, id, time.timestamp()))
    }

    /// A backup begins: from now on it is listed as unfinished.
    ///
    /// # Errors
    /// If the name is no snapshot's.
    pub fn begin(&self, target: &str) -> Result<()> {
        let id = self.snapshot(target)?;
        self.pbs.add_snapshot(Backup::of(&id, TOKEN).unfinished());
        self.writing().push(id);
        Ok(())
    }

    /// A backup is complete.
    ///
    /// # Errors
    /// If the name is no snapshot's.
    pub fn finish(&self, target: &str) -> Result<()> {
        let id = self.snapshot(target)?;
        self.writing().retain(|writing| *writing != id);
        self.pbs.add_snapshot(Backup::of(&id, TOKEN));
        Ok(())
    }

    /// A backup is aborted: the server forgets it.
    ///
    /// # Errors
    /// If the name is no snapshot's.
    pub fn give_up(&self, target: &str) -> Result<()> {
        let id = self.snapshot(target)?;
        let mut writing = self.writing();
        if writing.contains(&id) {
            writing.retain(|writing| *writing != id);
            self.pbs.edit(|state| state.remove_snapshot(&id));
        }
        Ok(())
    }

    /// The client has disconnected: the server forgets its unfinished backup.
    pub fn connection_lost(&self) {
        for id in self.writing().drain(..) {
            self.pbs.edit(|state| state.remove_snapshot(&id));
        }
    }

    /// From now on no verify ends; returns how long one took until now.
    pub fn hold_verifies(&self) -> Duration {
        self.pbs.edit(|state| mem::replace(&mut state.verify_time, FOR_EVER))
    }

    /// Ends all verifies that are held; later ones take `usual`.
    pub fn release_verifies(&self, usual: Duration) {
        self.pbs.edit(|state| state.verify_time = usual);
        for task in self.tasks().iter().filter(|task| task["status"] == "running") {
            task["upid"].as_str().map(|upid| self.pbs.finish(upid));
        }
    }

    /// Whether a task runs.
    pub fn is_busy(&self) -> bool {
        self.tasks().iter().any(|task| task["status"] == "running")
    }

    /// All tasks, oldest first.
    pub fn tasks(&self) -> Vec<Value> {
        self.pbs.tasks()
    }
}
