//! The end state of a replay, as JSON for tests and as text for people.

use serde::Serialize;
use serde_json::Value;

/// The result of a replay.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Name of the scenario.
    pub scenario: String,
    /// The exit status of the recorded command.
    pub exit_code_recorded: Option<i32>,
    /// The hook calls, in the order in which they began.
    pub calls: Vec<CallReport>,
    /// Every container of every guest, before and after.
    pub containers: Vec<ContainerReport>,
    /// Every guest, before and after.
    pub guests: Vec<GuestReport>,
    /// What ran in each guest at the instant whose state is in the backup.
    pub instants: Vec<InstantReport>,
    /// What happened to containers since the first job began.
    pub events: Vec<EventReport>,
    /// The journal's records.
    pub journal: Vec<Value>,
    /// The tasks of the simulated backup server.
    pub pbs_tasks: Vec<Value>,
    /// Names in `var/lib/stillpoint/runs`.
    pub runs_left: Vec<String>,
    /// Command lines of processes that still existed at the end.
    pub processes_left: Vec<String>,
    /// Milliseconds from the end of the last job until no process of Stillpoint worked.
    pub settled_ms: u64,
    /// The first job's task log.
    pub task_log: Vec<String>,
}

/// One call of the hook.
#[derive(Debug, Clone, Serialize)]
pub struct CallReport {
    /// Which job it belongs to; 0 is the first.
    pub job: usize,
    /// Its arguments.
    pub argv: Vec<String>,
    /// Its exit status; none if a signal ended it, or if nobody waited for it.
    pub exit: Option<i32>,
    /// The signal that ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Milliseconds until vzdump went on.
    pub ms: u64,
    /// Its output, as far as vzdump read it.
    pub said: Vec<String>,
}

/// One container.
#[derive(Debug, Clone, Serialize)]
pub struct ContainerReport {
    /// Its guest.
    pub guest: u32,
    /// Its name.
    pub name: String,
    /// Whether it ran before the first job.
    pub running_before: bool,
    /// Whether it runs now, possibly under another id.
    pub running_after: bool,
    /// The engine's word for its present state; `removed` if it is gone.
    pub status_after: String,
    /// How often a client stopped it.
    pub stops: usize,
    /// How often a client started it.
    pub starts: usize,
    /// How often a client paused it.
    pub pauses: usize,
}

/// One guest.
#[derive(Debug, Clone, Serialize)]
pub struct GuestReport {
    /// Its number.
    pub vmid: u32,
    /// Whether it ran before the first job.
    pub running_before: bool,
    /// Whether it runs now.
    pub running_after: bool,
    /// Whether it is frozen now.
    pub frozen_after: bool,
    /// The lock in its config now.
    pub lock_after: Option<String>,
}

/// Something that happened to a container.
#[derive(Debug, Clone, Serialize)]
pub struct EventReport {
    /// Milliseconds since the first job began.
    pub ms: u64,
    /// The guest.
    pub guest: u32,
    /// The container.
    pub name: String,
    /// The event in one word: `StopAsked`, `Started`, ...
    pub what: String,
}

/// The content of a guest's backup.
#[derive(Debug, Clone, Serialize)]
pub struct InstantReport {
    /// The guest.
    pub vmid: u32,
    /// Names of the containers that ran.
    pub running: Vec<String>,
    /// The note in the guest about what was stopped.
    pub note: Option<Value>,
}

impl Report {
    /// Names of the containers that ran before and do not now, as `VMID/NAME`.
    pub fn lost(&self) -> Vec<String> {
        let lost = self.containers.iter().filter(|c| c.running_before && !c.running_after);
        lost.map(|c| format!("{}/{}", c.guest, c.name)).collect()
    }

    /// The journal's records of that kind.
    pub fn records(&self, kind: &str) -> Vec<&Value> {
        self.journal.iter().filter(|record| record["kind"] == kind).collect()
    }

    /// The end state for a person.
    pub fn text(&self) -> String {
        let mut lines = vec![format!("Scenario {}", self.scenario), String::new()];
        for call in &self.calls {
            let ended = match (call.exit, call.signal) {
                (Some(code), _) => format!("exit {code}"),
                (None, Some(signal)) => format!("ended by signal {signal}"),
                (None, None) => "left to itself".to_owned(),
            };
            lines.push(format!("  {:<34} {ended} after {} ms", call.argv.join(" "), call.ms));
        }
        lines.push(String::new());
        for container in &self.containers {
            let before = if container.running_before { "running" } else { "down" };
            lines.push(format!(
                "  container {}/{}: {before} before, {} now",
                container.guest, container.name, container.status_after
            ));
        }
        for guest in &self.guests {
            let now = match (guest.running_after, guest.frozen_after) {
                (false, _) => "stopped",
                (true, true) => "frozen",
                (true, false) => "running",
            };
            let lock = guest.lock_after.as_deref().unwrap_or("none");
            lines.push(format!("  guest {}: {now}, lock {lock}", guest.vmid));
        }
        lines.push(String::new());
        lines.extend(self.journal.iter().map(|record| format!("  journal {record}")));
        lines.extend(self.pbs_tasks.iter().map(|task| format!("  PBS task {task}")));
        lines.extend(self.runs_left.iter().map(|run| format!("  left over: {run}")));
        lines.extend(self.processes_left.iter().map(|left| format!("  still there: {left}")));
        let lost = self.lost();
        lines.push(String::new());
        lines.push(if lost.is_empty() {
            "Every container that ran before runs now.".to_owned()
        } else {
            format!("NOT running any more: {}", lost.join(", "))
        });
        lines.join("\n")
    }
}
