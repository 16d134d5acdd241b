//! The commands in a container's labels.

use serde_json::Value;
use stillpoint_sim::engine::What;
use stillpoint_sim::node::{GuestSpec, Node};
use stillpoint_sim::vzdump::replay::Options;
use stillpoint_sim::vzdump::report::Report;

use super::made::recording;
use super::promise::{keeps_its_promises, node_for, played_on};

const DATABASE: &str = "db";

/// The engine's events for the database, in order, and the report of a backup with those labels.
fn played_with_labels(scenario: &str, labels: &[(&str, &str)]) -> (Vec<What>, Report) {
    let scenario = recording(scenario);
    let adjust = |guest: &mut GuestSpec| {
        let database = guest.containers.iter_mut().find(|spec| spec.name == DATABASE).unwrap();
        for (name, value) in labels {
            database.labels.insert(name.to_string(), value.to_string());
        }
    };
    let node = node_for(&scenario, &adjust);
    let report = played_on(&node, &scenario, &Options::default());
    keeps_its_promises(&report);
    (history(&node), report)
}

fn history(node: &Node) -> Vec<What> {
    let events = node.guest(9001).unwrap().engine.as_ref().unwrap().events();
    events.into_iter().filter(|event| event.name == DATABASE).map(|event| event.what).collect()
}

fn notes(report: &Report) -> String {
    let notes = report.records("backup")[0]["notes"].clone();
    notes.as_array().unwrap().iter().filter_map(Value::as_str).collect::<Vec<_>>().join("\n")
}

#[test]
fn one_runs_before_the_stop_and_one_after_the_start() {
    let labels = [("stillpoint.before", "pg_dumpall"), ("stillpoint.after", "echo back")];
    let (history, report) = played_with_labels("lxc-snapshot-1vol", &labels);
    assert_eq!(
        history,
        [What::Ran, What::StopAsked, What::Stopped(0), What::StartAsked, What::Started, What::Ran]
    );
    assert_eq!(report.records("backup")[0]["grade"], "clean");
}

#[test]
fn they_run_around_a_pause_and_around_nothing_at_all() {
    let labels = |strategy| {
        [
            ("stillpoint.quiesce", strategy),
            ("stillpoint.before", "begin"),
            ("stillpoint.after", "end"),
        ]
    };
    let (history, _) = played_with_labels("lxc-suspend", &labels("pause"));
    assert_eq!(history, [What::Ran, What::Paused, What::Unpaused, What::Ran]);
    let (history, _) = played_with_labels("lxc-snapshot-1vol", &labels("none"));
    assert_eq!(history, [What::Ran, What::Ran]);
}

#[test]
fn a_backup_whose_command_before_has_failed_is_not_called_clean() {
    let (history, report) =
        played_with_labels("lxc-snapshot-1vol", &[("stillpoint.before", "false")]);
    assert!(!history.contains(&What::StopAsked), "{history:?}");
    let record = &report.records("backup")[0];
    assert_eq!(record["grade"], "crash-consistent");
    let reason = record["reasons"][0].as_str().unwrap();
    assert!(reason.contains(DATABASE) && reason.contains("stillpoint.before"), "{reason}");
}

#[test]
fn a_command_after_that_fails_is_told() {
    let (history, report) =
        played_with_labels("lxc-snapshot-1vol", &[("stillpoint.after", "false")]);
    assert_eq!(history.last(), Some(&What::Ran));
    assert_eq!(report.records("backup")[0]["grade"], "clean");
    let notes = notes(&report);
    assert!(notes.contains(DATABASE) && notes.contains("stillpoint.after"), "{notes}");
}

#[test]
fn a_guest_that_is_shut_down_runs_neither_and_says_so() {
    let labels = [("stillpoint.before", "pg_dumpall"), ("stillpoint.after", "echo back")];
    let (history, report) = played_with_labels("lxc-stop-running", &labels);
    assert!(!history.contains(&What::Ran), "{history:?}");
    assert!(notes(&report).contains("stillpoint.before"), "{}", notes(&report));
}
