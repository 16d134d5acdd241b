use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::judge::unanswered;
use crate::pbs::{Error, Pbs, Snapshot, Upid, storage};
use crate::run::{Run, VerifyStart};
use crate::sys::{Root, clock, file};
use crate::vzdump::{Job, Vmid};

const DIRECTORY: &str = "/var/lib/stillpoint/verifies";
pub(super) const SCHEMA: u32 = 1;
const LIMIT: u64 = 1 << 20;

/// backup-end waits no longer than this for the server to take the order.
const START_LIMIT: Duration = Duration::from_secs(20);

/// A verify that is to be collected: it lies in `/var/lib/stillpoint/verifies` from backup-end until its outcome
/// is in the journal.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Pending {
    pub schema: u32,
    /// The run that made the snapshot.
    pub run: String,
    pub job: Job,
    pub vmid: Vmid,
    /// The guest in words.
    pub guest: String,
    pub storage: String,
    pub snapshot: Snapshot,
    /// Whether a person asked for it: then it is of no run and no job.
    #[serde(default)]
    pub by_hand: bool,
    /// The task on the server; missing where it could not be started.
    pub upid: Option<Upid>,
    /// How often it was started.
    pub starts: u32,
    /// RFC 3339, UTC.
    pub since: String,
}

/// Starts the verify of what a run has backed up, where that went to a Proxmox Backup Server.
///
/// `None`: it did not. A server that is down or refuses is an outcome, not an error; an error means that the
/// verify can't be written down.
pub fn start(root: &Root, run: &Run) -> Result<Option<VerifyStart>> {
    let Some(storage) = run.storage.as_deref() else { return Ok(None) };
    match storage::find(root, storage) {
        Ok(Some(found)) if found.kind == "pbs" => {}
        Ok(_) => return Ok(None),
        // A directory's archive has a path; only a backup server's has a name like this.
        Err(_)
            if run.target.as_deref().is_none_or(|target| target.parse::<Snapshot>().is_err()) =>
        {
            return Ok(None);
        }
        Err(error) => {
            let reason = format!("/etc/pve/storage.cfg: {error}");
            return Ok(Some(VerifyStart {
                state: "unknown".into(),
                upid: None,
                reason: Some(reason),
            }));
        }
    }
    let Some(snapshot) = run.target.as_deref().and_then(|target| target.parse::<Snapshot>().ok())
    else {
        let reason = "vzdump did not name the snapshot".to_string();
        return Ok(Some(VerifyStart { state: "unknown".into(), upid: None, reason: Some(reason) }));
    };
    let deadline = Instant::now() + START_LIMIT;
    let mut pending = Pending {
        schema: SCHEMA,
        run: run.id.clone(),
        job: run.job.clone(),
        vmid: run.vmid,
        guest: run.guest(),
        storage: storage.to_string(),
        snapshot,
        by_hand: false,
        upid: None,
        starts: 0,
        since: clock::rfc3339(clock::now()),
    };
    // Before the order is given: a verify that nobody knows of would never be collected.
    pending.save(root)?;
    let started = Pbs::open(root, storage).and_then(|pbs| pending.start(&pbs, deadline));
    pending.save(root)?;
    Ok(Some(match started {
        Ok(()) => VerifyStart {
            state: "started".to_string(),
            upid: pending.upid.as_ref().map(ToString::to_string),
            reason: None,
        },
        Err(error) => {
            let verdict = unanswered(&error);
            let state = serde_json::to_value(verdict.outcome)?;
            VerifyStart {
                state: state.as_str().unwrap_or_default().to_string(),
                upid: None,
                reason: verdict.reason,
            }
        }
    }))
}

impl Pending {
    /// Starts the verify on the server.
    pub fn start(&mut self, pbs: &Pbs, deadline: Instant) -> Result<(), Error> {
        self.snapshot.namespace = pbs.target().namespace.clone();
        self.starts += 1;
        self.upid = None;
        self.upid = Some(pbs.start_verify(&self.snapshot, deadline)?);
        Ok(())
    }

    /// The verifies that are to be collected, oldest first; a file that is none is left for a person.
    pub fn all(root: &Root) -> Result<Vec<Pending>> {
        let directory = root.path(DIRECTORY);
        let entries = match fs::read_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.with_context(|| directory.display().to_string())?,
        };
        let mut all = Vec::new();
        for entry in entries {
            let path = entry.with_context(|| directory.display().to_string())?.path();
            if path.extension().is_some_and(|extension| extension == "json")
                && let Ok(bytes) = file::read(&path, LIMIT)
                && let Ok(pending) = serde_json::from_slice::<Pending>(&bytes)
                && pending.schema == SCHEMA
            {
                all.push(pending);
            }
        }
        all.sort_by(|one, other| one.since.cmp(&other.since));
        Ok(all)
    }

    /// Writes it down durably.
    pub fn save(&self, root: &Root) -> Result<()> {
        let path = self.path(root);
        let write = || -> Result<()> {
            fs::create_dir_all(root.path(DIRECTORY))?;
            Ok(file::replace(&path, &serde_json::to_vec_pretty(self)?, 0o600)?)
        };
        write().with_context(|| path.display().to_string())
    }

    /// Whether it still has to be collected.
    pub fn exists(&self, root: &Root) -> bool {
        self.path(root).exists()
    }

    /// It is in the journal.
    pub fn remove(&self, root: &Root) -> Result<()> {
        let path = self.path(root);
        file::remove(&path).with_context(|| path.display().to_string())
    }

    fn path(&self, root: &Root) -> PathBuf {
        root.path(DIRECTORY).join(format!("{}-{}.json", self.vmid, self.run))
    }
}
