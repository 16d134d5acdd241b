use std::collections::BTreeMap;
use std::rc::Rc;

use super::pending::{Pending, datastore};
use crate::pbs::{Error, Pbs};
use crate::pve::storage::{self, Secret, Target};
use crate::sys::Root;

/// The backup servers of a collection: one connection for each storage, and one attempt in each
/// round for a server that does not answer.
pub struct Servers {
    root: Root,
    open: BTreeMap<String, Open>,
    /// Why a server (`server:port`) does not answer in this round.
    down: BTreeMap<String, String>,
    /// The storages whose login is refused in this round, and the server's error: it takes 3 s to
    /// refuse.
    refused: BTreeMap<String, String>,
}

struct Open {
    target: Target,
    secret: Secret,
    pbs: Rc<Pbs>,
}

impl Servers {
    /// No connection is made yet.
    pub fn of(root: &Root) -> Servers {
        let (open, down, refused) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Servers { root: root.clone(), open, down, refused }
    }

    /// A new round begins: servers that did not answer, or refused the login, are asked again.
    pub fn forgive(&mut self) {
        self.down.clear();
        self.refused.clear();
    }

    /// The server of a snapshot, by the present configuration of its storage; if that storage is
    /// gone, by another one of the same datastore.
    ///
    /// # Errors
    /// [`Error::Misconfigured`] if there is no such storage; [`Error::Unreachable`] also if
    /// storage.cfg cannot be read, as before the cluster's file system is mounted.
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
                if let Some(reason) = self.refused.get(id) {
                    return Err(Error::Denied { status: 401, reason: reason.clone() });
                }
                return Ok(open.pbs.clone());
            }
            let pbs = Rc::new(Pbs::open(&self.root, id)?);
            self.open.insert(id.clone(), Open { target, secret, pbs: pbs.clone() });
            return Ok(pbs);
        }
        // Opening it gives the exact error.
        Pbs::open(&self.root, id).map(Rc::new)
    }

    /// Remembers for this round that a server does not answer, or refuses the login.
    pub fn note(&mut self, pbs: &Pbs, error: &Error) {
        match error {
            Error::Unreachable { reason, .. } => {
                self.down.insert(address(pbs.target()), reason.clone());
            }
            Error::Denied { status: 401, reason } => {
                let mut open = self.open.iter();
                if let Some((id, _)) = open.find(|(_, open)| std::ptr::eq(&*open.pbs, pbs)) {
                    self.refused.insert(id.clone(), reason.clone());
                }
            }
            _ => {}
        }
    }

    /// Whether it is useless to ask it more in this round.
    pub fn is_silent(&self, pbs: &Pbs) -> bool {
        let refused = |(id, open): (&String, &Open)| {
            std::ptr::eq(&*open.pbs, pbs) && self.refused.contains_key(id)
        };
        self.down.contains_key(&address(pbs.target())) || self.open.iter().any(refused)
    }
}

fn address(target: &Target) -> String {
    format!("{}:{}", target.server, target.port)
}
