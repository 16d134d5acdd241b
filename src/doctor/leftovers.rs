//! Locks and snapshots in the configurations of this node's guests that no running backup needs.

use super::check::Check;
use super::message::Values;
use super::messages::{GUESTS_UNKNOWN, LEFT_NOTHING, LOCKED, NO_CONFIG, SNAPSHOT};
use crate::pve::{Config, Member, members};
use crate::sys::Root;
use crate::vzdump::{GuestType, Job};

/// What a backup writes into a guest's configuration and removes at its end.
#[derive(Debug, Default, PartialEq, Eq)]
struct Marks {
    lock: Option<String>,
    snapshot: bool,
}

pub fn leftovers(root: &Root) -> Vec<Check> {
    let members = match members(root) {
        Err(error) => {
            return vec![GUESTS_UNKNOWN.check("guests", &[("reason", &format!("{error:#}"))])];
        }
        Ok(members) => members,
    };
    let here = members.iter().filter(|member| member.node.is_none());
    let checks: Vec<Check> = here.flat_map(|member| of_guest(root, member)).collect();
    if checks.is_empty() { vec![LEFT_NOTHING.check("guests.leftovers", &[])] } else { checks }
}

fn of_guest(root: &Root, member: &Member) -> Vec<Check> {
    let vmid = member.vmid;
    let marks = match marks(member) {
        Err(check) => return vec![check],
        Ok(marks) if marks == Marks::default() || Job::any_at(root, vmid) => return Vec::new(),
        // The backup may have ended between the two checks.
        Ok(_) => match self::marks(member) {
            Err(check) => return vec![check],
            Ok(marks) => marks,
        },
    };
    let tool = tool(member.guest_type);
    let mut checks = Vec::new();
    if let Some(lock) = &marks.lock {
        let values: Values<'_> = &[("lock", lock), ("tool", &tool), ("vmid", &vmid)];
        checks.push(LOCKED.check(format!("guest.{vmid}.lock"), values));
    }
    if marks.snapshot {
        checks.push(SNAPSHOT.check(format!("guest.{vmid}.snapshot"), &[("vmid", &vmid)]));
    }
    checks
}

fn marks(member: &Member) -> Result<Marks, Check> {
    match member.config() {
        // Removed or migrated meanwhile: nothing is left.
        Ok(config) => Ok(config.map_or_else(Marks::default, found)),
        Err(error) => {
            let about = format!("guest.{}.config", member.vmid);
            let path = member.path.display();
            let reason = error.root_cause();
            Err(NO_CONFIG.check(about, &[("path", &path), ("reason", &reason)]))
        }
    }
}

fn found(config: Config) -> Marks {
    Marks {
        lock: config.lock.filter(|lock| matches!(lock.as_str(), "backup" | "snapshot")),
        snapshot: config.vzdump_snapshot,
    }
}

/// The program of Proxmox VE for guests of this type.
pub fn tool(guest_type: GuestType) -> &'static str {
    match guest_type {
        GuestType::Lxc => "pct",
        GuestType::Qemu => "qm",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_backup_puts_there_counts() {
        let found = |text| found(Config::parse(text));
        let marked = |lock: &str| Marks { lock: Some(lock.into()), snapshot: false };
        assert_eq!(found("lock: backup\n"), marked("backup"));
        assert_eq!(found("lock: snapshot\n"), marked("snapshot"));
        assert_eq!(found("lock: migrate\n[before]\nlock: backup\n"), Marks::default());
        assert_eq!(found("a: b\n\n[vzdump]\nx: y\n"), Marks { lock: None, snapshot: true });
        assert_eq!(found("#[vzdump]\n[vzdump-2]\n"), Marks::default());
    }
}
