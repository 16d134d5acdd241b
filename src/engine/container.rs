use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Deserialize;

use super::database;
use super::health::{self, HealthCheck};
use super::kept::{Data, Ids, Labels, Mounts, Words, is_id};
use super::network::{self, HostPort, Network, Networks, Ports};
use crate::sys::text;

/// The engine's default stop timeout in seconds, for a container without its own.
const STOP_TIMEOUT: u64 = 10;

/// To the engine, a negative stop timeout means for ever; no plan waits longer than this.
const LONGEST_STOP: u64 = 24 * 3600;

/// The memory for a label besides its text, in bytes.
const LABEL: usize = 128;

/// The memory for a container's name besides its text, in bytes.
const NAME: usize = 24;

/// As much of a runtime's name as of the engine's own, in characters.
const LONGEST_RUNTIME: usize = 80;

/// How many links of one container are read.
const MOST_LINKS: usize = 64;

/// How much of the error about an invalid answer is kept; it may quote the answer.
const LONGEST_REASON: usize = 300;

/// A container's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Created,
    Running,
    Paused,
    Restarting,
    Removing,
    Exited,
    Dead,
    /// A state that this version of Stillpoint does not know.
    Other,
}

/// What the engine does with a container that has ended, and at its own start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// It stays down.
    No,
    /// It is started again if it ended with an error.
    OnFailure,
    /// It is started unless it was stopped by hand.
    UnlessStopped,
    Always,
}

/// The result of a container's own health check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Nothing yet.
    Starting,
    Healthy,
    Unhealthy,
}

/// A container, with what matters to a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    pub id: String,
    /// The socket of its engine, as a path in the guest; empty if only an answer was parsed.
    pub engine: String,
    /// Without the leading slash of the API.
    pub name: String,
    /// The labels of compose, of Swarm and of Stillpoint.
    pub labels: HashMap<String, String>,
    pub status: Status,
    /// Only if it has a health check.
    pub health: Option<Health>,
    /// When it was last started, in the engine's format: another value means that somebody has
    /// started it since.
    pub started_at: String,
    pub exit_code: i64,
    /// When it last ended, in the engine's format.
    pub finished_at: String,
    /// How long the engine waits for it to stop before it kills it, in seconds.
    pub stop_timeout: u64,
    /// The kernel killed a process of it for want of memory.
    pub oom_killed: bool,
    /// Its stop signal is SIGKILL.
    pub stops_by_kill: bool,
    /// `--rm`: stopping it deletes it.
    pub auto_remove: bool,
    /// Its restart policy.
    pub restart: Restart,
    /// It looks like a database, by its image, command or mounts.
    pub database: bool,
    /// With [`Restart::OnFailure`]: how often its engine starts it again; 0 means no limit.
    pub retries: u64,
    /// Its volumes and bind mounts.
    pub data: Vec<Data>,
    /// When it was created, in the engine's format.
    pub created: String,
    /// Its own health check.
    pub check: Option<HealthCheck>,
    pub networks: Vec<Network>,
    /// Its configuration names a hardware address.
    pub fixed_mac: bool,
    /// The ports of the guest in its configuration.
    pub ports: Vec<HostPort>,
    /// The ports of the guest that it has now; empty while it is down.
    pub taken_ports: Vec<HostPort>,
    /// The containers, by id or name, whose network, process or IPC namespace it joins: it starts
    /// only while they run.
    pub joins: Vec<String>,
    /// The name of the runtime that starts it; empty if the engine decides.
    pub runtime: String,
    /// The containers, by name, that it has legacy links to (`--link`); they must run at its start
    /// too.
    pub links: Vec<String>,
}

/// A dependency on a service, from compose's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dependency<'a> {
    pub service: &'a str,
    pub condition: Condition,
}

/// What compose waits for before it starts a dependent service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    Started,
    Healthy,
    /// It has ended with 0.
    Completed,
}

impl Container {
    /// Reads the engine's answer to an inspection.
    pub fn parse(answer: &[u8]) -> Result<Container, String> {
        serde_json::from_slice::<Inspected>(answer).map_err(|error| reason(&error))?.try_into()
    }

    /// Reads the ids in the engine's answer to a list, at most
    /// [`MOST_CONTAINERS`](super::MOST_CONTAINERS).
    pub fn parse_list(answer: &[u8]) -> Result<Vec<String>, String> {
        let Ids(ids) = serde_json::from_slice(answer).map_err(|error| reason(&error))?;
        Ok(ids)
    }

    /// The memory that it takes, in bytes.
    pub fn weight(&self) -> usize {
        let labels = self.labels.iter().map(|(key, value)| LABEL + key.len() + value.len());
        let data = self.data.iter().map(Data::weight);
        let times = self.started_at.len() + self.finished_at.len() + self.created.len();
        let own = self.id.len() + self.engine.len() + self.name.len() + self.runtime.len() + times;
        let others = self.joins.iter().chain(&self.links).map(|name| NAME + name.len());
        let network =
            network::weight(&self.networks, &self.ports) + network::weight(&[], &self.taken_ports);
        let check = self.check.as_ref().map_or(0, HealthCheck::weight);
        size_of::<Container>()
            + own
            + labels.sum::<usize>()
            + data.sum::<usize>()
            + others.sum::<usize>()
            + network
            + check
    }

    /// A label's value.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.get(name).map(String::as_str)
    }

    /// Whether Docker Swarm manages it.
    pub fn is_swarm_task(&self) -> bool {
        self.labels.keys().any(|key| key.starts_with("com.docker.swarm."))
    }

    /// How long it ran when it last ended; `None` if that is unknown, or if it runs.
    pub fn ran_for(&self) -> Option<Duration> {
        let time = |text: &str| DateTime::parse_from_rfc3339(text).ok();
        (time(&self.finished_at)? - time(&self.started_at)?).to_std().ok()
    }

    /// Whether it last ended before that time; false if that is unknown.
    pub fn ended_before(&self, time: DateTime<Utc>) -> bool {
        DateTime::parse_from_rfc3339(&self.finished_at).is_ok_and(|ended| ended < time)
    }

    /// The compose project it belongs to.
    pub fn project(&self) -> Option<&str> {
        self.label("com.docker.compose.project")
    }

    /// The compose service it belongs to.
    pub fn service(&self) -> Option<&str> {
        self.label("com.docker.compose.service")
    }

    /// Whether it was made by `docker compose run`: it has its service's labels, but is not the
    /// service.
    pub fn is_one_off(&self) -> bool {
        self.label("com.docker.compose.oneoff")
            .is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    /// Whether its engine starts it again without a limit.
    pub fn is_kept_up(&self) -> bool {
        match self.restart {
            Restart::Always | Restart::UnlessStopped => true,
            Restart::OnFailure => self.retries == 0,
            Restart::No => false,
        }
    }

    /// Whether it was created after that time; false if the engine gives no time.
    pub fn is_younger_than(&self, time: DateTime<Utc>) -> bool {
        DateTime::parse_from_rfc3339(&self.created).is_ok_and(|created| created > time)
    }

    /// The services of its project that it depends on.
    pub fn depends_on(&self) -> impl Iterator<Item = &str> {
        self.dependencies().map(|dependency| dependency.service)
    }

    /// Those services with their conditions, from compose's label:
    /// `db:service_healthy:false,cache:service_started:false`. The third part says whether compose
    /// restarts it with the service.
    pub fn dependencies(&self) -> impl Iterator<Item = Dependency<'_>> {
        let label = self.label("com.docker.compose.depends_on").unwrap_or_default();
        label.split(',').filter_map(|dependency| {
            let mut parts = dependency.split(':');
            let service = parts.next().filter(|service| !service.is_empty())?;
            let condition = match parts.next() {
                Some("service_healthy") => Condition::Healthy,
                Some("service_completed_successfully") => Condition::Completed,
                _ => Condition::Started,
            };
            Some(Dependency { service, condition })
        })
    }
}

fn reason(error: &serde_json::Error) -> String {
    text::excerpt(error, LONGEST_REASON)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    id: String,
    name: String,
    #[serde(default)]
    created: String,
    state: InspectedState,
    #[serde(default)]
    config: InspectedConfig,
    #[serde(default)]
    path: String,
    #[serde(default)]
    args: Words,
    #[serde(default)]
    host_config: HostConfig,
    #[serde(default)]
    mounts: Mounts,
    #[serde(default)]
    network_settings: NetworkSettings,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkSettings {
    #[serde(default)]
    networks: Networks,
    #[serde(default)]
    ports: Ports,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedState {
    status: String,
    #[serde(default)]
    started_at: String,
    #[serde(default)]
    finished_at: String,
    #[serde(default)]
    exit_code: i64,
    #[serde(default, rename = "OOMKilled")]
    oom_killed: bool,
    #[serde(default)]
    health: Option<InspectedHealth>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedHealth {
    #[serde(default)]
    status: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedConfig {
    #[serde(default)]
    image: String,
    #[serde(default)]
    labels: Labels,
    #[serde(default)]
    stop_timeout: Option<i64>,
    #[serde(default)]
    stop_signal: Option<String>,
    /// Only what was configured: an address that the engine has chosen is in the network settings.
    #[serde(default)]
    mac_address: Option<String>,
    #[serde(default)]
    healthcheck: Option<health::Inspected>,
    #[serde(default)]
    shell: Option<Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HostConfig {
    #[serde(default)]
    auto_remove: bool,
    #[serde(default)]
    restart_policy: RestartPolicy,
    #[serde(default)]
    network_mode: String,
    #[serde(default)]
    pid_mode: String,
    #[serde(default)]
    ipc_mode: String,
    #[serde(default)]
    links: Option<Vec<String>>,
    #[serde(default)]
    port_bindings: Ports,
    #[serde(default)]
    runtime: Option<String>,
}

impl HostConfig {
    /// The runtime; Podman says `oci` of each.
    fn runtime(&self) -> String {
        let named = self.runtime.as_deref().filter(|runtime| *runtime != "oci");
        named.unwrap_or_default().chars().take(LONGEST_RUNTIME).collect()
    }

    /// The containers that `container:ID` modes name.
    fn joins(&self) -> Vec<String> {
        let modes = [&self.network_mode, &self.pid_mode, &self.ipc_mode];
        let joined = modes.into_iter().filter_map(|mode| mode.strip_prefix("container:"));
        let mut joined: Vec<String> =
            joined.filter(|other| is_id(other)).map(String::from).collect();
        joined.sort_unstable();
        joined.dedup();
        joined
    }

    /// The containers in links such as `/db:/web/alias`.
    fn links(&self) -> Vec<String> {
        let names = self.links.iter().flatten().filter_map(|link| link.split(':').next());
        let names = names.map(|name| name.trim_start_matches('/')).filter(|name| is_id(name));
        names.take(MOST_LINKS).map(String::from).collect()
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RestartPolicy {
    #[serde(default)]
    name: String,
    #[serde(default)]
    maximum_retry_count: u64,
}

impl TryFrom<Inspected> for Container {
    type Error = String;

    fn try_from(inspected: Inspected) -> Result<Container, String> {
        if !is_id(&inspected.id) {
            return Err("the engine's answer names no container".to_string());
        }
        let stop_timeout = match inspected.config.stop_timeout {
            None => STOP_TIMEOUT,
            Some(seconds) => u64::try_from(seconds).unwrap_or(LONGEST_STOP).min(LONGEST_STOP),
        };
        let command = std::iter::once(&inspected.path);
        let command = command.chain(&inspected.args.0);
        let database = inspected.mounts.database
            || database::is_one(&inspected.config.image, command.map(String::as_str));
        Ok(Container {
            database,
            id: inspected.id,
            engine: String::new(),
            name: inspected.name.trim_start_matches('/').chars().take(255).collect(),
            labels: inspected.config.labels.0,
            status: match inspected.state.status.as_str() {
                "created" => Status::Created,
                "running" => Status::Running,
                "paused" => Status::Paused,
                "restarting" => Status::Restarting,
                "removing" => Status::Removing,
                // Podman says "stopped" and "configured" where Docker says "exited" and "created".
                "exited" | "stopped" => Status::Exited,
                "configured" | "initialized" => Status::Created,
                "dead" => Status::Dead,
                _ => Status::Other,
            },
            health: inspected.state.health.and_then(|health| match health.status.as_str() {
                "starting" => Some(Health::Starting),
                "healthy" => Some(Health::Healthy),
                "unhealthy" => Some(Health::Unhealthy),
                // "none" or nothing: it has no health check.
                _ => None,
            }),
            started_at: inspected.state.started_at.chars().take(64).collect(),
            exit_code: inspected.state.exit_code,
            finished_at: inspected.state.finished_at.chars().take(64).collect(),
            stop_timeout,
            oom_killed: inspected.state.oom_killed,
            stops_by_kill: inspected.config.stop_signal.is_some_and(|signal| is_kill(&signal)),
            auto_remove: inspected.host_config.auto_remove,
            restart: match inspected.host_config.restart_policy.name.as_str() {
                "always" => Restart::Always,
                "unless-stopped" => Restart::UnlessStopped,
                "on-failure" => Restart::OnFailure,
                // Engines say "no" or nothing.
                _ => Restart::No,
            },
            retries: inspected.host_config.restart_policy.maximum_retry_count,
            data: inspected.mounts.data,
            created: inspected.created.chars().take(64).collect(),
            check: inspected
                .config
                .healthcheck
                .and_then(|check| check.check(inspected.config.shell)),
            networks: inspected.network_settings.networks.0,
            fixed_mac: inspected.config.mac_address.is_some_and(|address| !address.is_empty()),
            runtime: inspected.host_config.runtime(),
            joins: inspected.host_config.joins(),
            links: inspected.host_config.links(),
            ports: inspected.host_config.port_bindings.0,
            taken_ports: inspected.network_settings.ports.0,
        })
    }
}

/// Docker keeps the signal as it was given: a name with or without `SIG`, or a number.
fn is_kill(signal: &str) -> bool {
    matches!(signal.to_ascii_uppercase().as_str(), "SIGKILL" | "KILL" | "9")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "3b1f0c2d4e5f60718293a4b5c6d7e8f90123456789abcdef0123456789abcdef";

    fn inspected(config: &str, rest: &str) -> Result<Container, String> {
        let text = format!(
            r#"{{"Id":"{ID}","Name":"/shop-db-1","State":{{"Status":"running","StartedAt":"2026-11-21T23:00:00Z","ExitCode":0}},
            "Config":{config},"HostConfig":{{"AutoRemove":true}}{rest}}}"#
        );
        Container::parse(text.as_bytes())
    }

    #[test]
    fn a_container_is_read_with_what_the_engine_leaves_out() {
        let container = inspected(r#"{"Labels":null}"#, "").unwrap();
        assert_eq!((container.name.as_str(), container.stop_timeout), ("shop-db-1", 10));
        assert!(container.auto_remove && container.data.is_empty());
        let mounts = r#","Mounts":[{"Type":"volume","Name":"pg","Source":"/var/lib/docker/volumes/pg/_data"},{"Type":"tmpfs","Source":""}]"#;
        let container = inspected(r#"{"StopTimeout":-1}"#, mounts).unwrap();
        let data = Data {
            path: "/var/lib/docker/volumes/pg/_data".to_string(),
            writable: true,
            volume: Some("pg".to_string()),
        };
        assert_eq!(container.data, [data]);
        assert_eq!(container.stop_timeout, LONGEST_STOP);
    }

    #[test]
    fn a_policy_that_is_not_said_is_no() {
        assert_eq!(inspected("{}", "").unwrap().restart, Restart::No);
        let text = format!(
            r#"{{"Id":"{ID}","Name":"/x","State":{{"Status":"running"}},"HostConfig":{{"RestartPolicy":{{"Name":"unless-stopped"}}}}}}"#
        );
        assert_eq!(Container::parse(text.as_bytes()).unwrap().restart, Restart::UnlessStopped);
    }

    #[test]
    fn dependencies_stand_in_a_label() {
        let label = "com.docker.compose.depends_on";
        let config = format!(
            r#"{{"Labels":{{"{label}":"db:service_healthy:false,cache:service_started:false"}}}}"#
        );
        let container = inspected(&config, "").unwrap();
        assert_eq!(container.depends_on().collect::<Vec<_>>(), ["db", "cache"]);
        let conditions = container.dependencies().map(|dependency| dependency.condition);
        assert_eq!(conditions.collect::<Vec<_>>(), [Condition::Healthy, Condition::Started]);
        assert_eq!(inspected(r#"{"Labels":{}}"#, "").unwrap().depends_on().count(), 0);
    }

    #[test]
    fn what_a_start_needs_is_read() {
        let text = format!(
            r#"{{"Id":"{ID}","Name":"/x","Created":"2026-11-21T23:00:00Z","State":{{"Status":"running"}},"Config":{{"MacAddress":"02:42:ac:1e:00:02"}},
            "HostConfig":{{"NetworkMode":"container:{ID}","PidMode":"container:vpn","IpcMode":"private","Links":["/db:/x/db"],
            "PortBindings":{{"80/tcp":[{{"HostPort":"80"}}]}},"RestartPolicy":{{"Name":"on-failure","MaximumRetryCount":3}}}}}}"#
        );
        let container = Container::parse(text.as_bytes()).unwrap();
        assert_eq!(
            (container.joins, container.links),
            (vec![ID.to_string(), "vpn".into()], vec!["db".to_string()])
        );
        assert!(container.fixed_mac && container.ports[0].first == 80 && container.retries == 3);
        assert_eq!(container.created, "2026-11-21T23:00:00Z");
        let odd = r#","HostConfig":{"NetworkMode":"container:../x","Links":null,"PortBindings":null},"NetworkSettings":{"Ports":null,"Networks":null}"#;
        let odd = format!(r#"{{"Id":"{ID}","Name":"/x","State":{{"Status":"running"}}{odd}}}"#);
        assert!(Container::parse(odd.as_bytes()).unwrap().joins.is_empty());
    }

    #[test]
    fn health_is_read_where_there_is_a_check() {
        let health = |state: &str| {
            let text =
                format!(r#"{{"Id":"{ID}","Name":"/db","State":{{"Status":"running"{state}}}}}"#);
            Container::parse(text.as_bytes()).unwrap().health
        };
        assert_eq!(health(""), None);
        assert_eq!(health(r#","Health":null"#), None);
        assert_eq!(health(r#","Health":{"Status":"none"}"#), None);
        assert_eq!(health(r#","Health":{"Status":"starting"}"#), Some(Health::Starting));
        assert_eq!(health(r#","Health":{"Status":"unhealthy"}"#), Some(Health::Unhealthy));
    }

    #[test]
    fn an_id_is_nothing_but_an_id() {
        assert!(is_id(ID) && is_id(&ID[..12]));
        for id in ["", "..", "../../etc/passwd", "3b1f0c2d4e5f/stop?t=0", "a%2f", &ID.repeat(3)] {
            assert!(!is_id(id), "{id}");
        }
    }

    #[test]
    fn json_nested_too_deep_crashes_nothing() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(inspected("{}", &format!(r#","Deep":{deep}"#)).is_ok(), "passed over");
        assert!(inspected(&format!(r#"{{"Labels":{deep}}}"#), "").is_err());
    }
}
