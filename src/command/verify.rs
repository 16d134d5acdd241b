use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::print;
use crate::inventory::{self, volid};
use crate::journal::VerifyOutcome;
use crate::pbs::{BackupType, Choice, Entry, Pbs, Snapshot, Upid};
use crate::pve::node_name;
use crate::pve::storage::Attached;
use crate::sys::text::{count, printable, token};
use crate::sys::{Root, detach, signal};
use crate::verify;
use crate::verify::by_hand::{Order, Standing, order};
use crate::vzdump::Vmid;

/// The limit for listing one guest's snapshots, and for asking about one.
const QUESTION_LIMIT: Duration = Duration::from_secs(60);
/// Even without --wait, the command waits this long to see whether the server accepts the verify.
const START_LIMIT: Duration = Duration::from_secs(10);
/// A little longer than the collector waits for the server.
const OUTCOME_LIMIT: Duration = Duration::from_secs(25 * 3600);

/// How soon Ctrl-C is noticed.
const STEP: Duration = Duration::from_millis(100);

/// The exit status after Ctrl-C.
const INTERRUPTED: u8 = 130;

const FIRST_LOOK: Duration = Duration::from_millis(200);
const SLOWEST_LOOK: Duration = Duration::from_secs(2);

/// At most this many lines of one task's log are shown.
const LINES: usize = 2_000;

/// How often a waiting command checks that a collector is still running.
const COLLECTOR_LOOK: Duration = Duration::from_secs(5);

/// Has a snapshot verified: the latest of a guest on each storage, or all of a guest's. The exit
/// status is 0 if each verify was ordered, or with `wait` if each snapshot is good.
pub fn verify(root: &Root, what: &str, all: bool, wait: bool) -> Result<u8> {
    let (chosen, failed) = match what.split_once(':') {
        Some(_) if all => bail!("--all needs a guest (VMID), not one snapshot"),
        Some((storage, volume)) => (vec![named(root, storage, volume)?], false),
        None => of_guest(
            root,
            what.parse().context("neither a guest (VMID) nor a volume (VOLID)")?,
            all,
        )?,
    };
    if chosen.is_empty() && failed {
        // What a storage has that did not answer is unknown, and the reason is already printed.
        return Ok(1);
    }
    if chosen.is_empty() {
        bail!("guest {what} has no snapshot on a backup server that could be verified");
    }
    let mut watched = Vec::new();
    for Chosen { storage, vmid, snapshots } in chosen {
        for order in order(root, &storage, vmid, snapshots)? {
            let name = volid(&storage, order.snapshot());
            watched.push(Watched::of(name, order, storage.clone()));
        }
    }
    collect(root)?;
    if wait {
        signal::watch().context("cannot watch for Ctrl-C")?;
    }
    let limit = if wait { OUTCOME_LIMIT } else { START_LIMIT };
    match watch(root, &mut watched, wait, Instant::now() + limit)? {
        Watch::Over { failed: bad } => Ok(u8::from(bad || failed)),
        Watch::Interrupted => {
            interrupted(root, &watched)?;
            Ok(INTERRUPTED)
        }
    }
}

fn collect(root: &Root) -> Result<()> {
    detach::start(root, &format!("stillpoint-collect-{}", token()), &["collect"])
        .map(drop)
        .context("the verify is queued, but the process that collects it could not be started")
}

/// Snapshots of one group to verify.
struct Chosen {
    storage: String,
    vmid: Vmid,
    snapshots: Vec<Snapshot>,
}

/// `offsite` and `backup/ct/9001/2026-11-21T23:22:56Z`
fn named(root: &Root, storage: &str, volume: &str) -> Result<Chosen> {
    let whole = printable(&format!("{storage}:{volume}"), 200);
    let no = || {
        format!(
            "{whole}: a snapshot of a guest is named STORAGE:backup/ct/9001/2026-11-21T23:22:56Z"
        )
    };
    let snapshot = volume.strip_prefix("backup/").and_then(|name| name.parse::<Snapshot>().ok());
    let snapshot = snapshot.with_context(no)?;
    let vmid = snapshot.backup_id.parse::<Vmid>().ok();
    let vmid = vmid.filter(|_| snapshot.backup_type != BackupType::Host).with_context(no)?;
    let pbs = Pbs::open(root, storage)?;
    let snapshot = snapshot.in_namespace(pbs.target().namespace.clone());
    // Reports a mistyped time now; a verify task would just skip the snapshot.
    pbs.state(&snapshot, Instant::now() + QUESTION_LIMIT).context(whole)?;
    Ok(Chosen { storage: storage.to_owned(), vmid, snapshots: vec![snapshot] })
}

/// The latest finished snapshot of a guest on each storage that this node uses, or all of them; and
/// whether a storage did not answer. A datastore behind two storages is asked once.
fn of_guest(root: &Root, vmid: Vmid, all: bool) -> Result<(Vec<Chosen>, bool)> {
    let mut places = inventory::places(root, &node_name(root)).context("/etc/pve/storage.cfg")?;
    places.retain(|place| place.attached == Attached::Enabled);
    if places.is_empty() {
        bail!("no storage that this node uses is a Proxmox Backup Server");
    }
    let mut by_place = BTreeMap::new();
    for place in &places {
        let id = place.storage_id.as_ref().unwrap_or(&place.storage);
        by_place.entry((id, &place.namespace)).or_insert(place.storage.as_str());
    }
    let (mut chosen, mut failed) = (Vec::new(), false);
    for storage in by_place.into_values() {
        match snapshots(root, storage, vmid) {
            Ok(mut snapshots) => {
                snapshots.sort_by_key(|snapshot| std::cmp::Reverse(snapshot.backup_time));
                snapshots.truncate(if all { usize::MAX } else { 1 });
                for backup_type in [BackupType::Ct, BackupType::Vm] {
                    let of_group = |snapshot: &&Snapshot| snapshot.backup_type == backup_type;
                    let snapshots: Vec<Snapshot> =
                        snapshots.iter().filter(of_group).cloned().collect();
                    if !snapshots.is_empty() {
                        chosen.push(Chosen { storage: storage.to_owned(), vmid, snapshots });
                    } else if let Some(refusal) = foreign(root, storage, backup_type, vmid) {
                        eprintln!("stillpoint: {storage}: {refusal}");
                        failed = true;
                    }
                }
            }
            Err(error) => {
                eprintln!("stillpoint: {storage}: {error:#}");
                failed = true;
            }
        }
    }
    Ok((chosen, failed))
}

/// Why a guest seems to have no backups where they belong to another login: the server lists none
/// of those.
fn foreign(root: &Root, storage: &str, backup_type: BackupType, vmid: Vmid) -> Option<String> {
    let pbs = Pbs::open(root, storage).ok()?;
    let id = vmid.to_string();
    let owner = pbs.foreign_owner(backup_type, &id, Instant::now() + QUESTION_LIMIT).ok()??;
    let (target, group) = (pbs.target(), format!("{}/{id}", backup_type.as_str()));
    Some(format!(
        "{group} belongs to {} and not to {}; on the backup server: `{}`",
        printable(&owner, 120),
        target.username,
        verify::change_owner(target, &group)
    ))
}

fn snapshots(root: &Root, storage: &str, vmid: Vmid) -> Result<Vec<Snapshot>> {
    let pbs = Pbs::open(root, storage)?;
    let id = vmid.to_string();
    let choice = Choice { backup_type: None, backup_id: Some(&id) };
    let (mut found, mut odd) = (Vec::new(), 0);
    let mut take = |entry: Result<Entry, String>| {
        match entry {
            Ok(entry) if entry.snapshot.backup_type == BackupType::Host || !entry.is_finished() => {
            }
            Ok(entry) => found.push(entry.snapshot),
            Err(_) => odd += 1,
        }
        ControlFlow::Continue(())
    };
    pbs.each_snapshot(choice, Instant::now() + QUESTION_LIMIT, &mut take)?;
    if odd > 0 {
        bail!("{} not understood", count(odd, "snapshot"));
    }
    Ok(found)
}

/// A verify that was ordered, and what has been printed about it.
struct Watched {
    name: String,
    order: Order,
    pbs: Option<Pbs>,
    storage: String,
    task: Option<Upid>,
    /// Why the server has not accepted the verify yet.
    trouble: Option<String>,
    /// Lines of the task's log that have been printed.
    lines: usize,
    /// Whether the task's log is shown for this snapshot: if one task verifies several, only one
    /// shows it.
    shows: bool,
    over: bool,
}

impl Watched {
    fn of(name: String, order: Order, storage: String) -> Watched {
        let (pbs, task, trouble) = (None, None, None);
        let (lines, shows, over) = (0, true, false);
        Watched { name, order, pbs, storage, task, trouble, lines, shows, over }
    }

    /// The server has not accepted the verify; each reason is printed once.
    fn waits(&mut self, trouble: Option<String>) -> Result<()> {
        if trouble.is_some() && self.trouble != trouble {
            let why = trouble.as_deref().unwrap_or_default();
            print(&format!("{}: not started yet: {}", self.name, printable(why, 1000)))?;
            self.trouble = trouble;
        }
        Ok(())
    }

    /// The server has accepted the verify, which covers `number` snapshots. If the task is in
    /// `known`, it was already announced.
    fn runs(&mut self, upid: Upid, number: usize, known: bool) -> Result<()> {
        if self.task.as_ref() == Some(&upid) {
            return Ok(());
        }
        self.shows = !known;
        if self.shows {
            let what = match number {
                1 => format!("{}: verify", self.name),
                _ => format!("{} and {} more of the guest: one verify", self.name, number - 1),
            };
            print(&format!("{what} started, {}", printable(upid.as_str(), 300)))?;
        }
        self.task = Some(upid);
        self.lines = 0;
        Ok(())
    }

    /// Prints new lines of the task's log. If the log cannot be read, the outcome still has the
    /// reason.
    fn progress(&mut self, root: &Root) -> Result<()> {
        let Some(upid) = self.task.as_ref().filter(|_| self.shows) else { return Ok(()) };
        if self.pbs.is_none() {
            self.pbs = Pbs::open(root, &self.storage).ok();
        }
        let Some(pbs) = &self.pbs else { return Ok(()) };
        let deadline = Instant::now() + START_LIMIT;
        let lines = pbs.log_from(upid, self.lines, deadline).unwrap_or_default();
        for line in lines.iter().take(LINES.saturating_sub(self.lines)) {
            print(&format!("  {line}"))?;
        }
        self.lines += lines.len();
        Ok(())
    }
}

/// How watching ended.
enum Watch {
    /// All are over, or are not waited for; `failed` if one is known not to be good.
    Over { failed: bool },
    /// The person pressed Ctrl-C.
    Interrupted,
}

/// Shows progress until all verifies are over; without `wait`, until the server has accepted the
/// first one.
fn watch(root: &Root, watched: &mut [Watched], wait: bool, deadline: Instant) -> Result<Watch> {
    let (mut failed, mut pause) = (false, FIRST_LOOK);
    let mut looked = Instant::now();
    loop {
        let before = watched.iter().filter(|one| !one.over).count();
        for at in 0..watched.len() {
            failed |= look_at(root, watched, at, wait)?;
        }
        let open = watched.iter().filter(|one| !one.over).count();
        // The others of a group follow at once.
        if open < before {
            pause = FIRST_LOOK;
        }
        let seen = watched.iter().any(|one| one.over || one.task.is_some());
        if open == 0 {
            return Ok(Watch::Over { failed });
        }
        if (!wait && seen) || Instant::now() >= deadline {
            print(&format!(
                "{} running: `stillpoint journal` shows the outcome when it is over.",
                verifies(open)
            ))?;
            return Ok(Watch::Over { failed: failed || wait });
        }
        if wait && looked.elapsed() >= COLLECTOR_LOOK {
            // A killed collector cannot report; start another one.
            if !verify::is_collected(root)? {
                collect(root)?;
            }
            looked = Instant::now();
        }
        let until = Instant::now() + pause;
        while Instant::now() < until {
            if signal::asked_to_stop() {
                return Ok(Watch::Interrupted);
            }
            thread::sleep(STEP.min(until.saturating_duration_since(Instant::now())));
        }
        pause = (pause * 9 / 8).min(SLOWEST_LOOK);
    }
}

/// Prints news about one verify; returns whether its snapshot is known not to be good.
fn look_at(root: &Root, watched: &mut [Watched], at: usize, wait: bool) -> Result<bool> {
    let Some(one) = watched.get(at).filter(|one| !one.over) else { return Ok(false) };
    let standing = one.order.standing(root)?;
    let (mut number, mut known) = (1, false);
    if let Standing::Running(upid) = &standing {
        let with = watched.iter().filter(|other| other.order.is_with(&one.order));
        number += with.count();
        known = watched.iter().any(|other| other.task.as_ref() == Some(upid));
    }
    let Some(one) = watched.get_mut(at) else { return Ok(false) };
    match standing {
        Standing::Waiting(trouble) => one.waits(trouble)?,
        Standing::Running(upid) => {
            one.runs(upid, number, known)?;
            if wait {
                one.progress(root)?;
            }
        }
        Standing::Over { outcome, reason } => {
            if wait {
                one.progress(root)?;
            }
            one.over = true;
            let why = reason.map(|reason| format!(": {}", printable(&reason, 1000)));
            print(&format!("{}: {outcome}{}", one.name, why.unwrap_or_default()))?;
            return Ok(outcome != VerifyOutcome::Ok);
        }
    }
    Ok(false)
}

fn verifies(number: usize) -> String {
    if number == 1 { "1 verify".to_owned() } else { format!("{number} verifies") }
}

/// Prints what goes on after Ctrl-C, how to follow it, and how to cancel it.
fn interrupted(root: &Root, watched: &[Watched]) -> Result<()> {
    let open: Vec<&Watched> = watched.iter().filter(|one| !one.over).collect();
    let waiting: Vec<&&Watched> = open.iter().filter(|one| one.task.is_none()).collect();
    let tasks: BTreeSet<&str> =
        open.iter().filter_map(|one| one.task.as_ref()).map(Upid::as_str).collect();
    print(&format!(
        "{} not over. You need not wait: `stillpoint status` shows the progress, and `stillpoint \
         journal` the outcomes when they are over.",
        verifies(open.len())
    ))?;
    for task in tasks {
        print(&format!(
            "To cancel it, on the backup server: proxmox-backup-manager task stop '{}'",
            printable(task, 300)
        ))?;
    }
    if !waiting.is_empty() {
        print(&format!("To cancel {} not started yet, here:", verifies(waiting.len())))?;
        for one in waiting {
            print(&format!("  rm -f {}", root.path(&one.order.file()).display()))?;
        }
    }
    Ok(())
}
