//! What the engine does with containers. Each action continues if the client that asked for it
//! disconnects.

use super::container::{Container, Status};
use super::{Exec, Inner, What, network};
use crate::http::{Answer, Body};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// The text that the engine and containerd put before the runtime's error.
const RUNTIME: &str = "failed to create task for container: failed to create shim task: OCI runtime create failed: \
                       runc create failed: unable to start container process: error during container init: ";

/// The command of every simulated health check.
pub const HEALTH_COMMAND: &str = "check-health";

/// An answer in JSON.
pub fn reply(status: u16, value: &Value) -> Answer {
    Answer::new(status, Body::Fixed(format!("{value}\n").into_bytes()))
        .with_header("content-type", "application/json")
}

/// The engine's form of an error.
pub fn refuse(status: u16, message: String) -> Answer {
    reply(status, &json!({ "message": message }))
}

fn done(status: u16) -> Answer {
    Answer::new(status, Body::Fixed(Vec::new()))
}

pub fn missing(reference: &str) -> Answer {
    refuse(404, format!("No such container: {reference}"))
}

/// Lets time pass in the guest; none passes while it is frozen. False once `alive` returns false.
pub fn pass(inner: &Inner, time: Duration, alive: impl Fn(&Inner) -> bool) -> bool {
    let mut left = time;
    let mut last = Instant::now();
    while alive(inner) && !inner.ended.load(std::sync::atomic::Ordering::SeqCst) {
        let frozen = inner.is_frozen();
        let now = Instant::now();
        if !frozen {
            left = left.saturating_sub(now - last);
            if left.is_zero() {
                return true;
            }
        }
        last = now;
        let nap = if frozen { Duration::from_millis(2) } else { left };
        std::thread::sleep(nap.min(Duration::from_millis(2)));
    }
    false
}

/// How long a stop takes and how it ends: in the container's own time, or killed at the limit in
/// seconds (the container's own, else ten; a negative one means no limit).
pub fn stop_time(container: &Container, limit: Option<i64>, scale: f64) -> (Duration, i64) {
    let spec = &container.spec;
    let limit = limit.or(spec.stop_timeout).unwrap_or(10);
    if limit < 0 {
        return (spec.stop_takes, 0);
    }
    let limit = Duration::from_secs_f64(limit as f64 * scale);
    let deaf = spec.ignores_sigterm || container.status == Status::Paused;
    if deaf || spec.stop_takes > limit { (limit, 137) } else { (spec.stop_takes, 0) }
}

/// `POST /containers/ID/stop`
pub fn stop(inner: &Inner, reference: &str, limit: Option<i64>) -> Answer {
    let scale = inner.config().time_scale;
    let mut state = inner.lock();
    let boot = state.boots;
    let Some(at) = state.find(reference) else {
        return missing(reference);
    };
    if !state.containers[at].status.is_alive() {
        return done(304);
    }
    let asked = state.containers[at].clone();
    state.containers[at].stopped_by_hand = true;
    state.record(&asked, What::StopAsked);
    let second = std::mem::replace(&mut state.containers[at].stopping, true);
    let (takes, code) = stop_time(&asked, limit, scale);
    if second {
        let still = |state: &mut super::State| {
            state.up
                && state.boots == boot
                && state.containers.iter().any(|c| c.id == asked.id && c.stopping)
        };
        drop(inner.changed.wait_while(state, still));
        return done(204);
    }
    drop(state);
    let lives = |inner: &Inner| {
        let state = inner.lock();
        state.up && state.boots == boot && state.find(&asked.id).is_some()
    };
    if !pass(inner, takes, lives) {
        return missing(reference);
    }
    let mut state = inner.lock();
    if let Some(at) = state.find(&asked.id) {
        state.containers[at].ended(code);
        state.record(&asked, What::Stopped(code));
        if asked.spec.auto_remove {
            state.containers.remove(at);
            state.record(&asked, What::Removed);
        }
    }
    inner.changed.notify_all();
    done(204)
}

/// `POST /containers/ID/start`. While a stop is in progress the container still runs, so the answer
/// is 304.
pub fn start(inner: &Inner, reference: &str) -> Answer {
    let (refused, broken) = {
        let config = inner.config();
        (config.refuses_starts.clone(), config.broken_runtime.clone())
    };
    let mut state = inner.lock();
    let boot = state.boots;
    let Some(at) = state.find(reference) else {
        return missing(reference);
    };
    match state.containers[at].status {
        Status::Paused => {
            let message = "cannot start a paused container, try unpause instead";
            return refuse(409, message.to_owned());
        }
        Status::Running | Status::Restarting => return done(304),
        Status::Removing => {
            let message = "container is marked for removal and cannot be started";
            return refuse(409, message.to_owned());
        }
        Status::Created | Status::Exited => {}
    }
    let asked = state.containers[at].clone();
    let program = asked.spec.missing_program.as_ref();
    state.record(&asked, if program.is_some() { What::Tried } else { What::StartAsked });
    let no_program =
        program.map(|path| format!("exec: \"{path}\": stat {path}: no such file or directory"));
    if let Some((status, words)) = asked.spec.refuses {
        state.containers[at].exit_code = 128;
        return refuse(status, words);
    }
    let runtime = asked.spec.runtime.as_deref().unwrap_or("runc");
    let of_runtime = broken.filter(|broken| broken == runtime);
    let of_runtime = of_runtime.map(|name| format!("{name}: open sysctl: permission denied"));
    if let Some(words) = refused.or(of_runtime).or(no_program) {
        state.containers[at].exit_code = 127;
        return refuse(400, format!("{RUNTIME}{words}"));
    }
    if asked.spec.failing_starts > 0 {
        state.containers[at].spec.failing_starts -= 1;
        state.containers[at].exit_code = 128;
        let message = "failed to set up container networking: driver failed programming external \
                       connectivity: Bind for 0.0.0.0:80 failed: port is already allocated";
        return refuse(500, message.to_owned());
    }
    match network::lease(&state, &asked) {
        Ok(lease) => state.containers[at].lease = lease,
        Err((_, message)) if inner.config().hides_addresses && message.ends_with("in use") => {
            state.containers[at].exit_code = 128;
            let taken = asked.spec.networks.iter().find_map(|network| network.fixed.clone());
            let taken = taken.unwrap_or_default();
            let has = |c: &&Container| c.lease.addresses.iter().any(|(_, a)| *a == taken);
            let holder = state.containers.iter().find(has).map_or("", |c| c.id.as_str());
            return refuse(
                500,
                format!(
                    "IPAM error: requested ip address {taken} is already allocated to container ID {holder}"
                ),
            );
        }
        Err((status, message)) => {
            state.containers[at].exit_code = 128;
            return refuse(status, message);
        }
    }
    drop(state);
    let lives = |inner: &Inner| {
        let state = inner.lock();
        state.up && state.boots == boot && state.find(&asked.id).is_some()
    };
    if !pass(inner, asked.spec.start_takes, lives) {
        return missing(reference);
    }
    let mut state = inner.lock();
    let Some(at) = state.find(&asked.id) else {
        return missing(reference);
    };
    if state.containers[at].status.is_alive() {
        return done(304);
    }
    state.containers[at].began();
    state.record(&asked, What::Started);
    inner.changed.notify_all();
    done(204)
}

/// `DELETE /containers/ID`
pub fn remove(inner: &Inner, reference: &str, force: bool) -> Answer {
    let mut state = inner.lock();
    let Some(at) = state.find(reference) else {
        return missing(reference);
    };
    let container = state.containers[at].clone();
    if container.status.is_alive() && !force {
        let (id, status) = (&container.id, container.status.name());
        let message = format!(
            "cannot remove container \"{id}\": container is {status}: stop the container before removing or force remove"
        );
        return refuse(409, message);
    }
    state.containers.remove(at);
    state.record(&container, What::Removed);
    inner.changed.notify_all();
    done(204)
}

/// `POST /containers/ID/pause` and `unpause`
pub fn pause(inner: &Inner, reference: &str, pause: bool) -> Answer {
    let mut state = inner.lock();
    let Some(at) = state.find(reference) else {
        return missing(reference);
    };
    let container = state.containers[at].clone();
    let id = &container.id;
    let (status, what) = match (container.status, pause) {
        (Status::Running, true) => (Status::Paused, What::Paused),
        (Status::Paused, false) => (Status::Running, What::Unpaused),
        (Status::Paused, true) => return refuse(409, format!("Container {id} is already paused")),
        (Status::Restarting, true) => {
            let message =
                format!("Container {id} is restarting, wait until the container is running");
            return refuse(409, message);
        }
        (_, true) => return refuse(409, format!("Container {id} is not running")),
        (_, false) => return refuse(409, format!("Container {id} is not paused")),
    };
    state.containers[at].status = status;
    state.record(&container, what);
    inner.changed.notify_all();
    done(204)
}

/// `POST /containers/ID/wait`: returns when it no longer runs.
pub fn wait(inner: &Inner, reference: &str) -> Answer {
    let state = inner.lock();
    let boot = state.boots;
    let Some(at) = state.find(reference) else {
        return missing(reference);
    };
    let id = state.containers[at].id.clone();
    let alive = |state: &mut super::State| {
        let running = state.find(&id).is_some_and(|at| state.containers[at].status.is_alive());
        state.up && state.boots == boot && running
    };
    let state = match inner.changed.wait_while(state, alive) {
        Ok(state) => state,
        Err(poisoned) => poisoned.into_inner(),
    };
    let code = state.find(&id).map_or(0, |at| state.containers[at].exit_code);
    reply(200, &json!({ "StatusCode": code }))
}

/// `POST /containers/ID/exec`
pub fn exec_create(inner: &Inner, reference: &str, body: &Value) -> Answer {
    let mut state = inner.lock();
    let Some(at) = state.find(reference) else {
        return missing(reference);
    };
    let container = state.containers[at].clone();
    match container.status {
        Status::Running => {}
        Status::Paused => {
            let id = &container.id;
            return refuse(
                409,
                format!("container {id} is paused, unpause the container before exec"),
            );
        }
        _ => return refuse(409, format!("container {} is not running", container.id)),
    }
    let words = body["Cmd"].as_array().cloned().unwrap_or_default();
    let words = words.iter().filter_map(Value::as_str).collect::<Vec<_>>();
    if words.is_empty() {
        return refuse(400, "No exec command specified".to_owned());
    }
    let id = inner.next_id();
    let command = words.last().copied().unwrap_or_default().to_owned();
    let failed = match command.as_str() {
        HEALTH_COMMAND => !container.is_healthy(),
        _ => words.iter().any(|word| word.contains("false")),
    };
    let code = i64::from(failed);
    state.execs.push(Exec { id: id.clone(), container: container.id, command, code });
    reply(201, &json!({ "Id": id }))
}

/// `POST /exec/ID/start`: a command that contains the word `false` fails. A client that is not
/// detached receives the output.
pub fn exec_start(inner: &Inner, id: &str, detach: bool) -> Answer {
    let mut state = inner.lock();
    let Some(exec) = state.execs.iter().find(|exec| exec.id == id).cloned() else {
        return refuse(404, format!("No such exec instance: {id}"));
    };
    let Some(at) = state.find(&exec.container) else {
        return missing(&exec.container);
    };
    let container = state.containers[at].clone();
    state.record(&container, What::Ran);
    state.ran.push((container.spec.name, exec.command));
    if detach {
        return done(200);
    }
    let text = b"done\n";
    let mut frame = vec![1, 0, 0, 0, 0, 0, 0, text.len() as u8];
    frame.extend_from_slice(text);
    Answer::new(200, Body::UntilClose(frame))
        .with_header("content-type", "application/vnd.docker.raw-stream")
}

/// `GET /exec/ID/json`
pub fn exec_inspect(inner: &Inner, id: &str) -> Answer {
    let state = inner.lock();
    match state.execs.iter().find(|exec| exec.id == id) {
        Some(Exec { container, code, .. }) => reply(
            200,
            &json!({
                "ID": id, "Running": false, "ExitCode": code, "ContainerID": container, "Pid": 0,
                "OpenStdin": false, "OpenStdout": true, "OpenStderr": true, "CanRemove": false,
            }),
        ),
        None => refuse(404, format!("No such exec instance: {id}")),
    }
}
