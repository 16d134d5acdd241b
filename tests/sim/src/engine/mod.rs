//! The Docker engine of a simulated guest, and the guest's power switch.
//!
//! Two threads for each guest: one watches the marker files that say whether the guest runs, and
//! starts and stops the engine accordingly; one accepts connections while the engine runs. Stops,
//! starts, shutdowns and power cuts leave the same state as with Docker.

mod actions;
mod api;
pub mod container;
pub mod ending;
mod guest;
mod hostile;
mod images;
mod json;
pub mod network;
pub mod stack;

pub use hostile::Hostile;

use anyhow::{Context, Result};
use container::{Container, Spec};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The properties of an engine.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Its socket, below the guest's root: a guest may have several engines.
    pub socket: &'static str,
    /// Version of the engine.
    pub version: String,
    /// Highest API version it speaks.
    pub api: String,
    /// Lowest API version it speaks.
    pub min_api: String,
    /// Real seconds for one second of a stop timeout: with 0.05 ten seconds take half a second.
    pub time_scale: f64,
    /// Time from the guest's start to the engine's first answer.
    pub boot_takes: Duration,
    /// Its hostile behaviour, if any.
    pub hostile: Option<Hostile>,
    /// Containers keep running while the engine is down.
    pub live_restore: bool,
    /// Options of volumes of the local driver, by the volume's name.
    pub volume_options: BTreeMap<String, BTreeMap<String, String>>,
    /// The networks with the macvlan driver; all others are bridges.
    pub macvlans: Vec<String>,
    /// Containers with a configured address in a network: container, network, IPv4 address.
    pub fixed: Vec<(String, String, String)>,
    /// Its own id, which survives its restarts.
    pub id: String,
    /// Version of its runtime.
    pub runc: String,
    /// The runtime starts nothing, and gives this error; running containers keep running.
    pub refuses_starts: Option<String>,
    /// The same for containers of that runtime.
    pub broken_runtime: Option<String>,
    /// The only labels of the images. Compose gives the stack's labels to images that it builds.
    pub image_labels: Vec<(String, String)>,
    /// Images were removed while containers use them, as `docker rmi --force` does.
    pub no_images: bool,
    /// As Podman: it does not show configured addresses, and an error names the container that has
    /// one.
    pub hides_addresses: bool,
}

impl Default for EngineConfig {
    /// The newest engine, because it refuses the most.
    fn default() -> Self {
        Self {
            socket: "run/docker.sock",
            version: "29.0.1".to_owned(),
            api: "1.52".to_owned(),
            min_api: "1.44".to_owned(),
            time_scale: 0.05,
            boot_takes: Duration::from_millis(150),
            hostile: None,
            live_restore: false,
            volume_options: BTreeMap::new(),
            macvlans: Vec::new(),
            fixed: Vec::new(),
            id: "5c1f5a0e-0000-4000-8000-000000000000".to_owned(),
            runc: "1.3.3".to_owned(),
            refuses_starts: None,
            broken_runtime: None,
            image_labels: vec![
                (container::PROJECT.to_owned(), "shop".to_owned()),
                (container::SERVICE.to_owned(), "db".to_owned()),
            ],
            no_images: false,
            hides_addresses: false,
        }
    }
}

/// Something that happened to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// A client asked to stop it while it ran.
    StopAsked,
    /// It ended, with that exit status.
    Stopped(i64),
    /// A client asked to start it while it did not run.
    StartAsked,
    /// It runs.
    Started,
    /// It was started by the engine itself, at the guest's boot.
    StartedByPolicy,
    /// It was paused.
    Paused,
    /// It was unpaused.
    Unpaused,
    /// It is gone.
    Removed,
    /// A client has made it.
    Created,
    /// A client asked to start it, but its program does not exist.
    Tried,
    /// A command ran in it.
    Ran,
}

/// An entry of the engine's history.
#[derive(Debug, Clone)]
pub struct Event {
    /// When.
    pub at: Instant,
    /// Name of the container.
    pub name: String,
    /// Id of the container.
    pub id: String,
    /// The event.
    pub what: What,
}

/// A guest's engine.
pub struct Engine {
    inner: Arc<Inner>,
    life: Option<JoinHandle<()>>,
}

struct Inner {
    dir: PathBuf,
    socket: PathBuf,
    config: Mutex<EngineConfig>,
    state: Mutex<State>,
    changed: Condvar,
    ended: AtomicBool,
    ids: AtomicU64,
}

/// A command that a client has created and may start.
#[derive(Clone)]
struct Exec {
    id: String,
    container: String,
    command: String,
    code: i64,
}

#[derive(Default)]
struct State {
    containers: Vec<Container>,
    events: Vec<Event>,
    execs: Vec<Exec>,
    /// Containers that clients have created, in their state then.
    made: Vec<Container>,
    /// The commands that ran, each with its container's name.
    ran: Vec<(String, String)>,
    /// Whether the engine answers.
    up: bool,
    /// Counts the guest's boots: actions of an earlier boot no longer count.
    boots: u64,
    streams: Vec<std::os::unix::net::UnixStream>,
}

impl Engine {
    /// The engine of the guest in that directory (`guests/VMID`); it starts when the marker
    /// `running` exists.
    ///
    /// # Errors
    /// If the guest's directories cannot be made.
    pub fn new(dir: &Path, config: EngineConfig, containers: Vec<Spec>) -> Result<Self> {
        let socket = dir.join("root").join(config.socket);
        let run = socket.parent().context("a socket lies in a directory")?;
        std::fs::create_dir_all(run).with_context(|| format!("making {}", run.display()))?;
        // Ids are unique, even between engines of the same guest.
        let first = config.socket.bytes().fold(1, |sum, byte| sum * 31 % 65_521 + u64::from(byte));
        let inner = Arc::new(Inner {
            dir: dir.to_owned(),
            socket,
            config: Mutex::new(config),
            state: Mutex::default(),
            changed: Condvar::new(),
            ended: AtomicBool::new(false),
            ids: AtomicU64::new(first << 32),
        });
        for spec in containers {
            let id = inner.next_id();
            inner.lock().containers.push(Container::new(id, spec));
        }
        network::lease_to_all(&mut inner.lock());
        if !inner.is_on() {
            let mut state = inner.lock();
            state.boots = 1;
            for container in state.containers.iter_mut().filter(|c| c.status.is_alive()) {
                container.ended(0);
            }
        }
        let watched = Arc::clone(&inner);
        let life = std::thread::Builder::new()
            .name("guest".to_owned())
            .spawn(move || guest::live(&watched))
            .context("starting the guest's thread")?;
        let life = Some(life);
        Ok(Self { inner, life })
    }

    /// All containers as they are now.
    pub fn containers(&self) -> Vec<Container> {
        self.inner.lock().containers.clone()
    }

    /// The containers that clients have created, in their state then, in order.
    pub fn made(&self) -> Vec<Container> {
        self.inner.lock().made.clone()
    }

    /// Everything that has happened, in order.
    pub fn events(&self) -> Vec<Event> {
        self.inner.lock().events.clone()
    }

    /// How often this happened to the container of that name, whatever the exit status.
    pub fn count(&self, name: &str, what: What) -> usize {
        let same = |event: &&Event| {
            event.name == name
                && std::mem::discriminant(&event.what) == std::mem::discriminant(&what)
        };
        self.inner.lock().events.iter().filter(same).count()
    }

    /// The last word of each command that ran in the container of that name, in order.
    pub fn commands(&self, name: &str) -> Vec<String> {
        let state = self.inner.lock();
        let its = state.ran.iter().filter(|(container, _)| container == name);
        its.map(|(_, command)| command.clone()).collect()
    }

    /// Adds a container.
    pub fn add(&self, spec: Spec) {
        self.inner.add(spec);
    }

    /// Starts a container, as a person does in the guest. False where the engine refuses.
    pub fn start(&self, name: &str) -> bool {
        actions::start(&self.inner, name).status < 300
    }

    /// Replaces all containers, by those of the restored disk.
    pub fn hold(&self, containers: Vec<Container>) {
        self.inner.lock().containers = containers;
        self.inner.changed.notify_all();
    }

    /// Replaces a container as `docker compose up --force-recreate` does: another id; it runs if
    /// `running` is true. False if there is none of that name.
    pub fn recreate(&self, name: &str, running: bool) -> bool {
        let Some(old) = self.remove(name) else {
            return false;
        };
        let status = if running { container::Status::Running } else { container::Status::Created };
        self.inner.add(old.spec.status(status));
        true
    }

    /// Removes a container as `docker rm --force` does.
    pub fn remove(&self, name: &str) -> Option<Container> {
        let mut state = self.inner.lock();
        let at = state.containers.iter().position(|c| c.spec.name == name)?;
        let old = state.containers.remove(at);
        state.record(&old, What::Removed);
        self.inner.changed.notify_all();
        Some(old)
    }

    /// Changes the engine's behaviour from the next request on.
    pub fn configure(&self, change: impl FnOnce(&mut EngineConfig)) {
        change(&mut self.inner.config());
    }

    /// Changes a container's settings. False if there is none of that name.
    pub fn modify(&self, name: &str, change: impl FnOnce(&mut Container)) -> bool {
        let mut state = self.inner.lock();
        let found = state.containers.iter_mut().find(|c| c.spec.name == name);
        found.map(change).is_some()
    }

    /// Whether the engine answers.
    pub fn is_up(&self) -> bool {
        self.inner.lock().up
    }

    /// Shuts the guest down as `pct shutdown` does, and returns when it is off. The engine ends its
    /// containers gracefully, and none counts as stopped by hand.
    pub fn shut_down(&self) {
        guest::shut_down(&self.inner);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.inner.ended.store(true, Ordering::SeqCst);
        self.inner.changed.notify_all();
        if let Some(life) = self.life.take()
            && life.join().is_err()
        {
            eprintln!("a simulated guest's thread panicked");
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn config(&self) -> MutexGuard<'_, EngineConfig> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, spec: Spec) {
        let id = self.next_id();
        let mut state = self.lock();
        let mut container = Container::new(id, spec);
        if container.status.is_alive()
            && let Ok(lease) = network::lease(&state, &container)
        {
            container.lease = lease;
        }
        state.containers.push(container);
        drop(state);
        self.changed.notify_all();
    }

    /// 64 hex digits, never the same twice.
    fn next_id(&self) -> String {
        let count = self.ids.fetch_add(1, Ordering::SeqCst);
        let mut seed = count.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5157_11a9;
        let mut id = String::new();
        for _ in 0..4 {
            seed = seed.rotate_left(23).wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ count;
            id.push_str(&format!("{seed:016x}"));
        }
        id
    }

    fn is_on(&self) -> bool {
        self.dir.join("running").exists()
    }

    fn is_frozen(&self) -> bool {
        self.dir.join("frozen").exists()
    }
}

impl State {
    fn record(&mut self, container: &Container, what: What) {
        self.events.push(Event {
            at: Instant::now(),
            name: container.spec.name.clone(),
            id: container.id.clone(),
            what,
        });
    }

    /// Finds a container as the engine does: by id, by an unambiguous prefix of it, or by name.
    fn find(&self, reference: &str) -> Option<usize> {
        let name = reference.trim_start_matches('/');
        let exact = |c: &Container| c.id == name || c.spec.name == name;
        if let Some(at) = self.containers.iter().position(exact) {
            return Some(at);
        }
        let mut begins = self.containers.iter().enumerate();
        let mut begins = begins.by_ref().filter(|(_, c)| c.id.starts_with(name));
        match (begins.next(), begins.next()) {
            (Some((at, _)), None) if !name.is_empty() => Some(at),
            _ => None,
        }
    }
}
