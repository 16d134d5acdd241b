//! Whether a guest has what only one machine should have from another.

use std::time::Duration;

use anyhow::{Context, Result};

use super::copies::Copy;
use crate::guest::{Guest, Place, State};
use crate::report::log;
use crate::sys::tree::Tree;
use crate::sys::{Root, bounded};

/// One of them that both have tells enough.
const FILES: [&str; 4] = [
    "/etc/machine-id",
    "/etc/ssh/ssh_host_ed25519_key.pub",
    "/etc/ssh/ssh_host_ecdsa_key.pub",
    "/etc/ssh/ssh_host_rsa_key.pub",
];

/// A machine-id has 33 bytes, and what is shorter (`uninitialized`) is none.
const SHORTEST: usize = 32;

/// Longer than any of them.
const LIMIT: u64 = 4096;

/// For reading eight small files in two guests.
const FILE_LIMIT: Duration = Duration::from_secs(10);

/// Whether the guest shares any of it with the one whose backup it was restored from; `None` where that one does not run
/// here, and can't be looked into.
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
                "whether it has the machine-id of guest {original}, whose backup it was restored from, is seen once \
                both run"
            ),
        );
        return Ok(None);
    };
    let (one, other) = (guest.tree.try_clone()?, other.tree);
    let shared =
        bounded::within(FILE_LIMIT, move || FILES.iter().any(|path| same(path, &one, &other)));
    shared.map(Some).context("the guests' file systems")
}

/// What can't be read is not the same.
fn same(path: &str, one: &Tree, other: &Tree) -> bool {
    let content = |tree: &Tree| tree.read(path, LIMIT).ok().flatten();
    content(one).is_some_and(|content_of_one| {
        content_of_one.trim_ascii().len() >= SHORTEST && content(other) == Some(content_of_one)
    })
}
