//! Collecting: asks the servers how far they are, starts what is queued, and journals what is over.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::due::words;
use super::ending::{self, End};
use super::judge::{Verdict, judge, not_encrypted, unanswered};
use super::pending::{Pending, Purpose};
use super::queue::{Claim, Queue};
use super::servers::Servers;
use crate::config::Settings;
use crate::journal::{Journal, Record, VerifyOutcome};
use crate::pbs::{Entry, Error, Pbs, TaskStatus, Upid};
use crate::sys::{Root, clock, signal};
use crate::vzdump::{Job, Vmid};

/// One question to the server.
const QUESTION_LIMIT: Duration = Duration::from_secs(20);

/// Polling a task begins with the first and backs off to the second.
const FIRST_POLL: Duration = Duration::from_millis(200);
const SLOWEST_POLL: Duration = Duration::from_secs(30);

/// How long to wait for what another process is at, or for the end of a pause.
const OTHERS_PAUSE: Duration = Duration::from_secs(1);

/// How often a verify that proved nothing is started.
const MOST_STARTS: u32 = 3;

/// Lines of a task's log: the one that tells of a skipped verify, and the first that tell of damage, are among them.
const LOG_LINES: u32 = 500;

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
        self.pause = (self.pause * 3 / 2).min(SLOWEST_POLL);
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
        let mut busy: BTreeMap<&str, usize> = BTreeMap::new();
        for pending in self.queue.all().into_iter().filter(|pending| pending.is_at_work()) {
            *busy.entry(&pending.datastore).or_default() += 1;
        }
        let mut due = Vec::new();
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
            let busy = busy.entry(&pending.datastore).or_default();
            let checks = pending.purpose == Purpose::Encryption
                && !matches!(self.collector, Collector::BackupEnd { .. });
            let free = pending.purpose == Purpose::Verify && *busy < parallel;
            if past || checks || pending.is_ordered() {
                // Whether one past the limit is its turn does not matter: it is not started any more.
                due.push(pending.clone());
            } else if free {
                *busy += 1;
                due.push(pending.clone());
            }
        }
        due
    }

    /// Asks how a task stands, and judges one that has ended.
    fn poll(&mut self, pending: &Pending, settings: &Settings) -> Result<()> {
        let Some(upid) = &pending.upid else { return Ok(()) };
        if let Some(poll) = self.polls.get_mut(&pending.file_name()) {
            poll.back_off();
        }
        let pbs = match self.servers.get(pending) {
            Ok(pbs) => pbs,
            Err(error) => return self.not_answered(pending, None, &error),
        };
        let exitstatus = match pbs.status(upid, self.question()) {
            Ok(TaskStatus::Running) => {
                let left = pending.age(clock::now()) > LIMIT;
                let reason = format!("the server is at it for longer than {}: {upid}", limit());
                return match left {
                    true => self.give_up(pending, &pbs, VerifyOutcome::Unknown, reason),
                    false => Ok(()),
                };
            }
            Ok(TaskStatus::Stopped { exitstatus }) => exitstatus,
            Err(error) => return self.not_answered(pending, Some(&pbs), &error),
        };
        let state = pbs.state(&pending.snapshot, self.question());
        let mut verdict = judge(upid, &exitstatus, &state, &[]);
        if let Err(error) = &state
            && verdict.outcome == VerifyOutcome::Unreachable
        {
            return self.not_answered(pending, Some(&pbs), error);
        }
        if let Err(error) = &state {
            self.servers.note(&pbs, error);
        }
        if verdict.outcome != VerifyOutcome::Ok && !self.servers.is_silent(&pbs) {
            match pbs.log(upid, LOG_LINES, self.question()) {
                Ok(log) => verdict = judge(upid, &exitstatus, &state, &log),
                // What the log says is worth a question, and no more.
                Err(error) => self.servers.note(&pbs, &error),
            }
        }
        if verdict.again && pending.starts < MOST_STARTS && pending.age(clock::now()) <= LIMIT {
            return self.again(pending, verdict, settings);
        }
        let policy = settings.verify_of(pending.vmid.0, &pending.storage);
        if let (VerifyOutcome::Ok, true, Ok(state)) =
            (verdict.outcome, policy.require_encryption, &state)
            && let Some(failure) = not_encrypted(state, &pending.storage)
        {
            verdict = failure;
        }
        let entry = state.as_ref().ok().and_then(|_| self.entry(pending, &pbs));
        self.close(pending, End::of(verdict, &pbs, state.ok()).listed(entry))
    }

    /// What the server lists of the snapshot; no outcome hangs on it.
    fn entry(&self, pending: &Pending, pbs: &Pbs) -> Option<Entry> {
        let snapshot = &pending.snapshot;
        let entries = pbs.list(snapshot.backup_type, &snapshot.backup_id, self.question()).ok()?;
        entries.into_iter().find(|entry| entry.snapshot == *snapshot)
    }

    /// A verify that proved nothing is started again: at once the first time, after a pause then.
    fn again(&mut self, pending: &Pending, verdict: Verdict, settings: &Settings) -> Result<()> {
        if pending.starts <= 1 && !matches!(self.collector, Collector::BackupEnd { .. }) {
            return self.start(pending, settings);
        }
        self.queue.change(pending, |mut pending| {
            pending.upid = None;
            pending.note(verdict.outcome, verdict.reason.unwrap_or_default());
            Ok(Some(pending))
        })?;
        Ok(())
    }

    /// Whether the server may have started to verify the snapshot by itself: not known yet, and it has not left another
    /// new one of this job and datastore alone.
    fn may_have_its_own(&self, pending: &Pending) -> bool {
        let left_alone = |other: &&Pending| {
            other.asked && !other.by_hand && (other.starts > 0 || other.upid.is_none())
        };
        let alike =
            |other: &&Pending| other.job == pending.job && other.datastore == pending.datastore;
        !pending.asked
            && !self.queue.all().into_iter().filter(alike).any(|other| left_alone(&other))
    }

    /// Asks whether the server has started to verify the snapshot by itself.
    fn ask(&mut self, pending: &Pending) -> Result<()> {
        let found = self.servers.get(pending).and_then(|pbs| {
            let found = pbs.verify_task(&pending.snapshot, pending.tasks_since(), self.question());
            if let Err(error) = &found {
                self.servers.note(&pbs, error);
            }
            found
        });
        match found {
            Ok(upid) => {
                self.queue.change(pending, |mut pending| {
                    pending.asked = true;
                    pending.upid = upid;
                    Ok(Some(pending))
                })?;
                Ok(())
            }
            Err(error) if tells_nothing(&error) => {
                self.queue
                    .change(pending, |pending| Ok(Some(Pending { asked: true, ..pending })))?;
                Ok(())
            }
            Err(error) => self.note(pending, &unanswered(&error)),
        }
    }

    /// Starts a verify, where it is its turn.
    fn start(&mut self, seen: &Pending, settings: &Settings) -> Result<()> {
        let (mut pending, blind) = match self.queue.claim(seen, settings.verify.parallel)? {
            Claim::Mine { pending, blind } => (*pending, blind),
            Claim::Full | Claim::Others => return Ok(()),
        };
        let claimed = pending.clone();
        let given = self.give(&mut pending, blind);
        pending.ordering = None;
        match &given {
            Ok(()) => pending.trouble = None,
            Err(error) => {
                let verdict = unanswered(error);
                pending.note(verdict.outcome, verdict.reason.unwrap_or_default());
            }
        }
        self.polls.insert(pending.file_name(), Poll::started());
        if !self.queue.change(&claimed, |_| Ok(Some(pending.clone())))? {
            return Ok(());
        }
        match given {
            Ok(()) => Ok(()),
            Err(error) => self.not_answered(&pending, None, &error),
        }
    }

    /// Gives the order to verify, or finds that it was given: `blind` is what an earlier one may have led to.
    fn give(&mut self, pending: &mut Pending, blind: bool) -> Result<(), Error> {
        pending.unanswered = blind;
        let pbs = self.servers.get(pending)?;
        if blind || self.may_have_its_own(pending) {
            match self.task(&pbs, pending) {
                Err(error) if !tells_nothing(&error) => {
                    self.servers.note(&pbs, &error);
                    return Err(error);
                }
                found => {
                    pending.asked = true;
                    pending.unanswered = false;
                    pending.upid = found.ok().flatten();
                }
            }
        }
        if pending.upid.is_some() {
            return Ok(());
        }
        match pbs.start_verify(&pending.snapshot, self.question()) {
            Ok(upid) => {
                pending.starts += 1;
                pending.upid = Some(upid);
                Ok(())
            }
            Err(error) => {
                // Most of all an answer that did not come: the server may be at it all the same.
                pending.unanswered = !matches!(
                    error,
                    Error::Unreachable { unsent: true, .. }
                        | Error::Misconfigured(_)
                        | Error::Denied { .. }
                        | Error::Refused { .. }
                );
                // What was not begun proved nothing, and is no attempt.
                pending.starts += u32::from(pending.unanswered);
                self.servers.note(&pbs, &error);
                Err(error)
            }
        }
    }

    /// A task that may be about it already. What was found before a person asked says nothing, and clocks differ: there
    /// it counts only while it runs.
    fn task(&self, pbs: &Pbs, pending: &Pending) -> Result<Option<Upid>, Error> {
        let found = pbs.verify_task(&pending.snapshot, pending.tasks_since(), self.question())?;
        match found {
            Some(upid) if pending.by_hand => {
                let running = pbs.status(&upid, self.question())? == TaskStatus::Running;
                Ok(running.then_some(upid))
            }
            found => Ok(found),
        }
    }

    /// Whether a snapshot that is not verified is encrypted, as its policy asks for.
    fn look_at_encryption(&mut self, pending: &Pending, settings: &Settings) -> Result<()> {
        let policy = settings.verify_of(pending.vmid.0, &pending.storage);
        if !policy.require_encryption {
            self.queue.change(pending, |_| Ok(None))?;
            return Ok(());
        }
        let pbs = match self.servers.get(pending) {
            Ok(pbs) => pbs,
            Err(error) => {
                self.note(pending, &unanswered(&error))?;
                return self.last_word(pending, None, &error);
            }
        };
        match pbs.state(&pending.snapshot, self.question()) {
            Ok(state) => match not_encrypted(&state, &pending.storage) {
                Some(failure) => self.close(pending, End::of(failure, &pbs, Some(state))),
                None => {
                    self.queue.change(pending, |_| Ok(None))?;
                    Ok(())
                }
            },
            Err(error) => {
                self.servers.note(&pbs, &error);
                self.note(pending, &unanswered(&error))?;
                self.last_word(pending, Some(&pbs), &error)
            }
        }
    }

    fn note(&mut self, pending: &Pending, verdict: &Verdict) -> Result<()> {
        self.queue.change(pending, |mut pending| {
            pending.note(verdict.outcome, verdict.reason.clone().unwrap_or_default());
            Ok(Some(pending))
        })?;
        Ok(())
    }

    fn not_answered(&mut self, pending: &Pending, pbs: Option<&Pbs>, error: &Error) -> Result<()> {
        if let Some(pbs) = pbs {
            self.servers.note(pbs, error);
        }
        self.last_word(pending, pbs, error)
    }

    /// Ends a verify that the server has refused for good, or that it could not be asked about for too long.
    fn last_word(&mut self, pending: &Pending, pbs: Option<&Pbs>, error: &Error) -> Result<()> {
        let verdict = unanswered(error);
        let past = pending.age(clock::now()) > LIMIT;
        if matches!(self.collector, Collector::BackupEnd { .. }) || verdict.again && !past {
            return Ok(());
        }
        self.queue.refresh()?;
        let Some(now) = self.queue.get(&pending.file_name()).cloned() else { return Ok(()) };
        if now.upid != pending.upid {
            return Ok(());
        }
        let reason = verdict.reason.clone().unwrap_or_default();
        match (verdict.again, pbs) {
            (true, _) => {
                let reason = format!("{reason} (for {})", limit());
                let verdict = Verdict { reason: Some(reason), ..verdict };
                self.close(&now, End::unasked(verdict))
            }
            (false, Some(pbs)) => self.close(&now, End::of(verdict, pbs, None)),
            (false, None) => self.close(&now, End::unasked(verdict)),
        }
    }

    /// Ends a verify that could not be started within the limit.
    fn never_started(&mut self, pending: &Pending) -> Result<()> {
        let (outcome, reason) = match &pending.trouble {
            Some(trouble) => (trouble.outcome, trouble.reason.clone()),
            None => {
                let reason = "others of its datastore were in front (verify.parallel)";
                (VerifyOutcome::Unknown, reason.to_string())
            }
        };
        let reason = Some(format!("not started within {}: {reason}", limit()));
        self.close(pending, End::unasked(Verdict { outcome, reason, again: false }))
    }

    fn give_up(
        &mut self,
        pending: &Pending,
        pbs: &Pbs,
        outcome: VerifyOutcome,
        reason: String,
    ) -> Result<()> {
        if matches!(self.collector, Collector::BackupEnd { .. }) {
            return Ok(());
        }
        let verdict = Verdict { outcome, reason: Some(reason), again: false };
        self.close(pending, End::of(verdict, pbs, None))
    }

    fn close(&mut self, pending: &Pending, end: End) -> Result<()> {
        // A bad outcome waits for the summary of its job, or where none comes for the unit, which tells root.
        let told = matches!(self.collector, Collector::JobEnd { .. }) && self.is_meant(pending);
        let outcome = end.verdict.outcome;
        if ending::close(self.root, &mut self.queue, pending, end, told)? {
            let (vmid, storage) = (pending.vmid, pending.storage.clone());
            self.collected.over.push(Over { vmid, storage, outcome });
        }
        Ok(())
    }

    /// What could not be started is in the journal too when the job ends, with what the outcome is so far.
    fn journal_troubles(&mut self) -> Result<()> {
        let down = self.down();
        let mut told = Vec::new();
        for pending in self.queue.all() {
            let trouble = pending.trouble.as_ref().filter(|_| is_unreachable(pending));
            let others = down.get(&pending.datastore).and_then(|down| down.trouble.as_ref());
            let open = pending.ended.is_none() && pending.upid.is_none() && self.is_meant(pending);
            if let Some(trouble) = trouble.or(others)
                && open
                && !pending.trouble.as_ref().is_some_and(|trouble| trouble.journalled)
            {
                told.push((pending.clone(), trouble.clone()));
            }
        }
        for (pending, trouble) in told {
            let reason = format!("{}; it is tried again for {}", trouble.reason, limit());
            let verdict = Verdict { outcome: trouble.outcome, reason: Some(reason), again: false };
            let record = Record::Verify(ending::record(&pending, End::unasked(verdict)));
            let journal = Journal::of(self.root);
            self.queue.change(&pending, |mut pending| {
                journal.append(&record)?;
                if pending.trouble.is_none() {
                    pending.note(trouble.outcome, trouble.reason);
                }
                if let Some(trouble) = &mut pending.trouble {
                    trouble.journalled = true;
                }
                Ok(Some(pending))
            })?;
        }
        Ok(())
    }

    /// What was over before the job is told of by its summary.
    fn leave_to_summary(&mut self) -> Result<()> {
        self.queue.refresh()?;
        let over = |pending: &&Pending| pending.ended.is_some() && self.is_meant(pending);
        let over: Vec<Pending> = self.queue.all().into_iter().filter(over).cloned().collect();
        for pending in over {
            self.queue.change(&pending, |_| Ok(None))?;
        }
        Ok(())
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

/// Whether a server that does not tell its tasks may verify all the same.
fn tells_nothing(error: &Error) -> bool {
    !matches!(error, Error::Denied { status: 401, .. } | Error::Misconfigured(_))
        && unanswered(error).outcome != VerifyOutcome::Unreachable
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
