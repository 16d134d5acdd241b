//! What a guest's backup does not contain of its containers: data on volumes that vzdump skips, and
//! engines whose own directories are there.

use std::time::Instant;

use super::plan::Plan;
use crate::engine::{CONTAINERD, Container, Engine, Engines, Error, Info, at_once};
use crate::guest::{Guest, LeftOut, Volumes};
use crate::run::Step;
use crate::sys::text::{count, printable};

/// How many bytes of paths of all containers of a guest are kept: its run must fit into a file of
/// 16 MiB.
const ROOM: usize = 4 << 20;

/// How many containers a reason names; the journal names them all.
const MOST_NAMED: usize = 20;

/// Follows the links in the guest to the data of these containers; returns a note for the admin if
/// that fails.
pub fn follow_links(
    volumes: &mut Volumes,
    guest: &Guest,
    containers: &[Container],
) -> Option<String> {
    let data = containers.iter().flat_map(|container| &container.data);
    // Docker resolves the links of its own directory itself.
    volumes.follow(guest, data.map(|data| data.path.as_str()).chain([CONTAINERD]))
}

/// The paths of containers that are not in the backup, up to the limit.
pub struct Paths<'a> {
    volumes: &'a Volumes,
    room: usize,
    /// There are more than are named.
    pub cut: bool,
}

impl Paths<'_> {
    /// For a guest with these volumes.
    pub fn new(volumes: &Volumes) -> Paths<'_> {
        Paths { volumes, room: ROOM, cut: false }
    }

    /// Paths of a container's data that are not in the backup, each once.
    pub fn of(&mut self, container: &Container) -> Vec<String> {
        let mut paths: Vec<String> = Vec::new();
        for path in container.data.iter().flat_map(|data| self.volumes.left_out_of(data)) {
            if paths.contains(&path) {
                continue;
            }
            match self.room.checked_sub(path.len()) {
                Some(room) => {
                    self.room = room;
                    paths.push(path);
                }
                None => self.cut = true,
            }
        }
        paths
    }
}

/// The directories in which an engine keeps its containers, and the parts of them, that are not in the backup, and why.
pub fn engine_left_out<'a>(info: &Info, volumes: &'a Volumes) -> Vec<(String, LeftOut<'a>)> {
    let why = |directory: &str| {
        let real = volumes.real(directory);
        volumes.left_out(real).or_else(|| in_memory(volumes, real))
    };
    let mut missing = Vec::new();
    for directory in info.directories() {
        if let Some(why) = why(directory) {
            missing.push((directory.to_string(), why));
            continue;
        }
        let parts = Info::parts(directory);
        missing.extend(parts.filter_map(|part| why(&part).map(|why| (part, why))));
    }
    missing
}

/// Of data on a tmpfs nobody expects to find it again; an engine's containers are expected.
fn in_memory<'a>(volumes: &'a Volumes, path: &str) -> Option<LeftOut<'a>> {
    let (point, mounted) = volumes.mounts().at(path)?;
    matches!(mounted.kind.as_str(), "tmpfs" | "ramfs").then_some(LeftOut::Mounted(point, mounted))
}

impl Plan {
    /// Asks all engines where they keep their containers, and adds the answers to the plan.
    pub fn see_engines(&mut self, engines: &Engines, volumes: &Volumes, deadline: Instant) {
        let reachable: Vec<Engine> = engines.reachable().cloned().collect();
        let answers = at_once(&reachable, |engine| engine.info(deadline));
        for (engine, info) in reachable.iter().zip(answers) {
            self.see_engine(engine.socket(), info.as_ref(), volumes);
        }
    }

    /// Adds to the plan where the engine with this socket keeps its containers, if that is not in
    /// the backup: then none of them is.
    fn see_engine(&mut self, socket: &str, info: Result<&Info, &Error>, volumes: &Volumes) {
        let is_its = |step: &Step| step.engine == socket;
        let any = self.steps.iter().any(is_its);
        let info = match info {
            Ok(info) => info,
            // If the engine does not list its containers either, that is already reported.
            Err(_) if !any => return,
            Err(error) => {
                self.notes.push(format!(
                    "cannot determine whether the backup holds the containers of the engine at {socket}: it does not \
                     tell where it keeps them: {error}"
                ));
                return;
            }
        };
        let missing = engine_left_out(info, volumes);
        let Some((directory, why)) = missing.first() else { return };
        let why = match why {
            LeftOut::MountPoint(point) => format!("mount point {point}"),
            LeftOut::Mounted(point, mounted) => {
                format!("{} mounted on {point}", printable(&mounted.kind, 60))
            }
        };
        if !any && info.containers == 0 {
            return;
        }
        let why = format!(
            "{}, where the engine keeps its containers, is not in the backup ({}): {}",
            printable(directory, 200),
            printable(&why, 200),
            self.affected(socket, info.containers)
        );
        self.incomplete = Some(match self.incomplete.take() {
            Some(others) => format!("{others}; {why}"),
            None => why,
        });
        for step in self.steps.iter_mut().filter(|step| is_its(step)) {
            for (directory, _) in &missing {
                if !step.not_in_backup.contains(directory) {
                    step.not_in_backup.push(directory.clone());
                }
            }
        }
    }

    /// The running containers of an engine by name, or if there are none, how many it has.
    fn affected(&self, socket: &str, all: u64) -> String {
        let names: Vec<String> = self
            .steps
            .iter()
            .filter(|step| step.engine == socket)
            .map(|step| printable(&step.name, 80))
            .collect();
        if names.is_empty() {
            let all = count(usize::try_from(all).unwrap_or(usize::MAX), "container");
            return format!("{all}, none of them running");
        }
        match names.get(..MOST_NAMED) {
            Some(some) if names.len() > MOST_NAMED => {
                format!("{} and {} more", some.join(", "), names.len() - MOST_NAMED)
            }
            _ => names.join(", "),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;
    use crate::guest::Mounts;
    use crate::pve::Config;
    use crate::run::QuiescedContainer;
    use crate::vzdump::Vmid;
    use serde_json::json;

    const DOCKER: &str = r#"{"DockerRootDir":"/var/lib/docker","Containers":3}"#;
    const SNAPSHOTTER: &str = r#"{"DockerRootDir":"/var/lib/docker","Containers":3,
        "DriverStatus":[["driver-type","io.containerd.snapshotter.v1"]],
        "Containerd":{"Address":"/run/containerd/containerd.sock"}}"#;

    fn seen(info: &str, config: &str, mounts: &str) -> Plan {
        let volumes = Volumes::new(Some(Config::parse(config)), Mounts::parse(mounts));
        let mut plan = crate::quiesce::plan(Vmid(1), &[], &Settings::default(), &volumes);
        plan.see_engine("/run/docker.sock", Ok(&Info::parse(info.as_bytes()).unwrap()), &volumes);
        plan
    }

    #[test]
    fn an_engine_whose_directory_is_not_in_the_backup_is_seen() {
        let missing = |info, config, mounts| seen(info, config, mounts).incomplete;
        let point = "mp0: local:a,mp=/var/lib/docker\n";
        assert_eq!(
            missing(DOCKER, point, "").as_deref(),
            Some(
                "/var/lib/docker, where the engine keeps its containers, is not in the backup (mount point \
                 /var/lib/docker): 3 containers, none of them running"
            )
        );
        let nfs = "1 0 0:1 / / rw - ext4 /dev/x rw\n2 1 0:2 / /var/lib rw - nfs4 nas:/d rw\n";
        assert!(missing(DOCKER, "", nfs).unwrap().contains("(nfs4 mounted on /var/lib)"));
        assert_eq!(missing(DOCKER, "mp0: local:a,mp=/var/lib/docker,backup=1\n", ""), None);
        let containerd = "mp0: local:a,mp=/var/lib/containerd\n";
        assert!(missing(SNAPSHOTTER, containerd, "").is_some());
        assert_eq!(missing(DOCKER, containerd, ""), None, "its images lie in its own directory");
        assert_eq!(missing(r#"{"DockerRootDir":"/var/lib/docker"}"#, point, ""), None);
    }

    #[test]
    fn an_engine_that_does_not_tell_is_told_of_where_it_has_containers() {
        let error = Error::Failed("no answer".to_string());
        let step = |engine: &str| -> Step {
            let known = json!({
                "id": "a", "engine": engine, "name": "db", "project": null, "service": null,
                "action": "stop", "started_at": "", "after": [],
            });
            Step::from(serde_json::from_value::<QuiescedContainer>(known).unwrap())
        };
        let mut plan = Plan { steps: vec![step("/run/docker.sock")], ..Plan::default() };
        plan.see_engine("/run/podman/podman.sock", Err(&error), &Volumes::default());
        assert_eq!(plan.notes, Vec::<String>::new());
        plan.see_engine("/run/docker.sock", Err(&error), &Volumes::default());
        assert!(plan.incomplete.is_none() && plan.notes[0].contains("cannot determine"));
        let point = Config::parse("mp0: local:a,mp=/var/lib/docker\n");
        let info = Info::parse(DOCKER.as_bytes()).unwrap();
        plan.steps.push(step("/run/podman/podman.sock"));
        let volumes = Volumes::new(Some(point), Mounts::default());
        plan.see_engine("/run/docker.sock", Ok(&info), &volumes);
        assert_eq!(plan.steps[0].not_in_backup, ["/var/lib/docker"]);
        assert_eq!(plan.steps[1].not_in_backup, Vec::<String>::new(), "another engine's");
    }
}
