use anyhow::{Result, bail};

use super::cli::Guests;
use crate::sys::Root;

pub fn enable(_root: &Root, _guests: &Guests, _dry_run: bool) -> Result<()> {
    bail!("not there yet")
}

pub fn disable(_root: &Root, _guests: &Guests, _dry_run: bool) -> Result<()> {
    bail!("not there yet")
}

pub fn register(_root: &Root, _all_guests: bool, _dry_run: bool) -> Result<()> {
    bail!("not there yet")
}

pub fn unregister(_root: &Root, _dry_run: bool) -> Result<()> {
    bail!("not there yet")
}
