//! The pending verifies on disk, which several processes work on at once.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::pending::{Pending, SCHEMA};
use crate::sys::lock::{self, Lock};
use crate::sys::process::Process;
use crate::sys::{Root, file};

/// Their directory.
pub const DIRECTORY: &str = "/var/lib/stillpoint/verifies";
const LOCK: &str = "/run/stillpoint/verifies.lock";
const LIMIT: u64 = 1 << 20;

/// The lock is held only to read and write files, never while the server is asked.
const LOCK_LIMIT: Duration = Duration::from_secs(20);

/// The pending verifies.
///
/// Reading needs no lock. Starting or ending one goes through [`Queue::claim`] and
/// [`Queue::change`], so that two collectors never start one twice, nor run more on a datastore
/// than allowed.
pub struct Queue {
    root: Root,
    /// By file name, with what shows whether the file has changed since.
    known: BTreeMap<String, (Stamp, Pending)>,
}

#[derive(PartialEq, Eq)]
struct Stamp {
    inode: u64,
    seconds: i64,
    nanoseconds: i64,
    length: u64,
}

impl Stamp {
    fn of(path: &Path) -> Option<Stamp> {
        let metadata = fs::metadata(path).ok()?;
        Some(Stamp {
            inode: metadata.ino(),
            seconds: metadata.mtime(),
            nanoseconds: metadata.mtime_nsec(),
            length: metadata.len(),
        })
    }
}

/// A verify in the present content of its file, read only if that has changed since it was `kept`.
fn read(path: &Path, name: &str, kept: Option<(Stamp, Pending)>) -> Option<(Stamp, Pending)> {
    let stamp = Stamp::of(path)?;
    if let Some(kept) = kept.filter(|(known, _)| *known == stamp) {
        return Some(kept);
    }
    let pending: Pending = serde_json::from_slice(&file::read(path, LIMIT).ok()?).ok()?;
    (pending.schema == SCHEMA && pending.file_name() == name).then_some((stamp, pending))
}

/// The result of trying to claim a verify.
#[derive(Debug)]
pub enum Claim {
    /// The caller may start it. `blind`: an earlier order may have had an unknown result.
    Mine { pending: Box<Pending>, blind: bool },
    /// The datastore runs as many as allowed.
    Full,
    /// Another process works on it, or it is over.
    Others,
}

impl Queue {
    /// The queue of this node; nothing is read yet.
    pub fn of(root: &Root) -> Queue {
        Queue { root: root.clone(), known: BTreeMap::new() }
    }

    /// Reads what has changed. An invalid file is left for an admin.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn refresh(&mut self) -> Result<()> {
        let directory = self.root.path(DIRECTORY);
        let entries = match fs::read_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.known.clear();
                return Ok(());
            }
            other => other.with_context(|| directory.display().to_string())?,
        };
        let mut known = BTreeMap::new();
        for entry in entries {
            let path = entry.with_context(|| directory.display().to_string())?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            if !name.ends_with(".json") || name.starts_with('.') {
                continue;
            }
            let kept = self.known.remove(name);
            if let Some(read) = read(&path, name, kept) {
                known.insert(name.to_string(), read);
            }
        }
        self.known = known;
        Ok(())
    }

    /// All of them as they were read, oldest first.
    pub fn all(&self) -> Vec<&Pending> {
        let mut all: Vec<&Pending> = self.known.values().map(|(_, pending)| pending).collect();
        all.sort_by(|one, other| one.since.cmp(&other.since).then(one.run.cmp(&other.run)));
        all
    }

    /// One of them as it was read.
    pub fn get(&self, name: &str) -> Option<&Pending> {
        self.known.get(name).map(|(_, pending)| pending)
    }

    /// Claims a verify in order to start it: durably, so that if the process dies, the next one
    /// knows that it may have been ordered. `seen` is the caller's knowledge of it.
    ///
    /// # Errors
    /// If the claim cannot be written; then the caller must not start it.
    pub fn claim(&mut self, seen: &Pending, parallel: usize) -> Result<Claim> {
        let me = Process::find(std::process::id().cast_signed()).context("this process")?;
        let _lock = self.lock()?;
        self.refresh()?;
        let name = seen.file_name();
        let Some(now) = self.get(&name) else { return Ok(Claim::Others) };
        let ordered_by = now.ordering.as_ref();
        let others = ordered_by.is_some_and(|by| *by != me && by.alive());
        if others || now.upid != seen.upid || now.ended.is_some() {
            return Ok(Claim::Others);
        }
        let all = || self.known.values().map(|(_, pending)| pending);
        let with: Vec<&Pending> = all().filter(|other| other.is_with(now)).collect();
        let taken = |other: &&&Pending| {
            let by = other.ordering.as_ref();
            other.upid.is_some() || by.is_some_and(|by| *by != me && by.alive())
        };
        if with.iter().any(|other| taken(&other)) {
            return Ok(Claim::Others);
        }
        let ordered = now.is_ordered() || with.iter().any(|other| other.is_ordered());
        let at_work = |pending: &&Pending| {
            pending.order_name() != now.order_name()
                && pending.datastore == now.datastore
                && pending.is_at_work()
        };
        let at_work: BTreeSet<String> = all().filter(at_work).map(Pending::order_name).collect();
        if now.upid.is_none() && !ordered && at_work.len() >= parallel {
            return Ok(Claim::Full);
        }
        let blind = ordered;
        let mut pending = Box::new(now.clone());
        pending.ordering = Some(me);
        pending.upid = None;
        self.write(&pending)?;
        Ok(Claim::Mine { pending, blind })
    }

    /// Queues what a person asks for; each replaced by one that is already queued and open. Returns
    /// those that are in the queue then. One that joins another belongs to that one's order; the
    /// rest is ordered one by one.
    ///
    /// # Errors
    /// Names the file.
    pub fn enlist(&mut self, wanted: Vec<Pending>) -> Result<Vec<Pending>> {
        let _lock = self.lock()?;
        self.refresh()?;
        let same = |known: &&&Pending, new: &Pending| {
            known.by_hand
                && known.ended.is_none()
                && known.datastore == new.datastore
                && known.snapshot == new.snapshot
        };
        let all = self.all();
        let found = |new: &Pending| all.iter().find(|known| same(known, new)).copied().cloned();
        let joined: Vec<Option<Pending>> = wanted.iter().map(found).collect();
        let alone = joined.iter().any(Option::is_some) || wanted.len() == 1;
        let mut enlisted = Vec::new();
        for (mut new, joined) in wanted.into_iter().zip(joined) {
            if let Some(joined) = joined {
                enlisted.push(joined);
                continue;
            }
            if alone {
                new.group = None;
            }
            self.write(&new)?;
            enlisted.push(new);
        }
        Ok(enlisted)
    }

    /// Writes a verify durably, also a new one.
    ///
    /// # Errors
    /// Names the file.
    pub fn save(&self, pending: &Pending) -> Result<()> {
        let _lock = self.lock()?;
        self.write(pending)
    }

    /// Changes a verify, unless another process has changed it; `None` from `change` removes it.
    /// Returns whether it was done.
    ///
    /// # Errors
    /// Those of `change`, and if the file cannot be written.
    pub fn change(
        &mut self,
        seen: &Pending,
        change: impl FnOnce(Pending) -> Result<Option<Pending>>,
    ) -> Result<bool> {
        let _lock = self.lock()?;
        let name = seen.file_name();
        let kept = self.known.remove(&name);
        if let Some(now) = read(&self.path(seen), &name, kept) {
            self.known.insert(name.clone(), now);
        }
        if self.get(&name) != Some(seen) {
            return Ok(false);
        }
        match change(seen.clone())? {
            Some(changed) => self.write(&changed)?,
            None => self.remove(seen)?,
        }
        Ok(true)
    }

    fn lock(&self) -> Result<Lock> {
        let path = self.root.path(LOCK);
        lock::take(&path, Instant::now() + LOCK_LIMIT).with_context(|| path.display().to_string())
    }

    fn write(&self, pending: &Pending) -> Result<()> {
        let path = self.path(pending);
        let write = || -> Result<()> {
            file::own_directory(&self.root.path(DIRECTORY))?;
            Ok(file::replace(&path, &serde_json::to_vec_pretty(pending)?, 0o600)?)
        };
        write().with_context(|| path.display().to_string())
    }

    fn remove(&self, pending: &Pending) -> Result<()> {
        let path = self.path(pending);
        file::remove(&path).with_context(|| path.display().to_string())
    }

    fn path(&self, pending: &Pending) -> PathBuf {
        self.root.path(DIRECTORY).join(pending.file_name())
    }
}
