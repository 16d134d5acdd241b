use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use super::client::{Engine, Error};
use super::standing::{Owner, Standing, at_work, of_containerd, standing};
use crate::guest::{Guest, Process, Processes};
use crate::sys::text;
use crate::sys::tree::{Socket, Tree};

/// Sockets of system-wide engines: Docker, Docker as older systems name it, Podman.
const SOCKETS: [(&str, Kind); 3] = [
    ("/run/docker.sock", Kind::Docker),
    ("/var/run/docker.sock", Kind::Docker),
    ("/run/podman/podman.sock", Kind::Podman),
];

/// Sockets of users' own (rootless) engines are below this, in a directory named by the user's id.
const USERS: &str = "/run/user";
const SOCKETS_OF_A_USER: [(&str, Kind); 2] =
    [("docker.sock", Kind::Docker), ("podman/podman.sock", Kind::Podman)];

/// How many users' engines are looked for: each user costs two look-ups, each engine a connection.
const MOST_USERS: usize = 256;
const MOST_ENGINES: usize = 16;

/// A look-up in the guest's file system takes microseconds, unless the guest makes it hang.
const LOOKUP_LIMIT: Duration = Duration::from_secs(5);

/// Which engine serves the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Docker,
    Podman,
}

/// The command to type in the guest, as root, for the engine at that socket: a program and its
/// options. A note in the guest may name any socket; an unknown place counts as Docker's.
pub fn client_of(socket: &str) -> String {
    let user = socket.strip_prefix("/run/user/").and_then(|rest| rest.split_once('/'));
    match user.map(|(user, name)| (user.parse::<u32>(), name)) {
        Some((Ok(user), "docker.sock")) => format!("docker -H unix://{USERS}/{user}/docker.sock"),
        Some((Ok(user), "podman/podman.sock")) => {
            format!("podman --url unix://{USERS}/{user}/podman/podman.sock")
        }
        _ if socket == "/run/podman/podman.sock" => "podman".to_string(),
        _ => "docker".to_string(),
    }
}

/// The container engines of a guest, in the order of search: those of the system first.
#[derive(Clone, Debug, Default)]
pub struct Engines {
    sites: Vec<Site>,
    /// Why containers may run that none of these engines has.
    overlooked: Vec<String>,
    processes: Vec<Process>,
}

/// A place where an engine listens.
#[derive(Clone, Debug)]
struct Site {
    /// Its socket's path in the guest, and other paths of the same socket.
    path: String,
    aliases: Vec<String>,
    kind: Kind,
    owner: Owner,
    contact: Contact,
}

#[derive(Clone, Debug)]
enum Contact {
    /// Requests may be sent.
    Open(Engine),
    /// It does not run, and a connection would start it.
    Asleep(Engine),
    /// Why it cannot be reached, or must not be.
    Closed(String),
}

/// An engine that cannot be reached, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreachable {
    /// Its socket's path in the guest and its kind, if it is known which engine it is.
    pub socket: Option<(String, Kind)>,
    pub why: String,
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.socket {
            Some((path, _)) => {
                write!(f, "the container engine at {path} cannot be reached: {}", self.why)
            }
            None => f.write_str(&self.why),
        }
    }
}

impl Engines {
    /// Finds the engines of a running guest by their sockets and the guest's processes. Nothing is
    /// sent to an engine, so none is started.
    ///
    /// # Errors
    /// If the guest's file system does not answer.
    pub fn of(guest: &Guest) -> Result<Engines, Error> {
        #[cfg(test)]
        if crate::sys::walk::current().is_some() {
            return Ok(Engines::of_walk());
        }
        let processes = guest.processes().map_err(|error| error.to_string());
        Engines::found(&guest.tree.within(LOOKUP_LIMIT), &processes)
            .map_err(|error| Error::Failed(error.to_string()))
    }

    #[cfg(test)]
    fn of_walk() -> Engines {
        let path = SOCKETS[0].0.to_string();
        let engine = Engine::of_walk(&path);
        let (owner, contact) = (Owner { root: 0, user: None }, Contact::Open(engine));
        let site = Site { path, aliases: Vec::new(), kind: Kind::Docker, owner, contact };
        Engines { sites: vec![site], ..Engines::default() }
    }

    fn found(tree: &Tree, processes: &Result<Processes, String>) -> io::Result<Engines> {
        let root = tree.owner()?;
        let mut engines = Engines::default();
        let mut places: Vec<(String, Kind, bool)> =
            SOCKETS.iter().map(|(path, kind)| (path.to_string(), *kind, false)).collect();
        match tree.names(USERS, MOST_USERS) {
            Ok(names) => {
                let users = names.iter().filter(|name| name.parse::<u32>().is_ok());
                places.extend(users.flat_map(|user| {
                    SOCKETS_OF_A_USER
                        .map(|(name, kind)| (format!("{USERS}/{user}/{name}"), kind, true))
                }));
            }
            Err(error) if error.kind() == io::ErrorKind::TimedOut => return Err(error),
            Err(error) => engines.overlooks(&format!("{USERS} in the guest: {error}")),
        }
        let mut known: Vec<Found> = Vec::new();
        for (path, kind, of_a_user) in places {
            if known.len() == MOST_ENGINES {
                engines.overlooks(&format!("more than {MOST_ENGINES} are there"));
                break;
            }
            let found = match tree.socket(&path) {
                Ok(None) => continue,
                Ok(Some(socket)) => Ok(socket),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => return Err(error),
                Err(error) => Err(error),
            };
            let same = |known: &&mut Found| match (&known.socket, &found) {
                (Ok(one), Ok(other)) => one.inode() == other.inode(),
                _ => false,
            };
            // `/var/run` leads to `/run`, and Podman may have a link in the place of Docker's
            // socket.
            if let Some(known) = known.iter_mut().find(same) {
                known.aliases.push(path);
                known.kind = if kind == Kind::Podman { kind } else { known.kind };
            } else {
                known.push(Found { path, aliases: Vec::new(), kind, of_a_user, socket: found });
            }
        }
        engines.sites = known.into_iter().map(|found| found.site(root, processes)).collect();
        if let Ok(processes) = processes {
            engines.miss(root, processes);
            engines.processes.clone_from(&processes.list);
        }
        Ok(engines)
    }

    fn overlooks(&mut self, why: &str) {
        self.overlooked.push(format!("there may be container engines that are not known: {why}"));
    }

    /// Adds engines that run without a socket (Podman needs none to run containers), and names what
    /// else runs containers.
    fn miss(&mut self, root: u32, processes: &Processes) {
        for namespace in of_containerd(processes) {
            let namespace = text::printable(&namespace, 60);
            self.overlooked.push(format!(
                "containers of containerd run (namespace {namespace}), which Stillpoint cannot bring to rest"
            ));
        }
        for (kind, owner) in at_work(root, processes) {
            // Where nobody knows whose a process is, it may be that of any.
            let is_known =
                |site: &Site| site.kind == kind && (processes.sockets_tell || site.owner == owner);
            if self.sites.iter().any(is_known) || self.sites.len() >= MOST_ENGINES {
                continue;
            }
            // The user id inside the guest, if its ids are mapped in one range.
            let user = owner.user.map(|user| user.checked_sub(root).unwrap_or(user));
            let path = match (kind, user) {
                (Kind::Docker, None) => "/run/docker.sock".to_string(),
                (Kind::Podman, None) => "/run/podman/podman.sock".to_string(),
                (Kind::Docker, Some(user)) => format!("{USERS}/{user}/docker.sock"),
                (Kind::Podman, Some(user)) => format!("{USERS}/{user}/podman/podman.sock"),
            };
            let why = match kind {
                Kind::Docker => "its daemon runs, but there is no such socket",
                Kind::Podman => "its containers run, but there is no such socket",
            };
            let contact = Contact::Closed(why.to_string());
            self.sites.push(Site { path, aliases: Vec::new(), kind, owner, contact });
        }
    }

    /// The relevant processes in the guest: engines, monitors of containers and compose clients.
    pub fn processes(&self) -> &[Process] {
        &self.processes
    }

    /// Whether the guest has none.
    pub fn is_empty(&self) -> bool {
        self.sites.is_empty() && self.overlooked.is_empty()
    }

    /// The engines that may be asked, as far as they are known.
    pub fn reachable(&self) -> impl Iterator<Item = &Engine> {
        self.sites.iter().filter_map(|site| match &site.contact {
            Contact::Open(engine) => Some(engine),
            Contact::Asleep(_) | Contact::Closed(_) => None,
        })
    }

    /// Engines whose containers run or may run, but which cannot be reached.
    pub fn unreachable(&self) -> impl Iterator<Item = Unreachable> {
        let site = |site: &Site| match &site.contact {
            Contact::Closed(_) => Some(site.unreachable()),
            Contact::Open(_) | Contact::Asleep(_) => None,
        };
        let overlooked = self.overlooked.iter().cloned();
        let overlooked = overlooked.map(|why| Unreachable { socket: None, why });
        self.sites.iter().filter_map(site).chain(overlooked)
    }

    /// The engine with the socket at this path. An empty path, from older versions, means the first
    /// one.
    ///
    /// # Errors
    /// If it cannot be reached, does not run, or does not exist; the error names the socket.
    pub fn at(&self, path: &str) -> Result<&Engine, Error> {
        let site = self.sites.iter().find(|site| site.is_at(path));
        let path = text::printable(path, 200);
        let why = match site.map(|site| (site, &site.contact)) {
            Some((_, Contact::Open(engine))) => return Ok(engine),
            Some((site, Contact::Asleep(_))) => {
                format!("the container engine at {} does not run", site.path)
            }
            Some((site, Contact::Closed(_))) => site.unreachable().to_string(),
            None if path.is_empty() => "its container engine is not up".to_string(),
            None => format!("the container engine at {path} is not up"),
        };
        Err(Error::Failed(why))
    }

    /// The same engines, but those in `wanted` may be asked even if they do not run: Podman always,
    /// because its service starts no container, and Docker if `docker` is set.
    pub fn woken(mut self, wanted: &BTreeSet<String>, docker: bool) -> Engines {
        let first = self.sites.first().map(|site| site.path.clone());
        for site in &mut self.sites {
            let is_first = first.as_ref() == Some(&site.path);
            let is_wanted = wanted.iter().any(|path| match path.as_str() {
                "" => is_first,
                path => site.is_at(path),
            });
            let may_be = is_wanted && (docker || site.kind == Kind::Podman);
            site.contact = match site.contact.clone() {
                Contact::Asleep(engine) if may_be => Contact::Open(engine),
                other => other,
            };
        }
        self
    }

    /// The same engines, but those in `unreachable` are not asked again.
    pub fn without(mut self, unreachable: &[Unreachable]) -> Engines {
        for Unreachable { socket, why } in unreachable {
            let Some((path, _)) = socket else { continue };
            for site in self.sites.iter_mut().filter(|site| site.path == *path) {
                site.contact = Contact::Closed(why.clone());
            }
        }
        self
    }

    /// The same engines, but each that does not answer within `limit` counts as unreachable.
    pub fn answering(mut self, limit: Duration) -> Engines {
        let deadline = Instant::now() + limit;
        let asked: Vec<Engine> = self.reachable().cloned().collect();
        let answers = at_once(&asked, |engine| engine.ping(deadline).err());
        let open = |site: &&mut Site| matches!(site.contact, Contact::Open(_));
        for (site, answer) in self.sites.iter_mut().filter(open).zip(answers) {
            if let Some(error) = answer {
                site.contact = Contact::Closed(error.to_string());
            }
        }
        self
    }
}

impl Site {
    fn is_at(&self, path: &str) -> bool {
        path.is_empty() || self.path == path || self.aliases.iter().any(|alias| alias == path)
    }

    fn unreachable(&self) -> Unreachable {
        let why = match &self.contact {
            Contact::Closed(why) => why.clone(),
            Contact::Open(_) | Contact::Asleep(_) => String::new(),
        };
        Unreachable { socket: Some((self.path.clone(), self.kind)), why }
    }
}

/// The result for the paths of one socket.
struct Found {
    path: String,
    aliases: Vec<String>,
    kind: Kind,
    of_a_user: bool,
    socket: io::Result<Socket>,
}

impl Found {
    fn site(self, root: u32, processes: &Result<Processes, String>) -> Site {
        let Found { path, aliases, kind, of_a_user, socket } = self;
        let user = socket.as_ref().ok().filter(|_| of_a_user).map(Socket::owner);
        let owner = Owner { root, user };
        let standing = standing(kind, owner, processes);
        let contact = match (socket, standing) {
            (Ok(socket), Standing::Runs) => Contact::Open(Engine::new(socket, kind, &path)),
            (Ok(socket), Standing::Asleep) => Contact::Asleep(Engine::new(socket, kind, &path)),
            (Ok(_), Standing::Unknown(why)) => Contact::Closed(why),
            (Err(error), _) => Contact::Closed(error.to_string()),
        };
        Site { path, aliases, kind, owner, contact }
    }
}

/// Runs `work` for all engines in parallel: one that does not answer does not delay the others.
pub fn at_once<T: Send>(engines: &[Engine], work: impl Fn(&Engine) -> T + Sync) -> Vec<T> {
    if let [engine] = engines {
        return vec![work(engine)];
    }
    thread::scope(|scope| {
        let work = &work;
        let begun: Vec<_> = engines
            .iter()
            .map(|engine| thread::Builder::new().spawn_scoped(scope, move || work(engine)))
            .collect();
        let ended = begun.into_iter().map(|begun| begun.ok().and_then(|thread| thread.join().ok()));
        // If no thread can be started, it is done here.
        engines
            .iter()
            .zip(ended)
            .map(|(engine, ended)| ended.unwrap_or_else(|| work(engine)))
            .collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_engine_has_a_client_that_speaks_to_it() {
        for (socket, client) in [
            ("", "docker"),
            ("/run/user/1; reboot/docker.sock", "docker"),
            ("/run/docker.sock", "docker"),
            ("/run/podman/podman.sock", "podman"),
            ("/run/user/1000/docker.sock", "docker -H unix:///run/user/1000/docker.sock"),
            (
                "/run/user/1/podman/podman.sock",
                "podman --url unix:///run/user/1/podman/podman.sock",
            ),
        ] {
            assert_eq!(client_of(socket), client);
        }
    }
}
