//! What the lines of a recorded task log say about vzdump's progress.

use super::trace::{Scenario, time_of_day};
use std::time::Duration;

/// The first line of every task log.
pub const FIRST: &str = "INFO: starting new backup job:";
/// The first line of a guest's part.
pub const GUEST: &str = "INFO: Starting Backup of VM ";

/// Lines that vzdump prints, each with the phase whose hook has returned by then.
const AFTER: [(&str, &str); 17] = [
    (FIRST, "job-init"),
    ("INFO: starting first sync", "backup-start"),
    ("INFO: stopping virtual guest", "backup-start"),
    ("INFO: stopping vm", "backup-start"),
    ("INFO: suspending guest", "backup-start"),
    ("INFO: suspend vm to make snapshot", "pre-stop"),
    ("INFO: create storage snapshot", "pre-stop"),
    ("INFO: starting final sync", "pre-stop"),
    ("INFO: resuming guest", "pre-stop"),
    ("INFO: resume vm", "pre-restart"),
    ("INFO: restarting vm", "pre-restart"),
    ("INFO: guest is online again", "post-restart"),
    ("INFO: Finished Backup of VM", "backup-end"),
    ("INFO: Backup job finished", "job-end"),
    ("job errors", "job-end"),
    ("INFO: Backup job finished with errors", "job-end"),
    ("INFO: Failed at", ""),
];

const ARCHIVE: [&str; 4] = [
    "INFO: creating vzdump archive",
    "INFO: creating Proxmox Backup Server archive",
    "INFO: sending archive to stdout",
    "INFO: starting kvm to execute backup task",
];

/// The phase whose hook has returned when vzdump prints that line; `None` if the line does not show
/// it. `stop`: the guest is backed up in stop mode and was running.
pub fn printed_after(line: &str, stop: bool, runs: bool) -> Option<&'static str> {
    if ARCHIVE.iter().any(|text| line.starts_with(text)) {
        return Some(match (stop, runs) {
            (true, true) => "pre-stop",
            (_, false) => "backup-start",
            (false, true) => "post-restart",
        });
    }
    let known = AFTER.iter().find(|(text, _)| line.starts_with(text));
    known.map(|(_, phase)| *phase).filter(|phase| !phase.is_empty())
}

/// Whether the archive begins with that line.
pub fn begins_archive(line: &str) -> bool {
    ARCHIVE.iter().any(|text| line.starts_with(text))
}

/// The guest whose part of the log begins with that line.
pub fn guest_of(line: &str) -> Option<u32> {
    let rest = line.strip_prefix(GUEST)?;
    rest.split_whitespace().next()?.parse().ok()
}

/// The guest's own part of the log.
pub fn part(log: &[String], vmid: u32) -> &[String] {
    let Some(begin) = log.iter().position(|line| guest_of(line) == Some(vmid)) else {
        return &[];
    };
    let rest = &log[begin..];
    let end = rest.iter().skip(1).position(|line| line.starts_with(GUEST));
    &rest[..end.map_or(rest.len(), |end| end + 1)]
}

/// A signal to the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// SIGTERM to the worker's whole process group, and SIGKILL 5 s later: the Stop button.
    Stop,
    /// SIGKILL to the worker alone.
    KillWorker,
    /// SIGKILL to the worker's whole process group.
    KillGroup,
}

/// A mark in the log: a signal was sent to the job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// What was sent.
    pub sent: Sent,
    /// Time of day.
    pub at: Duration,
    /// The line of the log before which it is; later lines were printed after it.
    pub line: usize,
}

/// The first signal in the recording: from its mark in the log, `<<< TIME stop ...>>>`, or from the
/// command's prefix, `[stop after 3s]`.
pub fn mark(scenario: &Scenario) -> Option<Mark> {
    for (line, text) in scenario.task_log.iter().enumerate() {
        let Some(words) = text.strip_prefix("<<< ") else {
            continue;
        };
        let mut words = words.split_whitespace();
        let at = words.next().and_then(time_of_day);
        let sent = words.next().and_then(sent);
        if let (Some(at), Some(sent)) = (at, sent) {
            return Some(Mark { sent, at, line });
        }
    }
    let (words, _) = scenario.command.strip_prefix('[')?.split_once(']')?;
    let (what, after) = words.split_once(" after ")?;
    let after = after.trim_end_matches('s').parse().ok()?;
    let after = Duration::try_from_secs_f64(after).ok()?;
    let begin = scenario.calls.first()?.time()?;
    let line = scenario.task_log.len();
    Some(Mark { sent: sent(what)?, at: begin + after.saturating_sub(START_UP), line })
}

/// From the command to its first hook call, as in the recordings.
const START_UP: Duration = Duration::from_millis(800);

fn sent(word: &str) -> Option<Sent> {
    match word {
        "stop" | "term" | "int" | "sigterm" | "sigint" => Some(Sent::Stop),
        "kill9-worker" | "kill-worker" => Some(Sent::KillWorker),
        "kill9" | "kill9-group" | "kill9-all" | "kill-group" => Some(Sent::KillGroup),
        _ => None,
    }
}
