//! The state of the simulated server, which tests may read and change.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::Utc;

use super::access::Access;
use super::backup::Backup;
use super::fault::Rule;
use super::plan::{Filter, Target};
use super::snapshot::SnapshotId;
use super::store::{ChunkDamage, Datastore};
use super::task::Task;
use super::upid::Upid;

/// What a restart does to running tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// The proxy died: its tasks are `unknown`.
    Killed,
    /// It was reloaded: its tasks end with an error that says so.
    Reloaded,
}

/// The simulated server's state.
#[derive(Debug)]
pub struct State {
    /// The node's name.
    pub node: String,
    /// The proxy's process id, part of every UPID.
    pub pid: u32,
    /// The proxy's start, part of every UPID.
    pub pstart: u64,
    /// The number of the last task.
    pub last_task: u64,
    /// How long the verify of one snapshot takes.
    pub verify_time: Duration,
    /// How long a 401 takes.
    pub unauthorized_delay: Duration,
    /// How far the server's clock is ahead, in milliseconds.
    pub clock_ahead: i64,
    /// Whether the verify of a group is treated as one of the whole datastore.
    pub forgets_groups: bool,
    /// The time at which the server's clock is stopped (epoch milliseconds), if it is.
    pub clock_stopped: Option<i64>,
    /// Users, tokens and their rights.
    pub access: Access,
    /// The datastores by name.
    pub datastores: BTreeMap<String, Datastore>,
    /// All tasks, oldest first.
    pub tasks: Vec<Task>,
    /// How many connections were made.
    pub connections: usize,
    /// The most tasks that ever ran at once.
    pub most_running: usize,
    /// Faults waiting for their request.
    pub rules: Vec<Rule>,
    /// Method and target of every request so far.
    pub requests: Vec<String>,
}

impl State {
    /// The server's time in epoch milliseconds.
    pub fn now_millis(&self) -> i64 {
        let running = || Utc::now().timestamp_millis() + self.clock_ahead;
        self.clock_stopped.unwrap_or_else(running)
    }

    /// Stops the server's clock at that second of the epoch.
    pub fn stop_clock(&mut self, epoch: i64) {
        self.clock_stopped = Some(epoch * 1000);
    }

    /// The server's time in epoch seconds.
    pub fn now(&self) -> i64 {
        self.now_millis().div_euclid(1000)
    }

    /// Adds an empty datastore at `/mnt/datastore/NAME` and returns it.
    pub fn add_datastore(&mut self, name: &str) -> &mut Datastore {
        self.datastores
            .entry(name.to_owned())
            .or_insert_with(|| Datastore::new(name, &format!("/mnt/datastore/{name}")))
    }

    /// Stores a backup as if it had just been written. A finished one is verified at once if the
    /// datastore has `verify_new`.
    pub fn add_snapshot(&mut self, backup: Backup) {
        let (id, owner, finished) = (backup.id.clone(), backup.owner.clone(), backup.finished);
        self.add_datastore(&id.store).add(backup);
        let verify_new = self.datastores[&id.store].verify_new;
        if verify_new && finished {
            let store = id.store.clone();
            self.start(&store, &Target::New(id), Filter::default(), &owner);
        }
    }

    /// Removes a snapshot; returns whether it existed.
    pub fn remove_snapshot(&mut self, id: &SnapshotId) -> bool {
        let store = self.datastores.get_mut(&id.store);
        store.is_some_and(|store| store.remove(id))
    }

    /// Alters a chunk that only this snapshot has; returns its digest, `None` if there is no such
    /// snapshot.
    pub fn corrupt(&mut self, id: &SnapshotId) -> Option<String> {
        let store = self.datastores.get_mut(&id.store)?;
        store.damage_chunk(id, false, ChunkDamage::Altered)
    }

    /// Starts a verify of one snapshot as that login, without checking rights; returns the UPID.
    pub fn verify_as(&mut self, auth_id: &str, id: &SnapshotId) -> String {
        let store = id.store.clone();
        let target = Target::Snapshot(id.clone());
        self.start(&store, &target, Filter::default(), auth_id)
    }

    /// Starts a task; returns the UPID.
    pub fn start(&mut self, store: &str, target: &Target, filter: Filter, auth_id: &str) -> String {
        self.last_task += 1;
        let (worker_type, worker_id) = target.worker(store);
        let upid = Upid {
            node: self.node.clone(),
            pid: self.pid,
            pstart: self.pstart,
            task_id: self.last_task,
            starttime: self.now(),
            worker_type: worker_type.to_owned(),
            worker_id,
            auth_id: auth_id.to_owned(),
        };
        let text = upid.to_string();
        let store = self.add_datastore(store);
        let task = Task::new(upid, store, target, filter);
        self.tasks.push(task);
        self.advance();
        let running = self.tasks.iter().filter(|task| task.end.is_none()).count();
        self.most_running = self.most_running.max(running);
        text
    }

    /// Lets every running task do the work that is due by now.
    pub fn advance(&mut self) {
        let now = self.now_millis();
        let duration = i64::try_from(self.verify_time.as_millis()).unwrap_or(i64::MAX / 4);
        for task in self.tasks.iter_mut().filter(|task| task.end.is_none()) {
            task.advance(&mut self.datastores, now, duration);
        }
    }

    /// Completes a running task at once; returns whether there is such a task.
    pub fn finish(&mut self, upid: &str) -> bool {
        self.advance();
        let now = self.now_millis();
        let mut tasks = self.tasks.iter_mut();
        let Some(task) = tasks.find(|task| task.upid.to_string() == upid) else {
            return false;
        };
        task.finish(&mut self.datastores, now);
        true
    }

    /// The task of that id.
    pub fn task(&self, upid: &str) -> Option<&Task> {
        let mut tasks = self.tasks.iter();
        tasks.find(|task| task.upid.to_string() == upid)
    }

    /// Ends running tasks as a restart does, and continues as a new process.
    pub fn restart(&mut self, how: Restart) {
        self.advance();
        let now = self.now();
        for task in self.tasks.iter_mut().filter(|task| task.end.is_none()) {
            match how {
                Restart::Killed => task.abort(now, "unknown", None),
                Restart::Reloaded => {
                    let error = "Server shutdown requested - aborting task";
                    task.abort(now, error, Some(&format!("TASK ERROR: {error}")));
                }
            }
        }
        self.pid += 1;
        self.pstart += 4242;
        self.last_task = 0;
    }
}
