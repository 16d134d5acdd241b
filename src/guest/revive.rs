//! Bringing back a guest that a dead vzdump left frozen or down, with PVE's and LXC's own programs.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::sys::{Root, program};
use crate::vzdump::Vmid;

const THAW_LIMIT: Duration = Duration::from_secs(20);

/// `pct` takes a second for its Perl to start, and a guest's start waits for its volumes.
const PCT_LIMIT: Duration = Duration::from_secs(300);

/// Thaws a frozen guest.
pub fn thaw(root: &Root, vmid: Vmid) -> Result<()> {
    let mut unfreeze = Command::new(root.path("/usr/bin/lxc-unfreeze"));
    unfreeze.args(["-n", &vmid.to_string()]);
    program::run(&mut unfreeze, THAW_LIMIT)
        .map(drop)
        .with_context(|| format!("lxc-unfreeze -n {vmid}"))
}

/// Takes the lock out of the guest's configuration.
pub fn lift_lock(root: &Root, vmid: Vmid) -> Result<()> {
    pct(root, "unlock", vmid)
}

/// Starts the guest.
pub fn start(root: &Root, vmid: Vmid) -> Result<()> {
    pct(root, "start", vmid)
}

fn pct(root: &Root, verb: &str, vmid: Vmid) -> Result<()> {
    let mut pct = Command::new(root.path("/usr/sbin/pct"));
    // Its Perl looks for other programs by PATH, which a hook does not have.
    pct.args([verb, &vmid.to_string()]).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    program::run(&mut pct, PCT_LIMIT).map(drop).with_context(|| format!("pct {verb} {vmid}"))
}
