use std::collections::BTreeMap;
use std::rc::Rc;

use super::pending::Pending;
use crate::pbs::storage::{self, Secret, Storage, Target};
use crate::pbs::{Error, Pbs};
use crate::sys::Root;

/// The backup servers of a collection: one connection for each storage, and one attempt in each round for a server
/// that does not answer.
pub struct Servers {
    root: Root,
    open: BTreeMap<String, Open>,
    /// Why a server (`server:port`) does not answer, in this round.
    down: BTreeMap<String, String>,
}

struct Open {
    target: Target,
    secret: Secret,
    pbs: Rc<Pbs>,
}

impl Servers {
    /// No connection is made yet.
    pub fn of(root: &Root) -> Servers {
        Servers { root: root.clone(), open: BTreeMap::new(), down: BTreeMap::new() }
    }

    /// A new round begins: servers that did not answer are asked again.
    pub fn forgive(&mut self) {
        self.down.clear();
    }

    /// The server that has a snapshot, as its storage is configured now; where that storage is gone, through another
    /// one that leads to the same datastore.
    ///
    /// # Errors
    /// [`Error::Misconfigured`] where no storage leads there; [`Error::Unreachable`] also where storage.cfg can't be
    /// read, as before the cluster's file system is there.
    pub fn get(&mut self, pending: &Pending) -> Result<Rc<Pbs>, Error> {
        let storages = storage::read(&self.root).map_err(|error| Error::Unreachable {
            reason: format!("/etc/pve/storage.cfg: {error}"),
            unsent: true,
        })?;
        let id = match storages.iter().find(|storage| storage.id == pending.storage) {
            Some(storage) => &storage.id,
            None => storages
                .iter()
                .find(|storage| datastore(storage) == pending.datastore)
                .map_or(&pending.storage, |storage| &storage.id),
        };
        let target = storages.iter().find(|storage| storage.id == *id);
        let target = target.and_then(|storage| storage.target.clone());
        let secret = storage::secret(&self.root, id).ok();
        if let (Some(target), Some(secret)) = (target, secret) {
            if let Some(reason) = self.down.get(&address(&target)) {
                return Err(Error::Unreachable { reason: reason.clone(), unsent: true });
            }
            if let Some(open) = self.open.get(id)
                && open.target == target
                && open.secret == secret
            {
                return Ok(open.pbs.clone());
            }
            let pbs = Rc::new(Pbs::open(&self.root, id)?);
            self.open.insert(id.clone(), Open { target, secret, pbs: pbs.clone() });
            return Ok(pbs);
        }
        // Who opens it says what is missing.
        Pbs::open(&self.root, id).map(Rc::new)
    }

    /// Remembers for this round that a server does not answer.
    pub fn note(&mut self, pbs: &Pbs, error: &Error) {
        if let Error::Unreachable { reason, .. } = error {
            self.down.insert(address(pbs.target()), reason.clone());
        }
    }
}

/// `server:datastore`: what a storage stands for, the same under whatever name; the name itself where it is not told.
pub fn datastore(storage: &Storage) -> String {
    match &storage.target {
        Some(target) => format!("{}:{}", target.server.to_ascii_lowercase(), target.datastore),
        None => storage.id.clone(),
    }
}

fn address(target: &Target) -> String {
    format!("{}:{}", target.server, target.port)
}
