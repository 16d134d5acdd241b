//! Finding records: from the end, and without parsing what does not match.

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};

use super::lines::Lines;
use super::{Entry, Journal, Position, Written};
use crate::vzdump::Vmid;

/// So many older records in a row end the search from the end: a clock that was set back leaves fewer.
const MOST_OLDER: usize = 64;

/// Which records are asked for.
#[derive(Clone, Debug, Default)]
pub struct Query {
    pub guest: Option<Vmid>,
    pub kind: Option<String>,
    /// Written at this time or later.
    pub since: Option<DateTime<Utc>>,
    /// Written before this time.
    pub until: Option<DateTime<Utc>>,
}

impl Query {
    /// Whether an entry is asked for; damage is, whatever is asked for.
    pub fn fits(&self, entry: &Entry) -> bool {
        let Entry::Record(written) = entry else { return true };
        let (record, time) = (&written.json, || written.time());
        self.guest.is_none_or(|guest| record["vmid"] == guest.0)
            && self.kind.as_ref().is_none_or(|kind| record["kind"] == kind.as_str())
            && self.since.is_none_or(|since| time().is_some_and(|time| time >= since))
            && self.until.is_none_or(|until| time().is_some_and(|time| time < until))
    }

    /// Whether a line may be asked for, as its bytes tell: a line of ours has no space in it.
    fn may_fit(&self, line: &[u8]) -> bool {
        let has = |text: &str| contains(line, text.as_bytes());
        self.guest.is_none_or(|guest| has(&format!("\"vmid\":{}", guest.0)))
            && self.kind.as_ref().is_none_or(|kind| has(&format!("\"kind\":\"{kind}\"")))
            && !self.is_older(line)
    }

    /// Whether a line is known to be older than what is asked for.
    fn is_older(&self, line: &[u8]) -> bool {
        self.since.is_some_and(|since| time(line).is_some_and(|time| time < since))
    }
}

impl Journal {
    /// Passes what is asked for to `visit`, oldest first; `visit` returns `false` to stop. Returns the
    /// position behind the last line.
    pub fn search(&self, query: &Query, mut visit: impl FnMut(Entry) -> bool) -> Result<Position> {
        let from = match query.since {
            Some(since) => self.file_of(since)?,
            None => Position::default(),
        };
        self.search_after(&from, query, &mut visit)
    }

    /// As [`Journal::search`], behind a position.
    pub fn search_after(
        &self,
        from: &Position,
        query: &Query,
        visit: &mut dyn FnMut(Entry) -> bool,
    ) -> Result<Position> {
        self.read_lines_after(from, |path, line| {
            if !query.may_fit(line.bytes) && line.too_long.is_none() {
                return true;
            }
            let entry = Entry::of(path, line);
            !query.fits(&entry) || visit(entry)
        })
    }

    /// The beginning of the newest file that has something older in it.
    fn file_of(&self, since: DateTime<Utc>) -> Result<Position> {
        for file in self.segments()?.files().rev() {
            let (segment, file) = file?;
            let in_file = || segment.path.display().to_string();
            let mut lines = Lines::all(file).with_context(in_file)?;
            let first = lines.next().with_context(in_file)?;
            if first.and_then(|line| time(line.bytes)).is_some_and(|time| time < since) {
                return Ok(Position::beginning_of(segment.number));
            }
        }
        Ok(Position::default())
    }

    /// Passes the records since then to `visit`, newest first; `visit` returns `false` to stop. Some
    /// that are a little older come too: a clock may have been set back meanwhile.
    pub fn recent(
        &self,
        since: DateTime<Utc>,
        mut visit: impl FnMut(Written) -> bool,
    ) -> Result<()> {
        #[cfg(test)]
        if let Some(walk) = crate::sys::walk::current() {
            let _ = walk.records().into_iter().rev().filter_map(Written::of).all(&mut visit);
            return Ok(());
        }
        let query = Query { since: Some(since), ..Query::default() };
        let mut older = 0;
        self.read_lines_backwards(|line| {
            older = if query.is_older(line) { older + 1 } else { 0 };
            older < MOST_OLDER && Written::of_line(line).is_none_or(&mut visit)
        })
    }

    /// The last `number` records that are asked for, oldest first.
    pub fn last(&self, query: &Query, number: usize) -> Result<Vec<Entry>> {
        let mut found = Vec::new();
        if number == 0 {
            return Ok(found);
        }
        let mut older = 0;
        self.read_lines_backwards(|line| {
            older = if query.is_older(line) { older + 1 } else { 0 };
            if query.may_fit(line)
                && let Some(record) = Written::of_line(line)
                && let entry = Entry::Record(record)
                && query.fits(&entry)
            {
                found.push(entry);
            }
            found.len() < number && older < MOST_OLDER
        })?;
        found.reverse();
        Ok(found)
    }
}

/// When a line was written, without parsing the rest of it where it is one of ours.
fn time(line: &[u8]) -> Option<DateTime<Utc>> {
    const BEFORE: &[u8] = b"{\"schema\":1,\"time\":\"";
    let rest = line.strip_prefix(BEFORE)?;
    let end = rest.iter().position(|byte| *byte == b'"')?;
    std::str::from_utf8(rest.get(..end)?).ok()?.parse().ok()
}

fn contains(line: &[u8], text: &[u8]) -> bool {
    let Some((first, rest)) = text.split_first() else { return true };
    let mut left = line;
    while let Some(at) = left.iter().position(|byte| byte == first) {
        left = left.get(at + 1..).unwrap_or_default();
        if left.starts_with(rest) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::sys::{Root, text};

    /// Of three guests, a record a minute, in files of some hundred; the clock was once set back.
    fn journal() -> (PathBuf, Journal) {
        let directory = std::env::temp_dir().join(format!("stillpoint-query-{}", text::token()));
        let state = directory.join("var/lib/stillpoint");
        std::fs::create_dir_all(state.join("journal")).unwrap();
        for (number, name) in
            ["journal/000001.jsonl", "journal/000002.jsonl", "journal.jsonl"].iter().enumerate()
        {
            let line = |minute: usize| {
                let back = if (210..230).contains(&minute) { 100 } else { 0 };
                let time =
                    DateTime::UNIX_EPOCH + chrono::TimeDelta::minutes((minute - back) as i64);
                let kind = if minute.is_multiple_of(2) { "backup" } else { "verify" };
                let guest = 9000 + minute % 3;
                format!(
                    "{{\"schema\":1,\"time\":\"{}\",\"kind\":\"{kind}\",\"vmid\":{guest},\"minute\":{minute}}}\n",
                    crate::sys::clock::rfc3339(time)
                )
            };
            let lines: String = (number * 100..number * 100 + 100).map(line).collect();
            std::fs::write(state.join(name), lines).unwrap();
        }
        let journal = Journal::of(&Root::at(&directory));
        (directory, journal)
    }

    fn minutes(entries: Vec<Entry>) -> Vec<u64> {
        let minute = |entry: &Entry| match entry {
            Entry::Record(record) => record.json["minute"].as_u64().unwrap(),
            Entry::Damaged { reason, .. } => panic!("{reason}"),
        };
        entries.iter().map(minute).collect()
    }

    #[test]
    fn what_is_found_is_what_reading_all_finds() {
        let (directory, journal) = journal();
        let time = |minute: i64| DateTime::UNIX_EPOCH + chrono::TimeDelta::minutes(minute);
        let mut queries = Vec::new();
        for guest in [None, Some(Vmid(9001)), Some(Vmid(900))] {
            for kind in [None, Some("backup"), Some("settled")] {
                for since in [None, Some(20), Some(150), Some(205), Some(280), Some(900)] {
                    for until in [None, Some(60), Some(240)] {
                        queries.push(Query {
                            guest,
                            kind: kind.map(str::to_string),
                            since: since.map(time),
                            until: until.map(time),
                        });
                    }
                }
            }
        }
        for query in queries {
            let mut all = Vec::new();
            let take = |entry| {
                if query.fits(&entry) {
                    all.push(entry);
                }
                true
            };
            journal.read(take).unwrap();
            let mut found = Vec::new();
            let take = |entry| {
                found.push(entry);
                true
            };
            journal.search(&query, take).unwrap();
            let all = minutes(all);
            assert_eq!(minutes(found), all, "{query:?}");
            for number in [0, 1, 7, 1000] {
                let last = minutes(journal.last(&query, number).unwrap());
                assert_eq!(last, all[all.len().saturating_sub(number)..], "{query:?}");
            }
        }
        std::fs::remove_dir_all(directory).unwrap();
    }
}
