//! Whether Proxmox VE prunes after each backup with a login that may not.

use std::collections::BTreeSet;

use super::check::Check;
use super::storage_subject::Subject;
use super::{jobs, vzdump};
use crate::pbs::look::{MODIFY, PRUNE};
use crate::pve::storage::{self, Target};
use crate::sys::Root;
use crate::sys::text::printable;

/// Proxmox VE prunes where the job says so, else the storage, else `/etc/vzdump.conf`. Without the right it reports the
/// backup as failed, though it is there.
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
    let text = storage::text(root).unwrap_or_default();
    let sections = storage::sections(&text);
    let section = sections.iter().find(|section| section.kind == "pbs" && section.id == about.id);
    let of_storage = section.and_then(|section| section.get("prune-backups"));
    if of_storage.is_some_and(prunes) {
        places.push("the storage".to_string());
        fixes.push(format!("pvesm set {} --delete prune-backups", about.id));
    }
    for job in jobs::pruning(root, about.id) {
        places.push(format!("the job {}", printable(&job, 60)));
        fixes.push(format!("pvesh set /cluster/backup/{job} --delete prune-backups"));
    }
    let of_node = vzdump::setting(root, "prune-backups").ok().flatten();
    if of_storage.is_none() && of_node.as_deref().is_some_and(prunes) {
        places.push("/etc/vzdump.conf".to_string());
        fixes.push("sed -i '/^prune-backups:/d' /etc/vzdump.conf".to_string());
    }
    if places.is_empty() {
        return None;
    }
    let (username, store) = (&target.username, &target.datastore);
    let text = format!(
        "Proxmox VE prunes after each backup (prune-backups of {}), and {username} may not: it reports each backup as \
         failed, with a 403, though the backup is there",
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

/// `keep-last=3,keep-daily=7`; not `keep-all=1`, nor where nothing is said.
pub fn prunes(value: &str) -> bool {
    let keep = |part: &str| part.trim().starts_with("keep-") && !part.trim().ends_with("=0");
    let all = |part: &str| part.trim() == "keep-all=1";
    value.split(',').any(keep) && !value.split(',').any(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeping_all_is_no_pruning() {
        assert!(prunes("keep-last=3,keep-daily=7"));
        for value in ["", "keep-all=1", "keep-all=0", "keep-all=1,keep-last=3"] {
            assert!(!prunes(value), "{value}");
        }
    }
}
