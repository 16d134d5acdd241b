use std::collections::HashSet;
use std::path::Path;
use std::time::Instant;

use chrono::{DateTime, Utc};

use crate::config::Strategy;
use crate::engine::{Container, Data, Engine, Engines, Error, Status};
use crate::run::{Fate, Killed, Run, Step};
use crate::sys::{clock, text};

/// The exit code of a process that SIGKILL has ended: 128 and the signal's number.
const KILLED: i64 = 137;

/// The label of a container that may be killed without harm: `ok`.
const KILLED_LABEL: &str = "stillpoint.killed";

/// Before anything is started again, checks whether everything is still at rest: a grade is proven,
/// not assumed. Deviations become reasons of the run.
pub fn prove(run: &mut Run, engines: &Engines, deadline: Instant) {
    let steps: Vec<Step> = run.quiesce.iter().flat_map(|quiesce| quiesce.steps.clone()).collect();
    for (index, step) in steps.iter().enumerate().filter(|(_, step)| step.fate == Fate::Open) {
        let looked = match engines.at(&step.engine) {
            Ok(engine) => look_at(engine, step, deadline),
            Err(error) => {
                Err(format!("it can't be proven that containers stayed at rest: {error}"))
            }
        };
        match looked {
            Ok(Some(killed)) => note_killed(run, index, killed),
            Ok(None) => {}
            Err(reason) => run.disturb(reason),
        }
    }
    let began =
        run.quiesce.as_ref().and_then(|quiesce| quiesce.rest.began_ms()).map(clock::time_at);
    for engine in engines.reachable() {
        match newcomers(&steps, began, engine, deadline) {
            Ok(reasons) => reasons.into_iter().for_each(|reason| run.disturb(reason)),
            Err(error) => {
                run.disturb(format!("it can't be proven that nothing was started: {error}"));
            }
        }
    }
    for why in engines.unreachable().map(|site| site.to_string()) {
        // What is already known, about its own containers or since the plan was made, is not added
        // twice.
        if !run.unrest.iter().any(|known| known.contains(&why)) {
            run.disturb(format!("it can't be proven that nothing was started: {why}"));
        }
    }
    run.proof.done();
}

/// Reasons about containers that are not in the plan: those that run, or may have run since it
/// began.
fn newcomers(
    steps: &[Step],
    began: Option<DateTime<Utc>>,
    engine: &Engine,
    deadline: Instant,
) -> Result<Vec<String>, Error> {
    let known: HashSet<&str> = steps.iter().map(|step| step.id.as_str()).collect();
    let mut reasons = Vec::new();
    for id in engine.running(deadline)? {
        if known.contains(id.as_str()) {
            continue;
        }
        match engine.inspect(&id, deadline) {
            Ok(container) => reasons.extend(ran(&container, began)),
            Err(Error::Gone) => {}
            Err(error) => return Err(error),
        }
    }
    reasons.truncate(20);
    Ok(reasons)
}

/// A container between two restarts has not run since then if its last end was before.
fn ran(container: &Container, began: Option<DateTime<Utc>>) -> Option<String> {
    let name = text::printable(&container.name, 80);
    match container.status {
        Status::Running => Some(format!("{name} was started while the data was copied")),
        Status::Restarting if !began.is_some_and(|began| container.ended_before(began)) => {
            Some(format!("{name} was restarting again and again while the data was copied"))
        }
        _ => None,
    }
}

/// Whether a container is still at rest, and whether it was killed. The error says why the guest
/// was not at rest.
fn look_at(engine: &Engine, step: &Step, deadline: Instant) -> Result<Option<Killed>, String> {
    let name = text::printable(&step.name, 80);
    let at_rest = |container: &Container| match step.action {
        Strategy::None => true,
        Strategy::Pause => container.status == Status::Paused,
        Strategy::Stop => {
            container.started_at == step.started_at
                && matches!(container.status, Status::Exited | Status::Created | Status::Dead)
        }
    };
    match engine.inspect(&step.id, deadline) {
        Ok(container) if at_rest(&container) => Ok(killed(step, &container)),
        Ok(_) => Err(format!("{name} was started by somebody else while its data was copied")),
        Err(Error::Gone) => Err(format!("{name} was removed while its data was copied")),
        Err(error) => Err(format!("it can't be proven that {name} stayed at rest: {error}")),
    }
}

/// Nothing below these is kept: sockets (often the engine's own), devices, and kernel files.
const NO_DATA: [&str; 5] = ["/run", "/var/run", "/dev", "/proc", "/sys"];

/// A container that the engine killed at the end of its stop timeout, or the kernel before that,
/// could not close its files.
fn killed(step: &Step, container: &Container) -> Option<Killed> {
    let whole_timeout = step.stop_timeout.saturating_mul(1000);
    if step.action != Strategy::Stop || container.exit_code != KILLED {
        return None;
    }
    let is_data = |data: &Data| {
        data.writable && !NO_DATA.iter().any(|place| Path::new(&data.path).starts_with(place))
    };
    let has_data = container.data.iter().any(is_data);
    if container.oom_killed {
        return has_data.then_some(Killed::Starved);
    }
    let was = step.stop.ms().is_some_and(|ms| ms >= whole_timeout);
    let meant = container.stops_by_kill || container.label(KILLED_LABEL) == Some("ok");
    (was && !meant).then_some(if has_data { Killed::WithData } else { Killed::WithoutData })
}

fn note_killed(run: &mut Run, index: usize, killed: Killed) {
    let Some(step) = run.quiesce.as_mut().and_then(|quiesce| quiesce.steps.get_mut(index)) else {
        return;
    };
    step.stop.kill(killed);
    if killed == Killed::WithoutData {
        let note = step.kill_in_words();
        run.note(note);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::{QuiescedContainer, Stop, Stopped};
    use serde_json::json;

    fn judged(state: serde_json::Value, source: &str) -> Option<Killed> {
        let id = "a".repeat(64);
        let known = json!({
            "id": id, "engine": "", "name": "db", "project": null, "service": null,
            "action": "stop", "started_at": "", "after": [],
        });
        let step = Step {
            stop: Stop::Stopped(Stopped { ms: 10_050, killed: None }),
            ..Step::from(serde_json::from_value::<QuiescedContainer>(known).unwrap())
        };
        let mut inspected = json!({
            "Id": id, "Name": "/db", "State": { "Status": "exited", "ExitCode": 137 },
            "Config": {}, "HostConfig": {},
            "Mounts": [{ "Type": "bind", "Source": source, "Destination": "/x", "RW": true }],
        });
        inspected["State"].as_object_mut().unwrap().extend(state.as_object().unwrap().clone());
        killed(&step, &Container::parse(inspected.to_string().as_bytes()).unwrap())
    }

    #[test]
    fn the_socket_of_the_engine_is_no_data() {
        assert_eq!(judged(json!({}), "/srv/db"), Some(Killed::WithData));
        assert_eq!(judged(json!({}), "/var/run/docker.sock"), Some(Killed::WithoutData));
        assert_eq!(judged(json!({}), "/running/db"), Some(Killed::WithData));
        assert_eq!(judged(json!({ "ExitCode": 0 }), "/srv/db"), None);
    }

    #[test]
    fn what_the_kernel_killed_is_not_told_to_be_slow() {
        assert_eq!(judged(json!({ "OOMKilled": true }), "/srv/db"), Some(Killed::Starved));
        assert_eq!(judged(json!({ "OOMKilled": true }), "/run/x"), None);
    }
}
