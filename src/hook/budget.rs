//! How long vzdump has waited because of one guest in one job: `quiesce.budget`.

use std::cell::Cell;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::sys::Root;
use crate::vzdump::{Job, Vmid};

/// What is left below this is too little to ask an engine anything: the phase ends, and the guard goes on.
const LEAST: Duration = Duration::from_secs(1);

/// Why a phase does nothing more that takes time.
pub const SPENT: &str = "the time that this job has for the guest (quiesce.budget) is over";

/// What a phase whose time is spent already may take to find the guest's lock free.
const A_MOMENT: Duration = Duration::from_millis(300);

/// The time of a guest in a job. It is counted in a file of its own: also who does not get the guest's lock has made vzdump
/// wait. A hook that dies has not counted its last phase.
pub struct Budget {
    path: PathBuf,
    job: String,
    /// What is left of it at `began`.
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
    /// Begins to count; `total` is for all phases of the job together.
    pub fn begin(root: &Root, total: Duration, vmid: Vmid, job: &Job) -> Budget {
        let path = root.path(&format!("/run/stillpoint/spent-{vmid}.json"));
        let job = job.name();
        // A file that is missing or damaged costs no more than a budget.
        let spent = fs::read(&path)
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Spent>(&bytes).ok())
            .filter(|spent| spent.job == job)
            .map_or(Duration::ZERO, |spent| Duration::from_millis(spent.ms));
        let (began, not_counted) = (Instant::now(), Cell::new(Duration::ZERO));
        Budget { path, job, left: total.saturating_sub(spent), spent, began, not_counted }
    }

    /// How long vzdump may still wait.
    pub fn left(&self) -> Duration {
        self.left.saturating_sub(self.used())
    }

    /// Whether nothing more is asked of the guest in this job.
    pub fn is_spent(&self) -> bool {
        self.left() < LEAST
    }

    /// The end of something that may take so long, and no longer than there is time for.
    pub fn deadline(&self, limit: Duration) -> Instant {
        Instant::now() + limit.min(self.left())
    }

    /// The same for the guest's lock, for which there is always a moment.
    pub fn lock_deadline(&self, limit: Duration) -> Instant {
        Instant::now() + limit.min(self.left().max(A_MOMENT))
    }

    /// Does what is another's time, as that of the backup server.
    pub fn without<T>(&self, work: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let done = work();
        self.not_counted.set(self.not_counted.get() + began.elapsed());
        done
    }

    fn used(&self) -> Duration {
        self.began.elapsed().saturating_sub(self.not_counted.get())
    }
}

impl Drop for Budget {
    /// Counts what was used. Where that cannot be written down, the next phase has more time than it should.
    fn drop(&mut self) {
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
