use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::budget::{Budget, SPENT};
use super::{GuestDuty, LOCK_LIMIT};
use crate::config::{OnError, Settings};
use crate::guest::State;
use crate::identity;
use crate::journal::{Actor, VerifyOutcome, VerifyStart, VerifyState};
use crate::pve::{Place, vzdump_conf};
use crate::quiesce::{self, BroughtBack, Errand, Noted, Quiesced};
use crate::report::lines::{self, say};
use crate::run::{Archive, By, GuestBefore, Run, Runs};
use crate::sys::{Root, clock, failpoint, look, signal};
use crate::verify;
use crate::vzdump::{Call, GuestType, Job, Mode, Phase, Subject, TaskLog};

/// How long post-restart tries before it leaves the rest to the guard.
const RESUME_LIMIT: Duration = Duration::from_secs(120);

/// The limit for starting what an earlier backup left stopped; then it is set aside, so that this
/// backup can be made.
const LEFTOVER_LIMIT: Duration = Duration::from_secs(30);

/// How long to wait for the engine of a guest that was just started (stop mode).
const ENGINE_WAIT: Duration = Duration::from_secs(90);

/// For a check of containers that are not back since an earlier backup.
const LEFT_LIMIT: Duration = Duration::from_secs(5);

/// How long to wait for what a container needs before its start (a healthy database). Most need
/// less; after that the guard goes on.
const CONDITION_WAIT: Duration = Duration::from_secs(5);

/// The Stop button sends SIGKILL after 5 s.
const INTERRUPTED_LIMIT: Duration = Duration::from_secs(3);

/// One call of the hook about one guest.
pub struct GuestCall<'a> {
    pub root: &'a Root,
    pub settings: &'a Settings,
    pub job: Job,
    pub call: &'a Call,
    pub subject: &'a Subject,
    /// How long vzdump may wait for this guest.
    pub budget: Budget,
}

impl GuestCall<'_> {
    /// Does what is due while holding the guest's lock, and returns the exit status.
    pub fn perform(&self, due: &[GuestDuty]) -> u8 {
        let vmid = self.subject.vmid;
        let runs = Runs::of(self.root);
        let _keeping = look::keep();
        let _lock = match runs.lock_first(vmid, self.budget.lock_deadline(LOCK_LIMIT)) {
            Ok(lock) => lock,
            Err(error) => return self.left_to_others(due, &error),
        };
        let mut run = match runs.load(vmid) {
            Ok(Some(run)) if run.job == self.job && !due.contains(&GuestDuty::OpenRun) => run,
            // Its guard ended the run while this hook waited for the lock. Nobody would end a new one.
            Ok(None) if !self.job.worker.alive() => {
                return self.left_to_others(due, &anyhow::anyhow!("vzdump ended meanwhile"));
            }
            Ok(None) => self.new_run(),
            // A run of another backup, or one that cannot be read: that has to end first.
            Ok(Some(_)) | Err(_) => match self.end_other_run() {
                Ok(()) => self.new_run(),
                Err(error) => return self.left_to_others(due, &error),
            },
        };
        self.complete(&mut run);
        let mut status = 0;
        for duty in due {
            match self.duty(*duty, &mut run) {
                Ok(code) => status = status.max(code),
                Err(error) => say(&format!("{}: {error:#}", run.guest())),
            }
        }
        status
    }

    /// Another process is working on this guest. A later phase sees that this one has not looked at
    /// it.
    fn left_to_others(&self, due: &[GuestDuty], error: &anyhow::Error) -> u8 {
        say(&format!(
            "guest {}: nothing is done here, another process is working on it: {error:#}",
            self.subject.vmid
        ));
        let refused =
            due.contains(&GuestDuty::Quiesce) && self.settings.quiesce.on_error == OnError::Fail;
        u8::from(refused)
    }

    fn duty(&self, duty: GuestDuty, run: &mut Run) -> Result<u8> {
        match duty {
            GuestDuty::OpenRun => self.open(run)?,
            GuestDuty::Quiesce => return Ok(self.quiesce(run)),
            GuestDuty::NoteRunning => return Ok(self.note_running(run)),
            GuestDuty::SeeRunning => run.guest_before = GuestBefore::Running,
            GuestDuty::DataCopied => self.data_copied(run),
            GuestDuty::Resume => self.resume(run),
            GuestDuty::NoteComplete => run.archive = Archive::Complete,
            GuestDuty::StartVerify => self.start_verify(run)?,
            GuestDuty::NoteFailure => run.archive = Archive::Failed(self.failure()),
            GuestDuty::JournalRun => return self.journal(run).map(|()| 0),
        }
        if matches!(
            duty,
            GuestDuty::SeeRunning
                | GuestDuty::NoteComplete
                | GuestDuty::StartVerify
                | GuestDuty::NoteFailure
        ) {
            Runs::of(self.root).save(run)?;
        }
        Ok(0)
    }

    /// Ends a run of another job for this VMID, if that job is dead: its containers are started,
    /// and it is journalled.
    fn end_other_run(&self) -> Result<()> {
        let runs = Runs::of(self.root);
        let vmid = self.subject.vmid;
        if let Ok(Some(other)) = runs.load(vmid)
            && other.job != self.job
            && other.job.worker.alive()
            && !other.only_looks()
        {
            anyhow::bail!("another backup ({}) is at work on this guest", other.job.name());
        }
        let errand = Errand {
            by: Actor::JobStart,
            reason: "the next backup of the guest begins",
            close: true,
            run: None,
        };
        let deadline = self.budget.deadline(LEFTOVER_LIMIT);
        match quiesce::bring_back_locked(self.root, vmid, deadline, errand)? {
            BroughtBack::NotYet(why) => self.set_aside(&why),
            BroughtBack::Nothing
            | BroughtBack::All { .. }
            | BroughtBack::NotHere(_)
            | BroughtBack::Partly(_) => Ok(()),
        }
    }

    /// Closes the run of an earlier backup that cannot be finished, so that it does not block later
    /// ones.
    fn set_aside(&self, why: &str) -> Result<()> {
        let vmid = self.subject.vmid;
        let Some(mut run) = Runs::of(self.root).load(vmid)? else { return Ok(()) };
        if let Some(left) = quiesce::give_up(self.root, &mut run, why)? {
            anyhow::bail!("an earlier backup is not over: {left}");
        }
        say(&format!("guest {vmid}: closed the run of an earlier backup: {why}"));
        Ok(())
    }

    fn new_run(&self) -> Run {
        let mut run = Run::new(
            self.subject.vmid,
            self.subject.guest_type,
            self.job.clone(),
            self.subject.mode,
        );
        run.mode_asked = vzdump_conf::mode_asked(self.root, &self.job);
        if let Ok(Place::Here(config)) = Place::of(self.root, self.subject.vmid) {
            run.root_volume = config.root_volume;
            run.hostname = config.hostname;
        }
        let runs = match self.subject.guest_type {
            // vzdump calls pre-stop and post-restart only for a running guest; a stopped guest
            // always has mode stop.
            GuestType::Qemu => self.subject.mode != Mode::Stop,
            GuestType::Lxc => {
                State::of(self.root, self.subject.vmid).map_or(true, |state| state.is_running())
            }
        };
        if runs {
            run.guest_before = GuestBefore::Running;
        }
        run
    }

    /// Adds what only later phases know.
    fn complete(&self, run: &mut Run) {
        run.mode_used = self.subject.mode;
        for (known, said) in [
            (&mut run.hostname, &self.subject.hostname),
            (&mut run.target, &self.subject.target),
            (&mut run.storage, &self.call.storage),
        ] {
            if said.is_some() {
                known.clone_from(said);
            }
        }
    }

    fn open(&self, run: &Run) -> Result<()> {
        Runs::of(self.root).save(run)?;
        failpoint::reach(self.root, "opened");
        if run.guest_type == GuestType::Lxc
            && let Err(error) = identity::remember(self.root, run.vmid)
        {
            say(&format!(
                "cannot record the hardware addresses of {} as its own: {error:#}",
                run.guest()
            ));
        }
        Ok(())
    }

    fn quiesce(&self, run: &mut Run) -> u8 {
        run.pre_stop.look();
        let deadline = self.budget.deadline(Duration::MAX);
        self.see_left(deadline);
        let quiesced = match self.armed(run) {
            Ok(()) if self.budget.is_spent() => Quiesced::Disturbed(SPENT.to_string()),
            Ok(()) => quiesce::quiesce(self.root, self.settings, run, deadline),
            Err(error) => Quiesced::Disturbed(format!("{error:#}")),
        };
        let reason = match quiesced {
            Quiesced::Nothing(why) => {
                say(&format!("{} has nothing to bring to rest: {why}", run.guest()));
                run.note(why);
                self.save(run);
                return 0;
            }
            Quiesced::AtRest if self.job.worker.alive() && !signal::asked_to_stop() => {
                if let Some(quiesce) = &run.quiesce {
                    say(&lines::at_rest(quiesce));
                }
                run.notes.iter().for_each(|note| say(note));
                return 0;
            }
            Quiesced::AtRest => "vzdump ended meanwhile".to_string(),
            Quiesced::Disturbed(reason) => reason,
        };
        run.disturb(reason.clone());
        let touched = run.is_open();
        if let Some(quiesce) = run.quiesce.as_mut() {
            quiesce.give_up(clock::boot_ms());
        }
        // From now on every other process knows that everything has to be started again.
        self.save(run);
        let fail = self.settings.quiesce.on_error == OnError::Fail;
        let what = if fail { "it is not backed up" } else { "its backup will be crash-consistent" };
        say(&format!("{} could not be brought to rest, {what}: {reason}", run.guest()));
        if touched {
            let limit = if signal::asked_to_stop() { INTERRUPTED_LIMIT } else { RESUME_LIMIT };
            self.bring_back(run, limit, Duration::ZERO);
        }
        u8::from(fail)
    }

    /// Starts the guard before anything is stopped: then its start adds no downtime, and it can
    /// also bring back the guest itself. It reads the run from disk.
    fn armed(&self, run: &Run) -> Result<()> {
        Runs::of(self.root)
            .save(run)
            .context("nothing can be written down, so nothing is stopped")?;
        quiesce::arm(self.root, run)
    }

    /// Checks whether somebody has started the containers that an earlier backup left not back, so
    /// that they are no longer reported.
    fn see_left(&self, deadline: Instant) {
        if self.budget.is_spent() {
            return;
        }
        let deadline = deadline.min(clock::instant() + LEFT_LIMIT);
        if let Err(error) = quiesce::sight_locked(self.root, self.subject.vmid, deadline) {
            say(&format!("guest {}: {error:#}", self.subject.vmid));
        }
    }

    fn note_running(&self, run: &mut Run) -> u8 {
        run.pre_stop.look();
        run.guest_before = GuestBefore::Running;
        if let Err(error) = self.armed(run) {
            say(&format!("{}: {error:#}", run.guest()));
        }
        let deadline = self.budget.deadline(Duration::MAX);
        self.see_left(deadline);
        let noted = match self.budget.is_spent() {
            true => Err(anyhow::anyhow!(SPENT)),
            false => quiesce::note_running(self.root, self.settings, run, deadline),
        };
        match noted {
            Ok(Noted::Written(warning)) => {
                let containers = run.quiesce.as_ref().map_or(0, |quiesce| quiesce.steps.len());
                let containers = crate::sys::text::count(containers, "running container");
                say(&format!("wrote down {containers}; they are started again after the shutdown"));
                if let Some(warning) = warning {
                    say(&format!("WARNING: {} is shut down all the same: {warning}", run.guest()));
                }
            }
            Ok(Noted::Nothing(why)) => run.note(why),
            Ok(Noted::Refused(why)) => {
                say(&format!("{} is not backed up: {why}", run.guest()));
                run.disturb(why);
                self.save(run);
                return 1;
            }
            Err(error) => {
                let note = format!(
                    "cannot determine what runs; after the shutdown the engine's restart policies \
                     decide: {error:#}"
                );
                say(&note);
                run.note(note);
            }
        }
        match self.job.worker.alive() {
            true => run.shutdown.hand_over(clock::boot_ms()),
            false => run.shutdown.withhold(clock::boot_ms()),
        }
        self.save(run);
        0
    }

    fn data_copied(&self, run: &mut Run) {
        // An interrupted vzdump may call post-restart while the guest is still shutting down.
        let returned = self.call.phase == Phase::PostRestart
            && (!run.subject_to_stop() || run.shutdown.was_down());
        if run.subject_to_stop() {
            // Here the guest is down until its archive is complete; later calls see it running
            // again.
            match State::of(self.root, run.vmid) {
                Ok(State::Stopped) => run.shutdown.see_down(),
                Ok(State::Running(_)) => run.shutdown.start(clock::boot_ms()),
                Err(_) => {}
            }
        } else if !run.data_copy.is_done() && run.is_at_rest() {
            // Done together with the first request to the engine, so that it adds no downtime.
            run.proof.fall_due();
        }
        match returned {
            true => run.data_copy.return_guest(),
            false => run.data_copy.done(),
        }
    }

    fn resume(&self, run: &mut Run) {
        if self.budget.is_spent() {
            // What this phase says of the guest is what its guard goes by.
            self.save(run);
            if run.is_open() {
                say(&format!("{} is not back yet, its guard goes on: {SPENT}", run.guest()));
            }
            return;
        }
        if !run.is_open() {
            quiesce::look_again(self.root, run, self.budget.deadline(RESUME_LIMIT));
        }
        let up_again = run.quiesce.as_ref().is_some_and(|quiesce| quiesce.by == By::GuestShutdown);
        let wait = if up_again { ENGINE_WAIT } else { Duration::ZERO };
        if run.is_open() {
            self.bring_back(run, RESUME_LIMIT, wait);
        } else if run.subject_to_stop() {
            // How long the guest was down is known though nothing ran in it.
            self.save(run);
        }
    }

    fn bring_back(&self, run: &mut Run, limit: Duration, engine_wait: Duration) {
        let known = run.notes.len();
        let deadline = self.budget.deadline(limit);
        let left_of_it = self.budget.left();
        let condition_wait = match self.call.phase {
            Phase::PostRestart => CONDITION_WAIT.min(left_of_it),
            _ => Duration::ZERO,
        };
        let engine_wait = engine_wait.min(left_of_it);
        let left = quiesce::resume(self.root, run, deadline, engine_wait, condition_wait);
        self.save(run);
        run.notes.iter().skip(known).for_each(|note| say(note));
        match left {
            None => lines::back(self.root, run).iter().for_each(|line| say(line)),
            Some(why) => say(&format!("{} is not back yet, its guard goes on: {why}", run.guest())),
        }
    }

    fn start_verify(&self, run: &mut Run) -> Result<()> {
        let asked = self.budget.without(|| verify::start(self.root, self.settings, run));
        let started = match asked {
            Ok(None) => {
                say(&self.graded(run));
                return Ok(());
            }
            Ok(Some(started)) => started,
            Err(error) => VerifyStart {
                state: VerifyState::NotStarted(VerifyOutcome::Unknown).into(),
                upid: None,
                reason: Some(format!("{error:#}")),
            },
        };
        let reason = started.reason.as_deref().unwrap_or("no reason is known");
        let verify = match (started.state.known(), &started.reason) {
            (Some(VerifyState::Started), None) => {
                "its verify has started on the backup server".to_string()
            }
            (Some(VerifyState::Started), Some(_)) => format!("it is being verified: {reason}"),
            (Some(VerifyState::Queued), _) => format!("its verify is queued: {reason}"),
            (Some(VerifyState::NotDue), _) => format!("it is not verified now: {reason}"),
            _ => format!("its verify could not be started yet: {reason}"),
        };
        say(&format!("{}; {verify}", self.graded(run)));
        run.verify = Some(started);
        Ok(())
    }

    fn graded(&self, run: &Run) -> String {
        match quiesce::grade(run) {
            (Some(grade), reasons) if reasons.is_empty() => {
                format!("the grade of this backup is {grade}")
            }
            (Some(grade), reasons) => {
                format!("the grade of this backup is {grade} ({})", reasons.join("; "))
            }
            (None, _) => "this backup failed".to_string(),
        }
    }

    fn failure(&self) -> String {
        self.task_log()
            .and_then(|log| log.failure_of(self.subject.vmid))
            .unwrap_or_else(|| "vzdump gives no reason".to_string())
    }

    fn journal(&self, run: &mut Run) -> Result<()> {
        if run.archive == Archive::Pending {
            // Neither backup-end nor backup-abort could be recorded; vzdump's task log has the
            // result.
            let finished = self.task_log().is_some_and(|log| log.is_finished(run.vmid));
            run.archive =
                if finished { Archive::Complete } else { Archive::Failed(self.failure()) };
        }
        if let Some(words) = quiesce::went_down(self.root, self.settings, run) {
            say(&words);
            run.note(words);
        }
        if self.budget.is_spent() {
            quiesce::journal(self.root, run)?;
            return quiesce::watch_again(self.root, run.vmid);
        }
        quiesce::look_for_removed(self.root, run, self.budget.deadline(LEFT_LIMIT));
        match quiesce::finish(self.root, run)? {
            None if !run.is_looked_at() => Ok(()),
            _ => quiesce::watch_again(self.root, run.vmid),
        }
    }

    fn task_log(&self) -> Option<TaskLog> {
        TaskLog::read(self.root, self.job.upid.as_ref()?).ok()
    }

    /// A failed save is only logged; resuming goes on.
    fn save(&self, run: &Run) {
        if let Err(error) = Runs::of(self.root).save(run) {
            say(&format!("{}: {error:#}", run.guest()));
        }
    }
}
