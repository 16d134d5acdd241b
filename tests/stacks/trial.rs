//! Containers that might not start again are never stopped.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use stillpoint_sim::engine::container::{Restart, Spec, Status};
use stillpoint_sim::engine::{Hostile, What};
use stillpoint_sim::vzdump::report::Report;

use crate::scene::{At, Scene, wait_for};

const WORDS: &str =
    "open sysctl net.ipv4.ip_unprivileged_port_start file: reopen fd 8: permission denied";
const LABEL: &str = "stillpoint.try";
const STACK: [&str; 3] = ["db", "cache", "web"];

fn snapshot() -> Scene {
    Scene::new("lxc-snapshot-1vol", &|_| {})
}

/// After an update in the guest, running containers keep running, and no container can be started.
fn break_starts(scene: &Scene) {
    scene.engine().configure(|engine| {
        engine.runc = "1.3.4".to_owned();
        engine.refuses_starts = Some(WORDS.to_owned());
    });
}

fn backup(scene: &Scene) -> (Report, Value) {
    let report = scene.play(Vec::new());
    let records = scene.node.journal().unwrap();
    let record = records.into_iter().rev().find(|record| record["kind"] == "backup");
    (report, record.unwrap())
}

fn running(scene: &Scene, name: &str) -> bool {
    let containers = scene.engine().containers();
    containers.iter().any(|c| c.spec.name == name && c.status == Status::Running)
}

fn stops(scene: &Scene) -> usize {
    STACK.iter().map(|name| scene.engine().count(name, What::StopAsked)).sum()
}

/// How many throwaway containers were made; checks that none is left.
fn tries(scene: &Scene) -> usize {
    let left = scene.engine().containers();
    assert!(!left.iter().any(|c| c.spec.labels.contains_key(LABEL)), "{left:#?}");
    scene.engine().made().len()
}

fn said(scene: &Scene, arguments: &[&str]) -> (i32, String) {
    let output = scene.stillpoint(arguments);
    let text = String::from_utf8(output.stdout).unwrap();
    (output.status.code().unwrap(), text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// The mails to root from now on.
fn mailbox(scene: &Scene) -> impl Fn() -> String {
    let (sendmail, mail) = (scene.node.path("usr/sbin/sendmail"), scene.node.path("tmp/mail"));
    let script = format!("#!/bin/sh\nexec /bin/cat >>{}\n", mail.display());
    fs::create_dir_all(sendmail.parent().unwrap()).unwrap();
    fs::create_dir_all(mail.parent().unwrap()).unwrap();
    fs::write(&sendmail, script).unwrap();
    fs::set_permissions(&sendmail, fs::Permissions::from_mode(0o755)).unwrap();
    move || fs::read_to_string(&mail).unwrap_or_default()
}

fn pre_stop(report: &Report) -> (Option<i32>, String) {
    let call = report.calls.iter().find(|call| call.argv[0] == "pre-stop").unwrap();
    (call.exit, call.said.join("\n"))
}

#[test]
fn an_engine_that_starts_nothing_any_more_is_asked_to_stop_nothing() {
    let scene = snapshot();
    let mail = mailbox(&scene);
    break_starts(&scene);
    let (report, record) = backup(&scene);
    assert_eq!(stops(&scene), 0, "{}", report.text());
    assert!(STACK.iter().all(|name| running(&scene, name)));
    assert_eq!(record["grade"], "crash-consistent", "{record:#}");
    assert!(record["reasons"].to_string().contains(WORDS), "{record:#}");
    assert!(pre_stop(&report).1.contains(WORDS), "{}", report.text());
    let first = mail();
    assert!(first.contains(WORDS) && first.contains("stillpoint try 9001"), "{first}");
    assert!(said(&scene, &["status"]).1.contains("permission denied"));
    assert_eq!(tries(&scene), 1);

    backup(&scene);
    assert_eq!(stops(&scene), 0);
    assert_eq!(mail().matches("Subject:").count(), 1, "it is told once: {}", mail());

    scene.engine().configure(|engine| engine.refuses_starts = None);
    let (_, record) = backup(&scene);
    assert_eq!(record["grade"], "clean", "{record:#}");
    assert!(STACK.iter().all(|name| running(&scene, name)));
}

#[test]
fn with_on_error_fail_such_a_guest_is_not_backed_up() {
    let scene = snapshot();
    scene.settings("[quiesce]\non-error = \"fail\"\n");
    break_starts(&scene);
    let report = scene.play(Vec::new());
    assert_eq!(pre_stop(&report).0, Some(1), "{}", report.text());
    assert_eq!(stops(&scene), 0);
}

#[test]
fn what_was_seen_to_start_is_not_tried_again() {
    let scene = snapshot();
    let (_, record) = backup(&scene);
    assert_eq!(record["grade"], "clean", "{record:#}");
    assert_eq!(tries(&scene), 1, "the first backup");
    backup(&scene);
    assert_eq!(tries(&scene), 1, "the same versions in the same start of the guest");
    scene.engine().configure(|engine| engine.runc = "1.3.4".to_owned());
    backup(&scene);
    assert_eq!(tries(&scene), 2, "another runtime");
    scene.engine().configure(|engine| engine.id = "another".to_owned());
    backup(&scene);
    assert_eq!(tries(&scene), 3, "another engine");
    let guest = scene.guest();
    guest.set_marker("running", false).unwrap();
    wait_for("the guest is down", || !scene.engine().is_up()).unwrap();
    guest.set_marker("running", true).unwrap();
    wait_for("the guest is up", || scene.engine().is_up()).unwrap();
    backup(&scene);
    assert_eq!(tries(&scene), 4, "another start of the guest");
}

#[test]
fn starting_what_a_backup_had_stopped_is_evidence_too() {
    let scene = snapshot();
    // Updated between the stop and the start.
    scene.when(At::Ended("pre-stop"), |guest| {
        let engine = guest.engine.as_ref().unwrap();
        engine.configure(|engine| engine.runc = "1.3.4".to_owned());
    });
    backup(&scene);
    assert_eq!(tries(&scene), 1);
    backup(&scene);
    assert_eq!(tries(&scene), 1, "runc 1.3.4 has started three containers");
}

#[test]
fn what_starts_no_more_is_no_evidence_any_longer() {
    let scene = snapshot();
    backup(&scene);
    // The same versions, but something else is broken now.
    scene.when(At::Ended("pre-stop"), |guest| {
        let engine = guest.engine.as_ref().unwrap();
        engine.configure(|engine| engine.refuses_starts = Some(WORDS.to_owned()));
    });
    let evidence = scene.node.path("var/lib/stillpoint/started/9001.json");
    let then = Arc::new(Mutex::new(String::new()));
    let seen = Arc::clone(&then);
    scene.when(At::Ended("job-end"), move |guest| {
        *seen.lock().unwrap() = fs::read_to_string(&evidence).unwrap();
        guest.engine.as_ref().unwrap().configure(|engine| engine.refuses_starts = None);
    });
    backup(&scene);
    let then: Value = serde_json::from_str(&then.lock().unwrap()).unwrap();
    assert_eq!(then["seen"][0]["started"], Value::Null, "{then:#}");
    assert!(STACK.iter().all(|name| running(&scene, name)));
}

#[test]
fn a_throwaway_container_is_nobodys_and_never_runs() {
    let scene = snapshot();
    backup(&scene);
    let made = scene.engine().made();
    let [it] = made.as_slice() else { panic!("{made:#?}") };
    assert!(it.spec.missing_program.as_ref().unwrap().starts_with("/stillpoint-try-"));
    assert_eq!(it.spec.labels["com.docker.compose.project"], "", "its image belongs to a stack");
    assert_eq!(it.spec.labels["com.docker.compose.service"], "");
    assert!(!it.spec.labels[LABEL].is_empty());
    assert_eq!((it.spec.restart, it.spec.auto_remove), (Restart::No, false));
    assert!(it.spec.image.starts_with("db") || it.spec.image.starts_with("redis"), "{it:?}");
    assert_eq!(scene.engine().count(&it.spec.name, What::Started), 0);
    assert_eq!(scene.engine().count(&it.spec.name, What::Removed), 1);
}

#[test]
fn without_an_image_to_try_with_nothing_is_stopped() {
    let scene = snapshot();
    scene.engine().configure(|engine| engine.no_images = true);
    let (_, record) = backup(&scene);
    assert_eq!(stops(&scene), 0);
    assert!(record["reasons"].to_string().contains("image"), "{record:#}");
}

#[test]
fn a_start_that_hangs_is_a_refusal_and_what_it_leaves_is_removed_later() {
    let scene = snapshot();
    scene.engine().configure(|engine| engine.hostile = Some(Hostile::DeafToStart));
    let (report, record) = backup(&scene);
    assert_eq!(stops(&scene), 0, "{}", report.text());
    assert_eq!(record["grade"], "crash-consistent", "{record:#}");
    scene.engine().configure(|engine| engine.hostile = None);
    let (_, record) = backup(&scene);
    assert_eq!(record["grade"], "clean", "{record:#}");
    assert_eq!(tries(&scene), 2);
}

#[test]
fn where_pausing_was_seen_to_end_well_containers_are_paused() {
    let scene = snapshot();
    scene.settings("[quiesce]\nstrategy = \"pause\"\n");
    break_starts(&scene);
    backup(&scene);
    assert_eq!(tries(&scene), 0, "nothing is to be stopped");
    scene.settings("");
    let (_, record) = backup(&scene);
    assert_eq!(record["grade"], "paused", "{record:#}");
    assert!(record["notes"].to_string().contains(WORDS), "{record:#}");
    assert_eq!(stops(&scene), 0);
    assert!(STACK.iter().all(|name| running(&scene, name)));
    assert!(said(&scene, &["status"]).1.contains("backups do not stop its containers"));
}

#[test]
fn by_its_setting_one_container_of_the_guest_is_the_try_and_no_other_is_touched() {
    let scene = snapshot();
    scene.settings("[quiesce]\ntry = \"container\"\n");
    break_starts(&scene);
    scene.when(At::Ended("job-end"), |guest| {
        let engine = guest.engine.as_ref().unwrap();
        engine.configure(|engine| engine.refuses_starts = None);
    });
    let (report, record) = backup(&scene);
    let web = (scene.engine().count("web", What::StopAsked), stops(&scene));
    assert_eq!(web, (1, 1), "web has no data, and nothing depends on it: {}", report.text());
    assert_eq!(record["grade"], "crash-consistent", "{record:#}");
    assert!(record["reasons"].to_string().contains(WORDS), "{record:#}");
    wait_for("its guard has brought it back", || running(&scene, "web")).unwrap();
}

#[test]
fn a_container_that_starts_again_is_evidence_for_the_others() {
    let scene = snapshot();
    scene.settings("[quiesce]\ntry = \"container\"\n");
    scene.engine().configure(|engine| engine.no_images = true);
    let (report, record) = backup(&scene);
    assert_eq!(record["grade"], "clean", "{}", report.text());
    assert_eq!(scene.engine().count("web", What::StopAsked), 2);
    assert_eq!(scene.engine().count("db", What::StopAsked), 1);
    assert!(STACK.iter().all(|name| running(&scene, name)));
    backup(&scene);
    assert_eq!(scene.engine().count("web", What::StopAsked), 3, "it is not tried again");
}

#[test]
fn a_person_can_try() {
    let scene = snapshot();
    let (status, text) = said(&scene, &["try", "9001"]);
    assert_eq!(status, 0, "{text}");
    assert!(
        text.contains("starts containers (Engine 29.0.1, containerd v2.1.5, runc 1.3.3"),
        "{text}"
    );
    break_starts(&scene);
    let (status, text) = said(&scene, &["try", "9001"]);
    assert_eq!(status, 1, "{text}");
    assert!(text.contains(WORDS), "{text}");
    let warned = "backups do not stop its containers";
    assert!(said(&scene, &["status"]).1.contains(warned));
    scene.engine().configure(|engine| engine.refuses_starts = None);
    assert_eq!(said(&scene, &["try", "9001"]).0, 0);
    assert!(!said(&scene, &["status"]).1.contains(warned), "it is mended");
    assert_eq!(stops(&scene), 0);
    assert_eq!(tries(&scene), 3);
}

#[test]
fn a_shutdown_that_may_be_the_last_is_warned_of_or_refused() {
    let scene = Scene::new("lxc-stop-running", &|_| {});
    break_starts(&scene);
    // The cause is fixed meanwhile, so that this test ends.
    scene.when(At::Ended("pre-stop"), |guest| {
        let engine = guest.engine.as_ref().unwrap();
        engine.configure(|engine| engine.refuses_starts = None);
    });
    let (report, record) = backup(&scene);
    let (exit, text) = pre_stop(&report);
    assert_eq!(exit, Some(0));
    assert!(text.contains("WARNING") && text.contains(WORDS), "{text}");
    assert!(record["notes"].to_string().contains(WORDS), "{record:#}");

    let scene = Scene::new("lxc-stop-running", &|_| {});
    scene.settings("[quiesce]\non-error = \"fail\"\n");
    break_starts(&scene);
    let report = scene.play(Vec::new());
    let (exit, text) = pre_stop(&report);
    assert_eq!(exit, Some(1), "{text}");
    assert!(text.contains(WORDS), "{text}");
}

#[test]
fn the_label_of_a_throwaway_container_exempts_nothing() {
    let labelled = Spec::service("own", "miner").label(LABEL, "1-2-3");
    let scene = Scene::new("lxc-snapshot-1vol", &|guest| guest.containers.push(labelled.clone()));
    scene.when(At::Ended("pre-stop"), |guest| {
        let engine = guest.engine.as_ref().unwrap();
        engine.add(Spec::service("own", "late").label(LABEL, "1-2-4"));
    });
    let (_, record) = backup(&scene);
    assert_eq!(scene.engine().count("miner", What::StopAsked), 1, "it is stopped like any other");
    assert_eq!(record["grade"], "crash-consistent", "{record:#}");
    assert!(record["reasons"].to_string().contains("late"), "{record:#}");
    assert!(running(&scene, "miner") && running(&scene, "late"));
}

#[test]
fn one_engine_that_starts_nothing_keeps_no_other_from_being_brought_to_rest() {
    use stillpoint_sim::engine::{Engine, EngineConfig};
    let scene = snapshot();
    let config = EngineConfig {
        socket: "run/podman/podman.sock",
        refuses_starts: Some(WORDS.to_owned()),
        ..EngineConfig::default()
    };
    let other =
        Engine::new(scene.guest().dir(), config, vec![Spec::service("side", "pod")]).unwrap();
    wait_for("the engine answers", || other.is_up()).unwrap();
    let (_, record) = backup(&scene);
    assert_eq!(other.count("pod", What::StopAsked), 0);
    assert_eq!(stops(&scene), 3);
    assert_eq!(record["grade"], "crash-consistent", "{record:#}");
    assert!(record["reasons"].to_string().contains("podman.sock"), "{record:#}");
    assert!(STACK.iter().all(|name| running(&scene, name)));
}

/// One container of the stack has a runtime of its own.
fn with_another_runtime() -> Scene {
    Scene::new("lxc-snapshot-1vol", &|guest| {
        let cache = guest.containers.iter_mut().find(|spec| spec.name == "cache").unwrap();
        cache.runtime = Some("crun".to_owned());
    })
}

fn stopped(scene: &Scene, name: &str) -> bool {
    scene.engine().count(name, What::StopAsked) > 0
}

#[test]
fn what_one_runtime_starts_is_no_evidence_for_another() {
    let scene = with_another_runtime();
    scene.engine().configure(|engine| engine.broken_runtime = Some("crun".to_owned()));
    let (report, record) = backup(&scene);
    assert!(!stopped(&scene, "cache") && stopped(&scene, "db"), "{}", report.text());
    assert!(STACK.iter().all(|name| running(&scene, name)), "{}", report.text());
    let reasons = record["reasons"].to_string();
    assert!(reasons.contains("with the runtime crun, could not start"), "{reasons}");
    let (exit, text) = said(&scene, &["try", "9001"]);
    assert!(exit == 1 && text.contains("with the runtime crun"), "{text}");

    let scene = with_another_runtime();
    scene.engine().configure(|engine| engine.broken_runtime = Some("runc".to_owned()));
    backup(&scene);
    assert!(stopped(&scene, "cache") && !stopped(&scene, "db"));
    assert!(STACK.iter().all(|name| running(&scene, name)));
}

#[test]
fn each_runtime_is_tried_once() {
    let scene = with_another_runtime();
    let (_, record) = backup(&scene);
    assert_eq!(record["grade"], "clean", "{record:#}");
    assert_eq!(tries(&scene), 2);
    let runtimes: Vec<_> = scene.engine().made().iter().map(|it| it.spec.runtime.clone()).collect();
    assert!(
        runtimes.contains(&None) && runtimes.contains(&Some("crun".to_owned())),
        "{runtimes:?}"
    );
    backup(&scene);
    assert_eq!(tries(&scene), 2);
}

#[test]
fn a_file_in_the_place_of_another_ends_what_is_known() {
    for path in
        ["guests/9001/root/usr/bin/runc", "etc/apparmor.d/lxc/lxc-default-cgns", "usr/bin/lxcfs"]
    {
        let scene = snapshot();
        scene.node.write(path, "old").unwrap();
        backup(&scene);
        backup(&scene);
        assert_eq!(tries(&scene), 1, "{path}");
        scene.node.write(&format!("{path}.new"), "another").unwrap();
        fs::rename(scene.node.path(format!("{path}.new")), scene.node.path(path)).unwrap();
        scene.engine().configure(|engine| engine.refuses_starts = Some(WORDS.to_owned()));
        let before = stops(&scene);
        let (report, _) = backup(&scene);
        assert_eq!(stops(&scene), before, "{path}: {}", report.text());
        assert!(STACK.iter().all(|name| running(&scene, name)), "{path}");
    }
}

#[test]
fn versions_that_worked_before_others_are_seen_anew() {
    let scene = snapshot();
    let mut old = String::new();
    scene.engine().configure(|engine| old.clone_from(&engine.runc));
    backup(&scene);
    break_starts(&scene);
    backup(&scene);
    let before = stops(&scene);
    scene.engine().configure(|engine| engine.runc = old);
    let (report, _) = backup(&scene);
    assert_eq!(stops(&scene), before, "{}", report.text());
    assert!(STACK.iter().all(|name| running(&scene, name)));
}
