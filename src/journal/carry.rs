//! Keeps the newest records of each guest when the journal's older file is deleted, so that no
//! guest's noise makes another's records disappear.
//!
//! `journal.jsonl.last` has those records, oldest first. Its first line has the beginning of the
//! older file that they were last taken from. Until that file has been replaced, its records are in
//! both, so readers then skip it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::path::Path;

use anyhow::Result;
use serde::Deserialize;
use serde_json::{Value, json};

use super::bound::{LONGEST, bounded};
use super::lines::LINE_LIMIT;
use crate::sys::file;

/// This much of a file's beginning is unique, because records contain their time.
const BEGINNING: u64 = 1024;

/// The newest snapshots of a guest are kept, each with its newest record.
const MOST_SNAPSHOTS: usize = 20;

/// Prefix of the keys of their records; the snapshot's time follows, padded so that it sorts.
const SNAPSHOT: &str = "verify of ";

/// The beginning of a file with records, in the form that is stored as JSON.
pub(super) fn beginning(file: &mut File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.take(BEGINNING).read_to_end(&mut bytes)?;
    file.rewind()?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The beginning of the file whose records were last carried over into this one.
pub(super) fn taken_from(carried: &mut File) -> io::Result<Option<String>> {
    carried.rewind()?;
    let mut line = Vec::new();
    BufReader::new(&*carried).take(16 * BEGINNING).read_until(b'\n', &mut line)?;
    carried.rewind()?;
    let head = serde_json::from_slice::<Value>(&line).unwrap_or_default();
    Ok(head["taken_from"].as_str().map(str::to_string))
}

/// Rewrites the file from its own records and those of the file that is deleted next. Done once for
/// each such file.
pub(super) fn carry_over(carried: &Path, goes: &Path) -> Result<()> {
    let Some(mut older) = open(goes)? else { return Ok(()) };
    let beginning = beginning(&mut older)?;
    let mut last = Last::default();
    if let Some(mut carried) = open(carried)? {
        if taken_from(&mut carried)?.as_ref() == Some(&beginning) {
            return Ok(());
        }
        last.read(carried)?;
    }
    last.read(older)?;
    let mut bytes = json!({ "taken_from": beginning }).to_string().into_bytes();
    bytes.push(b'\n');
    last.lines().for_each(|line| bytes.extend(line));
    Ok(file::replace(carried, &bytes, 0o600)?)
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// The fields that identify a record.
#[derive(Deserialize)]
struct Head {
    kind: String,
    vmid: u32,
    #[serde(default)]
    run: Option<String>,
    #[serde(default)]
    outcome: Option<String>,
    /// For a verify: the snapshot's time and storage.
    #[serde(default)]
    backup_time: Option<i64>,
    #[serde(default)]
    storage: Option<String>,
}

/// The newest records of each guest, with their place in the order of all.
#[derive(Default)]
struct Last {
    count: u64,
    lines: BTreeMap<(u32, String), (u64, Vec<u8>)>,
    /// The run of each guest's last successful backup.
    made: BTreeMap<u32, String>,
}

impl Last {
    fn read(&mut self, file: File) -> io::Result<()> {
        let mut reader = BufReader::new(file);
        loop {
            let mut line = Vec::new();
            if (&mut reader).take(LINE_LIMIT).read_until(b'\n', &mut line)? == 0 {
                return Ok(());
            }
            if line.last() != Some(&b'\n') {
                // Incomplete, or longer than any record.
                reader.skip_until(b'\n')?;
            } else if let Ok(head) = serde_json::from_slice::<Head>(&line) {
                self.add(&head, within_bounds(line));
            }
        }
    }

    /// Keeps the newest record of each kind and outcome. A verify is also kept as that of the last
    /// successful backup, before which it may have been journalled, and as one that a person asked
    /// for.
    fn add(&mut self, head: &Head, line: Vec<u8>) {
        self.count += 1;
        let mut slots = vec![head.kind.clone()];
        slots.extend(head.outcome.as_ref().map(|outcome| format!("{} {outcome}", head.kind)));
        match (head.kind.as_str(), head.outcome.as_deref(), &head.run) {
            ("backup", Some("ok"), Some(run)) => {
                self.made.insert(head.vmid, run.clone());
                let of = |slot: &str| (head.vmid, slot.to_string());
                self.lines.remove(&of("its verify"));
                if let Some(early) = self.lines.remove(&of(&format!("early {run}"))) {
                    self.lines.insert(of("its verify"), early);
                }
                let its = of("")..(head.vmid.saturating_add(1), String::new());
                let slots = self.lines.range(its).map(|(key, _)| key.clone());
                let early: Vec<_> = slots.filter(|(_, slot)| slot.starts_with("early ")).collect();
                early.iter().for_each(|key| drop(self.lines.remove(key)));
            }
            ("verify", _, Some(run)) if self.made.get(&head.vmid) == Some(run) => {
                slots.push("its verify".to_string());
            }
            ("verify", _, Some(run)) => slots.push(format!("early {run}")),
            ("verify", _, None) => slots.push("verify by hand".to_string()),
            _ => {}
        }
        if let (Some(time), Some(storage)) = (head.backup_time, &head.storage) {
            slots.push(format!("{SNAPSHOT}{time:020} {storage}"));
        }
        for slot in slots {
            self.lines.insert((head.vmid, slot), (self.count, line.clone()));
        }
        self.forget_old_snapshots(head.vmid);
    }

    fn forget_old_snapshots(&mut self, vmid: u32) {
        let first = (vmid, SNAPSHOT.to_string());
        let of_snapshots = |slot: &&(u32, String)| slot.0 == vmid && slot.1.starts_with(SNAPSHOT);
        let known = self.lines.range(first..).map(|(slot, _)| slot).take_while(of_snapshots);
        let known: Vec<_> = known.cloned().collect();
        for old in &known[..known.len().saturating_sub(MOST_SNAPSHOTS)] {
            self.lines.remove(old);
        }
    }

    fn lines(&self) -> impl Iterator<Item = &[u8]> {
        let all: BTreeSet<(u64, &[u8])> =
            self.lines.values().map(|(place, line)| (*place, line.as_slice())).collect();
        all.into_iter().map(|(_, line)| line)
    }
}

/// An older version wrote records of any length.
fn within_bounds(line: Vec<u8>) -> Vec<u8> {
    if line.len() <= LONGEST {
        return line;
    }
    match serde_json::from_slice::<Value>(&line) {
        Ok(record) => format!("{}\n", bounded(&record)).into_bytes(),
        Err(_) => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(records: &[Value]) -> Vec<u64> {
        let mut last = Last::default();
        for record in records {
            let head = Head::deserialize(record).unwrap();
            last.add(&head, record.to_string().into_bytes());
        }
        let place = |line: &[u8]| serde_json::from_slice::<Value>(line).unwrap()["place"].as_u64();
        last.lines().map(|line| place(line).unwrap()).collect()
    }

    #[test]
    fn what_is_known_of_a_guests_last_backups_is_kept_and_nothing_of_another_guest_goes_for_it() {
        let record = |place: u64, kind: &str, run: &str, outcome: &str| json!({ "place": place, "vmid": 9001, "kind": kind, "run": run, "outcome": outcome });
        let mut records = vec![
            record(0, "backup", "a", "ok"),
            record(1, "verify", "a", "ok"),
            // Over before its backup was journalled.
            record(2, "verify", "b", "failed"),
            record(3, "backup", "b", "ok"),
            record(4, "verify", "old", "unreachable"),
            record(5, "backup", "c", "failed"),
            record(6, "backup", "d", "failed"),
        ];
        assert_eq!(kept(&records), [1, 2, 3, 4, 6]);
        for place in 7..2000 {
            records.push(json!({ "place": place, "vmid": 9002, "kind": "settled", "run": "x" }));
        }
        assert_eq!(kept(&records), [1, 2, 3, 4, 6, 1999]);
        records.push(record(2000, "backup", "e", "ok"));
        assert_eq!(kept(&records), [1, 2, 4, 6, 1999, 2000], "of each outcome the newest stays");

        let of_snapshot = |place: u64| {
            let mut verify = record(place, "verify", "x", "ok");
            verify["backup_time"] = json!(place % 30);
            verify["storage"] = json!("offsite");
            verify
        };
        let verifies: Vec<Value> = (0..60).map(of_snapshot).collect();
        assert_eq!(kept(&verifies), (40..60).collect::<Vec<u64>>(), "the last word on the newest");
    }
}
