use std::io;
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::stat::fstat;

use super::client::{Engine, Error};
use crate::guest::Guest;
use crate::sys::tree::Tree;
use crate::sys::{bounded, text};

/// Where the engines of the system listen: Docker, Docker as older systems name it, Podman.
const SOCKETS: [(&str, Kind); 3] = [
    ("/run/docker.sock", Kind::Docker),
    ("/var/run/docker.sock", Kind::Docker),
    ("/run/podman/podman.sock", Kind::Podman),
];

/// Below this a user's own (rootless) engines listen, each user's in a directory that is named by the user's id.
const USERS: &str = "/run/user";
const SOCKETS_OF_A_USER: [(&str, Kind); 2] =
    [("docker.sock", Kind::Docker), ("podman/podman.sock", Kind::Podman)];

/// Every user costs two look-ups, every engine a connection: so many are looked for.
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

/// The container engines of a guest, in the order in which they are looked for: those of the system first.
#[derive(Clone, Debug, Default)]
pub struct Engines {
    sites: Vec<Site>,
    /// Why there may be engines that are not known, if so.
    overlooked: Option<String>,
}

/// A place where an engine listens.
#[derive(Clone, Debug)]
struct Site {
    /// Its socket's path in the guest, and the other paths that lead to the same socket.
    path: String,
    aliases: Vec<String>,
    /// The engine, or why it cannot be reached.
    engine: Result<Engine, String>,
}

impl Engines {
    /// The engines of a running guest, as far as their sockets show; none is asked for anything.
    ///
    /// # Errors
    /// When the guest's file system does not answer.
    pub fn of(guest: &Guest) -> Result<Engines, Error> {
        let tree = guest.tree.try_clone().map_err(|error| Error::Failed(error.to_string()))?;
        bounded::within(LOOKUP_LIMIT, move || Engines::found(&tree))
            .map_err(|error| Error::Failed(format!("the guest's file system gives {error}")))
    }

    fn found(tree: &Tree) -> Engines {
        let mut engines = Engines::default();
        let mut places: Vec<(String, Kind)> =
            SOCKETS.iter().map(|(path, kind)| (path.to_string(), *kind)).collect();
        match tree.names(USERS, MOST_USERS) {
            Ok(names) => {
                let users = names.iter().filter(|name| name.parse::<u32>().is_ok());
                places.extend(users.flat_map(|user| {
                    SOCKETS_OF_A_USER.map(|(name, kind)| (format!("{USERS}/{user}/{name}"), kind))
                }));
            }
            Err(error) => engines.overlooked = Some(format!("{USERS} in the guest: {error}")),
        }
        let mut known = Vec::new();
        for (path, kind) in places {
            let socket = match tree.socket(&path) {
                Ok(None) => continue,
                Ok(Some(socket)) => Ok(socket),
                Err(error) => Err(error),
            };
            if engines.sites.len() == MOST_ENGINES {
                engines.overlooked = Some(format!("it has more than {MOST_ENGINES} engines"));
                break;
            }
            engines.add(path, kind, socket, &mut known);
        }
        engines
    }

    /// Adds the engine of a socket, or one more path to it: `/var/run` leads to `/run`, and Podman has a link in the
    /// place of Docker's socket.
    fn add(
        &mut self,
        path: String,
        kind: Kind,
        socket: io::Result<OwnedFd>,
        known: &mut Vec<((u64, u64), usize)>,
    ) {
        let engine = socket.and_then(|socket| {
            let stat = fstat(&socket)?;
            Ok((Engine::new(socket, kind, &path), (stat.st_dev, stat.st_ino)))
        });
        if let Ok((_, inode)) = &engine {
            if let Some((_, at)) = known.iter().find(|(other, _)| other == inode) {
                return self.add_alias(*at, path, kind);
            }
            known.push((*inode, self.sites.len()));
        }
        let engine = engine.map(|(engine, _)| engine).map_err(|error| error.to_string());
        self.sites.push(Site { path, aliases: Vec::new(), engine });
    }

    fn add_alias(&mut self, at: usize, path: String, kind: Kind) {
        let Some(site) = self.sites.get_mut(at) else { return };
        site.aliases.push(path);
        if let (Ok(engine), Kind::Podman) = (&mut site.engine, kind) {
            engine.kind = kind;
        }
    }

    /// Whether the guest has none.
    pub fn is_empty(&self) -> bool {
        self.sites.is_empty() && self.overlooked.is_none()
    }

    /// Those that can be reached, as far as is known.
    pub fn reachable(&self) -> impl Iterator<Item = &Engine> {
        self.sites.iter().filter_map(|site| site.engine.as_ref().ok())
    }

    /// Why the others cannot: one sentence each, which names the socket.
    pub fn unreachable(&self) -> impl Iterator<Item = String> {
        let site = |site: &Site| site.engine.as_ref().err().map(|why| sentence(&site.path, why));
        self.sites.iter().filter_map(site).chain(self.overlooked.clone())
    }

    /// The engine whose socket is at this path. An empty path, in what an older version wrote, is the first one.
    ///
    /// # Errors
    /// When it cannot be reached, or there is none; the error names the socket.
    pub fn at(&self, path: &str) -> Result<&Engine, Error> {
        let is_it = |site: &&Site| {
            path.is_empty() || site.path == path || site.aliases.iter().any(|alias| alias == path)
        };
        match self.sites.iter().find(is_it) {
            Some(site) => {
                site.engine.as_ref().map_err(|why| Error::Failed(sentence(&site.path, why)))
            }
            None if path.is_empty() => {
                Err(Error::Failed("its container engine is not up".to_string()))
            }
            None => {
                let path = text::printable(path, 200);
                Err(Error::Failed(format!("the container engine at {path} is not up")))
            }
        }
    }

    /// The same engines, with each that does not answer within `limit` as one that cannot be reached.
    pub fn answering(&self, limit: Duration) -> Engines {
        let deadline = Instant::now() + limit;
        let reachable: Vec<Engine> = self.reachable().cloned().collect();
        let answers = at_once(&reachable, |engine| engine.ping(deadline).err());
        let mut engines = self.clone();
        let sites = engines.sites.iter_mut().filter(|site| site.engine.is_ok());
        for (site, answer) in sites.zip(answers) {
            if let Some(error) = answer {
                site.engine = Err(error.to_string());
            }
        }
        engines
    }
}

fn sentence(path: &str, why: &str) -> String {
    format!("the container engine at {path} cannot be reached: {why}")
}

/// Does the same with every engine, with all of them at once: one that does not answer holds up no other.
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
        // Without a thread to be had it is done here.
        engines
            .iter()
            .zip(ended)
            .map(|(engine, ended)| ended.unwrap_or_else(|| work(engine)))
            .collect()
    })
}
