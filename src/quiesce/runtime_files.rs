//! The files that decide whether a container starts: the programs of engine and runtime in the
//! guest, and the node's confinement of the guest. If one is replaced, earlier evidence of starts
//! no longer counts, even if every version is the same.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use crate::guest::Guest;
use crate::sys::Root;
use crate::sys::look::mark;

/// Where a guest has them, in the order in which they are looked for.
const DIRECTORIES: [&str; 4] = ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin"];

const PROGRAMS: [&str; 8] = [
    "dockerd",
    "containerd",
    "containerd-shim-runc-v2",
    "podman",
    "conmon",
    "netavark",
    "runc",
    "crun",
];

/// AppArmor's profile for guests, and its sources. A running guest keeps its profile until the
/// profile is loaded again, which a package does when it changes the file.
const CONFINEMENT: [&str; 3] =
    ["/etc/apparmor.d/lxc-containers", "/etc/apparmor.d/lxc", "/etc/apparmor.d/abstractions/lxc"];

/// A program of each package of the node that a running guest depends on: lxc-pve, lxcfs, apparmor.
/// An upgrade replaces it.
const NODE_PROGRAMS: [&str; 3] =
    ["/usr/bin/lxc-start", "/usr/bin/lxcfs", "/usr/sbin/apparmor_parser"];

/// A directory of profiles has three files.
const MOST_PROFILES: usize = 64;

/// A look takes less than a millisecond, unless the guest makes it hang.
const LIMIT: Duration = Duration::from_secs(2);

/// The identity of each of these files, for this runtime. If the guest does not answer, that is
/// recorded instead: evidence with known files does not count without them.
pub fn marks(root: &Root, guest: &Guest, runtime: &str) -> Vec<String> {
    #[cfg(test)]
    if crate::sys::walk::current().is_some() {
        return Vec::new();
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let own = Some(runtime).filter(|name| !PROGRAMS.contains(name) && name.chars().all(plain));
    let programs = PROGRAMS.into_iter().chain(own.filter(|name| !name.is_empty()));
    let paths = programs.flat_map(|program| DIRECTORIES.map(|place| format!("{place}/{program}")));
    let in_guest = guest.tree.within(LIMIT).marks(paths.collect());
    let mut marks = in_guest.unwrap_or_else(|_| vec!["the guest did not answer".to_string()]);
    for path in CONFINEMENT {
        marks.extend(of_node(root, path));
        let inside = fs::read_dir(root.path(path)).into_iter().flatten().flatten();
        let mut names: Vec<String> = inside
            .filter_map(|entry| entry.file_name().into_string().ok())
            .take(MOST_PROFILES)
            .collect();
        names.sort();
        marks.extend(names.iter().filter_map(|name| of_node(root, &format!("{path}/{name}"))));
    }
    marks.extend(NODE_PROGRAMS.into_iter().filter_map(|path| of_node(root, path)));
    marks
}

fn of_node(root: &Root, path: &str) -> Option<String> {
    let found = fs::metadata(root.path(path)).ok()?;
    let size = i64::try_from(found.size()).unwrap_or(i64::MAX);
    Some(mark(path, found.ino(), size, (found.mtime(), found.mtime_nsec())))
}
