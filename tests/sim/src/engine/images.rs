//! The images: those of the present containers, and containers made from them.

use super::actions::{refuse, reply};
use super::container::{Container, Restart, Spec, Status};
use super::{Inner, What};
use crate::http::Answer;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;

/// The program that every image has.
const PROGRAM: &str = "/entrypoint.sh";

/// The id of the image of that name.
pub fn id(name: &str) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in name.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("sha256:{hash:016x}{hash:016x}{hash:016x}{hash:016x}")
}

/// `GET /images/json`
pub fn list(inner: &Inner) -> Answer {
    let image = |name: &String| {
        json!({
            "Id": id(name), "ParentId": "", "RepoTags": [name], "RepoDigests": [], "Created": 1,
            "Size": 1_000_000 * name.len(), "SharedSize": -1, "Containers": -1, "Labels": labels(inner),
        })
    };
    reply(200, &Value::Array(names(inner).iter().map(image).collect()))
}

/// `GET /images/ID/json`
pub fn inspect(inner: &Inner, reference: &str) -> Answer {
    let Some(name) = find(inner, reference) else {
        return missing(reference);
    };
    reply(
        200,
        &json!({
            "Id": id(&name), "RepoTags": [name], "Architecture": "amd64", "Os": "linux",
            "Config": {"Entrypoint": [PROGRAM], "Cmd": ["serve"], "Labels": labels(inner), "Volumes": null},
        }),
    )
}

/// `POST /containers/create`: the image's labels are added, unless the request sets them.
pub fn create(inner: &Inner, name: Option<&str>, body: &Value) -> Answer {
    let reference = body["Image"].as_str().unwrap_or_default();
    let Some(image) = find(inner, reference) else {
        return missing(reference);
    };
    let id = inner.next_id();
    let name = name.map_or_else(|| id[..12].to_owned(), str::to_owned);
    let mut state = inner.lock();
    if let Some(other) = state.containers.iter().find(|other| other.spec.name == name) {
        let message = format!(
            "Conflict. The container name \"/{name}\" is already in use by container \"{}\".",
            other.id
        );
        return refuse(409, message);
    }
    let mut spec = Spec { name, image, ..Spec::service("", "") };
    spec.labels = inner.config().image_labels.iter().cloned().collect();
    for (label, value) in body["Labels"].as_object().into_iter().flatten() {
        spec.labels.insert(label.clone(), value.as_str().unwrap_or_default().to_owned());
    }
    spec.restart = match body["HostConfig"]["RestartPolicy"]["Name"].as_str() {
        Some("always") => Restart::Always,
        Some("unless-stopped") => Restart::UnlessStopped,
        Some("on-failure") => Restart::OnFailure,
        _ => Restart::No,
    };
    spec.auto_remove = body["HostConfig"]["AutoRemove"] == true;
    spec.start_takes = Duration::from_millis(20);
    spec.runtime = body["HostConfig"]["Runtime"].as_str().map(str::to_owned);
    let program = body["Entrypoint"][0].as_str().unwrap_or(PROGRAM);
    spec.missing_program = (program != PROGRAM).then(|| program.to_owned());
    let container = Container::new(id.clone(), spec.status(Status::Created));
    state.record(&container, What::Created);
    state.made.push(container.clone());
    state.containers.push(container);
    inner.changed.notify_all();
    reply(201, &json!({ "Id": id, "Warnings": [] }))
}

fn names(inner: &Inner) -> BTreeSet<String> {
    if inner.config().no_images {
        return BTreeSet::new();
    }
    inner.lock().containers.iter().map(|container| container.spec.image.clone()).collect()
}

fn find(inner: &Inner, reference: &str) -> Option<String> {
    names(inner).into_iter().find(|name| name == reference || id(name) == reference)
}

fn labels(inner: &Inner) -> Value {
    let labels = inner.config().image_labels.clone();
    Value::Object(labels.into_iter().map(|(name, value)| (name, Value::from(value))).collect())
}

fn missing(reference: &str) -> Answer {
    refuse(404, format!("No such image: {reference}"))
}
