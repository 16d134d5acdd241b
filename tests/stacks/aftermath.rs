//! What is said and left of a backup after it, or after it was killed.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde_json::Value;
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
