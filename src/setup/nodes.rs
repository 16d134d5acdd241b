//! What each node of the cluster has of Stillpoint: each writes a file below `/etc/pve`, because
//! nodes cannot read each other's disks.

use std::fs;
use std::io;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::snippet;
use super::storages::{Storage, directories};
use crate::pve::{Nodes, node_name};
use crate::sys::{Root, clock, file};

const DIRECTORY: &str = "/etc/pve/stillpoint/nodes";
const SCHEMA: u32 = 1;

/// `/etc/pve/stillpoint/nodes/NODE.json`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    pub schema: u32,
    /// The package's version.
    pub version: String,
    /// Since when these values hold, RFC 3339, UTC.
    pub time: String,
    /// The volumes of our hookscript in storages that only this node has.
    #[serde(default)]
    pub snippets: Vec<String>,
}

/// The other nodes of the cluster, by name; empty without a cluster.
///
/// From `/etc/pve/.members`; if that cannot be read, from the directories of `/etc/pve/nodes`.
pub fn others(root: &Root) -> Result<Vec<String>> {
    let own = node_name(root);
    let mut names = match Nodes::read(root) {
        Ok(Some(nodes)) => nodes.names,
        Ok(None) | Err(_) => directories_of_nodes(root)?,
    };
    names.retain(|name| *name != own);
    names.sort_unstable();
    Ok(names)
}

fn directories_of_nodes(root: &Root) -> Result<Vec<String>> {
    let entries = match fs::read_dir(root.path("/etc/pve/nodes")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.context("/etc/pve/nodes")?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.context("/etc/pve/nodes")?.file_name();
        names.push(name.to_string_lossy().into_owned());
    }
    Ok(names)
}

/// The file of a node; `None` if it has written none.
///
/// # Errors
/// Also if the file is not valid.
pub fn note(root: &Root, node: &str) -> Result<Option<Note>> {
    let path = path(node);
    let text = file::read_text(&root.path(&path), 1 << 20).context(path.clone())?;
    text.map(|text| serde_json::from_str(&text)).transpose().context(path)
}

/// Writes this node's file, if its content has changed.
///
/// # Errors
/// If it cannot be written: without quorum, or while `/etc/pve` is not mounted (a file written into
/// the empty directory would block the next mount).
pub fn leave_note(root: &Root) -> Result<()> {
    if !is_mounted(root) {
        bail!("/etc/pve is not mounted: systemctl status pve-cluster");
    }
    let own = directories(root)?.into_iter().filter(|storage| !storage.shared);
    let there = own.filter(|storage| snippet::is_there(root, storage));
    let new = Note {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION").to_string(),
        time: clock::rfc3339(clock::now()),
        snippets: there.map(|storage| snippet::volume(&storage)).collect(),
    };
    let node = node_name(root);
    // A damaged file is replaced.
    let old = note(root, &node).ok().flatten();
    if old.is_some_and(|old| Note { time: new.time.clone(), ..old } == new) {
        return Ok(());
    }
    write(root, &path(&node), &serde_json::to_vec_pretty(&new)?)
}

/// Whether this is a node of Proxmox VE with `/etc/pve` mounted.
pub fn is_mounted(root: &Root) -> bool {
    root.path("/etc/pve/local").symlink_metadata().is_ok()
}

fn path(node: &str) -> String {
    format!("{DIRECTORY}/{node}.json")
}

/// Writes a file below `/etc/pve/stillpoint`.
pub(super) fn write(root: &Root, path: &str, content: &[u8]) -> Result<()> {
    if !is_mounted(root) {
        bail!("cannot write {path}: /etc/pve is not mounted: systemctl status pve-cluster");
    }
    let place = root.path(path);
    if let Some(directory) = place.parent() {
        fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    }
    file::replace(&place, content, 0o640)
        .with_context(|| format!("cannot write {path}; does the cluster have quorum? pvecm status"))
}

/// The nodes on which a guest with our hookscript in that storage could not start.
pub fn without_snippet(root: &Root, storage: &Storage) -> Result<Vec<String>> {
    let mut without = Vec::new();
    for node in others(root)? {
        let has = storage.on(&node)
            && (storage.shared || note_names(root, &node, &snippet::volume(storage)));
        if !has {
            without.push(node);
        }
    }
    Ok(without)
}

/// A file that cannot be read counts as empty.
fn note_names(root: &Root, node: &str, volume: &str) -> bool {
    let note = note(root, node).ok().flatten();
    note.is_some_and(|note| note.snippets.iter().any(|other| other == volume))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_by_itself_has_no_others_and_one_that_left_the_cluster_is_none() {
        let directory =
            std::env::temp_dir().join(format!("stillpoint-nodes-{}", crate::sys::text::token()));
        let root = Root::at(&directory);
        fs::create_dir_all(root.path("/etc/pve/nodes/one")).unwrap();
        fs::create_dir_all(root.path("/etc/pve/nodes/gone")).unwrap();
        std::os::unix::fs::symlink("nodes/one", root.path("/etc/pve/local")).unwrap();
        assert_eq!(others(&root).unwrap(), ["gone"], "nothing better is known");
        let members = root.path("/etc/pve/.members");
        fs::write(&members, "{\n\"nodename\": \"one\",\n\"version\": 3\n}\n").unwrap();
        assert!(others(&root).unwrap().is_empty());
        let text = "{\"nodename\": \"one\", \"version\": 3, \"cluster\": {\"name\": \"c\"},\n\
            \"nodelist\": {\n \"one\": {\"id\": 1, \"online\": 1},\n \"two\": {\"id\": 2}}}\n";
        fs::write(&members, text).unwrap();
        assert_eq!(others(&root).unwrap(), ["two"]);
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_note_is_written_when_it_changes_and_not_else() {
        let directory =
            std::env::temp_dir().join(format!("stillpoint-note-{}", crate::sys::text::token()));
        let root = Root::at(&directory);
        fs::create_dir_all(root.path("/etc/pve/nodes/one")).unwrap();
        std::os::unix::fs::symlink("nodes/one", root.path("/etc/pve/local")).unwrap();
        leave_note(&root).unwrap();
        let first = note(&root, "one").unwrap().unwrap();
        assert_eq!((first.version.as_str(), first.snippets.len()), (env!("CARGO_PKG_VERSION"), 0));
        let place = root.path(&path("one"));
        let other = first.time.replace("20", "19");
        let text = fs::read_to_string(&place).unwrap();
        fs::write(&place, text.replace(&first.time, &other)).unwrap();
        leave_note(&root).unwrap();
        assert_eq!(note(&root, "one").unwrap().unwrap().time, other, "it said the same");
        let snippets = root.path("/var/lib/vz/snippets");
        fs::create_dir_all(&snippets).unwrap();
        fs::write(snippets.join("stillpoint"), "").unwrap();
        leave_note(&root).unwrap();
        assert_eq!(note(&root, "one").unwrap().unwrap().time, other, "it can't be run");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(snippets.join("stillpoint"), mode).unwrap();
        leave_note(&root).unwrap();
        assert_eq!(note(&root, "one").unwrap().unwrap().snippets, ["local:snippets/stillpoint"]);
        fs::write(&place, "{").unwrap();
        assert!(note(&root, "one").is_err());
        leave_note(&root).unwrap();
        assert!(note(&root, "one").unwrap().is_some());
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn nothing_is_written_below_a_directory_that_is_not_mounted() {
        let directory =
            std::env::temp_dir().join(format!("stillpoint-note-{}", crate::sys::text::token()));
        let root = Root::at(&directory);
        fs::create_dir_all(root.path("/etc/pve")).unwrap();
        assert!(leave_note(&root).is_err());
        assert!(write(&root, "/etc/pve/stillpoint/chained/9001.json", b"{}").is_err());
        assert_eq!(fs::read_dir(root.path("/etc/pve")).unwrap().count(), 0);
        fs::remove_dir_all(directory).unwrap();
    }
}
