//! The guard: a process outside vzdump that brings everything back when vzdump no longer can.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::bring_back::{BroughtBack, Errand, bring_back};
use super::effort::SHUTDOWN_LIMIT;
use super::finish::{is_made, why_over};
use super::left;
use super::look_out::{self, look_once, stand_by};
use super::resume::await_engines;
use super::revive::{Left, left_behind, revive, still_locked, unlock_all};
use super::trial;
use crate::config::Settings;
use crate::guest::{State, way_to_start};
use crate::journal::{Actor, GuestAction};
use crate::report::log;
use crate::report::not_back::{Partly, all_back};
use crate::run::{self, By, Damaged, DataCopy, Run, Runs};
use crate::sys::{Root, clock, detach, failpoint, lock, text};
use crate::vzdump::{Mode, Vmid};

/// How often the guard checks the run while vzdump lives; the end of vzdump wakes it at once.
const LOOK: Duration = Duration::from_millis(500);

/// Pauses between attempts after vzdump died: growing, but short enough that no person would be
/// faster.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// One attempt to start everything: it may have to wait for the longest stop and a slow start.
const TRY_LIMIT: Duration = Duration::from_secs(120);

/// At most this many automatic revivals; then an admin has to act.
const MOST_REVIVALS: u32 = 3;

/// If a guest is not back by then, a mail is sent.
const PATIENCE: Duration = Duration::from_secs(120);

/// If that fails (a cluster without quorum), it is tried again, with pauses that grow up to this.
const LONGEST_FAILING_PAUSE: Duration = Duration::from_secs(60);

/// The time for an earlier run's guard to notice the new run; it may be waiting for an engine that
/// does not answer.
const SUCCESSION_LIMIT: Duration = Duration::from_secs(10);

/// Guards one guest's run until it is closed: starts the containers when the vzdump worker dies,
/// when the hook has given up, or when they were down longer than the hold limit. A guest has one
/// guard. Afterwards it tries what an earlier backup has set aside because its engine did not
/// answer, and sends the mail that the job had no time for.
pub fn guard(root: &Root, vmid: Vmid) -> Result<()> {
    let _only = match lock::take(&lock_of(root, vmid), clock::instant() + SUCCESSION_LIMIT) {
        Err(error) if error.kind() == io::ErrorKind::TimedOut => return Ok(()),
        // If the lock fails there may be two guards; giving up would leave none.
        other => other.ok(),
    };
    watch_over(root, vmid)?;
    see_to_left(root, vmid)?;
    // The job that left it may have had no time for it.
    match untold(root, vmid)? {
        true => {
            left::tell(root, vmid, "the backup is over", clock::instant() + TRY_LIMIT).map(drop)
        }
        false => Ok(()),
    }
}

/// Whether something is not back of which nobody was told, and no backup of the guest is under way that would tell of it.
fn untold(root: &Root, vmid: Vmid) -> Result<bool> {
    let left = run::Left::load(root, vmid)?;
    Ok(left.containers.iter().any(|left| !left.told)
        && matches!(Runs::of(root).load(vmid), Ok(None)))
}

/// Held by the guard of a guest as long as it lives.
fn lock_of(root: &Root, vmid: Vmid) -> PathBuf {
    root.path(&format!("/run/stillpoint/guard-{vmid}.lock"))
}

/// Starts a new guard for a run if its guard is dead.
pub fn watch_again(root: &Root, vmid: Vmid) -> Result<()> {
    match lock::take(&lock_of(root, vmid), clock::instant()) {
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(()),
        // The new guard takes the lock itself.
        other => {
            drop(other);
            watch(root, vmid)
        }
    }
}

fn watch_over(root: &Root, vmid: Vmid) -> Result<()> {
    let settings = Settings::load_bounded(root);
    let runs = Runs::of(root);
    let armed = clock::instant();
    failpoint::reach(root, "guard-armed");
    let mut looked = armed;
    let mut known: Option<Run> = None;
    let mut revivals = Revivals::new();
    loop {
        match (runs.load(vmid), &known) {
            (Ok(None), _) => return Ok(()),
            // The next backup has its own guard.
            (Ok(Some(run)), Some(known)) if run.id != known.id => return Ok(()),
            (Ok(Some(run)), _) => known = Some(run),
            // Damaged: bring_back handles it once vzdump is dead.
            (Err(error), None) if error.is::<Damaged>() => {
                return after_death(root, &settings, vmid, None);
            }
            (Err(_), _) => {}
        }
        let Some(run) = &known else {
            clock::sleep(LOOK);
            continue;
        };
        // Its backup is over, so it no longer matters whether vzdump lives.
        if run.journalled.is_done() && left_behind(root, run).is_none() {
            stand_by(root, vmid, &run.id)?;
            continue;
        }
        if !run.job.worker.alive() {
            return after_death(root, &settings, vmid, known);
        }
        if run.is_looked_at() && clock::since(looked) >= look_out::LOOK {
            // If this look fails, the next one follows.
            let _ = look_once(root, run);
            looked = clock::instant();
        }
        // Asked without the guest's lock, because the hook may need the lock meanwhile, and vzdump
        // waits for the hook.
        if let Some(reason) = due(&settings, run, armed).filter(|_| an_engine_answers(root, run)) {
            let errand =
                Errand { by: Actor::Guard, reason: &reason, close: false, run: Some(&run.id) };
            // The result is in the journal, and a failure is tried again at the next look.
            let _ = bring_back(root, vmid, clock::instant() + TRY_LIMIT, errand);
        }
        // vzdump continues with other guests; this one's lock is gone.
        if run.journalled.is_done()
            && let Some(left @ Left::Rebooting) = left_behind(root, run)
        {
            revivals.attempt(root, &settings, run, left);
        }
        match run.job.worker.watch() {
            Some(worker) => {
                worker.ended_within(LOOK);
            }
            None => clock::sleep(LOOK),
        }
    }
}

/// Whether an engine answers that has containers which are not back.
pub fn an_engine_answers(root: &Root, run: &Run) -> bool {
    let wanted = run.engines_of_open();
    let silent = await_engines(root, run.vmid, &wanted, &run.opened, clock::instant());
    silent.len() < wanted.len()
}

/// Why containers must be started although vzdump lives.
fn due(settings: &Settings, run: &Run, armed: Instant) -> Option<String> {
    let quiesce = run.quiesce.as_ref().filter(|_| run.is_open())?;
    let hold_limit = settings.quiesce.hold_limit;
    if run.data_copy == DataCopy::GuestReturned {
        return Some("not everything was back after the backup".to_string());
    }
    if quiesce.by != By::Stillpoint {
        return None;
    }
    if clock::since(armed) >= hold_limit {
        return Some(format!("they were held for {} s", hold_limit.as_secs()));
    }
    quiesce.rest.is_given_up().then(|| "the hook gave up bringing the guest to rest".to_string())
}

fn after_death(root: &Root, settings: &Settings, vmid: Vmid, known: Option<Run>) -> Result<()> {
    let died = clock::instant();
    failpoint::reach(root, "guard-woken");
    let runs = Runs::of(root);
    let id = known.as_ref().map(|run| run.id.clone());
    let reason = match &known {
        Some(run) => ended(root, run),
        None => "the run's file is damaged".to_string(),
    };
    let over = |run: &Run| run.journalled.is_done() || is_made(root, run);
    let after = match known.as_ref().is_some_and(over) {
        true => "after its backup",
        false => "after a backup that died",
    };
    let errand = Errand { by: Actor::Guard, reason: &reason, close: true, run: id.as_deref() };
    let mut pause = FIRST_PAUSE;
    let mut told = Told { after, ..Told::default() };
    let mut seen_down = false;
    let mut revivals = Revivals::new();
    loop {
        let run = match runs.load(vmid) {
            Ok(None) => return Ok(()),
            Ok(Some(run)) if id.as_ref().is_some_and(|id| *id != run.id) => return Ok(()),
            Ok(Some(run)) => Some(run),
            Err(_) => None,
        };
        seen_down |= matches!(State::of(root, vmid), Ok(State::Stopped));
        if run.as_ref().is_some_and(|run| may_still_go_down(run, died)) && !seen_down {
            clock::sleep(FIRST_PAUSE);
            continue;
        }
        let left = match bring_back(root, vmid, clock::instant() + TRY_LIMIT, errand) {
            // Its containers were back before its lock could be removed.
            Ok(BroughtBack::Nothing) if revivals.done > 0 => {
                tell_back(root, vmid, &reason, after, &back_before(run.as_ref()));
                return see_out(root, vmid, id.as_deref());
            }
            Ok(BroughtBack::Nothing) => return see_out(root, vmid, id.as_deref()),
            Ok(BroughtBack::All { started, all }) => {
                tell_back(root, vmid, &reason, after, &back(run.as_ref(), all, started));
                return see_out(root, vmid, id.as_deref());
            }
            Ok(BroughtBack::NotHere(why)) => {
                let subject = format!("Stillpoint: a backup of guest {vmid} died, and {why}");
                let message = format!("{reason}; {why}: nothing is left to bring back");
                log::alarm(root, vmid, &subject, &message);
                return Ok(());
            }
            Ok(BroughtBack::Partly(partly)) => {
                log::warning(vmid, &format!("{reason}; {}", partly.words(root)));
                told_of(root, vmid, &reason, after, &partly)?;
                return see_out(root, vmid, id.as_deref());
            }
            Ok(BroughtBack::NotYet(why)) => why,
            Err(error) => format!("{error:#}"),
        };
        if let Some(run) = run.as_ref()
            && let Some(left) = left_behind(root, run)
            && revivals.attempt(root, settings, run, left)
        {
            pause = FIRST_PAUSE;
        }
        told.tell(root, vmid, &reason, left, clock::since(died));
        clock::sleep(pause);
        pause = (pause * 3 / 2).min(LONGEST_PAUSE);
    }
}

/// Stays with a run that was brought back, as long as there is something to watch.
fn see_out(root: &Root, vmid: Vmid, id: Option<&str>) -> Result<()> {
    id.map_or(Ok(()), |id| stand_by(root, vmid, id))
}

/// The guard's attempts to thaw, start or unlock a guest.
struct Revivals {
    done: u32,
    pause: Duration,
    not_before: Instant,
}

impl Revivals {
    fn new() -> Revivals {
        Revivals { done: 0, pause: FIRST_PAUSE, not_before: clock::instant() }
    }

    /// Makes one attempt if one is due; returns whether it succeeded.
    fn attempt(&mut self, root: &Root, settings: &Settings, run: &Run, left: Left) -> bool {
        if self.done >= MOST_REVIVALS || clock::instant() < self.not_before {
            return false;
        }
        match revive(root, settings, run, left) {
            Ok(false) => false,
            Ok(true) => {
                self.done += 1;
                true
            }
            Err(error) => {
                self.pause = (self.pause * 2).min(LONGEST_FAILING_PAUSE);
                self.not_before = clock::instant() + self.pause;
                log::warning(run.vmid, &format!("{left}, and repairing that failed: {error:#}"));
                false
            }
        }
    }
}

/// Why the guard acts. It also acts when vzdump has ended normally but not everything was back.
fn ended(root: &Root, run: &Run) -> String {
    match run.journalled.is_done() || is_made(root, run) {
        true => "the backup is over".to_string(),
        false if !run.job.worker.is_of_this_boot() => why_over(run).to_string(),
        false => format!("vzdump (process {}) died", run.job.worker.pid),
    }
}

fn tell_back(root: &Root, vmid: Vmid, reason: &str, after: &str, back: &str) {
    let subject = format!("Stillpoint: guest {vmid} is back {after}");
    log::alarm(root, vmid, &subject, &format!("{reason}; {back}{}", still_locked(root, vmid)));
}

/// `the guest was unlocked and started; all 3 containers are back; 1 was started again`
fn back(run: Option<&Run>, all: usize, started: usize) -> String {
    let revived = run.map(revived).unwrap_or_default();
    match revived.is_empty() {
        true => all_back(all, started),
        false => format!("the guest was {revived}; {}", all_back(all, started)),
    }
}

/// `unlocked and started`
fn revived(run: &Run) -> String {
    let words: Vec<String> = run.revived.iter().map(ToString::to_string).collect();
    words.join(" and ")
}

/// The same where there was nothing more to bring back: containers that were back before the guest itself went down start,
/// or stay down, as after every start of it.
fn back_before(run: Option<&Run>) -> String {
    let started =
        |run: &&Run| run.mode_used != Mode::Stop && run.revived.contains(&GuestAction::Started);
    match run.filter(started) {
        Some(run) => {
            let revived = revived(run);
            format!(
                "the guest was {revived}; its containers were back before it went down, and start as at every start of it"
            )
        }
        None => {
            let (started, all) = run.map_or((0, 0), |run| (run.started(), run.back()));
            back(run, all, started)
        }
    }
}

/// Reports what is not back, and what has come back by itself meanwhile.
pub fn told_of(root: &Root, vmid: Vmid, reason: &str, after: &str, partly: &Partly) -> Result<()> {
    let locked = still_locked(root, vmid);
    let of = format!("{reason}; {}{locked}", partly.numbers());
    if left::tell(root, vmid, &of, clock::instant() + TRY_LIMIT)?.is_empty() {
        let subject = format!("Stillpoint: no container of guest {vmid} is missing {after}");
        let all = text::count(partly.all, "container");
        let message = format!(
            "{reason}; none of its {all} is missing: each is back, or somebody has stopped or \
             removed it{locked}"
        );
        log::alarm(root, vmid, &subject, &message);
    }
    Ok(())
}

/// Tries what was set aside because its engine did not answer, until the engine answers: its run is
/// closed, and nothing else waits for the engine.
fn see_to_left(root: &Root, vmid: Vmid) -> Result<()> {
    let (began, mut pause, mut told) = (clock::instant(), FIRST_PAUSE, false);
    // The next backup has its own guard.
    while matches!(Runs::of(root).load(vmid), Ok(None)) {
        let left = run::Left::load(root, vmid)?;
        if !left.containers.iter().any(|left| left.untried) {
            break;
        }
        // Asked without the lock, as long as the engine does not answer.
        let wanted = left.engines();
        let silent = await_engines(root, vmid, &wanted, &left.as_note().time, clock::instant());
        if silent.len() < wanted.len()
            && let Ok(_lock) = Runs::of(root).lock(vmid, clock::instant() + LOOK)
            && matches!(Runs::of(root).load(vmid), Ok(None))
        {
            let errand = (Actor::Guard, "its engine did not answer before");
            left::try_again(root, vmid, clock::instant() + TRY_LIMIT, errand)?;
        }
        if !told && clock::since(began) >= PATIENCE {
            told = true;
            left::tell(root, vmid, "the backup is over", clock::instant() + TRY_LIMIT)?;
        }
        let until = clock::instant() + pause;
        pause = (pause * 3 / 2).min(LONGEST_FAILING_PAUSE);
        while clock::instant() < until && matches!(Runs::of(root).load(vmid), Ok(None)) {
            clock::sleep(FIRST_PAUSE);
        }
    }
    Ok(())
}

/// What was already reported about a guest that is not back.
#[derive(Default)]
struct Told {
    after: &'static str,
    left: String,
    mailed: bool,
}

impl Told {
    /// Reports what is not back: once in the system's log, and once in a mail if it takes too long.
    fn tell(&mut self, root: &Root, vmid: Vmid, reason: &str, left: String, since: Duration) {
        let run = Runs::of(root).load(vmid).ok().flatten();
        let (what, how) = match run.is_none_or(|run| run.is_open()) {
            true => ("its containers are not back yet:", "NOT back"),
            false => ("its containers are back, but", "NOT as it was"),
        };
        if !self.mailed && since >= PATIENCE {
            self.mailed = true;
            let subject = format!("Stillpoint: guest {vmid} is {how} {}", self.after);
            let message = format!("{reason}; {what} {left}{}", way_out(root, vmid));
            log::alarm(root, vmid, &subject, &message);
        } else if left != self.left {
            log::warning(vmid, &format!("{reason}; {what} {left}"));
        }
        self.left = left;
    }
}

/// The command that starts a stopped guest, or removes the lock of a running one, as a sentence to
/// append.
pub fn way_out(root: &Root, vmid: Vmid) -> String {
    match way_to_start(root, vmid) {
        Some(command) => format!(". To start the guest: {command}"),
        None => still_locked(root, vmid),
    }
}

/// In stop mode, the shutdown that vzdump asked for may come after vzdump's death.
fn may_still_go_down(run: &Run, died: Instant) -> bool {
    run.mode_used == Mode::Stop
        && run.job.worker.is_of_this_boot()
        && run.shutdown.may_still_come()
        && !run.data_copy.is_done()
        && (clock::since(died) < SHUTDOWN_LIMIT || run.job.alive())
}

/// At boot: starts what runs of dead jobs left stopped, and tries what earlier backups could not
/// start. Returns a line for each guest with something to do; each guest has this much time.
pub fn recover(root: &Root, limit: Duration) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    trial::clean_up_all(root, Duration::ZERO);
    for vmid in Runs::of(root).guests()? {
        lines.extend(recover_guest(root, vmid, Actor::Recover, clock::instant() + limit));
    }
    lines.extend(recover_left(root, limit)?);
    lines.extend(unlock_all(root));
    Ok(lines)
}

/// Starts what a run of a dead job left stopped in a guest; if something is not back by then, a
/// guard takes over. A lock that remains is named too.
pub fn recover_guest(root: &Root, vmid: Vmid, by: Actor, deadline: Instant) -> Vec<String> {
    let mut lines = recovered_guest(root, vmid, by, deadline);
    if let Some(line) = lines.first_mut() {
        line.push_str(&still_locked(root, vmid));
    }
    lines
}

fn recovered_guest(root: &Root, vmid: Vmid, by: Actor, deadline: Instant) -> Vec<String> {
    let reason = match Runs::of(root).load(vmid) {
        Ok(Some(run)) if run.job.worker.alive() => return Vec::new(),
        Ok(Some(run)) => why_over(&run),
        Ok(None) => return Vec::new(),
        Err(_) => "the run's file is damaged",
    };
    let errand = Errand { by, reason, close: true, run: None };
    let brought_back = match clock::instant() < deadline {
        true => bring_back_and_unlock(root, vmid, deadline, errand),
        false => Ok(BroughtBack::NotYet("there was no time for it in this job".to_string())),
    };
    if matches!(Runs::of(root).load(vmid), Ok(Some(run)) if run.only_looks())
        && let Err(error) = watch(root, vmid)
    {
        return vec![format!("guest {vmid}: {error:#}")];
    }
    let left = match brought_back {
        Ok(BroughtBack::Nothing) => return Vec::new(),
        Ok(BroughtBack::All { started, .. }) if started > 0 => {
            let containers = text::count(started, "container");
            return vec![format!("guest {vmid}: started {containers} of an interrupted backup")];
        }
        Ok(BroughtBack::All { started, all }) => {
            let back = all_back(all, started);
            return vec![format!("guest {vmid}, after an interrupted backup: {back}")];
        }
        Ok(BroughtBack::NotHere(why)) => {
            return vec![format!("guest {vmid}, after an interrupted backup: {why}")];
        }
        Ok(BroughtBack::Partly(partly)) => {
            // The mail about the boot has this line.
            if by == Actor::Recover {
                let marked = left::mark_told(root, vmid);
                marked
                    .err()
                    .into_iter()
                    .for_each(|error| log::warning(vmid, &format!("{error:#}")));
            }
            let words = partly.words(root);
            return vec![format!("guest {vmid}, after an interrupted backup: {words}")];
        }
        Ok(BroughtBack::NotYet(why)) => why,
        Err(error) => format!("{error:#}"),
    };
    let mut lines =
        vec![format!("guest {vmid} still waits for containers of an interrupted backup: {left}")];
    if let Err(error) = watch(root, vmid) {
        lines.push(format!("guest {vmid}: {error:#}"));
    }
    lines
}

/// Tries what earlier backups could not start; returns a line for each guest with a result.
fn recover_left(root: &Root, limit: Duration) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for vmid in run::Left::guests(root)? {
        let before = run::Left::load(root, vmid).map_or(0, |left| left.containers.len());
        let deadline = clock::instant() + limit;
        let tried = Runs::of(root).lock(vmid, deadline).and_then(|_lock| {
            left::try_again(root, vmid, deadline, (Actor::Recover, "the node was started"))
        });
        match tried {
            Ok(left) if left.len() < before => {
                let back = text::count(before - left.len(), "container");
                lines.push(format!("guest {vmid}: {back} of an earlier backup back"));
            }
            Ok(_) => {}
            Err(error) => lines.push(format!("guest {vmid}: {error:#}")),
        }
    }
    Ok(lines)
}

/// Starts a guest's containers, and removes the lock of the dead backup, which would make the next
/// one fail. At a job's start and at boot, a guest that was left frozen or down is revived too,
/// because the next backup is made of its present state.
pub fn bring_back_and_unlock(
    root: &Root,
    vmid: Vmid,
    deadline: Instant,
    errand: Errand<'_>,
) -> Result<BroughtBack> {
    let runs = Runs::of(root);
    let before = runs.load(vmid).ok().flatten().map_or(0, |run| run.started());
    let mut brought_back = bring_back(root, vmid, deadline, errand)?;
    for _ in 0..MOST_REVIVALS {
        let Ok(Some(run)) = runs.load(vmid) else { break };
        let Some(left) = left_behind(root, &run) else { break };
        // A person is given the command that starts a guest, and thaws one before.
        if left != Left::Locked && errand.by == Actor::Person
            || clock::instant() >= deadline
            || !revive(root, &Settings::load(root), &run, left)?
        {
            break;
        }
        brought_back = match bring_back(root, vmid, deadline, errand)? {
            BroughtBack::Nothing => BroughtBack::All { started: 0, all: run.back() },
            other => other,
        };
        if let BroughtBack::All { started, .. } = &mut brought_back {
            let now = runs.load(vmid).ok().flatten().unwrap_or(run).started();
            *started = (*started).max(now.saturating_sub(before));
        }
    }
    Ok(brought_back)
}

/// Makes sure that a guest that is not back yet has a guard. If there is one already, the new one
/// ends by itself.
pub fn watch(root: &Root, vmid: Vmid) -> Result<()> {
    let unit = format!("stillpoint-guard-{vmid}-{}", text::token());
    detach::start(root, &unit, &["guard", &vmid.to_string()])
        .map(drop)
        .context("no guard could be started")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn one_mail_tells_of_a_guest_that_is_not_back_for_long() {
        let directory = std::env::temp_dir().join(format!("stillpoint-told-{}", text::token()));
        let root = Root::at(&directory);
        let (sendmail, mail) = (root.path("/usr/sbin/sendmail"), directory.join("mail"));
        fs::create_dir_all(directory.join("usr/sbin")).unwrap();
        fs::write(&sendmail, format!("#!/bin/sh\ncat >>'{}'\n", mail.display())).unwrap();
        fs::set_permissions(&sendmail, fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir_all(directory.join("guests/9001/root")).unwrap();
        fs::write(directory.join("guests/9001/running"), "").unwrap();
        let mut told = Told { after: "after its backup", ..Told::default() };
        let mut tell = |seconds, left: &str| {
            let since = Duration::from_secs(seconds);
            told.tell(&root, Vmid(9001), "vzdump (process 7) died", left.to_string(), since);
            fs::read_to_string(&mail).unwrap_or_default()
        };
        assert_eq!(tell(0, "its engine does not answer"), "");
        assert_eq!(tell(119, "its engine does not answer"), "");
        let first = tell(120, "its engine does not answer");
        assert_eq!(
            first,
            "To: root\nSubject: Stillpoint: guest 9001 is NOT back after its backup\n\n\
             guest 9001: vzdump (process 7) died; its containers are not back yet: its engine does \
             not answer\n\nHow the guests stand: stillpoint status\n"
        );
        assert_eq!(tell(900, "it is frozen"), first, "it is told once");
        fs::remove_dir_all(directory).unwrap();
    }
}
