use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use super::check::Check;
use super::messages::NO_ANSWER;

/// Something that is being looked at by a thread of its own: what it asks may never answer (a hung `/etc/pve`, a
/// dead NFS server, a guest that means harm). The thread is then left behind; it ends with the process.
pub struct Question<T> {
    about: String,
    limit: Duration,
    deadline: Instant,
    answer: Receiver<T>,
}

/// Starts to look; `about` names what has not answered, should it come to that.
pub fn ask<T, F>(about: impl Into<String>, limit: Duration, look: F) -> Question<T>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    let (sender, answer) = mpsc::channel();
    // Without a thread, and after a panic, the sender is gone and that is no answer.
    let _ = thread::Builder::new().spawn(move || sender.send(look()));
    Question { about: about.into(), limit, deadline: Instant::now() + limit, answer }
}

impl<T> Question<T> {
    /// The answer, or the check that says that there is none.
    pub fn answer(self) -> Result<T, Check> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        self.answer
            .recv_timeout(left)
            .map_err(|_| NO_ANSWER.check(&self.about, &[("limit", &self.limit.as_secs_f32())]))
    }
}

impl Question<Vec<Check>> {
    /// The checks, or the one that says that there are none.
    pub fn checks(self) -> Vec<Check> {
        self.answer().unwrap_or_else(|none| vec![none])
    }
}
