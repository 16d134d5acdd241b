//! One storage of a backup server: its files, the server's identity, and the rights of its login.

use std::time::{Duration, Instant};

use super::check::Check;
use super::storage_subject::Subject;
use super::{
    storage_files, storage_owner, storage_prune, storage_rights, storage_server, storage_space,
};
use crate::config::Settings;
use crate::pbs::{Error, NotNow, Pbs};
use crate::pve;
use crate::sys::Root;

/// The limit for one request to the server. There are at most six, and none after one without an
/// answer.
const QUESTION_LIMIT: Duration = Duration::from_secs(10);

/// Checks one storage of type `pbs`. Nothing is changed, and nothing is sent to a server with the
/// wrong certificate.
pub fn storage(root: &Root, settings: &Settings, id: &str) -> Vec<Check> {
    let about = Subject { id };
    let pbs = match Pbs::open(root, id) {
        Ok(pbs) => pbs,
        Err(error) => {
            let fix = match pve::storage::secret(root, id) {
                Err(_) => format!("pvesm set {id} --password   # asks for the secret"),
                Ok(_) => format!(
                    "sed -n '/^pbs: {id}$/,/^$/p' /etc/pve/storage.cfg   # and mend it there"
                ),
            };
            return vec![about.fail("config", error).fix(fix)];
        }
    };
    let target = pbs.target();
    let mut checks = storage_files::secret(root, about);
    checks.extend(storage_files::key(root, settings, about, target));
    let question = || Instant::now() + QUESTION_LIMIT;
    let (trusted, found) = storage_server::certificate(about, target, pbs.certificate(question()));
    checks.extend(found);
    if !trusted {
        return checks;
    }
    let clock = pbs.clock_ahead(question());
    let answered = clock.is_ok();
    checks.extend(storage_server::login(about, target, clock));
    let mut listed = false;
    if answered {
        match pbs.privileges(question()) {
            Ok(held) => {
                listed = !held.is_empty();
                checks.push(storage_rights::rights(about, target, &held));
                checks.extend(storage_rights::deleting(about, target, &held));
                checks.extend(storage_prune::pruning(about, root, target, &held));
            }
            Err(error) => {
                checks.push(about.fail("rights", error).fix(
                    "on the backup server: journalctl -u proxmox-backup -u proxmox-backup-proxy",
                ))
            }
        }
        match pbs.datastore_status(question()) {
            Ok(status) if listed => {
                checks.extend(storage_space::room(about, root, &status));
                checks.extend(storage_space::object_store(about, &status));
                let namespace = pbs.has_namespace(question());
                checks.extend(storage_rights::namespace(about, target, namespace));
                checks.extend(storage_owner::owners(about, root, &pbs, question()));
            }
            // Without any right this is refused too, which is already reported.
            Ok(_) | Err(Error::Denied { .. }) => {}
            Err(error) => {
                let mounted = error.not_now() != Some(NotNow::NotMounted);
                let command = if mounted { "show" } else { "mount" };
                checks.push(about.fail("datastore", error).fix(format!(
                    "on the backup server: proxmox-backup-manager datastore {command} {}",
                    target.datastore
                )));
            }
        }
    }
    checks
}
