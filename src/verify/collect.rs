//! Collecting: asks the servers how far they are, starts what is queued, and journals what is over.

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

/// One question to the server.
const QUESTION_LIMIT: Duration = Duration::from_secs(20);

/// Polling a task begins with the first and backs off to the second, so that its end is noticed within an eighth of the
/// time that it took.
const FIRST_POLL: Duration = Duration::from_millis(200);
const SLOWEST_POLL: Duration = Duration::from_secs(30);

/// How long to wait for what another process is at, or for the end of a pause.
const OTHERS_PAUSE: Duration = Duration::from_secs(1);

/// A verify that has no outcome after this is not waited for any longer, in seconds.
const LIMIT: u64 = 24 * 3600;

/// Who collects.
#[derive(Clone, Copy, Debug)]
pub enum Collector<'a> {
    /// A backup has just ended: its verify is started where that is possible, and nothing is waited for. No server
    /// has its last word here, for job-end asks once more.
    BackupEnd { job: &'a Job, run: &'a str, datastore: &'a str },
    /// The verifies of one job, until a time.
    JobEnd { job: &'a Job, deadline: Instant },
    /// Every verify, until none is left.
    Unit,
}

/// What was collected.
#[derive(Debug, Default)]
pub struct Collected {
    /// Each verify that is over.
    pub over: Vec<Over>,
    /// How many of those that were to be collected are not.
    pub left: usize,
}

/// A verify that is over.
#[derive(Clone, Debug)]
pub struct Over {
    pub vmid: Vmid,
    pub storage: String,
    pub outcome: VerifyOutcome,
}

/// A collection under way.
pub struct Collection<'a> {
    root: &'a Root,
    collector: Collector<'a>,
    pub queue: Queue,
    servers: Servers,
    polls: BTreeMap<String, Poll>,
    collected: Collected,
    /// The telling lines of the task's log that was read last: that of a group is asked for by many.
    log: Option<(Upid, Vec<String>)>,
    /// How tasks stand, in this round: that of a group is asked for by many.
    statuses: BTreeMap<String, TaskStatus>,
    /// What is asked no longer than this, in a hook that has to be done by then.
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

    /// Of a task that has just been started.
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
    /// Nothing is asked yet. In a hook no question goes on after `deadline`.
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

    /// Collects until nothing that is to be collected can be expected any more, or the time is over. `between` is
    /// called after each round.
    ///
    /// # Errors
    /// When what is pending can't be read or written down, or the journal can't be written; nothing is lost then.
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

    /// Whether a hook has no time left to ask of more verifies: a server that takes long for each answer must not hold
    /// up the node's other jobs for as many times that. Each was to be looked at once, so job-end has a little more
    /// than its time.
    fn is_spent(&self) -> bool {
        let deadline = match self.collector {
            Collector::JobEnd { deadline, .. } => Some(deadline + QUESTION_LIMIT),
            Collector::BackupEnd { .. } | Collector::Unit => self.question_deadline,
        };
        deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Whether this verify is one of those that are to be collected.
    fn is_meant(&self, pending: &Pending) -> bool {
        match self.collector {
            Collector::BackupEnd { job, .. } | Collector::JobEnd { job, .. } => pending.job == *job,
            Collector::Unit => true,
        }
    }

    /// The datastores that have to go on: a queue stands still while nobody looks at what is in front.
    fn datastores(&self) -> BTreeSet<String> {
        if let Collector::BackupEnd { datastore, .. } = self.collector {
            return BTreeSet::from([datastore.to_string()]);
        }
        let meant = |pending: &&Pending| pending.ended.is_none() && self.is_meant(pending);
        let meant = self.queue.all().into_iter().filter(meant);
        meant.map(|pending| pending.datastore.clone()).collect()
    }

    /// Whether waiting may bring more. For the end of a job that is not so where a server could not be asked: the
    /// unit goes on with that.
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

    /// The datastores whose server could not be asked the last time, with the verify that tells since when.
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

    /// What is to be started, oldest first, and no more than may be. `force` takes no account of pauses.
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
            // One of a group stands for all of it.
            if !past && due.iter().any(|due| due.is_with(pending)) {
                continue;
            }
            let busy = busy.entry(&pending.datastore).or_default();
            let checks = pending.purpose == Purpose::Encryption
                && !matches!(self.collector, Collector::BackupEnd { .. });
            let free = pending.purpose == Purpose::Verify && busy.len() < parallel;
            if past || checks || pending.is_ordered() {
                // Whether one past the limit is its turn does not matter: it is not started any more.
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

    /// Until the next thing is due; an interruption is noticed meanwhile.
    fn sleep(&self, deadline: Option<Instant>) {
        let now = Instant::now();
        let polls = self.polls.values().map(|poll| poll.next);
        // Of what is queued it is not known when somebody else is done with what is in front.
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
