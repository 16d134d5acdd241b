use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use super::appearance::{Known, Rival, rivals};
use super::apply::{changes, rewrites};
use super::change::Change;
use super::copies;
use super::owner::{NetLine, Outward, Owned, Records};
use super::survey::{Survey, running};
use crate::guest::State;
use crate::journal::{Identity, IdentityOutcome, Journal, Record};
use crate::pve::edit::write_together;
use crate::pve::{Family, Net, Place};
use crate::sys::{Root, lock, text};
use crate::vzdump::Vmid;

/// As long as Proxmox VE itself waits for this lock.
const LOCK_LIMIT: Duration = Duration::from_secs(10);

/// Gives a copy the identity of its original, which must be stopped or gone; both configuration
/// files are written. Returns what to print.
pub fn adopt(root: &Root, vmid: Vmid) -> Result<Vec<String>> {
    let path = root.path(&format!("/run/lock/lxc/pve-config-{vmid}.lock"));
    let _lock = lock::take(&path, Instant::now() + LOCK_LIMIT)
        .context("Proxmox VE is at work on this guest: try again when it is done")?;
    let survey = Survey::take(root)?;
    let known = survey.container(vmid)?;
    if State::of(root, vmid)?.is_running() {
        bail!("guest {vmid} is running: stop it first, with `pct shutdown {vmid}`");
    }
    if let Some(Place::Here(config)) = Some(Place::of(root, vmid)?)
        && let Some(lock) = config.lock
    {
        bail!("guest {vmid} is locked ({}): wait until that is over", text::printable(&lock, 40));
    }
    let records = Records::of(root);
    let before = records.read(vmid)?;
    let changed = before
        .as_ref()
        .and_then(|owned| owned.changed.clone())
        .filter(|changed| changed.is_of(&known.appearance))
        .ok_or_else(|| {
            anyhow!(
                "no earlier identity of guest {vmid} is recorded: change it with `pct set {vmid}`"
            )
        })?;
    let change = back(known, &changed.from);
    if change.is_empty() {
        bail!("guest {vmid} has the identity of its original already");
    }
    let after = change.applied_to(&known.appearance);
    let owners: Vec<Rival> = rivals(vmid, &after, survey.guests())
        .into_iter()
        .filter(|rival| !rival.shared.is_empty() || changed.original == Some(rival.vmid))
        .collect();
    for owner in &owners {
        must_not_run(root, owner)?;
    }
    let rewrites = rewrites(root, vmid, &change)?;
    records.write(&Owned::of(&Known { appearance: after, ..known.clone() }))?;
    if let Err(error) = write_together(&rewrites) {
        before.as_ref().map_or(Ok(()), |before| records.write(before))?;
        return Err(error.context("nothing is touched"));
    }
    for owner in owners.iter().filter(|owner| !owner.shared.is_empty()) {
        records.drop_record(owner.vmid)?;
    }
    // If nothing inside was replaced yet, it still has the original's values, as it should.
    copies::forget(root, vmid)?;
    let record = Identity {
        vmid,
        outcome: IdentityOutcome::Adopted,
        original: changed.original,
        reason: "a person asked for it".to_string(),
        changes: changes(&change),
    };
    Journal::of(root).append(&Record::Identity(record))?;
    let mut lines: Vec<String> = changes(&change)
        .iter()
        .map(|change| format!("Guest {vmid}: {}: {}", change.key, text::printable(&change.to, 500)))
        .collect();
    lines.extend(owners.iter().filter(|owner| !owner.shared.is_empty()).map(|owner| {
        format!(
            "{} counts as the copy now, and gets another identity at its next start.",
            sentence(&owner.name())
        )
    }));
    lines.push(
        "Its machine-id and SSH host keys stay as they are now: SSH clients that know the \
         original's key will warn once."
            .to_string(),
    );
    lines.push(format!("Start it with `pct start {vmid}`."));
    Ok(lines)
}

/// The way back to the original's identity: only settings that Stillpoint changes, even if others
/// have changed since.
fn back(known: &Known, from: &Outward) -> Change {
    let mut change = Change::default();
    let own = &known.appearance;
    if let (Some(old), Some(now)) = (&from.hostname, &own.hostname)
        && old != now
    {
        change.from.hostname = Some(now.clone());
        change.to.hostname = Some(old.clone());
    }
    for line in &from.nets {
        let Some(now) = own.net(line.number) else { continue };
        let before = Net::parse(&line.value);
        let mut new = now.clone();
        let keys = Family::BOTH.map(|family| [family.address_key(), family.gateway_key()]);
        for key in keys.as_flattened().iter().chain(&["hwaddr", "link_down"]) {
            match before.get(key) {
                Some(value) => new.set(key, value),
                None => new.remove(key),
            }
        }
        if new.is_same(&before) {
            new = before;
        }
        if new != *now {
            change.from.nets.push(NetLine { number: line.number, value: now.to_string() });
            change.to.nets.push(NetLine { number: line.number, value: new.to_string() });
        }
    }
    change
}

fn must_not_run(root: &Root, owner: &Rival) -> Result<()> {
    let (name, vmid) = (owner.name(), owner.vmid);
    let place = owner
        .node
        .as_ref()
        .map_or_else(String::new, |node| format!(" on node {}", text::printable(node, 63)));
    match running(root, owner)? {
        Some(false) => Ok(()),
        Some(true) => {
            bail!("{name} is running{place}: stop it first, with `pct shutdown {vmid}` there")
        }
        None => bail!(
            "cannot determine whether {name} runs{place}: migrate it to this node, or remove it, \
             first"
        ),
    }
}

fn sentence(name: &str) -> String {
    let mut characters = name.chars();
    characters
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}
