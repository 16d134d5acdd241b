//! What is on the backup servers: their storages in Proxmox VE, and the snapshots in them.

mod item;

pub use item::{Item, volid};

use std::io;

use serde::Serialize;

use crate::pve::storage::{self, Attached};
use crate::sys::Root;

/// A storage of Proxmox VE on a backup server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// Its name in storage.cfg.
    pub storage: String,
    /// `server:datastore#fingerprint`: the same for the same datastore, whatever the storage's
    /// name. `None` if storage.cfg does not name both.
    pub storage_id: Option<String>,
    /// Whether this node uses it.
    pub attached: Attached,
    /// `None` is the root namespace.
    pub namespace: Option<String>,
}

impl Place {
    /// The datastore's name on its server.
    pub fn datastore(&self) -> Option<&str> {
        let name = self.storage_id.as_deref()?.split('#').next()?;
        name.rsplit_once(':').map(|(_, datastore)| datastore)
    }
}

/// All storages on backup servers, in the order of storage.cfg; `node` is this node's name.
///
/// # Errors
/// If storage.cfg cannot be read.
pub fn places(root: &Root, node: &str) -> io::Result<Vec<Place>> {
    let storages = storage::read(root)?.into_iter().filter(|storage| storage.kind == "pbs");
    Ok(storages
        .map(|storage| Place {
            attached: storage.attached(node),
            storage_id: storage.target.as_ref().map(storage::Target::durable_id),
            namespace: storage.target.and_then(|target| target.namespace),
            storage: storage.id,
        })
        .collect())
}
