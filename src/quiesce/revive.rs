//! A guest that vzdump's death left frozen or down.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::config::Settings;
use crate::guest::{self, Config, Place, State};
use crate::report::log;
use crate::run::{Run, Runs};
use crate::sys::text::printable;
use crate::sys::{Root, process};
use crate::vzdump::{GuestType, Job, Mode, Vmid};

/// For the guest's lock, to write down what was done.
const LOCK_LIMIT: Duration = Duration::from_secs(60);

/// How a dead vzdump left the guest.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Left {
    Frozen,
    Down,
}

impl std::fmt::Display for Left {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Left::Frozen => "the guest is frozen",
            Left::Down => "the guest is down",
        })
    }
}

/// How vzdump left the guest, where it needs to be thawed, or started after it was shut down for the backup. Once
/// vzdump had thawed or started it again, or in another boot of the node, its state is somebody else's doing; but for
/// the lock of a snapshot that was being made when the node went down, which keeps Proxmox VE from starting it at boot.
///
/// What can't be told is taken for well.
pub fn left_behind(root: &Root, run: &Run) -> Option<Left> {
    let ours = run.was_running && run.guest_type == GuestType::Lxc && !run.guest_returned;
    let this_boot = run.job.worker.is_of_this_boot();
    match State::of(root, run.vmid).ok().filter(|_| ours)? {
        State::Running(guest) if this_boot && guest.is_frozen() => Some(Left::Frozen),
        State::Stopped if this_boot && run.mode_used == Mode::Stop && !gone(root, run) => {
            Some(Left::Down)
        }
        State::Stopped if !this_boot && locked_out(root, run) => Some(Left::Down),
        _ => None,
    }
}

/// The node went down within the snapshot: its boot takes away a lock that reads `backup`, but not this one.
fn locked_out(root: &Root, run: &Run) -> bool {
    let Ok(Place::Here(config)) = Place::of(root, run.vmid) else { return false };
    config.onboot
        && config.lock.as_deref() == Some("snapshot")
        && config.root_volume == run.root_volume
}

/// The guest is no longer on this node.
fn gone(root: &Root, run: &Run) -> bool {
    run.root_volume.is_some() && !matches!(Place::of(root, run.vmid), Ok(Place::Here(_)) | Err(_))
}

/// Thaws or starts the guest, once nothing of vzdump lives, no other job is at the guest and the lock in its
/// configuration is that backup's or none. Returns whether it did.
pub fn revive(root: &Root, settings: &Settings, run: &Run, left: Left) -> Result<bool> {
    let lock = lock_of(root, run.vmid)?;
    if !is_of_a_backup(lock.as_deref())
        || run.job.alive()
        || run.job.another_at(root, run.vmid)
        || process::mounted("/mnt/vzsnap")?
    {
        return Ok(false);
    }
    if !settings.resume.revive_guest {
        tell_how(root, run, left, lock.is_some())?;
        return Ok(false);
    }
    let mut done = Vec::new();
    match left {
        Left::Frozen => {
            guest::thaw(root, run.vmid)?;
            done.push("thawed");
        }
        Left::Down => {
            if lock.is_some() {
                guest::lift_lock(root, run.vmid)?;
                done.push("unlocked");
            }
            guest::start(root, run.vmid)?;
            done.push("started");
        }
    }
    let words = done.join(" and ");
    log::notice(run.vmid, &format!("vzdump died and left the guest; it was {words}"));
    note_revived(root, run.vmid, &done);
    Ok(true)
}

/// Thaws a frozen guest for a person who wants its containers back. Returns whether it was frozen.
///
/// # Errors
/// Also when a backup is at work on it, which thaws it itself.
pub fn thaw(root: &Root, vmid: Vmid) -> Result<bool> {
    let State::Running(guest) = State::of(root, vmid)? else { return Ok(false) };
    if !guest.is_frozen() {
        return Ok(false);
    }
    let lock = lock_of(root, vmid)?;
    if let Some(lock) = lock.filter(|lock| !is_of_a_backup(Some(lock))) {
        let lock = printable(&lock, 60);
        bail!("guest {vmid} is frozen and locked ({lock}): it is left to whoever locked it");
    }
    let of_a_run =
        Runs::of(root).load(vmid).is_ok_and(|run| run.is_some_and(|run| run.job.alive()));
    if of_a_run || Job::any_at(root, vmid) || process::mounted("/mnt/vzsnap")? {
        bail!("guest {vmid} is frozen by a backup that is under way, and thawed by it");
    }
    guest::thaw(root, vmid)?;
    log::notice(vmid, "it was frozen; a person had it thawed");
    Ok(true)
}

fn lock_of(root: &Root, vmid: Vmid) -> Result<Option<String>> {
    Ok(match Place::of(root, vmid)? {
        Place::Here(Config { lock, .. }) => lock,
        // A node without configurations: there is no lock to respect either.
        Place::Gone | Place::Elsewhere(_) => None,
    })
}

/// Whether a lock is one that vzdump sets, or none.
fn is_of_a_backup(lock: Option<&str>) -> bool {
    matches!(lock, None | Some("backup" | "snapshot"))
}

/// For the journal; the guest is back whether or not this can be written down.
fn note_revived(root: &Root, vmid: Vmid, done: &[&str]) {
    change(root, vmid, |run| {
        for word in done {
            if !run.revived.iter().any(|known| known == word) {
                run.revived.push(word.to_string());
            }
        }
    });
}

fn change(root: &Root, vmid: Vmid, change: impl FnOnce(&mut Run)) {
    let runs = Runs::of(root);
    let changed = runs.lock(vmid, Instant::now() + LOCK_LIMIT).and_then(|_lock| {
        let Some(mut run) = runs.load(vmid)? else { return Ok(()) };
        change(&mut run);
        runs.save(&run)
    });
    if let Err(error) = changed {
        log::warning(vmid, &format!("{error:#}"));
    }
}

/// The setting is that a person decides: the commands, once.
fn tell_how(root: &Root, run: &Run, left: Left, locked: bool) -> Result<()> {
    let vmid = run.vmid;
    let commands = match (left, locked) {
        (Left::Frozen, _) => format!("stillpoint resume {vmid}"),
        (Left::Down, true) => format!("pct unlock {vmid} && pct start {vmid}"),
        (Left::Down, false) => format!("pct start {vmid}"),
    };
    let message = format!("vzdump died; {left}: {}. To bring it back: {commands}", run.guest());
    if run.notes.contains(&message) {
        return Ok(());
    }
    log::warning(vmid, &message);
    change(root, vmid, |run| run.note(message.clone()));
    log::mail(root, &format!("Stillpoint: {left} ({vmid})"), &message)
}
