//! The identity of a guest: before its next start, and on an admin's request.

use anyhow::Result;
use serde_json::json;

use super::{print_json, tell};
use crate::identity::{self, Change, Outlook, Verdict};
use crate::pve::{OnStart, Place, drop_in_calls};
use crate::quiesce;
use crate::sys::Root;
use crate::sys::text::printable;
use crate::vzdump::{GuestType, Vmid};

/// Shows what the next start of a guest would change about its identity, and why; changes nothing.
pub fn check(root: &Root, vmid: Vmid, as_json: bool) -> Result<()> {
    let Outlook { decision, change, inside, compared_with, unread } =
        identity::foresee(root, vmid)?;
    let is_called = is_called(root, vmid)?;
    let original = match &decision.verdict {
        Verdict::Change(due) => due.original,
        Verdict::Keep { .. } | Verdict::InDoubt => None,
    };
    let shared = quiesce::foresee(root, vmid, original);
    if as_json {
        let outlook = json!({
            "vmid": vmid,
            "decision": match decision.verdict {
                Verdict::Keep { .. } => "keep",
                Verdict::Change(_) => "change",
                Verdict::InDoubt => "in-doubt",
            },
            "reason": decision.reason,
            "original": original,
            "changes": change.iter().flat_map(changes).collect::<Vec<_>>(),
            "inside": inside,
            "compared_with": compared_with,
            "not_looked_at": unread,
            "called": is_called,
            "shared": shared.mount_points.iter().map(|it| json!({
                "path": it.path, "site": it.site.to_string(), "with": it.by, "writable": it.writable,
            })).collect::<Vec<_>>(),
            "held_back": shared.held_back.iter().map(|(name, reason)| json!({
                "name": name, "reason": reason,
            })).collect::<Vec<_>>(),
            "shared_notes": shared.notes,
        });
        return print_json(&serde_json::to_string_pretty(&outlook)?);
    }
    let reason = printable(&decision.reason, 1000);
    match (&decision.verdict, change) {
        (Verdict::Change(_), Some(change)) if !change.is_empty() || !inside.is_empty() => {
            tell(&format!("Guest {vmid} is a copy: {reason}. Its next start changes:"))?;
            for line in changes(&change) {
                let text = |key: &str| printable(line[key].as_str().unwrap_or("-"), 300);
                tell(&format!("  {}: {} -> {}", text("setting"), text("from"), text("to")))?;
            }
            for what in inside {
                tell(&format!("  {what}: replaced by a new one once it runs"))?;
            }
        }
        (Verdict::Change(_), _) => {
            tell(&format!(
                "Guest {vmid} is a copy: {reason}. Its settings say to change nothing."
            ))?;
        }
        (Verdict::InDoubt, _) => {
            tell(&format!(
                "Guest {vmid} keeps its identity, because it is in doubt whose it is: {reason}."
            ))?;
            tell(&format!("What to do: {}.", identity::way_out_of_doubt(vmid)))?;
        }
        (Verdict::Keep { .. }, _) => {
            tell(&format!("Guest {vmid} keeps its identity: {reason}."))?;
            if let Some(original) = compared_with {
                tell(&format!(
                    "It was restored from a backup of guest {original}. Once both run on this \
                     node, what they share of {} is replaced in this one.",
                    inside.join(" and ")
                ))?;
            }
        }
    }
    tell_shared(&shared)?;
    for why in unread {
        tell(&format!("Not checked, because it cannot be read: {why}"))?;
    }
    if !is_called {
        tell(&format!(
            "Nothing calls Stillpoint when guest {vmid} starts, so nothing will change. Before \
             you start it: stillpoint enable {vmid}"
        ))?;
    }
    Ok(())
}

/// What the guest shares with others, and the containers that are not started because of that.
fn tell_shared(shared: &quiesce::Outlook) -> Result<()> {
    for claimed in &shared.mount_points {
        tell(&format!("Shared: {claimed}."))?;
    }
    if !shared.mount_points.is_empty() && shared.held_back.is_empty() {
        tell("Containers that write there are not started; restore.shared allows it.")?;
    }
    for (name, why) in &shared.held_back {
        tell(&format!("Not started: {name}: {why}"))?;
    }
    shared.notes.iter().try_for_each(|note| tell(&format!("Note: {note}")))
}

/// Whether its hookscript or the drop-in of its unit calls us.
fn is_called(root: &Root, vmid: Vmid) -> Result<bool> {
    let Place::Here(config) = Place::of(root, vmid)? else { return Ok(false) };
    Ok(OnStart::of(GuestType::Lxc, &config, drop_in_calls(root)) != OnStart::None)
}

/// Gives a copy the identity of its original.
pub fn adopt(root: &Root, vmid: Vmid) -> Result<()> {
    for line in identity::adopt(root, vmid)? {
        tell(&line)?;
    }
    Ok(())
}

/// Does what is due before a guest starts. An error is printed too, because the guest starts
/// anyway.
pub fn pre_start(root: &Root, vmid: Vmid) -> Result<()> {
    match identity::pre_start(root, vmid) {
        Ok(lines) => lines.iter().try_for_each(|line| tell(line))?,
        // What could not be read now is not tried a second time: if it hangs, only one process is
        // left behind.
        Err(error) => {
            return tell(&format!("guest {vmid} starts with the identity that it has: {error:#}"));
        }
    }
    quiesce::shared_mount_points(root, vmid).iter().try_for_each(|claimed| {
        tell(&format!(
            "guest {vmid} has {claimed}: its containers that write there are not started"
        ))
    })
}

/// A new hardware address is chosen only at the start itself.
fn changes(change: &Change) -> Vec<serde_json::Value> {
    let mut lines = Vec::new();
    if let (Some(from), Some(to)) = (&change.from.hostname, &change.to.hostname) {
        lines.push(json!({ "setting": "hostname", "from": from, "to": to }));
    }
    for (number, from, mut to) in change.nets() {
        if from.mac() != to.mac() {
            to.set("hwaddr", "(a new one)");
        }
        let setting = format!("net{number}");
        lines.push(json!({ "setting": setting, "from": from.to_string(), "to": to.to_string() }));
    }
    lines
}
