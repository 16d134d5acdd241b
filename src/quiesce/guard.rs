//! The guard: a process outside vzdump that brings everything back when vzdump no longer can.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::bring_back::{BroughtBack, bring_back};
use crate::config::Settings;
use crate::guest::{self, Config, Place, State};
use crate::report::log;
use crate::run::{By, Run, Runs};
use crate::sys::{Root, detach, failpoint, process};
use crate::vzdump::{Mode, Vmid};

/// How often the guard looks at the run while vzdump lives; its end wakes it at once.
const LOOK: Duration = Duration::from_millis(500);

/// Pauses between tries when vzdump is dead: growing, but never so long that a person would be faster.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// One try at bringing back everything: the longest stop under way and the start of a slow container.
const TRY_LIMIT: Duration = Duration::from_secs(120);

/// A dead vzdump may have asked the guest to shut down; within this it is down or was never asked.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(120);

/// Watches over one guest's run until it is closed: resumes when the vzdump worker dies, when the hook has
/// given up, or when containers were held longer than the hold limit.
pub fn guard(root: &Root, vmid: Vmid) -> Result<()> {
    let settings = Settings::load(root);
    let runs = Runs::of(root);
    let armed = Instant::now();
    failpoint::reach(root, "guard-armed");
    let mut id = None;
    let mut watch = None;
    loop {
        let run = match runs.load(vmid) {
            Ok(None) => return Ok(()),
            Ok(Some(run)) => run,
            // bring_back knows what to do with a damaged run.
            Err(_) => return after_death(root, &settings, vmid, None),
        };
        if *id.get_or_insert_with(|| run.id.clone()) != run.id {
            // The next backup has its own guard.
            return Ok(());
        }
        if watch.is_none() {
            watch = run.job.worker.watch()?;
        }
        let Some(worker) = watch.as_ref() else {
            return after_death(root, &settings, vmid, Some(run));
        };
        if let Some(reason) = due(&settings, &run, armed) {
            // Its outcome is in the journal, and a failure is tried again at the next look.
            let _ = bring_back(root, vmid, Instant::now() + TRY_LIMIT, "guard", &reason, false);
        }
        if worker.ended_within(LOOK) {
            return after_death(root, &settings, vmid, Some(run));
        }
    }
}

/// Why containers have to be brought back though vzdump lives.
fn due(settings: &Settings, run: &Run, armed: Instant) -> Option<String> {
    let quiesce = run.quiesce.as_ref().filter(|quiesce| quiesce.by == By::Stillpoint)?;
    if !run.is_open() {
        return None;
    }
    let hold_limit = settings.quiesce.hold_limit;
    if armed.elapsed() >= hold_limit {
        return Some(format!("they were held for {} s", hold_limit.as_secs()));
    }
    quiesce.over.then(|| "the hook gave up bringing the guest to rest".to_string())
}

fn after_death(root: &Root, settings: &Settings, vmid: Vmid, mut run: Option<Run>) -> Result<()> {
    let died = Instant::now();
    failpoint::reach(root, "guard-woken");
    let runs = Runs::of(root);
    let mut pause = FIRST_PAUSE;
    let mut told = String::new();
    let mut seen_down = false;
    let reason = match &run {
        Some(run) => format!("vzdump (process {}) died", run.job.worker.pid),
        None => "the run's file is damaged".to_string(),
    };
    loop {
        match runs.load(vmid) {
            Ok(None) => return Ok(()),
            Ok(now) => run = now,
            // Damaged: bring_back knows what to do.
            Err(_) => {}
        }
        if let Some(run) = &run {
            seen_down |= matches!(State::of(root, vmid), Ok(State::Stopped));
            if may_still_go_down(run, died) && !seen_down {
                thread::sleep(FIRST_PAUSE);
                continue;
            }
        }
        let deadline = Instant::now() + TRY_LIMIT;
        let left = match bring_back(root, vmid, deadline, "guard", &reason, true) {
            Ok(BroughtBack::Nothing) => return Ok(()),
            Ok(BroughtBack::All(count)) => {
                log::notice(vmid, &format!("{reason}; {count} containers were started again"));
                return Ok(());
            }
            Ok(BroughtBack::NotYet(why)) => why,
            Err(error) => format!("{error:#}"),
        };
        if left != told {
            log::warning(vmid, &format!("{reason}; its containers are not back yet: {left}"));
            told = left;
        }
        let revived = run.as_ref().map_or(Ok(false), |run| revive(root, settings, run));
        match revived {
            Ok(true) => {
                pause = FIRST_PAUSE;
                continue;
            }
            Ok(false) => {}
            Err(error) => {
                log::warning(vmid, &format!("the guest can't be brought back: {error:#}"))
            }
        }
        thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// In stop mode the shutdown that vzdump asked for may come after its death.
fn may_still_go_down(run: &Run, died: Instant) -> bool {
    run.mode_used == Mode::Stop
        && run.handed_over
        && !run.data_copied
        && (died.elapsed() < SHUTDOWN_LIMIT || run.job.alive())
}

/// Thaws or starts a guest that vzdump's death left frozen or down, once nothing of vzdump lives, no other job
/// is at the guest and the lock in its configuration is that backup's. Returns whether it did.
fn revive(root: &Root, settings: &Settings, run: &Run) -> Result<bool> {
    if !run.was_running || !run.job.worker.is_of_this_boot() || run.job.alive() {
        return Ok(false);
    }
    let lock = match Place::of(root, run.vmid)? {
        Place::Here(Config { lock, .. }) => lock,
        // A node without configurations: there is no lock to respect either.
        Place::Gone if run.root_volume.is_none() => None,
        Place::Gone | Place::Elsewhere(_) => return Ok(false),
    };
    if !matches!(lock.as_deref(), None | Some("backup" | "snapshot")) {
        return Ok(false);
    }
    let frozen = match State::of(root, run.vmid)? {
        State::Running(guest) if guest.is_frozen() => true,
        State::Running(_) => return Ok(false),
        // A guest that somebody shut down during a snapshot backup is none of ours.
        State::Stopped if run.mode_used != Mode::Stop => return Ok(false),
        State::Stopped => false,
    };
    if run.job.another_at(root, run.vmid) || process::mounted("/mnt/vzsnap")? {
        return Ok(false);
    }
    if !settings.resume.revive_guest {
        tell_how(root, run, frozen, lock.is_some())?;
        return Ok(false);
    }
    let mut done = Vec::new();
    if frozen {
        guest::thaw(root, run.vmid)?;
        done.push("thawed");
    } else {
        if lock.is_some() {
            guest::lift_lock(root, run.vmid)?;
            done.push("unlocked");
        }
        guest::start(root, run.vmid)?;
        done.push("started");
    }
    log::notice(
        run.vmid,
        &format!("vzdump died and left the guest; it was {}", done.join(" and ")),
    );
    note_revived(root, run.vmid, &done).map(|()| true)
}

fn note_revived(root: &Root, vmid: Vmid, done: &[&str]) -> Result<()> {
    let runs = Runs::of(root);
    let _lock = runs.lock(vmid, Instant::now() + TRY_LIMIT)?;
    if let Some(mut run) = runs.load(vmid)? {
        run.revived.extend(done.iter().map(ToString::to_string));
        runs.save(&run)?;
    }
    Ok(())
}

/// The setting is that a person decides: the commands, once.
fn tell_how(root: &Root, run: &Run, frozen: bool, locked: bool) -> Result<()> {
    let vmid = run.vmid;
    let commands = match (frozen, locked) {
        (true, _) => format!("lxc-unfreeze -n {vmid}"),
        (false, true) => format!("pct unlock {vmid} && pct start {vmid}"),
        (false, false) => format!("pct start {vmid}"),
    };
    let state = if frozen { "frozen" } else { "down" };
    let message =
        format!("vzdump died and left {} {state}. To bring it back: {commands}", run.guest());
    let runs = Runs::of(root);
    let _lock = runs.lock(vmid, Instant::now() + TRY_LIMIT)?;
    if let Some(mut run) = runs.load(vmid)?
        && !run.notes.contains(&message)
    {
        log::warning(vmid, &message);
        log::mail(root, &format!("Stillpoint: guest {vmid} is {state}"), &message)?;
        run.note(message);
        runs.save(&run)?;
    }
    Ok(())
}

/// Brings back, at boot or when a new job starts, what runs of dead jobs left at rest. Returns a line for each
/// guest that there was something to do for.
pub fn recover(root: &Root, by: &str, limit: Duration) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for vmid in Runs::of(root).guests()? {
        let alive = match Runs::of(root).load(vmid) {
            Ok(Some(run)) => run.job.worker.alive(),
            Ok(None) => continue,
            Err(_) => false,
        };
        if alive {
            continue;
        }
        let reason = "the job that quiesced it is dead";
        let left = match bring_back(root, vmid, Instant::now() + limit, by, reason, true) {
            Ok(BroughtBack::Nothing) => continue,
            Ok(BroughtBack::All(count)) => {
                lines.push(format!(
                    "guest {vmid}: {count} containers of an interrupted backup were started"
                ));
                continue;
            }
            Ok(BroughtBack::NotYet(why)) => why,
            Err(error) => format!("{error:#}"),
        };
        lines.push(format!(
            "guest {vmid} still waits for containers of an interrupted backup: {left}"
        ));
        let unit = format!("stillpoint-guard-{vmid}-{}", crate::sys::text::token());
        if let Err(error) = detach::start(root, &unit, &["guard", &vmid.to_string()]) {
            lines.push(format!("guest {vmid}: nobody watches over it: {error:#}"));
        }
    }
    Ok(lines)
}
