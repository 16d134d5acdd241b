//! A verify task from its start to its end.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde_json::{Value, json};

use super::store::{Datastore, Group, SnapshotId, Verification, namespace_path};
use super::upid::Upid;
use super::verify::{Checked, check_snapshot};

/// The end of a verify that found damage.
const FAILED: &str = "verification failed - please check the log for details";

/// What is to be verified.
#[derive(Debug, Clone)]
pub enum Target {
    /// One snapshot.
    Snapshot(SnapshotId),
    /// A snapshot just written, verified because the datastore says so.
    New(SnapshotId),
    /// All snapshots of a group: namespace, type and id.
    Group(String, String, String),
    /// Everything in a namespace and below.
    Namespace(String),
}

/// Which snapshots are passed over.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Pass over what has been verified, whatever came out.
    pub ignore_verified: bool,
    /// Days after which a verified snapshot is verified again all the same.
    pub outdated_after: Option<i64>,
    /// Only groups of this owner.
    pub owner: Option<String>,
}

impl Filter {
    fn passes_over(&self, last: Option<&Verification>, now: i64) -> bool {
        let Some(last) = last.filter(|_| self.ignore_verified) else {
            return false;
        };
        let days = (now - last.starttime) / 86_400;
        self.outdated_after.is_none_or(|age| days <= age)
    }
}

#[derive(Debug, Clone)]
enum Step {
    Line(String),
    Verify(SnapshotId),
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

impl Target {
    /// The task's type and worker id.
    pub fn worker(&self, store: &str) -> (&'static str, String) {
        match self {
            Target::Snapshot(SnapshotId {
                ns, kind, id, time, ..
            }) => {
                let ns = namespace_path(ns);
                let id = format!("{store}:{ns}/{kind}/{id}/{time:08X}");
                ("verify_snapshot", id)
            }
            Target::New(id) => {
                let id = format!("{store}:{}/{}/{:08X}", id.kind, id.id, id.time);
                ("verify", id)
            }
            Target::Group(ns, kind, id) => {
                let ns = namespace_path(ns);
                ("verify_group", format!("{store}:{ns}/{kind}/{id}"))
            }
            Target::Namespace(ns) if ns.is_empty() => ("verify", store.to_owned()),
            Target::Namespace(ns) => ("verify", format!("{store}:{}", namespace_path(ns))),
        }
    }
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

    /// Does what is done by `now` (epoch milliseconds); each snapshot that is really verified takes
    /// `duration` milliseconds.
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

    /// Does the rest at once.
    pub fn finish(&mut self, stores: &mut BTreeMap<String, Datastore>, now: i64) {
        if let Some((_, due)) = &mut self.at_work {
            *due = now;
        }
        self.advance(stores, now, 0);
    }

    /// Ends a running task with that exit status; what it was at keeps its old state.
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

    /// Whether the verify of this snapshot has begun; otherwise it was passed over or failed.
    fn start_snapshot(
        &mut self,
        stores: &BTreeMap<String, Datastore>,
        id: &SnapshotId,
        time: i64,
    ) -> bool {
        let name = &id.store;
        let Some((store, (_, snapshot))) = stores
            .get(name)
            .and_then(|store| Some((store, store.snapshot(id)?)))
        else {
            let line = format!("SKIPPED: verify {name}:{id} - snapshot does not exist (anymore).");
            self.write(time, line);
            return false;
        };
        if !snapshot.finished {
            let lock = format!("/run/proxmox-backup/locks/{name}/{id}");
            let line = format!(
                "SKIPPED: verify {name}:{id} - could not acquire snapshot lock: \
                 unable to acquire shared snapshot lock {lock:?}"
            );
            self.write(time, line);
            return false;
        }
        if let Some(error) = super::verify::manifest_error(store, id, snapshot) {
            self.write(
                time,
                format!("verify {name}:{id} - manifest load error: {error}"),
            );
            self.failed.push(id.to_string());
            return false;
        }
        if self
            .filter
            .passes_over(snapshot.verification.as_ref(), time)
        {
            self.write(
                time,
                format!("SKIPPED: verify {name}:{id} (recently verified)"),
            );
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
            // Pruned away under the verify: nothing is left to write a state into.
            self.failed.push(id.to_string());
            return;
        };
        // The line of the first file was written when the work began.
        for line in lines.into_iter().skip(1) {
            self.write(time, line);
        }
        let verification = Verification {
            state: if ok { "ok" } else { "failed" },
            upid: self.upid.to_string(),
            starttime: self.upid.starttime,
        };
        let snapshot = stores
            .get_mut(&id.store)
            .and_then(|store| store.snapshot_mut(id));
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

    /// All about the task, for a test's report.
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

fn snapshot_ids(store: &str, group: &Group) -> Vec<SnapshotId> {
    let mut times: Vec<i64> = group.snapshots.iter().map(|one| one.time).collect();
    times.sort_unstable_by(|a, b| b.cmp(a));
    let id = |time| SnapshotId::new(store, &group.ns, &group.kind, &group.id, time);
    times.into_iter().map(id).collect()
}

fn plan(store: &Datastore, target: &Target, filter: &Filter) -> VecDeque<Step> {
    let name = &store.name;
    let mut steps = VecDeque::new();
    let mut line = |text: String| steps.push_back(Step::Line(text));
    match target {
        Target::Snapshot(id) => steps.push_back(Step::Verify(id.clone())),
        Target::New(id) => {
            line("Automatically verifying newly added snapshot".to_owned());
            steps.push_back(Step::Verify(id.clone()));
        }
        Target::Group(ns, kind, id) => match store.group(ns, kind, id) {
            Some(group) => add_group(&mut steps, name, group, 0, 1),
            None => {
                let place = match ns.as_str() {
                    "" => "root namespace".to_owned(),
                    ns => format!("namespace '{ns}'"),
                };
                line(format!(
                    "verify datastore '{name}', {place}, group {kind}/{id} - unable to list \
                     backups: ENOENT: No such file or directory"
                ));
            }
        },
        Target::Namespace(ns) => {
            let below = format!("{ns}/");
            let inside =
                |group: &&Group| ns.is_empty() || group.ns == *ns || group.ns.starts_with(&below);
            let wanted = |group: &&Group| {
                let owner = filter.owner.as_deref();
                owner.is_none_or(|owner| super::access::owns(owner, &group.owner))
            };
            let groups = store.groups.iter().filter(inside).filter(wanted);
            let mut groups: Vec<&Group> = groups.collect();
            groups.sort_by_key(|group| {
                let number = group.id.parse::<u64>().unwrap_or(u64::MAX);
                (
                    group.kind.clone(),
                    number,
                    group.id.clone(),
                    group.ns.clone(),
                )
            });
            line(format!("verify datastore {name}"));
            if let Some(owner) = &filter.owner {
                line(format!("limiting to backups owned by {owner}"));
            }
            line(format!("found {} groups", groups.len()));
            line("using 1 read and 4 verify thread(s)".to_owned());
            for (at, group) in groups.iter().enumerate() {
                add_group(&mut steps, name, group, at, groups.len());
            }
        }
    }
    steps
}

fn add_group(steps: &mut VecDeque<Step>, store: &str, group: &Group, at: usize, groups: usize) {
    let ids = snapshot_ids(store, group);
    let count = ids.len();
    steps.push_back(Step::Line(format!(
        "verify group {store}:{}/{} ({count} snapshots)",
        group.kind, group.id
    )));
    for (done, id) in (1..).zip(ids) {
        steps.push_back(Step::Verify(id));
        let percent = 100.0 * (at as f64 + done as f64 / count as f64) / groups as f64;
        let progress = if groups == 1 {
            format!("{done}/{count} snapshots")
        } else if done == count {
            format!("{}/{groups} groups", at + 1)
        } else {
            format!(
                "{at}/{groups} groups, {done}/{count} snapshots in group #{}",
                at + 1
            )
        };
        steps.push_back(Step::Line(format!(
            "percentage done: {percent:.2}% ({progress})"
        )));
    }
}
