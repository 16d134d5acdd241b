//! A control group of its own at the top of the hierarchy, for the looking process. When systemd
//! stops a unit, it waits for every process in the unit's group; it ignores groups that it has not
//! made, such as those of LXC.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

const NAME: &str = "stillpoint-look";

/// cgroup v2 alone, or beside v1.
const V2: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// The hierarchy in which systemd tracks its processes if v1 is in use.
const V1: &str = "/sys/fs/cgroup/systemd";

/// The group in cgroup v2, to start a process in; `None` if there is none.
pub fn open() -> Option<File> {
    let mount = V2.map(Path::new).into_iter().find(|mount| is_hierarchy(mount))?;
    File::open(made_below(mount).ok()?).ok()
}

/// Moves a hanging process there, out of its present group. If that fails, a systemd unit that is
/// stopped waits for it once, with systemd's own limit.
pub fn take(pid: i32) {
    for mount in V2.into_iter().chain([V1]).map(Path::new).filter(|mount| is_hierarchy(mount)) {
        let moved = made_below(mount)
            .and_then(|group| fs::write(group.join("cgroup.procs"), pid.to_string()));
        drop(moved);
    }
}

fn is_hierarchy(mount: &Path) -> bool {
    mount.join("cgroup.procs").exists()
}

fn made_below(mount: &Path) -> io::Result<std::path::PathBuf> {
    let group = mount.join(NAME);
    match DirBuilder::new().mode(0o755).create(&group) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(group),
    }
}
