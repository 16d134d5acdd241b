use anyhow::{Result, bail};

use super::cli::StatusForm;
use crate::sys::Root;

pub fn status(_root: &Root, _form: &StatusForm) -> Result<u8> {
    bail!("not there yet")
}
