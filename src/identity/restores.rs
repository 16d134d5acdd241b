//! Which guests were restored on this node, when, and from which backup.
//!
//! Nothing in a guest's configuration says that it was restored; the node's list of tasks does, for
//! about the last thousand tasks.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;

use anyhow::Result;

use crate::sys::Root;
use crate::vzdump::{Task, Upid, Vmid, tasks};

/// The archive is named at the beginning of a restore's log; the rest, tar's messages, may be long.
const LOG_LIMIT: u64 = 64 << 10;

/// When a guest was last restored, as far as this node knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restored {
    /// By a task that began at this time, in seconds since 1970.
    At(i64),
    /// The node's tasks have no restore of it.
    NotHere,
    /// There is no list of tasks.
    Unknown,
}

/// The restores of this node.
#[derive(Clone, Debug)]
pub struct Restores {
    /// The latest restore of each guest; `None` if the node has no list of tasks.
    latest: Option<BTreeMap<Vmid, Upid>>,
}

impl Restores {
    /// Reads the node's lists of tasks.
    pub fn read(root: &Root) -> Result<Restores> {
        let latest = tasks(root)?.map(latest_restores);
        Ok(Restores { latest })
    }

    /// The restore of one guest.
    pub fn of(&self, vmid: Vmid) -> Restored {
        match &self.latest {
            None => Restored::Unknown,
            Some(latest) => {
                latest.get(&vmid).map_or(Restored::NotHere, |task| Restored::At(task.started()))
            }
        }
    }

    /// The guest whose backup a guest was last restored from, if the log of that task exists and
    /// names it.
    pub fn origin(&self, root: &Root, vmid: Vmid) -> Option<Vmid> {
        let task = self.latest.as_ref()?.get(&vmid)?;
        let mut log = Vec::new();
        File::open(root.path(&task.log_path())).ok()?.take(LOG_LIMIT).read_to_end(&mut log).ok()?;
        String::from_utf8_lossy(&log).lines().find_map(backed_up)
    }
}

/// The VMID in the line of a restore's log that names the archive: in quotes, a volume or a file.
fn backed_up(line: &str) -> Option<Vmid> {
    let says = line.starts_with("recovering backed-up configuration from '")
        || line.starts_with("restoring '");
    let archive = line.split('\'').nth(1).filter(|_| says)?;
    let mut parts = archive.rsplit('/');
    let name = parts.next()?;
    match name.strip_prefix("vzdump-lxc-") {
        Some(rest) => rest.split('-').next()?.parse().ok(),
        // ct/VMID/TIME on a backup server
        None => {
            let vmid = parts.next()?.parse().ok()?;
            (parts.next() == Some("ct")).then_some(vmid)
        }
    }
}

fn latest_restores(tasks: Vec<Task>) -> BTreeMap<Vmid, Upid> {
    let mut latest: BTreeMap<Vmid, Upid> = BTreeMap::new();
    // A failed task restored nothing: the guest is then the one that was there before.
    let restores = tasks.into_iter().filter(|task| task.upid.kind() == "vzrestore" && !task.failed);
    for upid in restores.map(|task| task.upid) {
        let Ok(vmid) = upid.subject().parse() else { continue };
        if latest.get(&vmid).is_none_or(|before| before.started() < upid.started()) {
            latest.insert(vmid, upid);
        }
    }
    latest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_restore_counts() {
        let task = |time: u32, kind: &str, vmid: u32, failed| {
            let upid = format!("UPID:one:00006B5F:00A1B2C3:{time:08X}:{kind}:{vmid}:root@pam:");
            Task { upid: Upid::parse(&upid).unwrap(), failed }
        };
        let latest = latest_restores(vec![
            task(0x30, "vzrestore", 9002, false),
            task(0x10, "vzrestore", 9002, false),
            task(0x40, "vzclone", 9001, false),
            task(0x40, "vzcreate", 9003, false),
            task(0x50, "vzrestore", 9004, false),
            task(0x60, "vzrestore", 9004, true),
        ]);
        let restores = Restores { latest: Some(latest) };
        assert_eq!(restores.of(Vmid(9004)), Restored::At(0x50));
        assert_eq!(restores.of(Vmid(9002)), Restored::At(0x30));
        assert_eq!(restores.of(Vmid(9001)), Restored::NotHere);
        assert_eq!(restores.of(Vmid(9003)), Restored::NotHere);
        assert_eq!(Restores { latest: None }.of(Vmid(9002)), Restored::Unknown);
    }

    #[test]
    fn a_restores_log_names_the_guest_that_was_backed_up() {
        let of = |archive: &str| {
            backed_up(&format!("recovering backed-up configuration from '{archive}'"))
        };
        for archive in [
            "offsite:backup/ct/9001/2026-11-21T23:22:56Z",
            "local:backup/vzdump-lxc-9001-2026_11_21-23_22_56.tar.zst",
            "/mnt/dump/vzdump-lxc-9001-2026_11_21-23_22_56.tar",
        ] {
            assert_eq!(of(archive), Some(Vmid(9001)), "{archive}");
            let restoring = format!("restoring '{archive}' now..");
            assert_eq!(backed_up(&restoring), Some(Vmid(9001)), "{archive}");
            assert_eq!(backed_up(&format!("tar: '{archive}'")), None);
        }
        for other in [
            "offsite:backup/vm/9001/2026-11-21T23:22:56Z",
            "local:backup/vzdump-qemu-9001-2026_11_21-23_22_56.vma.zst",
            "local:backup/vzdump-lxc-\u{fc}.tar",
            "/srv/web.tar.zst",
            "",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
