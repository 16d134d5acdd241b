//! Processes identified so that a reused pid is never mistaken for the old process.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};

use super::clock;

/// One process: its pid, when it started and in which boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// The process id in the node's pid namespace.
    pub pid: i32,
    /// Start time in clock ticks since boot (field 22 of `/proc/PID/stat`).
    pub started: u64,
    /// The boot in which it ran; pids and ticks start again with the next boot.
    pub boot: String,
}

impl Process {
    /// The process that has this pid now.
    pub fn find(pid: i32) -> io::Result<Process> {
        Ok(Process { pid, started: stat(pid)?.started, boot: clock::boot_id() })
    }

    /// The caller's parent. An error if the parent has died: PID 1, or a process of another session
    /// that has adopted us, is not our caller.
    pub fn parent() -> io::Result<Process> {
        let pid = nix::unistd::getppid();
        let parent = Process::find(pid.as_raw())?;
        let own = std::process::id().cast_signed();
        let session = session_of(own)?;
        let adopted = session != own && session != session_of(pid.as_raw())?;
        if pid.as_raw() == 1 || adopted || nix::unistd::getppid() != pid {
            return Err(orphaned());
        }
        Ok(parent)
    }

    /// Whether this very process still runs; a zombie counts as dead.
    pub fn alive(&self) -> bool {
        #[cfg(test)]
        if let Some(walk) = crate::sys::walk::current() {
            return self.boot == walk.boot() && walk.alive(self.pid);
        }
        self.boot == clock::boot_id()
            && stat(self.pid).is_ok_and(|now| now.started == self.started && !now.dead)
    }

    /// Whether it ran in this boot of the node.
    pub fn is_of_this_boot(&self) -> bool {
        self.boot == clock::boot_id()
    }

    /// A handle to wait for the process's end; `None` if it has ended already, or if no handle can
    /// be opened.
    pub fn watch(&self) -> Option<Pidfd> {
        #[cfg(test)]
        if super::walk::current().is_some() {
            return None;
        }
        let pidfd = Pidfd::open(self.pid).ok()?;
        // Checked after opening: now the descriptor belongs to this process, or the process is
        // gone.
        self.alive().then_some(pidfd)
    }
}

/// A pidfd: it still means the same process after the pid is reused.
pub struct Pidfd(OwnedFd);

impl Pidfd {
    /// Opens the process that has `pid` now.
    pub fn open(pid: i32) -> io::Result<Pidfd> {
        // SAFETY: pidfd_open takes a pid and flags and returns a new descriptor or -1.
        let fd = unsafe { nix::libc::syscall(nix::libc::SYS_pidfd_open, pid, 0) };
        let fd = Errno::result(fd)?;
        let fd = i32::try_from(fd).map_err(io::Error::other)?;
        // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
        Ok(Pidfd(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Waits at most `limit` for the end of the process; returns whether it has ended.
    pub fn ended_within(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, timeout) {
                Ok(0) | Err(Errno::EINTR) if Instant::now() < deadline => {}
                Ok(ready) => return ready > 0,
                Err(_) => return false,
            }
        }
    }
}

impl From<Pidfd> for OwnedFd {
    fn from(pidfd: Pidfd) -> OwnedFd {
        pidfd.0
    }
}

impl AsRawFd for Pidfd {
    fn as_raw_fd(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

struct Stat {
    dead: bool,
    parent: i32,
    session: i32,
    started: u64,
}

/// The fields of `/proc/PID/stat` that are used here; the command name in it may contain any
/// character.
fn stat(pid: i32) -> io::Result<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse_stat(&text).ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat is not understood")))
}

fn parse_stat(text: &str) -> Option<Stat> {
    let mut fields = text[text.rfind(')')? + 1..].split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let session = fields.nth(1)?.parse().ok()?;
    let started = fields.nth(15)?.parse().ok()?;
    Some(Stat { dead: matches!(state, "Z" | "X"), parent, session, started })
}

/// Protects this process's memory from now on: no core dumps, and no other process except root's
/// may trace it.
pub fn keep_memory_private() -> io::Result<()> {
    Ok(nix::sys::prctl::set_dumpable(false)?)
}

/// The error of a process whose parent is gone.
pub fn orphaned() -> io::Error {
    io::Error::other("it has died")
}

/// The parent of a process.
pub fn parent_of(pid: i32) -> io::Result<i32> {
    stat(pid).map(|stat| stat.parent)
}

/// The session a process belongs to.
pub fn session_of(pid: i32) -> io::Result<i32> {
    stat(pid).map(|stat| stat.session)
}

/// The living processes of a session.
pub fn session_members(session: i32) -> io::Result<Vec<i32>> {
    let mut members = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        // A process that has ended since the directory was read is no member.
        if stat(pid).is_ok_and(|stat| stat.session == session && !stat.dead) {
            members.push(pid);
        }
    }
    Ok(members)
}

/// The arguments of a process, bad UTF-8 replaced.
pub fn arguments(pid: i32) -> io::Result<Vec<String>> {
    let bytes = super::file::read(format!("/proc/{pid}/cmdline").as_ref(), 1 << 20)?;
    Ok(bytes
        .split(|byte| *byte == 0)
        .filter(|argument| !argument.is_empty())
        .map(|argument| String::from_utf8_lossy(argument).into_owned())
        .collect())
}

/// Whether a process belongs wholly to that user: its real, effective, saved and file system ids.
/// With a set-user-ID program the real id is still the caller's.
pub fn is_of_user(pid: i32, uid: u32) -> io::Result<bool> {
    // Not the owner of /proc/PID: that is root for every process that is not dumpable.
    let bytes = super::file::read(format!("/proc/{pid}/status").as_ref(), 1 << 16)?;
    let status = String::from_utf8_lossy(&bytes);
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
    let ids: Vec<&str> = ids.split_ascii_whitespace().collect();
    Ok(ids.len() == 4 && ids.iter().all(|id| id.parse() == Ok(uid)))
}

/// Whether a process is in our pid namespace: processes of guests are visible on the node too.
pub fn is_in_our_pid_namespace(pid: i32) -> io::Result<bool> {
    let its = fs::read_link(format!("/proc/{pid}/ns/pid"))?;
    Ok(its == fs::read_link("/proc/self/ns/pid")?)
}

/// The processes of the node that are wholly of that user and whose first argument begins with
/// `prefix`.
///
/// A command line is in the memory of its process, and a process in a guest can keep its memory
/// locked for ever: then a reader of the command line waits for ever. So only command lines of the
/// user's processes in our pid namespace are read.
pub fn with_title(prefix: &str, uid: u32) -> io::Result<Vec<(i32, String)>> {
    let ours = fs::read_link("/proc/self/ns/pid")?;
    let is_ours = |pid| fs::read_link(format!("/proc/{pid}/ns/pid")).is_ok_and(|its| its == ours);
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        if !is_ours(pid) || !is_of_user(pid, uid).unwrap_or(false) {
            continue;
        }
        // A process that has ended since the directory was read does not count.
        let title = arguments(pid).ok().and_then(|arguments| arguments.into_iter().next());
        found.extend(title.filter(|title| title.starts_with(prefix)).map(|title| (pid, title)));
    }
    Ok(found)
}

/// Whether something is mounted at a path that begins with `prefix`.
pub fn mounted(prefix: &str) -> io::Result<bool> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    Ok(mounts
        .lines()
        .any(|line| line.split(' ').nth(1).is_some_and(|path| path.starts_with(prefix))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt;

    #[test]
    fn a_command_name_can_hold_anything() {
        let text = "42 (a) R 1 (b) S 1 42 40 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 777 0 0";
        let stat = parse_stat(text).unwrap();
        assert_eq!((stat.session, stat.started, stat.dead), (40, 777, false));
        assert_eq!(stat.parent, 1);
    }

    #[test]
    fn a_process_of_another_user_or_pid_namespace_is_known() {
        let own = i32::try_from(std::process::id()).unwrap();
        let uid = nix::unistd::geteuid().as_raw();
        assert!(is_of_user(own, uid).unwrap() && is_in_our_pid_namespace(own).unwrap());
        assert!(!is_of_user(own, uid + 1).unwrap());
        if uid != 0 {
            return;
        }
        let mut nobody = std::process::Command::new("/bin/sleep");
        let mut nobody = nobody.arg("60").uid(65534).spawn().unwrap();
        assert!(!is_of_user(i32::try_from(nobody.id()).unwrap(), 0).unwrap());
        nobody.kill().unwrap();
        nobody.wait().unwrap();
        // The first process in the new namespace is the child of unshare; it reports when it runs.
        let mut elsewhere = std::process::Command::new("/usr/bin/unshare");
        elsewhere.args(["--pid", "--fork", "--kill-child", "/bin/sh", "-c", "echo; exec sleep 60"]);
        let mut elsewhere = elsewhere.stdout(std::process::Stdio::piped()).spawn().unwrap();
        let mut said = [0];
        let mut output = elsewhere.stdout.take().unwrap();
        if std::io::Read::read(&mut output, &mut said).unwrap() == 1 {
            let unshare = i32::try_from(elsewhere.id()).unwrap();
            let children = fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children"));
            let first = children.unwrap().trim().parse().unwrap();
            assert!(!is_in_our_pid_namespace(first).unwrap());
        }
        elsewhere.kill().unwrap();
        elsewhere.wait().unwrap();
    }

    #[test]
    fn a_process_is_not_its_successor() {
        let mut child = std::process::Command::new("/bin/sleep").arg("60").spawn().unwrap();
        let process = Process::find(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(process.alive());
        let watch = process.watch().unwrap();
        assert!(!watch.ended_within(Duration::from_millis(1)));
        let reused = Process { started: process.started + 1, ..process.clone() };
        assert!(!reused.alive());
        assert!(reused.watch().is_none());
        let rebooted = Process { boot: "other".into(), ..process.clone() };
        assert!(!rebooted.alive());
        child.kill().unwrap();
        assert!(watch.ended_within(Duration::from_secs(60)));
        // Not waited for yet: it is a zombie and runs nothing.
        assert!(!process.alive());
        child.wait().unwrap();
        assert!(process.watch().is_none());
    }
}
