//! The Docker Engine API: from a request's path to the action, versioned or not.

use super::container::Container;
use super::{Inner, actions, hostile, images, json};
use crate::http::{Answer, Body, Request, serve_connection};
use actions::{refuse, reply};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Serves one client until it disconnects.
pub fn serve(inner: &Inner, stream: &UnixStream) {
    // Clients often disconnect in the middle; their request has been done.
    let _ = serve_connection(stream, &|request| answer(inner, request));
}

fn answer(inner: &Inner, request: &Request) -> Answer {
    let boot = inner.lock().boots;
    let here = |inner: &Inner| {
        let state = inner.lock();
        state.up && state.boots == boot
    };
    if !actions::pass(inner, Duration::ZERO, here) {
        return Answer::new(500, Body::Nothing);
    }
    let hostile = inner.config().hostile.clone();
    if let Some(answer) = hostile.and_then(|hostile| hostile::answer(inner, hostile, request)) {
        return answer;
    }
    let answer = route(inner, request);
    if !actions::pass(inner, Duration::ZERO, here) {
        return Answer::new(500, Body::Nothing);
    }
    let api = inner.config().api.clone();
    let version = inner.config().version.clone();
    answer
        .with_header("api-version", &api)
        .with_header("docker-experimental", "false")
        .with_header("ostype", "linux")
        .with_header("server", &format!("Docker/{version} (linux)"))
}

fn route(inner: &Inner, request: &Request) -> Answer {
    let mut segments = request.segments();
    if let Some(version) = segments.first().and_then(|first| asked_version(first)) {
        segments.remove(0);
        if let Some(refusal) = refuse_version(inner, version) {
            return refusal;
        }
    }
    let segments = segments.iter().map(String::as_str).collect::<Vec<_>>();
    match (request.method.as_str(), segments.as_slice()) {
        ("GET" | "HEAD", ["_ping"]) => Answer::new(200, Body::Fixed(b"OK".to_vec()))
            .with_header("content-type", "text/plain; charset=utf-8"),
        ("GET", ["version"]) => reply(200, &json::version(&inner.config())),
        ("GET", ["info"]) => {
            let containers = inner.lock().containers.clone();
            reply(200, &json::info(&inner.config(), &containers))
        }
        ("GET", ["volumes", name]) => volume(inner, name),
        ("GET", ["networks", name]) => {
            let is_macvlan = inner.config().macvlans.iter().any(|macvlan| macvlan == name);
            let driver = if is_macvlan { "macvlan" } else { "bridge" };
            reply(200, &json!({"Name": name, "Driver": driver, "Scope": "local"}))
        }
        ("GET", ["containers", "json"]) => list(inner, request),
        ("GET", ["images", "json"]) => images::list(inner),
        ("GET", ["images", id, "json"]) => images::inspect(inner, id),
        ("POST", ["containers", "create"]) => match serde_json::from_slice(&request.body) {
            Ok(body) => images::create(inner, request.param("name").as_deref(), &body),
            Err(error) => refuse(400, format!("invalid JSON: {error}")),
        },
        ("DELETE", ["containers", id]) => {
            let force = matches!(request.param("force").as_deref(), Some("1" | "true" | "True"));
            actions::remove(inner, id, force)
        }
        ("GET", ["containers", id, "json"]) => {
            let state = inner.lock();
            match state.find(id) {
                Some(at) => {
                    let mut shown = state.containers[at].clone();
                    if inner.config().hides_addresses {
                        shown.spec.networks.iter_mut().for_each(|network| network.fixed = None);
                    }
                    let container = &shown;
                    let mut answer = json::inspect(container);
                    for (name, network, address) in inner.config().fixed.iter() {
                        if *name == container.spec.name {
                            answer["NetworkSettings"]["Networks"][network] =
                                json!({"IPAMConfig": {"IPv4Address": address}});
                        }
                    }
                    reply(200, &answer)
                }
                None => actions::missing(id),
            }
        }
        ("POST", ["containers", id, "stop"]) => match request.param("t").map(|t| t.parse()) {
            Some(Err(_)) => refuse(400, "invalid stop timeout".to_owned()),
            Some(Ok(limit)) => actions::stop(inner, id, Some(limit)),
            None => actions::stop(inner, id, None),
        },
        ("POST", ["containers", id, "start"]) => actions::start(inner, id),
        ("POST", ["containers", id, "pause"]) => actions::pause(inner, id, true),
        ("POST", ["containers", id, "unpause"]) => actions::pause(inner, id, false),
        ("POST", ["containers", id, "wait"]) => actions::wait(inner, id),
        ("POST", ["containers", id, "exec"]) => match serde_json::from_slice(&request.body) {
            Ok(body) => actions::exec_create(inner, id, &body),
            Err(error) => refuse(400, format!("invalid JSON: {error}")),
        },
        ("POST", ["exec", id, "start"]) => {
            let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
            actions::exec_start(inner, id, body["Detach"] == true)
        }
        ("GET", ["exec", id, "json"]) => actions::exec_inspect(inner, id),
        _ => refuse(404, "page not found".to_owned()),
    }
}

/// `GET /volumes/NAME`: a volume that a container uses.
fn volume(inner: &Inner, name: &str) -> Answer {
    let has = |c: &Container| c.spec.volumes.iter().any(|(volume, _)| volume == name);
    if !inner.lock().containers.iter().any(has) {
        return refuse(404, format!("get {name}: no such volume"));
    }
    let options = inner.config().volume_options.get(name).cloned();
    let place = format!("/var/lib/docker/volumes/{name}/_data");
    let volume = json!({
        "Name": name, "Driver": "local", "Mountpoint": place, "Labels": null, "Scope": "local",
        "Options": options,
    });
    reply(200, &volume)
}

fn asked_version(segment: &str) -> Option<(u32, u32)> {
    parse_version(segment.strip_prefix('v')?)
}

fn parse_version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn refuse_version(inner: &Inner, (major, minor): (u32, u32)) -> Option<Answer> {
    let config = inner.config();
    let (highest, lowest) = (&config.api, &config.min_api);
    let message = if parse_version(highest).is_some_and(|highest| (major, minor) > highest) {
        format!(
            "client version {major}.{minor} is too new. Maximum supported API version is {highest}"
        )
    } else if parse_version(lowest).is_some_and(|lowest| (major, minor) < lowest) {
        format!(
            "client version {major}.{minor} is too old. Minimum supported API version is {lowest}, \
             please upgrade your client to a newer version"
        )
    } else {
        return None;
    };
    Some(refuse(400, message))
}

/// `GET /containers/json`: running and paused containers, unless the request asks for all or for a
/// status.
fn list(inner: &Inner, request: &Request) -> Answer {
    let filters = match request.param("filters").filter(|text| !text.is_empty()) {
        Some(text) => match parse_filters(&text) {
            Some(filters) => filters,
            None => return refuse(400, "invalid filter".to_owned()),
        },
        None => BTreeMap::new(),
    };
    let known = ["status", "label", "name", "id"];
    if let Some(unknown) = filters.keys().find(|key| !known.contains(&key.as_str())) {
        return refuse(400, format!("invalid filter '{unknown}'"));
    }
    let limit = request.param("limit").and_then(|limit| limit.parse().ok());
    let all = matches!(request.param("all").as_deref(), Some("1" | "true" | "True"));
    let all = all || limit.is_some_and(|limit: usize| limit > 0) || filters.contains_key("status");
    let state = inner.lock();
    let mut found = state
        .containers
        .iter()
        .rev()
        .filter(|c| (all || c.status.is_alive()) && matches(c, &filters))
        .map(json::entry)
        .collect::<Vec<_>>();
    if let Some(limit) = limit.filter(|limit| *limit > 0) {
        found.truncate(limit);
    }
    reply(200, &Value::Array(found))
}

/// `{"status":["running"]}`, or the older `{"status":{"running":true}}`
fn parse_filters(text: &str) -> Option<BTreeMap<String, Vec<String>>> {
    let value: Value = serde_json::from_str(text).ok()?;
    let mut filters = BTreeMap::new();
    for (key, wanted) in value.as_object()? {
        let wanted = match wanted {
            Value::Array(list) => list
                .iter()
                .map(|value| value.as_str().map(str::to_owned))
                .collect::<Option<Vec<_>>>()?,
            Value::Object(map) => map.keys().cloned().collect(),
            _ => return None,
        };
        filters.insert(key.clone(), wanted);
    }
    Some(filters)
}

fn matches(container: &Container, filters: &BTreeMap<String, Vec<String>>) -> bool {
    filters.iter().all(|(key, wanted)| match key.as_str() {
        "status" => wanted.iter().any(|name| name == container.status.name()),
        "name" => {
            wanted.iter().any(|name| container.spec.name.contains(name.trim_start_matches('/')))
        }
        "id" => wanted.iter().any(|id| container.id.starts_with(id)),
        _ => wanted.iter().all(|label| {
            let (name, value) = match label.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (label.as_str(), None),
            };
            let has = container.spec.labels.get(name);
            has.is_some_and(|has| value.is_none_or(|value| value == has))
        }),
    })
}
