//! Whether a guest has another guest's machine-id or host keys.

use std::io;

use anyhow::Result;

use super::copies::Copy;
use crate::guest::{Guest, State};
use crate::pve::Place;
use crate::report::log;
use crate::sys::Root;
use crate::sys::tree::Tree;

/// One file that both have is enough.
const FILES: [&str; 4] = [
    "/etc/machine-id",
    "/etc/ssh/ssh_host_ed25519_key.pub",
    "/etc/ssh/ssh_host_ecdsa_key.pub",
    "/etc/ssh/ssh_host_rsa_key.pub",
];

/// A machine-id has 33 bytes; something shorter (`uninitialized`) is none.
const SHORTEST: usize = 32;

/// Longer than any of them.
const LIMIT: u64 = 4096;

/// Whether the guest shares any of it with the guest whose backup it was restored from; `None` if
/// that one does not run here, so that its files cannot be read.
pub fn with_original(root: &Root, copy: &Copy, guest: &Guest) -> Result<Option<bool>> {
    let Some(original) = copy.original else { return Ok(Some(false)) };
    match Place::of(root, original)? {
        Place::Here(_) => {}
        Place::Elsewhere(_) => return Ok(None),
        Place::Gone => return Ok(Some(false)),
    }
    let State::Running(other) = State::of(root, original)? else {
        log::notice(
            copy.vmid,
            &format!(
                "once both run, Stillpoint checks whether it has the machine-id of guest \
                 {original}, from whose backup it was restored"
            ),
        );
        return Ok(None);
    };
    for path in FILES {
        if same(path, &guest.tree, &other.tree)? {
            return Ok(Some(true));
        }
    }
    Ok(Some(false))
}

/// A file that cannot be read counts as different.
fn same(path: &str, one: &Tree, other: &Tree) -> io::Result<bool> {
    let content = |tree: &Tree| match tree.read(path, LIMIT) {
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(error),
        other => Ok(other.ok().flatten()),
    };
    Ok(match content(one)? {
        Some(known) if known.trim_ascii().len() >= SHORTEST => content(other)? == Some(known),
        _ => false,
    })
}
