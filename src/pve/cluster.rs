use std::fs;
use std::io;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::guest::{self, Config};
use crate::sys::Root;
use crate::vzdump::{GuestType, Vmid};

/// A guest of the cluster, by its configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub vmid: Vmid,
    pub guest_type: GuestType,
    /// Its node; `None` for this one.
    pub node: Option<String>,
    pub path: PathBuf,
}

impl Member {
    /// Reads its configuration; `None` if the guest was removed or migrated meanwhile.
    pub fn config(&self) -> Result<Option<Config>> {
        guest::read(&self.path)
    }
}

/// All guests of the cluster, ascending, each once; those of this node without a node name.
///
/// `/etc/pve/lxc` and `/etc/pve/qemu-server` are this node's, `/etc/pve/nodes/NODE/...` every
/// node's.
pub fn members(root: &Root) -> Result<Vec<Member>> {
    let mut members = Vec::new();
    for (guest_type, directory) in KINDS {
        collect(&mut members, root.path(&format!("/etc/pve/{directory}")), guest_type, None)?;
    }
    let nodes = root.path("/etc/pve/nodes");
    let entries = match fs::read_dir(&nodes) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        other => Some(other.with_context(|| nodes.display().to_string())?),
    };
    for entry in entries.into_iter().flatten() {
        let entry = entry.with_context(|| nodes.display().to_string())?;
        let node = entry.file_name().to_string_lossy().into_owned();
        for (guest_type, directory) in KINDS {
            collect(&mut members, entry.path().join(directory), guest_type, Some(&node))?;
        }
    }
    // This node's come first, and a VMID exists once in a cluster.
    members.sort_by_key(|member| (member.vmid.0, member.node.is_some()));
    members.dedup_by_key(|member| member.vmid.0);
    Ok(members)
}

const KINDS: [(GuestType, &str); 2] = [(GuestType::Lxc, "lxc"), (GuestType::Qemu, "qemu-server")];

fn collect(
    members: &mut Vec<Member>,
    directory: PathBuf,
    guest_type: GuestType,
    node: Option<&str>,
) -> Result<()> {
    let entries = match fs::read_dir(&directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.with_context(|| directory.display().to_string())?,
    };
    for entry in entries {
        let path = entry.with_context(|| directory.display().to_string())?.path();
        let vmid = path
            .file_name()
            .and_then(|name| name.to_str()?.strip_suffix(".conf")?.parse::<Vmid>().ok());
        if let Some(vmid) = vmid {
            members.push(Member { vmid, guest_type, node: node.map(String::from), path });
        }
    }
    Ok(())
}

/// The name of this node in the cluster: from `/etc/pve/local`, else the host's name.
pub fn node_name(root: &Root) -> String {
    fs::read_link(root.path("/etc/pve/local"))
        .ok()
        .and_then(|target| target.file_name().map(|name| name.to_string_lossy().into_owned()))
        .unwrap_or_else(|| {
            let host = nix::unistd::gethostname().unwrap_or_default();
            host.to_string_lossy().split('.').next().unwrap_or_default().to_string()
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_guest_is_listed_once_and_those_here_as_here() {
        let directory =
            std::env::temp_dir().join(format!("stillpoint-cluster-{}", crate::sys::text::token()));
        let root = Root::at(&directory);
        for place in ["nodes/one/lxc", "nodes/two/lxc", "nodes/two/qemu-server"] {
            fs::create_dir_all(root.path("/etc/pve").join(place)).unwrap();
        }
        std::os::unix::fs::symlink("nodes/one/lxc", root.path("/etc/pve/lxc")).unwrap();
        std::os::unix::fs::symlink("nodes/one", root.path("/etc/pve/local")).unwrap();
        for guest in ["one/lxc/9001", "two/lxc/200", "two/qemu-server/100", "two/lxc/x"] {
            let path = root.path("/etc/pve/nodes").join(format!("{guest}.conf"));
            fs::write(path, "hostname: a\nnet0: name=eth0,bridge=vmbr0\n").unwrap();
        }
        let members = members(&root).unwrap();
        let found: Vec<_> =
            members.iter().map(|member| (member.vmid.0, member.node.as_deref())).collect();
        assert_eq!(found, [(100, Some("two")), (200, Some("two")), (9001, None)]);
        let config = members[2].config().unwrap().unwrap();
        assert_eq!(config.nets, [(0, "name=eth0,bridge=vmbr0".to_string())]);
        assert_eq!(node_name(&root), "one");
        fs::remove_dir_all(directory).unwrap();
    }
}
