//! Things that may hang a process that looks at them, and the record that they do.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::sys::lock::{self, Lock};
use crate::sys::process::Process;
use crate::sys::{Root, file};

/// Larger than any of our own files here.
const LIMIT: u64 = 4096;

/// Something that may hang a process that looks at it.
#[derive(Clone, Debug)]
pub struct Watched {
    /// Its name in "NAME does not answer".
    name: String,
    /// What an admin can do, in one sentence.
    advice: String,
    /// The file that records a hanging look.
    marker: PathBuf,
    /// The guest's init: a new init means that the guest was started again, with other mounts.
    init: Option<Process>,
}

/// `/run/stillpoint/hung-KEY.json`: a look that hangs.
#[derive(Serialize, Deserialize)]
struct Hung {
    /// The process that was left behind.
    child: Process,
    #[serde(default)]
    init: Option<Process>,
}

impl Watched {
    /// `key` identifies it among everything that is watched on this node.
    pub fn new(root: &Root, key: &str, name: &str, advice: &str) -> Watched {
        let letter = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        let key: String = key.chars().map(letter).collect();
        Watched {
            name: name.to_string(),
            advice: advice.to_string(),
            marker: root.path(&format!("/run/stillpoint/hung-{key}.json")),
            init: None,
        }
    }

    /// `/etc/pve`, a file system that the daemon pmxcfs serves.
    pub fn cluster(root: &Root) -> Watched {
        Watched::new(root, "cluster", "/etc/pve", "systemctl status pve-cluster tells more.")
    }

    /// A file system that ends with this init of a guest.
    pub fn of_init(self, init: Process) -> Watched {
        Watched { init: Some(init), ..self }
    }

    /// Its name in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Waits at most `limit` until no other process looks. Two at once would both be left behind;
    /// one after the other, the second learns from the first one's marker that it hangs. `None` if
    /// no lock can be made: a look without a lock is better than none.
    ///
    /// # Errors
    /// `TimedOut` if another process looked all the time.
    pub fn alone(&self, limit: Duration) -> io::Result<Option<Lock>> {
        match lock::take(&self.marker.with_extension("lock"), Instant::now() + limit) {
            Ok(lock) => Ok(Some(lock)),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                let error = format!(
                    "{} does not answer: another look at it has not ended within {} s. {}",
                    self.name,
                    limit.as_secs_f32(),
                    self.advice
                );
                Err(io::Error::new(io::ErrorKind::TimedOut, error))
            }
            Err(_) => Ok(None),
        }
    }

    /// The error of a look that is not started, because an earlier one still hangs.
    pub fn earlier(&self) -> Option<io::Error> {
        let text = file::read_text(&self.marker, LIMIT).ok()??;
        let hung = serde_json::from_str::<Hung>(&text).ok();
        if let Some(hung) = hung.filter(|hung| hung.init == self.init && hung.child.alive()) {
            let error = format!(
                "{} does not answer: process {} still waits for it, and no other is started until that one has ended. {}",
                self.name, hung.child.pid, self.advice
            );
            return Some(io::Error::new(io::ErrorKind::TimedOut, error));
        }
        // The look has ended at last, or the guest was started again. If the marker cannot be
        // removed, the next look checks it again.
        let _ = std::fs::remove_file(&self.marker);
        None
    }

    /// Records the hanging process, if SIGKILL did not end it, and returns the error of its look.
    pub fn left_behind(&self, child: Option<Process>, limit: Duration) -> io::Error {
        let error = format!(
            "{} did not answer within {} s. {}",
            self.name,
            limit.as_secs_f32(),
            self.advice
        );
        if let Some(child) = child {
            let hung = serde_json::to_vec(&Hung { child, init: self.init.clone() });
            let directory = self.marker.parent().map(file::own_directory);
            if let (Ok(hung), Some(Ok(()))) = (hung, directory) {
                // If the marker cannot be written, the next look only costs its limit again.
                let _ = file::replace(&self.marker, &hung, 0o600);
            }
        }
        io::Error::new(io::ErrorKind::TimedOut, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::look::{Looker, Place, Request};

    #[test]
    fn a_look_is_refused_only_while_the_one_before_it_hangs() {
        let name = format!("stillpoint-hung-{}", crate::sys::text::token());
        let directory = std::env::temp_dir().join(name);
        let watched =
            Watched::new(&Root::at(&directory), "guest 9001", "guest 9001", "Restart it.");
        assert!(watched.earlier().is_none());
        let own = Process::find(std::process::id().cast_signed()).unwrap();
        let said = watched.left_behind(Some(own.clone()), Duration::from_secs(5)).to_string();
        assert_eq!(said, "guest 9001 did not answer within 5 s. Restart it.");
        let said = watched.earlier().unwrap().to_string();
        assert!(said.contains(&format!("process {}", own.pid)) && said.ends_with("Restart it."));
        let restarted = watched.clone().of_init(own.clone());
        assert!(restarted.earlier().is_none(), "another guest is another matter");
        assert!(watched.earlier().is_none(), "the guest of the marker is gone");
        let gone = Process { started: own.started + 1, ..own };
        watched.left_behind(Some(gone), Duration::from_secs(5));
        assert!(watched.marker.exists());
        assert!(watched.earlier().is_none());
        assert!(!watched.marker.exists());
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn who_looks_at_once_hears_of_the_others_hang() {
        let name = format!("stillpoint-hung-{}", crate::sys::text::token());
        let directory = std::env::temp_dir().join(name);
        let guard = Watched::new(&Root::at(&directory), "guest 9001", "guest 9001", "Restart it.");
        let place = Place::Directory(std::env::temp_dir());
        let hook = Looker::new(place, None, guard.clone());
        let look = |limit| hook.ask(&Request::Owner, &[], limit);
        look(Duration::from_secs(60)).unwrap();
        let alone = guard.alone(Duration::ZERO).unwrap();
        let said = look(Duration::ZERO).err().unwrap().to_string();
        assert!(said.contains("another look at it has not ended within 0 s"), "{said}");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| look(Duration::from_secs(60)));
            let own = Process::find(std::process::id().cast_signed()).unwrap();
            guard.left_behind(Some(own), Duration::from_secs(5));
            drop(alone);
            let said = waiting.join().unwrap().err().unwrap().to_string();
            assert!(said.contains("still waits for it, and no other is started"), "{said}");
        });
        std::fs::remove_dir_all(directory).unwrap();
    }
}
