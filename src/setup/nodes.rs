//! What each node of the cluster has of Stillpoint: a note of its own below `/etc/pve`, for no node can look at another's
//! disk.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::snippet;
use super::storages::{Storage, directories};
use crate::guest::node_name;
use crate::sys::{Root, clock, file};

const DIRECTORY: &str = "/etc/pve/stillpoint/nodes";
const SCHEMA: u32 = 1;

/// `/etc/pve/stillpoint/nodes/NODE.json`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    pub schema: u32,
    /// Of the package.
    pub version: String,
    /// When it was written, RFC 3339, UTC.
    pub time: String,
    /// The volumes of our hookscript that are in this node's own storages.
    #[serde(default)]
    pub snippets: Vec<String>,
}

/// The other nodes of the cluster, by name; none on a node by itself.
///
/// `/etc/pve/.members` has them; where that can't be read, the directories of `/etc/pve/nodes`.
pub fn others(root: &Root) -> Result<Vec<String>> {
    let own = node_name(root);
    let mut names = match members(root) {
        Some(names) => names,
        None => directories_of_nodes(root)?,
    };
    names.retain(|name| *name != own);
    names.sort_unstable();
    Ok(names)
}

/// pmxcfs leaves `nodelist` out on a node that is in no cluster.
fn members(root: &Root) -> Option<Vec<String>> {
    #[derive(Deserialize)]
    struct Members {
        #[serde(default)]
        nodelist: BTreeMap<String, serde_json::Value>,
    }
    let text = file::read_text(&root.path("/etc/pve/.members"), 1 << 20).ok()??;
    Some(serde_json::from_str::<Members>(&text).ok()?.nodelist.into_keys().collect())
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

/// The note of a node; `None` where it has left none, or one that is not understood.
pub fn note(root: &Root, node: &str) -> Result<Option<Note>> {
    let path = format!("{DIRECTORY}/{node}.json");
    let text = file::read_text(&root.path(&path), 1 << 20).context(path)?;
    Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
}

/// Leaves this node's note.
///
/// # Errors
/// Where it can't be written, as without quorum, or while `/etc/pve` is not mounted: what is written below it then keeps
/// it from being mounted again.
pub fn leave_note(root: &Root) -> Result<()> {
    if root.path("/etc/pve/local").symlink_metadata().is_err() {
        bail!("/etc/pve is not mounted: systemctl status pve-cluster");
    }
    let own = directories(root)?.into_iter().filter(|storage| !storage.shared);
    let there = |storage: &Storage| root.path(&storage.directory).join(snippet::NAME).exists();
    let note = Note {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION").to_string(),
        time: clock::rfc3339(clock::now()),
        snippets: own.filter(there).map(|storage| snippet::volume(&storage)).collect(),
    };
    let path = format!("{DIRECTORY}/{}.json", node_name(root));
    write(root, &path, &serde_json::to_vec(&note)?)
}

/// Writes a file below `/etc/pve/stillpoint`.
pub(super) fn write(root: &Root, path: &str, content: &[u8]) -> Result<()> {
    let place = root.path(path);
    if let Some(directory) = place.parent() {
        fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    }
    file::replace(&place, content, 0o640)
        .with_context(|| format!("{path} can't be written; has the cluster quorum? pvecm status"))
}

/// The nodes on which a guest with our hookscript in that storage would not start.
pub fn without_snippet(root: &Root, storage: &Storage) -> Result<Vec<String>> {
    let mut without = Vec::new();
    for node in others(root)? {
        let has = storage.on(&node)
            && (storage.shared
                || note(root, &node)?
                    .is_some_and(|note| note.snippets.contains(&snippet::volume(storage))));
        if !has {
            without.push(node);
        }
    }
    Ok(without)
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
}
