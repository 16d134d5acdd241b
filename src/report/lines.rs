//! The lines of a hook in the task log: few, short, complete sentences.

use std::io::Write;

use super::not_back::{Lost, advice};
use crate::config::Strategy;
use crate::engine::client_of;
use crate::journal::{Backup, Grade, Outcome, VerifyOutcome, VerifyState, Word};
use crate::run::{By, Fate, Quiesce, Run, Step};
use crate::sys::Root;
use crate::sys::text::{count, printable, seconds};
use crate::vzdump::Mode;

/// Long, because a verify's reason may end with a command to copy.
const REASON: usize = 600;

/// How many paths of one container a line names.
const MOST_PATHS: usize = 3;

/// How many containers a line names.
const MOST_NAMED: usize = 10;

/// Prints a line with Stillpoint's prefix. vzdump closes its end of the pipe when it is
/// interrupted; that is no error.
pub fn say(line: &str) {
    #[cfg(test)]
    if crate::sys::walk::current().is_some() {
        return;
    }
    let _ = writeln!(std::io::stdout(), "stillpoint: {}", printable(line, 1000));
}

/// `stopped 3 containers of 1 stack in 0.41 s`
pub fn at_rest(quiesce: &Quiesce) -> String {
    let of = |strategy| quiesce.steps.iter().filter(move |step| step.action == strategy).count();
    let mut done = Vec::new();
    for (strategy, word) in [(Strategy::Stop, "stopped"), (Strategy::Pause, "paused")] {
        if of(strategy) > 0 {
            done.push(format!("{word} {}", count(of(strategy), "container")));
        }
    }
    if done.is_empty() {
        return "all running containers are left running by their settings".to_string();
    }
    let took = quiesce.rest.took_ms().unwrap_or(0);
    format!(
        "{}{} in {}{}",
        done.join(" and "),
        stacks(&quiesce.steps),
        seconds(took),
        slowest(quiesce)
    )
}

fn stacks(steps: &[Step]) -> String {
    let mut stacks: Vec<&str> = steps.iter().filter_map(|step| step.project.as_deref()).collect();
    stacks.sort_unstable();
    stacks.dedup();
    match stacks.len() {
        0 => String::new(),
        number => format!(" of {}", count(number, "stack")),
    }
}

/// A container that took its whole stop timeout was killed: its program does not handle the stop
/// signal.
fn slowest(quiesce: &Quiesce) -> String {
    let killed = |step: &&Step| {
        step.action == Strategy::Stop
            && step.stop.ms().is_some_and(|ms| ms / 1000 >= step.stop_timeout)
    };
    match quiesce.steps.iter().filter(killed).max_by_key(|step| step.stop.ms()) {
        Some(step) => format!(
            " ({} did not stop by itself within its {} s)",
            printable(&step.name, 80),
            step.stop_timeout
        ),
        None => String::new(),
    }
}

/// `all 3 containers are back, 1.20 s after the first stop`
pub fn back(root: &Root, run: &Run) -> Vec<String> {
    let Some(quiesce) = &run.quiesce else { return Vec::new() };
    let mut lines = Vec::new();
    let total = quiesce.steps.len();
    let number = quiesce
        .steps
        .iter()
        .filter(|step| matches!(step.fate, Fate::Back | Fate::Finished))
        .count();
    let downtime = match (quiesce.by, quiesce.downtime_ms()) {
        (By::Stillpoint, Some(ms)) => format!(", {} after the first stop", seconds(ms)),
        _ => String::new(),
    };
    let who = match (number == total, total) {
        (true, 1) => "the container is back".to_string(),
        (true, _) => format!("all {total} containers are back"),
        (false, _) => {
            let are = if number == 1 { "is" } else { "are" };
            format!("{number} of {} {are} back", count(total, "container"))
        }
    };
    lines.push(format!("{who}{downtime}"));
    for step in &quiesce.steps {
        let name = printable(&step.name, 80);
        match &step.fate {
            Fate::Gone if step.is_removed() => {
                lines.push(advice(root, run.vmid, &[Lost::from(step)]));
            }
            Fate::Gone => lines.push(format!("{name} has ended and was removed by its engine")),
            Fate::Left(why) => lines.push(format!("{name} is left as it is: {why}")),
            Fate::Failed(why) => lines.push(format!(
                "{name} could not be started: {why}; look at `{} logs {name}` in the guest",
                client_of(&step.engine)
            )),
            Fate::HeldBack(why) => lines.push(format!("{name} is not started: {why}")),
            Fate::Open | Fate::Back | Fate::Finished => {}
        }
    }
    lines
}

/// `containers down for 0.71 s`; in stop mode the whole guest was down.
pub fn down_for(mode: Mode, ms: u64) -> String {
    let who = if mode == Mode::Stop { "guest" } else { "containers" };
    format!("{who} down for {}", seconds(ms))
}

/// A guest's line in the summary, which PVE mails. `not_back`: the names of its containers that are
/// still not back.
pub fn summary(
    backup: &Backup,
    verify: Option<(VerifyOutcome, Option<&str>)>,
    not_back: &[String],
) -> String {
    let guest = match &backup.hostname {
        Some(hostname) => format!("guest {} ({})", backup.vmid, printable(hostname, 63)),
        None => format!("guest {}", backup.vmid),
    };
    if backup.outcome == Outcome::Failed {
        let error = backup.error.as_deref().unwrap_or("no reason is known");
        return format!("{guest}: the backup failed: {}", printable(error, 300));
    }
    let mut parts = Vec::new();
    parts.push(match backup.grade {
        Some(Grade::Offline) => "backup of a guest that was not running".to_string(),
        Some(Grade::None) | None => "backup without anything to bring to rest".to_string(),
        Some(grade) if backup.reasons.is_empty() => format!("{grade} backup"),
        Some(grade) => format!("{grade} backup ({})", backup.reasons.join("; ")),
    });
    if let Some(ms) = backup.downtime_ms {
        parts.push(down_for(backup.mode_used, ms));
    }
    match (verify, &backup.verify) {
        (Some((outcome, reason)), _) => {
            let reason =
                reason.map_or(String::new(), |reason| format!(" ({})", printable(reason, REASON)));
            parts.push(format!("{outcome}{reason}"));
        }
        (None, Some(start)) if start.state == Word::Known(VerifyState::NotDue) => {
            let why = start.reason.as_deref().unwrap_or("not due");
            parts.push(format!("not verified this time ({})", printable(why, 300)));
        }
        (None, Some(start)) if start.state.known().is_some_and(VerifyState::is_under_way) => {
            parts.push("the verify is still under way".to_string());
        }
        (None, Some(start)) => {
            let why = start.reason.as_deref().unwrap_or("no reason is known");
            parts.push(format!("not verified ({})", printable(why, REASON)));
        }
        (None, None) => {}
    }
    if !not_back.is_empty() {
        let names: Vec<String> =
            not_back.iter().take(MOST_NAMED).map(|name| printable(name, 80)).collect();
        let more = if not_back.len() > MOST_NAMED { ", ..." } else { "" };
        let number = count(not_back.len(), "container");
        parts.push(format!("{number} NOT back ({}{more})", names.join(", ")));
    }
    let left_out = backup.containers.iter().filter(|it| !it.not_in_backup.is_empty()).count();
    if left_out > 0 {
        parts.push(format!("data of {} not in the backup", count(left_out, "container")));
    }
    format!("{guest}: {}", parts.join(", "))
}

/// The lines after [`summary`] that name each container with data that is not in the backup, and
/// where that data is.
pub fn not_in_backup(backup: &Backup) -> Vec<String> {
    /// The length of a line of the task log, and the number of lines; the journal has the rest.
    const LINE: usize = 900;
    const MOST_LINES: usize = 20;
    let begin = format!("guest {}: not in the backup: ", backup.vmid);
    let mut lines: Vec<String> = Vec::new();
    for container in backup.containers.iter().filter(|it| !it.not_in_backup.is_empty()) {
        let paths = container.not_in_backup.iter().take(MOST_PATHS);
        let mut paths: Vec<String> = paths.map(|path| printable(path, 200)).collect();
        if container.not_in_backup.len() > MOST_PATHS {
            paths.push(format!("and {} more", container.not_in_backup.len() - MOST_PATHS));
        }
        let what = format!("{} ({})", printable(&container.name, 80), paths.join(", "));
        let fits = |line: &&mut String| line.chars().count() + what.chars().count() < LINE;
        if let Some(line) = lines.last_mut().filter(fits) {
            *line += &format!(", {what}");
            continue;
        }
        if lines.len() == MOST_LINES {
            lines.push(format!("{begin}more, see `stillpoint journal --json`"));
            break;
        }
        lines.push(format!("{begin}{what}"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Record;

    #[test]
    fn every_container_with_data_outside_the_backup_is_named() {
        let Some(Record::Backup(mut backup)) = crate::journal::examples().into_iter().next() else {
            panic!("the first example is a backup");
        };
        assert!(not_in_backup(&backup).is_empty());
        backup.containers[0].not_in_backup = vec!["/mnt/nas/p".to_string(), "/srv".to_string()];
        assert_eq!(
            not_in_backup(&backup),
            ["guest 9001: not in the backup: db (/mnt/nas/p, /srv)"]
        );
        assert!(summary(&backup, None, &[]).ends_with("data of 1 container not in the backup"));
        backup.containers = vec![backup.containers[0].clone(); 200];
        let lines = not_in_backup(&backup);
        assert!(lines.len() > 3 && lines.iter().all(|line| line.len() < 1000), "{lines:?}");
        assert_eq!(lines.join(" ").matches("db (").count(), 200);
        backup.containers = vec![backup.containers[0].clone(); 10_000];
        let lines = not_in_backup(&backup);
        assert!(lines.len() == 21 && lines[20].contains("stillpoint journal --json"));
    }

    #[test]
    fn a_verify_is_under_way_only_where_it_was_ordered() {
        let Some(Record::Backup(mut backup)) = crate::journal::examples().into_iter().next() else {
            panic!("the first example is a backup");
        };
        assert!(summary(&backup, None, &[]).contains("the verify is still under way"));
        if let Some(verify) = &mut backup.verify {
            verify.state = VerifyState::NotStarted(VerifyOutcome::Unknown).into();
            verify.reason = Some("no space left on device".to_string());
        }
        let line = summary(&backup, None, &[]);
        assert!(line.contains(", not verified (no space left on device)"), "{line}");
    }
}
