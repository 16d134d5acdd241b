//! Work that may hang in the kernel, with a time limit.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::look::{Watched, deadline_read, fork, is_apart};

/// Runs `work` in a separate process and waits at most `limit` for its result.
///
/// `work` may hang for ever, and no signal ends it: a storage whose server is gone, `/etc/pve`
/// without its daemon. The process is then left behind, and no other is started for the same thing
/// while it lives; of several callers one looks at a time. The caller does not see changes that
/// `work` makes in memory. `work` uses no standard streams.
///
/// # Errors
/// `TimedOut`, also if an earlier process still hangs; or the error of a process that could not be
/// started or ended without a result.
pub fn within<T>(watched: &Watched, limit: Duration, work: impl FnOnce() -> T) -> io::Result<T>
where
    T: Serialize + DeserializeOwned,
{
    // A process that was started for this already has its parent's lock.
    let _alone = if is_apart() { None } else { watched.alone(limit)? };
    #[cfg(test)]
    if super::walk::current().is_some() {
        return Ok(work());
    }
    if let Some(error) = watched.earlier() {
        return Err(error);
    }
    let deadline = Instant::now() + limit;
    let child = fork(None, |channel, _| {
        if let Ok(result) = serde_json::to_vec(&work()) {
            // A caller that no longer waits does not want the result.
            let _ = UnixStream::from(channel).write_all(&result);
        }
    })?;
    match deadline_read(child.channel.as_fd(), deadline) {
        Ok(result) => serde_json::from_slice(&result)
            .map_err(|_| io::Error::other("the work ended without a result")),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(child.leave(watched, limit)),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::Root;

    fn watched() -> Watched {
        let name = format!("stillpoint-bounded-{}", crate::sys::text::token());
        let root = Root::at(&std::env::temp_dir().join(name));
        Watched::new(&root, "storage", "storage nfs", "Mend it.")
    }

    #[test]
    fn work_that_hangs_is_left_behind() {
        let limit = Duration::from_millis(20);
        let hangs = || std::thread::sleep(Duration::from_secs(60));
        let error = within(&watched(), limit, hangs).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(error.to_string(), "storage nfs did not answer within 0.02 s. Mend it.");
        assert_eq!(within(&watched(), Duration::from_secs(60), || 7).unwrap(), 7);
    }

    #[test]
    fn work_that_panics_is_an_error() {
        let result = within(&watched(), Duration::from_secs(60), || -> u8 { panic!("on purpose") });
        assert!(result.is_err());
    }

    #[test]
    fn of_several_who_look_at_once_one_looks_at_a_time() {
        let (watched, limit) = (watched(), Duration::from_secs(60));
        let place = std::env::temp_dir().join(crate::sys::text::token());
        let alone = || {
            let is_alone = std::fs::create_dir(&place).is_ok();
            std::thread::sleep(Duration::from_millis(50));
            is_alone && std::fs::remove_dir(&place).is_ok()
        };
        std::thread::scope(|scope| {
            let looks = [(); 4].map(|()| scope.spawn(|| within(&watched, limit, alone)));
            assert_eq!(looks.map(|look| look.join().unwrap().unwrap()), [true; 4]);
        });
        // This process already has the lock and does not wait for it.
        let twice = within(&watched, limit, || within(&watched, limit, || 7).unwrap_or_default());
        assert_eq!(twice.unwrap(), 7);
    }
}
