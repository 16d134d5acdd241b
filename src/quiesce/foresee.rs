//! What the next settling of a guest would hold back: for an admin who asks before.

use std::time::Duration;

use super::note;
use super::shared::{Claimed, Shared, Verdict};
use crate::engine::{Container, Engine, Engines, Error, Status};
use crate::guest::{Guest, State};
use crate::run::Quiesced;
use crate::sys::text::printable;
use crate::sys::{Root, clock};
use crate::vzdump::Vmid;

/// For all requests to the guest's engines.
const LIMIT: Duration = Duration::from_secs(20);

/// What a guest shares with others.
#[derive(Debug, Default)]
pub struct Outlook {
    /// Its mount points that another guest has too.
    pub mount_points: Vec<Claimed>,
    /// The containers that are not started, by name, and why.
    pub held_back: Vec<(String, String)>,
    /// Other remarks, in sentences.
    pub notes: Vec<String>,
}

/// A guest's mount points that another guest has too and that its containers may write to; used at
/// its start, when nothing inside it answers.
pub fn shared_mount_points(root: &Root, vmid: Vmid) -> Vec<Claimed> {
    let shared = Shared::of(root, vmid, None, None);
    let points = shared.map(|shared| shared.mount_points()).unwrap_or_default();
    points.into_iter().filter(|claimed| claimed.writable).collect()
}

/// Determines what a guest shares with others; changes nothing. Its containers are known only while
/// it runs. `original`: the guest that it is a copy of, according to its identity.
pub fn foresee(root: &Root, vmid: Vmid, original: Option<Vmid>) -> Outlook {
    let mut outlook = Outlook::default();
    let guest = match State::of(root, vmid) {
        Ok(State::Running(guest)) if !guest.is_frozen() => Some(guest),
        _ => None,
    };
    let note = guest.as_ref().and_then(|guest| note::read(guest).ok().flatten());
    let noted = note.as_ref().map(|note| note.vmid).or(original);
    let Some(shared) = Shared::of(root, vmid, noted, guest.as_ref()) else { return outlook };
    outlook.mount_points = shared.mount_points();
    if let Some(guest) = &guest
        && let Err(error) = containers(&mut outlook, &shared, guest, note)
    {
        outlook.notes.push(format!("cannot determine which containers share it: {error}"));
    }
    outlook
}

fn containers(
    outlook: &mut Outlook,
    shared: &Shared,
    guest: &Guest,
    note: Option<Quiesced>,
) -> Result<(), Error> {
    let deadline = clock::instant() + LIMIT;
    let engines = Engines::of(guest)?;
    let mut see = |engine: &Engine, container: &Container| -> Result<(), Error> {
        let name = printable(&container.name, 80);
        match shared.verdict(container, engine, deadline)? {
            Verdict::Free => {}
            Verdict::Reads(what) => outlook.notes.push(what),
            Verdict::Held(why) if container.status == Status::Running => {
                outlook.notes.push(format!("{name} runs, and {why}"));
            }
            Verdict::Held(why) => {
                let way = shared.way_to_start(container, engine);
                let why = format!("{why}; to start it all the same: {way}");
                outlook.held_back.push((name, why));
            }
        }
        Ok(())
    };
    // Without a note nothing is started, so only running containers matter.
    let Some(note) = note else {
        for engine in engines.reachable() {
            for id in engine.running(deadline)? {
                match engine.inspect(&id, deadline) {
                    Ok(container) => see(engine, &container)?,
                    Err(Error::Gone) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        return Ok(());
    };
    for noted in &note.containers {
        let engine = engines.at(&noted.engine)?;
        match engine.inspect(&noted.id, deadline) {
            Ok(container) => see(engine, &container)?,
            Err(Error::Gone) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
