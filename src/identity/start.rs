use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::apply::{self, mend};
use super::change::{Change, new_mac};
use super::decide::{Case, Decision, Verdict, decide};
use super::doubt;
use super::owner::Records;
use super::restores::Restored;
use super::survey::Survey;
use crate::config::{Restore, Settings};
use crate::guest::State;
use crate::pve::{Mac, datacenter};
use crate::sys::{Root, lock, random};
use crate::vzdump::Vmid;

/// Another call for the same start takes much less; the hook waits a second longer than this.
const LOCK_LIMIT: Duration = Duration::from_secs(4);

/// What the next start of a guest would do about its identity.
pub struct Outlook {
    pub decision: Decision,
    /// What would change; the hardware addresses in it are examples.
    pub change: Option<Change>,
    /// What would be replaced inside it once it runs.
    pub inside: Vec<&'static str>,
    /// The guest that it would then be compared with: what they share is replaced.
    pub compared_with: Option<Vmid>,
    /// Guests that could not be read.
    pub unread: Vec<String>,
}

/// Does what is due before a guest starts, and returns lines for its task log, if there is anything
/// to say. Called under Proxmox VE's lock of the guest's configuration.
///
/// A second call for the same start finds nothing to do.
pub fn pre_start(root: &Root, vmid: Vmid) -> Result<Vec<String>> {
    // PVE makes one call after the other; but if one was too slow and was left behind, the next
    // comes while it still runs.
    let lock = root.path(&format!("/run/stillpoint/identity-{vmid}.lock"));
    let mut lines = Vec::new();
    let _lock = match lock::take(&lock, Instant::now() + LOCK_LIMIT) {
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            return Err(error).context("an earlier call has not ended");
        }
        Err(error) => {
            lines.push(format!("{}: {error}", lock.display()));
            None
        }
        Ok(lock) => Some(lock),
    };
    let settings = Settings::load(root);
    let survey = Survey::take(root)?;
    let known = survey.container(vmid)?;
    let records = Records::of(root);
    lines.extend(settings.complaint.iter().cloned());
    if let Err(error) = records.drop_gone(&survey.vmids()) {
        lines.push(format!("cannot remove the records of guests that are gone: {error:#}"));
    }
    let case = survey.case(known, &settings)?;
    let Decision { verdict, reason } = decide(&case);
    let not_read = |lines: &mut Vec<String>| {
        lines
            .extend(survey.unread.iter().map(|why| format!("a guest could not be checked: {why}")));
    };
    if verdict != Verdict::InDoubt {
        doubt::clear(root, vmid)?;
    }
    match verdict {
        Verdict::Keep { remember } => {
            if !case.shared().is_empty() {
                lines.push(format!("guest {vmid} keeps its identity: {reason}"));
            }
            if let Some(owned) = records.read(vmid)? {
                lines.extend(mend(root, known, &owned)?);
            }
            if let Some(original) = case.may_share_inside_with() {
                let restore = settings.restore_of(vmid.0);
                apply::leave_to_compare(root, known, original, &restore)?;
            }
            if remember {
                records
                    .remember(known)
                    .context("cannot record its hardware addresses as its own")?;
            }
        }
        Verdict::InDoubt => {
            not_read(&mut lines);
            lines.push(format!(
                "guest {vmid} keeps its identity, because it is in doubt whose it is: {reason}"
            ));
            lines.push(way_out_of_doubt(vmid));
            if let Err(error) = doubt::mark(root, vmid, reason) {
                lines.push(format!("{error:#}"));
            }
        }
        Verdict::Change(due) => {
            not_read(&mut lines);
            let restore = restore_of(&settings, &case);
            let taken = survey.guests().iter().flat_map(|guest| guest.appearance.macs());
            let change =
                Change::plan(vmid, &case.own, &due, &restore, fresh_macs(root, taken.collect())?)?;
            if change.is_empty() && apply::inside(&restore).is_empty() {
                // A copy that the settings leave unchanged.
                records
                    .remember(known)
                    .context("cannot record its hardware addresses as its own")?;
            } else {
                lines.extend(apply::apply(root, known, &due, &change, &restore, &reason)?);
            }
        }
    }
    Ok(lines)
}

/// The settings for a guest; without those for its inside, if it is not known to have been restored
/// here.
fn restore_of(settings: &Settings, case: &Case) -> Restore {
    let restore = settings.restore_of(case.vmid.0);
    let renew = case.may_be_renewed();
    Restore {
        machine_id: restore.machine_id && renew,
        ssh_host_keys: restore.ssh_host_keys && renew,
        ..restore
    }
}

/// What an admin can do about a guest in doubt.
pub fn way_out_of_doubt(vmid: Vmid) -> String {
    format!(
        "if guest {vmid} is the original, set restore.identity = \"never\" for it, [guest.{vmid}] \
         in /etc/stillpoint/config.toml, and start it again; if it is a copy that was restored on \
         this node, start the other one first; otherwise give it another MAC in its network \
         settings"
    )
}

/// What [`pre_start`] would do; changes nothing.
pub fn foresee(root: &Root, vmid: Vmid) -> Result<Outlook> {
    let settings = Settings::load(root);
    let survey = Survey::take(root)?;
    let known = survey.container(vmid)?;
    let case = survey.case(known, &settings)?;
    let decision = decide(&case);
    let inside = apply::inside(&restore_of(&settings, &case));
    let (change, inside, compared_with) = match &decision.verdict {
        Verdict::Change(due) => {
            let restore = restore_of(&settings, &case);
            let taken = survey.guests().iter().flat_map(|guest| guest.appearance.macs());
            let macs = fresh_macs(root, taken.collect())?;
            let change = Change::plan(vmid, &case.own, due, &restore, macs)?;
            (Some(change), inside, None)
        }
        Verdict::Keep { .. } => {
            let with = case.may_share_inside_with().filter(|_| !inside.is_empty());
            (None, if with.is_some() { inside } else { Vec::new() }, with)
        }
        Verdict::InDoubt => (None, Vec::new(), None),
    };
    Ok(Outlook { decision, change, inside, compared_with, unread: survey.unread })
}

/// Records that a guest's identity is its own, unless another guest of the cluster may own it.
pub fn remember(root: &Root, vmid: Vmid) -> Result<()> {
    remember_all(root, &[vmid])?.remove(&vmid).map_or(Ok(()), Err)
}

/// As [`remember`], for many guests with one survey of the cluster; skips VMIDs that are no LXC
/// guest of this node. Returns the guests for which it failed.
pub fn remember_all(root: &Root, vmids: &[Vmid]) -> Result<BTreeMap<Vmid, anyhow::Error>> {
    let settings = Settings::load(root);
    let survey = Survey::take(root)?;
    let mut failed = BTreeMap::new();
    for vmid in vmids {
        let Ok(known) = survey.container(*vmid) else { continue };
        let remembered = survey.case(known, &settings).and_then(|case| {
            if is_its_own(root, *vmid, &case) { Records::of(root).remember(known) } else { Ok(()) }
        });
        if let Err(error) = remembered {
            failed.insert(*vmid, error);
        }
    }
    Ok(failed)
}

/// Whether a running guest owns its hardware address: it does if every other guest with that
/// address was restored here and does not run. If it was itself restored here, it may be the copy;
/// and of two guests that were not restored, either may have been given the other's address: then a
/// backup proves nothing.
fn is_its_own(root: &Root, vmid: Vmid, case: &Case) -> bool {
    match decide(case).verdict {
        Verdict::Keep { remember } => remember,
        Verdict::Change(_) => false,
        Verdict::InDoubt => {
            let shared = case.shared();
            let unclaimed = shared.iter().all(|rival| {
                rival.running == Some(false)
                    && rival.claims.is_disjoint(&rival.shared)
                    && matches!(rival.restored, Restored::At(_))
            });
            let restored = matches!(case.restored, Restored::At(_));
            unclaimed && !restored && State::of(root, vmid).is_ok_and(|state| state.is_running())
        }
    }
}

/// Different hardware addresses with the datacenter's prefix, none of them in `taken`.
fn fresh_macs(root: &Root, mut taken: BTreeSet<Mac>) -> Result<impl FnMut() -> Result<Mac>> {
    let prefix = datacenter::mac_prefix(root).context(datacenter::PATH)?;
    Ok(move || {
        let mac = new_mac(prefix.as_deref(), &taken, || random::bytes().context("/dev/urandom"))?;
        taken.insert(mac);
        Ok(mac)
    })
}
