//! A simulated Proxmox Backup Server.
//!
//! It answers over TLS on a port of 127.0.0.1 what a real server (4.2.3) was recorded to answer,
//! word for word; the contract test replays the recordings against it. A few texts that no
//! recording shows follow the server's sources: the login ticket, the lock of a running backup, an
//! aborted task, a datastore under maintenance.

pub mod access;
pub mod api;
pub mod backup;
mod datastore;
pub mod fault;
pub mod params;
pub mod plan;
mod server;
pub mod snapshot;
mod snapshots;
mod start;
pub mod state;
pub mod store;
pub mod task;
mod tasks;
#[cfg(test)]
mod tests;
pub mod upid;
pub mod verify;

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::tls::{Identity, Versions};
pub use backup::Backup;
pub use fault::Fault;
use fault::Rule;
use server::Server;
pub use snapshot::{Damage, SnapshotId};
pub use state::{Restart, State};
pub use store::{ChunkDamage, Datastore, Maintenance};

/// The settings of the server.
#[derive(Clone)]
pub struct Config {
    /// The node's name, in UPIDs and in the certificate.
    pub node: String,
    /// The port; 0 takes any.
    pub port: u16,
    /// The certificate; `None` makes a new one.
    pub identity: Option<Identity>,
    /// TLS versions.
    pub versions: Versions,
    /// How long a 401 takes.
    pub unauthorized_delay: Duration,
    /// How long the verify of one snapshot takes.
    pub verify_time: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node: "vm".to_owned(),
            port: 0,
            identity: None,
            versions: Versions::Both,
            unauthorized_delay: Duration::from_secs(3),
            verify_time: Duration::from_millis(300),
        }
    }
}

/// A running simulated server; it stops when dropped.
pub struct SimPbs {
    server: Arc<Server>,
}

impl SimPbs {
    /// Starts a server without users, rights and datastores.
    ///
    /// # Errors
    /// If the port is taken or the certificate is invalid.
    pub fn start(config: Config) -> Result<Self> {
        let identity = match config.identity {
            Some(identity) => identity,
            None => Identity::new(&["localhost", &config.node])?,
        };
        let state = State {
            node: config.node,
            pid: 0x5DF6,
            pstart: 0x29750,
            last_task: 0,
            verify_time: config.verify_time,
            unauthorized_delay: config.unauthorized_delay,
            clock_ahead: 0,
            forgets_groups: false,
            clock_stopped: None,
            access: access::Access::default(),
            datastores: std::collections::BTreeMap::new(),
            tasks: Vec::new(),
            most_running: 0,
            connections: 0,
            rules: Vec::new(),
            requests: Vec::new(),
        };
        let server = Server::start(state, &identity, config.versions, config.port)
            .context("start the simulated backup server")?;
        Ok(Self { server })
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.server.port()
    }

    /// The certificate's fingerprint as `storage.cfg` has it.
    pub fn fingerprint(&self) -> String {
        self.server.identity().fingerprint()
    }

    /// The certificate and its key.
    pub fn identity(&self) -> Identity {
        self.server.identity()
    }

    /// Presents another certificate from the next connection on.
    ///
    /// # Errors
    /// If certificate and key do not match.
    pub fn use_identity(&self, identity: &Identity, versions: Versions) -> Result<()> {
        self.server.set_identity(identity, versions)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        let state = self.server.state.lock();
        state.unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads or changes the state.
    pub fn edit<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state();
        state.advance();
        change(&mut state)
    }

    /// Stores a backup as if it had just been written.
    pub fn add_snapshot(&self, backup: Backup) {
        self.edit(|state| state.add_snapshot(backup));
    }

    /// Alters a chunk that only this snapshot has.
    pub fn corrupt(&self, id: &SnapshotId) -> Option<String> {
        self.edit(|state| state.corrupt(id))
    }

    /// All tasks so far, oldest first: `upid`, `type`, `snapshot`, `status`, `exitstatus`, `log`,
    /// ...
    pub fn tasks(&self) -> Vec<Value> {
        self.edit(|state| state.tasks.iter().map(task::Task::report).collect())
    }

    /// `METHOD /target` of every request so far.
    pub fn requests(&self) -> Vec<String> {
        self.state().requests.clone()
    }

    /// Completes a running verify at once; returns whether there is such a task.
    pub fn finish(&self, upid: &str) -> bool {
        self.edit(|state| state.finish(upid))
    }

    /// Applies a fault to the next `times` requests whose `METHOD /target` contains that text;
    /// `None` means for ever.
    pub fn inject(&self, contains: &str, times: Option<u32>, fault: Fault) {
        let rule = Rule { contains: contains.to_owned(), left: times, fault };
        self.state().rules.push(rule);
    }

    /// Removes all faults.
    pub fn heal(&self) {
        self.state().rules.clear();
        self.hang_handshakes(false);
    }

    /// Accepts connections without answering, as a hung proxy does, until switched off.
    pub fn hang_handshakes(&self, hang: bool) {
        self.server.hang(hang);
    }

    /// Breaks all connections and ends running tasks, as a restart of the proxy does.
    pub fn restart(&self, how: Restart) {
        self.state().restart(how);
        self.server.break_connections();
    }

    /// Stops listening: connections are refused until [`SimPbs::come_up`].
    pub fn go_down(&self) {
        self.server.stop();
    }

    /// Listens again, on the same port.
    ///
    /// # Errors
    /// When somebody else has taken the port.
    pub fn come_up(&self) -> Result<()> {
        self.server.listen()
    }
}

impl Drop for SimPbs {
    fn drop(&mut self) {
        self.server.stop();
    }
}
