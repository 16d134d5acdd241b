use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;

use super::Record;
use crate::sys::{Root, clock, file, lock};

const SCHEMA: u32 = 1;

/// A year of nightly backups of thirty guests; then the file becomes `journal.jsonl.1`, which replaces the
/// one before.
const ROTATE_AT: u64 = 32 << 20;

/// Longest line read; what is longer is damage. A record of any run that can be written down is shorter.
const LINE_LIMIT: u64 = 32 << 20;

const LOCK_LIMIT: Duration = Duration::from_secs(10);

/// The journal of this node.
#[derive(Clone, Debug)]
pub struct Journal {
    root: Root,
}

/// A line of the journal as it was found.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// A record, of whatever kind and schema.
    Record(Value),
    /// A line that is none, with its place, so that a person can look.
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
        Journal { root: root.clone() }
    }

    /// Appends a record; when this returns `Ok` it survives a power cut.
    pub fn append(&self, record: &Record) -> Result<()> {
        let path = self.path();
        self.write(record).with_context(|| format!("{}: the record is not written", path.display()))
    }

    fn write(&self, record: &Record) -> Result<()> {
        let time = clock::rfc3339(clock::now());
        let mut bytes = serde_json::to_vec(&Line { schema: SCHEMA, time, record })?;
        bytes.push(b'\n');
        let path = self.path();
        let directory = self.root.path("/var/lib/stillpoint");
        file::own_directory(&directory)?;
        // Not the journal itself: that is renamed when it has grown.
        let lock = self.root.path("/run/stillpoint/journal.lock");
        let _lock = lock::take(&lock, Instant::now() + LOCK_LIMIT)?;
        if fs::metadata(&path).is_ok_and(|metadata| metadata.len() >= ROTATE_AT) {
            fs::rename(&path, self.rotated())?;
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
            // Half a record is no record. Should this fail too, the next append seals it.
            let _ = file.set_len(length);
            return Err(error.into());
        }
        file.sync_all()?;
        Ok(File::open(&directory)?.sync_all()?)
    }

    /// Hands every line to `visit`, oldest first, across the rotation; `visit` ends the reading with `false`.
    pub fn read(&self, mut visit: impl FnMut(Entry) -> bool) -> Result<()> {
        for path in [self.rotated(), self.path()] {
            let file = match File::open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other.with_context(|| path.display().to_string())?,
            };
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
                    // Its end is no record, whatever it looks like.
                    reader.skip_until(b'\n').with_context(|| path.display().to_string())?;
                    let reason = format!("it is longer than {LINE_LIMIT} bytes");
                    if !visit(damaged(&path, line, reason)) {
                        return Ok(());
                    }
                    continue;
                }
                let text = bytes.trim_ascii();
                if text.is_empty() {
                    continue;
                }
                let entry = match serde_json::from_slice::<Value>(text) {
                    Ok(value) if value.get("kind").is_some_and(Value::is_string) => {
                        Entry::Record(value)
                    }
                    Ok(_) => damaged(&path, line, "it is no record".to_string()),
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

    pub(super) fn rotated(&self) -> PathBuf {
        self.root.path("/var/lib/stillpoint/journal.jsonl.1")
    }
}

fn damaged(path: &std::path::Path, line: u64, reason: String) -> Entry {
    Entry::Damaged { file: path.to_path_buf(), line, reason }
}

/// Whether the last line has no end.
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
        Record::Recovered(Recovered {
            run: run.into(),
            job: "UPID:".into(),
            vmid: Vmid(9001),
            by: "guard".into(),
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
                Entry::Record(value) => value["run"].as_str().unwrap().to_string(),
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
            node.1.append(&record("c")).unwrap();
            let found = runs(&node.entries());
            let sealed = if cut == 1 { "b" } else { "damaged 2" };
            assert_eq!(found, ["a", sealed, "c"], "cut off {cut} bytes");
        }
    }

    #[test]
    fn a_record_says_its_kind_schema_and_time() {
        let node = Node::new();
        node.1.append(&record("a")).unwrap();
        let Some(Entry::Record(value)) = node.entries().pop() else { panic!("no record") };
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
            for writer in 0..8 {
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
        assert_eq!(found.len(), 80);
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
