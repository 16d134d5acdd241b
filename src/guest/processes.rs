//! The processes in a guest, seen from the node by the guest's control groups: without reading its
//! file system or asking anything in it.
//!
//! A guest can name its processes as it likes, so a decision by name may affect only that guest.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cgroup;
use crate::sys::bounded;
use crate::sys::look::Watched;
use crate::vzdump::Vmid;

/// A guest with some hundred containers has a few thousand processes and groups; each takes
/// microseconds to read.
const MOST_GROUPS: usize = 8192;
const MOST_PROCESSES: usize = 16_384;

/// How many bytes of a command line, and of a list of processes, are read.
const COMMAND_LIMIT: u64 = 4096;
const LIST_LIMIT: u64 = 1 << 20;

/// For all of a guest's processes: very many take a second.
const LIMIT: Duration = Duration::from_secs(10);

/// Engines, the monitors of their containers, and Docker's and Podman's clients, as the kernel
/// shortens a name (15 bytes). Other processes are not examined.
const NAMES: [&str; 5] = ["dockerd", "conmon", "containerd-shim", "docker", "podman"];

/// Clients of compose, which are also installed under longer names (`docker-compose-linux-x86_64`).
const CLIENTS: [&str; 2] = ["docker-compose", "podman-compose"];

/// The interpreter of compose clients that are scripts.
const INTERPRETER: &str = "python";

/// A process of a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its user, as an id of the node; `None` on a simulated node.
    pub uid: Option<u32>,
    /// The kernel's name for it: at most 15 bytes.
    pub name: String,
    /// Its arguments, beginning with the program's name; only the first 4096 bytes.
    pub command: Vec<String>,
    /// Its working directory, as a path below its own root.
    pub directory: Option<String>,
    /// It runs in a container of the guest.
    pub contained: bool,
}

/// The engines, their containers' monitors and the clients of compose in a guest.
#[derive(Clone, Debug, Default)]
pub struct Processes {
    pub list: Vec<Process>,
    /// On a simulated node (tests/README.md), an existing socket means that its engine runs.
    pub sockets_tell: bool,
}

/// Where a guest's processes are listed.
#[derive(Clone, Debug)]
pub enum Source {
    /// Its control group, in the first of these places that exists.
    Groups(Vec<PathBuf>, Box<Watched>),
    /// A file with one `PID COMMAND LINE` a line; it may be missing.
    File(PathBuf),
}

impl Process {
    /// Whether it is that program: by the kernel's name, or by its command line.
    pub fn is(&self, program: &str) -> bool {
        let first = self.command.first().map(|first| base(first));
        self.name == program || first == Some(program)
    }
}

impl Source {
    /// For the guest whose init has this `/proc/PID/cgroup`.
    pub fn of(cgroups: &str, watched: Watched, vmid: Vmid) -> Source {
        let mut groups = Vec::new();
        for line in cgroups.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
            let Some(group) = cgroup::of_guest(path, vmid) else { continue };
            let group = group.trim_start_matches('/');
            if controllers.is_empty() {
                groups.extend(cgroup::V2.map(|mount| Path::new(mount).join(group)));
            } else {
                let mount = controllers.trim_start_matches("name=");
                groups.push(Path::new("/sys/fs/cgroup").join(mount).join(group));
            }
        }
        Source::Groups(groups, Box::new(watched))
    }

    /// Reads the processes.
    ///
    /// # Errors
    /// If they cannot be determined: no control group is found, there are too many entries, or it
    /// takes too long.
    pub fn read(&self) -> io::Result<Processes> {
        match self {
            Source::File(path) => {
                let list = in_file(path)?;
                Ok(Processes { list, sockets_tell: true })
            }
            Source::Groups(groups, watched) => {
                let group = groups.iter().find(|group| group.is_dir()).cloned();
                let group =
                    group.ok_or_else(|| io::Error::other("its control group is not found"))?;
                let list = || below(&group).map_err(|error| error.to_string());
                let list = bounded::within(watched, LIMIT, list)?.map_err(io::Error::other)?;
                Ok(Processes { list, sockets_tell: false })
            }
        }
    }
}

/// The processes in a control group and below it.
fn below(group: &Path) -> io::Result<Vec<Process>> {
    let mut found = Vec::new();
    let mut left = vec![(group.to_path_buf(), false)];
    let (mut groups, mut pids) = (0, 0);
    while let Some((group, contained)) = left.pop() {
        groups += 1;
        if groups > MOST_GROUPS {
            return Err(io::Error::other(format!("it has more than {MOST_GROUPS} control groups")));
        }
        // A group that is gone meanwhile, or that has threads only, has no list.
        for pid in text(&group.join("cgroup.procs"), LIST_LIMIT).unwrap_or_default().lines() {
            pids += 1;
            if pids > MOST_PROCESSES {
                return Err(io::Error::other(format!(
                    "it has more than {MOST_PROCESSES} processes"
                )));
            }
            found.extend(pid.parse().ok().and_then(|pid| look(pid, contained)));
        }
        let Ok(entries) = fs::read_dir(&group) else { continue };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let contained =
                    contained || is_of_a_container(&entry.file_name().to_string_lossy());
                left.push((entry.path(), contained));
            }
        }
    }
    Ok(found)
}

/// Whether a control group belongs to a container within the guest: engines put the container's id
/// into its name. Podman also puts it into the name of the monitor's group, which does not count.
fn is_of_a_container(group: &str) -> bool {
    let has_id = || group.split(|c: char| !c.is_ascii_hexdigit()).any(|part| part.len() == 64);
    group.starts_with("lxc.payload") || !group.starts_with("libpod-conmon-") && has_id()
}

fn look(pid: i32, contained: bool) -> Option<Process> {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let name = text(&proc.join("comm"), 64).ok()?.trim_end().to_string();
    if !NAMES.iter().any(|known| name == *known)
        && !CLIENTS.iter().any(|client| name.starts_with(client))
        && !name.contains(INTERPRETER)
        && !name.starts_with('.')
    {
        return None;
    }
    let status = text(&proc.join("status"), COMMAND_LIMIT).ok()?;
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    let uid = uids.and_then(|uids| uids.split_ascii_whitespace().nth(1)?.parse().ok());
    let command = text(&proc.join("cmdline"), COMMAND_LIMIT).ok()?;
    let command = command.split_terminator('\0').map(String::from).collect();
    let directory = fs::read_link(proc.join("cwd")).ok();
    let directory = directory.and_then(|path| path.into_os_string().into_string().ok());
    Some(Process { uid, name, command, directory, contained })
}

fn in_file(path: &Path) -> io::Result<Vec<Process>> {
    let text = match text(path, LIST_LIMIT) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let process = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        words.next()?.parse::<u32>().ok()?;
        let command: Vec<String> = words.map(String::from).collect();
        let name = base(command.first()?).chars().take(15).collect();
        Some(Process { name, command, ..Process::default() })
    };
    Ok(text.lines().take(MOST_PROCESSES).filter_map(process).collect())
}

/// The first bytes of the file, with bad UTF-8 replaced.
fn text(path: &Path, limit: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::Root;

    #[test]
    fn what_runs_in_a_container_of_the_guest_is_told_from_what_runs_in_the_guest() {
        let id = "3b1f0c2d4e5f60718293a4b5c6d7e8f90123456789abcdef0123456789abcdef";
        for (group, contained) in [
            (format!("docker-{id}.scope"), true),
            (id.to_string(), true),
            (format!("libpod-{id}.scope"), true),
            (format!("libpod-payload-{id}"), true),
            (format!("libpod-conmon-{id}.scope"), false),
            ("docker.service".to_string(), false),
            ("lxc.payload.inner".to_string(), true),
            (format!("session-{}.scope", &id[..32]), false),
        ] {
            assert_eq!(is_of_a_container(&group), contained, "{group}");
        }
    }

    #[test]
    fn a_program_is_known_by_its_name_or_its_command_line() {
        let wrapped = Process {
            name: ".dockerd-wrappe".into(),
            command: vec!["/nix/store/x/bin/dockerd".into()],
            ..Process::default()
        };
        assert!(wrapped.is("dockerd") && !wrapped.is("conmon"));
        let dockerd = Process { name: "dockerd".into(), ..Process::default() };
        assert!(dockerd.is("dockerd"));
    }

    #[test]
    fn the_groups_of_both_versions_are_looked_for() {
        let cgroups = "12:name=systemd:/lxc/9001/ns/init.scope\n0::/lxc/9001/ns/init.scope\n";
        let watched = Watched::new(&Root::from_env(), "guest-9001", "it", "");
        let Source::Groups(groups, _) = Source::of(cgroups, watched, Vmid(9001)) else { panic!() };
        let groups: Vec<_> = groups.iter().map(|group| group.display().to_string()).collect();
        assert_eq!(
            groups,
            [
                "/sys/fs/cgroup/systemd/lxc/9001",
                "/sys/fs/cgroup/lxc/9001",
                "/sys/fs/cgroup/unified/lxc/9001"
            ]
        );
    }

    #[test]
    fn the_processes_of_a_group_are_found_on_this_machine() {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let path = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
        let group = Path::new("/sys/fs/cgroup").join(path.trim_start_matches('/'));
        // A machine without cgroup v2 has no such list.
        if group.join("cgroup.procs").exists() {
            assert!(below(&group).is_ok());
        }
    }
}
