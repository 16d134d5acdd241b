//! Changes a guest through PVE's and LXC's own programs: revives one that a dead vzdump left frozen
//! or down, and sets its hookscript.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::State;
use crate::pve::Place;
use crate::sys::look::Watched;
use crate::sys::{Root, bounded, program};
use crate::vzdump::Vmid;

const CLUSTER_LIMIT: Duration = Duration::from_secs(5);

const THAW_LIMIT: Duration = Duration::from_secs(20);
const THAW_LOOK: Duration = Duration::from_millis(10);

/// `pct`, a Perl program, takes a second to begin, and a guest's start waits for its volumes.
const PCT_LIMIT: Duration = Duration::from_secs(300);

/// Thaws a frozen guest, in whichever way it was frozen.
///
/// # Errors
/// Also if it is still frozen afterwards.
pub fn thaw(root: &Root, vmid: Vmid) -> Result<()> {
    #[cfg(test)]
    if let Some(walk) = crate::sys::walk::current() {
        return Ok(walk.change_guest(crate::sys::walk::Change::Thaw)?);
    }
    let mut unfreeze = Command::new(root.path("/usr/bin/lxc-unfreeze"));
    unfreeze.args(["-n", &vmid.to_string()]);
    let told = program::run(&mut unfreeze, THAW_LIMIT);
    let State::Running(guest) = State::of(root, vmid)? else { return Ok(()) };
    guest.thaw()?;
    let deadline = Instant::now() + THAW_LIMIT;
    while guest.is_frozen() {
        if Instant::now() >= deadline {
            told.with_context(|| format!("lxc-unfreeze -n {vmid}"))?;
            bail!("guest {vmid} is still frozen");
        }
        thread::sleep(THAW_LOOK);
    }
    Ok(())
}

/// Removes the lock from the guest's configuration.
pub fn lift_lock(root: &Root, vmid: Vmid) -> Result<()> {
    pct(root, &["unlock", &vmid.to_string()])
}

/// Starts the guest.
pub fn start(root: &Root, vmid: Vmid) -> Result<()> {
    #[cfg(test)]
    if let Some(walk) = crate::sys::walk::current() {
        return Ok(walk.change_guest(crate::sys::walk::Change::Start)?);
    }
    pct(root, &["start", &vmid.to_string()])
}

/// The command that starts a stopped guest, for a shell on the node; `None` if it runs, or if its
/// state cannot be determined.
pub fn way_to_start(root: &Root, vmid: Vmid) -> Option<String> {
    let down = matches!(State::of(root, vmid), Ok(State::Stopped));
    down.then(|| {
        let locked =
            || matches!(Place::of(root, vmid), Ok(Place::Here(config)) if config.lock.is_some());
        // An `/etc/pve` that does not answer starts no guest either.
        let locked = bounded::within(&Watched::cluster(root), CLUSTER_LIMIT, locked);
        start_command(vmid, locked.unwrap_or(false))
    })
}

/// Proxmox VE does not start a locked guest.
pub fn start_command(vmid: Vmid, locked: bool) -> String {
    match locked {
        true => format!("pct unlock {vmid} && pct start {vmid}"),
        false => format!("pct start {vmid}"),
    }
}

/// Sets the volume of the guest's hookscript, or removes it.
///
/// PVE refuses a volume whose file is missing or not executable, and a locked guest.
pub fn set_hookscript(root: &Root, vmid: Vmid, volume: Option<&str>) -> Result<()> {
    let vmid = vmid.to_string();
    match volume {
        Some(volume) => pct(root, &["set", &vmid, "--hookscript", volume]),
        None => pct(root, &["set", &vmid, "--delete", "hookscript"]),
    }
}

fn pct(root: &Root, arguments: &[&str]) -> Result<()> {
    let mut pct = Command::new(root.path("/usr/sbin/pct"));
    program::run(pct.args(arguments), PCT_LIMIT)
        .map(drop)
        .with_context(|| format!("pct {}", arguments.join(" ")))
}
