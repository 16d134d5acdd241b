//! Which files of the journal have become too old.

use anyhow::{Context, Result};
use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;

use super::bound::LONGEST;
use super::lines::Backwards;
use super::segments::{Segment, Segments};
use super::{Record, Removed};
use crate::config::Settings;
use crate::sys::sha256::Sha256;
use crate::sys::{Root, clock};

/// The end of a closed file.
struct End {
    segment: Segment,
    /// Of its newest record.
    time: DateTime<Utc>,
    last: Sha256,
}

#[derive(Deserialize)]
struct Time {
    time: DateTime<Utc>,
}

/// The oldest file, where all of its records are older than `journal.keep`, and the record of its removal. Under the
/// journal's lock, when a file has just been closed.
pub(super) fn too_old(root: &Root) -> Result<Option<(Segment, Record)>> {
    let closed = Segments::of(root)?.closed;
    let [oldest, .., newest] = closed.as_slice() else { return Ok(None) };
    let Some(newest) = end(newest)? else { return Ok(None) };
    let Some(oldest) = end(oldest)? else { return Ok(None) };
    // A clock that is years ahead removes nothing: the newest closed file is not as new.
    let now = clock::now().min(newest.time);
    let keep = Settings::load_bounded(root).journal.keep;
    let keep = TimeDelta::from_std(keep).unwrap_or(TimeDelta::MAX);
    if now.signed_duration_since(oldest.time) <= keep {
        return Ok(None);
    }
    let name = oldest.segment.path.file_name().unwrap_or_default();
    let record = Record::Removed(Removed {
        file: name.to_string_lossy().into_owned(),
        until: clock::rfc3339(oldest.time),
        last: oldest.last,
        reason: format!("all of its records are older than {} days", keep.num_days()),
    });
    Ok(Some((oldest.segment, record)))
}

/// The end of a file; `None` where no record in it says when it was written.
fn end(segment: &Segment) -> Result<Option<End>> {
    let in_file = || segment.path.display().to_string();
    let file = std::fs::File::open(&segment.path).with_context(in_file)?;
    let mut lines = Backwards::of(file.try_clone()?, LONGEST).with_context(in_file)?;
    let mut last = None;
    while let Some(line) = lines.next().with_context(in_file)? {
        let last = match last {
            Some(last) => last,
            None => *last.insert(line.hash(&file).with_context(in_file)?),
        };
        let record = serde_json::from_slice::<Time>(&line.bytes.unwrap_or_default());
        if let Ok(Time { time }) = record {
            return Ok(Some(End { segment: segment.clone(), time, last }));
        }
    }
    Ok(None)
}
