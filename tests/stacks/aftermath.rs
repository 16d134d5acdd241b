//! What is said and left of a backup after it, or after it was killed.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde_json::Value;
use stillpoint_sim::engine::container::Spec;
use stillpoint_sim::vzdump::report::Report;

use crate::scene::{At, Scene};

fn record(scene: &Scene, kind: &str) -> Value {
    let records = scene.node.journal().unwrap();
    records.into_iter().find(|record| record["kind"] == kind).unwrap()
}

/// What the hook said in the task log.
fn said_in(report: &Report) -> String {
    report.calls.iter().flat_map(|call| call.said.clone()).collect::<Vec<_>>().join("\n")
}

/// When the hook was called or had returned, in the order of the phases.
fn times(scene: &Scene, moments: &[At]) -> Arc<Mutex<Vec<Instant>>> {
    let times = Arc::new(Mutex::new(Vec::new()));
    for at in moments {
        let times = Arc::clone(&times);
        scene.when(*at, move |_| times.lock().unwrap().push(Instant::now()));
    }
    times
}

#[test]
fn in_stop_mode_the_downtime_is_that_of_the_guest() {
    let scene = Scene::new("lxc-stop-running", &|_| {});
    let times = times(
        &scene,
        &[
            At::Called("pre-stop"),
            At::Called("backup-end"),
            At::Called("pre-restart"),
            At::Ended("post-restart"),
        ],
    );
    let report = scene.play(Vec::new());
    let times = times.lock().unwrap();
    let [asked, down, still_down, up] = times[..] else { panic!("{}", report.text()) };
    let said = u128::from(record(&scene, "backup")["downtime_ms"].as_u64().unwrap());
    assert!(said >= (still_down - down).as_millis(), "{said} ms: it was down for longer");
    assert!(said <= (up - asked).as_millis(), "{said} ms: it was not down for so long");
    assert!(said_in(&report).contains(", guest down for "), "{}", said_in(&report));
}

/// A backup of a guest with one container that does not stop by itself.
fn deaf(adjust: impl Fn(Spec) -> Spec) -> (Scene, String) {
    let container =
        Spec { ignores_sigterm: true, stop_timeout: Some(1), ..Spec::service("wiki", "slow") };
    let container = adjust(container);
    let scene = Scene::new("lxc-snapshot-1vol", &|guest| {
        guest.containers = vec![container.clone()];
        guest.engine.time_scale = 1.0;
    });
    let said = said_in(&scene.play(Vec::new()));
    (scene, said)
}

fn with_data(mut container: Spec) -> Spec {
    container.volumes = vec![("wiki".to_string(), "/data".to_string())];
    container
}

#[test]
fn a_killed_container_with_data_makes_the_backup_mixed() {
    const WORDS: &str = "slow did not stop within 1 s and was killed";
    let (scene, said) = deaf(with_data);
    let backup = record(&scene, "backup");
    assert_eq!((backup["grade"].as_str(), &backup["reasons"][0]), (Some("mixed"), &WORDS.into()));
    assert!(!backup["notes"].to_string().contains("did not stop"), "{backup}");
    let summary = said.lines().rfind(|line| line.contains("mixed backup")).unwrap();
    assert_eq!(summary.matches(WORDS).count(), 1, "{summary}");
    let check = scene.stillpoint(&["status", "--check"]);
    assert!(check.status.success(), "{check:?}");
}

#[test]
fn a_killed_container_that_bears_it_keeps_the_backup_clean() {
    let (without_data, _) = deaf(|container| container);
    let backup = record(&without_data, "backup");
    assert_eq!(backup["grade"], "clean");
    let notes = backup["notes"].to_string();
    assert!(notes.contains("slow did not stop within 1 s and was killed"), "{notes}");
    let (labelled, _) = deaf(|container| with_data(container).label("stillpoint.killed", "ok"));
    let backup = record(&labelled, "backup");
    assert_eq!((&backup["grade"], backup["notes"].to_string().as_str()), (&"clean".into(), "[]"));
}
