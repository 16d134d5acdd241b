//! A container: its settings and its state.

use super::ending::Ending;
use super::network::{Lease, Network};
use chrono::{DateTime, Utc};
use std::collections::BTreeMap;
use std::time::Duration;

/// Compose's label for the stack.
pub const PROJECT: &str = "com.docker.compose.project";
/// Compose's label for the service within the stack.
pub const SERVICE: &str = "com.docker.compose.service";
/// Compose's label for the order of starting.
pub const DEPENDS_ON: &str = "com.docker.compose.depends_on";

/// What the engine does with a container that ended, or that it finds at its own start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// Stays down.
    No,
    /// Comes back, even when it was stopped by hand.
    Always,
    /// Comes back unless it was stopped by hand.
    UnlessStopped,
    /// Comes back when it ended with an error.
    OnFailure,
}

impl Restart {
    /// The engine's own word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Always => "always",
            Self::UnlessStopped => "unless-stopped",
            Self::OnFailure => "on-failure",
        }
    }
}

/// A container's settings and behaviour.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Without the leading slash.
    pub name: String,
    /// Image reference.
    pub image: String,
    /// Labels, including those of Compose.
    pub labels: BTreeMap<String, String>,
    /// Restart policy.
    pub restart: Restart,
    /// `--rm`: the engine removes it when it ends.
    pub auto_remove: bool,
    /// Stop timeout in seconds; `None` means the engine's 10.
    pub stop_timeout: Option<i64>,
    /// It uses the full stop timeout and is then killed.
    pub ignores_sigterm: bool,
    /// Time from SIGTERM to the exit.
    pub stop_takes: Duration,
    /// Time from the start request to the answer.
    pub start_takes: Duration,
    /// It has a health check, and is healthy this long after its start.
    pub healthy_after: Option<Duration>,
    /// How often the engine itself runs that check; zero means continuously.
    pub health_interval: Duration,
    /// The engine considers it unhealthy when the simulation begins.
    pub unhealthy: bool,
    /// When it ends by itself.
    pub ends: Option<Ending>,
    /// How often the engine starts it again after a failure, with [`Restart::OnFailure`]; 0 for no
    /// limit.
    pub retries: u64,
    /// Its networks; empty if it joins another container's.
    pub networks: Vec<Network>,
    /// `HostConfig.NetworkMode`: a network's name, or `container:ID`.
    pub network_mode: String,
    /// Ports of the guest that lead to it: for each range the engine takes one port.
    pub ports: Vec<(u16, u16)>,
    /// This many starts are answered with 500.
    pub failing_starts: u32,
    /// Every start is refused with this status and message: 404 if another container that it needs
    /// is gone.
    pub refuses: Option<(u16, String)>,
    /// Named volumes, or directories of the guest, and where they are mounted; read-only with
    /// `:ro`.
    pub volumes: Vec<(String, String)>,
    /// The runtime that starts it, where that is not `runc`.
    pub runtime: Option<String>,
    /// Its program, if its image does not contain it.
    pub missing_program: Option<String>,
    /// Its state when the simulation begins.
    pub status: Status,
}

impl Spec {
    /// A running service of a Compose stack that restarts unless stopped.
    pub fn service(project: &str, service: &str) -> Self {
        let labels = [
            (PROJECT, project),
            (SERVICE, service),
            (DEPENDS_ON, ""),
            ("com.docker.compose.container-number", "1"),
            ("com.docker.compose.oneoff", "False"),
        ];
        Self {
            name: service.to_owned(),
            image: format!("{service}:latest"),
            labels: labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            restart: Restart::UnlessStopped,
            auto_remove: false,
            stop_timeout: None,
            ignores_sigterm: false,
            stop_takes: Duration::from_millis(60),
            start_takes: Duration::from_millis(60),
            healthy_after: None,
            health_interval: Duration::ZERO,
            unhealthy: false,
            ends: None,
            retries: 0,
            networks: vec![Network::any("shop_default")],
            network_mode: "shop_default".to_owned(),
            ports: Vec::new(),
            failing_starts: 0,
            refuses: None,
            volumes: Vec::new(),
            runtime: None,
            missing_program: None,
            status: Status::Running,
        }
    }

    /// Sets Compose's label of the services it needs, e.g. `db:service_healthy:false`.
    pub fn depends_on(mut self, services: &str) -> Self {
        self.labels.insert(DEPENDS_ON.to_owned(), services.to_owned());
        self
    }

    /// Adds a label.
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.labels.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Puts it into this network only.
    pub fn network(mut self, network: Network) -> Self {
        self.network_mode.clone_from(&network.name);
        self.networks = vec![network];
        self
    }

    /// Puts it into the network of another container, by id or name.
    pub fn in_network_of(mut self, other: &str) -> Self {
        self.network_mode = format!("container:{other}");
        self.networks = Vec::new();
        self
    }

    /// It ends by itself this long after its start, with this status, unless the other container is
    /// healthy then.
    pub fn ends(mut self, after: Duration, code: i64, unless_healthy: Option<&str>) -> Self {
        let unless_healthy = unless_healthy.map(str::to_owned);
        self.ends = Some(Ending { after, code, unless_healthy });
        self
    }

    /// It is healthy this long after its start; the engine checks at the given interval.
    pub fn healthy(mut self, after: Duration, interval: Duration) -> Self {
        self.healthy_after = Some(after);
        self.health_interval = interval;
        self
    }

    /// Sets another restart policy.
    pub fn restart(mut self, restart: Restart) -> Self {
        self.restart = restart;
        self
    }

    /// Sets how long a stop and a start take, in milliseconds.
    pub fn takes(mut self, stop: u64, start: u64) -> Self {
        self.stop_takes = Duration::from_millis(stop);
        self.start_takes = Duration::from_millis(start);
        self
    }

    /// Sets its state when the simulation begins.
    pub fn status(mut self, status: Status) -> Self {
        self.status = status;
        self
    }
}

/// The engine's states of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Made and never started.
    Created,
    /// Running.
    Running,
    /// Running and frozen by the engine.
    Paused,
    /// Between an exit and the next start by the restart policy.
    Restarting,
    /// Ended.
    Exited,
    /// Being removed by the engine.
    Removing,
}

impl Status {
    /// The engine's own word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Exited => "exited",
            Self::Removing => "removing",
        }
    }

    /// What the engine calls `Running`: true also for paused and restarting containers.
    pub fn is_alive(self) -> bool {
        matches!(self, Self::Running | Self::Paused | Self::Restarting)
    }
}

/// A container of the engine.
#[derive(Debug, Clone)]
pub struct Container {
    /// 64 hex digits.
    pub id: String,
    /// How it was made.
    pub spec: Spec,
    /// Its state now.
    pub status: Status,
    /// Exit status of its last run.
    pub exit_code: i64,
    /// When it was made.
    pub created: DateTime<Utc>,
    /// Its last start.
    pub started_at: Option<DateTime<Utc>>,
    /// Its last end.
    pub finished_at: Option<DateTime<Utc>>,
    /// The engine remembers that it was stopped by `docker stop`.
    pub stopped_by_hand: bool,
    /// A stop is in progress.
    pub stopping: bool,
    /// Its addresses and ports.
    pub lease: Lease,
    /// It was started since the simulation began.
    pub restarted: bool,
    /// Whether it was already decided if this run of it ends by itself.
    pub judged: bool,
}

impl Container {
    /// A container made from its settings.
    pub fn new(id: String, spec: Spec) -> Self {
        let now = Utc::now();
        let started = (spec.status != Status::Created).then_some(now);
        Self {
            id,
            status: spec.status,
            exit_code: 0,
            created: now,
            started_at: started,
            finished_at: (spec.status == Status::Exited).then_some(now),
            stopped_by_hand: false,
            stopping: false,
            lease: Lease::default(),
            restarted: false,
            // A container that runs from the beginning has been up for long.
            judged: true,
            spec,
        }
    }

    /// The Compose stack it belongs to.
    pub fn project(&self) -> Option<&str> {
        self.spec.labels.get(PROJECT).map(String::as_str)
    }

    /// The Compose service it is.
    pub fn service(&self) -> Option<&str> {
        self.spec.labels.get(SERVICE).map(String::as_str)
    }

    /// Whether it is the same container to a person, perhaps with another id.
    pub fn is_same_service(&self, other: &Self) -> bool {
        match (self.project(), self.service()) {
            (Some(project), Some(service)) => {
                other.project() == Some(project) && other.service() == Some(service)
            }
            _ => self.spec.name == other.spec.name,
        }
    }

    /// Whether its health check would succeed now.
    pub fn is_healthy(&self) -> bool {
        let age = self.started_at.and_then(|started| (Utc::now() - started).to_std().ok());
        let healthy = self.spec.healthy_after.zip(age).is_some_and(|(after, age)| age >= after);
        healthy && self.status == Status::Running
    }

    /// `starting` or `healthy`, as of the engine's last check, if it has a health check.
    pub fn health(&self) -> Option<&'static str> {
        let after = self.spec.healthy_after?;
        if self.spec.unhealthy && self.status == Status::Running && !self.restarted {
            return Some("unhealthy");
        }
        let age = (Utc::now() - self.started_at?).to_std().unwrap_or_default();
        let interval = self.spec.health_interval;
        let looked = match interval.as_millis() {
            0 => age,
            ms => interval * u32::try_from(age.as_millis() / ms).unwrap_or(u32::MAX),
        };
        let healthy = looked >= after && !looked.is_zero();
        Some(match (self.status.is_alive(), healthy) {
            (true, true) => "healthy",
            (true, false) => "starting",
            (false, _) => "unhealthy",
        })
    }

    pub(super) fn ended(&mut self, exit_code: i64) {
        self.status = Status::Exited;
        self.exit_code = exit_code;
        self.finished_at = Some(Utc::now());
        self.stopping = false;
        self.lease = Lease::default();
    }

    pub(super) fn began(&mut self) {
        self.status = Status::Running;
        self.exit_code = 0;
        self.started_at = Some(Utc::now());
        self.stopped_by_hand = false;
        self.stopping = false;
        self.judged = false;
        self.restarted = true;
    }

    /// Whether the engine starts it again at the engine's own start.
    pub(super) fn returns_at_boot(&self) -> bool {
        match self.spec.restart {
            Restart::No => false,
            Restart::Always => self.status != Status::Created,
            Restart::UnlessStopped => self.status != Status::Created && !self.stopped_by_hand,
            Restart::OnFailure => self.exit_code != 0 && !self.stopped_by_hand,
        }
    }
}
