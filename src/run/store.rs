use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::{Run, SCHEMA, schema1};
use crate::sys::lock::{self, Lock};
use crate::sys::{Root, file, text};
use crate::vzdump::Vmid;

/// Ten thousand containers at some 500 bytes each.
const LIMIT: u64 = 16 << 20;

/// A run's file without a valid run: cut off, garbage, or from another version.
#[derive(Debug)]
pub struct Damaged {
    pub path: PathBuf,
    pub reason: String,
}

impl std::fmt::Display for Damaged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} is damaged: {}", self.path.display(), self.reason)
    }
}

impl std::error::Error for Damaged {}

/// The runs of this node.
#[derive(Clone, Debug)]
pub struct Runs {
    pub(super) root: Root,
}

impl Runs {
    /// The runs below `/var/lib/stillpoint/runs`.
    pub fn of(root: &Root) -> Runs {
        Runs { root: root.clone() }
    }

    /// Takes a guest's lock; everything that changes its run or its containers takes it. Dropping
    /// it releases it, as does the end of the process.
    pub fn lock(&self, vmid: Vmid, deadline: Instant) -> Result<Lock> {
        let path = self.root.path(&format!("/run/stillpoint/guest-{vmid}.lock"));
        lock::take(&path, deadline).with_context(|| format!("the lock of guest {vmid}"))
    }

    /// The run of a guest, if there is one. An invalid file is the error [`Damaged`].
    pub fn load(&self, vmid: Vmid) -> Result<Option<Run>> {
        let path = self.path(vmid);
        let bytes = match file::read(&path, LIMIT) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
                return Err(Damaged { path, reason: error.to_string() }.into());
            }
            other => other.with_context(|| path.display().to_string())?,
        };
        #[cfg(test)]
        let parse = |bytes: &[u8]| match crate::sys::walk::current() {
            Some(_) => parsed_before(bytes),
            None => parse(bytes),
        };
        match parse(&bytes) {
            Ok(run) if matches!(run.schema, SCHEMA | schema1::SCHEMA) && run.vmid == vmid => {
                Ok(Some(run))
            }
            Ok(run) => {
                let reason = format!("it is of schema {} and guest {}", run.schema, run.vmid);
                Err(Damaged { path, reason }.into())
            }
            Err(error) => Err(Damaged { path, reason: text::excerpt(&error, 300) }.into()),
        }
    }

    /// Writes a run durably. A run too large to be read again is an error: a guest decides how long
    /// its names are.
    pub fn save(&self, run: &Run) -> Result<()> {
        let path = self.path(run.vmid);
        #[cfg(test)]
        if let Some(walk) = crate::sys::walk::current()
            && let Some(done) = walk.repeats_write()
        {
            return Ok(done?);
        }
        let write = || -> Result<()> {
            file::own_directory(&self.directory())?;
            let mut bytes = Bounded(Vec::new());
            match run.schema {
                schema1::SCHEMA => {
                    serde_json::to_writer_pretty(&mut bytes, &schema1::Run::from(run.clone()))?;
                }
                _ => serde_json::to_writer_pretty(&mut bytes, run)?,
            }
            Ok(file::replace(&path, &bytes.0, 0o600)?)
        };
        write().with_context(|| path.display().to_string())
    }

    /// Removes a guest's run.
    pub fn remove(&self, vmid: Vmid) -> Result<()> {
        let path = self.path(vmid);
        file::remove(&path).with_context(|| path.display().to_string())
    }

    /// Keeps one copy of a damaged run's file for an admin, and returns its path.
    pub fn keep_damaged(&self, vmid: Vmid) -> Result<PathBuf> {
        let directory = self.root.path("/var/lib/stillpoint/damaged");
        let copy = directory.join(format!("{vmid}.json"));
        file::own_directory(&directory)
            .and_then(|()| fs::copy(self.path(vmid), &copy))
            .with_context(|| copy.display().to_string())?;
        Ok(copy)
    }

    /// The guests that have a run.
    pub fn guests(&self) -> Result<Vec<Vmid>> {
        let directory = self.directory();
        #[cfg(test)]
        if let Some(walk) = crate::sys::walk::current() {
            let names = walk.names(&directory);
            return Ok(names
                .iter()
                .filter_map(|name| name.strip_suffix(".json")?.parse().ok())
                .collect());
        }
        let entries = match fs::read_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.with_context(|| directory.display().to_string())?,
        };
        let mut guests = Vec::new();
        for entry in entries {
            let name = entry.with_context(|| directory.display().to_string())?.file_name();
            let vmid: Option<Vmid> =
                name.to_str().and_then(|name| name.strip_suffix(".json")?.parse().ok());
            guests.extend(vmid);
        }
        guests.sort();
        Ok(guests)
    }

    fn directory(&self) -> PathBuf {
        self.root.path("/var/lib/stillpoint/runs")
    }

    fn path(&self, vmid: Vmid) -> PathBuf {
        self.directory().join(format!("{vmid}.json"))
    }
}

/// A walk reads the same file a thousand times.
#[cfg(test)]
fn parsed_before(bytes: &[u8]) -> serde_json::Result<Run> {
    use std::cell::RefCell;
    use std::collections::HashMap;
    thread_local! {
        static PARSED: RefCell<HashMap<Vec<u8>, Run>> = RefCell::default();
    }
    if let Some(run) = PARSED.with_borrow(|parsed| parsed.get(bytes).cloned()) {
        return Ok(run);
    }
    let run = parse(bytes)?;
    PARSED.with_borrow_mut(|parsed| parsed.insert(bytes.to_vec(), run.clone()));
    Ok(run)
}

fn parse(bytes: &[u8]) -> serde_json::Result<Run> {
    #[derive(Deserialize)]
    struct Head {
        schema: u32,
    }
    match serde_json::from_slice(bytes) {
        Ok(Head { schema: schema1::SCHEMA }) => {
            serde_json::from_slice::<schema1::Run>(bytes).map(Run::from)
        }
        _ => serde_json::from_slice(bytes),
    }
}

/// Bytes that are never more than [`LIMIT`].
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if (self.0.len() + bytes.len()) as u64 > LIMIT {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("it would be larger than {LIMIT} bytes"),
            ));
        }
        self.0.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
