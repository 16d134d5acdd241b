use anyhow::{Context, Result, bail};

use super::appearance::Known;
use super::change::Change;
use super::copies::{self, Copy};
use super::decide::Due;
use super::owner::{Changed, Owned, Records};
use crate::config::Restore;
use crate::journal::{Identity, IdentityOutcome, Journal, Record, SettingChange};
use crate::pve::edit::{Grammar, Rewrite, write_together};
use crate::pve::{Mac, lxc};
use crate::sys::{Root, clock, failpoint};
use crate::vzdump::Vmid;

/// Gives a copy its own identity: first recorded, so that it can be undone; then written to both
/// configuration files, or to neither. On an error everything is as before.
pub fn apply(
    root: &Root,
    known: &Known,
    due: &Due,
    change: &Change,
    restore: &Restore,
    reason: &str,
) -> Result<Vec<String>> {
    let vmid = known.member.vmid;
    let rewrites = rewrites(root, vmid, change)?;
    let after = change.applied_to(&known.appearance);
    let (nets, mut macs): (Vec<_>, Vec<_>) = changed_macs(change).into_iter().unzip();
    if macs.is_empty() {
        macs.extend(after.macs());
    }
    let records = Records::of(root);
    let time = clock::rfc3339(clock::now());
    let before = records.read(vmid)?;
    let owned = Owned {
        macs: after.macs(),
        changed: Some(Changed {
            original: due.original,
            time: time.clone(),
            from: change.from.clone(),
            to: change.to.clone(),
        }),
        ..Owned::of(known)
    };
    records.write(&owned).context("nothing is touched (does the cluster have a quorum?)")?;
    let copy = Copy {
        time,
        nets: nets.into_iter().flatten().collect(),
        macs: macs.iter().map(Mac::to_string).collect(),
        ..copy_of(vmid, due.original, restore)
    };
    let left = match inside(restore).is_empty() {
        true => copies::forget(root, vmid),
        false => copies::leave(root, &copy),
    };
    let written = left.and_then(|()| {
        failpoint::reach(root, "identity-recorded");
        write_together(&rewrites)
    });
    if let Err(error) = written {
        let back = match &before {
            Some(before) => records.write(before),
            None => records.drop_record(vmid),
        };
        let back = back.and_then(|()| copies::forget(root, vmid));
        return Err(match back {
            Ok(()) => error.context("nothing is touched"),
            Err(second) => {
                error.context(format!("the record of the change could not be removed ({second:#})"))
            }
        });
    }
    let mut lines = told(vmid, change, restore, reason);
    let record = Identity {
        vmid,
        outcome: IdentityOutcome::Changed,
        original: due.original,
        reason: reason.to_string(),
        changes: changes(change),
    };
    if let Err(error) = Journal::of(root).append(&Record::Identity(record)) {
        lines.push(format!("{error:#}"));
    }
    Ok(lines)
}

/// Finishes a change that was interrupted between the two files: the next call of the same start
/// does the rest.
///
/// Only if Proxmox VE's own file has everything that was given then: what an admin has set since is
/// not undone.
pub fn mend(root: &Root, known: &Known, owned: &Owned) -> Result<Option<String>> {
    let vmid = known.member.vmid;
    let Some(changed) = &owned.changed else { return Ok(None) };
    let change = Change { from: changed.from.clone(), to: changed.to.clone() };
    if !change.is_in(&known.appearance) {
        return Ok(None);
    }
    let lxc = Rewrite::read(&lxc::path(root, vmid), Grammar::Lxc, &change.lxc_edits())?;
    let Some(lxc) = lxc.filter(|lxc| !lxc.is_idle()) else { return Ok(None) };
    write_together(&[lxc])?;
    Ok(Some(format!("guest {vmid} starts with the identity that it was given before")))
}

/// Both configuration files with a change applied. The one that LXC reads does not exist before a
/// guest's first start.
///
/// # Errors
/// Also if a line to change is no longer as it was read.
pub fn rewrites(root: &Root, vmid: Vmid, change: &Change) -> Result<Vec<Rewrite>> {
    let path = root.path(&format!("/etc/pve/lxc/{vmid}.conf"));
    let Some(pve) = Rewrite::read(&path, Grammar::Pve, &change.pve_edits())? else {
        bail!("{} is gone", path.display());
    };
    if let Some(key) = pve.missed().first() {
        bail!("{}: '{key}' was changed meanwhile", path.display());
    }
    let lxc = Rewrite::read(&lxc::path(root, vmid), Grammar::Lxc, &change.lxc_edits())?;
    Ok(std::iter::once(pve).chain(lxc).collect())
}

/// The changes, setting by setting.
pub fn changes(change: &Change) -> Vec<SettingChange> {
    let hostname = change.from.hostname.iter().zip(&change.to.hostname).map(|(from, to)| {
        SettingChange { key: "hostname".to_string(), from: from.clone(), to: to.clone() }
    });
    let nets = change.from.nets.iter().zip(&change.to.nets).map(|(from, to)| SettingChange {
        key: format!("net{}", to.number),
        from: from.value.clone(),
        to: to.value.clone(),
    });
    hostname.chain(nets).collect()
}

/// The lines that describe a change: what is new, and what to do about a link that is down.
pub fn told(vmid: Vmid, change: &Change, restore: &Restore, reason: &str) -> Vec<String> {
    let mut new: Vec<String> = Vec::new();
    if let (Some(from), Some(to)) = (&change.from.hostname, &change.to.hostname) {
        new.push(format!("hostname {to} instead of {from}"));
    }
    let mut down = Vec::new();
    for (number, from, to) in change.nets() {
        if let (Some(from), Some(to)) = (from.mac(), to.mac())
            && from != to
        {
            new.push(format!("net{number} {to} instead of {from}"));
        }
        let addresses: Vec<&str> =
            from.written_addresses().into_iter().map(|(_, address)| address).collect();
        let addresses = addresses.join(" and ");
        if to.is_down() && !from.is_down() {
            new.push(format!("net{number} with its link down"));
            let mut up = to.clone();
            up.remove("link_down");
            down.push(format!(
                "net{number} keeps {addresses}, which may be in use, and so its link is down: give it another \
                address, or use this one, with `pct set {vmid} --net{number} '{up}'`"
            ));
        } else if !addresses.is_empty() && to.written_addresses().is_empty() {
            new.push(format!("net{number} by DHCP instead of {addresses}"));
        }
    }
    let inside = inside(restore);
    if !inside.is_empty() {
        new.push(format!("new {} inside", inside.join(" and ")));
    }
    let mut lines = vec![format!(
        "guest {vmid} is a copy and gets its own identity ({reason}): {}",
        new.join(", ")
    )];
    lines.extend(down);
    lines
}

/// Leaves a record for the guest's settling: compare the guest with the one whose backup it was
/// restored from.
pub fn leave_to_compare(
    root: &Root,
    known: &Known,
    original: Vmid,
    restore: &Restore,
) -> Result<()> {
    if inside(restore).is_empty() {
        return Ok(());
    }
    let copy = Copy {
        macs: known.appearance.macs().iter().map(Mac::to_string).collect(),
        if_shared: true,
        ..copy_of(known.member.vmid, Some(original), restore)
    };
    copies::leave(root, &copy)
}

fn copy_of(vmid: Vmid, original: Option<Vmid>, restore: &Restore) -> Copy {
    Copy {
        schema: copies::SCHEMA,
        vmid,
        original,
        time: clock::rfc3339(clock::now()),
        machine_id: restore.machine_id,
        ssh_host_keys: restore.ssh_host_keys,
        nets: Vec::new(),
        macs: Vec::new(),
        if_shared: false,
        told: None,
    }
}

/// What is replaced inside a copy.
pub fn inside(restore: &Restore) -> Vec<&'static str> {
    let all = [(restore.machine_id, "machine-id"), (restore.ssh_host_keys, "SSH host keys")];
    all.into_iter().filter(|(due, _)| *due).map(|(_, what)| what).collect()
}

/// The nets that get another hardware address: the name in the guest, and the address.
fn changed_macs(change: &Change) -> Vec<(Option<String>, Mac)> {
    let changed = change.nets().filter(|(_, from, to)| from.mac() != to.mac());
    changed.filter_map(|(_, _, to)| Some((to.name().map(String::from), to.mac()?))).collect()
}
