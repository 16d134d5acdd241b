//! Work that may hang in the kernel, bounded in time.

use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Runs `work` on a thread of its own and waits at most `limit` for its result.
///
/// A guest can make any look-up inside its file system hang for ever (FUSE). The thread is then left where it
/// is; it ends with the process. The error is `TimedOut`, or that of a thread that could not be started or
/// panicked.
pub fn within<T, F>(limit: Duration, work: F) -> io::Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    let (sender, receiver) = mpsc::channel();
    thread::Builder::new().stack_size(512 * 1024).spawn(move || {
        // The receiver is gone when the limit has passed; nobody wants the result then.
        let _ = sender.send(work());
    })?;
    receiver.recv_timeout(limit).map_err(|error| match error {
        mpsc::RecvTimeoutError::Timeout => io::Error::new(
            io::ErrorKind::TimedOut,
            format!("no answer within {} s", limit.as_secs_f32()),
        ),
        mpsc::RecvTimeoutError::Disconnected => io::Error::other("the work ended without a result"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_hangs_is_left_behind() {
        let error = within(Duration::from_millis(20), || thread::sleep(Duration::from_secs(60)));
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(within(Duration::from_secs(60), || 7).unwrap(), 7);
    }

    #[test]
    fn work_that_panics_is_an_error() {
        let result = within(Duration::from_secs(60), || -> u8 { panic!("on purpose") });
        assert!(result.is_err());
    }
}
