use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use std::{fs, io};

use anyhow::{Context, Result, bail};
use chrono::{DateTime, Utc};

use super::cgroup::{self, Freezer};
use super::processes::{Processes, Source};
use crate::sys::process::{Pidfd, Process};
use crate::sys::tree::Tree;
use crate::sys::{Root, clock, program};
use crate::vzdump::Vmid;

/// lxc-info asks the guest's monitor, which answers in milliseconds also when the guest is frozen.
const LXC_INFO_LIMIT: Duration = Duration::from_secs(5);

/// Whether a guest runs.
pub enum State {
    Stopped,
    /// It has an init process, which may be frozen.
    Running(Guest),
}

/// A container that runs: its file system as its init sees it, its freezer and its processes.
pub struct Guest {
    /// The root of the guest's init.
    pub tree: Tree,
    freezer: Freezer,
    processes: Source,
    /// When its init was started, on the boot clock in ms; not known of a guest in a directory.
    started_ms: Option<u64>,
}

impl State {
    /// Looks for the guest's init. An error means that it can't be told, not that the guest is stopped.
    pub fn of(root: &Root, vmid: Vmid) -> Result<State> {
        match root.directory() {
            Some(directory) => in_directory(directory, vmid),
            None => in_lxc(root, vmid),
        }
    }

    /// Whether it runs.
    pub fn is_running(&self) -> bool {
        matches!(self, State::Running(_))
    }
}

impl Guest {
    /// Whether the guest is frozen or being frozen: nothing in it answers then.
    pub fn is_frozen(&self) -> bool {
        self.freezer.is_frozen()
    }

    /// The engines, the monitors of containers and the clients of compose that run in it.
    ///
    /// # Errors
    /// When that cannot be determined.
    pub fn processes(&self) -> io::Result<Processes> {
        self.processes.read()
    }

    /// When it was started, by the node's clock; `None` where that is not known.
    pub fn started(&self) -> Option<DateTime<Utc>> {
        self.started_ms.map(clock::time_at)
    }

    /// Thaws what LXC's own `lxc-unfreeze` leaves frozen: on PVE 9 LXC's monitor freezes the guest on vzdump's word, and
    /// its state stays RUNNING, for which `lxc-unfreeze` does nothing.
    ///
    /// # Errors
    /// When a file of its control groups can't be written.
    pub fn thaw(&self) -> io::Result<()> {
        self.freezer.thaw()
    }
}

/// The contract of a node in a directory, see tests/README.md.
fn in_directory(directory: &Path, vmid: Vmid) -> Result<State> {
    let guest = directory.join("guests").join(vmid.to_string());
    if !guest.join("running").exists() {
        return Ok(State::Stopped);
    }
    let tree = Tree::open(&guest.join("root")).with_context(|| format!("root of guest {vmid}"))?;
    Ok(State::Running(Guest {
        tree,
        freezer: Freezer::of_marker(guest.join("frozen")),
        processes: Source::File(guest.join("processes")),
        started_ms: None,
    }))
}

fn in_lxc(root: &Root, vmid: Vmid) -> Result<State> {
    // A name LXC does not know is an error of lxc-info's too; a guest that never ran has no such directory.
    let mut lxc_info = Command::new(root.path("/usr/bin/lxc-info"));
    lxc_info.args(["-n", &vmid.to_string(), "-p", "-H"]);
    let output = match program::run(&mut lxc_info, LXC_INFO_LIMIT) {
        Ok(output) => output,
        Err(_) if !root.path("/var/lib/lxc").join(vmid.to_string()).exists() => {
            return Ok(State::Stopped);
        }
        Err(error) => return Err(error.context(format!("lxc-info -n {vmid} -p -H"))),
    };
    match output.trim() {
        "" | "-1" => Ok(State::Stopped),
        pid => {
            let pid = pid.parse().with_context(|| format!("lxc-info names the pid '{pid}'"))?;
            opened(vmid, pid)
        }
    }
}

/// Opens the guest by its init's pid and makes sure that it is the guest's init that was opened: a pid can be
/// given to another process, of the node itself even, between lxc-info's answer and the opening.
fn opened(vmid: Vmid, pid: i32) -> Result<State> {
    let Ok(pidfd) = Pidfd::open(pid) else { return Ok(State::Stopped) };
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let gathered = (|| {
        let cgroups = fs::read_to_string(proc.join("cgroup"))?;
        let tree = Tree::open(&proc.join("root"))?;
        let namespace = fs::read_link(proc.join("ns/mnt"))?;
        let started = Process::find(pid)?.started;
        Ok::<_, std::io::Error>((cgroups, tree, namespace, started))
    })();
    // Alive now, so it was this very process all the while.
    if pidfd.ended_within(Duration::ZERO) {
        return Ok(State::Stopped);
    }
    let (cgroups, tree, namespace, started) =
        gathered.with_context(|| format!("init of guest {vmid}"))?;
    if !cgroups.lines().any(|line| belongs_to(line, vmid)) {
        bail!("process {pid} is not the init of guest {vmid}: its cgroup is another");
    }
    let host = fs::metadata("/").context("/")?;
    let root = tree.stat().with_context(|| format!("root of guest {vmid}"))?;
    if namespace == fs::read_link("/proc/self/ns/mnt").context("/proc/self/ns/mnt")?
        || (root.st_dev, root.st_ino) == (host.dev(), host.ino())
    {
        bail!("process {pid} is not the init of guest {vmid}: it sees the node's own files");
    }
    Ok(State::Running(Guest {
        tree,
        freezer: Freezer::of(&cgroups, vmid),
        processes: Source::of(&cgroups, vmid),
        started_ms: clock::ms_of_ticks(started),
    }))
}

/// Whether a line of `/proc/PID/cgroup` is that of a process in this guest.
fn belongs_to(line: &str, vmid: Vmid) -> bool {
    line.splitn(3, ':').nth(2).is_some_and(|path| cgroup::of_guest(path, vmid).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_of_the_node_is_never_taken_for_a_guest() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(opened(Vmid(9001), own).is_err());
    }
}
