//! A container that is made to test whether an engine can start one, and that never runs.
//!
//! Its program is a path that does not exist. The runtime looks for the program last: runc after
//! everything except seccomp, crun after namespaces, control groups, sysctls and mounts
//! (FACTS-DOCKER.md, Updates in a running guest). So "no such file" about that very path shows that
//! all of this was set up, and nothing of the image ever runs.

use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::engine::{Engine, Error, Status};
use crate::run::Started;
use crate::sys::{Root, clock, failpoint, text};
use crate::vzdump::Vmid;

/// The label of a throwaway container; its value is in [`Started::pending`] as long as the
/// container may exist.
const LABEL: &str = "stillpoint.try";

/// For creating and starting it: 0.3 s on an idle machine. One that hangs counts as refused.
const LIMIT: Duration = Duration::from_secs(15);

/// For removing it.
const REMOVE_LIMIT: Duration = Duration::from_secs(5);

/// How many running containers are asked for their image.
const MOST_ASKED: usize = 32;

/// How many images are examined, and how many tried: one can be half removed.
const MOST_LOOKED_AT: usize = 8;
const MOST_TRIED: usize = 3;

/// An image with more labels than this, or with a longer label name in bytes, is skipped.
const MOST_LABELS: usize = 256;
const LONGEST_LABEL: usize = 4096;

/// After this time a request to create a container cannot take effect any more, in microseconds.
const REQUEST_LINGERS: u64 = 600_000_000;

/// The result of a test.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The engine starts containers.
    Starts,
    /// The engine does not start containers; its error.
    Refused(String),
    /// It could not be tested, and why.
    Untried(String),
}

/// An image that a throwaway container may be made from.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Candidate {
    id: String,
    /// A running container was made from it: it is complete, and of the right architecture.
    used: bool,
    has_volumes: bool,
    /// In bytes.
    size: i64,
    labels: Vec<String>,
}

/// Tries with a throwaway container from an image that is present, and with that runtime, else the
/// engine's own. What may be left of it is in `started`, on disk before it is made; the caller
/// saves what was removed again.
pub fn run(
    root: &Root,
    vmid: Vmid,
    engine: &Engine,
    runtime: Option<&str>,
    started: &mut Started,
    deadline: Instant,
) -> Outcome {
    let deadline = deadline.min(clock::instant() + LIMIT);
    remove_pending(engine, started, deadline);
    let candidates = match candidates(engine, deadline) {
        Ok(candidates) => candidates,
        Err(error) => return Outcome::Untried(format!("its images are not known: {error}")),
    };
    let mut why = "it has no image that a throwaway container could be made from".to_string();
    for candidate in candidates.iter().take(MOST_TRIED) {
        match from_image(root, vmid, engine, runtime, started, candidate, deadline) {
            Ok(outcome) => return outcome,
            Err(error) => why = error,
        }
    }
    Outcome::Untried(why)
}

/// Removes what earlier tests have left; returns whether less is left now.
pub fn remove_pending(engine: &Engine, started: &mut Started, deadline: Instant) -> bool {
    let deadline = deadline.min(clock::instant() + REMOVE_LIMIT);
    let before = started.pending.len();
    started.pending.retain(|pending| {
        let its = pending.engine == engine.socket();
        !its || !is_gone(engine, &pending.token, deadline).unwrap_or(false)
    });
    started.pending.len() < before
}

/// Whether nothing is left of that one, and nothing can appear any more.
fn is_gone(engine: &Engine, token: &str, deadline: Instant) -> Result<bool, Error> {
    let ids = engine.labelled(LABEL, token, deadline)?;
    for id in &ids {
        // A running container is not ours, whatever its label says: ours has no program.
        if engine.inspect(id, deadline).is_ok_and(|found| found.status != Status::Running) {
            remove(engine, id, deadline)?;
        }
    }
    Ok(!ids.is_empty() || is_old(token))
}

/// A token begins with the time of its creation, see [`text::token`].
fn is_old(token: &str) -> bool {
    let made = token.split('-').next().and_then(|time| u64::from_str_radix(time, 16).ok());
    let now = u64::try_from(clock::now().timestamp_micros()).unwrap_or(0);
    made.is_none_or(|made| made > now || now - made > REQUEST_LINGERS)
}

/// An error means that no container can be made from this image; another one may work.
fn from_image(
    root: &Root,
    vmid: Vmid,
    engine: &Engine,
    runtime: Option<&str>,
    started: &mut Started,
    candidate: &Candidate,
    deadline: Instant,
) -> Result<Outcome, String> {
    let token = text::token();
    if !started.expect(engine.socket(), &token) {
        let why = "earlier throwaway containers could not be removed";
        return Ok(Outcome::Untried(why.to_string()));
    }
    if let Err(error) = started.save(root, vmid) {
        started.gone(&token);
        let why = format!("a throwaway container can't be written down: {error:#}");
        return Ok(Outcome::Untried(why));
    }
    failpoint::reach(root, "try-expected");
    let name = format!("stillpoint-try-{token}");
    let program = format!("/{name}");
    let body = body(candidate, runtime, &token, &program);
    let id = match engine.create(&name, &body, deadline) {
        Ok(id) => id,
        Err(Error::Failed(why)) => {
            return Ok(Outcome::Refused(format!("it could not be made: {why}")));
        }
        Err(error) => {
            started.gone(&token);
            return Err(format!("a throwaway container could not be made: {error}"));
        }
    };
    failpoint::reach(root, "try-created");
    let outcome = match engine.start_answer(&id, deadline) {
        Ok((status, words)) => judge(status, &words, &program),
        Err(error) => Outcome::Refused(error.to_string()),
    };
    failpoint::reach(root, "try-started");
    if remove(engine, &id, clock::instant() + REMOVE_LIMIT).is_ok() {
        started.gone(&token);
    }
    Ok(outcome)
}

fn remove(engine: &Engine, id: &str, deadline: Instant) -> Result<(), Error> {
    match engine.remove(id, deadline) {
        Ok(()) | Err(Error::Gone) => Ok(()),
        other => other,
    }
}

/// The settings of the container: nothing that a user's container has, and none of the image's own
/// metadata. The engine's default network is used, because it is set up before the program is
/// looked up.
fn body(candidate: &Candidate, runtime: Option<&str>, token: &str, program: &str) -> Value {
    let blank = candidate.labels.iter().map(|label| (label.clone(), Value::from("")));
    let mut labels: Map<String, Value> = blank.collect();
    labels.insert(LABEL.to_string(), Value::from(token));
    let mut body = json!({
        "Image": candidate.id,
        "Entrypoint": [program],
        "Cmd": [],
        // The image's own user and directory may be missing, which says nothing about the runtime.
        "User": "0",
        "WorkingDir": "/",
        "Labels": labels,
        "Healthcheck": { "Test": ["NONE"] },
        "HostConfig": {
            "NetworkMode": "default",
            "AutoRemove": false,
            "RestartPolicy": { "Name": "no" },
        },
    });
    if let Some(runtime) = runtime {
        body["HostConfig"]["Runtime"] = Value::from(runtime);
    }
    body
}

/// What the answer to its start shows. Engines answer 400 or 500, with the runtime's error
/// somewhere in their own.
fn judge(status: u16, words: &str, program: &str) -> Outcome {
    // The texts of runc and of what wraps it, and of crun.
    let missing = [
        format!("stat {program}: no such file or directory"),
        format!("executable file `{program}` not found"),
    ];
    if status >= 400 && missing.iter().any(|missing| words.contains(missing)) {
        return Outcome::Starts;
    }
    Outcome::Refused(match words {
        "" => format!("the engine answered {status} to the start of a program that does not exist"),
        words => format!("the engine answered {status}: {}", ending(words)),
    })
}

/// The runtime's own error is at the end of a long message.
fn ending(words: &str) -> String {
    const LONGEST: usize = 280;
    let extra = words.chars().count().saturating_sub(LONGEST);
    if extra == 0 {
        return words.to_string();
    }
    format!("…{}", words.chars().skip(extra).collect::<String>())
}

/// The local images, the best first.
fn candidates(engine: &Engine, deadline: Instant) -> Result<Vec<Candidate>, Error> {
    let mut used: Vec<String> = Vec::new();
    for id in engine.running(deadline)?.iter().take(MOST_ASKED) {
        match engine.image_of(id, deadline) {
            Ok(image) if !used.contains(&image) => used.push(image),
            // If one has ended meanwhile, or its image is unknown, the others remain.
            Ok(_) | Err(_) => {}
        }
    }
    let present = engine.images(deadline)?;
    let mut images: Vec<(bool, i64, String)> = present
        .into_iter()
        .map(|image| (!used.contains(&image.id), image.size, image.id))
        .collect();
    // An image without a name is in no list, but exists.
    let unnamed = used.iter().filter(|id| !images.iter().any(|(_, _, listed)| listed == *id));
    let unnamed: Vec<_> = unnamed.map(|id| (false, i64::MAX, id.clone())).collect();
    images.extend(unnamed);
    images.sort();
    let mut candidates = Vec::new();
    for (unused, size, id) in images.into_iter().take(MOST_LOOKED_AT) {
        let Ok(config) = engine.image_config(&id, deadline) else { continue };
        let short = config.labels.iter().all(|label| label.len() <= LONGEST_LABEL);
        if short && config.labels.len() <= MOST_LABELS {
            let (used, has_volumes, labels) = (!unused, config.has_volumes, config.labels);
            candidates.push(Candidate { id, used, has_volumes, size, labels });
        }
    }
    // A volume is filled from the image when it is created, which takes time and space.
    candidates.sort_by_key(|image| (!image.used, image.has_volumes, image.size));
    Ok(candidates)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROGRAM: &str = "/stillpoint-try-64e-1-0";

    #[test]
    fn a_missing_program_shows_that_all_was_set_up() {
        for (status, words) in [
            // Docker 28 with runc 1.3; Docker 20.10 with runc 1.1 and 1.0.
            (
                400,
                format!(
                    "failed to create task for container: failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: error during container init: exec: \"{PROGRAM}\": stat {PROGRAM}: no such file or directory"
                ),
            ),
            (
                400,
                format!(
                    "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: exec: \"{PROGRAM}\": stat {PROGRAM}: no such file or directory: unknown"
                ),
            ),
            (
                400,
                format!(
                    "OCI runtime create failed: container_linux.go:380: starting container process caused: exec: \"{PROGRAM}\": stat {PROGRAM}: no such file or directory: unknown"
                ),
            ),
            // Docker with crun; Podman with crun, before 1.9 and since.
            (
                400,
                format!(
                    "failed to create task for container: failed to create shim task: OCI runtime create failed: crun: executable file `{PROGRAM}` not found: No such file or directory: unknown"
                ),
            ),
            (
                500,
                format!(
                    "crun: executable file `{PROGRAM}` not found in $PATH: No such file or directory: OCI runtime attempted to invoke a command that was not found"
                ),
            ),
        ] {
            assert_eq!(judge(status, &words, PROGRAM), Outcome::Starts, "{words}");
        }
    }

    #[test]
    fn any_other_answer_is_a_refusal() {
        for (status, words) in [
            (204, String::new()),
            (304, String::new()),
            (404, "No such container: 0123".to_string()),
            (
                400,
                "OCI runtime create failed: open sysctl net.ipv4.ip_unprivileged_port_start file: reopen fd 8: permission denied: unknown".to_string(),
            ),
            (500, "fork/exec /usr/bin/containerd-shim-runc-v2: no such file or directory".to_string()),
            (500, format!("exec: \"{PROGRAM}\": permission denied")),
            (500, "stat /stillpoint-try-another: no such file or directory".to_string()),
            (204, format!("stat {PROGRAM}: no such file or directory")),
        ] {
            let outcome = judge(status, &words, PROGRAM);
            assert!(matches!(outcome, Outcome::Refused(_)), "{status} {words}: {outcome:?}");
        }
    }

    #[test]
    fn of_a_long_refusal_the_end_is_kept() {
        let words = format!("{}permission denied: unknown", "wrapped: ".repeat(100));
        let Outcome::Refused(kept) = judge(400, &words, PROGRAM) else { panic!() };
        assert!(kept.ends_with("permission denied: unknown") && kept.chars().count() < 400);
    }

    #[test]
    fn nothing_of_the_image_is_left_to_act() {
        let candidate = Candidate {
            id: "sha256:11".into(),
            used: true,
            has_volumes: false,
            size: 1,
            labels: vec!["com.docker.compose.project".into(), LABEL.into()],
        };
        let of_another = body(&candidate, Some("crun"), "token", PROGRAM);
        assert_eq!(of_another["HostConfig"]["Runtime"], "crun");
        let body = body(&candidate, None, "token", PROGRAM);
        assert!(body["HostConfig"].get("Runtime").is_none());
        assert_eq!(body["Labels"]["com.docker.compose.project"], "");
        assert_eq!(body["Labels"][LABEL], "token", "an image can't give it another");
        assert_eq!(body["Entrypoint"], json!([PROGRAM]));
        assert_eq!(body["Healthcheck"]["Test"], json!(["NONE"]));
        for user in ["Env", "Volumes", "ExposedPorts"] {
            assert!(body.get(user).is_none(), "{user}");
        }
        for user in ["Binds", "Mounts", "PortBindings", "Devices", "Privileged"] {
            assert!(body["HostConfig"].get(user).is_none(), "{user}");
        }
    }

    #[test]
    fn a_request_that_may_still_be_answered_is_waited_for() {
        assert!(!is_old(&text::token()));
        assert!(is_old("5f5e100-1-0") && is_old("no token") && is_old(""));
    }
}
