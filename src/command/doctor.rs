use anyhow::Result;

use super::{print, print_json};
use crate::doctor::{self, Report};
use crate::sys::{Root, terminal};

/// Prints the checks of this node, or of one storage, and returns the exit status: 0, 1 if
/// something warns, 2 if something fails.
pub fn doctor(root: &Root, storage: Option<&str>, as_json: bool) -> Result<u8> {
    let report = match storage {
        None => doctor::examine(root, doctor::LIMIT),
        Some(id) => doctor::examine_storage(root, id, doctor::LIMIT),
    };
    show(&report, as_json)?;
    Ok(report.exit_status())
}

fn show(report: &Report, as_json: bool) -> Result<()> {
    if as_json {
        return print_json(&serde_json::to_string_pretty(report)?);
    }
    for line in doctor::lines(report, terminal::width(), terminal::takes_colours()) {
        print(&line)?;
    }
    Ok(())
}
