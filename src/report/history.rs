//! The newest information of each guest, read from the journal in one pass and with little memory.

use std::collections::BTreeMap;

use anyhow::Result;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::checkpoint;
use crate::journal::{
    Backup, ContainerFate, ContainerRecord, Entry, Outcome, Record, Recovered, Settled, Verify,
    VerifyOutcome, VerifyState, Word, Written,
};
use crate::pbs::Snapshot;
use crate::sys::Root;
use crate::sys::text::printable;
use crate::vzdump::Vmid;

/// How many containers, and how many reasons, are kept for each guest; nobody reads more at once.
const MOST: usize = 20;

/// How many verifies are kept whose backup the journal does not have yet.
const MOST_EARLY: usize = 8;

/// How many proven snapshots are kept for each guest: the newest.
const MOST_PROVEN: usize = 8;

/// The history of every guest in the journal.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    pub guests: BTreeMap<Vmid, Past>,
    /// Lines that are records.
    pub records: u64,
    /// Lines that are not records.
    pub damaged: usize,
    /// The first of them: file, line and why.
    pub first_damage: Option<String>,
    /// Records of a kind or shape that this version does not know.
    pub not_understood: usize,
}

/// The history of one guest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Past {
    /// The last backup, made or failed.
    pub last: Option<LastBackup>,
    /// When the last successful backup was over.
    pub last_made: Option<DateTime<Utc>>,
    /// The proof of the last successful backup.
    pub proof: Option<Proof>,
    /// The server's last word on it, if that is `ok` or `failed`.
    pub verdict: Option<Verify>,
    /// When a still existing backup of this guest was last proven to be good.
    pub last_verified: Option<DateTime<Utc>>,
    /// The proven snapshots and since when, the newest first.
    pub proven: Vec<(DateTime<Utc>, Verify)>,
    /// What is still wrong from its last settling, after a start of the guest.
    pub settled: Option<LastSettled>,
    /// The run and the snapshot's time of the last successful backup.
    made: (String, Option<i64>),
    /// Verifies that were over before their backup was journalled, with its run; the latest last.
    early: Vec<(String, Proof, Verify)>,
}

/// The last backup of a guest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LastBackup {
    /// When it was over.
    pub time: DateTime<Utc>,
    /// Its record without containers and notes, and with only some of its reasons.
    pub record: Backup,
    /// Containers that ran before it and are not known to have run since.
    pub not_back: Vec<String>,
}

/// What is still wrong from the last settling of a guest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LastSettled {
    pub time: DateTime<Utc>,
    pub held_back: Vec<HeldBack>,
    /// What was missing in the backup that it was restored from, in sentences.
    pub lost: Vec<String>,
}

/// A container of a copy that was not started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldBack {
    pub id: String,
    pub name: String,
    pub why: String,
}

/// The proof of a backup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Proof {
    /// A verify is pending since then.
    Pending(DateTime<Utc>),
    /// Since when, the outcome, and why.
    Known(DateTime<Utc>, VerifyOutcome, Option<String>),
    /// No verify was asked for; the journal's word for the reason.
    NotAsked(Word<VerifyState>),
}

/// Reads the journal of a node.
pub fn read(root: &Root) -> Result<History> {
    History::read(root)
}

impl History {
    /// The containers of a guest that are not back since the backup of that run, according to the
    /// journal.
    pub fn not_back(&self, vmid: Vmid, run: &str) -> &[String] {
        let last = self.guests.get(&vmid).and_then(|past| past.last.as_ref());
        last.filter(|last| last.record.run == run).map_or(&[], |last| last.not_back.as_slice())
    }

    /// The history as the journal of a node has it: from its checkpoint and the records after that.
    pub fn read(root: &Root) -> Result<History> {
        checkpoint::history(root)
    }

    /// Adds the next line of the journal.
    pub(super) fn take_in(&mut self, entry: Entry) {
        match entry {
            Entry::Record(written) => {
                self.records += 1;
                self.add(&written);
            }
            Entry::Damaged { file, line, reason } => {
                self.damaged += 1;
                self.first_damage.get_or_insert_with(|| {
                    format!("{}, line {line}: {}", file.display(), printable(&reason, 200))
                });
            }
        }
    }

    fn add(&mut self, written: &Written) {
        let Some(time) = written.time() else {
            self.not_understood += 1;
            return;
        };
        match written.record() {
            Some(Record::Backup(it)) => self.past(it.vmid).backup(time, it),
            Some(Record::Verify(it)) => self.past(it.vmid).verify(time, it),
            Some(Record::Recovered(it)) => self.past(it.vmid).recovered(&it),
            Some(Record::Settled(it)) => self.past(it.vmid).settled(time, it),
            Some(
                Record::Identity(_) | Record::Renewed(_) | Record::LeftOut(_) | Record::Removed(_),
            ) => {}
            None if written.is_of_no_backup() => {}
            None => self.not_understood += 1,
        }
    }

    fn past(&mut self, vmid: Vmid) -> &mut Past {
        self.guests.entry(vmid).or_default()
    }
}

impl Past {
    fn backup(&mut self, time: DateTime<Utc>, mut backup: Backup) {
        if backup.outcome == Outcome::Ok {
            self.last_made = Some(time);
            let snapshot = backup.target.as_deref().and_then(|target| target.parse().ok());
            let backup_time = snapshot.map(|snapshot: Snapshot| snapshot.backup_time);
            self.made = (backup.run.clone(), backup_time);
            self.proof = backup.verify.take().map(|start| match start.state {
                Word::Known(state) if state.is_under_way() => Proof::Pending(time),
                Word::Known(VerifyState::NotStarted(outcome)) => {
                    Proof::Known(time, outcome, start.reason)
                }
                word => Proof::NotAsked(word),
            });
            // A small backup can be verified while vzdump still writes the log of making it.
            self.verdict = None;
            let early = self.early.drain(..).rfind(|(run, ..)| *run == backup.run);
            if let Some((_, proof, verify)) = early {
                self.proof = Some(proof);
                self.verdict = verdict(verify);
            }
        }
        if let Some(settled) = &mut self.settled {
            // If it ran then, somebody had started it.
            let ran = |held: &HeldBack| backup.containers.iter().any(|it| it.id == held.id);
            settled.held_back.retain(|held| !ran(held));
            if backup.outcome == Outcome::Ok {
                settled.lost.clear();
            }
        }
        let not_back = not_back(&backup.containers);
        backup.reasons.truncate(MOST);
        let record = Backup { containers: Vec::new(), notes: Vec::new(), ..backup };
        self.last = Some(LastBackup { time, record, not_back });
    }

    fn verify(&mut self, time: DateTime<Utc>, verify: Verify) {
        self.prove(time, &verify);
        let (run, backup_time) = &self.made;
        let proof = Proof::Known(time, verify.outcome, verify.reason.clone());
        if verify.run.as_ref() == Some(run) || Some(verify.backup_time) == *backup_time {
            self.proof = Some(proof);
            self.verdict = verdict(verify);
        } else if let Some(run) = verify.run.clone() {
            if self.early.len() == MOST_EARLY {
                self.early.remove(0);
            }
            self.early.push((run, proof, verify));
        }
    }

    /// Remembers a good snapshot, or forgets one that is no longer good or no longer exists.
    fn prove(&mut self, time: DateTime<Utc>, verify: &Verify) {
        let gone = verify.outcome == VerifyOutcome::Skipped && verify.by.is_some();
        match verify.outcome {
            VerifyOutcome::Ok | VerifyOutcome::Failed => {}
            _ if gone => {}
            _ => return,
        }
        self.proven.retain(|(_, known)| !known.is_of_the_same_snapshot(verify));
        if verify.outcome == VerifyOutcome::Ok {
            self.proven.push((time, verify.clone()));
            self.proven.sort_by_key(|(_, known)| std::cmp::Reverse(known.backup_time));
            self.proven.truncate(MOST_PROVEN);
        }
        self.last_verified = self.proven.iter().map(|(time, _)| *time).max();
    }

    fn settled(&mut self, time: DateTime<Utc>, settled: Settled) {
        let held_back = settled
            .containers
            .into_iter()
            .filter(|it| it.fate == Word::Known(ContainerFate::HeldBack));
        let held_back = held_back.take(MOST).map(|container| HeldBack {
            id: container.id,
            name: container.name,
            why: container.error.unwrap_or_default(),
        });
        let lost = settled.lost.into_iter().take(MOST).collect();
        self.settled = Some(LastSettled { time, held_back: held_back.collect(), lost });
    }

    fn recovered(&mut self, recovered: &Recovered) {
        if let Some(last) = self.last.as_mut().filter(|last| last.record.run == recovered.run) {
            last.not_back = not_back(&recovered.containers);
        }
    }
}

fn verdict(verify: Verify) -> Option<Verify> {
    matches!(verify.outcome, VerifyOutcome::Ok | VerifyOutcome::Failed).then_some(verify)
}

/// A container that somebody else has dealt with is not missing.
fn not_back(containers: &[ContainerRecord]) -> Vec<String> {
    let lost = |container: &&ContainerRecord| {
        container.not_back
            || matches!(container.fate.known(), Some(ContainerFate::Failed | ContainerFate::Open))
    };
    let names = containers.iter().filter(lost).map(|container| container.name.clone());
    names.take(MOST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Journal;
    use serde_json::{Value, json};

    fn backup(run: &str, outcome: &str, fate: &str) -> Value {
        json!({
            "schema": 1, "time": "2026-11-21T23:23:00.000Z", "kind": "backup", "run": run,
            "job": "UPID:x", "vmid": 9001, "guest_type": "lxc", "hostname": "prod",
            "storage": "offsite", "target": "ct/9001/2026-11-21T23:22:56Z",
            "mode_asked": "snapshot", "mode_used": "suspend",
            "started": "2026-11-21T23:22:50.000Z", "outcome": outcome, "error": null,
            "grade": "clean", "reasons": [], "notes": [], "downtime_ms": 760,
            "containers": [{
                "name": "db", "id": "0", "stack": null, "service": null, "action": "stop",
                "stop_ms": 1, "start_ms": null, "fate": fate, "error": null, "not_in_backup": [],
            }],
            "verify": { "state": "started", "upid": null, "reason": null },
        })
    }

    fn verify(run: Value, backup_time: i64, outcome: &str) -> Value {
        json!({
            "schema": 1, "time": "2026-11-21T23:24:00.000Z", "kind": "verify", "run": run,
            "job": null, "vmid": 9001, "storage": "offsite", "storage_id": "", "outcome": outcome,
            "reason": null, "namespace": null, "backup_type": "ct", "backup_id": "9001",
            "backup_time": backup_time, "size": null, "owner": null, "protected": null,
            "encrypted": null, "key_fingerprint": null, "verify_state": null, "verify_upid": null,
            "started_upid": null,
        })
    }

    fn past(records: &[Value]) -> Past {
        let mut history = History::default();
        for record in records {
            history.add(&Written { json: record.clone() });
        }
        assert_eq!(history.not_understood, 0, "{records:?}");
        history.guests.remove(&Vmid(9001)).unwrap()
    }

    fn outcome(past: &Past) -> Option<VerifyOutcome> {
        match past.proof {
            Some(Proof::Known(_, outcome, _)) => Some(outcome),
            _ => None,
        }
    }

    #[test]
    fn a_verify_counts_for_the_backup_that_it_is_of() {
        let made = backup("b", "ok", "back");
        let time = 1_795_303_376;
        assert!(matches!(past(std::slice::from_ref(&made)).proof, Some(Proof::Pending(_))));
        let began = |state: &str| {
            let mut made = made.clone();
            made["verify"]["state"] = json!(state);
            past(&[made]).proof
        };
        assert!(matches!(began("queued"), Some(Proof::Pending(_))));
        assert!(matches!(began("denied"), Some(Proof::Known(_, VerifyOutcome::Denied, _))));
        assert_eq!(began("not-due"), Some(Proof::NotAsked(VerifyState::NotDue.into())));
        let of_its_run = past(&[made.clone(), verify(json!("b"), 0, "ok")]);
        assert_eq!(outcome(&of_its_run), Some(VerifyOutcome::Ok));
        let by_hand = past(&[made.clone(), verify(Value::Null, time, "failed")]);
        assert_eq!(outcome(&by_hand), Some(VerifyOutcome::Failed));
        let of_another = past(&[made.clone(), verify(json!("a"), 7, "failed")]);
        assert!(matches!(of_another.proof, Some(Proof::Pending(_))));
        let before = past(&[verify(json!("a"), 7, "ok"), made]);
        assert!(before.last_verified.is_some() && matches!(before.proof, Some(Proof::Pending(_))));
    }

    #[test]
    fn a_verify_that_is_over_before_its_backup_is_journalled_counts_for_it() {
        let made = backup("b", "ok", "back");
        let quick =
            past(&[verify(json!("b"), 0, "failed"), verify(json!("a"), 7, "ok"), made.clone()]);
        assert_eq!(outcome(&quick), Some(VerifyOutcome::Failed));
        let others = (0..20).map(|_| verify(json!("a"), 7, "ok"));
        let many: Vec<Value> = others.chain([verify(json!("b"), 0, "ok"), made]).collect();
        assert_eq!(outcome(&past(&many)), Some(VerifyOutcome::Ok));
    }

    /// A guest with very long names in its note, started again and again.
    #[test]
    fn no_guest_makes_another_forgotten() {
        let directory =
            std::env::temp_dir().join(format!("stillpoint-history-{}", crate::sys::text::token()));
        let root = Root::at(&directory);
        let journal = Journal::closing_at(&root, 50 << 10);
        let append =
            |record: Value| journal.append(&serde_json::from_value(record).unwrap()).unwrap();
        append(backup("a", "failed", "back"));
        append(backup("b", "ok", "open"));
        append(verify(json!("b"), 0, "failed"));
        let container = &backup("b", "ok", "back")["containers"][0];
        for number in 0..10 {
            let mut huge = container.clone();
            huge["name"] = json!("x".repeat(1 << 20));
            append(json!({
                "kind": "settled", "run": number.to_string(), "vmid": 9002, "quiesced": "",
                "left": null, "containers": [huge, container], "notes": vec!["n".repeat(5000); 60],
                "engine_ms": 0, "took_ms": 0,
            }));
        }
        let history = History::read(&root).unwrap();
        let past = &history.guests[&Vmid(9001)];
        assert_eq!(outcome(past), Some(VerifyOutcome::Failed));
        assert_eq!(past.last.as_ref().unwrap().not_back, ["db"]);
        assert_eq!((history.damaged, history.not_understood), (0, 0));
        let place = std::fs::read_dir(root.path("/var/lib/stillpoint")).unwrap();
        let sizes = place.map(|it| it.unwrap().metadata().unwrap().len());
        assert!(sizes.sum::<u64>() < 500 << 10);
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn what_was_proven_last_is_of_a_backup_that_is_still_there() {
        let of = |time, outcome: &str, by: Value, at: &str| {
            let mut record = verify(Value::Null, time, outcome);
            record["by"] = by;
            record["time"] = json!(format!("2026-11-2{at}:24:00.000Z"));
            record
        };
        let old = of(1, "ok", Value::Null, "1T23");
        let new = of(2, "ok", Value::Null, "2T23");
        let both = past(&[old.clone(), new.clone()]);
        assert_eq!(both.proven.len(), 2);
        assert_eq!(both.last_verified, Some("2026-11-22T23:24:00Z".parse().unwrap()));
        for (outcome, by) in [("failed", Value::Null), ("skipped", json!("server"))] {
            let gone = of(2, outcome, by, "3T23");
            let left = past(&[old.clone(), new.clone(), gone]);
            assert_eq!(left.last_verified, Some("2026-11-21T23:24:00Z".parse().unwrap()));
        }
        let unreachable = of(2, "unreachable", Value::Null, "3T23");
        assert_eq!(past(&[old, new, unreachable]).proven.len(), 2, "nobody said otherwise");
    }

    #[test]
    fn of_an_outcome_that_was_journalled_twice_the_later_counts() {
        let of = |outcome| verify(json!("b"), 0, outcome);
        let twice = past(&[backup("b", "ok", "back"), of("unreachable"), of("ok"), of("ok")]);
        assert_eq!(outcome(&twice), Some(VerifyOutcome::Ok));
    }

    #[test]
    fn every_kind_that_is_journalled_is_understood() {
        for record in crate::journal::examples() {
            let mut record = serde_json::to_value(record).unwrap();
            record["time"] = json!("2026-11-21T23:25:00.000Z");
            let mut history = History::default();
            history.add(&Written { json: record.clone() });
            assert_eq!(history.not_understood, 0, "{record}");
        }
    }

    #[test]
    fn a_failed_backup_leaves_what_is_known_of_the_one_before() {
        let records =
            [backup("a", "ok", "back"), verify(json!("a"), 0, "ok"), backup("b", "failed", "back")];
        let past = past(&records);
        assert_eq!(past.last.as_ref().map(|last| last.record.outcome), Some(Outcome::Failed));
        assert!(past.last_made.is_some());
        assert_eq!(outcome(&past), Some(VerifyOutcome::Ok));
    }

    #[test]
    fn what_came_back_later_is_back() {
        let open = backup("a", "ok", "open");
        let recovered = |run: &str, fate: &str| {
            json!({
                "schema": 1, "time": "2026-11-21T23:25:00.000Z", "kind": "recovered", "run": run,
                "job": "", "vmid": 9001, "by": "guard", "reason": "", "guest": [],
                "downtime_ms": null, "containers": backup("a", "ok", fate)["containers"],
            })
        };
        assert_eq!(past(std::slice::from_ref(&open)).last.unwrap().not_back, ["db"]);
        let back = past(&[open.clone(), recovered("a", "back")]);
        assert!(back.last.unwrap().not_back.is_empty());
        assert_eq!(past(&[open, recovered("b", "back")]).last.unwrap().not_back, ["db"]);
    }

    #[test]
    fn what_is_not_understood_is_counted() {
        let mut history = History::default();
        let mut add = |json: Value| history.add(&Written { json });
        add(json!({ "kind": "backup", "time": "2026-11-21T23:25:00.000Z" }));
        add(json!({ "kind": "of another day", "time": "2026-11-21T23:25:00.000Z" }));
        add(json!({ "kind": "identity", "time": "2026-11-21T23:25:00.000Z" }));
        let mut untimely = backup("a", "ok", "back");
        untimely["time"] = json!("yesterday");
        add(untimely);
        assert_eq!(history.not_understood, 3);
    }
}
