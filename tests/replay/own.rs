//! Runs that were not recorded.

use std::sync::Arc;

use serde_json::Value;
use stillpoint_sim::engine::stack::throwaway;
use stillpoint_sim::vzdump::replay::{Happening, Kill, Moment, Options, Victim};
use stillpoint_sim::vzdump::trace::{Call, Scenario};

use super::made::{at, killed_after, like, recording, second_guest};
use super::promise::{keeps_its_promises, node_for, played, played_on, played_with};

#[test]
fn the_beginning_of_another_job_changes_nothing() {
    let mut scenario = recording("lxc-snapshot-1vol");
    let alone = played(&scenario);
    let init = scenario.calls[0].clone();
    let mut second = scenario.calls[1..2].to_vec();
    second.extend(second_guest(&scenario, 9002));
    second.extend(scenario.calls.last().cloned());
    scenario.calls.insert(at(&scenario, "pre-restart"), init);
    scenario.calls.extend(second);
    let report = played(&scenario);
    keeps_its_promises(&report);
    assert_eq!(
        report.calls[4].job, 1,
        "the other job's job-init comes while the first is at its guest"
    );
    assert_eq!(report.instants[0].running, Vec::<String>::new());
    assert_eq!(report.records("backup")[0]["grade"], alone.records("backup")[0]["grade"]);
    for container in &report.containers {
        let times = usize::from(container.running_before);
        assert_eq!((container.stops, container.starts), (times, times), "{}", container.name);
    }
}

#[test]
fn a_virtual_machine_is_journalled_and_left_alone() {
    let mut scenario = recording("lxc-snapshot-pbs");
    scenario.task_log.clear();
    for call in scenario.calls.iter_mut().filter(|call| call.vmid().is_some()) {
        call.env.insert("VMTYPE".to_string(), "qemu".to_string());
        let target = call.env.get_mut("TARGET").unwrap();
        *target = target.replace("ct/", "vm/");
    }
    let report = played(&scenario);
    keeps_its_promises(&report);
    assert_eq!(report.records("backup")[0]["guest_type"], "qemu");
    assert_eq!(report.records("verify")[0]["outcome"], "ok");
}

#[test]
fn two_guests_of_one_job() {
    let mut scenario = recording("lxc-snapshot-1vol");
    let second = second_guest(&scenario, 9002);
    let end = at(&scenario, "job-end");
    scenario.calls.splice(end..end, second);
    let report = played(&scenario);
    keeps_its_promises(&report);
    assert_eq!(report.records("backup").len(), 2);
}

#[test]
fn an_unknown_phase_is_no_error() {
    let mut scenario = recording("lxc-suspend");
    for after in ["job-start", "pre-stop", "pre-restart", "backup-end"] {
        let at = at(&scenario, after);
        let call = like(&scenario.calls[at], "phase-of-the-future");
        scenario.calls.insert(at + 1, call);
    }
    keeps_its_promises(&played(&scenario));
}

#[test]
fn vzdump_dies_within_the_snapshot() {
    let line = "INFO: create storage snapshot";
    for name in ["lxc-snapshot-1vol", "lxc-snapshot-2vol"] {
        let report = played(&killed_after(recording(name), "pre-stop", line));
        assert_eq!(report.calls.len(), 4);
        keeps_its_promises(&report);
    }
}

#[test]
fn vzdump_dies_while_the_guest_is_frozen() {
    let line = "INFO: starting final sync";
    keeps_its_promises(&played(&killed_after(recording("lxc-suspend"), "pre-stop", line)));
}

#[test]
fn vzdump_dies_while_the_guest_is_down() {
    let line = "INFO: creating vzdump archive";
    let report = played(&killed_after(recording("lxc-stop-running"), "pre-stop", line));
    keeps_its_promises(&report);
    assert_eq!(report.guests[0].lock_after, None, "a guest that is locked can't be started");
}

#[test]
fn vzdump_dies_while_it_writes_the_archive() {
    let line = "INFO: creating";
    for name in ["lxc-snapshot-1vol", "lxc-snapshot-pbs", "lxc-suspend"] {
        keeps_its_promises(&played(&killed_after(recording(name), "post-restart", line)));
    }
}

#[test]
fn vzdump_dies_in_the_middle_of_the_resume() {
    for victim in [Victim::Hook, Victim::Worker, Victim::Group, Victim::Guard] {
        let kill =
            Kill { phase: "post-restart".into(), vmid: None, moment: Moment::Actions(1), victim };
        let options = Options { kills: vec![kill], ..Options::default() };
        let report = played_with(&recording("lxc-snapshot-1vol"), &options);
        assert_eq!(report.lost(), Vec::<String>::new(), "{victim:?}\n{}", report.text());
    }
}

#[test]
fn a_namespace_comes_from_the_storage() {
    let mut scenario = recording("lxc-snapshot-pbs");
    for line in &mut scenario.task_log {
        *line = line.replace("--repository", "--ns tenants/north --repository");
    }
    let report = played(&scenario);
    keeps_its_promises(&report);
    assert_eq!(report.pbs_tasks[0]["ns"], "tenants/north");
    assert_eq!(report.records("verify")[0]["outcome"], "ok");
}

#[test]
fn a_backup_server_that_is_down_fails_no_backup() {
    let scenario = recording("lxc-snapshot-pbs");
    let node = Arc::new(node_for(&scenario, &|_| {}));
    node.backup_server().unwrap().pbs.go_down();
    let its = Arc::clone(&node);
    let up_again = move |happening: &Happening| {
        if matches!(happening, Happening::Ended(call) if call.argv[0] == "job-end") {
            its.backup_server().unwrap().pbs.come_up().unwrap();
        }
    };
    let options = Options { observer: Some(Arc::new(up_again)), ..Options::default() };
    let report = played_on(&node, &scenario, &options);
    keeps_its_promises(&report);
    assert_eq!(report.records("backup")[0]["outcome"], "ok");
    let verifies = report.records("verify");
    let outcomes: Vec<&Value> = verifies.iter().map(|verify| &verify["outcome"]).collect();
    assert_eq!(outcomes, ["unreachable", "ok"], "{}", report.text());
}

#[test]
fn a_guest_that_is_locked_keeps_its_lock() {
    let mut scenario = recording("dumpdir-unwritable");
    for line in scenario.task_log.iter_mut().filter(|line| line.starts_with("ERROR: Backup of VM"))
    {
        *line = "ERROR: Backup of VM 9001 failed - CT is locked (backup)".to_string();
    }
    let report = played(&scenario);
    keeps_its_promises(&report);
    assert_eq!(report.guests[0].lock_after.as_deref(), Some("backup"));
}

#[test]
fn a_throwaway_container_is_never_stopped() {
    let scenario = recording("lxc-snapshot-1vol");
    let node = node_for(&scenario, &|guest| guest.containers.push(throwaway()));
    let report = played_on(&node, &scenario, &Options::default());
    keeps_its_promises(&report);
    let import = report.containers.iter().find(|container| container.name == "import").unwrap();
    assert_eq!(import.stops, 0);
}

#[test]
fn a_job_that_is_killed_is_followed_by_one_that_finds_the_lock() {
    let first = killed_after(recording("lxc-snapshot-1vol"), "pre-stop", "INFO: ionice priority");
    let second = recording("dumpdir-unwritable");
    let mut calls = first.calls.clone();
    let later = |call: &Call| Call { t: String::from("23:59:00.000"), ..call.clone() };
    calls.extend(second.calls.iter().map(later));
    let report = played(&Scenario { calls, ..first });
    assert_eq!(report.lost(), Vec::<String>::new(), "{}", report.text());
}
