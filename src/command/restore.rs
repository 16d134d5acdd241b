use anyhow::{Result, bail};

use crate::sys::Root;
use crate::vzdump::Vmid;

pub fn check(_root: &Root, _vmid: Vmid, _as_json: bool) -> Result<()> {
    bail!("not there yet")
}

pub fn adopt(_root: &Root, _vmid: Vmid) -> Result<()> {
    bail!("not there yet")
}
