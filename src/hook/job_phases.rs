use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::Value;

use super::Duty;
use super::budget::{Budget, SPENT};
use crate::config::{OnFailure, Settings};
use crate::journal::{Backup, Entry, Journal, Verify, VerifyOutcome};
use crate::quiesce::{self, BroughtBack, Errand};
use crate::report::lines::{not_in_backup, say, summary};
use crate::report::{self, not_back};
use crate::run::{Left, Runs};
use crate::setup::nodes;
use crate::sys::look::Watched;
use crate::sys::{Root, bounded, detach, text};
use crate::verify::{self, Collected};
use crate::vzdump::{Job, Vmid};

/// The limit for what an earlier job left in one guest.
const LEFTOVER_LIMIT: Duration = Duration::from_secs(30);

/// For one more attempt to start what is not back, and a check for removed containers.
const LEFT_LIMIT: Duration = Duration::from_secs(30);

/// For writing this node's file; a storage that does not answer is not waited for longer.
const NOTE_LIMIT: Duration = Duration::from_secs(10);

/// Does what is due in a job phase and returns the exit status.
pub fn perform(root: &Root, settings: &Settings, job: &Job, due: &[Duty]) -> u8 {
    let mut status = 0;
    for duty in due {
        match duty {
            Duty::BringBackLeftovers => {
                bring_back_leftovers(root, settings, job);
                leave_note(root);
            }
            Duty::EndRuns => {
                end_runs(root, settings, job);
                not_back(root, settings, job);
            }
            Duty::CollectVerifies => status = collect(root, settings, job),
            Duty::LeaveVerifies => leave_verifies(root),
            Duty::Summarize => {
                if let Err(error) = summarize(root, job) {
                    say(&format!("cannot print the summary: {error:#}"));
                }
            }
            _ => {}
        }
    }
    if due.contains(&Duty::EndRuns) {
        report::after_job(root, settings, &job.name());
    }
    status
}

/// All guests together get only the time of one: the others have a guard, and their next backup.
fn bring_back_leftovers(root: &Root, settings: &Settings, job: &Job) {
    let guests = Runs::of(root).guests().unwrap_or_else(|error| {
        say(&format!("cannot list the runs of earlier jobs: {error:#}"));
        Vec::new()
    });
    let end = Instant::now() + settings.quiesce.budget;
    for vmid in guests {
        let budget = Budget::begin(root, settings.quiesce.budget, vmid, job);
        let deadline = budget.deadline(LEFTOVER_LIMIT).min(end);
        quiesce::recover_guest(root, vmid, "job-start", deadline).iter().for_each(|line| say(line));
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
fn end_runs(root: &Root, settings: &Settings, job: &Job) {
    let runs = Runs::of(root);
    let guests = runs.guests().unwrap_or_else(|error| {
        say(&format!("cannot list the runs of this job: {error:#}"));
        Vec::new()
    });
    for vmid in guests {
        if !matches!(runs.load(vmid), Ok(Some(run)) if run.job == *job) {
            continue;
        }
        let budget = Budget::begin(root, settings.quiesce.budget, vmid, job);
        if budget.is_spent() {
            say(&format!("guest {vmid} is not back yet, its guard goes on: {SPENT}"));
            watch(root, vmid);
            continue;
        }
        let deadline = budget.deadline(LEFTOVER_LIMIT);
        let errand = Errand {
            by: "job-end",
            reason: "vzdump ended its job in the middle of this guest",
            close: true,
            run: None,
        };
        match quiesce::bring_back(root, vmid, deadline, errand) {
            Ok(BroughtBack::Nothing) => {}
            Ok(BroughtBack::All { started, all }) => {
                say(&format!("guest {vmid}: {}", not_back::all_back(all, started)));
            }
            Ok(BroughtBack::Partly(partly)) => say(&format!("guest {vmid}: {}", partly.words())),
            Ok(BroughtBack::NotYet(why)) => {
                say(&format!("guest {vmid} is not back yet, its guard goes on: {why}"));
                watch(root, vmid);
            }
            Err(error) => {
                say(&format!("guest {vmid}: {error:#}"));
                watch(root, vmid);
            }
        }
    }
}

fn watch(root: &Root, vmid: Vmid) {
    if let Err(error) = quiesce::watch(root, vmid) {
        say(&format!("guest {vmid}: {error:#}"));
    }
}

/// Containers that could not be started: in guests of this job those from earlier backups are tried
/// once more, and those that nobody was told about are reported.
fn not_back(root: &Root, settings: &Settings, job: &Job) {
    let backups = records_of(root, job).map(|(backups, _)| backups).unwrap_or_default();
    for vmid in Left::guests(root).unwrap_or_default() {
        let Ok(left) = Left::load(root, vmid) else { continue };
        let mut its = backups.iter().filter(|backup| backup["vmid"] == vmid.0);
        let run = its.next_back().and_then(|backup| backup["run"].as_str());
        if run.is_none() && left.containers.iter().all(|left| left.told) {
            continue;
        }
        let budget = Budget::begin(root, settings.quiesce.budget, vmid, job);
        if budget.is_spent() {
            continue;
        }
        let deadline = budget.deadline(LEFT_LIMIT);
        if run.is_some_and(|run| left.containers.iter().any(|left| left.run != run)) {
            let again = Runs::of(root).lock_first(vmid, deadline).and_then(|_lock| {
                let errand = ("job-end", "it was tried again after the next backup");
                quiesce::try_again(root, vmid, deadline, errand)
            });
            if let Err(error) = again {
                say(&format!("guest {vmid}: {error:#}"));
            }
        }
        match quiesce::tell(root, vmid, "its backup is over", deadline) {
            Ok(lost) if lost.is_empty() => {}
            Ok(lost) => say(&format!("guest {vmid}: {}", not_back::advice(vmid, &lost))),
            Err(error) => say(&format!("guest {vmid}: {error:#}")),
        }
    }
}

fn collect(root: &Root, settings: &Settings, job: &Job) -> u8 {
    let deadline = Instant::now() + settings.verify.wait;
    let collected = verify::collect_job(root, job, deadline).unwrap_or_else(|error| {
        say(&format!("cannot collect the verifies: {error:#}"));
        Collected::default()
    });
    leave_verifies(root);
    // Verifies that ended before the job are already in the journal.
    let journalled = records_of(root, job).map(|(_, verifies)| verifies).unwrap_or_default();
    let journalled = journalled.into_iter().filter_map(|record| {
        let record: Verify = serde_json::from_value(record).ok()?;
        Some((record.vmid, record.storage, record.outcome))
    });
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

/// The journal's records of this job: its backups and its verifies, oldest first.
fn records_of(root: &Root, job: &Job) -> Result<(Vec<Value>, Vec<Value>)> {
    let name = job.name();
    let (mut backups, mut verifies) = (Vec::new(), Vec::new());
    Journal::of(root).read(|entry| {
        if let Entry::Record(record) = entry
            && record["job"] == name.as_str()
        {
            match record["kind"].as_str() {
                Some("backup") => backups.push(record),
                Some("verify") => verifies.push(record),
                _ => {}
            }
        }
        true
    })?;
    Ok((backups, verifies))
}

/// A line for each guest of the job; Proxmox VE mails them.
fn summarize(root: &Root, job: &Job) -> Result<()> {
    let (backups, verifies) = records_of(root, job)?;
    let history = report::history(root)?;
    for backup in backups {
        let backup = serde_json::from_value::<Backup>(backup)?;
        let not_back = history.not_back(backup.vmid, &backup.run);
        let verify = verifies.iter().rfind(|verify| verify["run"] == backup.run.as_str());
        let verify = verify.and_then(|verify| {
            let outcome = serde_json::from_value(verify["outcome"].clone()).ok()?;
            Some((outcome, verify["reason"].as_str()))
        });
        say(&summary(&backup, verify, not_back));
        not_in_backup(&backup).iter().for_each(|line| say(line));
    }
    Ok(())
}
