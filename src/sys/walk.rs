//! In a unit test a walk can stand in for all that is outside this process: the node's files, locks, processes and time, and a
//! guest with its engine. Whoever runs as a step of the walk calls the production functions; where these would go to the
//! system, they come here.

use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::look::{Answer, Request};
use crate::config::Settings;

/// What the production functions ask of the node.
pub trait Walk {
    // Files.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()>;
    /// Whether a file need not be made once more, for the step only repeats what it has done; it is taken as written then.
    fn repeats_write(&self) -> Option<io::Result<()>>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// The names of the files in a directory.
    fn names(&self, directory: &Path) -> Vec<String>;
    fn settings(&self) -> Settings;
    fn append(&self, record: serde_json::Value) -> io::Result<()>;
    fn records(&self) -> Vec<serde_json::Value>;
    // Locks.
    /// `waits`: whether it is waited for, or only tried.
    fn lock(&self, path: &Path, waits: bool) -> io::Result<()>;
    fn unlock(&self, path: &Path);
    // Time.
    fn now_ms(&self) -> u64;
    fn sleep(&self, time: Duration);
    fn token(&self) -> String;
    // Processes.
    fn alive(&self, pid: i32) -> bool;
    fn boot(&self) -> String;
    fn start(&self, arguments: &[&str]) -> io::Result<()>;
    // The guest.
    /// Whether it is frozen; `None` where it is down.
    fn guest(&self) -> Option<bool>;
    fn change_guest(&self, change: Change) -> io::Result<()>;
    fn ask(&self, request: &Request) -> io::Result<Answer>;
    /// Writes the note in the guest.
    fn give(&self, content: &[u8]);
    /// The engine's status and body.
    fn engine(&self, method: &str, path: &str) -> io::Result<(u16, Vec<u8>)>;
}

/// What can be done to a guest from the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Thaw,
    Start,
}

thread_local! {
    static CURRENT: RefCell<Option<Rc<dyn Walk>>> = const { RefCell::new(None) };
}

/// The walk that this thread is a step of, if so.
pub fn current() -> Option<Rc<dyn Walk>> {
    CURRENT.with_borrow(Clone::clone)
}

/// Does something as a step of a walk.
pub fn within<T>(walk: Rc<dyn Walk>, work: impl FnOnce() -> T) -> T {
    struct Over;
    impl Drop for Over {
        fn drop(&mut self) {
            CURRENT.set(None);
        }
    }
    CURRENT.set(Some(walk));
    let _over = Over;
    work()
}

/// The moment of that time of the walk's clock.
pub fn instant(now_ms: u64) -> Instant {
    static BEGAN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    *BEGAN.get_or_init(Instant::now) + Duration::from_millis(now_ms)
}

/// A lock of the walk's, let go by dropping it; not by whoever unwinds because its next step is not due yet.
pub struct Held {
    pub walk: Rc<dyn Walk>,
    pub path: PathBuf,
}

impl Drop for Held {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.walk.unlock(&self.path);
        }
    }
}
