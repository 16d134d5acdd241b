//! One process for all looks at a guest within one piece of work, such as a phase of a backup.

use std::mem;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::hung::Watched;
use super::looker::Looker;
use super::wire::Place;

/// A piece of work looks at one guest, or at a copy and its original.
const MOST: usize = 4;

/// A guest can give its init another root at any time. So later looks start again, and no process
/// lives through a long wait.
const LONGEST: Duration = Duration::from_secs(5);

static KEPT: Mutex<Kept> = Mutex::new(Kept { works: 0, lookers: Vec::new() });

/// While it exists, looks at one guest share their process. Otherwise the process ends with the
/// handle that started it.
#[must_use]
pub struct Keeping(());

/// Lets looks share processes until the result is dropped.
pub fn keep() -> Keeping {
    kept().works += 1;
    Keeping(())
}

impl Drop for Keeping {
    fn drop(&mut self) {
        let ended = kept().end_work();
        drop(ended);
    }
}

/// A looker for that place. `start` identifies the guest's start and the root of its init: a looker
/// of another start is never used.
pub fn looker(place: Place, init: Option<OwnedFd>, watched: Watched, start: &str) -> Arc<Looker> {
    kept().looker(place, init, watched, start)
}

fn kept() -> MutexGuard<'static, Kept> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Kept {
    /// How many pieces of work are in progress.
    works: usize,
    lookers: Vec<Known>,
}

struct Known {
    place: Place,
    start: String,
    since: Instant,
    looker: Arc<Looker>,
}

impl Kept {
    /// Lookers that are no longer needed.
    fn end_work(&mut self) -> Vec<Known> {
        self.works = self.works.saturating_sub(1);
        match self.works {
            0 => mem::take(&mut self.lookers),
            _ => Vec::new(),
        }
    }

    fn looker(
        &mut self,
        place: Place,
        init: Option<OwnedFd>,
        watched: Watched,
        start: &str,
    ) -> Arc<Looker> {
        self.lookers.retain(|known| known.since.elapsed() < LONGEST && known.looker.is_usable());
        let same = |known: &&Known| known.start == start && known.place == place;
        if let Some(known) = self.lookers.iter().find(same) {
            return known.looker.clone();
        }
        let looker = Arc::new(Looker::new(place.clone(), init, watched));
        if self.works > 0 {
            if self.lookers.len() == MOST {
                self.lookers.remove(0);
            }
            let (start, since, looker) = (start.to_string(), Instant::now(), looker.clone());
            self.lookers.push(Known { place, start, since, looker });
        }
        looker
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::Root;
    use std::path::PathBuf;

    fn looker(kept: &mut Kept, guest: &str, start: &str) -> Arc<Looker> {
        let watched = Watched::new(&Root::at("/nonexistent".as_ref()), guest, guest, "");
        kept.looker(Place::Directory(PathBuf::from(guest)), None, watched, start)
    }

    #[test]
    fn a_piece_of_work_shares_the_looker_of_one_start_of_a_guest() {
        let mut kept = Kept { works: 1, lookers: Vec::new() };
        let first = looker(&mut kept, "9001", "1");
        assert!(Arc::ptr_eq(&first, &looker(&mut kept, "9001", "1")));
        assert!(!Arc::ptr_eq(&first, &looker(&mut kept, "9001", "2")), "restarted");
        assert!(!Arc::ptr_eq(&first, &looker(&mut kept, "9002", "1")), "another guest");
        for guest in 0..10 {
            looker(&mut kept, &guest.to_string(), "1");
        }
        assert_eq!(kept.lookers.len(), MOST);
        kept.lookers.clear();
        assert_eq!(Arc::strong_count(&first), 1, "nothing is left of it");
    }

    #[test]
    fn nothing_is_kept_outside_of_a_piece_of_work() {
        let mut kept = Kept { works: 2, lookers: Vec::new() };
        let first = looker(&mut kept, "9001", "1");
        assert!(kept.end_work().is_empty());
        assert!(Arc::ptr_eq(&first, &looker(&mut kept, "9001", "1")));
        assert_eq!(kept.end_work().len(), 1);
        assert!(!Arc::ptr_eq(&first, &looker(&mut kept, "9001", "1")));
        assert!(kept.lookers.is_empty());
    }

    #[test]
    fn a_looker_is_not_kept_for_long() {
        let mut kept = Kept { works: 1, lookers: Vec::new() };
        let first = looker(&mut kept, "9001", "1");
        let Some(since) = Instant::now().checked_sub(LONGEST) else { return };
        kept.lookers[0].since = since;
        assert!(!Arc::ptr_eq(&first, &looker(&mut kept, "9001", "1")));
    }
}
