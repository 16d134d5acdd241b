//! How long vzdump waits for one guest, whatever its engine does.

use std::time::Duration;

use stillpoint_sim::engine::Hostile;
use stillpoint_sim::node::Guest;
use stillpoint_sim::vzdump::replay::Options;
use stillpoint_sim::vzdump::report::Report;

use crate::scene::{At, Scene, runs, wait_for};

/// The limit for all phases together, on a busy machine; without a budget it would be several
/// minutes.
const BOUND: Duration = Duration::from_secs(60);

fn scene() -> Scene {
    let scene = Scene::new("lxc-snapshot-1vol", &|_| {});
    scene.settings("[quiesce]\nbudget = \"6s\"\n");
    scene
}

fn is_within(report: &Report) {
    let ms: u64 = report.calls.iter().map(|call| call.ms).sum();
    assert!(Duration::from_millis(ms) < BOUND, "{}", report.text());
    assert!(report.calls.iter().all(|call| call.exit == Some(0)), "{}", report.text());
}

fn says(report: &Report, phase: &str) -> String {
    let calls = report.calls.iter().filter(|call| call.argv[0] == phase);
    calls.flat_map(|call| call.said.clone()).collect::<Vec<_>>().join("\n")
}

fn all_run(guest: &Guest) -> bool {
    ["db", "cache", "web"].into_iter().all(|name| runs(guest, name))
}

#[test]
fn a_start_that_hangs_holds_up_the_job_for_no_longer_than_the_budget() {
    let scene = scene();
    let starts = |guest: &Guest, takes| {
        let engine = guest.engine.as_ref().unwrap();
        assert!(engine.modify("db", |db| db.spec.start_takes = takes));
    };
    scene.when(At::Ended("pre-stop"), move |guest| starts(guest, Duration::from_secs(3600)));
    scene.when(At::Ended("job-end"), move |guest| {
        // The volume's server is available again.
        starts(guest, Duration::ZERO);
        let engine = guest.engine.as_ref().unwrap();
        engine.recreate("db", true);
    });
    let report = scene.play(Vec::new());
    is_within(&report);
    let said = says(&report, "log-end");
    assert!(said.contains("quiesce.budget"), "{}", report.text());
    assert!(report.runs_left.is_empty() && all_run(scene.guest()), "{}", report.text());
    let backup = report.records("backup");
    assert_eq!((backup.len(), &backup[0]["outcome"]), (1, &"ok".into()), "{}", report.text());
}

/// The guard of an earlier backup works on the guest all the time.
#[test]
fn a_start_that_hangs_keeps_no_later_backup_from_being_made() {
    let scene = Scene::new("lxc-snapshot-1vol", &|_| {});
    scene.when(At::Ended("pre-stop"), |guest| {
        let engine = guest.engine.as_ref().unwrap();
        // It does not matter for the second backup.
        engine.modify("db", |db| db.spec.start_takes = Duration::from_secs(3600));
    });
    scene.settings("[quiesce]\nbudget = \"6s\"\n");
    scene.play_with(Options { settle: Duration::ZERO, ..scene.options() });
    assert!(scene.owes("db"), "it is not back after the first");
    scene.settings("");
    let release = scene.guest().clone();
    scene.when(At::Ended("job-end"), move |_| {
        let engine = release.engine.as_ref().unwrap();
        engine.recreate("db", true);
    });
    let report = scene.play(Vec::new());
    let said = report.calls.iter().flat_map(|call| call.said.clone()).collect::<Vec<_>>();
    assert!(!said.iter().any(|line| line.contains("left to others")), "{}", report.text());
    let backups = report.records("backup");
    assert_eq!(backups.len(), 2, "{}", report.text());
    assert_eq!((&backups[1]["outcome"], &backups[1]["grade"]), (&"ok".into(), &"clean".into()));
    assert!(report.runs_left.is_empty() && all_run(scene.guest()), "{}", report.text());
}

#[test]
fn an_engine_that_stops_to_answer_holds_up_the_job_for_no_longer_than_the_budget() {
    for hostile in [Hostile::Silent, Hostile::Trickle] {
        let scene = scene();
        let becomes = |guest: &Guest, hostile| {
            guest.engine.as_ref().unwrap().configure(|engine| engine.hostile = hostile);
        };
        let bad = hostile.clone();
        scene.when(At::Ended("pre-stop"), move |guest| becomes(guest, Some(bad.clone())));
        scene.when(At::Ended("job-end"), move |guest| becomes(guest, None));
        let report = scene.play(Vec::new());
        is_within(&report);
        let said = says(&report, "log-end");
        assert!(said.contains("quiesce.budget"), "{hostile:?}: {}", report.text());
        assert!(report.runs_left.is_empty() && all_run(scene.guest()), "{hostile:?}");
    }
}

#[test]
fn a_stack_that_takes_longer_than_half_of_the_budget_to_stop_is_brought_back() {
    let scene = scene();
    scene.engine().configure(|engine| engine.time_scale = 1.0);
    let slow = |db: &mut stillpoint_sim::engine::container::Container| {
        db.spec.stop_timeout = Some(30);
        db.spec.stop_takes = Duration::from_secs(8);
    };
    assert!(scene.engine().modify("db", slow));
    let report = scene.play(Vec::new());
    is_within(&report);
    let backup = report.records("backup");
    assert_eq!(backup[0]["grade"], "crash-consistent", "{}", report.text());
    assert!(report.runs_left.is_empty() && all_run(scene.guest()), "{}", report.text());
}

/// The engine is asked first what runs and in which versions.
#[test]
fn an_engine_that_never_says_what_it_is_holds_up_the_job_for_no_longer_than_the_budget() {
    let scene = scene();
    scene.engine().configure(|engine| engine.hostile = Some(Hostile::Secretive));
    let report = scene.play(Vec::new());
    is_within(&report);
    let pre_stop = report.calls.iter().find(|call| call.argv[0] == "pre-stop").unwrap();
    assert!(Duration::from_millis(pre_stop.ms) < Duration::from_secs(15), "{}", report.text());
    assert!(report.runs_left.is_empty() && all_run(scene.guest()), "{}", report.text());
}

/// What the phases have used so far is more than there is.
fn spend(scene: &Scene) -> impl Fn(&std::sync::Arc<Guest>) + Send + Sync + use<> {
    let file = scene.node.path("run/stillpoint/spent-9001.json");
    move |_| {
        let text = std::fs::read_to_string(&file).unwrap();
        let mut spent: serde_json::Value = serde_json::from_str(&text).unwrap();
        spent["ms"] = 3_600_000.into();
        std::fs::write(&file, spent.to_string()).unwrap();
    }
}

#[test]
fn a_guard_brings_back_at_once_what_is_stopped_when_the_budget_is_over() {
    let scene = Scene::new("lxc-snapshot-1vol", &|_| {});
    scene.when(At::Ended("pre-stop"), spend(&scene));
    scene.when(At::Called("log-end"), |guest| {
        wait_for("all containers run", || all_run(guest)).unwrap();
    });
    let report = scene.play(Vec::new());
    assert!(says(&report, "post-restart").contains("quiesce.budget"), "{}", report.text());
    assert!(report.runs_left.is_empty() && all_run(scene.guest()), "{}", report.text());
}

#[test]
fn what_is_not_back_is_told_also_where_the_job_has_no_time_left_for_it() {
    let scene = Scene::new("lxc-snapshot-1vol", &|_| {});
    scene.keep_mail();
    scene.when(At::Ended("pre-stop"), |guest| {
        assert!(guest.engine.as_ref().unwrap().remove("db").is_some());
    });
    scene.when(At::Ended("log-end"), spend(&scene));
    let report = scene.play(Vec::new());
    let said = says(&report, "job-end");
    assert!(said.contains("NOT back: db (it was removed"), "{}", report.text());
    wait_for("a mail", || scene.mail().contains("NOT back")).unwrap();
    assert_eq!(scene.mail().matches("Subject:").count(), 1, "{}", scene.mail());
}
