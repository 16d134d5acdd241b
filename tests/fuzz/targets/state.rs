//! Stillpoint's own files: the note in the guest, the run, the journal.

use serde_json::{Value, from_slice, from_value, to_value};
use stillpoint::journal::{Actor, Entry, Journal, Record};
use stillpoint::quiesce::{grade, recovered, run_of, start_order};
use stillpoint::report::{lines, record};
use stillpoint::run::{By, Damaged, Quiesced, Run, Runs};
use stillpoint::sys::Root;
use stillpoint::vzdump::{Upid, Vmid};

use super::engine::assert_ends;
use super::names::assert_log_path;
use super::{Node, assert_fit_for_a_terminal, assert_sayable, assert_short_words};

const VMID: Vmid = Vmid(9001);

/// `quiesced.json` in the guest.
pub fn quiesced(input: &[u8]) {
    let Some(note) = Quiesced::parse(input) else { return };
    let run = run_of(note.clone(), VMID, By::Note);
    assert_eq!(Quiesced::of(&run), Quiesced { vmid: VMID, ..note });
    assert!(run.job.upid.is_none() && run.is_open() != steps(&run).is_empty());
    assert_usable(&run);
}

/// `runs/VMID.json`.
pub fn run(input: &[u8]) {
    let node = Node::with("/var/lib/stillpoint/runs/9001.json", input);
    let runs = Runs::of(&node.root);
    match runs.load(VMID) {
        Ok(Some(run)) => {
            assert_eq!(run.vmid, VMID);
            if let Some(upid) = &run.job.upid {
                assert_eq!(Upid::parse(&upid.to_string()).as_ref(), Some(upid));
                assert_log_path(upid);
            }
            assert_usable(&run);
        }
        Ok(None) => panic!("the file is there"),
        Err(error) => {
            let damaged = error.downcast::<Damaged>().expect("what is there can be read");
            assert_short_words(&damaged.reason);
        }
    }
}

fn steps(run: &Run) -> &[stillpoint::run::Step] {
    run.quiesce.as_ref().map_or(&[], |quiesce| &quiesce.steps)
}

/// Everything computed from a run works, whatever the run contains.
fn assert_usable(run: &Run) {
    assert_ends(&start_order(steps(run)));
    assert_fit_for_a_terminal(&run.guest());
    assert_sayable(&run.job.name());
    let (grade, reasons) = grade(run);
    assert!(grade.is_some() || matches!(run.archive, stillpoint::run::Archive::Failed(_)));
    reasons.iter().for_each(|reason| assert_sayable(reason));
    let nowhere = Root::at(std::path::Path::new("/nonexistent"));
    lines::back(&nowhere, run).iter().for_each(|line| assert_sayable(line));
    run.quiesce.iter().for_each(|quiesce| assert_sayable(&lines::at_rest(quiesce)));

    let value = to_value(run).unwrap();
    assert_eq!(to_value(from_value::<Run>(value.clone()).unwrap()).unwrap(), value);
    let record = to_value(Record::Recovered(recovered(run, Actor::Guard, "vzdump died"))).unwrap();
    assert_eq!(record["containers"].as_array().unwrap().len(), steps(run).len());
    assert_fit_for_a_terminal(&record::line(&record));
}

/// `journal.jsonl`.
pub fn journal(input: &[u8]) {
    let node = Node::with("/var/lib/stillpoint/journal.jsonl", input);
    let journal = Journal::of(&node.root);
    let before = entries(&journal);
    let lines: Vec<&[u8]> = input.split(|byte| *byte == b'\n').collect();
    let written = lines.iter().filter(|line| !line.trim_ascii().is_empty()).count();
    assert_eq!(before.len(), written, "one entry a line, nothing hidden");
    for entry in &before {
        match entry {
            Entry::Record(written) => {
                assert!(written.json["kind"].is_string());
                assert_fit_for_a_terminal(&record::line(&written.json));
                if let Some(Record::Backup(backup)) = written.record() {
                    assert_sayable(&lines::summary(&backup, None, &[]));
                }
            }
            Entry::Damaged { line, reason, .. } => {
                assert_short_words(reason);
                let line = lines[usize::try_from(*line).unwrap() - 1].trim_ascii();
                let kind = from_slice::<Value>(line).ok().map(|value| value["kind"].is_string());
                assert_ne!(kind, Some(true), "a record is called damaged");
            }
        }
    }

    let run = run_of(Quiesced { run: "a".to_string(), ..Quiesced::empty() }, VMID, By::Note);
    journal.append(&Record::Recovered(recovered(&run, Actor::Guard, "vzdump died"))).unwrap();
    let mut after = entries(&journal);
    let Some(Entry::Record(last)) = after.pop() else { panic!("the new record is not there") };
    assert_eq!(last.json["run"], "a");
    assert_eq!(after, before, "an append changes what was there");
}

fn entries(journal: &Journal) -> Vec<Entry> {
    let mut entries = Vec::new();
    journal
        .read(|entry| {
            entries.push(entry);
            true
        })
        .unwrap();
    entries
}
