use std::time::Duration;

use anyhow::Result;
use chrono::DateTime;

use super::JobDuty;
use super::budget::{Budget, SPENT};
use crate::config::{OnFailure, Settings};
use crate::journal::{Actor, Backup, Journal, Record, Verify, VerifyOutcome};
use crate::quiesce::{self, BroughtBack, Errand};
use crate::report;
use crate::report::lines::{not_in_backup, say, summary};
use crate::report::not_back::{self, Lost};
use crate::run::{Left, Runs};
use crate::setup::nodes;
use crate::sys::look::Watched;
use crate::sys::text::count;
use crate::sys::{Root, bounded, clock, detach, text};
use crate::verify::{self, Collected};
use crate::vzdump::{Job, Vmid};

/// The limit for what an earlier job left in one guest.
const LEFTOVER_LIMIT: Duration = Duration::from_secs(30);

/// For one more attempt to start what is not back, and a check for removed containers.
const LEFT_LIMIT: Duration = Duration::from_secs(30);

/// For writing this node's file; a storage that does not answer is not waited for longer.
const NOTE_LIMIT: Duration = Duration::from_secs(10);

/// Does what is due in a job phase and returns the exit status.
pub fn perform(root: &Root, settings: &Settings, job: &Job, due: &[JobDuty]) -> u8 {
    let mut status = 0;
    for duty in due {
        match duty {
            JobDuty::TellOfSettings => settings.complaint.iter().for_each(|line| say(line)),
            JobDuty::BringBackLeftovers => bring_back_leftovers(root, settings, job),
            JobDuty::LeaveNodeNote => leave_note(root),
            JobDuty::EndRuns => end_runs(root, settings, job),
            JobDuty::TryLeftAgain => try_left_again(root, settings, job),
            JobDuty::CollectVerifies => status = collect(root, settings, job),
            JobDuty::LeaveVerifies => leave_verifies(root),
            JobDuty::Summarize => {
                if let Err(error) = summarize(root, job) {
                    say(&format!("cannot print the summary: {error:#}"));
                }
            }
            JobDuty::TellWatchers => report::after_job(root, settings, &job.name()),
        }
    }
    status
}

/// All guests together get only the time of one: the others have a guard, and their next backup.
pub(super) fn bring_back_leftovers(root: &Root, settings: &Settings, job: &Job) {
    let guests = Runs::of(root).guests().unwrap_or_else(|error| {
        say(&format!("cannot list the runs of earlier jobs: {error:#}"));
        Vec::new()
    });
    let end = clock::instant() + settings.quiesce.budget;
    for vmid in guests {
        let budget = Budget::begin(root, settings.quiesce.budget, vmid, job);
        let deadline = budget.deadline(LEFTOVER_LIMIT).min(end);
        quiesce::recover_guest(root, vmid, Actor::JobStart, deadline)
            .iter()
            .for_each(|line| say(line));
    }
    quiesce::unlock_all(root).iter().for_each(|line| say(line));
}

/// Writes what this node has of Stillpoint for the other nodes of the cluster, if that has changed.
/// Failing to write it (no quorum) must not affect the backup.
fn leave_note(root: &Root) {
    let written =
        bounded::within(&Watched::cluster(root), NOTE_LIMIT, || match nodes::is_mounted(root) {
            true => nodes::leave_note(root).map_err(|error| format!("{error:#}")),
            false => Ok(()),
        });
    let told = |error: String| anyhow::anyhow!(error);
    if let Err(error) = written.map_err(anyhow::Error::from).and_then(|done| done.map_err(told)) {
        say(&format!("cannot tell the other nodes that Stillpoint is on this one: {error:#}"));
    }
}

/// Ends runs of this job that log-end did not end.
pub(super) fn end_runs(root: &Root, settings: &Settings, job: &Job) {
    let runs = Runs::of(root);
    let guests = runs.guests().unwrap_or_else(|error| {
        say(&format!("cannot list the runs of this job: {error:#}"));
        Vec::new()
    });
    for vmid in guests {
        let Some(run) = runs.load(vmid).ok().flatten().filter(|run| run.job == *job) else {
            continue;
        };
        let budget = Budget::begin(root, settings.quiesce.budget, vmid, job);
        if budget.is_spent() {
            if run.is_open() {
                say(&format!("guest {vmid} is not back yet, its guard goes on: {SPENT}"));
            }
            watch_what_is_left(root, job, vmid);
            continue;
        }
        let deadline = budget.deadline(LEFTOVER_LIMIT);
        let errand = Errand {
            by: Actor::JobEnd,
            reason: "vzdump ended its job in the middle of this guest",
            close: true,
            run: None,
        };
        match quiesce::bring_back(root, vmid, deadline, errand) {
            Ok(BroughtBack::Nothing) => {}
            Ok(BroughtBack::All { started, all }) => {
                say(&format!("guest {vmid}: {}", not_back::all_back(all, started)));
            }
            Ok(BroughtBack::NotHere(why)) => say(&format!("guest {vmid}: {why}")),
            Ok(BroughtBack::Partly(partly)) => {
                say(&format!("guest {vmid}: {}", partly.words(root)))
            }
            Ok(BroughtBack::NotYet(why)) => {
                say(&format!("guest {vmid} is not back yet, its guard goes on: {why}"));
            }
            Err(error) => say(&format!("guest {vmid}: {error:#}")),
        }
        watch_what_is_left(root, job, vmid);
    }
}

/// A run that is left is not back, or its containers have to stay up for a while: its guard ends it,
/// and may be dead.
fn watch_what_is_left(root: &Root, job: &Job, vmid: Vmid) {
    if matches!(Runs::of(root).load(vmid), Ok(run) if run.as_ref().is_none_or(|it| it.job != *job))
    {
        return;
    }
    said(vmid, quiesce::watch_again(root, vmid));
}

fn said(vmid: Vmid, watched: Result<()>) {
    if let Err(error) = watched {
        say(&format!("guest {vmid}: {error:#}"));
    }
}

/// Containers that could not be started: in guests of this job those from earlier backups are tried
/// once more, and those that nobody was told about are reported.
fn try_left_again(root: &Root, settings: &Settings, job: &Job) {
    let backups = records_of(root, job).unwrap_or_default().backups;
    for vmid in Left::guests(root).unwrap_or_default() {
        let Ok(left) = Left::load(root, vmid) else { continue };
        let last = backups.iter().rfind(|backup| backup.vmid == vmid);
        let run = last.map(|backup| backup.run.as_str());
        if run.is_none() && left.containers.iter().all(|left| left.told) {
            continue;
        }
        let budget = Budget::begin(root, settings.quiesce.budget, vmid, job);
        if budget.is_spent() {
            // As it was seen last. The guard looks once more, and sends the mail.
            let lost: Vec<Lost> = left.containers.iter().map(Lost::from).collect();
            if !lost.is_empty() {
                say(&format!("guest {vmid}: {}", not_back::advice(root, vmid, &lost)));
                said(vmid, quiesce::watch(root, vmid));
            }
            continue;
        }
        let deadline = budget.deadline(LEFT_LIMIT);
        if run.is_some_and(|run| left.containers.iter().any(|left| left.run != run)) {
            let again = Runs::of(root).lock_first(vmid, deadline).and_then(|_lock| {
                let errand = (Actor::JobEnd, "it was tried again after the next backup");
                quiesce::try_again(root, vmid, deadline, errand)
            });
            if let Err(error) = again {
                say(&format!("guest {vmid}: {error:#}"));
            }
        }
        match quiesce::tell(root, vmid, "its backup is over", deadline) {
            Ok(lost) if lost.is_empty() => {}
            Ok(lost) => say(&format!("guest {vmid}: {}", not_back::advice(root, vmid, &lost))),
            Err(error) => say(&format!("guest {vmid}: {error:#}")),
        }
    }
}

fn collect(root: &Root, settings: &Settings, job: &Job) -> u8 {
    let deadline = clock::instant() + settings.verify.wait;
    let collected = verify::collect_job(root, job, deadline).unwrap_or_else(|error| {
        say(&format!("cannot collect the verifies: {error:#}"));
        Collected::default()
    });
    leave_verifies(root);
    // Verifies that ended before the job are already in the journal.
    let journalled = records_of(root, job).unwrap_or_default().verifies;
    let journalled = journalled.into_iter().map(|it| (it.vmid, it.storage, it.outcome));
    let now = collected.over.into_iter().map(|over| (over.vmid, over.storage, over.outcome));
    let fails = journalled.chain(now).any(|(vmid, storage, outcome)| {
        let policy = settings.verify_of(vmid.0, &storage);
        outcome == VerifyOutcome::Failed && policy.on_failure == OnFailure::FailJob
    });
    u8::from(fails)
}

/// Starts a unit that collects the verifies that are not collected yet, from this job or from a
/// dead one.
fn leave_verifies(root: &Root) {
    let left = match verify::left(root) {
        Ok(0) => return,
        Ok(left) => left,
        Err(error) => return say(&format!("cannot read the pending verifies: {error:#}")),
    };
    let verifies = if left == 1 { "1 verify".to_string() } else { format!("{left} verifies") };
    let unit = format!("stillpoint-collect-{}", text::token());
    match detach::start(root, &unit, &["collect"]) {
        Ok(_) => say(&format!("{verifies} will be collected when the server is done")),
        Err(error) => {
            say(&format!("cannot start the process that waits for {verifies}: {error:#}"))
        }
    }
}

/// What the journal has of this job, oldest first.
#[derive(Default)]
struct Records {
    backups: Vec<Backup>,
    verifies: Vec<Verify>,
    /// Backups and verifies that this version does not understand.
    unreadable: usize,
}

fn records_of(root: &Root, job: &Job) -> Result<Records> {
    let name = job.name();
    let mut records = Records::default();
    // Without a UPID the start is not known as a time, and all records are read.
    let since = job.upid.as_ref().and_then(|upid| DateTime::from_timestamp(upid.started(), 0));
    Journal::of(root).recent(since.unwrap_or_default(), |written| {
        if written.is_of_job(&name) {
            match written.record() {
                Some(Record::Backup(backup)) => records.backups.push(backup),
                Some(Record::Verify(verify)) => records.verifies.push(verify),
                Some(_) => {}
                None => records.unreadable += 1,
            }
        }
        true
    })?;
    records.backups.reverse();
    records.verifies.reverse();
    Ok(records)
}

/// A line for each guest of the job; Proxmox VE mails them.
fn summarize(root: &Root, job: &Job) -> Result<()> {
    let Records { backups, verifies, unreadable } = records_of(root, job)?;
    let history = report::history(root)?;
    for backup in backups {
        let not_back = history.not_back(backup.vmid, &backup.run);
        let of_run = |verify: &&Verify| verify.run.as_deref() == Some(backup.run.as_str());
        let verify = verifies.iter().rfind(of_run);
        let verify = verify.map(|verify| (verify.outcome, verify.reason.as_deref()));
        say(&summary(&backup, verify, not_back));
        not_in_backup(&backup).iter().for_each(|line| say(line));
    }
    if unreadable > 0 {
        let records = count(unreadable, "record");
        say(&format!(
            "{records} of this job cannot be read: `stillpoint journal --json` shows all"
        ));
    }
    if let Some(head) = Journal::of(root).head()? {
        say(&format!("journal head {head}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::process::Process;
    use serde_json::{Value, json, to_value};

    #[test]
    fn a_record_that_cannot_be_read_hides_no_other() {
        let directory = std::env::temp_dir().join(format!("stillpoint-job-{}", text::token()));
        let root = Root::at(&directory);
        std::fs::create_dir_all(root.path("/var/lib/stillpoint")).unwrap();
        let pid = i32::try_from(std::process::id()).unwrap();
        let job = Job { upid: None, worker: Process::find(pid).unwrap(), session: 0 };
        let mut records: Vec<Value> =
            crate::journal::examples().iter().map(|record| to_value(record).unwrap()).collect();
        records.insert(0, json!({ "kind": "backup", "vmid": "of another day" }));
        records.insert(1, json!({ "kind": "drill", "vmid": 9001 }));
        for record in &mut records {
            record["job"] = json!(job.name());
            record["time"] = json!("2026-11-21T23:25:00.000Z");
        }
        let text: String = records.iter().map(|record| format!("{record}\n")).collect();
        std::fs::write(root.path("/var/lib/stillpoint/journal.jsonl"), text).unwrap();
        let read = records_of(&root, &job).unwrap();
        assert_eq!((read.backups.len(), read.verifies.len(), read.unreadable), (1, 1, 2));
        summarize(&root, &job).unwrap();
        std::fs::remove_dir_all(directory).unwrap();
    }
}
