//! The settings of the whole cluster: `/etc/pve/datacenter.cfg`.

use std::io;

use super::options::last;
use crate::sys::{Root, file};

/// The file, for messages.
pub const PATH: &str = "/etc/pve/datacenter.cfg";

const LIMIT: u64 = 1 << 20;

/// The prefix of new hardware addresses, as written; `None` if none is set.
pub fn mac_prefix(root: &Root) -> io::Result<Option<String>> {
    let text = file::read_text(&root.path(PATH), LIMIT)?.unwrap_or_default();
    Ok(last(text.as_bytes(), "mac_prefix"))
}
