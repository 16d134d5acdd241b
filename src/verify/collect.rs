//! Collecting: asks the servers for the state of verifies, starts queued ones, and journals those
//! that are over.

mod closing;
mod group;
mod judging;
mod ordering;

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::due::words;
use super::pending::{Pending, Purpose};
use super::queue::Queue;
use super::servers::Servers;
use crate::config::Settings;
use crate::journal::VerifyOutcome;
use crate::pbs::{TaskStatus, Upid};
use crate::sys::{Root, clock, signal};
use crate::vzdump::{Job, Vmid};

/// The limit for one request to the server.
const QUESTION_LIMIT: Duration = Duration::from_secs(20);

/// Polling a task begins with the first and backs off to the second, so that its end is noticed
/// within an eighth of the time that it took.
const FIRST_POLL: Duration = Duration::from_millis(200);
const SLOWEST_POLL: Duration = Duration::from_secs(30);

/// How long to wait for another process, or for the end of a pause.
const OTHERS_PAUSE: Duration = Duration::from_secs(1);

/// After this many seconds without an outcome, a verify is given up.
const LIMIT: u64 = 24 * 3600;

/// The process that collects.
#[derive(Clone, Copy, Debug)]
pub enum Collector<'a> {
    /// A backup has just ended: its verify is started if possible, without waiting. No failure is
    /// final here, because job-end asks once more.
    BackupEnd { job: &'a Job, run: &'a str, datastore: &'a str },
    /// The verifies of one job, until a deadline.
    JobEnd { job: &'a Job, deadline: Instant },
    /// Every verify, until none is left.
    Unit,
}

/// The results of a collection.
#[derive(Debug, Default)]
pub struct Collected {
    /// Each verify that is over.
    pub over: Vec<Over>,
    /// How many of the verifies to collect are not over.
    pub left: usize,
}

/// A verify that is over.
#[derive(Clone, Debug)]
pub struct Over {
    pub vmid: Vmid,
    pub storage: String,
    pub outcome: VerifyOutcome,
}

/// A collection in progress.
pub struct Collection<'a> {
    root: &'a Root,
    collector: Collector<'a>,
    pub queue: Queue,
    servers: Servers,
    polls: BTreeMap<String, Poll>,
    collected: Collected,
    /// The relevant lines of the task's log that was read last: those of a group's verify are
    /// needed several times.
    log: Option<(Upid, Vec<String>)>,
    /// The tasks' states in this round: that of a group's verify is needed several times.
    statuses: BTreeMap<String, TaskStatus>,
    /// In a hook, no request may last beyond this.
    question_deadline: Option<Instant>,
}

struct Poll {
    next: Instant,
    pause: Duration,
}

impl Poll {
    fn first() -> Poll {
        Poll { next: Instant::now(), pause: FIRST_POLL }
    }

    /// The polling state of a task that has just been started.
    fn started() -> Poll {
        let mut poll = Poll::first();
        poll.back_off();
        poll
    }

    fn back_off(&mut self) {
        self.next = Instant::now() + self.pause;
        self.pause = (self.pause * 9 / 8).min(SLOWEST_POLL);
    }
}

impl<'a> Collection<'a> {
    /// Nothing is asked yet. In a hook no request lasts beyond `deadline`.
    pub fn new(root: &'a Root, collector: Collector<'a>, deadline: Option<Instant>) -> Self {
        Collection {
            root,
            collector,
            queue: Queue::of(root),
            servers: Servers::of(root),
            polls: BTreeMap::new(),
            collected: Collected::default(),
            log: None,
            statuses: BTreeMap::new(),
            question_deadline: deadline,
        }
    }

    /// Collects until nothing more can be expected, or the time is over. `between` is called after
    /// each round.
    ///
    /// # Errors
    /// If the pending verifies cannot be read or written, or the journal cannot be written; nothing
    /// is lost then.
    pub fn run(mut self, mut between: impl FnMut(&mut Queue) -> Result<()>) -> Result<Collected> {
        let mut first = true;
        loop {
            self.round(first)?;
            between(&mut self.queue)?;
            self.queue.refresh()?;
            let deadline = match self.collector {
                Collector::BackupEnd { .. } => break,
                Collector::JobEnd { deadline, .. } => Some(deadline),
                Collector::Unit => None,
            };
            let hopeful = self.hopeful();
            let over = deadline.is_some_and(|deadline| Instant::now() >= deadline);
            if !hopeful || over || signal::asked_to_stop() {
                break;
            }
            self.sleep(deadline);
            first = false;
        }
        if let Collector::JobEnd { .. } = self.collector {
            self.journal_troubles()?;
            self.leave_to_summary()?;
        }
        let meant = |pending: &&Pending| pending.ended.is_none() && self.is_meant(pending);
        self.collected.left = self.queue.all().into_iter().filter(meant).count();
        Ok(self.collected)
    }

    /// One look at everything that is due.
    pub fn round(&mut self, first: bool) -> Result<()> {
        self.queue.refresh()?;
        self.servers.forgive();
        self.statuses.clear();
        self.share_again()?;
        let settings = Settings::load(self.root);
        let force = first && matches!(self.collector, Collector::JobEnd { .. });
        for pending in self.due_polls() {
            if self.is_spent() {
                return Ok(());
            }
            self.poll(&pending, &settings)?;
        }
        self.queue.refresh()?;
        if let Collector::BackupEnd { run, .. } = self.collector {
            let new = self.queue.all().into_iter().find(|pending| pending.run == run).cloned();
            if let Some(new) = new.filter(|new| !new.is_at_work() && self.may_have_its_own(new)) {
                self.ask(&new)?;
            }
            self.queue.refresh()?;
        }
        for pending in self.due_starts(settings.verify.parallel, force) {
            if self.is_spent() {
                return Ok(());
            }
            let past = pending.age(clock::now()) > LIMIT;
            match pending.purpose {
                Purpose::Verify if past && !pending.is_ordered() => self.never_started(&pending)?,
                Purpose::Verify => self.start(&pending, &settings)?,
                Purpose::Encryption => self.look_at_encryption(&pending, &settings)?,
            }
        }
        Ok(())
    }

    /// Whether a hook has no time left for more verifies: a server that answers slowly must not
    /// delay the node's other jobs once for each verify. Each verify is looked at once, so job-end
    /// gets a little more than its time.
    fn is_spent(&self) -> bool {
        let deadline = match self.collector {
            Collector::JobEnd { deadline, .. } => Some(deadline + QUESTION_LIMIT),
            Collector::BackupEnd { .. } | Collector::Unit => self.question_deadline,
        };
        deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Whether this verify is one of those to collect.
    fn is_meant(&self, pending: &Pending) -> bool {
        match self.collector {
            Collector::BackupEnd { job, .. } | Collector::JobEnd { job, .. } => pending.job == *job,
            Collector::Unit => true,
        }
    }

    /// The datastores whose queues must move on: a queue stands still while nobody checks its first
    /// verify.
    fn datastores(&self) -> BTreeSet<String> {
        if let Collector::BackupEnd { datastore, .. } = self.collector {
            return BTreeSet::from([datastore.to_string()]);
        }
        let meant = |pending: &&Pending| pending.ended.is_none() && self.is_meant(pending);
        let meant = self.queue.all().into_iter().filter(meant);
        meant.map(|pending| pending.datastore.clone()).collect()
    }

    /// Whether waiting may bring more. At the end of a job it does not if a server could not be
    /// asked: the unit continues with those.
    fn hopeful(&self) -> bool {
        let down = self.down();
        self.queue.all().into_iter().any(|pending| {
            let open = pending.ended.is_none() && self.is_meant(pending);
            let waits_for_server = matches!(self.collector, Collector::JobEnd { .. })
                && pending.upid.is_none()
                && (down.contains_key(&pending.datastore) || is_unreachable(pending));
            open && !waits_for_server
        })
    }

    /// The datastores whose server did not answer the last time, with the verify that shows since
    /// when.
    fn down(&self) -> BTreeMap<String, &Pending> {
        let at = |pending: &Pending| pending.trouble.as_ref().map(|trouble| trouble.at.clone());
        let mut down: BTreeMap<String, &Pending> = BTreeMap::new();
        for pending in self.queue.all() {
            if pending.ended.is_none() && is_unreachable(pending) {
                let known = down.entry(pending.datastore.clone()).or_insert(pending);
                if at(pending) > at(known) {
                    *known = pending;
                }
            }
        }
        down
    }

    fn due_polls(&mut self) -> Vec<Pending> {
        let datastores = self.datastores();
        let all = self.queue.all();
        let at_work = all.into_iter().filter(|pending| {
            pending.upid.is_some()
                && pending.ended.is_none()
                && datastores.contains(&pending.datastore)
        });
        let at_work: Vec<&Pending> = at_work.collect();
        let names: BTreeSet<String> = at_work.iter().map(|pending| pending.file_name()).collect();
        self.polls.retain(|name, _| names.contains(name));
        let mut due = Vec::new();
        for pending in at_work {
            let poll = self.polls.entry(pending.file_name()).or_insert_with(Poll::first);
            if poll.next <= Instant::now() {
                due.push(pending.clone());
            }
        }
        due
    }

    /// The verifies to start now, oldest first, up to the limit of each datastore. `force` ignores
    /// pauses.
    fn due_starts(&self, parallel: usize, force: bool) -> Vec<Pending> {
        let now = clock::now();
        let datastores = self.datastores();
        let down = self.down();
        let mut busy: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        for pending in self.queue.all().into_iter().filter(|pending| pending.is_at_work()) {
            busy.entry(&pending.datastore).or_default().insert(pending.order_name());
        }
        let mut due: Vec<Pending> = Vec::new();
        for pending in self.queue.all() {
            let open = pending.ended.is_none() && pending.upid.is_none();
            if !open || !datastores.contains(&pending.datastore) {
                continue;
            }
            let (past, hook) = match self.collector {
                Collector::BackupEnd { .. } => (false, pending.trouble.is_some()),
                _ => (pending.age(now) > LIMIT, false),
            };
            let rest = down.get(&pending.datastore).map_or(0, |down| down.rest(now));
            if !past && (hook || !force && rest.max(pending.rest(now)) > 0) {
                continue;
            }
            // One verify of a group stands for all of them.
            if !past && due.iter().any(|due| due.is_with(pending)) {
                continue;
            }
            let busy = busy.entry(&pending.datastore).or_default();
            let checks = pending.purpose == Purpose::Encryption
                && !matches!(self.collector, Collector::BackupEnd { .. });
            let free = pending.purpose == Purpose::Verify && busy.len() < parallel;
            if past || checks || pending.is_ordered() {
                // A verify past its time limit needs no turn: it is not started any more.
                due.push(pending.clone());
            } else if free {
                busy.insert(pending.order_name());
                due.push(pending.clone());
            }
        }
        due
    }

    fn question(&self) -> Instant {
        let limit = Instant::now() + QUESTION_LIMIT;
        self.question_deadline.map_or(limit, |deadline| deadline.min(limit))
    }

    /// Sleeps until the next thing is due, or an interruption.
    fn sleep(&self, deadline: Option<Instant>) {
        let now = Instant::now();
        let polls = self.polls.values().map(|poll| poll.next);
        // For queued verifies it is unknown when another process finishes those before them.
        let queued = self.queue.all().iter().any(|pending| pending.is_queued());
        let checks = self.queue.all().iter().any(|pending| pending.purpose == Purpose::Encryption);
        let others = (queued || checks || self.polls.is_empty()).then_some(now + OTHERS_PAUSE);
        let wake = polls.chain(others).chain(deadline).min().unwrap_or(now);
        while Instant::now() < wake && !signal::asked_to_stop() {
            let left = wake.saturating_duration_since(Instant::now());
            thread::sleep(left.min(Duration::from_millis(500)));
        }
    }
}

fn is_unreachable(pending: &Pending) -> bool {
    pending.upid.is_none()
        && pending
            .trouble
            .as_ref()
            .is_some_and(|trouble| trouble.outcome == VerifyOutcome::Unreachable)
}

fn limit() -> String {
    words(Duration::from_secs(LIMIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_task_is_noticed_within_an_eighth_of_its_time() {
        let (mut poll, mut waited) = (Poll::first(), Duration::ZERO);
        let mut polls = 0;
        while waited < Duration::from_secs(24 * 3600) {
            assert!(poll.pause <= FIRST_POLL + waited / 8, "{:?} after {waited:?}", poll.pause);
            waited += poll.pause;
            poll.back_off();
            polls += 1;
        }
        assert!(polls < 3000, "{polls}");
    }
}
