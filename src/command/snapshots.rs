use anyhow::{Result, bail};

use crate::sys::Root;
use crate::vzdump::Vmid;

pub fn snapshots(
    _root: &Root,
    _storage: Option<&str>,
    _guest: Option<Vmid>,
    _as_json: bool,
) -> Result<()> {
    bail!("not there yet")
}
