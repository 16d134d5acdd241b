//! Which guests were restored on this node, and when.
//!
//! Nothing in a guest's configuration says that it was restored (facts/PVE.md); the node's list of tasks does, for
//! the last thousand tasks or so.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use crate::sys::{Root, file};
use crate::vzdump::{Upid, Vmid};

/// The running tasks and the latest, then the ended ones, then those before them. A list that has grown to 50 kB
/// becomes the older one.
const LISTS: [&str; 3] =
    ["/var/log/pve/tasks/active", "/var/log/pve/tasks/index", "/var/log/pve/tasks/index.1"];

const LIMIT: u64 = 16 << 20;

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
    latest: Option<BTreeMap<Vmid, i64>>,
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
            Some(latest) => latest.get(&vmid).map_or(Restored::NotHere, |at| Restored::At(*at)),
        }
    }
}

/// One task a line: its UPID, in the list of the active ones a 0 or 1, and once it has ended, when and how.
fn add(latest: &mut BTreeMap<Vmid, i64>, text: &str) {
    let upid = |line: &str| {
        let (upid, rest) = line.split_once(' ').unwrap_or((line, ""));
        Upid::parse(upid.trim()).filter(|_| !has_failed(rest))
    };
    for upid in text.lines().filter_map(upid).filter(|upid| upid.kind() == "vzrestore") {
        let Ok(vmid) = upid.subject().parse() else { continue };
        let at = latest.entry(vmid).or_insert(upid.started());
        *at = upid.started().max(*at);
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
}
