//! Guests that were started in doubt about their identity.
//!
//! The marker `/run/stillpoint/in-doubt/VMID` contains the reason. It stays until the guest starts
//! without doubt, or the node boots.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::journal::{Identity, IdentityOutcome, Journal, Record};
use crate::sys::{Root, file};
use crate::vzdump::Vmid;

/// Marks a guest and journals that, once for each reason and boot of the node: a guest in doubt may
/// be started again and again.
pub fn mark(root: &Root, vmid: Vmid, reason: String) -> Result<()> {
    let path = path(root, vmid);
    let known = file::read_text(&path, 1 << 20).with_context(|| path.display().to_string())?;
    if known.is_some_and(|known| known == reason) {
        return Ok(());
    }
    // Before the journal: a full disk must not delay a mark that decides about another guest.
    let write = || -> std::io::Result<()> {
        if let Some(directory) = path.parent() {
            file::own_directory(directory)?;
        }
        file::replace(&path, reason.as_bytes(), 0o600)
    };
    let marked = write().with_context(|| path.display().to_string());
    Journal::of(root).append(&Record::Identity(Identity {
        vmid,
        outcome: IdentityOutcome::InDoubt,
        original: None,
        reason,
        changes: Vec::new(),
    }))?;
    marked
}

/// Whether a guest's last start was in doubt.
pub fn is_marked(root: &Root, vmid: Vmid) -> bool {
    path(root, vmid).exists()
}

/// A guest is no longer in doubt.
pub fn clear(root: &Root, vmid: Vmid) -> Result<()> {
    let path = path(root, vmid);
    file::remove(&path).with_context(|| path.display().to_string())
}

fn path(root: &Root, vmid: Vmid) -> PathBuf {
    root.path(&format!("/run/stillpoint/in-doubt/{vmid}"))
}
