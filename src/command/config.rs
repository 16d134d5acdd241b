use anyhow::{Result, bail};

use crate::sys::Root;

pub fn config(_root: &Root, _as_json: bool) -> Result<()> {
    bail!("not there yet")
}
