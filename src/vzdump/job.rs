use std::io;

use serde::{Deserialize, Serialize};

use super::{Mode, TaskLog, Upid, Vmid, tasks};
use crate::sys::Root;
use crate::sys::process::{self, Process};

/// At most this many scripts are between vzdump and its hook.
const GENERATIONS: usize = 8;

/// One run of vzdump over one or more guests: the worker process that calls the hook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Missing if the parent is no task of PVE.
    pub upid: Option<Upid>,
    /// The worker.
    pub worker: Process,
    /// The session that the worker leads; all remaining processes of vzdump are in it.
    pub session: i32,
}

impl Job {
    /// The job of the calling hook. Its parent is the worker, or a script that the worker calls and
    /// that calls the hook; if the parent has died, that is an error.
    pub fn of_parent(root: &Root) -> io::Result<Job> {
        let parent = Process::parent()?;
        let session = process::session_of(parent.pid)?;
        let (worker, upid) = match task_above(root, parent.pid, session) {
            Some((worker, upid)) => (worker, Some(upid)),
            None => (parent, None),
        };
        // A process that has died meanwhile has no command line any more.
        if !worker.alive() {
            return Err(process::orphaned());
        }
        Ok(Job { upid, worker, session })
    }

    /// The job's name: its UPID, or without one its worker's pid and start time.
    pub fn name(&self) -> String {
        match &self.upid {
            Some(upid) => upid.to_string(),
            None => format!("process {} started {}", self.worker.pid, self.worker.started),
        }
    }

    /// Whether the worker or another process of its session still runs.
    ///
    /// If the worker does not lead its session (vzdump in a person's shell), only the worker itself
    /// counts.
    pub fn alive(&self) -> bool {
        self.worker.alive()
            || (self.session == self.worker.pid
                && self.worker.boot == crate::sys::clock::boot_id()
                && process::session_members(self.session).is_ok_and(|members| !members.is_empty()))
    }

    /// Whether another vzdump works on this guest. One that waits for the node's lock, or works on
    /// another guest, does not count; nor does one without a log on this node. One whose log cannot
    /// be read does.
    pub fn another_at(&self, root: &Root, vmid: Vmid) -> bool {
        at_work(root, vmid, |pid, upid| pid != self.worker.pid && Some(upid) != self.upid.as_ref())
    }

    /// Whether any vzdump works on this guest, as in [`Job::another_at`].
    pub fn any_at(root: &Root, vmid: Vmid) -> bool {
        at_work(root, vmid, |_, _| true)
    }

    /// Whether a task (`vzsnapshot`, `vzdelsnapshot`, `qmsnapshot`, `qmdelsnapshot`) makes or
    /// deletes a snapshot of this guest, for which it locks the guest as vzdump does.
    pub fn snapshot_at(root: &Root, vmid: Vmid) -> bool {
        let Ok(tasks) = process::with_title("task UPID:", worker_user(root)) else { return true };
        tasks
            .into_iter()
            .filter_map(|(pid, title)| Some((pid, Upid::from_command_line(&title)?)))
            .filter(|(_, upid)| upid.kind().ends_with("snapshot"))
            .filter(|(_, upid)| upid.subject() == vmid.to_string())
            .any(|(pid, upid)| worker_of(root, pid, &upid).is_some())
    }

    /// Whether the last vzdump that had begun with this guest, as the node's tasks and their logs
    /// tell, died before it was done with it, and nothing of it lives.
    ///
    /// # Errors
    /// Where the lists of the node's tasks can't be read.
    pub fn died_at(root: &Root, vmid: Vmid) -> anyhow::Result<bool> {
        let mut upids: Vec<Upid> =
            tasks(root)?.unwrap_or_default().into_iter().map(|task| task.upid).collect();
        upids.retain(Upid::is_backup);
        upids.sort_by_key(|upid| std::cmp::Reverse(upid.started()));
        for upid in upids {
            // The log of an old task may be gone.
            let Ok(log) = TaskLog::read(root, &upid) else { continue };
            if log.is_finished(vmid) {
                return Ok(false);
            }
            if log.is_at(vmid) {
                return Ok(!lives(&upid));
            }
        }
        Ok(false)
    }

    /// The mode that the job's command line asks for, as the first line of its log has it.
    pub fn mode_asked(&self, root: &Root) -> Option<Mode> {
        TaskLog::read(root, self.upid.as_ref()?).ok()?.mode_asked()
    }
}

/// The nearest task of PVE among a process and its ancestors in a session.
fn task_above(root: &Root, mut pid: i32, session: i32) -> Option<(Process, Upid)> {
    for _ in 0..GENERATIONS {
        if pid <= 1 || process::session_of(pid).ok()? != session {
            return None;
        }
        let title = process::arguments(pid).ok()?.into_iter().next();
        if let Some(upid) = title.and_then(|title| Upid::from_command_line(&title))
            && let Some(worker) = worker_of(root, pid, &upid)
        {
            return Some((worker, upid));
        }
        pid = process::parent_of(pid).ok()?;
    }
    None
}

/// The process behind a title, where it is what the title says. Any user, and any process in a
/// guest, can have itself shown as `task UPID:...`; a worker has the pid and the start time of its
/// UPID, is root's, and is in our pid namespace.
fn worker_of(root: &Root, pid: i32, upid: &Upid) -> Option<Process> {
    let process = Process::find(pid).ok()?;
    let is_worker = upid.worker() == Some((pid, process.started))
        && process::is_of_user(pid, worker_user(root)).ok()?
        && process::is_in_our_pid_namespace(pid).ok()?;
    // What was read belongs to this process only if it still exists.
    (is_worker && process.alive()).then_some(process)
}

/// Whose a worker is: root's, and on a simulated node, which need not be root's, our own user's.
fn worker_user(root: &Root) -> u32 {
    root.directory().map_or(0, |_| nix::unistd::geteuid().as_raw())
}

/// Whether the worker of this UPID or anything else of its session still runs.
fn lives(upid: &Upid) -> bool {
    let Some((pid, started)) = upid.worker() else { return true };
    Process::find(pid).is_ok_and(|process| process.started == started && process.alive())
        || process::session_members(pid).is_ok_and(|members| !members.is_empty())
}

fn at_work(root: &Root, vmid: Vmid, counts: impl Fn(i32, &Upid) -> bool) -> bool {
    #[cfg(test)]
    if crate::sys::walk::current().is_some() {
        return false;
    }
    let Ok(tasks) = process::with_title("task UPID:", worker_user(root)) else { return true };
    tasks
        .into_iter()
        .filter_map(|(pid, title)| Some((pid, Upid::from_command_line(&title)?)))
        .filter(|(pid, upid)| upid.is_backup() && counts(*pid, upid))
        .filter(|(pid, upid)| worker_of(root, *pid, upid).is_some())
        .any(|(_, upid)| match TaskLog::read(root, &upid) {
            Ok(log) => log.is_at(vmid),
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        })
}
