use anyhow::{Result, bail};

use crate::sys::Root;

pub fn doctor(_root: &Root, _storage: Option<&str>, _as_json: bool) -> Result<u8> {
    bail!("not there yet")
}
