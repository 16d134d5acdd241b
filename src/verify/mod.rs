//! Proving a backup on the Proxmox Backup Server: a verify is started for that one snapshot, and its outcome is
//! read from the snapshot's own state.
//!
//! ```text
//! start                  backup-end: what is due is written down, and started or queued
//! collect   late         job-end and the unit: ask, start what is queued, journal what is over, tell of it
//! ending    judge  due   what an answer means; when a guest is due again
//! look                   looking again at what counts as proven
//! advice                 what a person can do about it
//! collect/group          one verify for all snapshots of a guest
//! queue     servers      what is pending, on disk; the connections of one collection
//! pending                one verify that is to be collected
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

/// Held by whoever collects every pending verify.
const COLLECTING: &str = "/run/stillpoint/collect.lock";

/// How long to wait where nothing can be written down, most of all on a full disk: the first time, and at most.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// Collects the verifies of a job until `deadline`; what is not over then is left to [`collect_all`].
///
/// # Errors
/// When what is pending, or the journal, can't be read or written; nothing is lost then.
pub fn collect_job(root: &Root, job: &Job, deadline: Instant) -> Result<Collected> {
    Collection::new(root, Collector::JobEnd { job, deadline }, None).run(|_| Ok(()))
}

/// Collects every pending verify until none is left, and tells root of those that are not good. One process at a time
/// does; another one ends at once. What can't be written down is tried again as long as it takes.
///
/// # Errors
/// When it can't be told what is pending, or who collects.
pub fn collect_all(root: &Root) -> Result<()> {
    let path = root.path(COLLECTING);
    let mut pause = FIRST_PAUSE;
    // Who finds the lock taken has written down what it wants before; so the holder looks once more after letting go.
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

/// Whether somebody collects every pending verify. One that begins to in the very moment of the question takes its
/// answer for another collector and ends: who is told `false` starts one.
///
/// # Errors
/// When the lock can't be looked at.
pub fn is_collected(root: &Root) -> Result<bool> {
    match lock::take(&root.path(COLLECTING), Instant::now()) {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == ErrorKind::TimedOut => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// How many verifies are not over, or nobody has been told of yet.
///
/// # Errors
/// When what is pending can't be read.
pub fn left(root: &Root) -> Result<usize> {
    Ok(pending(root)?.len())
}

/// The verifies that are not over, or that nobody has been told of yet; the oldest first.
///
/// # Errors
/// When what is pending can't be read.
pub fn pending(root: &Root) -> Result<Vec<Pending>> {
    let mut queue = Queue::of(root);
    queue.refresh()?;
    Ok(queue.all().into_iter().cloned().collect())
}
