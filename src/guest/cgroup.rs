//! A guest's control groups: which guest a process belongs to, and whether the guest is frozen.

use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::vzdump::Vmid;

/// Where a node has cgroup v2: alone, or beside v1.
pub const V2: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// The files that show whether a guest is frozen, and those that thaw it.
pub struct Freezer {
    signs: Vec<Sign>,
    switches: Vec<Switch>,
}

/// A file that shows whether the guest is frozen.
struct Sign {
    path: PathBuf,
    frozen: fn(&str) -> bool,
}

/// A file that thaws the guest.
struct Switch {
    path: PathBuf,
    thaw: fn(&Path) -> io::Result<()>,
}

impl Freezer {
    /// For the guest whose init has this `/proc/PID/cgroup`; only files that this node has.
    pub fn of(cgroups: &str, vmid: Vmid) -> Freezer {
        let (mut signs, mut switches) = (Vec::new(), Vec::new());
        for line in cgroups.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
            if controllers.is_empty() {
                for mount in V2.map(Path::new) {
                    // It also shows a frozen ancestor.
                    let sign = mount.join(relative(path)).join("cgroup.events");
                    signs.push(Sign { path: sign, frozen: |text| has_line(text, "frozen 1") });
                    let groups = frozen_by_others(path, vmid).into_iter();
                    switches.extend(groups.map(|group| Switch {
                        path: mount.join(relative(group)).join("cgroup.freeze"),
                        thaw: set_free,
                    }));
                }
            } else if controllers.split(',').any(|controller| controller == "freezer") {
                signs.push(Sign {
                    path: Path::new("/sys/fs/cgroup/freezer")
                        .join(relative(path))
                        .join("freezer.state"),
                    frozen: |text| matches!(text.trim(), "FROZEN" | "FREEZING"),
                });
            }
        }
        Freezer { signs, switches }
    }

    /// For a guest of a simulated node, which is frozen as long as this file exists.
    pub fn of_marker(marker: PathBuf) -> Freezer {
        let signs = vec![Sign { path: marker.clone(), frozen: |_| true }];
        Freezer {
            signs,
            switches: vec![Switch { path: marker, thaw: |path| fs::remove_file(path) }],
        }
    }

    pub fn is_frozen(&self) -> bool {
        self.signs
            .iter()
            .any(|sign| fs::read_to_string(&sign.path).is_ok_and(|text| (sign.frozen)(&text)))
    }

    /// Thaws what cgroup v2 has frozen; v1 is left to LXC.
    ///
    /// # Errors
    /// The first file that cannot be written.
    pub fn thaw(&self) -> io::Result<()> {
        for switch in self.switches.iter().filter(|switch| switch.path.exists()) {
            (switch.thaw)(&switch.path).map_err(|error| {
                io::Error::new(error.kind(), format!("{}: {error}", switch.path.display()))
            })?;
        }
        Ok(())
    }
}

/// The guest's control group in the path of a process's group, if it is in one: `/lxc/VMID` on PVE,
/// `/lxc.payload.VMID` as LXC names it by default, and `/lxc.payload.VMID-N` if a killed one has
/// left its group. Only at the top of the hierarchy: below a user's own part, that user can create
/// groups of any name.
pub fn of_guest(path: &str, vmid: Vmid) -> Option<&str> {
    let (number, payload) = (vmid.to_string(), format!("lxc.payload.{vmid}"));
    let is_payload = |component: &str| match component.strip_prefix(&payload) {
        Some("") => true,
        Some(rest) => rest.strip_prefix('-').is_some_and(|n| n.parse::<u32>().is_ok()),
        None => false,
    };
    let mut components = path.strip_prefix('/')?.split('/');
    let first = components.next()?;
    let length = if is_payload(first) {
        1 + first.len()
    } else if matches!(first, "lxc" | "lxc.payload") && components.next() == Some(&number) {
        1 + first.len() + 1 + number.len()
    } else {
        return None;
    };
    path.get(..length)
}

/// The groups that are frozen from outside: the guest's own, as `lxc-freeze` does it, and LXC's
/// group in it for the guest's processes (`ns`), as LXC's monitor does it for PVE. Groups below
/// belong to the guest.
fn frozen_by_others(path: &str, vmid: Vmid) -> Vec<&str> {
    let Some(outer) = of_guest(path, vmid) else { return Vec::new() };
    let inner = format!("{outer}/ns");
    let has_inner = path == inner || path.starts_with(&format!("{inner}/"));
    let inner = has_inner.then(|| path.get(..inner.len())).flatten();
    std::iter::once(outer).chain(inner).collect()
}

fn set_free(path: &Path) -> io::Result<()> {
    match fs::read_to_string(path)?.trim() {
        "1" => fs::write(path, "0"),
        _ => Ok(()),
    }
}

fn relative(path: &str) -> &str {
    path.trim_start_matches('/')
}

fn has_line(text: &str, wanted: &str) -> bool {
    text.lines().any(|line| line == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_belongs_to_the_guest_its_cgroup_names() {
        for (path, group) in [
            ("/lxc/9001/ns/init.scope", "/lxc/9001"),
            ("/lxc/9001", "/lxc/9001"),
            ("/lxc.payload.9001/init.scope", "/lxc.payload.9001"),
            ("/lxc.payload/9001/init.scope", "/lxc.payload/9001"),
            ("/lxc.payload.9001-1/init.scope", "/lxc.payload.9001-1"),
            ("/lxc.payload.9001-12", "/lxc.payload.9001-12"),
        ] {
            assert_eq!(of_guest(path, Vmid(9001)), Some(group), "{path}");
        }
        for path in [
            "/system.slice/docker.service",
            "/lxc/900/ns",
            "/lxc/90011/ns",
            "/lxc.monitor.9001",
            "/lxc/101/ns/lxc.payload.900",
            "/lxc/101/ns/lxc.payload.9001",
            "/lxc/101/lxc/9001",
            "/user.slice/user-1000.slice/user@1000.service/lxc/9001",
            "/user.slice/user-1000.slice/lxc.payload.9001",
            "/../lxc/9001",
            "lxc/9001",
            "/lxc.payload.90011-1",
            "/lxc.payload.9001-",
            "/lxc.payload.9001-old",
            "/",
            "",
        ] {
            assert_eq!(of_guest(path, Vmid(9001)), None, "{path}");
        }
    }

    #[test]
    fn both_freezers_are_known() {
        let found = Freezer::of("4:freezer:/lxc/9001\n0::/lxc/9001/ns\n", Vmid(9001)).signs;
        assert_eq!(found.len(), 3);
        assert!((found[0].frozen)("FROZEN\n") && !(found[0].frozen)("THAWED\n"));
        assert!((found[1].frozen)("populated 1\nfrozen 1\n"));
        assert!(!(found[1].frozen)("populated 1\nfrozen 0\n"));
    }

    #[test]
    fn a_guest_is_thawed_where_others_freeze_it_and_not_where_it_does_so_itself() {
        for (path, groups) in [
            ("/lxc/9001/ns/init.scope", vec!["/lxc/9001", "/lxc/9001/ns"]),
            ("/lxc/9001/ns", vec!["/lxc/9001", "/lxc/9001/ns"]),
            ("/lxc/9001/nsx/y", vec!["/lxc/9001"]),
            ("/lxc.payload.9001-1/init.scope", vec!["/lxc.payload.9001-1"]),
            ("/system.slice", vec![]),
        ] {
            assert_eq!(frozen_by_others(path, Vmid(9001)), groups, "{path}");
        }
        let found = Freezer::of("0::/lxc/9001/ns/init.scope\n", Vmid(9001)).switches;
        let paths: Vec<_> = found.iter().map(|switch| switch.path.display().to_string()).collect();
        assert_eq!(
            paths[..2],
            ["/sys/fs/cgroup/lxc/9001/cgroup.freeze", "/sys/fs/cgroup/lxc/9001/ns/cgroup.freeze"]
        );
        assert_eq!(paths.len(), 4);
    }
}
