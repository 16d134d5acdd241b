//! Reads the node after a replay.

use super::report::{CallReport, ContainerReport, EventReport, GuestReport, InstantReport, Report};
use super::trace::Scenario;
use crate::engine::What;
use crate::engine::container::{Container, Status};
use crate::node::{Guest, Node};
use anyhow::{Context, Result};
use std::time::Instant;

/// The content of the guests' backups.
pub type Instants = Vec<InstantReport>;

/// The containers of each guest as they are.
pub type Before = Vec<(u32, Container)>;

/// All containers as they are.
pub fn running(node: &Node) -> Before {
    let of = |guest: &std::sync::Arc<Guest>| {
        let engine = guest.engine.as_ref();
        let containers = engine.map(crate::engine::Engine::containers).unwrap_or_default();
        let vmid = guest.vmid;
        containers.into_iter().map(move |container| (vmid, container))
    };
    node.guests().flat_map(of).collect()
}

/// The content of a backup of the guest if it were made now.
///
/// # Errors
/// If the note in the guest exists and cannot be read.
pub fn instant(guest: &Guest) -> Result<InstantReport> {
    let containers = guest.engine.as_ref().map(crate::engine::Engine::containers);
    let running = containers.unwrap_or_default().into_iter();
    let running = running.filter(|c| c.status == Status::Running).map(|c| c.spec.name);
    let note = guest.dir().join("root/var/lib/stillpoint/quiesced.json");
    // Something that is not text is not a note: the guest may put anything there.
    let readable =
        note.symlink_metadata().is_ok_and(|found| found.is_file() && found.len() < 1 << 20);
    let text = readable.then(|| std::fs::read_to_string(&note)).transpose();
    let text = text.context("reading the note in the guest")?;
    let note =
        text.map(|text| serde_json::from_str(&text).unwrap_or(serde_json::Value::String(text)));
    Ok(InstantReport { vmid: guest.vmid, running: running.collect(), note })
}

/// The events of all engines since then, in order.
fn events(node: &Node, since: Instant) -> Vec<EventReport> {
    let mut events = Vec::new();
    for guest in node.guests() {
        for event in guest.engine.iter().flat_map(crate::engine::Engine::events) {
            let ms = event.at.saturating_duration_since(since).as_millis();
            events.push(EventReport {
                ms: u64::try_from(ms).unwrap_or(u64::MAX),
                guest: guest.vmid,
                name: event.name,
                what: format!("{:?}", event.what),
            });
        }
    }
    events.sort_by_key(|event| event.ms);
    events
}

/// The end state.
///
/// # Errors
/// When the node cannot be read.
pub fn report(
    node: &Node,
    scenario: &Scenario,
    begin: Instant,
    before: &Before,
    calls: Vec<CallReport>,
    instants: Instants,
    upid: Option<&str>,
) -> Result<Report> {
    let mut containers = Vec::new();
    let after = running(node);
    for (vmid, then) in before {
        let engine = node.guest(*vmid)?.engine.as_ref().context("a container without an engine")?;
        let its = after.iter().filter(|(of, _)| of == vmid);
        let same = its.map(|(_, now)| now).filter(|now| now.is_same_service(then));
        let now = same.max_by_key(|now| now.status.is_alive());
        let name = &then.spec.name;
        containers.push(ContainerReport {
            guest: *vmid,
            name: name.clone(),
            running_before: then.status == Status::Running,
            running_after: now.is_some_and(|now| now.status == Status::Running),
            status_after: now.map_or("removed", |now| now.status.name()).to_owned(),
            stops: engine.count(name, What::StopAsked),
            starts: engine.count(name, What::StartAsked),
            pauses: engine.count(name, What::Paused),
        });
    }
    let mut guests = Vec::new();
    for guest in node.guests() {
        guests.push(GuestReport {
            vmid: guest.vmid,
            running_before: guest.running_before,
            running_after: guest.is_running(),
            frozen_after: guest.is_frozen(),
            // A guest that has left the node has no config.
            lock_after: guest.lock().ok().flatten(),
        });
    }
    let task_log = match upid {
        Some(upid) => {
            let start = upid.split(':').nth(4).unwrap_or_default();
            let digit = &start[start.len().saturating_sub(1)..];
            let path = node.path(format!("var/log/pve/tasks/{digit}/{upid}"));
            let log =
                std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            String::from_utf8_lossy(&log).lines().map(str::to_owned).collect()
        }
        None => Vec::new(),
    };
    Ok(Report {
        scenario: scenario.name.clone(),
        exit_code_recorded: scenario.exit_code,
        calls,
        containers,
        guests,
        instants,
        events: events(node, begin),
        journal: node.journal()?,
        pbs_tasks: node.backup_server().map(|server| server.tasks()).unwrap_or_default(),
        runs_left: node.runs_left()?,
        processes_left: node.processes()?.into_iter().map(|found| found.command).collect(),
        settled_ms: 0,
        task_log,
    })
}
