//! Whether Proxmox VE prunes after each backup with a login that has no right to.

use std::collections::BTreeSet;

use super::check::Check;
use super::storage_subject::Subject;
use crate::pbs::look::{MODIFY, PRUNE};
use crate::pve::jobs::{self, BackupJob};
use crate::pve::storage::{self, Target};
use crate::pve::vzdump_conf::{self, VzdumpConf};
use crate::sys::Root;
use crate::sys::text::printable;

/// Proxmox VE prunes if the job says so, else if the storage does, else if `/etc/vzdump.conf` does.
/// Without the right it reports the backup as failed although it exists.
pub fn pruning(
    about: Subject<'_>,
    root: &Root,
    target: &Target,
    held: &BTreeSet<String>,
) -> Option<Check> {
    if [PRUNE, MODIFY].into_iter().any(|privilege| held.contains(privilege)) {
        return None;
    }
    let (mut places, mut fixes) = (Vec::new(), Vec::new());
    let of_storage = storage::find(root, about.id).ok().flatten().and_then(|found| found.prunes);
    if of_storage == Some(true) {
        places.push("the storage".to_string());
        fixes.push(format!("pvesm set {} --delete prune-backups", about.id));
    }
    let writes_here = |job: &BackupJob| job.storage.as_deref() == Some(about.id);
    let jobs = jobs::read(root).unwrap_or_default().jobs;
    for job in jobs.into_iter().filter(|job| job.enabled && job.prunes && writes_here(job)) {
        places.push(format!("the job {}", printable(&job.id, 60)));
        fixes.push(format!("pvesh set /cluster/backup/{} --delete prune-backups", job.id));
    }
    let of_node = VzdumpConf::read(root).ok().and_then(|conf| conf.prunes);
    if of_storage.is_none() && of_node == Some(true) {
        places.push(vzdump_conf::PATH.to_string());
        fixes.push("sed -i '/^prune-backups:/d' /etc/vzdump.conf".to_string());
    }
    if places.is_empty() {
        return None;
    }
    let (username, store) = (&target.username, &target.datastore);
    let text = format!(
        "Proxmox VE prunes after each backup (prune-backups of {}), but {username} has no right \
         to prune: each backup is reported as failed (403) although it exists",
        places.join(" and ")
    );
    let check = fixes.into_iter().fold(about.fail("prune", text), Check::fix);
    let namespace = target.namespace.as_ref().filter(|name| !name.is_empty());
    let namespace = namespace.map_or(String::new(), |name| format!(" --ns {name}"));
    Some(check.fix(format!(
        "on the backup server: proxmox-backup-manager prune-job create {store}-daily --store {store}{namespace} \
         --schedule daily --keep-daily 7 --keep-weekly 4   # as many as you want"
    )))
}
