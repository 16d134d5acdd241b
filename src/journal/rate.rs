//! Limits how often records are written that a guest can cause itself, by starting again and again.
//!
//! `/var/lib/stillpoint/left-out.json` counts for each guest and hour. A record says how many were
//! left out; it is written with the next record of any guest once the hour is over.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::{ContainerFate, ContainerRecord, LeftOut, Record};
use crate::sys::{Root, clock, file};
use crate::vzdump::Vmid;

const STATE: &str = "/var/lib/stillpoint/left-out.json";

/// More starts, recoveries and copies of one guest within an hour are no news.
const MOST: u64 = 30;

const HOUR: TimeDelta = TimeDelta::hours(1);

/// A guest takes about 100 bytes in it.
const LIMIT: u64 = 4 << 20;

/// The counts of each guest since its first record in that hour.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Hours {
    guests: BTreeMap<u32, Hour>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Hour {
    since: DateTime<Utc>,
    written: u64,
    left_out: u64,
}

impl Hours {
    /// Whether one more record of a guest is written; otherwise it is counted.
    fn admit(&mut self, vmid: Vmid, now: DateTime<Utc>) -> bool {
        let hour = self.guests.entry(vmid.0);
        let hour = hour.or_insert(Hour { since: now, written: 0, left_out: 0 });
        let admitted = hour.written < MOST;
        *if admitted { &mut hour.written } else { &mut hour.left_out } += 1;
        admitted
    }

    /// Removes the hours that are over, and returns the records about what was left out in them. A
    /// clock that was set back also ends an hour.
    fn over(&mut self, now: DateTime<Utc>) -> Vec<Record> {
        let all = std::mem::take(&mut self.guests).into_iter();
        let is_over = |hour: &Hour| now < hour.since || now - hour.since >= HOUR;
        let (over, left): (Vec<_>, Vec<_>) = all.partition(|(_, hour)| is_over(hour));
        self.guests = left.into_iter().collect();
        let told = over.into_iter().filter(|(_, hour)| hour.left_out > 0);
        told.map(|(vmid, hour)| {
            let since = clock::rfc3339(hour.since);
            Record::LeftOut(LeftOut { vmid: Vmid(vmid), since, records: hour.left_out })
        })
        .collect()
    }
}

/// The guest that a record counts for. A record of a backup, of a verify or of a failure is never
/// left out.
fn counted(record: &Record) -> Option<Vmid> {
    let is_back = |containers: &[ContainerRecord]| {
        containers.iter().all(|it| !it.not_back && is_no_loss(it.fate.known()))
    };
    match record {
        Record::Settled(settled) => {
            let is_well = settled.left.is_none() && settled.lost.is_empty();
            (is_well && is_back(&settled.containers)).then_some(settled.vmid)
        }
        Record::Recovered(recovered) if is_back(&recovered.containers) => Some(recovered.vmid),
        Record::Identity(identity) => Some(identity.vmid),
        _ => None,
    }
}

fn is_no_loss(fate: Option<ContainerFate>) -> bool {
    use ContainerFate::{Back, Gone, Left};
    matches!(fate, Some(Back | Gone | Left))
}

/// The records to write instead of one, oldest first. Called under the journal's lock.
///
/// The count is on disk before anything is written: a process that dies in between loses a count,
/// and never writes a record twice. If it cannot be counted, the record is written.
pub(super) fn admitted<'a>(root: &Root, record: &'a Record) -> (Vec<Record>, Option<&'a Record>) {
    count(root, record).map_or_else(
        |_| (Vec::new(), Some(record)),
        |(told, admitted)| (told, admitted.then_some(record)),
    )
}

fn count(root: &Root, record: &Record) -> Result<(Vec<Record>, bool)> {
    let (path, now) = (root.path(STATE), clock::now());
    let text = file::read_text(&path, LIMIT).context(STATE)?.unwrap_or_default();
    // A damaged file, or one from another version, counts as empty.
    let before: Hours = serde_json::from_str(&text).unwrap_or_default();
    let mut hours = Hours { guests: before.guests.clone() };
    let told = hours.over(now);
    let admitted = counted(record).is_none_or(|vmid| hours.admit(vmid, now));
    if hours != before {
        file::replace(&path, &serde_json::to_vec(&hours)?, 0o600).context(STATE)?;
    }
    Ok((told, admitted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_brings_about_too_often_is_counted_and_told_once() {
        let at = |minutes| DateTime::UNIX_EPOCH + TimeDelta::minutes(minutes);
        let mut hours = Hours::default();
        let written = (0..50).filter(|minute| hours.admit(Vmid(9001), at(*minute))).count();
        assert_eq!(written, 30);
        assert!(hours.admit(Vmid(9002), at(50)));
        assert!(hours.over(at(59)).is_empty());
        let told = hours.over(at(60));
        let [Record::LeftOut(told)] = told.as_slice() else { panic!("{told:?}") };
        assert_eq!((told.vmid, told.records), (Vmid(9001), 20));
        assert!(hours.over(at(60)).is_empty() && hours.admit(Vmid(9001), at(60)));
        assert!(hours.over(at(500)).is_empty() && hours.guests.is_empty());
    }

    #[test]
    fn no_failure_backup_or_verify_is_left_out() {
        let examples = crate::journal::examples();
        let kinds: Vec<_> = examples.iter().filter(|record| counted(record).is_some()).collect();
        // This settled record says that something is still to be started.
        assert!(
            matches!(kinds.as_slice(), [Record::Recovered(_), Record::Identity(_)]),
            "{kinds:?}"
        );
    }
}
