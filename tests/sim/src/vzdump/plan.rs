//! Turns a recording into steps: the hook calls, and between them what vzdump does to the guests.
//! Without side effects, so that it can be tested without any process.

use super::log::{self, Sent};
use super::placing::{Placed, place, runs};
use super::trace::{Call, Scenario};
use std::time::Duration;

/// One step of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Call the hook; a signal may be sent to the job during the call.
    Call {
        /// The call, by its place in [`Jobs::calls`].
        call: usize,
        /// The signal in the middle of the call.
        sent: Option<Sent>,
    },
    /// Let time pass.
    Pause(Duration),
    /// Take the node's vzdump lock.
    TakeNodeLock,
    /// Begin another job, which then waits for the node's lock.
    BeginJob(usize),
    /// Lock the guest's config.
    Lock(u32, &'static str),
    /// Unlock the guest's config.
    Unlock(u32),
    /// Freeze the guest.
    Freeze(u32),
    /// Thaw it.
    Thaw(u32),
    /// The instant whose state is in the backup.
    Instant(u32),
    /// Shut the guest down gracefully.
    ShutDown(u32),
    /// Start it.
    Start(u32),
    /// The archive is being written, as that call's target.
    ArchiveBegins(usize),
    /// The archive is complete.
    ArchiveEnds(usize),
    /// The archive is given up.
    ArchiveFails(usize),
    /// vzdump's log of the guest is put beside the archive.
    LogFile(usize),
    /// A signal is sent to the job while vzdump itself works.
    Send(Sent),
    /// Nothing more is recorded: the job works until it is killed.
    Hang,
}

/// All jobs of a recording.
#[derive(Debug, Clone)]
pub struct Jobs {
    /// All calls, including those that a failing hook may add later.
    pub calls: Vec<Call>,
    /// Steps of each job, the first one first.
    pub steps: Vec<Vec<Step>>,
}

/// The longest pause between two steps: what took seconds in the recording need not take as long
/// again.
pub const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// The steps of a recording.
pub fn plan(scenario: &Scenario) -> Jobs {
    let mark = log::mark(scenario);
    let placed = mark.as_ref().and_then(|mark| place(scenario, mark));
    let owners = owners(scenario, placed.as_ref());
    let count = owners.iter().max().map_or(0, |last| last + 1);
    let mut steps = vec![Vec::new(); count];
    for (job, steps) in steps.iter_mut().enumerate() {
        let mine = (0..scenario.calls.len()).filter(|at| owners[*at] == job);
        let mine = mine.collect::<Vec<_>>();
        let placed = placed.as_ref().filter(|placed| mine.contains(&placed.call));
        *steps = Job { scenario, mine, placed, owners: &owners, job }.steps();
    }
    Jobs { calls: scenario.calls.clone(), steps }
}

/// The job of each call. A job-init in the middle of a job belongs to another job, whose further
/// calls come after the first job's end.
fn owners(scenario: &Scenario, placed: Option<&Placed>) -> Vec<usize> {
    let mut owners = Vec::new();
    let mut open = Vec::new();
    let mut jobs = 0;
    let dead = placed.filter(|placed| placed.sent != Sent::Stop).map(|placed| placed.call);
    for (at, call) in scenario.calls.iter().enumerate() {
        let last = |owners: &Vec<usize>| at.checked_sub(1).and_then(|at| owners.get(at).copied());
        if call.phase() == "job-init" || jobs == 0 {
            open.push(jobs);
            owners.push(jobs);
            jobs += 1;
        } else if call.phase() == "job-abort" {
            owners.push(last(&owners).unwrap_or(0));
        } else {
            owners.push(open.first().copied().or_else(|| last(&owners)).unwrap_or(0));
        }
        if matches!(call.phase(), "job-end" | "job-abort") || dead == Some(at) {
            let ended = owners[at];
            open.retain(|job| *job != ended);
        }
    }
    owners
}

struct Job<'a> {
    scenario: &'a Scenario,
    mine: Vec<usize>,
    placed: Option<&'a Placed>,
    owners: &'a [usize],
    job: usize,
}

impl Job<'_> {
    fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        let calls = &self.scenario.calls;
        for (nth, &at) in self.mine.iter().enumerate() {
            let call = &calls[at];
            let next = self.mine.get(nth + 1).map(|next| &calls[*next]);
            let previous = nth.checked_sub(1).map(|nth| &calls[self.mine[nth]]);
            if call.vmid() != previous.and_then(Call::vmid) {
                steps.extend(self.before_guest(call));
            }
            steps.extend(before(at, call, previous));
            let sent = self.sent_in(at);
            steps.push(Step::Call { call: at, sent });
            if matches!(sent, Some(Sent::KillWorker | Sent::KillGroup)) {
                return steps;
            }
            let after = self.after(at, call, next);
            let cut = self.cut(at, &after);
            let whole = cut.is_none();
            let kept = cut.map_or(after.len(), |(kept, _)| kept);
            steps.extend_from_slice(&after[..kept]);
            if let Some((_, sent)) = cut {
                steps.push(Step::Send(sent));
                if sent != Sent::Stop {
                    return steps;
                }
                // A stopped vzdump leaves work undone, but it does unlock.
                let undone = |step: &&Step| matches!(step, Step::Unlock(_) | Step::ArchiveFails(_));
                steps.extend(after[kept..].iter().filter(undone).cloned());
                if next.is_none() {
                    steps.push(Step::Hang);
                }
            }
            if whole {
                steps.push(Step::Pause(gap(call, next)));
            }
            self.begin_others(at, &mut steps);
        }
        if self.placed.is_some_and(|placed| placed.killed.is_some())
            && !steps.iter().any(|step| {
                matches!(step, Step::Hang | Step::Call { sent: Some(Sent::KillGroup), .. })
            })
        {
            steps.push(Step::Hang);
        }
        steps
    }

    fn sent_in(&self, at: usize) -> Option<Sent> {
        let placed = self.placed?;
        if placed.call == at && placed.in_flight {
            return Some(placed.sent);
        }
        let kill = placed.killed.as_ref()?;
        (kill.call == at && kill.in_flight).then_some(Sent::KillGroup)
    }

    /// How many of the steps after that call were done when a signal was sent, and which signal.
    fn cut(&self, at: usize, after: &[Step]) -> Option<(usize, Sent)> {
        let placed = self.placed?;
        let (seen, sent) = match &placed.killed {
            Some(kill) if kill.call == at && !kill.in_flight && placed.call != at => {
                (&kill.seen, Sent::KillGroup)
            }
            _ if placed.call == at && !placed.in_flight => (&placed.seen, placed.sent),
            _ => return None,
        };
        let vmid = self.scenario.calls[at].vmid();
        let seen = vmid.map_or(&seen[..], |vmid| log::part(seen, vmid));
        let printed = |text: &str| seen.iter().any(|line| line.starts_with(text));
        let archive = seen.iter().any(|line| log::begins_archive(line));
        let begun = |step: &Step| match step {
            Step::Freeze(_) | Step::Lock(_, "snapshot") => {
                printed("INFO: create storage snapshot")
                    || printed("INFO: suspend vm")
                    || printed("INFO: starting final sync")
            }
            Step::ArchiveBegins(_) => archive,
            // It may be interrupted in the middle: the guest continues to stop.
            Step::ShutDown(_) | Step::Start(_) => true,
            _ => false,
        };
        let last = after.iter().rposition(begun);
        Some((last.map_or(0, |last| last + 1), sent))
    }

    /// If the recording shows another job's first call at this moment, that job begins.
    fn begin_others(&self, at: usize, steps: &mut Vec<Step>) {
        let begin = |other: usize| {
            self.owners[other] > self.job && self.scenario.calls[other].phase() == "job-init"
        };
        let others =
            (at + 1..self.owners.len()).take_while(|other| self.owners[*other] != self.job);
        if self.mine.iter().any(|mine| *mine > at) {
            for other in others.filter(|other| begin(*other)) {
                steps.push(Step::BeginJob(self.owners[other]));
            }
        }
    }

    /// What vzdump has done before it first calls the hook for a guest.
    fn before_guest(&self, call: &Call) -> Vec<Step> {
        match (call.vmid(), call.phase()) {
            (Some(vmid), "backup-start") => vec![Step::Lock(vmid, "backup")],
            _ => Vec::new(),
        }
    }

    /// What vzdump does after a call, up to its next one.
    fn after(&self, at: usize, call: &Call, next: Option<&Call>) -> Vec<Step> {
        let Some(vmid) = call.vmid() else {
            return match call.phase() {
                "job-init" if next.is_some() => vec![Step::TakeNodeLock],
                _ => Vec::new(),
            };
        };
        let calls = &self.scenario.calls;
        let runs = runs(self.scenario, vmid);
        let later = |phase: &str| {
            let mut later = self.mine.iter().filter(|mine| **mine > at).map(|mine| &calls[*mine]);
            later.any(|later| later.vmid() == Some(vmid) && later.phase() == phase)
        };
        let mode = call.mode().unwrap_or_default();
        let gap = gap(call, next);
        let mut steps = Vec::new();
        match (call.phase(), mode) {
            ("backup-start", "stop") if !runs => {
                steps.extend([Step::Instant(vmid), Step::ArchiveBegins(at), Step::Pause(gap)]);
            }
            // No snapshot follows an interrupted call.
            ("pre-stop", "snapshot") if runs && self.sent_in(at).is_none() => {
                let freeze = [Step::Freeze(vmid), Step::Lock(vmid, "snapshot")];
                let thaw = [Step::Thaw(vmid), Step::Lock(vmid, "backup")];
                steps.extend(freeze);
                steps.extend([Step::Instant(vmid), Step::Pause(gap / 2)]);
                steps.extend(thaw);
            }
            ("pre-stop", "suspend") if self.sent_in(at).is_none() => {
                steps.extend([Step::Freeze(vmid), Step::Instant(vmid), Step::Pause(gap)]);
            }
            ("pre-stop", "stop") if self.sent_in(at).is_none() => {
                steps.extend([Step::ShutDown(vmid), Step::Instant(vmid)]);
                steps.extend([Step::ArchiveBegins(at), Step::Pause(gap)]);
            }
            ("pre-restart", "suspend") if later("post-restart") => steps.push(Step::Thaw(vmid)),
            ("pre-restart", "stop") if later("post-restart") || next.is_none() => {
                steps.push(Step::Start(vmid));
            }
            ("post-restart", "snapshot" | "suspend") => {
                steps.extend([Step::ArchiveBegins(at), Step::Pause(gap)]);
            }
            _ => {}
        }
        // vzdump unlocks when the archive is done or has failed: in stop mode before the restart.
        let ended =
            |at: &usize| calls[*at].vmid() == Some(vmid) && calls[*at].phase() == "backup-end";
        if call.phase() == "backup-end" {
            steps.push(Step::Unlock(vmid));
        } else if self.failed_after(call, next)
            && !self.mine.iter().any(|mine| *mine < at && ended(mine))
        {
            steps.extend([Step::ArchiveFails(at), Step::Unlock(vmid)]);
        }
        steps
    }

    /// Whether the backup failed between these two calls.
    fn failed_after(&self, call: &Call, next: Option<&Call>) -> bool {
        let began =
            |call: &Call| !matches!(call.phase(), "backup-end" | "log-end" | "backup-abort");
        let Some(next) = next.filter(|next| next.vmid() == call.vmid()) else {
            return false;
        };
        let again = call.phase() == "pre-restart" && next.phase() == "pre-restart";
        let abort = matches!(next.phase(), "backup-abort" | "log-end") && began(call);
        let stop = call.mode() == Some("stop") && next.phase() == "pre-restart" && began(call);
        again || abort || stop
    }
}

/// What vzdump has done just before a call, as the kind of call shows.
fn before(at: usize, call: &Call, previous: Option<&Call>) -> Vec<Step> {
    let first = previous.is_none_or(|previous| previous.vmid() != call.vmid());
    match call.phase() {
        "backup-end" => vec![Step::ArchiveEnds(at)],
        "log-end" => vec![Step::LogFile(at)],
        // A job that waits for the node has only called job-init so far.
        "job-start" if first && previous.is_none() => vec![Step::TakeNodeLock],
        _ => Vec::new(),
    }
}

fn gap(call: &Call, next: Option<&Call>) -> Duration {
    match (call.time(), next.and_then(Call::time)) {
        (Some(from), Some(to)) => to.saturating_sub(from).min(LONGEST_PAUSE),
        _ => LONGEST_PAUSE,
    }
}

impl Jobs {
    /// The mode in which a guest is backed up, where a call tells.
    pub fn mode_of(&self, vmid: u32) -> Option<String> {
        let call = self.calls.iter().find(|call| call.vmid() == Some(vmid));
        call.and_then(Call::mode).map(str::to_owned)
    }
}
