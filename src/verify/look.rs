//! Checks again what counts as proven: a server verifies by itself, prunes, and may find a backup
//! damaged long after we have verified it. One small request for each guest; no verify is started.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::advice::Advice;
use super::ending::{self, End};
use super::judge::{Retry, Verdict, of_manifest, unanswered};
use super::pending::{Ended, Pending};
use super::queue::Queue;
use super::room::shortage;
use super::servers::Servers;
use crate::journal::{Journal, Record, Verify, VerifyOutcome};
use crate::pbs::{BackupType, Entry, Error, Manifest, Pbs, Snapshot, State, VerifyState};
use crate::pve::members;
use crate::pve::storage::{self, Storage};
use crate::report::history::{History, Past};
use crate::sys::process::{self, Process};
use crate::sys::{Root, clock, file, lock, text};
use crate::vzdump::{Job, Vmid};

/// What the last check could not see, guest by guest.
const LOOKS: &str = "/var/lib/stillpoint/looks.json";
const LOCK: &str = "/run/stillpoint/look.lock";

/// By then another check is over, or it waits for servers that do not answer: its results are as
/// new as ours.
const LOCK_LIMIT: Duration = Duration::from_secs(60);

const QUESTION_LIMIT: Duration = Duration::from_secs(20);

/// A guest takes about 300 bytes.
const LIMIT: u64 = 4 << 20;

/// What the last check could not see.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Looks {
    /// By VMID.
    #[serde(default)]
    pub unseen: BTreeMap<u32, Unseen>,
    /// By storage: a sentence, if its datastore has too little space for the next backups.
    #[serde(default)]
    pub tight: BTreeMap<String, String>,
}

/// Why a guest's proven backup could not be checked again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unseen {
    /// Since when, RFC 3339, UTC.
    pub since: String,
    pub storage: String,
    pub reason: String,
}

impl Looks {
    /// The result of the last check; empty if there was none, or if its file is damaged.
    pub fn read(root: &Root) -> Looks {
        let read = file::read(&root.path(LOOKS), LIMIT).ok();
        read.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    fn write(&self, root: &Root) -> Result<()> {
        let path = root.path(LOOKS);
        if self.unseen.is_empty() && self.tight.is_empty() {
            return Ok(file::remove(&path)?);
        }
        let parent = path.parent().context("it has no directory")?;
        file::own_directory(parent)?;
        Ok(file::replace(&path, &serde_json::to_vec_pretty(self)?, 0o600)?)
    }
}

/// Looks at what counts as proof of each guest of this node. What the server says otherwise is
/// journalled; a failure is left in the queue, for the collector tells of it: whether there is one.
///
/// # Errors
/// Where the journal or storage.cfg cannot be read, or what was found cannot be written down.
pub fn look(root: &Root) -> Result<bool> {
    let path = root.path(LOCK);
    let _lock =
        lock::take(&path, Instant::now() + LOCK_LIMIT).context("another process is checking")?;
    let history = History::read(root)?;
    let storages = match storage::read(root) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        other => other.context("/etc/pve/storage.cfg")?,
    };
    let before = Looks::read(root);
    let mut look = Look {
        root,
        queue: Queue::of(root),
        servers: Servers::of(root),
        storages,
        before: &before,
        after: Looks::default(),
        failed: false,
    };
    look.queue.refresh()?;
    let here = on_this_node(root)?;
    for (vmid, past) in &history.guests {
        if here.as_ref().is_none_or(|here| here.contains(vmid)) {
            look.at_guest(*vmid, past)?;
        }
    }
    look.at_room(&history);
    if look.after != before {
        look.after.write(root).with_context(|| root.path(LOOKS).display().to_string())?;
    }
    Ok(look.failed)
}

/// The guests of this node; `None` if no configuration of any guest is there.
fn on_this_node(root: &Root) -> Result<Option<Vec<Vmid>>> {
    let members = members(root)?;
    let here = members.iter().filter(|member| member.node.is_none()).map(|member| member.vmid);
    Ok((!members.is_empty()).then(|| here.collect()))
}

struct Look<'a> {
    root: &'a Root,
    queue: Queue,
    servers: Servers,
    storages: Vec<Storage>,
    before: &'a Looks,
    after: Looks,
    failed: bool,
}

/// The result of checking a snapshot.
#[derive(Debug, PartialEq, Eq)]
pub enum Seen {
    /// Its known state has not changed.
    Same,
    /// The server now says something else.
    Otherwise(Verdict),
    /// It does not exist any more.
    Gone,
    /// Nothing that counts could be seen, and why.
    Nothing(Verdict),
}

/// The server's present state of a snapshot of that datastore; `known` is its last known state.
pub fn see(known: VerifyState, datastore: &str, state: &Result<State, Error>) -> Seen {
    let state = match state {
        Ok(state) => state,
        Err(Error::Gone) => return Seen::Gone,
        Err(error) if error.not_now().is_some() => return Seen::Nothing(unanswered(error)),
        Err(error) => {
            return match Manifest::of_refusal(error).map(|manifest| of_manifest(&manifest)) {
                Some(verdict) if verdict.outcome == VerifyOutcome::Failed => {
                    if known == VerifyState::Failed { Seen::Same } else { Seen::Otherwise(verdict) }
                }
                _ => Seen::Nothing(unanswered(error)),
            };
        }
    };
    let Some(found) = &state.verification else {
        return nothing("the server keeps no verdict with it any more");
    };
    if found.upid.datastore() != Some(datastore) {
        return nothing(
            "a sync has replaced what the server had found by what another datastore says",
        );
    }
    match (known, found.state) {
        (VerifyState::Ok, VerifyState::Failed) => {
            let reason = format!(
                "the backup server found it damaged later, in a verify of its own: {}",
                found.upid
            );
            Seen::Otherwise(Verdict {
                outcome: VerifyOutcome::Failed,
                reason: Some(reason),
                advice: Advice::BackUp,
                retry: Retry::Never,
            })
        }
        (VerifyState::Failed, VerifyState::Ok) => Seen::Otherwise(Verdict {
            outcome: VerifyOutcome::Ok,
            reason: None,
            advice: Advice::Nothing,
            retry: Retry::Never,
        }),
        _ => Seen::Same,
    }
}

fn nothing(reason: &str) -> Seen {
    let (reason, retry) = (Some(reason.to_owned()), Retry::Never);
    let advice = Advice::VerifyAgain;
    Seen::Nothing(Verdict { outcome: VerifyOutcome::Unknown, reason, advice, retry })
}

impl Look<'_> {
    /// Checks the free space of the datastores with backups of this node. One that does not answer,
    /// or does not report it, causes no warning here: the guests' own checks report that.
    fn at_room(&mut self, history: &History) {
        let verifies = history.guests.values().filter_map(|past| past.proven.first());
        let used: BTreeSet<&String> = verifies.map(|(_, verify)| &verify.storage).collect();
        for storage in used {
            let Ok(pbs) = Pbs::open(self.root, storage) else { continue };
            let Ok(status) = pbs.datastore_status(Instant::now() + QUESTION_LIMIT) else {
                continue;
            };
            if let Some(words) = shortage(self.root, storage, &status) {
                self.after.tight.insert(storage.clone(), words);
            }
        }
    }

    /// Checks a guest's last verified backup; if that has no result, its newest proven one.
    fn at_guest(&mut self, vmid: Vmid, past: &Past) -> Result<()> {
        let is_last = past.verdict.is_some();
        let newest = past.proven.first().map(|(_, verify)| verify);
        let Some(known) = past.verdict.as_ref().or(newest) else { return Ok(()) };
        let Some(pending) = self.pending(vmid, known)? else { return Ok(()) };
        let unfinished = |other: &&Pending| {
            other.ended.is_none() && other.vmid == vmid && other.snapshot == pending.snapshot
        };
        // Its own outcome is still to come.
        if self.queue.all().into_iter().any(|other| unfinished(&other)) {
            return Ok(());
        }
        let pbs = match self.servers.get(&pending) {
            Ok(pbs) => pbs,
            Err(error) => return self.unseen(&pending, unanswered(&error)),
        };
        let state = pbs.state(&pending.snapshot, Instant::now() + QUESTION_LIMIT);
        if let Err(error) = &state {
            self.servers.note(&pbs, error);
        }
        let before = match known.outcome {
            VerifyOutcome::Failed => VerifyState::Failed,
            _ => VerifyState::Ok,
        };
        match see(before, &pbs.target().datastore, &state) {
            Seen::Same => Ok(()),
            Seen::Nothing(verdict) => self.unseen(&pending, verdict),
            Seen::Otherwise(verdict) => self.write_down(&pending, &pbs, verdict, state.ok()),
            Seen::Gone => self.gone(&pending, &pbs, past, is_last),
        }
    }

    /// A snapshot that is gone is no loss if a newer one exists; a proven one takes its place.
    fn gone(&mut self, pending: &Pending, pbs: &Pbs, past: &Past, is_last: bool) -> Result<()> {
        let entries = match pbs.list(&pending.snapshot, Instant::now() + QUESTION_LIMIT) {
            Ok(entries) => entries,
            Err(error) => {
                self.servers.note(pbs, &error);
                return self.unseen(pending, unanswered(&error));
            }
        };
        let time = pending.snapshot.backup_time;
        let newer = |entry: &Entry| entry.is_finished() && entry.snapshot.backup_time > time;
        let superseded = entries.iter().any(newer);
        if is_last && superseded {
            let reason =
                "it was pruned or removed, and a newer backup is there that was not made here";
            let verdict = Verdict { reason: Some(reason.to_owned()), ..unanswered(&Error::Gone) };
            return self.unseen(pending, verdict);
        }
        let left = |verify: &Verify| {
            entries.iter().any(|entry| {
                let found = entry.verification.as_ref();
                entry.snapshot.backup_time == verify.backup_time
                    && found.is_some_and(|found| {
                        found.state == VerifyState::Ok
                            && found.upid.datastore() == Some(&pbs.target().datastore)
                    })
            })
        };
        if !superseded || !past.proven.iter().any(|(_, verify)| left(verify)) {
            return self.write_down(pending, pbs, unanswered(&Error::Gone), None);
        }
        // Those that are newer than its replacement are gone as well.
        for (_, verify) in past.proven.iter().take_while(|(_, verify)| !left(verify)) {
            if let Some(pending) = self.pending(pending.vmid, verify)? {
                let reason = Some("it was pruned or removed; a newer backup is there".to_owned());
                let advice = Advice::Nothing;
                let verdict = Verdict { reason, advice, ..unanswered(&Error::Gone) };
                self.journal(&pending, End::of(verdict, pbs, None))?;
            }
        }
        Ok(())
    }

    /// Journals a changed state; the collector reports a bad one. That is queued first, because
    /// what is journalled is not found again.
    fn write_down(
        &mut self,
        pending: &Pending,
        pbs: &Pbs,
        verdict: Verdict,
        state: Option<State>,
    ) -> Result<()> {
        let bad = verdict.outcome != VerifyOutcome::Ok;
        let record = ending::record(pending, End::of(verdict, pbs, state));
        if bad {
            let ended = Ended { outcome: record.outcome, reason: record.reason.clone() };
            self.queue.save(&Pending { ended: Some(ended), ..pending.clone() })?;
            self.failed = true;
        }
        Journal::of(self.root).append(&Record::Verify(record))
    }

    fn journal(&self, pending: &Pending, end: End) -> Result<()> {
        let record = Record::Verify(ending::record(pending, end));
        Journal::of(self.root).append(&record)
    }

    /// Records why nothing was seen: it is shown, but is no outcome.
    fn unseen(&mut self, pending: &Pending, verdict: Verdict) -> Result<()> {
        let vmid = pending.vmid.0;
        let known = self.before.unseen.get(&vmid);
        let since = known.map_or_else(|| clock::rfc3339(clock::now()), |it| it.since.clone());
        let advice = verdict.advice.words(pending, None);
        let reason = verdict.reason.into_iter().chain(advice).collect::<Vec<_>>().join("; ");
        let storage = pending.storage.clone();
        self.after.unseen.insert(vmid, Unseen { since, storage, reason });
        Ok(())
    }

    /// The snapshot of a record in the form of the queue; `None` if it is not a guest's, or its
    /// storage is gone.
    fn pending(&self, vmid: Vmid, verify: &Verify) -> Result<Option<Pending>> {
        let backup_type = match verify.backup_type.as_str() {
            "ct" => BackupType::Ct,
            "vm" => BackupType::Vm,
            _ => return Ok(None),
        };
        let Some(storage) = self.storage(verify) else { return Ok(None) };
        let snapshot = Snapshot {
            backup_type,
            backup_id: verify.backup_id.clone(),
            backup_time: verify.backup_time,
            namespace: verify.namespace.clone(),
        };
        let me = std::process::id().cast_signed();
        let worker = Process::find(me).context("this process")?;
        let session = process::session_of(me).context("the session of this process")?;
        let job = Job { upid: None, worker, session };
        let run = format!("look-{}", text::token());
        let pending = Pending::new(run, job, vmid, storage, snapshot);
        Ok(Some(Pending { by_hand: true, looked: true, asked: true, ..pending }))
    }

    /// The storage of a record, or another one of the same datastore.
    fn storage(&self, verify: &Verify) -> Option<&Storage> {
        let pbs = || self.storages.iter().filter(|storage| storage.kind == "pbs");
        let leads_there = |storage: &&Storage| {
            let id = storage.target.as_ref().map(storage::Target::durable_id);
            id.is_some_and(|id| id == verify.storage_id)
        };
        pbs().find(|storage| storage.id == verify.storage).or_else(|| pbs().find(leads_there))
    }
}

#[cfg(test)]
mod tests;
