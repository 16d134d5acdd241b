//! The lock of a vzdump that is dead.

use anyhow::Result;

use super::{Run, Runs};
use crate::config::Settings;
use crate::pve::{Config, Place};
use crate::sys::{Root, process};
use crate::vzdump::{Job, Vmid};

/// Whether the guest has the lock of this run's dead vzdump. If the settings forbid removing locks,
/// the admin does it, and nothing waits for that.
pub fn left_locked(root: &Root, run: &Run) -> bool {
    let Ok(Place::Here(config)) = Place::of(root, run.vmid) else { return false };
    config.lock.is_some()
        && is_of_a_backup(config.lock.as_deref())
        && config.root_volume == run.root_volume
        && !run.job.worker.alive()
        && Settings::load(root).resume.unlock
}

/// Whether the guest bears the lock of a vzdump that is dead, as the node's tasks tell, and whoever
/// wants such locks taken away may do so. For a guest without a run.
///
/// # Errors
/// Where the guest's configuration or the lists of the node's tasks can't be read.
pub fn is_left_locked(root: &Root, vmid: Vmid) -> Result<bool> {
    Ok(lock_of(root, vmid)?.as_deref() == Some("backup")
        && Settings::load(root).resume.unlock
        && !Job::any_at(root, vmid)
        && !process::mounted("/mnt/vzsnap")?
        && Job::died_at(root, vmid)?)
}

/// Whether the next job of the node, and `stillpoint resume` now, takes away the lock that a dead
/// vzdump left at this guest.
pub fn is_taken_away(root: &Root, vmid: Vmid) -> bool {
    match Runs::of(root).load(vmid) {
        Ok(Some(run)) => !run.job.alive() && left_locked(root, &run),
        Ok(None) => is_left_locked(root, vmid).unwrap_or(false),
        Err(_) => false,
    }
}

/// The lock in the guest's configuration.
///
/// # Errors
/// Where that can't be read.
pub fn lock_of(root: &Root, vmid: Vmid) -> Result<Option<String>> {
    Ok(match Place::of(root, vmid)? {
        Place::Here(Config { lock, .. }) => lock,
        // A node without configurations: there is no lock to respect.
        Place::Gone | Place::Elsewhere(_) => None,
    })
}

/// Whether a lock is one of vzdump's, or none.
pub fn is_of_a_backup(lock: Option<&str>) -> bool {
    matches!(lock, None | Some("backup" | "snapshot"))
}
