//! Advisory locks that the kernel drops with their holder: never stale.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// A held `flock`; dropping it releases it.
pub struct Lock {
    _file: Held,
}

#[cfg(not(test))]
type Held = Flock<fs::File>;

#[cfg(test)]
#[expect(dead_code, reason = "held until it is dropped")]
enum Held {
    File(Flock<fs::File>),
    Walk(super::walk::Held),
}

/// Takes the lock on `path`, waiting until `deadline`. The file is created if missing and never
/// removed.
///
/// The error is `TimedOut` if another process held the lock all the time.
pub fn take(path: &Path, deadline: Instant) -> io::Result<Lock> {
    #[cfg(test)]
    if let Some(walk) = super::walk::current() {
        walk.lock(path, deadline > super::clock::instant())?;
        let path = path.to_path_buf();
        return Ok(Lock { _file: Held::Walk(super::walk::Held { walk, path }) });
    }
    if let Some(directory) = path.parent().filter(|directory| !directory.is_dir()) {
        super::file::own_directory(directory)?;
    }
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            #[cfg(not(test))]
            Ok(lock) => return Ok(Lock { _file: lock }),
            #[cfg(test)]
            Ok(lock) => return Ok(Lock { _file: Held::File(lock) }),
            Err((back, Errno::EWOULDBLOCK | Errno::EINTR)) => file = back,
            Err((_, errno)) => return Err(errno.into()),
        }
        if Instant::now() >= deadline {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("{} is held by another process", path.display()),
            ));
        }
        thread::sleep(Duration::from_millis(10));
    }
}
