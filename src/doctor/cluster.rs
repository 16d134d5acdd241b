//! Stillpoint on the other nodes of the cluster, from the files that they write ([`nodes`]).

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;

use super::check::Check;
use super::messages::{
    NO_NOTE, NO_QUORUM, NODE_DAMAGED, NODE_NO_SNIPPET, NODE_OTHER, NODE_WITHOUT, NODES,
    NODES_UNKNOWN, QUORUM,
};
use crate::pve::{Member, Nodes, is_our_snippet, members, node_name};
use crate::setup::{nodes, snippet, storages};
use crate::sys::Root;
use crate::sys::text::count;

const VERSION: &str = env!("CARGO_PKG_VERSION");

pub fn cluster(root: &Root) -> Vec<Check> {
    let mut checks = Vec::new();
    if let Err(error) = nodes::leave_note(root) {
        checks.push(NO_NOTE.check("cluster.note", &[("reason", &format!("{error:#}"))]));
    }
    let members = match Nodes::read(root) {
        Ok(members) => members.unwrap_or_default(),
        Err(error) => {
            checks.push(NODES_UNKNOWN.check("cluster.nodes", &[("reason", &format!("{error:#}"))]));
            return checks;
        }
    };
    match members.quorate {
        Some(false) => checks.push(NO_QUORUM.check("cluster.quorum", &[])),
        _ if is_read_only(root) => checks.push(NO_QUORUM.check("cluster.quorum", &[])),
        Some(true) => checks.push(QUORUM.check("cluster.quorum", &[])),
        None => {}
    }
    let own = node_name(root);
    let others: Vec<&String> = members.names.iter().filter(|node| **node != own).collect();
    let wanted = wanted_snippets(root);
    let odd: Vec<Check> = others.iter().flat_map(|node| of_node(root, node, &wanted)).collect();
    if odd.is_empty() {
        let count = match others.len() {
            0 => "this node, which is in no cluster".to_string(),
            others => format!("all {}", count(others + 1, "node")),
        };
        checks.push(NODES.check("cluster.nodes", &[("version", &VERSION), ("count", &count)]));
    }
    checks.extend(odd);
    checks
}

/// The problems that another node's file shows.
fn of_node(root: &Root, node: &str, wanted: &BTreeSet<String>) -> Vec<Check> {
    let about = format!("cluster.{node}");
    let here = ("version", &VERSION as &dyn std::fmt::Display);
    let note = match nodes::note(root, node) {
        Err(error) => {
            let reason = format!("{error:#}");
            return vec![NODE_DAMAGED.check(about, &[("node", &node), ("reason", &reason)])];
        }
        Ok(None) => return vec![NODE_WITHOUT.check(about, &[("node", &node), here])],
        Ok(Some(note)) => note,
    };
    let mut checks = Vec::new();
    if note.version != VERSION {
        checks.push(NODE_OTHER.check(&about, &[("node", &node), ("theirs", &note.version), here]));
    }
    for script in wanted.iter().filter(|volume| !note.snippets.contains(volume)) {
        checks.push(NODE_NO_SNIPPET.check(&about, &[("node", &node), ("script", script)]));
    }
    checks
}

/// The volumes of our hookscript that guests of the cluster name, and that each node needs as a
/// local file. The check of leftovers reports a configuration that cannot be read.
fn wanted_snippets(root: &Root) -> BTreeSet<String> {
    let Ok(members) = members(root) else { return BTreeSet::new() };
    let hookscript = |member: &Member| member.config().ok().flatten()?.hookscript;
    let ours = members.iter().filter_map(hookscript).filter(|volume| is_our_snippet(volume));
    let storages = storages::directories(root).unwrap_or_default();
    let shared = |volume: &String| {
        storages.iter().any(|storage| storage.shared && snippet::volume(storage) == *volume)
    };
    ours.filter(|volume| !shared(volume)).collect()
}

/// Without quorum, or while corosync is down, pmxcfs shows its files without the write permission.
fn is_read_only(root: &Root) -> bool {
    fs::metadata(root.path("/etc/pve/nodes")).is_ok_and(|meta| meta.mode() & 0o200 == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_hookscript_in_a_storage_of_the_nodes_own_is_wanted_on_each() {
        let directory =
            std::env::temp_dir().join(format!("stillpoint-wanted-{}", crate::sys::text::token()));
        let root = Root::at(&directory);
        std::fs::create_dir_all(root.path("/etc/pve/lxc")).unwrap();
        let shared = "dir: share\n\tpath /srv\n\tcontent snippets\n\tshared 1\n";
        std::fs::write(root.path("/etc/pve/storage.cfg"), shared).unwrap();
        for (vmid, volume) in [
            (1, "local:snippets/stillpoint"),
            (2, "share:snippets/stillpoint"),
            (3, "local:snippets/x"),
        ] {
            let path = root.path(&format!("/etc/pve/lxc/900{vmid}.conf"));
            std::fs::write(path, format!("hookscript: {volume}\n")).unwrap();
        }
        assert_eq!(
            wanted_snippets(&root).into_iter().collect::<Vec<_>>(),
            ["local:snippets/stillpoint"]
        );
        std::fs::remove_dir_all(directory).unwrap();
    }
}
