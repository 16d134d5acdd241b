//! Shows that a hook waits for a guest's lock: vzdump waits for the hook, and the holder of the
//! lock can continue later.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::Runs;
use crate::sys::clock;
use crate::sys::lock::{self, Lock};
use crate::vzdump::Vmid;

/// How long the holder may need to notice.
const ASKING: Duration = Duration::from_millis(100);

impl Runs {
    /// Takes a guest's lock for a hook, as [`Runs::lock`] does, and asks the present holder to
    /// release it.
    pub fn lock_first(&self, vmid: Vmid, deadline: Instant) -> Result<Lock> {
        if let Ok(lock) = self.lock(vmid, clock::instant()) {
            return Ok(lock);
        }
        // If another hook has asked already, or the file cannot be locked, the hook still waits for
        // the lock itself.
        let _asked = lock::take(&self.wanted(vmid), deadline.min(clock::instant() + ASKING));
        self.lock(vmid, deadline)
    }

    /// Whether a hook waits for a guest's lock.
    pub fn is_wanted(&self, vmid: Vmid) -> bool {
        let place = self.wanted(vmid);
        place.exists() && lock::take(&place, clock::instant()).is_err()
    }

    fn wanted(&self, vmid: Vmid) -> PathBuf {
        self.root.path(&format!("/run/stillpoint/guest-{vmid}.wanted"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{Root, text};
    use std::thread;

    #[test]
    fn whoever_holds_the_lock_sees_that_a_hook_waits_for_it() {
        let directory = std::env::temp_dir().join(format!("stillpoint-wanted-{}", text::token()));
        let runs = Runs::of(&Root::at(&directory));
        let vmid = Vmid(9001);
        let held = runs.lock(vmid, Instant::now()).unwrap();
        assert!(!runs.is_wanted(vmid));
        let hook = {
            let runs = runs.clone();
            thread::spawn(move || {
                runs.lock_first(vmid, Instant::now() + Duration::from_secs(120)).map(drop)
            })
        };
        while !runs.is_wanted(vmid) {
            thread::sleep(Duration::from_millis(1));
        }
        drop(held);
        hook.join().unwrap().unwrap();
        assert!(!runs.is_wanted(vmid));
        std::fs::remove_dir_all(directory).unwrap();
    }
}
