use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::sys::process::Pidfd;
use crate::sys::tree::Tree;
use crate::sys::{Root, program};
use crate::vzdump::Vmid;

/// lxc-info asks the guest's monitor, which answers in milliseconds also when the guest is frozen.
const LXC_INFO_LIMIT: Duration = Duration::from_secs(5);

/// Whether a guest runs.
pub enum State {
    Stopped,
    /// It has an init process, which may be frozen.
    Running(Guest),
}

/// A container that runs: its file system as its init sees it, and its freezer.
pub struct Guest {
    /// The root of the guest's init.
    pub tree: Tree,
    freezer: Vec<Freezer>,
}

/// A file that tells whether the guest is frozen.
struct Freezer {
    path: PathBuf,
    frozen: fn(&str) -> bool,
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
        self.freezer.iter().any(|freezer| {
            fs::read_to_string(&freezer.path).is_ok_and(|text| (freezer.frozen)(&text))
        })
    }
}

/// The contract of a node in a directory, see tests/README.md.
fn in_directory(directory: &Path, vmid: Vmid) -> Result<State> {
    let guest = directory.join("guests").join(vmid.to_string());
    if !guest.join("running").exists() {
        return Ok(State::Stopped);
    }
    let tree = Tree::open(&guest.join("root")).with_context(|| format!("root of guest {vmid}"))?;
    let freezer = vec![Freezer { path: guest.join("frozen"), frozen: |_| true }];
    Ok(State::Running(Guest { tree, freezer }))
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
        Ok::<_, std::io::Error>((cgroups, tree, namespace))
    })();
    // Alive now, so it was this very process all the while.
    if pidfd.ended_within(Duration::ZERO) {
        return Ok(State::Stopped);
    }
    let (cgroups, tree, namespace) = gathered.with_context(|| format!("init of guest {vmid}"))?;
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
    Ok(State::Running(Guest { tree, freezer: freezers(&cgroups) }))
}

/// Whether a line of `/proc/PID/cgroup` is that of a process in this guest: `lxc/VMID` on PVE,
/// `lxc.payload.VMID` as LXC names it by itself, and `lxc.payload.VMID-N` where one that was killed has left its own.
fn belongs_to(line: &str, vmid: Vmid) -> bool {
    let Some(path) = line.splitn(3, ':').nth(2) else { return false };
    let components: Vec<&str> = path.split('/').collect();
    let (number, payload) = (vmid.to_string(), format!("lxc.payload.{vmid}"));
    let is_payload = |component: &str| match component.strip_prefix(&payload) {
        Some("") => true,
        Some(rest) => rest.strip_prefix('-').is_some_and(|n| n.parse::<u32>().is_ok()),
        None => false,
    };
    components.iter().any(|component| is_payload(component))
        || components
            .windows(2)
            .any(|pair| matches!(pair[0], "lxc" | "lxc.payload") && pair[1] == number)
}

/// The freezer files of a process, as far as this node has them: a frozen ancestor shows in them too.
fn freezers(cgroups: &str) -> Vec<Freezer> {
    let mut found = Vec::new();
    for line in cgroups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let path = path.trim_start_matches('/');
        if controllers.is_empty() {
            for mount in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
                found.push(Freezer {
                    path: Path::new(mount).join(path).join("cgroup.events"),
                    frozen: |text| text.lines().any(|line| line == "frozen 1"),
                });
            }
        } else if controllers.split(',').any(|controller| controller == "freezer") {
            found.push(Freezer {
                path: Path::new("/sys/fs/cgroup/freezer").join(path).join("freezer.state"),
                frozen: |text| matches!(text.trim(), "FROZEN" | "FREEZING"),
            });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_belongs_to_the_guest_its_cgroup_names() {
        for line in [
            "0::/lxc/9001/ns/init.scope",
            "0::/lxc/9001",
            "4:freezer:/lxc/9001/ns",
            "0::/lxc.payload.9001/init.scope",
            "0::/lxc.payload/9001/init.scope",
            "0::/lxc.payload.9001-1/init.scope",
            "6:freezer:/lxc.payload.9001-12",
        ] {
            assert!(belongs_to(line, Vmid(9001)), "{line}");
        }
        for line in [
            "0::/system.slice/docker.service",
            "0::/lxc/900/ns",
            "0::/lxc/90011/ns",
            "0::/lxc.monitor.9001",
            "0::/lxc/101/ns/lxc.payload.900",
            "0::/lxc.payload.90011-1",
            "0::/lxc.payload.9001-",
            "0::/lxc.payload.9001-old",
            "0::/",
            "",
        ] {
            assert!(!belongs_to(line, Vmid(9001)), "{line}");
        }
    }

    #[test]
    fn a_process_of_the_node_is_never_taken_for_a_guest() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(opened(Vmid(9001), own).is_err());
    }

    #[test]
    fn both_freezers_are_known() {
        let found = freezers("4:freezer:/lxc/9001\n0::/lxc/9001/ns\n");
        assert_eq!(found.len(), 3);
        assert!((found[0].frozen)("FROZEN\n") && !(found[0].frozen)("THAWED\n"));
        assert!((found[1].frozen)("populated 1\nfrozen 1\n"));
        assert!(!(found[1].frozen)("populated 1\nfrozen 0\n"));
    }
}
