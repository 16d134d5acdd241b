//! The files of the journal, oldest first.
//!
//! `journal.jsonl` is the one that is written to. Once it has grown it is closed: it becomes the next
//! numbered file in `journal/`, which nobody changes again. An earlier version kept one closed file,
//! `journal.jsonl.1`, which counts as the newest of them until it gets a number too.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::carry;
use crate::sys::{Root, file};

const OPEN: &str = "/var/lib/stillpoint/journal.jsonl";
const CLOSED: &str = "/var/lib/stillpoint/journal";
const CLOSED_BEFORE: &str = "/var/lib/stillpoint/journal.jsonl.1";
const CARRIED: &str = "/var/lib/stillpoint/journal.jsonl.last";

/// One file of the journal.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    /// Its place among all that there ever were; the first is 1.
    pub(super) number: u64,
    pub(super) path: PathBuf,
}

/// All files of the journal.
#[derive(Debug)]
pub(super) struct Segments {
    /// The newest records of each guest from segments that were removed.
    pub(super) carried: Option<(PathBuf, File)>,
    /// Oldest first.
    pub(super) closed: Vec<Segment>,
    /// The number that the open one has or will have, and its file where there is one.
    pub(super) open: (Segment, Option<File>),
}

impl Segments {
    /// The files as they are now. It needs no lock: closing the open file meanwhile neither hides
    /// nor doubles a record.
    pub(super) fn of(root: &Root) -> Result<Segments> {
        // The open one first: should it be closed before the others are listed, it is among them.
        let newest = open(&root.path(OPEN))?;
        let mut closed = numbered(root)?;
        let before = root.path(CLOSED_BEFORE);
        if before.exists() {
            closed.push(Segment { number: last_number(&closed) + 1, path: before });
        }
        if let (Some(newest), Some(last)) = (&newest, closed.last())
            && is_file(newest, &last.path)?
        {
            closed.pop();
        }
        let mut carried = open(&root.path(CARRIED))?;
        if let (Some(carried), Some(first)) = (&mut carried, closed.first())
            && let Some(mut file) = open(&first.path)?
            && carry::taken_from(carried)? == Some(carry::beginning(&mut file)?)
        {
            closed.remove(0);
        }
        let segment = Segment { number: last_number(&closed) + 1, path: root.path(OPEN) };
        let carried = carried.map(|file| (root.path(CARRIED), file));
        Ok(Segments { carried, closed, open: (segment, newest) })
    }

    /// Oldest first, the open one last. One that was removed meanwhile is left out.
    pub(super) fn files(self) -> impl DoubleEndedIterator<Item = Result<(Segment, File)>> {
        let closed = self.closed.into_iter().filter_map(|segment| {
            open(&segment.path).map(|file| file.map(|file| (segment, file))).transpose()
        });
        let (segment, file) = self.open;
        closed.chain(file.map(|file| Ok((segment, file))))
    }
}

/// Closes the open file. Under the journal's lock.
pub(super) fn close_open(root: &Root) -> Result<()> {
    file::own_directory(&root.path(CLOSED))?;
    for path in [CLOSED_BEFORE, OPEN] {
        let path = root.path(path);
        if path.exists() {
            let to = root.path(CLOSED).join(name(last_number(&numbered(root)?) + 1));
            fs::rename(&path, &to).with_context(|| to.display().to_string())?;
        }
    }
    File::open(root.path(CLOSED))?.sync_all()?;
    Ok(())
}

/// Removes a closed file, after the newest records of each guest in it were carried over.
pub(super) fn remove(root: &Root, segment: &Segment) -> Result<()> {
    carry::carry_over(&root.path(CARRIED), &segment.path)?;
    Ok(file::remove(&segment.path)?)
}

/// Those in `journal/`, by their numbers.
fn numbered(root: &Root) -> Result<Vec<Segment>> {
    let directory = root.path(CLOSED);
    let entries = match fs::read_dir(&directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.with_context(|| directory.display().to_string())?,
    };
    let mut segments = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| directory.display().to_string())?.path();
        if let Some(number) = number(&path) {
            segments.push(Segment { number, path });
        }
    }
    segments.sort_by_key(|segment| segment.number);
    Ok(segments)
}

fn name(number: u64) -> String {
    format!("{number:06}.jsonl")
}

fn number(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_suffix(".jsonl")?.parse().ok()
}

fn last_number(segments: &[Segment]) -> u64 {
    segments.last().map_or(0, |segment| segment.number)
}

fn open(path: &Path) -> Result<Option<File>> {
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some).with_context(|| path.display().to_string()),
    }
}

fn is_file(file: &File, path: &Path) -> Result<bool> {
    let of = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        other => Ok(of(other.with_context(|| path.display().to_string())?) == of(file.metadata()?)),
    }
}
