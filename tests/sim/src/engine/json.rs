//! The engine's answers as JSON, with the fields of the Docker Engine API that a client may read.

use super::EngineConfig;
use super::actions::HEALTH_COMMAND;
use super::container::Container;
use super::images;
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};

/// Docker's value for a time that has not happened.
const NEVER: &str = "0001-01-01T00:00:00Z";

fn time(at: Option<DateTime<Utc>>) -> String {
    at.map_or(NEVER.to_owned(), |at| at.to_rfc3339_opts(SecondsFormat::Nanos, true))
}

fn human(container: &Container) -> String {
    let base = match container.status.name() {
        "running" | "paused" => "Up 2 minutes".to_owned(),
        "exited" => format!("Exited ({}) 2 seconds ago", container.exit_code),
        "removing" => "Removal In Progress".to_owned(),
        "restarting" => format!("Restarting ({}) 1 second ago", container.exit_code),
        _ => "Created".to_owned(),
    };
    match (container.status.name(), container.health()) {
        ("paused", _) => format!("{base} (Paused)"),
        ("running", Some("starting")) => format!("{base} (health: starting)"),
        ("running", Some(health)) => format!("{base} ({health})"),
        _ => base,
    }
}

fn mounts(container: &Container) -> Value {
    let mounts = container.spec.volumes.iter().map(|(name, destination)| {
        // As in a compose file.
        let (destination, writable) = match destination.strip_suffix(":ro") {
            Some(destination) => (destination, false),
            None => (destination.as_str(), true),
        };
        if name.starts_with('/') {
            return json!({
                "Type": "bind", "Source": name, "Destination": destination, "Mode": "",
                "RW": writable, "Propagation": "rprivate",
            });
        }
        json!({
            "Type": "volume", "Name": name, "Driver": "local", "Mode": "z", "RW": writable,
            "Source": format!("/var/lib/docker/volumes/{name}/_data"),
            "Destination": destination, "Propagation": "",
        })
    });
    Value::Array(mounts.collect())
}

/// The networks of a container; its configured address is separate from the one that it has.
fn networks(container: &Container) -> Value {
    let networks = container.spec.networks.iter().map(|network| {
        let mut leases = container.lease.addresses.iter();
        let lease = leases.find(|(name, _)| *name == network.name);
        let address = lease.map_or("", |(_, address)| address.as_str());
        let configured = network.fixed.as_ref().map(|address| json!({"IPv4Address": address}));
        (network.name.clone(), json!({"IPAMConfig": configured, "IPAddress": address}))
    });
    Value::Object(networks.collect())
}

/// Published ports, under the given names for the configured and the actual ports.
fn bindings(container: &Container, words: impl Fn((u16, u16), Option<u16>) -> String) -> Value {
    let ports = container.spec.ports.iter().enumerate().map(|(at, range)| {
        let port = words(*range, container.lease.ports.get(at).copied());
        let bound =
            if port.is_empty() { json!(null) } else { json!([{"HostIp": "", "HostPort": port}]) };
        (format!("{}/tcp", 8000 + at), bound)
    });
    Value::Object(ports.collect())
}

/// One entry of `GET /containers/json`.
pub fn entry(container: &Container) -> Value {
    let spec = &container.spec;
    json!({
        "Id": container.id,
        "Names": [format!("/{}", spec.name)],
        "Image": spec.image,
        "ImageID": images::id(&spec.image),
        "Command": "/entrypoint.sh",
        "Created": container.created.timestamp(),
        "Ports": [],
        "Labels": spec.labels,
        "State": container.status.name(),
        "Status": human(container),
        "HostConfig": {"NetworkMode": "shop_default"},
        "NetworkSettings": {"Networks": {"shop_default": {"IPAddress": "172.18.0.2"}}},
        "Mounts": mounts(container),
    })
}

/// The answer to `GET /containers/ID/json`.
pub fn inspect(container: &Container) -> Value {
    let spec = &container.spec;
    let alive = container.status.is_alive();
    let mut state = json!({
        "Status": container.status.name(),
        "Running": alive,
        "Paused": container.status.name() == "paused",
        "Restarting": container.status.name() == "restarting",
        "OOMKilled": false,
        "Dead": false,
        "Pid": if alive { 1234 } else { 0 },
        "ExitCode": container.exit_code,
        "Error": "",
        "StartedAt": time(container.started_at),
        "FinishedAt": time(container.finished_at),
    });
    if let Some(health) = container.health() {
        state["Health"] = json!({"Status": health, "FailingStreak": 0, "Log": []});
    }
    let mut config = json!({
        "Hostname": &container.id[..12],
        "User": "",
        "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        "Cmd": ["serve"],
        "Image": spec.image,
        "Entrypoint": ["/entrypoint.sh"],
        "Labels": spec.labels,
        "StopSignal": "SIGTERM",
    });
    if spec.healthy_after.is_some() {
        let interval = i64::try_from(spec.health_interval.as_nanos()).unwrap_or(i64::MAX);
        config["Healthcheck"] =
            json!({"Test": ["CMD-SHELL", HEALTH_COMMAND], "Interval": interval});
    }
    if let Some(timeout) = spec.stop_timeout {
        config["StopTimeout"] = json!(timeout);
    }
    json!({
        "Id": container.id,
        "Created": time(Some(container.created)),
        "Path": "/entrypoint.sh",
        "Args": ["serve"],
        "State": state,
        "Image": images::id(&spec.image),
        "Name": format!("/{}", spec.name),
        "RestartCount": 0,
        "Driver": "overlay2",
        "Platform": "linux",
        "HostConfig": {
            "Binds": null,
            "NetworkMode": spec.network_mode,
            "PortBindings": bindings(container, |(first, last), _| {
                if first == last { first.to_string() } else { format!("{first}-{last}") }
            }),
            "RestartPolicy": {"Name": spec.restart.name(), "MaximumRetryCount": spec.retries},
            "AutoRemove": spec.auto_remove,
            "Privileged": false,
            "Runtime": spec.runtime.as_deref().unwrap_or("runc"),
        },
        "Mounts": mounts(container),
        "Config": config,
        "NetworkSettings": {
            "Networks": networks(container),
            "Ports": bindings(container, |_, taken| taken.map(|port| port.to_string()).unwrap_or_default()),
        },
    })
}

/// The answer to `GET /version`.
pub fn version(config: &EngineConfig) -> Value {
    json!({
        "Platform": {"Name": "Docker Engine - Community"},
        "Components": [
            {"Name": "Engine", "Version": config.version, "Details": {"GitCommit": "0000000"}},
            {"Name": "containerd", "Version": "v2.1.5", "Details": {"GitCommit": "fcd43222d6b0"}},
            {"Name": "runc", "Version": config.runc, "Details": {"GitCommit": "v1.3.3-0-gd842d77"}},
            {"Name": "docker-init", "Version": "0.19.0", "Details": {"GitCommit": "de40ad0"}},
        ],
        "Version": config.version,
        "ApiVersion": config.api,
        "MinAPIVersion": config.min_api,
        "GitCommit": "0000000",
        "GoVersion": "go1.25.3",
        "Os": "linux",
        "Arch": "amd64",
        "KernelVersion": "6.17.2-1-pve",
        "BuildTime": "2026-01-01T00:00:00.000000000+00:00",
    })
}

/// The answer to `GET /info`.
pub fn info(config: &EngineConfig, containers: &[Container]) -> Value {
    let count = |status: &str| {
        let all = containers.iter().filter(|c| c.status.name() == status);
        all.count()
    };
    json!({
        "ID": config.id,
        "Containers": containers.len(),
        "ContainersRunning": count("running"),
        "ContainersPaused": count("paused"),
        "ContainersStopped": count("exited") + count("created"),
        "Images": 4,
        "Driver": "overlay2",
        "DockerRootDir": "/var/lib/docker",
        "Name": "guest",
        "ServerVersion": config.version,
        "LiveRestoreEnabled": config.live_restore,
        "DefaultRuntime": "runc",
        "Swarm": {"LocalNodeState": "inactive"},
        "Warnings": null,
    })
}
