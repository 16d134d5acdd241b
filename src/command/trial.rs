use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::tell;
use crate::engine::Engines;
use crate::guest::State;
use crate::pve::Place;
use crate::quiesce;
use crate::run::Runs;
use crate::sys::Root;
use crate::sys::text::printable;
use crate::vzdump::Vmid;

/// A backup holds the guest's lock while it stops containers.
const LOCK_LIMIT: Duration = Duration::from_secs(60);

/// Tests whether the guest's engines can start a container, prints the result, and returns the exit
/// status.
pub fn trial(root: &Root, vmid: Vmid) -> Result<u8> {
    if let Place::Elsewhere(node) = Place::of(root, vmid)? {
        bail!("guest {vmid} is on node {}: run this command there", printable(&node, 63));
    }
    let _lock = Runs::of(root)
        .lock(vmid, Instant::now() + LOCK_LIMIT)
        .context("a backup of this guest may be running: try again when it is over")?;
    let State::Running(guest) = State::of(root, vmid)? else {
        bail!("guest {vmid} is not running: cannot test its engine");
    };
    if guest.is_frozen() {
        bail!("guest {vmid} is frozen: cannot test its engine");
    }
    let engines = Engines::of(&guest)?;
    if engines.is_empty() {
        bail!("guest {vmid} has no container engine");
    }
    let mut status = 0;
    for why in engines.unreachable() {
        tell(&format!("Guest {vmid}: {}.", printable(&why.to_string(), 500)))?;
        status = 1;
    }
    for engine in engines.reachable() {
        let socket = printable(engine.socket(), 200);
        match quiesce::try_now(root, vmid, &guest, engine) {
            Ok(versions) => tell(&format!(
                "Guest {vmid}: the engine at {socket} starts containers ({versions}). Backups stop its containers."
            ))?,
            Err(error) => {
                status = 1;
                tell(&format!(
                    "Guest {vmid}: {error:#}. Backups do not stop its containers, because they \
                     might not start again."
                ))?;
            }
        }
    }
    Ok(status)
}
