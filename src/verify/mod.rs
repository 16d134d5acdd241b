//! Proves a backup on the Proxmox Backup Server: a verify is started for that one snapshot, and its
//! outcome is read from the snapshot's own state.
//!
//! ```text
//! start                  backup-end: a verify that is due is queued, and started if it is its turn
//! collect   late         job-end and the unit: ask, start queued ones, journal what is over, report it
//! ending    judge  due   what an answer means; when a guest is due again
//! look                   checks again what counts as proven
//! advice                 what an admin can do about an outcome
//! collect/group          one verify for all snapshots of a guest
//! queue     servers      the pending verifies on disk; the connections of one collection
//! pending                one pending verify
//! ```

mod advice;
pub mod by_hand;
mod collect;
mod due;
mod ending;
mod judge;
mod late;
mod look;
mod pending;
mod queue;
mod room;
mod servers;
mod start;

use std::io::ErrorKind;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

pub use advice::change_owner;
pub use collect::{Collected, Over};
pub use look::{Looks, look};
pub use pending::Pending;
pub use room::shortage;
pub use start::start;

use self::collect::{Collection, Collector};
use self::late::Late;
use self::queue::Queue;
use crate::report::log;
use crate::sys::{Root, lock};
use crate::vzdump::Job;

/// The lock of the process that collects all pending verifies.
const COLLECTING: &str = "/run/stillpoint/collect.lock";

/// How long to wait if nothing can be written, mainly because of a full disk: the first pause, and
/// the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// Collects the verifies of a job until `deadline`; what is not over then is left to
/// [`collect_all`].
///
/// # Errors
/// If the pending verifies or the journal cannot be read or written; nothing is lost then.
pub fn collect_job(root: &Root, job: &Job, deadline: Instant) -> Result<Collected> {
    Collection::new(root, Collector::JobEnd { job, deadline }, None).run(|_| Ok(()))
}

/// Collects every pending verify until none is left, and mails root about bad ones. Only one
/// process does this; a second one ends at once. A failed write is repeated without a limit.
///
/// # Errors
/// If the pending verifies cannot be listed, or the lock fails.
pub fn collect_all(root: &Root) -> Result<()> {
    let path = root.path(COLLECTING);
    let mut pause = FIRST_PAUSE;
    // A process that finds the lock taken has queued its verify before; so the holder looks once
    // more after releasing the lock.
    while left(root)? > 0 {
        let _lock = match lock::take(&path, Instant::now()) {
            Ok(lock) => lock,
            Err(error) if error.kind() == ErrorKind::TimedOut => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let mut late = Late::of(root);
        match Collection::new(root, Collector::Unit, None).run(|queue| late.tell(queue)) {
            Ok(_) => pause = FIRST_PAUSE,
            Err(error) => {
                if let Some(first) = pending(root)?.first() {
                    let seconds = pause.as_secs();
                    let why = format!("verifies are not collected for {seconds} s: {error:#}");
                    log::warning(first.vmid, &why);
                }
                thread::sleep(pause);
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
    Ok(())
}

/// Whether a process collects every pending verify. A collector that starts in the very moment of
/// this question may find the lock taken and end; so a caller that gets `false` starts one.
///
/// # Errors
/// If the lock cannot be tested.
pub fn is_collected(root: &Root) -> Result<bool> {
    match lock::take(&root.path(COLLECTING), Instant::now()) {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == ErrorKind::TimedOut => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// How many verifies are not over, or not reported yet.
///
/// # Errors
/// If the pending verifies cannot be read.
pub fn left(root: &Root) -> Result<usize> {
    Ok(pending(root)?.len())
}

/// The verifies that are not over, or not reported yet; the oldest first.
///
/// # Errors
/// If the pending verifies cannot be read.
pub fn pending(root: &Root) -> Result<Vec<Pending>> {
    let mut queue = Queue::of(root);
    queue.refresh()?;
    Ok(queue.all().into_iter().cloned().collect())
}
