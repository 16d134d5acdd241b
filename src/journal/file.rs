use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;

use super::bound::bounded;
use super::{Record, Written, carry, rate};
use crate::sys::{Root, clock, file, lock};

const SCHEMA: u32 = 1;

/// A year of nightly backups of thirty guests. Then the file becomes `journal.jsonl.1` and replaces
/// the previous one, of which the newest records of each guest are kept.
const ROTATE_AT: u64 = 32 << 20;

/// The longest line read; a longer one is damage. A record of any run that can be stored is
/// shorter.
pub(super) const LINE_LIMIT: u64 = 32 << 20;

const LOCK_LIMIT: Duration = Duration::from_secs(10);

/// The journal of this node.
#[derive(Clone, Debug)]
pub struct Journal {
    root: Root,
    /// Bytes.
    rotate_at: u64,
}

/// A line of the journal.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// A record, of whatever kind and schema.
    Record(Written),
    /// A line that is no record, with its place for an admin.
    Damaged { file: PathBuf, line: u64, reason: String },
}

#[derive(Serialize)]
struct Line<'a> {
    schema: u32,
    time: String,
    #[serde(flatten)]
    record: &'a Record,
}

impl Journal {
    /// The journal at `/var/lib/stillpoint/journal.jsonl`.
    pub fn of(root: &Root) -> Journal {
        Journal { root: root.clone(), rotate_at: ROTATE_AT }
    }

    /// For tests: rotates earlier.
    #[cfg(test)]
    pub(crate) fn rotating_at(root: &Root, rotate_at: u64) -> Journal {
        Journal { root: root.clone(), rotate_at }
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
        let time = clock::rfc3339(clock::now());
        let mut bytes = Vec::new();
        for record in told.iter().chain(admitted) {
            bytes.extend(line(&Line { schema: SCHEMA, time: time.clone(), record })?);
        }
        if bytes.is_empty() {
            return Ok(());
        }
        if fs::metadata(&path).is_ok_and(|metadata| metadata.len() >= self.rotate_at) {
            self.rotate()?;
        }
        let mut file =
            OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&path)?;
        let length = file.metadata()?.len();
        if torn(&mut file, length)? {
            bytes.insert(0, b'\n');
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
        Ok(File::open(&directory)?.sync_all()?)
    }

    /// If the older file cannot be replaced, for example on a full disk, the journal keeps growing:
    /// records are still written.
    fn rotate(&self) -> io::Result<()> {
        match carry::carry_over(&self.carried(), &self.rotated()) {
            Ok(()) => fs::rename(self.path(), self.rotated()),
            Err(_) => Ok(()),
        }
    }

    /// The files that hold records, oldest first; each record is in exactly one of them.
    pub(super) fn files(&self) -> Result<Vec<(PathBuf, File)>> {
        let open = |path: PathBuf| match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| path.display().to_string()),
            Ok(file) => Ok(Some((path, file))),
        };
        // The newest first: if a rotation happens in between, a file is seen twice rather than
        // missed.
        let newest = open(self.path())?;
        let mut older = open(self.rotated())?;
        let mut carried = open(self.carried())?;
        if let (Some((_, newest)), Some((_, file))) = (&newest, &older)
            && newest.metadata()?.ino() == file.metadata()?.ino()
        {
            older = None;
        }
        if let (Some((_, carried)), Some((_, file))) = (&mut carried, &mut older)
            && carry::taken_from(carried)? == Some(carry::beginning(file)?)
        {
            older = None;
        }
        Ok([carried, older, newest].into_iter().flatten().collect())
    }

    /// Passes every line to `visit`, oldest first, across the rotation; `visit` returns `false` to
    /// stop.
    pub fn read(&self, mut visit: impl FnMut(Entry) -> bool) -> Result<()> {
        #[cfg(test)]
        if let Some(walk) = crate::sys::walk::current() {
            let mut records = walk.records().into_iter().filter_map(Written::of);
            let _ = records.all(|record| visit(Entry::Record(record)));
            return Ok(());
        }
        for (path, file) in self.files()? {
            let is_carried = path == self.carried();
            let mut reader = BufReader::new(file);
            let mut bytes = Vec::new();
            for line in 1.. {
                bytes.clear();
                let count = (&mut reader)
                    .take(LINE_LIMIT)
                    .read_until(b'\n', &mut bytes)
                    .with_context(|| path.display().to_string())?;
                if count == 0 {
                    break;
                }
                if count as u64 == LINE_LIMIT && bytes.last() != Some(&b'\n') {
                    // A line that is too long is no record, whatever its end looks like.
                    reader.skip_until(b'\n').with_context(|| path.display().to_string())?;
                    let reason = format!("it is longer than {LINE_LIMIT} bytes");
                    if !visit(damaged(&path, line, reason)) {
                        return Ok(());
                    }
                    continue;
                }
                let text = bytes.trim_ascii();
                if text.is_empty() || is_carried && line == 1 {
                    continue;
                }
                let entry = match serde_json::from_slice::<Value>(text) {
                    Ok(value) => Written::of(value).map_or_else(
                        || damaged(&path, line, "it is not a record: it has no kind".to_string()),
                        Entry::Record,
                    ),
                    Err(error) => damaged(&path, line, error.to_string()),
                };
                if !visit(entry) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    pub(super) fn path(&self) -> PathBuf {
        self.root.path("/var/lib/stillpoint/journal.jsonl")
    }

    fn carried(&self) -> PathBuf {
        self.root.path("/var/lib/stillpoint/journal.jsonl.last")
    }

    pub(super) fn rotated(&self) -> PathBuf {
        self.root.path("/var/lib/stillpoint/journal.jsonl.1")
    }
}

/// A record as its line in the journal, within the size limits.
fn line(line: &Line<'_>) -> serde_json::Result<Vec<u8>> {
    let record = serde_json::to_value(line)?;
    let cut = bounded(&record);
    let mut bytes =
        if cut == record { serde_json::to_vec(line)? } else { serde_json::to_vec(&cut)? };
    bytes.push(b'\n');
    Ok(bytes)
}

fn damaged(path: &std::path::Path, line: u64, reason: String) -> Entry {
    Entry::Damaged { file: path.to_path_buf(), line, reason }
}

/// Whether the last line has no line end.
fn torn(file: &mut File, length: u64) -> io::Result<bool> {
    if length == 0 {
        return Ok(false);
    }
    file.seek(SeekFrom::Start(length - 1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Actor;
    use crate::journal::Recovered;
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
                Entry::Record(written) => written.json["run"].as_str().unwrap().to_string(),
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

    /// The states that a kill leaves: the kept records are written and the journal is not renamed
    /// yet; or it is renamed, and there is no new one yet.
    #[test]
    fn a_rotation_that_is_killed_at_any_step_loses_and_doubles_nothing() {
        for renamed in [false, true] {
            let node = Node::new();
            let journal = Journal::rotating_at(&node.1.root, 1);
            for run in ["a", "b"] {
                journal.append(&record(run)).unwrap();
            }
            for _ in 0..2 {
                carry::carry_over(&journal.carried(), &journal.rotated()).unwrap();
                assert_eq!(runs(&node.entries()), ["a", "b"]);
            }
            if renamed {
                fs::rename(journal.path(), journal.rotated()).unwrap();
                assert_eq!(runs(&node.entries()), ["a", "b"]);
            }
            let mut newest = Vec::new();
            let visit = |it: Written| {
                newest.push(it.json["run"].as_str().unwrap().to_string());
                true
            };
            node.1.read_newest_first(visit).unwrap();
            assert_eq!(newest, ["b", "a"]);
            journal.append(&record("c")).unwrap();
            assert_eq!(runs(&node.entries()), ["a", "b", "c"]);
            // The newest record of each guest and kind stays for ever.
            journal.append(&record("d")).unwrap();
            let left: &[&str] = if renamed { &["a", "b", "c", "d"] } else { &["b", "c", "d"] };
            let found = runs(&node.entries());
            assert!(
                left.ends_with(&found.iter().map(String::as_str).collect::<Vec<_>>()),
                "{found:?}"
            );
            assert!(found.ends_with(&["c".to_string(), "d".to_string()]), "{found:?}");
        }
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
        let [Entry::Record(Written { json: told }), Entry::Record(Written { json: last })] =
            &entries[30..]
        else {
            panic!("{entries:?}")
        };
        assert_eq!((told["kind"].as_str(), told["records"].as_u64()), (Some("left-out"), Some(10)));
        assert_eq!(last["run"], "last");
    }

    #[test]
    fn a_journal_whose_older_file_cannot_be_given_up_grows_on() {
        let node = Node::new();
        let journal = Journal::rotating_at(&node.1.root, 1);
        for run in ["a", "b"] {
            journal.append(&record(run)).unwrap();
        }
        fs::create_dir(journal.carried()).unwrap();
        journal.append(&record("c")).unwrap();
        fs::remove_dir(journal.carried()).unwrap();
        assert_eq!(runs(&node.entries()), ["a", "b", "c"]);
    }

    #[test]
    fn reading_goes_across_the_rotation() {
        let node = Node::new();
        node.1.append(&record("a")).unwrap();
        fs::rename(node.1.path(), node.1.rotated()).unwrap();
        node.1.append(&record("b")).unwrap();
        assert_eq!(runs(&node.entries()), ["a", "b"]);
    }
}
