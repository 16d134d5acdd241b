//! The hookscript that a guest had before ours, which calls it: `/etc/pve/stillpoint/chained/VMID.json`, for the whole
//! cluster.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::nodes::write;
use super::storages;
use crate::sys::{Root, file};
use crate::vzdump::Vmid;

const SCHEMA: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Kept {
    schema: u32,
    /// Its volume.
    hookscript: String,
}

fn path(vmid: Vmid) -> String {
    format!("/etc/pve/stillpoint/chained/{vmid}.json")
}

/// The volume of the hookscript that is kept for a guest.
pub fn volume(root: &Root, vmid: Vmid) -> Result<Option<String>> {
    let path = path(vmid);
    let Some(text) = file::read_text(&root.path(&path), 1 << 20).with_context(|| path.clone())?
    else {
        return Ok(None);
    };
    let kept: Kept = serde_json::from_str(&text).with_context(|| path.clone())?;
    if kept.schema != SCHEMA {
        bail!("{path} was written by another version of Stillpoint");
    }
    Ok(Some(kept.hookscript))
}

/// The file of the hookscript that is kept for a guest, and its volume.
pub fn script(root: &Root, vmid: Vmid) -> Result<Option<(String, PathBuf)>> {
    let Some(volume) = volume(root, vmid)? else { return Ok(None) };
    let Some(file) = storages::file_of(&storages::directories(root)?, &volume) else {
        bail!("the hookscript {volume} is in no storage of this node");
    };
    Ok(Some((volume, root.path(&file))))
}

/// Keeps a hookscript.
pub fn keep(root: &Root, vmid: Vmid, volume: &str) -> Result<()> {
    let kept = Kept { schema: SCHEMA, hookscript: volume.to_string() };
    write(root, &path(vmid), &serde_json::to_vec(&kept)?)
}

/// Keeps none any longer.
pub fn forget(root: &Root, vmid: Vmid) -> Result<()> {
    let path = path(vmid);
    file::remove(&root.path(&path)).context(path)
}
