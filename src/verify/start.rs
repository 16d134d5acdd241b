use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::collect::{Collection, Collector};
use super::due::not_due;
use super::pending::{Pending, Purpose};
use super::queue::Queue;
use crate::config::Settings;
use crate::journal::{VerifyOutcome, VerifyStart, VerifyState};
use crate::pbs::Snapshot;
use crate::pve::storage;
use crate::run::Run;
use crate::sys::Root;

/// How long backup-end waits for the server to accept the verify.
const START_LIMIT: Duration = Duration::from_secs(20);

/// Makes sure that a run's backup is verified, if it is on a Proxmox Backup Server and due: its
/// verify is started, or queued behind others of the datastore. Does not wait for the result.
///
/// `None`: there is nothing to verify. A server that is down or refuses is an outcome, not an
/// error; an error means that the verify could not be recorded.
pub fn start(root: &Root, settings: &Settings, run: &Run) -> Result<Option<VerifyStart>> {
    let Some(name) = run.storage.as_deref() else { return Ok(None) };
    let target = run.target.as_deref().and_then(|target| target.parse::<Snapshot>().ok());
    let found = match storage::find(root, name) {
        Ok(Some(found)) if found.kind == "pbs" => found,
        Ok(_) => return Ok(None),
        // A directory's archive has a path; only on a backup server it has a name like this.
        Err(_) if target.is_none() => return Ok(None),
        Err(error) => {
            return Ok(Some(not_started(
                VerifyOutcome::Unknown,
                format!("/etc/pve/storage.cfg: {error}"),
            )));
        }
    };
    let Some(snapshot) = target else {
        return Ok(Some(not_started(
            VerifyOutcome::Unknown,
            "vzdump did not name the snapshot".to_string(),
        )));
    };
    let namespace = found.target.as_ref().and_then(|target| target.namespace.clone());
    let snapshot = snapshot.in_namespace(namespace);
    let mut pending = Pending {
        guest: run.guest(),
        ..Pending::new(run.id.clone(), run.job.clone(), run.vmid, &found, snapshot)
    };
    let policy = settings.verify_of(run.vmid.0, name);
    let queue = Queue::of(root);
    // If the journal cannot be read, the backup is verified anyway.
    if let Ok(Some(why)) = not_due(root, policy.when, &pending) {
        if policy.require_encryption {
            pending.purpose = Purpose::Encryption;
            queue.save(&pending)?;
        }
        return Ok(Some(told(VerifyState::NotDue, why)));
    }
    // Recorded before it is ordered: an unrecorded verify would never be collected.
    let later = || format!("not written down; `stillpoint verify {}` starts one later", run.vmid);
    queue.save(&pending).with_context(later)?;
    order(root, &pending).map(Some)
}

fn order(root: &Root, pending: &Pending) -> Result<VerifyStart> {
    let collector = Collector::BackupEnd {
        job: &pending.job,
        run: &pending.run,
        datastore: &pending.datastore,
    };
    let deadline = Instant::now() + START_LIMIT;
    let asked = Collection::new(root, collector, Some(deadline)).run(|_| Ok(()));
    let mut queue = Queue::of(root);
    queue.refresh()?;
    let Some(now) = queue.get(&pending.file_name()) else {
        // Another process was faster: its outcome is in the journal.
        return Ok(VerifyStart { state: VerifyState::Started.into(), upid: None, reason: None });
    };
    if let Some(upid) = &now.upid {
        let by_itself = now.starts == 0;
        let reason = by_itself.then(|| "the server has started it by itself".to_string());
        let upid = Some(upid.to_string());
        return Ok(VerifyStart { state: VerifyState::Started.into(), upid, reason });
    }
    if let Some(trouble) = &now.trouble {
        return Ok(not_started(trouble.outcome, trouble.reason.clone()));
    }
    asked?;
    let in_front = |other: &&&Pending| {
        other.datastore == now.datastore
            && other.run != now.run
            && (other.is_at_work() || other.is_queued() && other.since <= now.since)
    };
    let (all, mut guests) = (queue.all(), Vec::new());
    for other in all.iter().filter(in_front) {
        guests.push(other);
    }
    let troubled = guests.iter().find_map(|other| other.trouble.as_ref());
    let reason = match (troubled, guests.as_slice()) {
        (Some(trouble), _) => format!("the server was not ready: {}", trouble.reason),
        (None, []) => "it is its turn next".to_string(),
        (None, [only]) => format!("behind that of {}", only.guest),
        (None, [.., last]) => {
            let others = guests.len() - 1;
            let others = if others == 1 { "1 other".into() } else { format!("{others} others") };
            format!("behind that of {} and {others} of the datastore", last.guest)
        }
    };
    Ok(told(VerifyState::Queued, reason))
}

fn told(state: VerifyState, reason: String) -> VerifyStart {
    VerifyStart { state: state.into(), upid: None, reason: Some(reason) }
}

fn not_started(outcome: VerifyOutcome, reason: String) -> VerifyStart {
    told(VerifyState::NotStarted(outcome), reason)
}
