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
    _file: Flock<fs::File>,
}

/// Takes the lock on `path`, waiting until `deadline`. The file is created if missing and never
/// removed.
///
/// The error is `TimedOut` if another process held the lock all the time.
pub fn take(path: &Path, deadline: Instant) -> io::Result<Lock> {
    if let Some(directory) = path.parent().filter(|directory| !directory.is_dir()) {
        super::file::own_directory(directory)?;
    }
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(Lock { _file: lock }),
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
