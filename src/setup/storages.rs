//! The storages that can hold a hookscript.

use std::io;
use std::path::Path;

use anyhow::{Context, Result};

use crate::pve::node_name;
use crate::pve::storage::{self, LOCAL, LOCAL_PATH};
use crate::sys::Root;

/// A storage with a directory for snippets, enabled on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storage {
    pub id: String,
    /// The directory of its snippets, as an absolute path of the node.
    pub directory: String,
    /// Whether its contents include snippets.
    pub has_snippets: bool,
    /// Its `content` setting in storage.cfg.
    pub content: String,
    /// Every node that has it sees the same files.
    pub shared: bool,
    /// Where it has to be mounted, if it has to be.
    pub mount: Option<String>,
    /// The nodes that have it; empty means all.
    pub nodes: Vec<String>,
}

impl Storage {
    /// Whether that node has it.
    pub fn on(&self, node: &str) -> bool {
        self.nodes.is_empty() || self.nodes.iter().any(|name| name == node)
    }
}

/// The storages of this node that are directories, with or without snippets.
pub fn directories(root: &Root) -> Result<Vec<Storage>> {
    let storages = match storage::read(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        other => other.context("/etc/pve/storage.cfg")?,
    };
    Ok(of_node(storages, &node_name(root)))
}

fn of_node(storages: Vec<storage::Storage>, node: &str) -> Vec<Storage> {
    let is_local = |storage: &storage::Storage| {
        let path = storage.directory.as_ref().map(|directory| directory.path.as_str());
        storage.id == LOCAL && storage.kind == "dir" && path == Some(LOCAL_PATH)
    };
    let mut found: Vec<Storage> = Vec::new();
    // Proxmox VE replaces a missing one, or one elsewhere, by its own.
    let has_local = storages.iter().any(is_local);
    if !has_local {
        found.push(Storage {
            id: LOCAL.to_string(),
            directory: format!("{LOCAL_PATH}/snippets"),
            has_snippets: true,
            content: "backup,images,iso,rootdir,snippets,vztmpl".to_string(),
            shared: false,
            mount: None,
            nodes: Vec::new(),
        });
    }
    let enabled = storages.into_iter().filter(|storage| !storage.disabled);
    let listed = enabled.filter(|storage| has_local || storage.id != LOCAL).filter_map(listed);
    found.extend(listed.filter(|storage| storage.on(node)));
    found
}

fn listed(storage: storage::Storage) -> Option<Storage> {
    let directory = storage.directory?;
    Some(Storage {
        // PVE ignores `nodes` of `local`: every node has that storage.
        nodes: if storage.id == LOCAL { Vec::new() } else { storage.nodes },
        id: storage.id,
        directory: directory.snippets,
        has_snippets: directory.content.split(',').any(|kind| kind.trim() == "snippets"),
        content: directory.content,
        shared: directory.shared,
        mount: directory.mount,
    })
}

/// The file of a volume such as `local:snippets/NAME`, as an absolute path of the node; `None` if
/// this node has no such storage or the volume is no snippet.
pub fn file_of(storages: &[Storage], volume: &str) -> Option<String> {
    let (id, name) = volume.split_once(':')?;
    let name = name.strip_prefix("snippets/")?;
    let plain = !name.is_empty() && !name.contains('/') && name != "..";
    let storage = storages.iter().find(|storage| storage.id == id).filter(|_| plain)?;
    Some(Path::new(&storage.directory).join(name).to_string_lossy().into_owned())
}

/// The storage for the hookscript of this cluster's guests.
///
/// Without a cluster, one of the node's own directories: it is always available. In a cluster, one
/// that all nodes share, so that a guest finds the file on every node.
pub fn choose(storages: &[Storage], in_cluster: bool) -> Option<&Storage> {
    let with_snippets = storages.iter().filter(|storage| storage.has_snippets);
    with_snippets.min_by_key(|storage| {
        (!storage.nodes.is_empty(), storage.shared != in_cluster, storage.id != "local")
    })
}

/// The command that gives this node a storage for snippets.
pub fn way_to_one(storages: &[Storage]) -> String {
    let candidate = storages.iter().min_by_key(|storage| (storage.id != "local", storage.shared));
    match candidate {
        Some(storage) => {
            let kept = storage.content.split(',').map(str::trim).filter(|kind| *kind != "none");
            let content: Vec<&str> = kept.chain(["snippets"]).collect();
            format!("pvesm set {} --content {}", storage.id, content.join(","))
        }
        None => "pvesm add dir snippets --path /var/lib/snippets --content snippets".to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
dir: local
\tpath /var/lib/vz
\tcontent iso,vztmpl,backup

nfs: share
\tserver 192.0.2.3
\texport /srv
\tpath /mnt/pve/share
\tcontent snippets,iso
\tcontent-dirs iso=i,snippets=hooks/pve

dir: usb
\tpath /mnt/usb/
\tcontent snippets
\tis_mountpoint 1
\tnodes one,two

dir: off
\tpath /off
\tcontent snippets
\tdisable

dir: other
\tpath /other
\tcontent snippets
\tnodes two

lvmthin: thin
\tthinpool data
\tcontent rootdir
";

    fn parse(text: &str, node: &str) -> Vec<Storage> {
        of_node(storage::parse(text), node)
    }

    #[test]
    fn the_directories_of_this_node_are_known() {
        let storages = parse(TEXT, "one");
        let ids: Vec<&str> = storages.iter().map(|storage| storage.id.as_str()).collect();
        assert_eq!(ids, ["local", "share", "usb"]);
        assert!(!storages[0].has_snippets && !storages[0].shared);
        assert_eq!(storages[1].directory, "/mnt/pve/share/hooks/pve");
        assert!(storages[1].shared);
        assert_eq!(storages[1].mount.as_deref(), Some("/mnt/pve/share"));
        assert_eq!(storages[2].directory, "/mnt/usb/snippets");
        assert_eq!(storages[2].mount.as_deref(), Some("/mnt/usb"));
        assert!(storages[2].on("two") && !storages[2].on("three"));
    }

    #[test]
    fn a_node_whose_configuration_names_no_local_storage_has_it_all_the_same() {
        let storages = parse("", "one");
        assert_eq!(choose(&storages, false).unwrap().directory, "/var/lib/vz/snippets");
        let storages = parse("dir: local\n\tcontent snippets\n", "one");
        assert_eq!(storages[0].directory, "/var/lib/vz/snippets");
    }

    #[test]
    fn a_node_takes_its_own_storage_and_a_cluster_a_shared_one() {
        let text = format!("{TEXT}\ndir: own\n\tpath /own\n\tcontent snippets\n");
        let storages = parse(&text, "one");
        assert_eq!(choose(&storages, false).unwrap().id, "own");
        assert_eq!(choose(&storages, true).unwrap().id, "share");
        assert_eq!(choose(&parse(TEXT, "one")[..1], false), None);
    }

    #[test]
    fn the_way_to_a_storage_keeps_what_it_holds() {
        assert_eq!(
            way_to_one(&parse(TEXT, "one")),
            "pvesm set local --content iso,vztmpl,backup,snippets"
        );
        let none = "dir: local\n\tpath /var/lib/vz\n\tcontent none\n";
        assert_eq!(way_to_one(&parse(none, "one")), "pvesm set local --content snippets");
        assert!(way_to_one(&[]).starts_with("pvesm add dir snippets"));
    }

    #[test]
    fn a_volume_is_a_file_in_its_storage_and_nowhere_else() {
        let storages = parse(TEXT, "one");
        let file = |volume| file_of(&storages, volume);
        assert_eq!(file("local:snippets/x.pl").as_deref(), Some("/var/lib/vz/snippets/x.pl"));
        assert_eq!(file("share:snippets/x").as_deref(), Some("/mnt/pve/share/hooks/pve/x"));
        for volume in
            ["none:snippets/x", "local:iso/x", "local:snippets/../x", "local:snippets/", "x"]
        {
            assert_eq!(file(volume), None, "{volume}");
        }
    }
}
