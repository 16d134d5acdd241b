//! Which guests were restored on this node, when, and from which backup.
//!
//! Nothing in a guest's configuration says that it was restored; the node's list of tasks does, for
//! the last thousand tasks or so.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;

use anyhow::{Context, Result};

use crate::sys::{Root, file};
use crate::vzdump::{Upid, Vmid};

/// The running tasks and the latest, then the ended ones, then those before them. A list that has grown to 50 kB
/// becomes the older one.
const LISTS: [&str; 3] =
    ["/var/log/pve/tasks/active", "/var/log/pve/tasks/index", "/var/log/pve/tasks/index.1"];

const LIMIT: u64 = 16 << 20;

/// The archive is named at the beginning of a restore's log; what tar says of files may be long.
const LOG_LIMIT: u64 = 64 << 10;

/// When a guest was last restored, as far as this node can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restored {
    /// By a task that began then, in seconds since 1970.
    At(i64),
    /// The node's tasks do not name a restore of it.
    NotHere,
    /// There is no list of tasks.
    Unknown,
}

/// The restores of this node.
#[derive(Clone, Debug)]
pub struct Restores {
    /// The latest of each guest; `None` where the node has no list of tasks.
    latest: Option<BTreeMap<Vmid, Upid>>,
}

impl Restores {
    /// Reads the node's lists of tasks.
    pub fn read(root: &Root) -> Result<Restores> {
        let mut latest = None;
        for list in LISTS {
            let path = root.path(list);
            let Some(text) =
                file::read_text(&path, LIMIT).with_context(|| path.display().to_string())?
            else {
                continue;
            };
            add(latest.get_or_insert_with(BTreeMap::new), &text);
        }
        Ok(Restores { latest })
    }

    /// What is known of one guest.
    pub fn of(&self, vmid: Vmid) -> Restored {
        match &self.latest {
            None => Restored::Unknown,
            Some(latest) => {
                latest.get(&vmid).map_or(Restored::NotHere, |task| Restored::At(task.started()))
            }
        }
    }

    /// The guest whose backup a guest was last restored from, where the log of that task is there and names it.
    pub fn origin(&self, root: &Root, vmid: Vmid) -> Option<Vmid> {
        let task = self.latest.as_ref()?.get(&vmid)?;
        let mut log = Vec::new();
        File::open(root.path(&task.log_path())).ok()?.take(LOG_LIMIT).read_to_end(&mut log).ok()?;
        String::from_utf8_lossy(&log).lines().find_map(backed_up)
    }
}

/// The guest in a line of a restore's log that names the archive: in quotes, a volume or a file.
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

/// One task a line: its UPID, in the list of the active ones a 0 or 1, and once it has ended, when and how.
fn add(latest: &mut BTreeMap<Vmid, Upid>, text: &str) {
    let upid = |line: &str| {
        let (upid, rest) = line.split_once(' ').unwrap_or((line, ""));
        Upid::parse(upid.trim()).filter(|_| !has_failed(rest))
    };
    for upid in text.lines().filter_map(upid).filter(|upid| upid.kind() == "vzrestore") {
        let Ok(vmid) = upid.subject().parse() else { continue };
        if latest.get(&vmid).is_none_or(|before| before.started() < upid.started()) {
            latest.insert(vmid, upid);
        }
    }
}

/// Whether a task has ended and restored nothing: the guest of that number is then the one that was there before.
fn has_failed(rest: &str) -> bool {
    let mut words = rest.split_whitespace().skip_while(|word| {
        matches!(*word, "0" | "1") || word.len() == 8 && word.bytes().all(|b| b.is_ascii_hexdigit())
    });
    words.next().is_some_and(|word| word != "OK" && !word.starts_with("WARNINGS"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_restore_counts() {
        let mut latest = BTreeMap::new();
        add(
            &mut latest,
            "UPID:one:00006B5F:00A1B2C3:00000010:vzrestore:9002:root@pam: 00000020 OK\n\
            UPID:one:00006B5F:00A1B2C3:00000030:vzrestore:9002:root@pam:\n\
            UPID:one:00006B5F:00A1B2C3:00000040:vzclone:9001:root@pam: 00000041 OK\n\
            UPID:one:00006B5F:00A1B2C3:00000040:vzcreate:9003:root@pam: 00000041 OK\nnonsense\n\n",
        );
        let task = |time: u32, rest: &str| {
            format!("UPID:one:00006B5F:00A1B2C3:{time:08X}:vzrestore:9004:root@pam:{rest}\n")
        };
        for (time, rest) in [
            (0x50, " 00000051 WARNINGS: 1"),
            (0x60, " 00000061 unable to restore CT 9004 - CT is running"),
            (0x70, " 1 00000071 interrupted by signal"),
        ] {
            add(&mut latest, &task(time, rest));
        }
        let restores = Restores { latest: Some(latest.clone()) };
        assert_eq!(restores.of(Vmid(9004)), Restored::At(0x50));
        for (time, rest) in [(0x80, " 0"), (0x90, " 1 00000091 OK"), (0xa0, "")] {
            add(&mut latest, &task(time, rest));
            let restores = Restores { latest: Some(latest.clone()) };
            assert_eq!(restores.of(Vmid(9004)), Restored::At(i64::from(time)), "{rest}");
        }
        let restores = Restores { latest: Some(latest) };
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
