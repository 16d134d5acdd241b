//! The note in the guest about what ran, and the run made from it.

use std::collections::HashSet;
use std::io::ErrorKind;

use anyhow::Result;

use crate::guest::Guest;
use crate::run::{
    By, GuestBefore, Left, QUIESCED_DIRECTORY, QUIESCED_FILE, Quiesce, Quiesced, Run, Step,
};
use crate::sys::Root;
use crate::sys::process::Process;
use crate::vzdump::{GuestType, Job, Mode, Vmid};

/// A plan of ten thousand containers.
const LIMIT: u64 = 16 << 20;

/// Writes the note of a run into its guest, durably; including what earlier backups left not back,
/// so that a restore tries that too.
pub fn write(root: &Root, run: &Run, guest: &Guest) -> Result<()> {
    let mut note = Quiesced::of(run);
    let known: HashSet<String> = note.containers.iter().map(|it| it.id.clone()).collect();
    // A list that cannot be read must not prevent a backup.
    if let Ok(left) = Left::load(root, run.vmid) {
        note.containers.extend(left.noted().filter(|it| !known.contains(&it.id)));
    }
    replace(&note, guest)
}

/// Replaces the note in a guest, durably.
pub fn replace(note: &Quiesced, guest: &Guest) -> Result<()> {
    let content = serde_json::to_vec_pretty(note)?;
    Ok(guest.tree.replace(QUIESCED_DIRECTORY, QUIESCED_FILE, &content)?)
}

/// What is at the note's place in a guest.
pub enum Found {
    Nothing,
    Note(Quiesced),
    /// Not a valid note, or too large; in words.
    Unusable(String),
}

/// Looks for the note in a guest.
pub fn find(guest: &Guest) -> Result<Found> {
    // An error here says nothing about the note.
    guest.tree.reach()?;
    let path = format!("{QUIESCED_DIRECTORY}/{QUIESCED_FILE}");
    Ok(match guest.tree.read(&path, LIMIT) {
        Ok(None) => Found::Nothing,
        Ok(Some(bytes)) => match Quiesced::parse(&bytes) {
            Some(note) => Found::Note(note),
            None => Found::Unusable("it is not understood".to_string()),
        },
        Err(error) if error.kind() == ErrorKind::TimedOut => return Err(error.into()),
        Err(error) => Found::Unusable(error.to_string()),
    })
}

/// Reads the note in a guest; `None` if there is none, or no valid one.
pub fn read(guest: &Guest) -> Result<Option<Quiesced>> {
    Ok(match find(guest)? {
        Found::Note(note) => Some(note),
        Found::Nothing | Found::Unusable(_) => None,
    })
}

/// Removes the note from a guest, if it is the one of this run.
pub fn remove(run_id: &str, guest: &Guest) -> Result<()> {
    if read(guest)?.is_some_and(|note| note.run == run_id) {
        guest.tree.remove(QUIESCED_DIRECTORY, QUIESCED_FILE)?;
    }
    Ok(())
}

/// A run with what the note in a guest contains; it belongs to no job.
pub fn run_of(note: Quiesced, vmid: Vmid, by: By) -> Run {
    let nobody = Process { pid: 0, started: 0, boot: String::new() };
    let noted = Some(note.vmid).filter(|_| by == By::Note);
    let steps = note.containers.into_iter().map(Step::from).collect();
    let quiesce = Quiesce::new(by, steps);
    Run {
        id: note.run,
        opened: note.time,
        noted,
        guest_before: GuestBefore::Running,
        quiesce: Some(quiesce),
        ..Run::new(
            vmid,
            GuestType::Lxc,
            Job { upid: None, worker: nobody, session: 0 },
            Mode::Snapshot,
        )
    }
}
