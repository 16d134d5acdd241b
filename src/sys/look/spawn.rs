//! Making a process that can be left behind.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid};

use super::cgroup;
use super::hung::Watched;
use super::serve::{CHANNEL, INIT, serve};
use crate::sys::process::{Pidfd, Process};

/// What a program is called that was started to look.
pub const TITLE: &str = "stillpoint-look";

/// A killed process that is not in the kernel's hands ends within a millisecond.
const END: Duration = Duration::from_millis(100);

/// Above all that is given to the child.
const FREE: RawFd = 10;

/// `linux/sched.h`
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// This process is one that [`fork`] has made.
static APART: AtomicBool = AtomicBool::new(false);

static THIS_PROGRAM_LOOKS: AtomicBool = AtomicBool::new(false);

/// Children that had not ended when they were let go. Whoever makes another one looks whether they have.
static LEFT: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// This program's `main` knows what to do under the name [`TITLE`]. Any other, as a test's, is forked and not started again.
pub fn this_program_looks() {
    THIS_PROGRAM_LOOKS.store(true, Ordering::Relaxed);
}

/// Whether this process is one that [`fork`] has made.
pub fn is_apart() -> bool {
    APART.load(Ordering::Relaxed)
}

/// A process that looks, and our end of the socket pair. Once dropped, its end is closed, and it ends when it reads the
/// next request.
pub struct Child {
    pid: Pid,
    pub channel: OwnedFd,
}

impl Drop for Child {
    fn drop(&mut self) {
        let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
        left.push(self.pid);
    }
}

impl Child {
    /// Kills it, waits a moment for its end and no longer, and gives the error of its look, which is remembered where
    /// it lives on.
    pub fn leave(self, watched: &Watched, limit: Duration) -> io::Error {
        let process = Process::find(self.pid.as_raw());
        let pidfd = Pidfd::open(self.pid.as_raw());
        // It is our own child and not waited for yet: the pid is its own.
        let _ = nix::sys::signal::kill(self.pid, Signal::SIGKILL);
        let ended = pidfd.is_ok_and(|pidfd| pidfd.ended_within(END));
        if !ended && nix::unistd::geteuid().is_root() {
            cgroup::take(self.pid.as_raw());
        }
        watched.left_behind(process.ok().filter(|_| !ended), limit)
    }
}

/// Takes back those that have ended, so that a process that lives long has no zombies.
fn reap() {
    let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
    left.retain(|pid| waitpid(*pid, Some(WaitPidFlag::WNOHANG)) == Ok(WaitStatus::StillAlive));
}

/// Starts a process that answers requests; `subject` is seen by who lists processes, `init` is the pidfd that it gets. `apart`: in a
/// control group of its own from the start.
pub fn looking(subject: &str, init: Option<BorrowedFd<'_>>, apart: bool) -> io::Result<Child> {
    if !THIS_PROGRAM_LOOKS.load(Ordering::Relaxed) {
        return fork(init, serve);
    }
    reap();
    let (ours, theirs) = pair()?;
    let words = [CString::new(TITLE)?, CString::new(subject)?];
    let arguments = [words[0].as_ptr(), words[1].as_ptr(), std::ptr::null()];
    let environment = [std::ptr::null()];
    let group = if apart { cgroup::open() } else { None };
    let init = init.map(|init| init.as_raw_fd());
    match clone(group.as_ref())? {
        ForkResult::Parent { child } => Ok(Child { pid: child, channel: ours }),
        // Only system calls from here on, and no memory but what was made ready above.
        ForkResult::Child => {
            if place(theirs.as_raw_fd(), init).is_ok() {
                let program = c"/proc/self/exe".as_ptr();
                // SAFETY: all three are what execve(2) reads, and live until it has.
                unsafe { libc::execve(program, arguments.as_ptr(), environment.as_ptr()) };
            }
            // SAFETY: ends the process without a look back.
            unsafe { libc::_exit(127) }
        }
    }
}

/// Starts a process that does `work` with its end of the pair, and the other descriptor, in a copy of this process's memory.
///
/// Nothing else of this process is open in it. Other threads of this process do not exist in it, and what they had locked stays so:
/// `work` uses memory, files and sockets, and neither standard streams nor anything that others may hold.
pub fn fork(
    other: Option<BorrowedFd<'_>>,
    work: impl FnOnce(OwnedFd, Option<OwnedFd>),
) -> io::Result<Child> {
    reap();
    let (ours, theirs) = pair()?;
    let other = other.map(|other| other.as_raw_fd());
    // SAFETY: the C library's fork leaves its allocator usable; see above for the rest.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(Child { pid: child, channel: ours }),
        ForkResult::Child => {
            APART.store(true, Ordering::Relaxed);
            if place(theirs.as_raw_fd(), other).is_ok() {
                // SAFETY: `place` has put them there, and nothing else in this process knows of them.
                let owned = |fd| unsafe { OwnedFd::from_raw_fd(fd) };
                work(owned(CHANNEL), other.map(|_| owned(INIT)));
            }
            // SAFETY: ends the process without a look back.
            unsafe { libc::_exit(0) }
        }
    }
}

fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)?)
}

/// Forks, into a control group of cgroup v2 where there is one: to be moved there later would take the kernel much longer.
fn clone(group: Option<&File>) -> io::Result<ForkResult> {
    if let Some(group) = group {
        // SAFETY: the structure is one of plain numbers.
        let mut wanted: libc::clone_args = unsafe { std::mem::zeroed() };
        wanted.flags = CLONE_INTO_CGROUP;
        wanted.exit_signal = libc::SIGCHLD as u64;
        wanted.cgroup = group.as_raw_fd() as u64;
        let size = size_of::<libc::clone_args>();
        // SAFETY: as fork(2), for flags that share nothing; the caller's child makes system calls only.
        match unsafe { libc::syscall(libc::SYS_clone3, &raw const wanted, size) } {
            0 => return Ok(ForkResult::Child),
            pid if pid > 0 => {
                let pid = i32::try_from(pid).map_err(io::Error::other)?;
                return Ok(ForkResult::Parent { child: Pid::from_raw(pid) });
            }
            // An old kernel, or a group that takes none. Then by itself.
            _ => {}
        }
    }
    // SAFETY: the caller's child makes system calls only.
    Ok(unsafe { nix::unistd::fork() }?)
}

/// In the child: a session of its own, no standard streams, no descriptor but the two that it gets. System calls only.
fn place(channel: RawFd, other: Option<RawFd>) -> Result<(), Errno> {
    let root = c"/".as_ptr();
    let null = c"/dev/null".as_ptr();
    let last = if other.is_some() { INIT } else { libc::STDERR_FILENO };
    // SAFETY: system calls on numbers and constant strings; whose descriptors are closed is this process's own business.
    unsafe {
        libc::setsid();
        Errno::result(libc::chdir(root))?;
        let channel = Errno::result(libc::fcntl(channel, libc::F_DUPFD_CLOEXEC, FREE))?;
        let other = match other {
            Some(other) => Some(Errno::result(libc::fcntl(other, libc::F_DUPFD_CLOEXEC, FREE))?),
            None => None,
        };
        let null = Errno::result(libc::open(null, libc::O_RDWR | libc::O_CLOEXEC))?;
        let null = Errno::result(libc::fcntl(null, libc::F_DUPFD_CLOEXEC, FREE))?;
        Errno::result(libc::dup2(channel, CHANNEL))?;
        Errno::result(libc::dup2(null, libc::STDOUT_FILENO))?;
        Errno::result(libc::dup2(null, libc::STDERR_FILENO))?;
        if let Some(other) = other {
            Errno::result(libc::dup2(other, INIT))?;
        }
        Errno::result(libc::close_range(last as u32 + 1, u32::MAX, 0))?;
    }
    Ok(())
}
