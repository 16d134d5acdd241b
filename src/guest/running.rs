use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use std::{fs, io};

use anyhow::{Context, Result, bail};
use chrono::{DateTime, Utc};

use super::cgroup::{self, Freezer};
use super::processes::{Processes, Source};
use crate::pve::lxc::{self, IdMap};
use crate::sys::look::{Place, Watched};
use crate::sys::process::{Pidfd, Process};
use crate::sys::tree::Tree;
use crate::sys::{Root, clock, program};
use crate::vzdump::Vmid;

/// lxc-info asks the guest's monitor, which answers in milliseconds even if the guest is frozen.
const LXC_INFO_LIMIT: Duration = Duration::from_secs(5);

/// Whether a guest runs.
pub enum State {
    Stopped,
    /// It has an init process, which may be frozen.
    Running(Guest),
}

/// A running LXC guest: the file system that its init sees, its freezer and its processes. Only the
/// kernel's own `/proc` and `/sys` are read until a file is requested.
pub struct Guest {
    /// The root of the guest's init.
    pub tree: Tree,
    /// Identifies the guest's start: different after each start, and always the same text for the
    /// same start.
    pub boot: String,
    freezer: Freezer,
    processes: Source,
    /// When its init was started, on the boot clock in ms; `None` on a simulated node.
    started_ms: Option<u64>,
}

impl State {
    /// Finds the guest's init. An error means that the state is unknown, not that the guest is
    /// stopped.
    pub fn of(root: &Root, vmid: Vmid) -> Result<State> {
        #[cfg(test)]
        if let Some(walk) = crate::sys::walk::current() {
            return Ok(match walk.guest() {
                Some(_) => State::Running(Guest::in_directory(root, root.path("/guest"), vmid)),
                None => State::Stopped,
            });
        }
        match root.directory() {
            Some(directory) => Ok(in_directory(root, directory, vmid)),
            None => in_lxc(root, vmid),
        }
    }

    /// Whether it runs.
    pub fn is_running(&self) -> bool {
        matches!(self, State::Running(_))
    }
}

impl Guest {
    fn in_directory(root: &Root, guest: PathBuf, vmid: Vmid) -> Guest {
        let place = Place::Directory(guest.join("root"));
        let boot = fs::metadata(guest.join("running")).map_or(String::new(), |marker| {
            format!("{}:{}:{}", marker.ino(), marker.mtime(), marker.mtime_nsec())
        });
        Guest {
            tree: Tree::new(place, None, watched(root, vmid), &boot),
            boot,
            freezer: Freezer::of_marker(guest.join("frozen")),
            processes: Source::File(guest.join("processes")),
            started_ms: None,
        }
    }

    /// Whether the guest is frozen or being frozen: then nothing in it answers.
    pub fn is_frozen(&self) -> bool {
        #[cfg(test)]
        if let Some(walk) = crate::sys::walk::current() {
            return walk.guest() == Some(true);
        }
        self.freezer.is_frozen()
    }

    /// The engines, monitors of containers and compose clients that run in it.
    ///
    /// # Errors
    /// If they cannot be determined.
    pub fn processes(&self) -> io::Result<Processes> {
        self.processes.read()
    }

    /// When it was started, by the node's clock; `None` if that is unknown.
    pub fn started(&self) -> Option<DateTime<Utc>> {
        self.started_ms.map(clock::time_at)
    }

    /// Thaws what `lxc-unfreeze` leaves frozen: on PVE 9 LXC's monitor freezes the guest for
    /// vzdump, but LXC's state stays RUNNING, so `lxc-unfreeze` does nothing (FACTS-PVE.md,
    /// Freeze).
    ///
    /// # Errors
    /// If a file of its control groups cannot be written.
    pub fn thaw(&self) -> io::Result<()> {
        self.freezer.thaw()
    }
}

/// A guest of a simulated node, see tests/README.md.
fn in_directory(root: &Root, directory: &Path, vmid: Vmid) -> State {
    let guest = directory.join("guests").join(vmid.to_string());
    if !guest.join("running").exists() {
        return State::Stopped;
    }
    State::Running(Guest::in_directory(root, guest, vmid))
}

fn watched(root: &Root, vmid: Vmid) -> Watched {
    let advice = format!(
        "The usual cause is a FUSE mount in the guest whose program hangs: end that program, or restart the guest: \
         pct stop {vmid} && pct start {vmid}"
    );
    let name = format!("the file system of guest {vmid}");
    Watched::new(root, &format!("guest-{vmid}"), &name, &advice)
}

fn in_lxc(root: &Root, vmid: Vmid) -> Result<State> {
    // lxc-info also fails for a name that LXC does not know; a guest that never ran has no such
    // directory.
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
            opened(root, vmid, pid)
        }
    }
}

/// Checks that the pid is the init of this guest: after lxc-info has answered, the pid may be
/// reused, even by a process of the node itself; and any user of the node can answer for a guest
/// that does not run.
fn opened(root: &Root, vmid: Vmid, pid: i32) -> Result<State> {
    let Ok(pidfd) = Pidfd::open(pid) else { return Ok(State::Stopped) };
    let gathered = Init::of(pid);
    // It lives now, so it was this very process all the time.
    if pidfd.ended_within(Duration::ZERO) {
        return Ok(State::Stopped);
    }
    let init = gathered.with_context(|| format!("init of guest {vmid}"))?;
    init.check(root, vmid)
        .with_context(|| format!("process {pid} is not the init of guest {vmid}"))?;
    let started_ms = clock::ms_of_ticks(init.process.started);
    let processes = Source::of(&init.cgroups, watched_processes(root, vmid, &init.process), vmid);
    let boot = format!("{}:{}:{}", init.process.boot, init.process.pid, init.process.started);
    let watched = watched(root, vmid).of_init(init.process);
    let place = Place::Init { pid, users: init.ids.map(IdMap::into_users).unwrap_or_default() };
    Ok(State::Running(Guest {
        tree: Tree::new(place, Some(pidfd.into()), watched, &format!("{boot}:{}", init.root)),
        boot,
        freezer: Freezer::of(&init.cgroups, vmid),
        processes,
        started_ms,
    }))
}

/// The list of a guest's processes includes their command lines, which are read from their memory,
/// and that may be backed by a file of the guest.
fn watched_processes(root: &Root, vmid: Vmid, init: &Process) -> Watched {
    let name = format!("the list of processes of guest {vmid}");
    let advice = format!("Restart the guest: pct stop {vmid} && pct start {vmid}");
    let key = format!("guest-{vmid}-processes");
    Watched::new(root, &key, &name, &advice).of_init(init.clone())
}

/// The kernel's data about a process that may be a guest's init. The guest can neither change it
/// nor make reading it hang.
struct Init {
    process: Process,
    cgroups: String,
    /// The path of its root, which changes if it enters another root.
    root: String,
    mounts: PathBuf,
    users: PathBuf,
    ids: Option<IdMap>,
}

impl Init {
    fn of(pid: i32) -> io::Result<Init> {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        let read = |name: &str| fs::read_to_string(proc.join(name));
        Ok(Init {
            process: Process::find(pid)?,
            cgroups: read("cgroup")?,
            root: fs::read_link(proc.join("root"))?.display().to_string(),
            mounts: fs::read_link(proc.join("ns/mnt"))?,
            users: fs::read_link(proc.join("ns/user"))?,
            ids: IdMap::of_process(&read("uid_map")?, &read("gid_map")?),
        })
    }

    fn check(&self, root: &Root, vmid: Vmid) -> Result<()> {
        if !self.cgroups.lines().any(|line| belongs_to(line, vmid)) {
            bail!("it is in another control group");
        }
        if self.mounts == own("mnt")? {
            bail!("it is in the mount namespace of the node");
        }
        let name = lxc::path(root, vmid).display().to_string();
        let config = lxc::read(root, vmid).context(name.clone())?;
        let config = config.with_context(|| format!("{name} is missing"))?;
        let asked = IdMap::asked_for(&config).with_context(|| format!("{name}: lxc.idmap"))?;
        let has_them = match asked.is_none() {
            true => self.users == own("user")?,
            false => self.ids.as_ref() == Some(&asked),
        };
        if !has_them {
            bail!("its users are not those that {name} asks for (lxc.idmap)");
        }
        Ok(())
    }
}

fn own(namespace: &str) -> Result<PathBuf> {
    let path = format!("/proc/self/ns/{namespace}");
    fs::read_link(&path).context(path)
}

/// Whether a line of `/proc/PID/cgroup` belongs to a process of this guest.
fn belongs_to(line: &str, vmid: Vmid) -> bool {
    line.splitn(3, ':').nth(2).is_some_and(|path| cgroup::of_guest(path, vmid).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_of_the_node_is_never_taken_for_a_guest() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(opened(&Root::from_env(), Vmid(9001), own).is_err());
    }
}
