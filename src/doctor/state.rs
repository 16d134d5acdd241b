//! What Stillpoint has stored: runs, pending verifies, the journal.

use anyhow::{Context, Result};
use chrono::{DateTime, TimeDelta, Utc};

use super::check::Check;
use super::message::Values;
use super::messages::{
    JOURNAL, JOURNAL_DAMAGED, NO_RUNS, NO_STATE, RUN, RUN_DAMAGED, RUN_DOWN, RUN_LEFT, RUN_OPEN,
    VERIFIES, VERIFY_DAMAGED, VERIFY_OLD,
};
use crate::guest::way_to_start;
use crate::journal::{Entry, Journal};
use crate::run::{Damaged, Fate, Run, Runs};
use crate::sys::text::count;
use crate::sys::{Root, clock};
use crate::verify::{self, Pending};
use crate::vzdump::Vmid;

/// A server takes hours for a large backup; a verify older than this has no collector.
const OLD: TimeDelta = TimeDelta::days(1);

const VERIFIES_DIRECTORY: &str = "/var/lib/stillpoint/verifies";

pub fn state(root: &Root) -> Vec<Check> {
    let unreadable = |about: &'static str| {
        move |error: anyhow::Error| {
            vec![NO_STATE.check(about, &[("reason", &format!("{error:#}"))])]
        }
    };
    let mut checks = runs(root).unwrap_or_else(unreadable("state.runs"));
    checks.extend(verifies(root).unwrap_or_else(unreadable("state.verifies")));
    checks.extend(journal(root).unwrap_or_else(unreadable("state.journal")));
    checks
}

fn runs(root: &Root) -> Result<Vec<Check>> {
    let runs = Runs::of(root);
    let mut checks = Vec::new();
    for vmid in runs.guests()? {
        match runs.load(vmid) {
            Ok(None) => {}
            // Its backup is over; the guard only watches whether everything stays up.
            Ok(Some(run)) if run.only_looks() => {}
            Ok(Some(run)) => checks.push(of_run(root, &run, run.job.alive())),
            Err(error) => match error.downcast_ref::<Damaged>() {
                None => return Err(error),
                Some(damaged) => checks.push(of_damaged(vmid, damaged)),
            },
        }
    }
    Ok(if checks.is_empty() { vec![NO_RUNS.check("state.runs", &[])] } else { checks })
}

fn of_run(root: &Root, run: &Run, alive: bool) -> Check {
    let vmid = run.vmid;
    let about = format!("guest.{vmid}.run");
    let open = run.fates().iter().filter(|fate| **fate == Fate::Open).count();
    match (alive, open) {
        (true, _) => RUN.check(about, &[]),
        (false, 0) => RUN_LEFT.check(about, &[]),
        (false, _) => {
            let containers = count(open, "container");
            match way_to_start(root, vmid) {
                Some(start) => RUN_DOWN.check(about, &[("count", &containers), ("start", &start)]),
                None => RUN_OPEN.check(about, &[("count", &containers), ("vmid", &vmid)]),
            }
        }
    }
}

fn of_damaged(vmid: Vmid, damaged: &Damaged) -> Check {
    RUN_DAMAGED.check(format!("guest.{vmid}.run"), &[("reason", &damaged)])
}

fn verifies(root: &Root) -> Result<Vec<Check>> {
    let about = "state.verifies";
    let all = verify::pending(root)?;
    let mut checks = vec![of_verifies(&all, clock::now())];
    let damaged = verify_files(root)?.saturating_sub(all.len());
    if damaged > 0 {
        let count =
            format!("{} {}", count(damaged, "file"), if damaged == 1 { "is" } else { "are" });
        checks.push(VERIFY_DAMAGED.check(about, &[("count", &count)]));
    }
    Ok(checks)
}

fn of_verifies(all: &[Pending], now: DateTime<Utc>) -> Check {
    let about = "state.verifies";
    let is_old = |pending: &&Pending| {
        DateTime::parse_from_rfc3339(&pending.since).is_ok_and(|since| now - since.to_utc() > OLD)
    };
    let number = |number: usize| match number {
        0 => "no verify is".to_string(),
        1 => "1 verify is".to_string(),
        _ => format!("{number} verifies are"),
    };
    // The oldest comes first.
    match all.iter().find(is_old) {
        None => VERIFIES.check(about, &[("count", &number(all.len()))]),
        Some(oldest) => {
            let old = number(all.iter().filter(is_old).count());
            let values: Values<'_> =
                &[("count", &old), ("vmid", &oldest.vmid), ("storage", &oldest.storage)];
            VERIFY_OLD.check(about, values)
        }
    }
}

fn verify_files(root: &Root) -> Result<usize> {
    let directory = root.path(VERIFIES_DIRECTORY);
    if !directory.exists() {
        return Ok(0);
    }
    let entries = std::fs::read_dir(&directory).context(VERIFIES_DIRECTORY)?;
    let json = |entry: &std::fs::DirEntry| {
        entry.path().extension().is_some_and(|extension| extension == "json")
    };
    Ok(entries.filter_map(Result::ok).filter(json).count())
}

fn journal(root: &Root) -> Result<Vec<Check>> {
    let about = "state.journal";
    let (mut records, mut damaged, mut first) = (0, 0, None);
    Journal::of(root).read(|entry| {
        match entry {
            Entry::Record(_) => records += 1,
            Entry::Damaged { file, line, reason } => {
                damaged += 1;
                first.get_or_insert((file, line, reason));
            }
        }
        true
    })?;
    Ok(vec![match first {
        None => JOURNAL.check(about, &[("count", &count(records, "record"))]),
        Some((file, line, reason)) => {
            let verb = if damaged == 1 { "is" } else { "are" };
            let lines = format!("{} of the journal {verb}", count(damaged, "line"));
            let values: Values<'_> = &[
                ("count", &lines),
                ("line", &line),
                ("file", &file.display()),
                ("reason", &reason),
            ];
            JOURNAL_DAMAGED.check(about, values)
        }
    }])
}
