//! Registering Stillpoint with Proxmox VE, and removing it.

use anyhow::{Result, bail};

use super::cli::Guests;
use super::print;
use crate::setup::{self, Told, Which};
use crate::sys::Root;
use crate::sys::text::count;
use crate::vzdump::Vmid;

pub fn enable(root: &Root, guests: &Guests, dry_run: bool) -> Result<()> {
    tell(setup::enable(root, &which(guests), dry_run)?)
}

pub fn disable(root: &Root, guests: &Guests, dry_run: bool) -> Result<()> {
    tell(setup::disable(root, &which(guests), dry_run)?)
}

pub fn register(root: &Root, all_guests: bool, dry_run: bool) -> Result<()> {
    for line in setup::register(root, all_guests, dry_run)? {
        print(&line)?;
    }
    if !dry_run {
        if !all_guests {
            print(
                "Next: `stillpoint enable --all`, so that restored guests come up as they should.",
            )?;
        }
        print("`stillpoint doctor` shows what else to fix.")?;
    }
    Ok(())
}

pub fn unregister(root: &Root, dry_run: bool) -> Result<()> {
    for line in setup::unregister(root, dry_run)? {
        print(&line)?;
    }
    Ok(())
}

/// Prints for the hook which hookscript the guest had before: nothing, its volume and its file in
/// two lines, or one line with the reason why it cannot be determined.
pub fn kept(root: &Root, vmid: Vmid) -> Result<()> {
    match setup::kept::script(root, vmid) {
        Ok(None) => Ok(()),
        Ok(Some((volume, script))) => print(&format!("{volume}\n{}", script.display())),
        Err(error) => print(&format!("{error:#}").replace('\n', " ")),
    }
}

fn which(guests: &Guests) -> Which<'_> {
    if guests.all { Which::All } else { Which::These(&guests.vmids) }
}

/// Prints a line for each guest; those that could not be changed become an error at the end.
fn tell(told: Vec<Told>) -> Result<()> {
    let (total, mut left) = (told.len(), Vec::new());
    if total == 0 {
        return print("There is no container on this node.");
    }
    for (vmid, told) in told {
        match told {
            Ok(what) => print(&format!("Guest {vmid}: {what}."))?,
            Err(error) => {
                print(&format!("Guest {vmid}: nothing changed: {error:#}."))?;
                left.push(vmid.to_string());
            }
        }
    }
    if !left.is_empty() {
        bail!("{} of {} unchanged: {}", left.len(), count(total, "guest"), left.join(", "));
    }
    Ok(())
}
