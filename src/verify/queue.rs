//! The verifies that are to be collected, as they lie on disk: several processes work on them at once.

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

/// Where they lie.
pub const DIRECTORY: &str = "/var/lib/stillpoint/verifies";
const LOCK: &str = "/run/stillpoint/verifies.lock";
const LIMIT: u64 = 1 << 20;

/// Who decides holds the lock only to read and write files, never while the server is asked.
const LOCK_LIMIT: Duration = Duration::from_secs(20);

/// The verifies that are to be collected.
///
/// Reading is free; whoever starts one, or ends it, does so by [`Queue::claim`] and [`Queue::change`], so that two
/// collectors never start one twice, nor more than a datastore is meant to work on.
pub struct Queue {
    root: Root,
    /// By file name, with what tells whether the file has changed since.
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

/// A verify as its file has it now, read only where that has changed since it was `kept`.
fn read(path: &Path, name: &str, kept: Option<(Stamp, Pending)>) -> Option<(Stamp, Pending)> {
    let stamp = Stamp::of(path)?;
    if let Some(kept) = kept.filter(|(known, _)| *known == stamp) {
        return Some(kept);
    }
    let pending: Pending = serde_json::from_slice(&file::read(path, LIMIT).ok()?).ok()?;
    (pending.schema == SCHEMA && pending.file_name() == name).then_some((stamp, pending))
}

/// What came of an attempt to get hold of a verify.
#[derive(Debug)]
pub enum Claim {
    /// It is the caller's to start. `blind`: somebody has ordered it before and never learnt what came of it.
    Mine { pending: Box<Pending>, blind: bool },
    /// The datastore works on as many as it is meant to.
    Full,
    /// Somebody else is at it, or it is over.
    Others,
}

impl Queue {
    /// The queue of this node; nothing is read yet.
    pub fn of(root: &Root) -> Queue {
        Queue { root: root.clone(), known: BTreeMap::new() }
    }

    /// Reads what has changed. A file that is no verify is left for a person.
    ///
    /// # Errors
    /// When the directory can't be read.
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

    /// Gets hold of a verify in order to start it: durably, so that one whose starter dies is known to have been
    /// ordered. `seen` is what the caller knows of it.
    ///
    /// # Errors
    /// When the claim can't be written down; then it is not the caller's.
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

    /// Writes down what a person asks for, each in the place of one that is asked for and open already: those that are
    /// in the queue then. What joins another is of that one's order, and the rest is ordered one by one.
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

    /// Writes a verify down durably; a new one too.
    ///
    /// # Errors
    /// Names the file.
    pub fn save(&self, pending: &Pending) -> Result<()> {
        let _lock = self.lock()?;
        self.write(pending)
    }

    /// Changes a verify as long as nobody else has: `None` from `change` removes it. Whether it was done.
    ///
    /// # Errors
    /// Those of `change`, and when the file can't be written.
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
