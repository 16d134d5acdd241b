//! Creates a process that can be left behind.

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

/// The process title of a program that was started to look.
pub const TITLE: &str = "stillpoint-look";

/// A killed process that does not wait in the kernel ends within a millisecond.
const END: Duration = Duration::from_millis(100);

/// Higher than any descriptor number that the child uses.
const FREE: RawFd = 10;

/// `linux/sched.h`
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// This process is one that [`fork`] has made.
static APART: AtomicBool = AtomicBool::new(false);

static THIS_PROGRAM_LOOKS: AtomicBool = AtomicBool::new(false);

/// Children that had not ended when they were released. Each new start checks whether they have.
static LEFT: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// This program's `main` handles the name [`TITLE`]. Any other program, such as a test's, is forked
/// instead of run again.
pub fn this_program_looks() {
    THIS_PROGRAM_LOOKS.store(true, Ordering::Relaxed);
}

/// Whether this process is one that [`fork`] has made.
pub fn is_apart() -> bool {
    APART.load(Ordering::Relaxed)
}

/// A looking process and our end of the socket pair. Dropping it closes our end, and the process
/// exits at its next read.
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
    /// Kills it, waits a moment for its end, and returns the error of its look. If it still lives,
    /// that is recorded.
    pub fn leave(self, watched: &Watched, limit: Duration) -> io::Error {
        let process = Process::find(self.pid.as_raw());
        let pidfd = Pidfd::open(self.pid.as_raw());
        // It is our own child and not waited for yet, so its pid cannot be reused.
        let _ = nix::sys::signal::kill(self.pid, Signal::SIGKILL);
        let ended = pidfd.is_ok_and(|pidfd| pidfd.ended_within(END));
        if !ended && nix::unistd::geteuid().is_root() {
            cgroup::take(self.pid.as_raw());
        }
        watched.left_behind(process.ok().filter(|_| !ended), limit)
    }
}

/// Waits for children that have ended, so that a long-lived process has no zombies.
fn reap() {
    let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
    left.retain(|pid| waitpid(*pid, Some(WaitPidFlag::WNOHANG)) == Ok(WaitStatus::StillAlive));
}

/// Starts a process that answers requests. `subject` appears in lists of processes; `init` is the
/// pidfd for it. `apart`: in a control group of its own from the start.
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
        // Only system calls from here on, and only memory that was prepared above.
        ForkResult::Child => {
            if place(theirs.as_raw_fd(), init).is_ok() {
                let program = c"/proc/self/exe".as_ptr();
                // SAFETY: all three are what execve(2) reads, and live until it has.
                unsafe { libc::execve(program, arguments.as_ptr(), environment.as_ptr()) };
            }
            // SAFETY: exits the process at once.
            unsafe { libc::_exit(127) }
        }
    }
}

/// Starts a process that does `work` with its end of the pair, and the other descriptor, in a copy
/// of this process's memory.
///
/// No other descriptor of this process is open in it. Other threads of this process do not exist in
/// it, and their locks stay locked: `work` may use memory, files and sockets, but neither standard
/// streams nor anything that another thread may hold.
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
                // SAFETY: `place` has put them there, and nothing else in this process knows of
                // them.
                let owned = |fd| unsafe { OwnedFd::from_raw_fd(fd) };
                work(owned(CHANNEL), other.map(|_| owned(INIT)));
            }
            // SAFETY: exits the process at once.
            unsafe { libc::_exit(0) }
        }
    }
}

fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)?)
}

/// Forks into a control group of cgroup v2, if there is one: moving the process later would take
/// the kernel much longer.
fn clone(group: Option<&File>) -> io::Result<ForkResult> {
    if let Some(group) = group {
        // SAFETY: the structure is one of plain numbers.
        let mut wanted: libc::clone_args = unsafe { std::mem::zeroed() };
        wanted.flags = CLONE_INTO_CGROUP;
        wanted.exit_signal = libc::SIGCHLD as u64;
        wanted.cgroup = group.as_raw_fd() as u64;
        let size = size_of::<libc::clone_args>();
        // SAFETY: as fork(2), for flags that share nothing; the caller's child makes system calls
        // only.
        match unsafe { libc::syscall(libc::SYS_clone3, &raw const wanted, size) } {
            0 => return Ok(ForkResult::Child),
            pid if pid > 0 => {
                let pid = i32::try_from(pid).map_err(io::Error::other)?;
                return Ok(ForkResult::Parent { child: Pid::from_raw(pid) });
            }
            // An old kernel, or a group that accepts no processes: fork without it.
            _ => {}
        }
    }
    // SAFETY: the caller's child makes system calls only.
    Ok(unsafe { nix::unistd::fork() }?)
}

/// In the child: starts a session, closes the standard streams and every descriptor except the two
/// for it. System calls only.
fn place(channel: RawFd, other: Option<RawFd>) -> Result<(), Errno> {
    let root = c"/".as_ptr();
    let null = c"/dev/null".as_ptr();
    let last = if other.is_some() { INIT } else { libc::STDERR_FILENO };
    // SAFETY: system calls on numbers and constant strings; this process may close all of its
    // descriptors.
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
