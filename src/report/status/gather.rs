use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use chrono::{DateTime, Utc};

use super::judge::{self, Limits};
use super::locked::{left_locked, level_of_lock};
use super::words::{age, ago};
use super::{
    Backup, Guest, HeldBack, Level, Moment, NotBack, Now, Problem, ProofState, Settled, Status,
    Verify, What, held_back,
};
use crate::config::Settings;
use crate::guest::way_to_start;
use crate::journal::Word;
use crate::pve::{Config, OnStart, drop_in_calls, members, node_name};
use crate::report::history::{History, LastBackup, Past, Proof};
use crate::report::metrics;
use crate::report::not_back::{Lost, on_the_node};
use crate::run::{Left, Runs, Started};
use crate::sys::text::{count, printable};
use crate::sys::{Root, clock};
use crate::verify::{Looks, Pending};
use crate::vzdump::{GuestType, Vmid};

const SCHEMA: u32 = 1;

/// How many containers that are not back are listed for a guest; nobody reads more at once.
const MOST_NOT_BACK: usize = 20;

/// The longest reason in characters. It is long because an engine's or a server's own error is at
/// the end.
const REASON: usize = 600;

/// The present state of this node's guests.
///
/// # Errors
/// If the journal or the cluster's configuration cannot be read; a damaged record is no error.
pub fn gather(root: &Root, settings: &Settings, limits: &Limits) -> Result<Status> {
    let now = clock::now();
    let history = History::read(root)?;
    let drop_in = drop_in_calls(root);
    let going_on = going_on(root, &history, now)?;
    let mut guests = Vec::new();
    for (vmid, guest_type, config) in known(root, &history)? {
        let past = history.guests.get(&vmid);
        let mut guest = guest(vmid, guest_type, &config, past, now);
        let lost = not_back(root, vmid);
        let start = if lost.is_empty() { None } else { way_to_start(root, vmid) };
        take_in(&mut guest, &lost, start.as_ref());
        guest.on_start = OnStart::of(guest_type, &config, drop_in);
        guest.settled = past.and_then(|past| settled(root, vmid, past, now));
        let started = Started::load(root, vmid);
        guest.start_refused = started.refusal().map(|refusal| printable(&refusal.reason, REASON));
        guest.problems = judge::problems(&guest, &going_on, limits);
        if let Some(message) = left_locked(root, vmid, guest_type, &config) {
            let level = level_of_lock(guest.backup.as_ref());
            guest.problems.push(Problem { level, message });
            guest.problems.sort_by_key(|problem| std::cmp::Reverse(problem.level));
        }
        guest.level = judge::worst(&guest.problems);
        guests.push(guest);
    }
    let problems = of_node(root, settings, &history);
    let level = guests.iter().map(|guest| guest.level).max().unwrap_or_default();
    Ok(Status {
        schema: SCHEMA,
        time: clock::rfc3339(now),
        node: node_name(root),
        level: level.max(judge::worst(&problems)),
        problems,
        guests,
        now: going_on,
    })
}

/// The guests of this node; if no configuration is there, those in the journal.
fn known(root: &Root, history: &History) -> Result<Vec<(Vmid, GuestType, Config)>> {
    let members = members(root)?;
    if members.is_empty() {
        let of_past = |(vmid, past): (&Vmid, &Past)| {
            let guest_type =
                past.last.as_ref().map_or(GuestType::Lxc, |last| last.record.guest_type);
            (*vmid, guest_type, Config::default())
        };
        return Ok(history.guests.iter().map(of_past).collect());
    }
    let mut known = Vec::new();
    for member in members.into_iter().filter(|member| member.node.is_none()) {
        if let Some(config) = member.config()? {
            known.push((member.vmid, member.guest_type, config));
        }
    }
    Ok(known)
}

fn guest(
    vmid: Vmid,
    guest_type: GuestType,
    config: &Config,
    past: Option<&Past>,
    now: DateTime<Utc>,
) -> Guest {
    let last = past.and_then(|past| past.last.as_ref());
    let moment = |time: DateTime<Utc>| moment(time, now);
    let name = config.hostname.as_ref().or(last.and_then(|last| last.record.hostname.as_ref()));
    Guest {
        vmid,
        name: name.map(|name| printable(name, 63)),
        guest_type,
        level: Level::Ok,
        problems: Vec::new(),
        backup: last.map(|last| backup(last, now)),
        last_success: past.and_then(|past| past.last_made).map(moment),
        verify: past.and_then(|past| past.proof.as_ref()).map(|proof| match proof {
            Proof::Pending(since) => {
                Verify { state: ProofState::Pending, moment: Some(moment(*since)), reason: None }
            }
            Proof::Known(time, outcome, reason) => Verify {
                state: ProofState::Known(*outcome),
                moment: Some(moment(*time)),
                reason: reason.as_deref().map(|reason| printable(reason, REASON)),
            },
            Proof::NotAsked(word) => {
                let word = match word {
                    Word::Other(word) => Word::Other(printable(word, 40)),
                    known => known.clone(),
                };
                Verify { state: ProofState::NotAsked(word), moment: None, reason: None }
            }
        }),
        last_verified: past.and_then(|past| past.last_verified).map(moment),
        on_start: OnStart::None,
        start_refused: None,
        not_back: Vec::new(),
        settled: None,
    }
}

/// A guest's containers that are not back: those of a run that is still open after its job, and
/// those that were set aside.
fn not_back(root: &Root, vmid: Vmid) -> Vec<Lost> {
    let left = Left::load(root, vmid).map(|left| left.containers).unwrap_or_default();
    let mut lost: Vec<Lost> = left.iter().map(Lost::from).collect();
    if let Ok(Some(run)) = Runs::of(root).load(vmid)
        && !run.job.worker.alive()
    {
        lost.extend(run.not_back().map(Lost::from));
    }
    lost.truncate(MOST_NOT_BACK);
    lost
}

/// In a guest that is down, no stack can be created; its next start tries what is left.
fn take_in(guest: &mut Guest, lost: &[Lost], start: Option<&String>) {
    let anew = |lost: &Lost| {
        let command = lost.way_back.as_ref().filter(|_| lost.removed);
        command.map(|command| on_the_node(guest.vmid, command))
    };
    let one = |lost: &Lost| NotBack {
        name: printable(&lost.name, 80),
        why: printable(&lost.why, 300),
        removed: lost.removed,
        way_back: start.cloned().or_else(|| anew(lost)),
    };
    guest.not_back = lost.iter().map(one).collect();
    if let Some(backup) = &mut guest.backup {
        for lost in &guest.not_back {
            if !backup.not_back.contains(&lost.name) {
                backup.not_back.push(lost.name.clone());
            }
        }
    }
}

/// What is still wrong from the last start of a restored guest.
fn settled(root: &Root, vmid: Vmid, past: &Past, now: DateTime<Utc>) -> Option<Settled> {
    let last = past.settled.as_ref()?;
    let held = if last.held_back.is_empty() {
        Vec::new()
    } else {
        held_back::still(root, vmid, &last.held_back)
    };
    let held = held.into_iter().map(|held| HeldBack {
        name: printable(&held.name, 80),
        reason: printable(&held.why, 1000),
    });
    let settled = Settled {
        moment: moment(last.time, now),
        held_back: held.collect(),
        lost: last.lost.iter().map(|lost| printable(lost, 600)).collect(),
    };
    (!settled.held_back.is_empty() || !settled.lost.is_empty()).then_some(settled)
}

fn backup(last: &LastBackup, now: DateTime<Utc>) -> Backup {
    let said = |text: &String| printable(text, 300);
    let record = &last.record;
    Backup {
        moment: moment(last.time, now),
        outcome: record.outcome,
        error: record.error.as_ref().map(said),
        grade: record.grade,
        reasons: record.reasons.iter().map(|reason| printable(reason, REASON)).collect(),
        mode_asked: record.mode_asked,
        mode_used: record.mode_used,
        downtime_ms: record.downtime_ms,
        not_back: last.not_back.iter().map(|name| printable(name, 80)).collect(),
        storage: record.storage.as_ref().map(said),
        target: record.target.as_ref().map(said),
    }
}

fn moment(time: DateTime<Utc>, now: DateTime<Utc>) -> Moment {
    // After a clock was set back, nothing has a negative age.
    let age_s = u64::try_from((now - time).num_seconds()).unwrap_or(0);
    Moment { time: clock::rfc3339(time), age_s }
}

fn going_on(root: &Root, history: &History, now: DateTime<Utc>) -> Result<Vec<Now>> {
    let mut going_on = Vec::new();
    let runs = Runs::of(root);
    for vmid in runs.guests()? {
        let run = match runs.load(vmid) {
            // Its backup is over; the guard only watches whether everything stays up.
            Ok(Some(run)) if run.only_looks() => continue,
            Ok(Some(run)) => run,
            Ok(None) => continue,
            Err(error) => {
                let message = printable(&format!("{error:#}"), 300);
                going_on.push(Now { vmid, what: What::LeftOver, since: None, message });
                continue;
            }
        };
        let since = run.opened.parse().ok().map(|opened| moment(opened, now));
        let began = since.as_ref().map_or(String::new(), |since| format!(" {}", ago(since.age_s)));
        let containers = count(run.fates().len(), "container");
        let (what, message) = match (run.job.worker.alive(), run.is_at_rest(), run.is_open()) {
            (true, true, _) => {
                (What::Backup, format!("its backup began{began}; {containers} at rest"))
            }
            (true, false, _) => (What::Backup, format!("its backup began{began}")),
            (false, _, open) => {
                let left = match (open, way_to_start(root, vmid)) {
                    (true, Some(command)) => format!("the guest is down: `{command}` starts it"),
                    (true, None) => {
                        format!("not everything is back: `stillpoint resume {vmid}` starts it")
                    }
                    (false, _) if run.journalled.is_done() => {
                        "the guest is still locked, frozen or down: `stillpoint recover` mends it"
                            .to_string()
                    }
                    (false, _) => "how it ended is not in the journal yet: `stillpoint recover` \
                                   writes it"
                        .to_string(),
                };
                let ended = if run.journalled.is_done() { "is over" } else { "was interrupted" };
                let message = format!("a backup that began{began} {ended}, and {left}");
                (What::LeftOver, message)
            }
        };
        going_on.push(Now { vmid, what, since, message });
    }
    for (vmid, unseen) in Looks::read(root).unseen {
        let since = unseen.since.parse().ok().map(|since| moment(since, now));
        let message = printable(
            &format!(
                "its proven backup on storage {} cannot be checked again: {}",
                unseen.storage, unseen.reason
            ),
            1000,
        );
        going_on.push(Now { vmid: Vmid(vmid), what: What::Unseen, since, message });
    }
    going_on.extend(by_hand(root, now)?);
    let queued = crate::verify::pending(root)?;
    for (vmid, past) in &history.guests {
        let Some(Proof::Pending(since)) = past.proof else { continue };
        let storage = past.last.as_ref().and_then(|last| last.record.storage.as_deref());
        let since = moment(since, now);
        let storage = printable(storage.unwrap_or("?"), 100);
        let its = |one: &&Pending| one.vmid == *vmid && !one.by_hand && one.is_queued();
        let message = match queued.iter().find(its) {
            Some(waits) => {
                let since = age(since.age_s);
                format!(
                    "the verify of its backup on storage {storage} has been waiting for {since}{}",
                    why(waits)
                )
            }
            None => format!(
                "the verify of its backup on storage {storage} has been running for {}",
                age(since.age_s)
            ),
        };
        going_on.push(Now { vmid: *vmid, what: What::Verify, since: Some(since), message });
    }
    Ok(going_on)
}

/// The verifies that people have asked for, by guest and storage.
fn by_hand(root: &Root, now: DateTime<Utc>) -> Result<Vec<Now>> {
    let mut asked: BTreeMap<(Vmid, String), Vec<Pending>> = BTreeMap::new();
    for one in crate::verify::pending(root)? {
        if one.by_hand && one.ended.is_none() {
            asked.entry((one.vmid, one.storage.clone())).or_default().push(one);
        }
    }
    let told = asked.into_iter().map(|((vmid, storage), all)| {
        let since = all.first().and_then(|one| one.since.parse().ok());
        let waiting: Vec<&Pending> = all.iter().filter(|one| one.is_queued()).collect();
        let message = format!(
            "{} on storage {} being verified on request: {} running, {} waiting{}",
            count(all.len(), "backup"),
            printable(&storage, 100),
            all.len() - waiting.len(),
            waiting.len(),
            waiting
                .iter()
                .find_map(|one| one.trouble.as_ref().map(|_| why(one)))
                .unwrap_or_default()
        );
        Now { vmid, what: What::Verify, since: since.map(|since| moment(since, now)), message }
    });
    Ok(told.collect())
}

fn why(waits: &Pending) -> String {
    let reason = waits.trouble.as_ref().map(|trouble| printable(&trouble.reason, 300));
    reason.map_or(String::new(), |reason| format!(" ({reason})"))
}

/// What is wrong with the node itself.
fn of_node(root: &Root, settings: &Settings, history: &History) -> Vec<Problem> {
    let mut messages = Vec::new();
    if let Some(complaint) = &settings.complaint {
        messages.push(printable(complaint, 1000));
    }
    if let Some(complaint) = metrics::complaint(root, settings) {
        messages.push(printable(&complaint, 1000));
    }
    for (storage, words) in Looks::read(root).tight {
        messages.push(printable(&format!("storage {storage}: {words}"), 300));
    }
    if let Some(first) = &history.first_damage {
        let lines = count(history.damaged, "line");
        messages.push(format!("the journal has {lines} that cannot be read, the first: {first}"));
    }
    if history.not_understood > 0 {
        let records = count(history.not_understood, "record");
        messages.push(format!("the journal has {records} that this version does not understand"));
    }
    messages.into_iter().map(|message| Problem { level: Level::Warning, message }).collect()
}

impl Default for Limits {
    /// A week and a day, so that a weekly backup is not late before the next one is due.
    fn default() -> Limits {
        Limits { max_age: Duration::from_secs(8 * 86_400) }
    }
}
