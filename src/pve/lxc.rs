//! LXC's own configuration of a guest, which Proxmox VE writes at each start:
//! `/var/lib/lxc/VMID/config`. It maps the guest's users to users of the node.

use std::io;
use std::path::PathBuf;

use crate::sys::{Root, file};
use crate::vzdump::Vmid;

/// It has about fifty lines.
const LIMIT: u64 = 1 << 20;

/// Its path.
pub fn path(root: &Root, vmid: Vmid) -> PathBuf {
    root.path(&format!("/var/lib/lxc/{vmid}/config"))
}

/// Its text; `None` before the guest's first start.
pub fn read(root: &Root, vmid: Vmid) -> io::Result<Option<String>> {
    file::read_text(&path(root, vmid), LIMIT)
}

/// A range of ids: first in the guest, first on the node, count.
pub type Range = [u32; 3];

/// The maps of a guest, each in order; both are empty if its users are the node's own.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct IdMap {
    users: Vec<Range>,
    groups: Vec<Range>,
}

impl IdMap {
    /// The maps in the configuration: `lxc.idmap = u 0 100000 65536`. `None` if such a line is
    /// invalid.
    pub fn asked_for(config: &str) -> Option<IdMap> {
        let mut map = IdMap::default();
        for line in config.lines() {
            let Some((key, value)) = line.split_once('=') else { continue };
            // The second is the name before LXC 2.1.
            if !matches!(key.trim(), "lxc.idmap" | "lxc.id_map") {
                continue;
            }
            match value.trim().split_once(' ')? {
                ("u", rest) => map.users.push(range(rest)?),
                ("g", rest) => map.groups.push(range(rest)?),
                _ => return None,
            }
        }
        map.users.sort_unstable();
        map.groups.sort_unstable();
        Some(map)
    }

    /// The maps of a process: `/proc/PID/uid_map` and `gid_map`. `None` if they are invalid.
    pub fn of_process(users: &str, groups: &str) -> Option<IdMap> {
        let ranges = |text: &str| {
            let mut ranges = text.lines().map(range).collect::<Option<Vec<_>>>()?;
            ranges.sort_unstable();
            Some(ranges)
        };
        Some(IdMap { users: ranges(users)?, groups: ranges(groups)? })
    }

    /// The ranges of users.
    pub fn into_users(self) -> Vec<Range> {
        self.users
    }

    /// Whether the guest's users are the node's own.
    pub fn is_none(&self) -> bool {
        self.users.is_empty() && self.groups.is_empty()
    }
}

fn range(text: &str) -> Option<Range> {
    let mut numbers = text.split_ascii_whitespace().map(str::parse);
    let range = [numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?];
    numbers.next().is_none().then_some(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "lxc.arch = amd64\nlxc.idmap = u 0 100000 65536\nlxc.idmap = g 0 100000 65536\n\
        lxc.uts.name = docker\n";

    #[test]
    fn an_init_has_the_ids_that_the_configuration_asks_for() {
        let asked = IdMap::asked_for(CONFIG).unwrap();
        let map = "         0     100000      65536\n";
        assert_eq!(IdMap::of_process(map, map).unwrap(), asked);
        for other in ["0 1000 1\n", "0 0 4294967295\n", "0 100000 65535\n", ""] {
            assert_ne!(IdMap::of_process(other, map).unwrap(), asked, "{other}");
            assert_ne!(IdMap::of_process(map, other).unwrap(), asked, "{other}");
        }
        assert!(IdMap::asked_for("lxc.uts.name = db\n").unwrap().is_none());
    }

    #[test]
    fn ids_that_are_passed_through_stand_in_any_order() {
        let config = "lxc.idmap = u 1001 101001 64535\nlxc.idmap = u 0 100000 1000\nlxc.idmap: u 9 9 9\n\
            lxc.idmap = u 1000 1000 1\nlxc.idmap = g 0 100000 65536\n";
        let map = "0 100000 1000\n1000 1000 1\n1001 101001 64535\n";
        let asked = IdMap::asked_for(config).unwrap();
        assert_eq!(IdMap::of_process(map, "0 100000 65536\n").unwrap(), asked);
        for odd in
            ["lxc.idmap = u 0 1", "lxc.idmap = b 0 1 2", "lxc.idmap = u 0 1 2 3", "lxc.idmap ="]
        {
            assert_eq!(IdMap::asked_for(odd), None, "{odd}");
        }
        assert_eq!(IdMap::of_process("0 -1 2", ""), None);
    }
}
