//! Stillpoint on the other nodes of the cluster.
//!
//! Each node leaves a note of itself in `/etc/pve/stillpoint/nodes/NODE.json`, which every node can read:
//! `{"schema": 1, "version": "0.1.0", "snippets": ["local:snippets/stillpoint"], "time":
//! "2026-11-22T04:00:00.000Z"}`.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::check::Check;
use super::messages::{
    NO_NOTE, NO_QUORUM, NODE_DAMAGED, NODE_NO_SNIPPET, NODE_OTHER, NODE_WITHOUT, NODES,
    NODES_UNKNOWN, QUORUM,
};
use super::node::is_executable;
use crate::guest::{members, node_name};
use crate::sys::text::count;
use crate::sys::{Root, clock, file};

const SCHEMA: u32 = 1;
const LIMIT: u64 = 1 << 20;
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The hookscript in the storage that every node has, and its file.
const SNIPPET: (&str, &str) = ("local:snippets/stillpoint", "/var/lib/vz/snippets/stillpoint");

/// What a node says of itself.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    schema: u32,
    /// Stillpoint's.
    version: String,
    /// The volumes of Stillpoint's hookscript in storages of its own: guests that name one of them can start there.
    #[serde(default)]
    snippets: Vec<String>,
    /// When this became so: RFC 3339, UTC.
    time: String,
}

/// The members of the cluster as `/etc/pve/.members` has them; a node by itself has no list.
#[derive(Debug, Default, Deserialize)]
struct Members {
    cluster: Option<Quorum>,
    #[serde(default)]
    nodelist: BTreeMap<String, serde::de::IgnoredAny>,
}

#[derive(Debug, Deserialize)]
struct Quorum {
    quorate: u8,
}

/// Leaves the note of this node, where it is not what is there already.
///
/// # Errors
/// Where it can't be written, as without quorum, or while `/etc/pve` is not mounted: what is written into the
/// directory below keeps it from being mounted again.
pub fn note_node(root: &Root) -> Result<()> {
    if root.path("/etc/pve/local").symlink_metadata().is_err() {
        bail!("/etc/pve is not mounted: systemctl status pve-cluster");
    }
    let node = node_name(root);
    let old = read(root, &node).ok().flatten();
    // Of other storages knows who puts it there.
    let mut snippets = old.as_ref().map_or_else(Vec::new, |note| note.snippets.clone());
    snippets.retain(|volume| volume != SNIPPET.0);
    if is_executable(&root.path(SNIPPET.1)) {
        snippets.push(SNIPPET.0.to_string());
    }
    let same = |note: &Note| {
        (note.schema, note.version.as_str(), &note.snippets) == (SCHEMA, VERSION, &snippets)
    };
    if old.as_ref().is_some_and(same) {
        return Ok(());
    }
    let time = clock::rfc3339(clock::now());
    let note = Note { schema: SCHEMA, version: VERSION.to_string(), snippets, time };
    let path = path(root, &node);
    let write = || -> Result<()> {
        std::fs::create_dir_all(root.path("/etc/pve/stillpoint/nodes"))?;
        Ok(file::replace(&path, &serde_json::to_vec_pretty(&note)?, 0o640)?)
    };
    write().with_context(|| path.display().to_string())
}

/// Takes the note of this node away: Stillpoint is being removed from it.
///
/// # Errors
/// Where it can't be removed, as without quorum.
pub fn forget_node(root: &Root) -> Result<()> {
    let path = path(root, &node_name(root));
    file::remove(&path).with_context(|| path.display().to_string())
}

pub fn cluster(root: &Root) -> Vec<Check> {
    let mut checks = Vec::new();
    if let Err(error) = note_node(root) {
        checks.push(NO_NOTE.check("cluster.note", &[("reason", &format!("{error:#}"))]));
    }
    let members = match listed(root) {
        Ok(members) => members,
        Err(error) => {
            checks.push(NODES_UNKNOWN.check("cluster.nodes", &[("reason", &format!("{error:#}"))]));
            return checks;
        }
    };
    if let Some(cluster) = &members.cluster {
        let message = if cluster.quorate == 0 { NO_QUORUM } else { QUORUM };
        checks.push(message.check("cluster.quorum", &[]));
    }
    let own = node_name(root);
    let others: Vec<&String> = members.nodelist.keys().filter(|node| **node != own).collect();
    let snippet_wanted = wants_snippet(root);
    let odd: Vec<Check> =
        others.iter().flat_map(|node| of_node(root, node, snippet_wanted)).collect();
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

/// What another node's note says that it should not.
fn of_node(root: &Root, node: &str, snippet_wanted: bool) -> Vec<Check> {
    let about = format!("cluster.{node}");
    let here = ("version", &VERSION as &dyn std::fmt::Display);
    let note = match read(root, node) {
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
    if snippet_wanted && !note.snippets.iter().any(|volume| volume == SNIPPET.0) {
        checks.push(NODE_NO_SNIPPET.check(&about, &[("node", &node), ("script", &SNIPPET.0)]));
    }
    checks
}

/// Whether any guest of the cluster has the hookscript; one whose configuration can't be read is told of elsewhere.
fn wants_snippet(root: &Root) -> bool {
    let Ok(members) = members(root) else { return false };
    members.iter().any(|member| {
        let config = member.config().ok().flatten();
        config.is_some_and(|config| config.hookscript.as_deref() == Some(SNIPPET.0))
    })
}

fn listed(root: &Root) -> Result<Members> {
    let path = root.path("/etc/pve/.members");
    let text = file::read_text(&path, LIMIT).context("/etc/pve/.members")?;
    match text {
        None => Ok(Members::default()),
        Some(text) => serde_json::from_str(&text).context("/etc/pve/.members"),
    }
}

fn read(root: &Root, node: &str) -> Result<Option<Note>> {
    let bytes = match file::read(&path(root, node), LIMIT) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    Ok(Some(serde_json::from_slice(&bytes)?))
}

fn path(root: &Root, node: &str) -> PathBuf {
    root.path("/etc/pve/stillpoint/nodes").join(format!("{node}.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_written_when_it_changes_and_not_else() {
        let directory =
            std::env::temp_dir().join(format!("stillpoint-note-{}", crate::sys::text::token()));
        let root = Root::at(&directory);
        std::fs::create_dir_all(root.path("/etc/pve/nodes/one")).unwrap();
        std::os::unix::fs::symlink("nodes/one", root.path("/etc/pve/local")).unwrap();
        note_node(&root).unwrap();
        let unmounted = Root::at(&directory.join("etc/pve/nodes"));
        assert!(note_node(&unmounted).is_err() && !unmounted.path("/etc").exists());
        let first = read(&root, "one").unwrap().unwrap();
        assert_eq!((first.version.as_str(), first.snippets.len()), (VERSION, 0));
        let other = first.time.replace("20", "19");
        let text = std::fs::read_to_string(path(&root, "one")).unwrap();
        std::fs::write(path(&root, "one"), text.replace(&first.time, &other)).unwrap();
        note_node(&root).unwrap();
        assert_eq!(read(&root, "one").unwrap().unwrap().time, other, "it said the same");
        std::fs::write(path(&root, "one"), "{").unwrap();
        note_node(&root).unwrap();
        assert_ne!(read(&root, "one").unwrap().unwrap().time, other);
        forget_node(&root).unwrap();
        assert!(read(&root, "one").unwrap().is_none());
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn the_members_are_read_as_pmxcfs_writes_them() {
        let text = r#"{"nodename": "a", "version": 4,
            "cluster": { "name": "c", "version": 2, "nodes": 2, "quorate": 1 },
            "nodelist": {"a": { "id": 1, "online": 1, "ip": "10.0.0.1"}, "b": { "id": 2, "online": 0}}}"#;
        let members: Members = serde_json::from_str(text).unwrap();
        assert_eq!(members.cluster.unwrap().quorate, 1);
        assert_eq!(members.nodelist.keys().collect::<Vec<_>>(), ["a", "b"]);
        let alone: Members = serde_json::from_str(r#"{"nodename": "a", "version": 0}"#).unwrap();
        assert!(alone.cluster.is_none() && alone.nodelist.is_empty());
    }
}
