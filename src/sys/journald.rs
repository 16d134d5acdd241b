//! Sends standard output to the system's log, for a program that systemd starts without one.

use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr, socket};
use nix::unistd::{dup2_stderr, dup2_stdout};

use super::Root;

/// journald's socket for the output of services.
const SOCKET: &str = "/run/systemd/journal/stdout";
const LIMIT: Duration = Duration::from_secs(1);

/// How long to wait before connecting again after a full backlog.
const PAUSE: Duration = Duration::from_millis(10);

/// From now on standard output and standard error become lines of the system's log, under this
/// identifier.
pub fn take_output(root: &Root, identifier: &str) -> io::Result<()> {
    let stream = connect(root, identifier)?;
    dup2_stdout(&stream)?;
    Ok(dup2_stderr(&stream)?)
}

/// One line each: identifier, unit, priority (5 is notice), whether lines carry a level of their
/// own, and whether they go on to syslog, kernel log and console (sd_journal_stream_fd(3) does the
/// same).
fn connect(root: &Root, identifier: &str) -> io::Result<UnixStream> {
    let mut stream = connected(&root.path(SOCKET), Instant::now() + LIMIT)?;
    stream.write_all(format!("{identifier}\n\n5\n0\n0\n0\n0\n").as_bytes())?;
    Ok(stream)
}

/// The standard library's connect would wait for ever if the listener's backlog is full.
fn connected(path: &Path, deadline: Instant) -> io::Result<UnixStream> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    let address = UnixAddr::new(path)?;
    loop {
        match socket::connect(socket.as_raw_fd(), &address) {
            Ok(()) => break,
            Err(Errno::EAGAIN | Errno::EINTR) if Instant::now() < deadline => {
                thread::sleep(PAUSE);
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(LIMIT))?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixListener;

    #[test]
    fn lines_follow_a_header() {
        let directory =
            std::env::temp_dir().join(format!("stillpoint-log-{}", crate::sys::text::token()));
        let root = Root::at(&directory);
        let socket = root.path(SOCKET);
        std::fs::create_dir_all(socket.parent().unwrap()).unwrap();
        assert!(connect(&root, "stillpoint").is_err(), "nobody listens");
        let listener = UnixListener::bind(&socket).unwrap();
        let mut stream = connect(&root, "stillpoint").unwrap();
        writeln!(stream, "a line").unwrap();
        drop(stream);
        let mut text = String::new();
        listener.accept().unwrap().0.read_to_string(&mut text).unwrap();
        assert_eq!(text, "stillpoint\n\n5\n0\n0\n0\n0\na line\n");
        std::fs::remove_dir_all(directory).unwrap();
    }
}
