//! A guest that a dead vzdump left frozen or down.

use std::io;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::config::Settings;
use crate::guest::{self, State};
use crate::journal::GuestAction;
use crate::pve::{Member, Place, members};
use crate::report::{log, mail};
use crate::run::locked::{is_left_locked, is_of_a_backup, left_locked, lock_of};
use crate::run::{DataCopy, Run, Runs};
use crate::sys::lock::Lock;
use crate::sys::look::Watched;
use crate::sys::text::printable;
use crate::sys::{Root, bounded, clock, lock, process};
use crate::vzdump::{GuestType, Job, Mode, Vmid};

/// The lock of every vzdump of a node, from before job-start to after job-end.
const VZDUMP_LOCK: &str = "/var/run/vzdump.lock";

/// For the guest's lock, to record what was done.
const LOCK_LIMIT: Duration = Duration::from_secs(60);

/// For a look at the configurations of this node's guests: milliseconds, unless pmxcfs hangs.
const CLUSTER_LIMIT: Duration = Duration::from_secs(5);

/// What a dead backup left undone with the guest itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// A dead vzdump left it frozen.
    Frozen,
    /// A dead vzdump left it down, after it was shut down for the backup.
    Down,
    /// It was asked to reboot while the backup had it locked, and Proxmox VE does not start a
    /// locked guest.
    Rebooting,
    /// The lock of a dead vzdump, which makes every later backup fail.
    Locked,
}

impl std::fmt::Display for Left {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Left::Frozen => "the guest is frozen",
            Left::Down => "the guest is down",
            Left::Rebooting => "the guest is down: it was rebooted while the backup had it locked",
            Left::Locked => "the guest is still locked by the backup",
        })
    }
}

/// What is left to do for the guest itself. Once vzdump had thawed or started it again, or after a
/// reboot of the node, its state is not the backup's any more; with two exceptions: a reboot of the
/// guest that the backup's lock prevented, and the lock of a snapshot during which the node went
/// down, which keeps Proxmox VE from starting the guest at boot.
///
/// If the guest's state cannot be determined, nothing is left to do.
pub fn left_behind(root: &Root, run: &Run) -> Option<Left> {
    if !run.was_running() || run.guest_type != GuestType::Lxc {
        return None;
    }
    let this_boot = run.job.worker.is_of_this_boot();
    let ours = this_boot && run.data_copy != DataCopy::GuestReturned;
    match State::of(root, run.vmid).ok()? {
        State::Running(guest) if ours && guest.is_frozen() => Some(Left::Frozen),
        State::Stopped if ours && run.mode_used == Mode::Stop && !gone(root, run) => {
            Some(Left::Down)
        }
        State::Stopped if this_boot && is_rebooting(root, run) => Some(Left::Rebooting),
        State::Stopped if !this_boot && locked_out(root, run) => Some(Left::Down),
        _ => left_locked(root, run).then_some(Left::Locked),
    }
}

/// In stop mode vzdump itself shuts the guest down and starts it.
fn is_rebooting(root: &Root, run: &Run) -> bool {
    run.mode_used != Mode::Stop
        && !gone(root, run)
        && clock::parse(&run.opened)
            .is_some_and(|opened| guest::asked_to_reboot(root, run.vmid, opened))
}

/// What happened to a guest that went down during its backup, and what is done about it now; for
/// the task log.
pub fn went_down(root: &Root, settings: &Settings, run: &Run) -> Option<String> {
    let (guest, vmid) = (run.guest(), run.vmid);
    if left_behind(root, run) == Some(Left::Rebooting) {
        let now = match settings.resume.revive_guest {
            true => "it is started now".to_string(),
            false => format!("to start it: pct start {vmid}"),
        };
        return Some(format!("{guest} was rebooted while the backup had it locked; {now}"));
    }
    is_powered_off(root, run).then(|| {
        format!(
            "{guest} was powered off during the backup and stays so; to start it: pct start {vmid}"
        )
    })
}

/// In stop mode vzdump shuts the guest down.
fn is_powered_off(root: &Root, run: &Run) -> bool {
    run.was_running()
        && run.guest_type == GuestType::Lxc
        && run.mode_used != Mode::Stop
        && run.job.worker.is_of_this_boot()
        && matches!(State::of(root, run.vmid), Ok(State::Stopped))
        && !gone(root, run)
        && !is_rebooting(root, run)
}

/// The node went down during the snapshot: at boot Proxmox VE removes a lock `backup`, but not this
/// one.
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

/// Thaws, starts or unlocks the guest, once no process of vzdump lives, no other job works on the
/// guest, and the lock in its configuration is that backup's or none. Returns whether it did.
pub fn revive(root: &Root, settings: &Settings, run: &Run, left: Left) -> Result<bool> {
    let lock = lock_of(root, run.vmid)?;
    if !is_of_a_backup(lock.as_deref())
        || vzdump_is_at_work(run, left, lock.is_some())
        || run.job.another_at(root, run.vmid)
        || process::mounted("/mnt/vzsnap")?
    {
        return Ok(false);
    }
    if left != Left::Locked && !settings.resume.revive_guest {
        tell_how(root, run, left, lock.is_some())?;
        return Ok(false);
    }
    let mut done = Vec::new();
    if left != Left::Frozen && lock.is_some() {
        if !unlock(root, run)? {
            return Ok(false);
        }
        done.push(GuestAction::Unlocked);
    }
    match left {
        Left::Frozen => {
            guest::thaw(root, run.vmid)?;
            done.push(GuestAction::Thawed);
        }
        Left::Down | Left::Rebooting => {
            guest::start(root, run.vmid)?;
            done.push(GuestAction::Started);
        }
        Left::Locked => {}
    }
    let words: Vec<String> = done.iter().map(ToString::to_string).collect();
    let words = words.join(" and ");
    let why = match left {
        Left::Rebooting => "the guest was rebooted while the backup had it locked",
        _ if !run.job.worker.is_of_this_boot() => "the node went down during its backup",
        Left::Frozen | Left::Down | Left::Locked => "vzdump died and left the guest",
    };
    log::notice(run.vmid, &format!("{why}; it was {words}"));
    note_revived(root, run.vmid, &done);
    Ok(true)
}

/// A living vzdump has finished with a guest once the run is in the journal and the guest's lock is
/// gone.
fn vzdump_is_at_work(run: &Run, left: Left, locked: bool) -> bool {
    let done = left == Left::Rebooting && run.journalled.is_done() && !locked;
    !done && run.job.alive()
}

/// Removes the lock of a dead backup as Proxmox VE does at boot: while no vzdump can begin. Returns
/// whether it could: not while another job of the node holds vzdump's lock.
fn unlock(root: &Root, run: &Run) -> Result<bool> {
    let called_by_another =
        || Job::of_parent(root).is_ok_and(|job| job.upid.is_some() && job != run.job);
    let Some(_vzdump) = no_vzdump_begins(root, called_by_another)? else { return Ok(false) };
    let Place::Here(config) = Place::of(root, run.vmid)? else { return Ok(true) };
    if config.lock.is_some()
        && is_of_a_backup(config.lock.as_deref())
        && config.root_volume == run.root_volume
    {
        guest::lift_lock(root, run.vmid)?;
    }
    Ok(true)
}

/// While the result is held, no vzdump of this node can begin with a guest; `None` if one may be
/// working. A job that calls us at its start holds that lock itself.
fn no_vzdump_begins(
    root: &Root,
    called_by_vzdump: impl FnOnce() -> bool,
) -> Result<Option<Option<Lock>>> {
    Ok(match lock::take(&root.path(VZDUMP_LOCK), clock::instant()) {
        Err(error) if error.kind() == io::ErrorKind::TimedOut => called_by_vzdump().then_some(None),
        other => Some(Some(other.context(VZDUMP_LOCK)?)),
    })
}

/// Removes the locks that a dead vzdump left on guests without a run: it died between its lock and
/// its first call of the hook for that guest, or an earlier run was closed while a process of
/// vzdump still lived. Returns a line for each guest with a result. Does not wait for an `/etc/pve`
/// that does not answer.
pub fn unlock_all(root: &Root) -> Vec<String> {
    let locked = || {
        let members = members(root).map_err(|error| format!("{error:#}"))?;
        let here = members.into_iter().filter(|member| member.node.is_none());
        let is_locked = |member: &Member| {
            member.guest_type == GuestType::Lxc
                && matches!(member.config(), Ok(Some(config)) if config.lock.as_deref() == Some("backup"))
        };
        Ok::<Vec<u32>, String>(here.filter(is_locked).map(|member| member.vmid.0).collect())
    };
    let locked = match bounded::within(&Watched::cluster(root), CLUSTER_LIMIT, locked) {
        Ok(Ok(locked)) => locked,
        Ok(Err(why)) => return vec![format!("cannot determine which guests are locked: {why}")],
        Err(error) => return vec![format!("cannot determine which guests are locked: {error}")],
    };
    let mut lines = Vec::new();
    for vmid in locked.into_iter().map(Vmid) {
        match unlock_left(root, vmid) {
            Ok(true) => lines.push(format!("guest {vmid}: {UNLOCKED}")),
            Ok(false) => {}
            Err(error) => lines.push(format!("guest {vmid} is still locked: {error:#}")),
        }
    }
    lines
}

/// What is said of it.
pub const UNLOCKED: &str = "a vzdump that died had left it locked; it was unlocked";

/// Removes the lock that a dead vzdump left on this guest, if no run knows of it. Returns whether
/// it did.
///
/// # Errors
/// If the guest's configuration, the node's tasks or their logs cannot be read, or `pct unlock`
/// fails.
pub fn unlock_left(root: &Root, vmid: Vmid) -> Result<bool> {
    if !matches!(Runs::of(root).load(vmid), Ok(None)) || !is_left_locked(root, vmid)? {
        return Ok(false);
    }
    let called_by_vzdump = || Job::of_parent(root).is_ok_and(|job| job.upid.is_some());
    let Some(_vzdump) = no_vzdump_begins(root, called_by_vzdump)? else { return Ok(false) };
    // The vzdump that it is may have begun since.
    if !is_left_locked(root, vmid)? {
        return Ok(false);
    }
    guest::lift_lock(root, vmid)?;
    log::notice(vmid, UNLOCKED);
    Ok(true)
}

/// A guest's lock that no task of Proxmox VE seems to need any more, with the command that removes
/// it.
///
/// # Errors
/// If the guest's configuration cannot be read.
pub fn lock_in_words(root: &Root, vmid: Vmid) -> Result<Option<String>> {
    let lock = lock_of(root, vmid)?;
    if Job::any_at(root, vmid) {
        return Ok(None);
    }
    Ok(lock.map(|lock| {
        let lock = printable(&lock, 60);
        format!(
            "Guest {vmid} is locked ({lock}). Once no task of Proxmox VE works on it: pct unlock {vmid}"
        )
    }))
}

/// The same as a sentence to append; empty if there is no such lock, or if `/etc/pve` does not
/// answer.
pub fn still_locked(root: &Root, vmid: Vmid) -> String {
    let words = || lock_in_words(root, vmid).ok().flatten();
    let words = bounded::within(&Watched::cluster(root), CLUSTER_LIMIT, words).ok().flatten();
    words.map_or(String::new(), |words| format!(". {words}"))
}

/// Thaws a frozen guest for an admin who wants its containers back. Returns whether it was frozen.
///
/// # Errors
/// Also if a backup is working on it, which will thaw it itself.
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

/// For the journal; the guest is back even if this cannot be written.
fn note_revived(root: &Root, vmid: Vmid, done: &[GuestAction]) {
    change(root, vmid, |run| {
        if done.contains(&GuestAction::Started) {
            if run.mode_used == Mode::Stop {
                run.shutdown.see_down();
            }
            run.shutdown.start(clock::boot_ms());
        }
        for action in done {
            if !run.revived.contains(action) {
                run.revived.push(*action);
            }
        }
    });
}

fn change(root: &Root, vmid: Vmid, change: impl FnOnce(&mut Run)) {
    let runs = Runs::of(root);
    let changed = runs.lock(vmid, clock::instant() + LOCK_LIMIT).and_then(|_lock| {
        let Some(mut run) = runs.load(vmid)? else { return Ok(()) };
        change(&mut run);
        runs.save(&run)
    });
    if let Err(error) = changed {
        log::warning(vmid, &format!("{error:#}"));
    }
}

/// The settings leave it to the admin: sends the commands, once.
fn tell_how(root: &Root, run: &Run, left: Left, locked: bool) -> Result<()> {
    let vmid = run.vmid;
    let commands = match left {
        Left::Frozen => format!("stillpoint resume {vmid}"),
        _ => guest::start_command(vmid, locked),
    };
    let message = format!("vzdump died; {left}: {}. To bring it back: {commands}", run.guest());
    if run.notes.contains(&message) {
        return Ok(());
    }
    log::warning(vmid, &message);
    change(root, vmid, |run| run.note(message.clone()));
    mail::about(root, vmid, &format!("Stillpoint: {left} ({vmid})"), &message)
}
