//! The node that is walked through: its files, locks, processes and time, and one guest with its engine.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::rc::Rc;

use serde_json::{Value, json};

/// The time that passes when nobody has anything to do but to wait: longer than any stop that may be under way.
pub const WAIT_MS: u64 = 20_000;

const STARTED: &str = "/tmp/stillpoint-walk/var/lib/stillpoint/started/9001.json";

/// That the engine starts containers was seen before.
fn seen() -> String {
    let versions = json!({
        "socket": "/run/docker.sock",
        "engine": "engine",
        "runtime": "runc",
        "components": ["Engine 29.0.1"],
        "files": [],
    });
    let seen = json!([{ "versions": versions, "started": "2026-01-01T00:00:00Z" }]);
    json!({ "schema": 1, "boot": "", "seen": seen, "pending": [] }).to_string()
}

/// Bytes that are shared, and compared by what they hash to.
#[derive(Clone, Debug)]
pub struct Blob(Rc<(u64, Vec<u8>)>);

impl Blob {
    pub fn new(bytes: Vec<u8>) -> Blob {
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        Blob(Rc::new((hasher.finish(), bytes)))
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.0.1.clone()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.0.1).expect("it was written as JSON")
    }
}

impl PartialEq for Blob {
    fn eq(&self, other: &Blob) -> bool {
        self.0.0 == other.0.0
    }
}

impl Eq for Blob {}

impl Hash for Blob {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.0.0.hash(hasher);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    Running,
    Exited,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Container {
    pub id: String,
    pub service: &'static str,
    pub created: &'static str,
    pub status: Status,
    /// How often it was started.
    pub starts: u32,
    /// By its engine.
    pub kept_up: bool,
    /// When the guest went down.
    pub ran: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Guest {
    Running,
    Frozen,
    Down,
}

/// What is seen from outside of any process. It is cloned for each step: what is large is shared.
#[derive(Clone, Debug)]
pub struct World {
    pub files: BTreeMap<PathBuf, Blob>,
    /// The note in the guest.
    pub note: Option<Blob>,
    /// Who holds which lock, by the actor's number.
    pub locks: BTreeMap<PathBuf, usize>,
    pub containers: Vec<Container>,
    /// Stops that were asked for by somebody who died before the answer: carried out some time.
    pub in_flight: Vec<String>,
    pub guest: Guest,
    pub records: Vec<Blob>,
    pub now_ms: u64,
    pub tokens: u64,
    /// The workers of vzdump that live.
    pub alive: BTreeSet<i32>,
    pub boot: u64,
    pub disk_full: bool,
    /// Guards that were started and have not begun yet.
    pub armed: u32,
    /// Grows with all that somebody who polls may see.
    pub version: u64,
}

impl World {
    pub fn new(containers: Vec<Container>) -> World {
        World {
            files: BTreeMap::from([(PathBuf::from(STARTED), Blob::new(seen().into_bytes()))]),
            note: None,
            locks: BTreeMap::new(),
            containers,
            in_flight: Vec::new(),
            guest: Guest::Running,
            records: Vec::new(),
            now_ms: 1_000_000,
            tokens: 0,
            alive: BTreeSet::new(),
            boot: 1,
            disk_full: false,
            armed: 0,
            version: 0,
        }
    }

    /// Equal where the same can still happen: what polling alone counts is left out.
    pub fn hash_into(&self, hasher: &mut impl Hasher) {
        (&self.files, &self.note, &self.locks, &self.containers).hash(hasher);
        (&self.in_flight, self.guest, self.now_ms, self.tokens).hash(hasher);
        (&self.alive, self.boot, self.disk_full, self.armed).hash(hasher);
        for record in &self.records {
            let record = record.json();
            (record["kind"].as_str(), record["run"].as_str(), record["by"].as_str()).hash(hasher);
        }
    }

    pub fn changed(&mut self) {
        self.version += 1;
    }

    pub fn running(&self) -> Vec<String> {
        let running = |container: &&Container| container.status == Status::Running;
        self.containers.iter().filter(running).map(|container| container.id.clone()).collect()
    }

    pub fn stop(&mut self, id: &str) -> bool {
        let found = self.containers.iter_mut().find(|container| container.id == id);
        if let Some(container) = found {
            container.status = Status::Exited;
            self.version += 1;
            return true;
        }
        false
    }

    /// The guest goes down, and its containers with it.
    pub fn stop_guest(&mut self) {
        self.guest = Guest::Down;
        for container in &mut self.containers {
            container.ran = container.status == Status::Running;
            container.status = Status::Exited;
        }
        self.in_flight.clear();
        self.changed();
    }

    /// The guest comes up, and its engine starts what ran before it went down and has such a restart policy.
    pub fn start_guest(&mut self) {
        self.guest = Guest::Running;
        for container in self.containers.iter_mut().filter(|it| it.ran && it.kept_up) {
            container.status = Status::Running;
            container.starts += 1;
            container.ran = false;
        }
        self.changed();
    }

    /// What the engine answers, and what it does.
    pub fn engine(&mut self, method: &str, path: &str) -> (u16, Vec<u8>) {
        if let Some(id) = path.strip_prefix("/containers/").and_then(|it| it.strip_suffix("/stop"))
        {
            let there = self.stop(id);
            return (if there { 204 } else { 404 }, Vec::new());
        }
        if let Some(id) = path.strip_prefix("/containers/").and_then(|it| it.strip_suffix("/start"))
        {
            let found = self.containers.iter_mut().find(|container| container.id == id);
            let Some(container) = found else { return (404, b"{\"message\":\"none\"}".to_vec()) };
            if container.status != Status::Running {
                container.status = Status::Running;
                container.starts += 1;
                self.version += 1;
            }
            return (204, Vec::new());
        }
        assert_eq!(method, "GET", "{path}");
        let answer = match path {
            "/_ping" => json!("OK"),
            "/version" => json!({ "Version": "29.0.1" }),
            "/info" => {
                json!({ "ID": "engine", "DefaultRuntime": "runc", "LiveRestoreEnabled": false })
            }
            "/containers/json" => self.list(|container| container.status == Status::Running),
            path if path.starts_with("/containers/json?all=1") => {
                self.list(|container| path.contains(&format!("service%3D{}%22", container.service)))
            }
            path => {
                let id = path.strip_prefix("/containers/").and_then(|it| it.strip_suffix("/json"));
                let id = id.unwrap_or_else(|| panic!("the engine is asked for {path}"));
                match self.containers.iter().find(|container| container.id == id) {
                    Some(container) => container.inspected(),
                    None => return (404, b"{\"message\":\"none\"}".to_vec()),
                }
            }
        };
        (200, answer.to_string().into_bytes())
    }

    fn list(&self, wanted: impl Fn(&Container) -> bool) -> Value {
        let found = self.containers.iter().filter(|container| wanted(container));
        found.map(|container| json!({ "Id": container.id })).collect()
    }
}

impl Container {
    pub fn new(letter: char, service: &'static str, status: Status) -> Container {
        let id = letter.to_string().repeat(64);
        Container {
            id,
            service,
            created: "2026-01-01T00:00:00Z",
            status,
            starts: 1,
            kept_up: true,
            ran: false,
        }
    }

    fn inspected(&self) -> Value {
        let running = self.status == Status::Running;
        let policy = if self.kept_up { "unless-stopped" } else { "no" };
        json!({
            "Id": self.id,
            "Name": format!("/{}", self.service),
            "Created": self.created,
            "State": {
                "Status": if running { "running" } else { "exited" },
                "Running": running,
                "StartedAt": format!("2026-01-02T00:00:{:02}Z", self.starts),
                "FinishedAt": "2026-01-03T00:00:00Z",
                "ExitCode": 0,
            },
            "Config": { "Labels": {
                "com.docker.compose.project": "shop",
                "com.docker.compose.service": self.service,
            } },
            "HostConfig": { "RestartPolicy": { "Name": policy } },
        })
    }
}
