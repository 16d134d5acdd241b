//! Whether a datastore has space for the next backups.

use crate::journal::Journal;
use crate::pbs::look::DatastoreStatus;
use crate::sys::Root;
use crate::sys::text::bytes;

/// Below this part of the whole, space is short.
const LEAST: f64 = 0.05;

/// How many of the newest records are searched for a verify of this storage.
const MOST_RECORDS: usize = 5_000;

/// A sentence, if less than 5 % of the datastore of a storage is free, or less than the last backup
/// took. A datastore in an object store reports only its cache, and a login without the right gets
/// zeros.
pub fn shortage(root: &Root, storage: &str, status: &DatastoreStatus) -> Option<String> {
    if status.is_s3() || status.total == 0 {
        return None;
    }
    let last = last_size(root, storage).unwrap_or(0);
    let part = status.avail as f64 / status.total as f64;
    if part >= LEAST && status.avail >= last {
        return None;
    }
    let than = match status.avail < last {
        true => format!(", less than the last backup took ({})", bytes(last)),
        false => String::new(),
    };
    Some(format!(
        "{} of {} are free on the datastore ({:.0} %){than}: on a full one no backup is made, and no verify is written down",
        bytes(status.avail),
        bytes(status.total),
        part * 100.0
    ))
}

/// The size in bytes of the last backup on a storage, from its verify.
fn last_size(root: &Root, storage: &str) -> Option<u64> {
    let (mut seen, mut size) = (0, None);
    let read = Journal::of(root).read_newest_first(|record| {
        seen += 1;
        if let Some(verify) = record.verify().filter(|verify| verify.storage == storage) {
            size = verify.size;
        }
        size.is_none() && seen < MOST_RECORDS
    });
    // Without a journal only the free part counts.
    read.ok().and(size)
}
