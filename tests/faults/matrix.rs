//! Every combination of what dies, at which step and in which mode.

use std::collections::BTreeMap;

use anyhow::Result;
use stillpoint_sim::vzdump::replay::{Moment, Options, Victim, replay};
use stillpoint_sim::vzdump::report::Report;

use super::harness::{Case, Ended, Weight};
use super::promise::Promise;
use super::scene::{PATIENCE, Scene, kill, recording, wait_for};

/// The recordings, one for each mode.
pub const MODES: [&str; 4] =
    ["lxc-snapshot-1vol", "lxc-snapshot-2vol", "lxc-suspend", "lxc-stop-running"];

const STOP: &str = "lxc-stop-running";

const VICTIMS: [Victim; 7] = [
    Victim::Hook,
    Victim::Guard,
    Victim::HookAndGuard,
    Victim::Worker,
    Victim::Group,
    Victim::StopButton,
    Victim::Everything,
];

/// Failpoints that one run of the hook, or its guard, passes.
const POINTS: [&str; 7] =
    ["opened", "planned", "noted", "armed", "guard-armed", "journalled", "closing"];

/// Phases in which vzdump may die before the hook has found out who called it.
const CALLED: [&str; 4] = ["pre-stop", "post-restart", "backup-end", "log-end"];

/// Failpoints of the test whether containers start, which comes before anything is stopped.
const TRIED: [&str; 3] = ["try-expected", "try-created", "try-started"];

/// Failpoints that are passed for each container.
const EACH: [&str; 4] = ["started", "start-confirmed", "stop-requested", "stop-confirmed"];

/// A point in the backup.
#[derive(Clone, Copy, Debug)]
pub enum Boundary {
    Failpoint(&'static str, usize),
    Moment(&'static str, Moment),
}

/// What starts the containers again when everything has died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// The node lost power and boots.
    Boot,
    /// The same, and the guest's hookscript is called when the guest starts.
    BootWithHookscript,
    /// The node lives, and the next job begins, for another guest.
    NextJob,
}

/// One fault.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    pub mode: &'static str,
    pub boundary: Boundary,
    pub victim: Victim,
    pub after: After,
}

pub fn cases() -> Vec<Case> {
    let mut faults = Vec::new();
    for mode in MODES {
        for boundary in boundaries(mode) {
            for victim in VICTIMS.into_iter().filter(|victim| fits(boundary, *victim)) {
                for after in ways_back(victim) {
                    faults.push(Fault { mode, boundary, victim, after: *after });
                }
            }
        }
    }
    let case = |fault: Fault| Case {
        fault: fault.row(),
        name: fault.name(),
        weight: fault.weight(),
        run: Box::new(move || fault.run()),
    };
    faults.into_iter().map(case).collect()
}

fn boundaries(mode: &str) -> Vec<Boundary> {
    let stop = mode == STOP;
    let mut all = Vec::new();
    for point in POINTS {
        all.push(Boundary::Failpoint(point, 1));
    }
    for phase in CALLED {
        all.push(Boundary::Failpoint(phase, 1));
    }
    if !stop {
        all.push(Boundary::Failpoint("proven", 1));
    }
    for point in TRIED {
        all.push(Boundary::Failpoint(point, 1));
    }
    for point in EACH {
        // In stop mode Stillpoint stops nothing.
        if !(stop && point.starts_with("stop-")) {
            // The web service waits for the database; the third may be recorded together with one
            // of them.
            let times = if point == "start-confirmed" { 2 } else { 3 };
            all.extend((1..=times).map(|nth| Boundary::Failpoint(point, nth)));
        }
    }
    if stop {
        all.push(Boundary::Moment("post-restart", Moment::Actions(1)));
    } else {
        for phase in ["pre-stop", "post-restart"] {
            all.extend((1..=3).map(|count| Boundary::Moment(phase, Moment::Actions(count))));
        }
    }
    for phase in [
        "job-init",
        "job-start",
        "backup-start",
        "pre-stop",
        "pre-restart",
        "post-restart",
        "backup-end",
        "log-end",
        "job-end",
    ] {
        all.push(Boundary::Moment(phase, Moment::End));
        if matches!(phase, "pre-stop" | "pre-restart" | "post-restart") {
            all.push(Boundary::Moment(phase, Moment::Working));
        }
    }
    all
}

/// Whether that victim exists at that point, and vzdump's further steps are known.
fn fits(boundary: Boundary, victim: Victim) -> bool {
    match boundary {
        Boundary::Failpoint(point, _) if CALLED.contains(&point) => victim == Victim::Worker,
        Boundary::Failpoint(..) | Boundary::Moment(_, Moment::Actions(_) | Moment::After(_)) => {
            true
        }
        Boundary::Moment("job-init" | "job-start" | "backup-start", _) => {
            matches!(victim, Victim::Worker | Victim::Group | Victim::StopButton)
        }
        Boundary::Moment(_, Moment::Working) => {
            matches!(victim, Victim::Guard | Victim::Worker | Victim::Group | Victim::Everything)
        }
        Boundary::Moment(..) => !matches!(victim, Victim::Hook | Victim::HookAndGuard),
    }
}

fn ways_back(victim: Victim) -> &'static [After] {
    match victim {
        Victim::Everything => &[After::Boot, After::BootWithHookscript, After::NextJob],
        _ => &[After::Boot],
    }
}

impl Fault {
    /// The row of the table.
    pub fn row(&self) -> String {
        let victim = match self.victim {
            Victim::Hook => "hook killed",
            Victim::Guard => "guard killed",
            Victim::HookAndGuard => "hook and guard killed",
            Victim::Worker => "vzdump killed",
            Victim::Group => "vzdump's process group killed",
            Victim::StopButton => "Stop button",
            Victim::Everything if self.after == After::NextJob => "everything killed, next job",
            Victim::Everything => "everything killed, node boots",
        };
        victim.to_owned()
    }

    /// A shutdown that vzdump may have requested just before it died is waited for: two minutes.
    pub fn weight(&self) -> Weight {
        if matches!(self.boundary, Boundary::Failpoint(point, _) if CALLED.contains(&point)) {
            return Weight::Always;
        }
        let interrupted = self.victim == Victim::StopButton;
        let died = matches!(self.victim, Victim::Worker | Victim::Group)
            || self.victim == Victim::Everything && self.after == After::NextJob;
        let before = match self.boundary {
            Boundary::Moment("pre-stop", moment) => moment != Moment::Working,
            // A hook that is interrupted there still runs to its end.
            Boundary::Failpoint("armed" | "guard-armed" | "planned" | "noted", _) => interrupted,
            Boundary::Failpoint(point, _) if TRIED.contains(&point) => interrupted,
            _ => false,
        };
        if self.mode == STOP && before && (died || interrupted) {
            Weight::Long
        } else {
            Weight::Sampled
        }
    }

    pub fn name(&self) -> String {
        let boundary = match self.boundary {
            Boundary::Failpoint(point, 1) => format!("at-{point}"),
            Boundary::Failpoint(point, nth) => format!("at-{point}#{nth}"),
            Boundary::Moment(phase, Moment::Actions(count)) => {
                format!("in-{phase}-after-{count}-actions")
            }
            Boundary::Moment(phase, Moment::After(time)) => {
                format!("in-{phase}-after-{}-ms", time.as_millis())
            }
            Boundary::Moment(phase, Moment::Working) => format!("while-vzdump-works-after-{phase}"),
            Boundary::Moment(phase, _) => format!("at-the-end-of-{phase}"),
        };
        let hookscript = if self.after == After::BootWithHookscript { "-hookscript" } else { "" };
        let row = self.row().replace([' ', ','], "-").replace('\'', "");
        format!("{row}{hookscript}-{boundary}-{}", self.mode)
    }

    /// Nothing was touched yet and there is no guard: the next job's start closes the run.
    fn is_before_the_guard(&self) -> bool {
        matches!(
            self.boundary,
            Boundary::Failpoint("opened" | "pre-stop", _)
                | Boundary::Moment("backup-start", _)
                | Boundary::Moment(_, Moment::After(_))
        )
    }

    /// Whether a guard may die at the end of a run, when its job is over and all is back.
    fn may_kill_after_the_job(&self) -> bool {
        matches!(self.victim, Victim::Guard | Victim::HookAndGuard)
            && matches!(
                self.boundary,
                Boundary::Failpoint("journalled" | "closing", _)
                    | Boundary::Moment("job-end", Moment::End)
            )
    }

    fn is_before_the_backup(&self) -> bool {
        matches!(
            self.boundary,
            Boundary::Moment("job-init" | "job-start", _)
                | Boundary::Moment("backup-start", Moment::After(_))
        )
    }

    pub fn run(&self) -> Result<Ended> {
        let hookscript = self.after == After::BootWithHookscript;
        self.run_in(&Scene::new(self.mode, &|guest| guest.hookscript = hookscript))
    }

    /// Runs the fault on this node.
    pub fn run_in(&self, scene: &Scene) -> Result<Ended> {
        let (phase, moment) = match self.boundary {
            Boundary::Failpoint(..) => ("", Moment::Failpoint),
            Boundary::Moment(phase, moment) => (phase, moment),
        };
        let mut options = Options {
            kills: vec![kill(phase, moment, self.victim)],
            env: self.env(),
            ..scene.options()
        };
        let everything = self.victim == Victim::Everything;
        let mut owed = true;
        if everything {
            options.settle = std::time::Duration::ZERO;
        }
        let report = scene.play_with(options);
        if let Boundary::Failpoint("closing", _) = self.boundary
            && scene.fault().is_err()
            && !report.runs_left.is_empty()
        {
            // A container that started slowly is still being watched: the guard ends the run after
            // this replay.
            let skipped = Some("the run was not ended in the job".to_owned());
            return Ok(Ended { skipped, ..Ended::default() });
        }
        scene.fault()?;
        let report = match (everything, self.after) {
            (false, _) => self.next_job_finds_the_rest(scene, report)?,
            (true, After::NextJob) => {
                let next = Options { settle: PATIENCE, ..Options::default() };
                let next = replay(&scene.node, &recording("lxc-stopped-guest"), &next)?;
                scene.report(Report { calls: report.calls, ..next })
            }
            (true, _) => {
                owed = scene.owes("cache");
                scene.node.power_cut()?;
                scene.mark_again();
                scene.node.boot()?;
                scene.node.recover()?;
                scene.wait_until_quiet()?;
                wait_for("the engine is up", || scene.engine().is_up())?;
                scene.report(report)
            }
        };
        let booted = everything && self.after != After::NextJob || self.mode == STOP;
        let begun = !self.is_before_the_backup();
        // After a power cut its own policy leaves it down, unless it was down because of a backup.
        let except: &[&str] = if owed { &[] } else { &["cache"] };
        Promise { booted, begun, except, ..Promise::of(scene, &report) }.kept()
    }

    fn next_job_finds_the_rest(&self, scene: &Scene, report: Report) -> Result<Report> {
        let untouched = report.containers.iter().all(|c| c.stops + c.pauses == 0);
        let early = self.is_before_the_guard() && untouched;
        if report.runs_left.is_empty() || !early && !self.may_kill_after_the_job() {
            return Ok(report);
        }
        scene.node.recover()?;
        scene.wait_until_quiet()?;
        Ok(scene.report(report))
    }

    fn env(&self) -> BTreeMap<String, String> {
        let point = match self.boundary {
            Boundary::Failpoint(point, 1) => format!("{point}=halt"),
            Boundary::Failpoint(point, nth) => format!("{point}#{nth}=halt"),
            Boundary::Moment(..) => return BTreeMap::new(),
        };
        [("STILLPOINT_FAILPOINT".to_owned(), point)].into()
    }
}
