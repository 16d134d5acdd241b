use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use super::check::Check;
use super::messages::NO_ANSWER;

/// A check in its own thread: what it asks may never answer (a hung `/etc/pve`, a dead NFS server,
/// a malicious guest). The thread is then left behind and ends with the process.
pub struct Question<T> {
    about: String,
    limit: Duration,
    deadline: Instant,
    answer: Receiver<T>,
}

/// Starts the check; `about` names it if it does not answer.
pub fn ask<T, F>(about: impl Into<String>, limit: Duration, look: F) -> Question<T>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    let (sender, answer) = mpsc::channel();
    // If the thread cannot start, or panics, the sender is gone, which counts as no answer.
    let _ = thread::Builder::new().spawn(move || sender.send(look()));
    Question { about: about.into(), limit, deadline: Instant::now() + limit, answer }
}

impl<T> Question<T> {
    /// The answer, or a check that says that there was no answer.
    pub fn answer(self) -> Result<T, Check> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        self.answer
            .recv_timeout(left)
            .map_err(|_| NO_ANSWER.check(&self.about, &[("limit", &self.limit.as_secs_f32())]))
    }
}

impl Question<Vec<Check>> {
    /// The checks, or one that says that there was no answer.
    pub fn checks(self) -> Vec<Check> {
        self.answer().unwrap_or_else(|none| vec![none])
    }
}
