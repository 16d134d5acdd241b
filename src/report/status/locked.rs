//! A lock that a backup or a snapshot left on a guest.

use super::{Backup, Level};
use crate::journal::Outcome;
use crate::pve::{Config, Place};
use crate::run::locked::is_taken_away;
use crate::sys::Root;
use crate::sys::text::printable;
use crate::vzdump::{GuestType, Job, Vmid};

/// The locks under which vzdump and a snapshot work on a guest.
const LOCKS: [&str; 3] = ["backup", "snapshot", "snapshot-delete"];

/// The problem of a guest with such a lock that no task needs; `config` is the configuration as it
/// was read before.
pub fn left_locked(
    root: &Root,
    vmid: Vmid,
    guest_type: GuestType,
    config: &Config,
) -> Option<String> {
    let lock = config.lock.as_deref().filter(|lock| LOCKS.contains(lock))?;
    if Job::any_at(root, vmid) || Job::snapshot_at(root, vmid) {
        return None;
    }
    // The task may have ended since the configuration was read.
    let Ok(Place::Here(now)) = Place::of(root, vmid) else { return None };
    let taken_away = guest_type == GuestType::Lxc && is_taken_away(root, vmid);
    (now.lock.as_deref() == Some(lock)).then(|| words(vmid, guest_type, lock, taken_away))
}

/// Critical after a failed backup: the lock makes the next one fail too, and a reader who sees only
/// the worst problem must see the fix.
pub fn level_of_lock(last: Option<&Backup>) -> Level {
    match last {
        Some(last) if last.outcome == Outcome::Failed => Level::Critical,
        _ => Level::Warning,
    }
}

fn words(vmid: Vmid, guest_type: GuestType, lock: &str, taken_away: bool) -> String {
    let lock = printable(lock, 60);
    if taken_away {
        return format!(
            "a backup that died left it locked ({lock}); the next backup takes the lock away, and now: \
             stillpoint resume {vmid}"
        );
    }
    let program = match guest_type {
        GuestType::Lxc => "pct",
        GuestType::Qemu => "qm",
    };
    format!(
        "it is locked ({lock}) and no backup is under way, so the next one fails: \
         {program} unlock {vmid}"
    )
}
