//! Counts how long vzdump has waited for one guest in one job: `quiesce.budget`.

use std::cell::Cell;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::sys::{Root, clock};
use crate::vzdump::{Job, Vmid};

/// With less time than this there is no use in asking an engine: the phase ends, and the guard goes
/// on.
const LEAST: Duration = Duration::from_secs(1);

/// Why a phase does nothing more that takes time.
pub const SPENT: &str = "the time that this job has for the guest (quiesce.budget) is over";

/// How long a phase may still wait for the guest's lock after its time is used up.
const A_MOMENT: Duration = Duration::from_millis(300);

/// A guest's time in a job. It has its own file, because a process that does not get the guest's
/// lock makes vzdump wait too. A hook that dies has not counted its last phase.
pub struct Budget {
    path: PathBuf,
    job: String,
    /// What was left at `began`.
    left: Duration,
    spent: Duration,
    began: Instant,
    not_counted: Cell<Duration>,
}

#[derive(Deserialize, Serialize)]
struct Spent {
    job: String,
    ms: u64,
}

impl Budget {
    /// Starts counting; `total` is for all phases of the job together.
    pub fn begin(root: &Root, total: Duration, vmid: Vmid, job: &Job) -> Budget {
        let path = root.path(&format!("/run/stillpoint/spent-{vmid}.json"));
        let job = job.name();
        // A missing or damaged file gives the full budget.
        let spent = fs::read(&path)
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Spent>(&bytes).ok())
            .filter(|spent| spent.job == job)
            .map_or(Duration::ZERO, |spent| Duration::from_millis(spent.ms));
        let (began, not_counted) = (clock::instant(), Cell::new(Duration::ZERO));
        Budget { path, job, left: total.saturating_sub(spent), spent, began, not_counted }
    }

    /// How long vzdump may still wait.
    pub fn left(&self) -> Duration {
        self.left.saturating_sub(self.used())
    }

    /// Whether this job does nothing more for the guest.
    pub fn is_spent(&self) -> bool {
        self.left() < LEAST
    }

    /// The deadline for something that may take `limit`, but no longer than the budget allows.
    pub fn deadline(&self, limit: Duration) -> Instant {
        clock::instant() + limit.min(self.left())
    }

    /// The same for the guest's lock, which always gets a moment.
    pub fn lock_deadline(&self, limit: Duration) -> Instant {
        clock::instant() + limit.min(self.left().max(A_MOMENT))
    }

    /// Runs `work` without counting its time, as for the backup server.
    pub fn without<T>(&self, work: impl FnOnce() -> T) -> T {
        let began = clock::instant();
        let done = work();
        self.not_counted.set(self.not_counted.get() + clock::since(began));
        done
    }

    fn used(&self) -> Duration {
        clock::since(self.began).saturating_sub(self.not_counted.get())
    }
}

impl Drop for Budget {
    /// Counts the time used. If that cannot be written, the next phase has more time than it
    /// should.
    fn drop(&mut self) {
        #[cfg(test)]
        if crate::sys::walk::current().is_some() {
            return;
        }
        let ms = u64::try_from((self.spent + self.used()).as_millis()).unwrap_or(u64::MAX);
        let spent = Spent { job: self.job.clone(), ms };
        if let (Ok(bytes), Some(directory)) = (serde_json::to_vec(&spent), self.path.parent()) {
            let _ = fs::create_dir_all(directory).and_then(|()| fs::write(&self.path, bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::process::Process;
    use crate::sys::text;

    #[test]
    fn what_a_phase_used_is_missing_in_the_next_of_that_job() {
        let directory = std::env::temp_dir().join(format!("stillpoint-budget-{}", text::token()));
        let root = Root::at(&directory);
        let job = |pid| {
            let worker = Process { pid, started: 0, boot: String::new() };
            Job { upid: None, worker, session: 0 }
        };
        let begin = |pid| Budget::begin(&root, Duration::from_secs(180), Vmid(9001), &job(pid));
        let mut first = begin(7);
        first.left -= Duration::from_secs(60);
        first.spent += Duration::from_secs(60);
        first.without(|| std::thread::sleep(Duration::from_millis(20)));
        assert!(!first.is_spent());
        drop(first);
        let later = begin(7).left();
        assert!(later <= Duration::from_secs(120), "{later:?}");
        let of_another_job = begin(8).left();
        assert!(of_another_job > Duration::from_secs(120), "{of_another_job:?}");
        let none = Budget::begin(&root, Duration::ZERO, Vmid(9001), &job(9));
        assert!(none.is_spent());
        drop(none);
        fs::remove_dir_all(directory).unwrap();
    }
}
