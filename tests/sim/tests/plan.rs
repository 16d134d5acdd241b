//! Tests of turning a recording into steps.

use std::path::Path;

use stillpoint_sim::vzdump::failure::after_failure;
use stillpoint_sim::vzdump::plan::{Jobs, Step, plan};
use stillpoint_sim::vzdump::trace::Scenario;

fn recording(name: &str) -> Scenario {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/vzdump/traces.json");
    Scenario::load(Path::new(file), name).unwrap()
}

/// The steps in words, without the pauses.
fn words(jobs: &Jobs, steps: &[Step]) -> Vec<String> {
    let say = |step: &Step| match step {
        Step::Pause(_) => None,
        Step::Call { call, sent } => {
            let phase = jobs.calls[*call].phase();
            Some(sent.map_or(phase.to_owned(), |sent| format!("{phase} {sent:?}")))
        }
        Step::ArchiveBegins(_) => Some("ArchiveBegins".to_owned()),
        Step::ArchiveEnds(_) => Some("ArchiveEnds".to_owned()),
        Step::ArchiveFails(_) => Some("ArchiveFails".to_owned()),
        Step::LogFile(_) => Some("LogFile".to_owned()),
        other => Some(format!("{other:?}").replace("(9001)", "").replace("9001, ", "")),
    };
    steps.iter().filter_map(say).collect()
}

fn steps(scenario: &Scenario) -> String {
    let jobs = plan(scenario);
    words(&jobs, &jobs.steps[0]).join(", ")
}

#[test]
fn snapshot() {
    assert_eq!(
        steps(&recording("lxc-snapshot-1vol")),
        "job-init, TakeNodeLock, job-start, Lock(\"backup\"), backup-start, pre-stop, Freeze, \
         Lock(\"snapshot\"), Instant, Thaw, Lock(\"backup\"), pre-restart, post-restart, \
         ArchiveBegins, ArchiveEnds, backup-end, Unlock, LogFile, log-end, job-end"
    );
}

#[test]
fn suspend_thaws_after_pre_restart() {
    assert_eq!(
        steps(&recording("lxc-suspend")),
        "job-init, TakeNodeLock, job-start, Lock(\"backup\"), backup-start, pre-stop, Freeze, \
         Instant, pre-restart, Thaw, post-restart, ArchiveBegins, ArchiveEnds, backup-end, Unlock, \
         LogFile, log-end, job-end"
    );
}

#[test]
fn stop_unlocks_before_it_starts_the_guest() {
    assert_eq!(
        steps(&recording("lxc-stop-running")),
        "job-init, TakeNodeLock, job-start, Lock(\"backup\"), backup-start, pre-stop, ShutDown, \
         Instant, ArchiveBegins, ArchiveEnds, backup-end, Unlock, pre-restart, Start, post-restart, \
         LogFile, log-end, job-end"
    );
}

#[test]
fn a_failing_pre_restart_leaves_the_guest_frozen() {
    assert_eq!(
        steps(&recording("hook-fails-in-pre-restart-suspend")),
        "job-init, TakeNodeLock, job-start, Lock(\"backup\"), backup-start, pre-stop, Freeze, \
         Instant, pre-restart, ArchiveFails, Unlock, backup-abort, LogFile, log-end, job-end"
    );
}

#[test]
fn the_stop_button_in_a_hook() {
    assert_eq!(
        steps(&recording("stop-button-in-pre-stop")),
        "job-init, TakeNodeLock, job-start, Lock(\"backup\"), backup-start, pre-stop Stop, \
         ArchiveFails, Unlock, backup-abort, LogFile, log-end, Lock(9003, \"backup\"), \
         backup-start, pre-stop KillGroup"
    );
}

#[test]
fn the_stop_button_while_the_guest_goes_down() {
    assert_eq!(
        steps(&recording("stop-button-in-archive-stop")),
        "job-init, TakeNodeLock, job-start, Lock(\"backup\"), backup-start, pre-stop, ShutDown, \
         Send(Stop), Hang"
    );
}

#[test]
fn a_sigkill_within_the_snapshot_leaves_it_frozen_and_locked() {
    let mut scenario = recording("kill9-in-pre-stop-snapshot");
    assert!(steps(&scenario).ends_with("pre-stop KillWorker"));
    for line in &mut scenario.task_log {
        if line.contains("sleeping") {
            *line = "INFO: create storage snapshot 'vzdump'".to_owned();
        }
    }
    assert!(steps(&scenario).ends_with("pre-stop, Freeze, Lock(\"snapshot\"), Send(KillWorker)"));
}

#[test]
fn the_command_tells_of_a_signal_that_the_log_does_not_mark() {
    let mut scenario = recording("kill9-in-pre-stop-snapshot");
    scenario.task_log.retain(|line| !line.starts_with("<<<"));
    assert!(steps(&scenario).ends_with("pre-stop KillWorker"));
}

#[test]
fn a_second_job_waits_for_the_node() {
    let mut scenario = recording("lxc-snapshot-1vol");
    let again = scenario.calls.clone();
    scenario.calls.insert(4, again[0].clone());
    scenario.calls.extend_from_slice(&again[1..]);
    let jobs = plan(&scenario);
    assert_eq!(jobs.steps.len(), 2);
    assert!(words(&jobs, &jobs.steps[0]).contains(&"BeginJob(1)".to_owned()));
    assert_eq!(words(&jobs, &jobs.steps[1])[..3], ["job-init", "TakeNodeLock", "job-start"]);
}

/// The remaining steps after the hook fails in that phase, unlike in the recording.
fn after(name: &str, phase: &str) -> String {
    let mut jobs = plan(&recording(name));
    let is =
        |step: &Step| matches!(step, Step::Call { call, .. } if jobs.calls[*call].phase() == phase);
    let at = jobs.steps[0].iter().position(is).unwrap();
    let Step::Call { call, .. } = jobs.steps[0][at] else { unreachable!() };
    let rest = jobs.steps[0][at + 1..].to_vec();
    let steps = after_failure(&mut jobs.calls, call, &rest);
    words(&jobs, &steps).join(", ")
}

#[test]
fn a_failing_hook_has_the_consequences_that_were_measured() {
    let give_up = "ArchiveFails, Unlock, backup-abort, log-end, job-end";
    assert_eq!(after("lxc-snapshot-1vol", "pre-stop"), give_up);
    assert_eq!(after("lxc-snapshot-1vol", "pre-restart"), give_up);
    assert_eq!(after("lxc-suspend", "post-restart"), give_up);
    let down = "LogFile, log-end, job-end";
    assert_eq!(after("lxc-stop-running", "pre-restart"), down);
    assert_eq!(after("lxc-stop-running", "post-restart"), down);
    let reported = "Unlock, LogFile, backup-abort, log-end, job-end";
    assert_eq!(after("lxc-snapshot-1vol", "backup-end"), reported);
    assert_eq!(after("lxc-snapshot-1vol", "job-start"), "job-abort");
    assert_eq!(after("lxc-snapshot-1vol", "job-end"), "job-abort");
    assert_eq!(after("lxc-snapshot-1vol", "job-init"), "");
}
