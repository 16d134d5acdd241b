//! Whether the backups of this node's guests belong to the login that makes the next ones.

use std::time::Instant;

use super::check::Check;
use super::storage_subject::Subject;
use crate::pbs::{BackupType, Error, Pbs};
use crate::pve::members;
use crate::sys::Root;
use crate::sys::text::printable;
use crate::verify;
use crate::vzdump::GuestType;

/// One small request each; on a node with more guests the first ones are enough to notice.
const MOST_ASKED: usize = 50;

/// A failure for each guest of this node whose backups belong to another login: its next backup is
/// refused. Asks until `deadline`, or until the server does not answer.
pub fn owners(about: Subject<'_>, root: &Root, pbs: &Pbs, deadline: Instant) -> Vec<Check> {
    // Another check reports a configuration that cannot be read.
    let members = members(root).unwrap_or_default();
    let here = members.iter().filter(|member| member.node.is_none()).take(MOST_ASKED);
    let mut checks = Vec::new();
    for member in here {
        let backup_type = match member.guest_type {
            GuestType::Lxc => BackupType::Ct,
            GuestType::Qemu => BackupType::Vm,
        };
        let backup_id = member.vmid.to_string();
        match pbs.foreign_owner(backup_type, &backup_id, deadline) {
            Ok(None) => {}
            Ok(Some(owner)) => {
                let group = format!("{}/{backup_id}", backup_type.as_str());
                checks.push(foreign(about, pbs, &group, &owner));
            }
            Err(Error::Unreachable { .. }) => break,
            Err(_) => {}
        }
    }
    checks
}

fn foreign(about: Subject<'_>, pbs: &Pbs, group: &str, owner: &str) -> Check {
    let target = pbs.target();
    let ours = &target.username;
    let owner = printable(owner, 120);
    let text = format!(
        "{group} belongs to {owner} and not to {ours}: the server refuses its next backup and \
         does not list its backups here"
    );
    about
        .fail(&format!("owner.{group}"), text)
        .fix(format!("on the backup server: {}", verify::change_owner(target, group)))
}
