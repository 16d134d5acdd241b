//! Whether an engine may be asked. Connecting to a socket that systemd holds starts its daemon, and
//! Docker's daemon starts every container with `restart: always`. So the guest's processes are
//! checked first.

use super::engines::Kind;
use crate::guest::{Process, Processes};

/// The process that holds a container of containerd; the kernel keeps no more of its name.
const SHIM: &str = "containerd-shim";

/// The containerd namespace of Docker's containers.
const NAMESPACE: &str = "moby";

/// The state of an engine whose socket exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It runs: asking it starts nothing.
    Runs,
    /// It does not run.
    Asleep,
    /// Its containers run, or may run, but it must not be asked; why.
    Unknown(String),
}

/// The user that an engine belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The user id of the guest's root, on the node.
    pub root: u32,
    /// The user who runs this rootless engine, on the node; `None` for an engine of the system.
    pub user: Option<u32>,
}

impl Owner {
    fn has(self, process: &Process) -> bool {
        !process.contained && process.uid == Some(self.user.unwrap_or(self.root))
    }
}

/// The state of the engine. Podman's socket starts a service, which starts no container; the
/// monitors (conmon) of its containers decide whether it is asked.
pub fn standing(kind: Kind, owner: Owner, processes: &Result<Processes, String>) -> Standing {
    let processes = match (processes, kind) {
        (Ok(processes), _) => processes,
        (Err(_), Kind::Podman) => return Standing::Runs,
        (Err(why), Kind::Docker) => {
            return Standing::Unknown(format!("cannot determine whether its daemon runs: {why}"));
        }
    };
    if processes.sockets_tell {
        return Standing::Runs;
    }
    let runs = |wanted: &dyn Fn(&Process) -> bool| {
        processes.list.iter().any(|process| owner.has(process) && wanted(process))
    };
    match kind {
        Kind::Podman if runs(&|process| process.is("conmon")) => Standing::Runs,
        Kind::Docker if runs(&|process| process.is("dockerd")) => Standing::Runs,
        Kind::Docker if runs(&is_shim) => {
            Standing::Unknown("its daemon does not run, but containers of it do".to_string())
        }
        Kind::Docker | Kind::Podman => Standing::Asleep,
    }
}

/// The process that holds a running container of Docker, even without the daemon.
fn is_shim(process: &Process) -> bool {
    process.name == SHIM && process.command.iter().any(|word| word == NAMESPACE)
}

/// Namespaces of containers that are no stack of the user: Docker's plugins, and builds.
const OTHER_NAMESPACES: [&str; 2] = ["plugins.moby", "buildkit"];

/// The containerd namespaces with running containers that belong to no engine known to Stillpoint
/// (nerdctl, Kubernetes), each once.
pub fn of_containerd(processes: &Processes) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for process in processes.list.iter().filter(|process| !process.contained) {
        if process.name != SHIM {
            continue;
        }
        let mut words = process.command.iter().skip_while(|word| *word != "-namespace");
        let Some(namespace) = words.nth(1) else { continue };
        let is_known = namespace == NAMESPACE || OTHER_NAMESPACES.contains(&namespace.as_str());
        if !is_known && !found.contains(namespace) {
            found.push(namespace.clone());
        }
    }
    found
}

/// The owners and kinds of engines that have something running.
pub fn at_work(root: u32, processes: &Processes) -> Vec<(Kind, Owner)> {
    let mut found = Vec::new();
    for process in processes.list.iter().filter(|process| !process.contained) {
        let kind = match () {
            () if process.is("dockerd") => Kind::Docker,
            () if process.is("conmon") => Kind::Podman,
            () => continue,
        };
        // Not known on a node in a directory.
        let uid = process.uid.unwrap_or(root);
        let owner = Owner { root, user: (uid != root).then_some(uid) };
        if !found.contains(&(kind, owner)) {
            found.push((kind, owner));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: u32 = 100_000;
    const SYSTEM: Owner = Owner { root: ROOT, user: None };
    const ALICE: Owner = Owner { root: ROOT, user: Some(101_000) };

    fn process(uid: u32, command: &str) -> Process {
        let command: Vec<String> = command.split(' ').map(String::from).collect();
        let name = command[0].chars().take(15).collect();
        Process { uid: Some(uid), name, command, ..Process::default() }
    }

    fn with(list: Vec<Process>) -> Result<Processes, String> {
        Ok(Processes { list, sockets_tell: false })
    }

    #[test]
    fn docker_is_asked_only_while_its_own_daemon_runs() {
        let dockerd = with(vec![process(ROOT, "dockerd -H fd://")]);
        assert_eq!(standing(Kind::Docker, SYSTEM, &dockerd), Standing::Runs);
        assert_eq!(standing(Kind::Docker, ALICE, &dockerd), Standing::Asleep);
        let of_alice = with(vec![process(101_000, "dockerd")]);
        assert_eq!(standing(Kind::Docker, SYSTEM, &of_alice), Standing::Asleep);
        assert_eq!(standing(Kind::Docker, ALICE, &of_alice), Standing::Runs);
        assert_eq!(standing(Kind::Docker, SYSTEM, &with(Vec::new())), Standing::Asleep);
    }

    #[test]
    fn a_daemon_in_a_container_is_not_the_guests() {
        let inner = Process { contained: true, ..process(ROOT, "dockerd") };
        assert_eq!(standing(Kind::Docker, SYSTEM, &with(vec![inner.clone()])), Standing::Asleep);
        assert!(at_work(ROOT, &with(vec![inner]).unwrap()).is_empty());
    }

    #[test]
    fn containers_that_run_without_their_daemon_are_not_at_rest() {
        let shim = process(ROOT, "containerd-shim-runc-v2 -namespace moby -id x");
        let Standing::Unknown(why) = standing(Kind::Docker, SYSTEM, &with(vec![shim])) else {
            panic!("it counts as asleep");
        };
        assert!(why.contains("containers of it do"), "{why}");
        let other = process(ROOT, "containerd-shim-runc-v2 -namespace k8s.io -id x");
        assert_eq!(standing(Kind::Docker, SYSTEM, &with(vec![other])), Standing::Asleep);
    }

    #[test]
    fn podman_is_asked_while_its_containers_run() {
        let conmon = with(vec![process(101_000, "conmon --api-version 1")]);
        assert_eq!(standing(Kind::Podman, ALICE, &conmon), Standing::Runs);
        assert_eq!(standing(Kind::Podman, SYSTEM, &conmon), Standing::Asleep);
        assert_eq!(at_work(ROOT, &conmon.unwrap()), [(Kind::Podman, ALICE)]);
    }

    #[test]
    fn where_processes_are_not_known_docker_is_left_asleep_and_podman_asked() {
        let unknown = Err("too many".to_string());
        assert!(matches!(standing(Kind::Docker, SYSTEM, &unknown), Standing::Unknown(_)));
        assert_eq!(standing(Kind::Podman, SYSTEM, &unknown), Standing::Runs);
    }
}
