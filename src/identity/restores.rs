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

/// One task a line, its UPID first.
fn add(latest: &mut BTreeMap<Vmid, i64>, text: &str) {
    let upids = text.lines().filter_map(|line| Upid::parse(line.split_whitespace().next()?));
    for upid in upids.filter(|upid| upid.kind() == "vzrestore") {
        let Ok(vmid) = upid.subject().parse() else { continue };
        let at = latest.entry(vmid).or_insert(upid.started());
        *at = upid.started().max(*at);
    }
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
        let restores = Restores { latest: Some(latest) };
        assert_eq!(restores.of(Vmid(9002)), Restored::At(0x30));
        assert_eq!(restores.of(Vmid(9001)), Restored::NotHere);
        assert_eq!(restores.of(Vmid(9003)), Restored::NotHere);
        assert_eq!(Restores { latest: None }.of(Vmid(9002)), Restored::Unknown);
    }
}
