//! Starting containers again: for a person, at boot, and at the start of a guest.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::print;
use crate::config::Settings;
use crate::guest::{State, way_to_start};
use crate::identity::inside;
use crate::journal::Actor;
use crate::quiesce::{self, BroughtBack, Errand};
use crate::report::not_back::Lost;
use crate::report::{self, log, not_back};
use crate::run::{Left, Runs};
use crate::sys::text::count;
use crate::sys::{Root, detach};
use crate::verify;
use crate::vzdump::Vmid;

/// The limit for a command that a person waits for.
const PERSON_LIMIT: Duration = Duration::from_secs(180);

/// If an engine has not started this long after the node's boot, it is left to the next backup.
const ENGINE_WAIT: Duration = Duration::from_secs(60);

/// A guest's init appears within this time after its start; its volumes may have to be activated
/// first.
const START_LIMIT: Duration = Duration::from_secs(120);
const START_LOOK: Duration = Duration::from_millis(200);

/// For a last check of removed containers, before they are reported.
const TELL_LIMIT: Duration = Duration::from_secs(30);

/// At boot: starts what interrupted backups left stopped.
pub fn recover(root: &Root) -> Result<()> {
    let lines = quiesce::recover(root, PERSON_LIMIT)?;
    quiesce::clean_up_all(root, ENGINE_WAIT);
    for line in &lines {
        print(line)?;
    }
    if !lines.is_empty() {
        let body = format!("{}\n\nHow the guests stand: stillpoint status", lines.join("\n"));
        if let Err(error) = log::mail(root, "Stillpoint: backups were interrupted", &body) {
            print(&format!("no mail could be sent: {error:#}"))?;
        }
    }
    report::later(root, &Settings::load_bounded(root));
    if verify::left(root)? > 0 {
        detach::start(root, "stillpoint-collect-boot", &["collect"])?;
    }
    Ok(())
}

/// Starts the containers of a guest now; a guest that a dead backup left frozen is thawed first.
pub fn resume(root: &Root, vmid: Vmid) -> Result<()> {
    if quiesce::thaw(root, vmid)? {
        print(&format!("Guest {vmid} was frozen. It is thawed now."))?;
    }
    let deadline = Instant::now() + PERSON_LIMIT;
    let errand =
        Errand { by: Actor::Person, reason: "a person asked for it", close: false, run: None };
    let brought_back = quiesce::bring_back_and_unlock(root, vmid, deadline, errand)?;
    if quiesce::unlock_left(root, vmid)? {
        print(&format!("Guest {vmid}: {}.", quiesce::UNLOCKED))?;
    }
    if let Some(words) = quiesce::lock_in_words(root, vmid)? {
        print(&words)?;
    }
    let before = Left::load(root, vmid)?.containers.len();
    let left = {
        let _lock = Runs::of(root).lock(vmid, deadline)?;
        quiesce::try_again(root, vmid, deadline, (errand.by, errand.reason))?
    };
    report::later(root, &Settings::load_bounded(root));
    if before > left.len() {
        let back = count(before - left.len(), "container");
        print(&format!("Guest {vmid}: back from an earlier backup: {back}."))?;
    }
    if !left.is_empty() {
        let lost: Vec<Lost> = left.iter().map(Lost::from).collect();
        bail!("guest {vmid}: {}", not_back::advice(root, vmid, &lost));
    }
    match brought_back {
        BroughtBack::Nothing if before > 0 => Ok(()),
        brought_back => tell(root, vmid, brought_back),
    }
}

/// Gives up on the containers that are not back after a backup.
pub fn forget(root: &Root, vmid: Vmid) -> Result<()> {
    let containers = count(quiesce::forget(root, vmid)?, "container");
    report::later(root, &Settings::load_bounded(root));
    print(&format!("Guest {vmid}: Stillpoint no longer tries to start {containers}."))
}

/// Settles a guest that is starting: the drop-in of its unit calls before the guest's init exists.
/// Until the init has its own root, it looks like a process of the node, which is an error that
/// passes in a moment.
pub fn started(root: &Root, vmid: Vmid) -> Result<()> {
    let deadline = Instant::now() + START_LIMIT;
    let is_up =
        || matches!(State::of(root, vmid), Ok(State::Running(guest)) if guest.tree.reach().is_ok());
    while !is_up() && Instant::now() < deadline {
        thread::sleep(START_LOOK);
    }
    settle(root, vmid)
}

/// In a restored copy, replaces what it must not share; and starts what ran when the guest was
/// backed up, from the guest's own note. The two do not wait for each other.
pub fn settle(root: &Root, vmid: Vmid) -> Result<()> {
    let (renewed, settled) = thread::scope(|scope| {
        let renewing = scope.spawn(|| inside::renew(root, vmid));
        let settled = quiesce::settle(root, vmid);
        (renewing.join(), settled)
    });
    let told = settled.and_then(|settled| {
        if matches!(settled, BroughtBack::Partly(_)) {
            quiesce::tell(root, vmid, "the guest was started", Instant::now() + TELL_LIMIT)?;
        }
        tell(root, vmid, settled)
    });
    match renewed {
        Ok(renewed) => {
            renewed.with_context(|| format!("guest {vmid}: its machine-id and host keys"))?
        }
        Err(_) => bail!("guest {vmid}: internal error while renewing its machine-id and host keys"),
    }
    told
}

fn tell(root: &Root, vmid: Vmid, brought_back: BroughtBack) -> Result<()> {
    match brought_back {
        BroughtBack::Nothing => print(&format!("Guest {vmid}: nothing is waiting to be started.")),
        BroughtBack::All { started, all } => {
            print(&format!("Guest {vmid}: {}.", not_back::all_back(all, started)))
        }
        BroughtBack::NotHere(why) => {
            print(&format!("Guest {vmid}: {why}; nothing is waiting to be started."))
        }
        BroughtBack::Partly(partly) => bail!("guest {vmid}: {}", partly.words(root)),
        BroughtBack::NotYet(why) => match way_to_start(root, vmid) {
            Some(command) => bail!("guest {vmid} is not back yet: {why}. To start it: {command}"),
            None => bail!("guest {vmid} is not back yet: {why}"),
        },
    }
}
