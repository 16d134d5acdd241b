//! A verify task from its start to its end.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde_json::{Value, json};

use super::plan::{Filter, Step, Target, plan};
use super::snapshot::{SnapshotId, Verification};
use super::store::Datastore;
use super::upid::{Upid, escape};
use super::verify::{Checked, check_snapshot, manifest_error};

/// The end of a verify that found damage.
const FAILED: &str = "verification failed - please check the log for details";

/// The directory of a snapshot's locks.
fn locks(id: &SnapshotId) -> String {
    let namespace =
        if id.ns.is_empty() { String::new() } else { format!("/{}", id.ns.replace('/', ":")) };
    format!("/run/proxmox-backup/locks/{}{namespace}", id.store)
}

/// The lock of a snapshot: shared for a verify, exclusive for a forget.
pub fn lock(id: &SnapshotId) -> String {
    format!("{}/{}", locks(id), escape(&id.to_string()))
}

/// Why the result cannot be written into the snapshot.
fn unwritable(store: &mut Datastore, id: &SnapshotId) -> Option<String> {
    if store.is_full() {
        return Some("write failed: No space left on device (os error 28)".to_owned());
    }
    store.manifest_locked = store.manifest_locked.checked_sub(1)?;
    let lock = format!("{}/{}", locks(id), escape(&format!("{id}/.index.json.lck")));
    Some(format!("unable to acquire manifest lock {lock:?}"))
}

/// A task, running or over.
#[derive(Debug, Clone)]
pub struct Task {
    /// Its id.
    pub upid: Upid,
    /// The datastore.
    pub store: String,
    /// What is verified, if it is one snapshot.
    pub snapshot: Option<SnapshotId>,
    /// Times (epoch seconds) and lines.
    pub log: Vec<(i64, String)>,
    /// When it ended (epoch seconds) and how.
    pub end: Option<(i64, String)>,
    filter: Filter,
    steps: VecDeque<Step>,
    at_work: Option<(SnapshotId, i64)>,
    corrupt: BTreeSet<String>,
    failed: Vec<String>,
}

impl Task {
    /// A task that has not done anything yet.
    pub fn new(upid: Upid, store: &Datastore, target: &Target, filter: Filter) -> Self {
        let snapshot = match target {
            Target::Snapshot(id) | Target::New(id) => Some(id.clone()),
            _ => None,
        };
        Self {
            upid,
            store: store.name.clone(),
            snapshot,
            log: Vec::new(),
            end: None,
            steps: plan(store, target, &filter),
            filter,
            at_work: None,
            corrupt: BTreeSet::new(),
            failed: Vec::new(),
        }
    }

    /// Does the work that is due by `now` (epoch milliseconds); each snapshot that is really
    /// verified takes `duration` milliseconds.
    pub fn advance(&mut self, stores: &mut BTreeMap<String, Datastore>, now: i64, duration: i64) {
        let mut clock = self.at_work.as_ref().map_or(now, |(_, due)| *due);
        while self.end.is_none() {
            if let Some((id, due)) = self.at_work.take() {
                if due > now {
                    self.at_work = Some((id, due));
                    return;
                }
                clock = due;
                self.finish_snapshot(stores, &id, clock / 1000);
            }
            match self.steps.pop_front() {
                Some(Step::Line(line)) => self.write(clock / 1000, line),
                Some(Step::Verify(id)) => {
                    if self.start_snapshot(stores, &id, clock / 1000) {
                        self.at_work = Some((id, clock + duration));
                    }
                }
                None => self.conclude(clock / 1000),
            }
        }
    }

    /// Whether it reads this snapshot now.
    pub fn reads(&self, id: &SnapshotId) -> bool {
        self.end.is_none() && self.at_work.as_ref().is_some_and(|(at, _)| at == id)
    }

    /// Does the rest at once.
    pub fn finish(&mut self, stores: &mut BTreeMap<String, Datastore>, now: i64) {
        if let Some((_, due)) = &mut self.at_work {
            *due = now;
        }
        self.advance(stores, now, 0);
    }

    /// Ends a running task with that exit status; the snapshot that it was reading keeps its old
    /// state.
    pub fn abort(&mut self, now: i64, exitstatus: &str, line: Option<&str>) {
        if self.end.is_some() {
            return;
        }
        if let Some(line) = line {
            self.write(now, line.to_owned());
        }
        self.end = Some((now, exitstatus.to_owned()));
    }

    fn write(&mut self, time: i64, line: String) {
        self.log.push((time, line));
    }

    /// Whether the verify of this snapshot has begun; otherwise it was skipped or failed.
    fn start_snapshot(
        &mut self,
        stores: &BTreeMap<String, Datastore>,
        id: &SnapshotId,
        time: i64,
    ) -> bool {
        let name = &id.store;
        let Some((store, (_, snapshot))) =
            stores.get(name).and_then(|store| Some((store, store.snapshot(id)?)))
        else {
            let line = format!("SKIPPED: verify {name}:{id} - snapshot does not exist (anymore).");
            self.write(time, line);
            return false;
        };
        if !snapshot.finished || snapshot.locked {
            let line = format!(
                "SKIPPED: verify {name}:{id} - could not acquire snapshot lock: \
                 unable to acquire shared snapshot lock {:?}",
                lock(id)
            );
            self.write(time, line);
            return false;
        }
        if let Some(error) = manifest_error(store, id, snapshot) {
            self.write(time, format!("verify {name}:{id} - manifest load error: {error}"));
            self.failed.push(id.to_string());
            return false;
        }
        if self.filter.passes_over(snapshot.verification.as_ref(), time) {
            self.write(time, format!("SKIPPED: verify {name}:{id} (recently verified)"));
            return false;
        }
        self.write(time, format!("verify {name}:{id}"));
        if let Some(first) = snapshot.files.first() {
            self.write(time, format!("  check {}", first.name));
        }
        true
    }

    fn finish_snapshot(
        &mut self,
        stores: &mut BTreeMap<String, Datastore>,
        id: &SnapshotId,
        time: i64,
    ) {
        let checked = stores
            .get_mut(&id.store)
            .and_then(|store| check_snapshot(store, id, &mut self.corrupt));
        let Some(Checked { lines, ok }) = checked else {
            // Pruned during the verify: there is nothing left to write a state into.
            self.failed.push(id.to_string());
            return;
        };
        // The line of the first file was written when the work began.
        for line in lines.into_iter().skip(1) {
            self.write(time, line);
        }
        if let Some(why) = stores.get_mut(&id.store).and_then(|store| unwritable(store, id)) {
            let line = format!("verify {}:{id} - manifest update error: {why}", id.store);
            self.write(time, line);
            self.failed.push(id.to_string());
            return;
        }
        let verification = Verification {
            state: if ok { "ok" } else { "failed" },
            upid: self.upid.to_string(),
            starttime: self.upid.starttime,
        };
        let snapshot = stores.get_mut(&id.store).and_then(|store| store.snapshot_mut(id));
        if let Some(snapshot) = snapshot {
            snapshot.verification = Some(verification);
        }
        if !ok {
            self.failed.push(id.to_string());
        }
    }

    fn conclude(&mut self, time: i64) {
        if self.failed.is_empty() {
            self.write(time, "TASK OK".to_owned());
            self.end = Some((time, "OK".to_owned()));
            return;
        }
        let automatic = self.upid.worker_type == "verify" && self.snapshot.is_some();
        if !automatic {
            let line = "Failed to verify the following snapshots/groups:";
            self.write(time, line.to_owned());
            for failed in self.failed.clone() {
                self.write(time, format!("\t{failed}"));
            }
        }
        self.write(time, format!("TASK ERROR: {FAILED}"));
        self.end = Some((time, FAILED.to_owned()));
    }

    /// Everything about the task, for a test's report.
    pub fn report(&self) -> Value {
        json!({
            "upid": self.upid.to_string(),
            "type": self.upid.worker_type,
            "id": self.upid.worker_id,
            "store": self.store,
            "ns": self.snapshot.as_ref().map(|id| id.ns.clone()),
            "snapshot": self.snapshot.as_ref().map(ToString::to_string),
            "user": self.upid.auth_id,
            "starttime": self.upid.starttime,
            "endtime": self.end.as_ref().map(|(time, _)| time),
            "status": if self.end.is_some() { "stopped" } else { "running" },
            "exitstatus": self.end.as_ref().map(|(_, exitstatus)| exitstatus),
            "log": self.log.iter().map(|(_, line)| line).collect::<Vec<_>>(),
        })
    }
}
