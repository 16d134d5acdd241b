//! The journal as a whole: appended to by one process at a time, read by anybody.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

use super::bound::{LONGEST, bounded};
use super::lines::Backwards;
use super::link::Link;
use super::segments::{self, Segment, Segments};
use super::{Record, keep, rate};
use crate::sys::sha256::Sha256;
use crate::sys::{Root, clock, file, lock};

const SCHEMA: u32 = 1;

/// A year of nightly backups of thirty guests. Then the file is closed and a new one begins.
const CLOSE_AT: u64 = 32 << 20;

const LOCK_LIMIT: Duration = Duration::from_secs(10);

/// How far back the number of the last record is looked for, in lines: an earlier version that is
/// still at work during an upgrade writes a few without.
const MOST_UNTIED: usize = 200;

/// The journal of this node.
#[derive(Clone, Debug)]
pub struct Journal {
    root: Root,
    /// Bytes.
    close_at: u64,
}

#[derive(Serialize)]
struct Content<'a> {
    schema: u32,
    time: &'a str,
    #[serde(flatten)]
    record: &'a Record,
}

impl Journal {
    /// The journal at `/var/lib/stillpoint/journal.jsonl`.
    pub fn of(root: &Root) -> Journal {
        Journal { root: root.clone(), close_at: CLOSE_AT }
    }

    /// For tests: closes its file earlier.
    #[cfg(test)]
    pub(crate) fn closing_at(root: &Root, close_at: u64) -> Journal {
        Journal { root: root.clone(), close_at }
    }

    /// Appends a record; after `Ok` it survives a power cut. Records that a guest causes too often
    /// may only be counted.
    pub fn append(&self, record: &Record) -> Result<()> {
        #[cfg(test)]
        if let Some(walk) = crate::sys::walk::current() {
            return Ok(walk.append(serde_json::to_value(record)?)?);
        }
        let path = self.path();
        self.write(record).with_context(|| format!("{}: the record is not written", path.display()))
    }

    fn write(&self, record: &Record) -> Result<()> {
        let path = self.path();
        let directory = self.root.path("/var/lib/stillpoint");
        file::own_directory(&directory)?;
        // Not the journal itself, because that is renamed when it has grown.
        let lock = self.root.path("/run/stillpoint/journal.lock");
        let _lock = lock::take(&lock, Instant::now() + LOCK_LIMIT)?;
        let (told, admitted) = rate::admitted(&self.root, record);
        if told.is_empty() && admitted.is_none() {
            return Ok(());
        }
        let mut too_old = None;
        if fs::metadata(&path).is_ok_and(|metadata| metadata.len() >= self.close_at) {
            too_old = self.close_open();
        }
        let removal = too_old.as_ref().map(|(_, removal)| removal);
        let records: Vec<&Record> = removal.into_iter().chain(&told).chain(admitted).collect();
        let is_new = !path.exists();
        let mut file =
            OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&path)?;
        let length = file.metadata()?.len();
        let end = self.end(&file)?;
        let mut bytes = if end.is_torn { vec![b'\n'] } else { Vec::new() };
        let mut link = Link {
            seq: end.seq.unwrap_or(0) + 1,
            prev: end.last.unwrap_or_else(|| Sha256::of(b"")),
        };
        let time = clock::rfc3339(clock::now());
        for record in records {
            let mut line = object(&Content { schema: SCHEMA, time: &time, record })?;
            link.tie(&mut line);
            link = Link { seq: link.seq + 1, prev: Sha256::of(&line) };
            bytes.extend(line);
            bytes.push(b'\n');
        }
        let written = file.write(&bytes).and_then(|count| {
            if count == bytes.len() { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
        });
        if let Err(error) = written {
            // Half a record is no record. If this fails too, the next append ends the line.
            let _ = file.set_len(length);
            return Err(error.into());
        }
        file.sync_all()?;
        if is_new {
            File::open(&directory)?.sync_all()?;
        }
        if let Some((segment, _)) = &too_old {
            // The record is written. If the removal fails, it is tried and recorded again.
            let _ = segments::remove(&self.root, segment);
        }
        Ok(())
    }

    /// Closes the open file; returns the one that is too old since then. A journal whose file cannot
    /// be closed, such as on a disk that is full, grows on: no record waits for that.
    fn close_open(&self) -> Option<(Segment, Record)> {
        segments::close_open(&self.root).ok()?;
        keep::too_old(&self.root).ok()?
    }

    /// What the next record follows on. No record waits for a closed file that cannot be read: the
    /// chain is then broken, and whoever checks it learns where.
    fn end(&self, open: &File) -> io::Result<End> {
        let mut end = End { is_torn: false, last: None, seq: None };
        let length = open.metadata()?.len();
        let mut untied = 0;
        end.look_into(open, Some(length), &mut untied)?;
        if end.seq.is_none() && untied < MOST_UNTIED {
            let closed = Segments::of(&self.root).map(|it| it.closed).unwrap_or_default();
            for segment in closed.iter().rev() {
                let Ok(file) = File::open(&segment.path) else { break };
                let looked = end.look_into(&file, None, &mut untied);
                if looked.is_err() || end.seq.is_some() || untied >= MOST_UNTIED {
                    break;
                }
            }
        }
        Ok(end)
    }

    pub(super) fn segments(&self) -> Result<Segments> {
        Segments::of(&self.root)
    }

    pub(super) fn path(&self) -> PathBuf {
        self.root.path("/var/lib/stillpoint/journal.jsonl")
    }
}

/// The end of the journal.
#[derive(Clone, Copy)]
struct End {
    /// Whether a power cut or a full disk left half a line.
    is_torn: bool,
    /// Of the last line, where there is one.
    last: Option<Sha256>,
    /// The number of the last record that has one.
    seq: Option<u64>,
}

impl End {
    /// Looks through a file from its end until a record has a number; a file of that length is the open one.
    fn look_into(&mut self, file: &File, open: Option<u64>, untied: &mut usize) -> io::Result<()> {
        let mut lines = Backwards::of(file.try_clone()?, LONGEST)?;
        while *untied < MOST_UNTIED
            && let Some(line) = lines.next()?
        {
            if self.last.is_none() {
                self.is_torn = open == Some(line.end);
                self.last = Some(line.hash(file)?);
            }
            self.seq = line.bytes.as_deref().and_then(Link::of).map(|link| link.seq);
            if self.seq.is_some() {
                return Ok(());
            }
            *untied += 1;
        }
        Ok(())
    }
}

/// A record as the JSON object of its line, within bounds.
fn object(content: &Content<'_>) -> serde_json::Result<Vec<u8>> {
    let record = serde_json::to_value(content)?;
    let cut = bounded(&record);
    if cut == record { serde_json::to_vec(content) } else { serde_json::to_vec(&cut) }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::journal::Recovered;
    use crate::journal::{Actor, Entry, Position, Written};
    use crate::vzdump::Vmid;

    struct Node(PathBuf, Journal);

    impl Node {
        fn new() -> Node {
            let directory = std::env::temp_dir()
                .join(format!("stillpoint-journal-{}", crate::sys::text::token()));
            fs::create_dir_all(directory.join("var/lib/stillpoint")).unwrap();
            let journal = Journal::of(&Root::at(&directory));
            Node(directory, journal)
        }

        fn entries(&self) -> Vec<Entry> {
            let mut entries = Vec::new();
            self.1
                .read(|entry| {
                    entries.push(entry);
                    true
                })
                .unwrap();
            entries
        }
    }

    impl Drop for Node {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn record(run: &str) -> Record {
        record_of(9001, run)
    }

    fn record_of(vmid: u32, run: &str) -> Record {
        Record::Recovered(Recovered {
            run: run.into(),
            job: "UPID:".into(),
            vmid: Vmid(vmid),
            by: Actor::Guard.into(),
            reason: "vzdump died".into(),
            containers: Vec::new(),
            guest: Vec::new(),
            downtime_ms: None,
        })
    }

    fn runs(entries: &[Entry]) -> Vec<String> {
        entries
            .iter()
            .map(|entry| match entry {
                Entry::Record(value) => value.json["run"].as_str().unwrap().to_string(),
                Entry::Damaged { line, .. } => format!("damaged {line}"),
            })
            .collect()
    }

    #[test]
    fn a_torn_tail_is_sealed_and_damage_is_reported() {
        let node = Node::new();
        for run in ["a", "b"] {
            node.1.append(&record(run)).unwrap();
        }
        let path = node.1.path();
        let text = fs::read(&path).unwrap();
        for cut in 1..text.len() / 2 {
            fs::write(&path, &text[..text.len() - cut]).unwrap();
            let vmid = u32::try_from(cut).unwrap();
            node.1.append(&record_of(vmid, "c")).unwrap();
            let found = runs(&node.entries());
            let sealed = if cut == 1 { "b" } else { "damaged 2" };
            assert_eq!(found, ["a", sealed, "c"], "cut off {cut} bytes");
        }
    }

    #[test]
    fn a_record_says_its_kind_schema_and_time() {
        let node = Node::new();
        node.1.append(&record("a")).unwrap();
        let Some(Entry::Record(Written { json: value })) = node.entries().pop() else {
            panic!("no record")
        };
        assert_eq!(
            (value["kind"].as_str(), value["schema"].as_u64()),
            (Some("recovered"), Some(1))
        );
        chrono::DateTime::parse_from_rfc3339(value["time"].as_str().unwrap()).unwrap();
    }

    #[test]
    fn appends_from_many_threads_are_all_there() {
        let node = Node::new();
        std::thread::scope(|scope| {
            for writer in 0..3 {
                let journal = &node.1;
                scope.spawn(move || {
                    for count in 0..10 {
                        journal.append(&record(&format!("{writer}-{count}"))).unwrap();
                    }
                });
            }
        });
        let mut found = runs(&node.entries());
        found.sort();
        found.dedup();
        assert_eq!(found.len(), 30);
    }

    /// As kills leave it: the open file is closed, and there is no new one yet.
    #[test]
    fn closing_a_file_that_is_killed_at_any_step_loses_and_doubles_nothing() {
        for closed_before in [false, true] {
            let node = Node::new();
            let journal = Journal::closing_at(&node.1.root, 1);
            node.1.append(&record("a")).unwrap();
            if closed_before {
                fs::rename(
                    journal.path(),
                    journal.root.path("/var/lib/stillpoint/journal.jsonl.1"),
                )
                .unwrap();
                assert_eq!(runs(&node.entries()), ["a"]);
            }
            node.1.append(&record("b")).unwrap();
            assert_eq!(runs(&node.entries()), ["a", "b"]);
            segments::close_open(&journal.root).unwrap();
            assert_eq!(runs(&node.entries()), ["a", "b"]);
            let mut newest = Vec::new();
            let visit = |it: Written| {
                newest.push(it.json["run"].as_str().unwrap().to_string());
                true
            };
            node.1.read_newest_first(visit).unwrap();
            assert_eq!(newest, ["b", "a"]);
            for run in ["c", "d"] {
                journal.append(&record(run)).unwrap();
            }
            assert_eq!(runs(&node.entries()), ["a", "b", "c", "d"]);
            assert!(!journal.root.path("/var/lib/stillpoint/journal.jsonl.1").exists());
            assert!(journal.check_chain(&[]).unwrap().breaks.is_empty());
        }
    }

    #[test]
    fn a_file_of_which_all_is_too_old_is_removed_and_what_was_last_known_stays() {
        let node = Node::new();
        let journal = Journal::closing_at(&node.1.root, 1);
        for (vmid, run) in [(9001, "a"), (9002, "b")] {
            journal.append(&record_of(vmid, run)).unwrap();
        }
        let oldest = node.0.join("var/lib/stillpoint/journal/000001.jsonl");
        journal.append(&record_of(9002, "c")).unwrap();
        let first = fs::read_to_string(&oldest).unwrap();
        let time = first.split('"').find(|part| part.starts_with("20")).unwrap();
        let old = first.replace(time, "2019-01-01T00:00:00.000Z");
        fs::write(&oldest, &old).unwrap();
        journal.append(&record_of(9002, "d")).unwrap();
        assert!(!oldest.exists());
        let entries = node.entries();
        let kinds: Vec<&str> = entries
            .iter()
            .map(|entry| match entry {
                Entry::Record(value) => value.json["kind"].as_str().unwrap(),
                Entry::Damaged { reason, .. } => panic!("{reason}"),
            })
            .collect();
        assert_eq!(kinds, ["recovered", "recovered", "recovered", "removed", "recovered"]);
        let Entry::Record(kept) = &entries[0] else { panic!() };
        assert_eq!(kept.json["vmid"], 9001);
        // The second line followed on the first as it was before this test made it older.
        let told = |last: &str| fs::read_to_string(node.1.path()).unwrap().contains(last);
        assert!(told(&Sha256::of(old.trim_end().as_bytes()).to_string()));
    }

    #[test]
    fn above_its_rate_the_records_of_a_guest_are_counted_and_one_says_how_many() {
        let node = Node::new();
        for number in 0..40 {
            node.1.append(&record(&number.to_string())).unwrap();
        }
        assert_eq!(node.entries().len(), 30);
        let state = node.1.root.path("/var/lib/stillpoint/left-out.json");
        let text = fs::read_to_string(&state).unwrap();
        let since = text.split('"').find(|part| part.starts_with("20")).unwrap();
        fs::write(&state, text.replace(since, "2026-01-01T00:00:00Z")).unwrap();
        node.1.append(&record("last")).unwrap();
        let entries = node.entries();
        let [Entry::Record(told), Entry::Record(last)] = &entries[30..] else {
            panic!("{entries:?}")
        };
        assert_eq!(
            (told.json["kind"].as_str(), told.json["records"].as_u64()),
            (Some("left-out"), Some(10))
        );
        assert_eq!(last.json["run"], "last");
    }

    #[test]
    fn a_journal_whose_file_cannot_be_closed_grows_on() {
        let node = Node::new();
        let journal = Journal::closing_at(&node.1.root, 1);
        fs::write(node.0.join("var/lib/stillpoint/journal"), "in the way").unwrap();
        for run in ["a", "b"] {
            journal.append(&record(run)).unwrap();
        }
        fs::remove_file(node.0.join("var/lib/stillpoint/journal")).unwrap();
        assert_eq!(runs(&node.entries()), ["a", "b"]);
        journal.append(&record("c")).unwrap();
        assert_eq!(runs(&node.entries()), ["a", "b", "c"]);
        assert!(journal.check_chain(&[]).unwrap().breaks.is_empty());
    }

    #[test]
    fn behind_a_position_only_what_is_new_is_read_and_a_position_of_another_journal_is_known() {
        let node = Node::new();
        let journal = Journal::closing_at(&node.1.root, 600);
        let mut position = Position::default();
        for number in 0..20 {
            journal.append(&record(&number.to_string())).unwrap();
            assert!(journal.holds(&position).unwrap());
            let mut found = Vec::new();
            let visit = |entry| {
                found.push(entry);
                true
            };
            position = journal.read_after(&position, visit).unwrap();
            assert_eq!(runs(&found), [number.to_string()]);
        }
        assert!(journal.holds(&position).unwrap());
        let text = fs::read_to_string(node.1.path()).unwrap();
        fs::write(node.1.path(), text.replace("vzdump died", "vzdump lived")).unwrap();
        assert!(!journal.holds(&position).unwrap());
        fs::write(node.1.path(), "").unwrap();
        assert!(!journal.holds(&position).unwrap());
    }

    #[test]
    fn the_older_file_of_an_earlier_version_is_read_too() {
        let node = Node::new();
        node.1.append(&record("a")).unwrap();
        let before = node.0.join("var/lib/stillpoint/journal.jsonl.1");
        fs::rename(node.1.path(), before).unwrap();
        node.1.append(&record("b")).unwrap();
        assert_eq!(runs(&node.entries()), ["a", "b"]);
    }
}
