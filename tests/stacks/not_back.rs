//! Containers that cannot be started, or were removed during the backup: they are reported until
//! that is fixed, and do not block later backups.

use std::fs;

use serde_json::Value;
use stillpoint_sim::engine::What;
use stillpoint_sim::node::Guest;
use stillpoint_sim::vzdump::replay::{Moment, Options, Victim};

use crate::scene::{At, PATIENCE, Scene, kill, runs, wait_for};

const MISSING: &str = "No such container: 7d1f0c";

/// A node whose mail goes to a file, with an action on the guest while its containers are at rest.
fn at_rest(act: impl Fn(&Guest) + Send + Sync + 'static) -> Scene {
    let scene = Scene::new("lxc-snapshot-1vol", &|guest| {
        for container in &mut guest.containers {
            container.labels.extend([
                label("com.docker.compose.project.working_dir", "/opt/it's here"),
                label("com.docker.compose.project.config_files", "/opt/it's here/compose.yaml"),
            ]);
        }
    });
    scene.keep_mail();
    scene.when(At::Ended("pre-stop"), move |guest| act(guest));
    scene
}

fn label(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

fn refuse(guest: &Guest, name: &str, refusal: Option<(u16, &str)>) {
    let refusal = refusal.map(|(status, words)| (status, words.to_owned()));
    let engine = guest.engine.as_ref().unwrap();
    assert!(engine.modify(name, |container| container.spec.refuses.clone_from(&refusal)));
}

fn said(scene: &Scene, arguments: &[&str]) -> String {
    let output = scene.stillpoint(arguments);
    let both = [output.stdout, output.stderr].concat();
    let text = String::from_utf8(both).unwrap();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn left(scene: &Scene) -> Vec<String> {
    let file = scene.node.path("var/lib/stillpoint/left/9001.json");
    let Ok(text) = fs::read_to_string(file) else { return Vec::new() };
    let left: Value = serde_json::from_str(&text).unwrap();
    let containers = left["containers"].as_array().unwrap();
    containers.iter().map(|left| left["name"].as_str().unwrap().to_string()).collect()
}

/// The names in the note in the guest.
fn noted(scene: &Scene) -> Vec<String> {
    let file = scene.guest().dir().join("root/var/lib/stillpoint/quiesced.json");
    let Ok(text) = fs::read_to_string(file) else { return Vec::new() };
    let note: Value = serde_json::from_str(&text).unwrap();
    let containers = note["containers"].as_array().unwrap();
    containers.iter().map(|it| it["name"].as_str().unwrap().to_string()).collect()
}

fn last_backup(scene: &Scene) -> Value {
    let records = scene.node.journal().unwrap();
    records.into_iter().rfind(|record| record["kind"] == "backup").unwrap()
}

fn check(scene: &Scene) -> String {
    said(scene, &["status", "--check"])
}

#[test]
fn what_the_engine_refuses_to_start_is_named_set_aside_and_let_go_of_once_it_runs() {
    let scene = at_rest(|guest| refuse(guest, "db", Some((404, MISSING))));
    let report = scene.play(Vec::new());
    assert!(report.runs_left.is_empty(), "{}", report.text());
    let task_log = report.task_log.join("\n");
    assert!(task_log.contains(MISSING), "the engine's words are in the task log: {task_log}");
    let told = scene.mail();
    assert!(
        told.contains("Subject: Stillpoint: guest 9001 is NOT back after its backup"),
        "{told}"
    );
    assert!(told.contains("2 of 3 containers came back") && told.contains(MISSING), "{told}");
    assert!(!told.contains("died") && !told.contains("is back"), "{told}");
    assert_eq!((left(&scene), noted(&scene)), (vec!["db".to_string()], vec!["db".to_string()]));
    let line = check(&scene);
    assert!(
        line.starts_with("CRITICAL") && line.contains("db") && line.contains(MISSING),
        "{line}"
    );
    let resumed = said(&scene, &["resume", "9001"]);
    assert!(resumed.contains("NOT back: db") && resumed.contains(MISSING), "{resumed}");

    // It does not block a later backup, and is in its note.
    scene.play(Vec::new());
    let backup = last_backup(&scene);
    assert_eq!((&backup["outcome"], &backup["grade"]), (&"ok".into(), &"clean".into()));
    assert_eq!(noted(&scene), ["db"]);
    assert!(check(&scene).starts_with("CRITICAL"));
    assert_eq!(scene.mail().matches("NOT back after").count(), 1, "it is told once");

    // Somebody fixes and starts it.
    refuse(scene.guest(), "db", None);
    crate::scene::docker(scene.guest(), "/containers/db/start").unwrap();
    let line = check(&scene);
    assert!(line.starts_with("OK"), "{line}");
    assert!(left(&scene).is_empty() && noted(&scene).is_empty());
}

#[test]
fn what_was_removed_meanwhile_is_not_back_until_it_is_made_anew() {
    let remove = |guest: &Guest| {
        let engine = guest.engine.as_ref().unwrap();
        assert!(engine.remove("db").is_some() && engine.remove("web").is_some());
    };
    let scene = at_rest(remove);
    let report = scene.play(Vec::new());
    assert!(report.runs_left.is_empty(), "{}", report.text());
    let command = r"cd '\''/opt/it'\''\'\'''\''s here'\'' && docker compose";
    let told = scene.mail();
    assert!(told.contains("NOT back") && told.contains("db") && told.contains("web"), "{told}");
    assert!(told.contains(command), "{told}");
    let line = check(&scene);
    assert!(line.starts_with("CRITICAL") && line.contains("not back since"), "{line}");
    let container = &last_backup(&scene)["containers"][0];
    assert_eq!((&container["fate"], &container["not_back"]), (&"gone".into(), &true.into()));

    // Looking starts nothing, and notices what somebody has created again.
    let specs: Vec<_> = report.containers.iter().map(|it| it.name.clone()).collect();
    assert!(!specs.is_empty());
    for name in ["db", "web"] {
        let spec = stillpoint_sim::engine::container::Spec::service("shop", name);
        scene.engine().add(spec);
    }
    let line = check(&scene);
    assert!(line.contains("db") || !line.contains("not back"), "{line}");
    assert!(left(&scene).is_empty(), "{:?}", left(&scene));
}

#[test]
fn what_comes_back_by_itself_before_the_job_ends_is_no_alarm() {
    let scene = at_rest(|guest| {
        assert!(guest.engine.as_ref().unwrap().remove("db").is_some());
    });
    // As a unit with Restart=always does.
    scene.when(At::Ended("log-end"), |guest| {
        let spec = stillpoint_sim::engine::container::Spec::service("shop", "db");
        guest.engine.as_ref().unwrap().add(spec);
    });
    let report = scene.play(Vec::new());
    assert!(
        left(&scene).is_empty() && scene.mail().is_empty(),
        "{}{}",
        scene.mail(),
        report.text()
    );
    let line = check(&scene);
    assert!(!line.contains("not back"), "{line}");
}

#[test]
fn a_stack_that_is_gone_for_good_is_let_go_of_on_a_persons_word() {
    let scene = at_rest(|guest| {
        assert!(guest.engine.as_ref().unwrap().remove("db").is_some());
    });
    scene.play(Vec::new());
    assert!(check(&scene).starts_with("CRITICAL"));
    let told = said(&scene, &["resume", "9001", "--forget"]);
    assert!(told.contains("1 container"), "{told}");
    assert!(!check(&scene).contains("not back"));
}

#[test]
fn what_could_not_be_started_and_is_removed_by_somebody_is_no_alarm_any_more() {
    let scene = at_rest(|guest| refuse(guest, "db", Some((404, MISSING))));
    scene.play(Vec::new());
    assert!(check(&scene).starts_with("CRITICAL"));
    scene.engine().remove("db").unwrap();
    let line = check(&scene);
    assert!(line.starts_with("OK"), "{line}");
    assert!(left(&scene).is_empty() && noted(&scene).is_empty());
}

/// The next backup has closed the run of the earlier one while the engine did not answer.
#[test]
fn the_guard_tries_what_was_set_aside_untried() {
    let scene = at_rest(|guest| refuse(guest, "db", Some((404, MISSING))));
    scene.play(Vec::new());
    refuse(scene.guest(), "db", None);
    said(&scene, &["guard", "9001"]);
    assert!(!runs(scene.guest(), "db"), "what was refused is tried by others");
    let file = scene.node.path("var/lib/stillpoint/left/9001.json");
    let mut list: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    list["containers"][0]["untried"] = true.into();
    fs::write(&file, list.to_string()).unwrap();
    said(&scene, &["guard", "9001"]);
    assert!(runs(scene.guest(), "db") && left(&scene).is_empty());
}

#[test]
fn a_container_that_somebody_removes_between_backups_is_no_alarm() {
    let scene = at_rest(|_| {});
    scene.play(Vec::new());
    scene.engine().remove("db").unwrap();
    scene.play(Vec::new());
    assert!(!check(&scene).contains("not back"), "{}", check(&scene));
    assert!(scene.mail().is_empty());
}

/// Everything dies at rest, and the remaining work cannot be done.
#[test]
fn a_backup_that_cannot_be_finished_keeps_no_later_one_from_being_made() {
    let scene = at_rest(|guest| refuse(guest, "db", Some((500, "permission denied"))));
    let all = vec![kill("pre-stop", Moment::End, Victim::Everything)];
    scene.play_with(Options { kills: all, settle: std::time::Duration::ZERO, ..scene.options() });
    scene.guest().set_lock(None).unwrap();
    scene.play_with(Options { settle: PATIENCE, ..scene.options() });
    let backup = last_backup(&scene);
    assert_eq!(backup["outcome"], "ok", "{backup:#}");
    let names: Vec<&str> = backup["containers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["name"].as_str().unwrap())
        .collect();
    assert!(!names.contains(&"db"), "it was not running: {names:?}");
    assert_eq!(left(&scene), ["db"]);
    assert!(runs(scene.guest(), "web"));
    assert!(check(&scene).starts_with("CRITICAL"));

    // The next start of the guest tries again.
    refuse(scene.guest(), "db", None);
    assert!(said(&scene, &["settle", "9001"]).contains("back"));
    wait_for("db runs", || runs(scene.guest(), "db")).unwrap();
    assert!(left(&scene).is_empty(), "{:?}", left(&scene));
    assert!(scene.engine().count("db", What::Started) > 0);
}

#[test]
fn what_is_left_down_in_a_guest_that_is_down_is_told_with_the_command_that_starts_it() {
    let scene = at_rest(|guest| refuse(guest, "db", Some((404, MISSING))));
    scene.play(Vec::new());
    scene.guest().set_marker("running", false).unwrap();
    let resumed = said(&scene, &["resume", "9001"]);
    assert!(resumed.contains("To start the guest: pct start 9001."), "{resumed}");
}

#[test]
fn a_guest_that_was_destroyed_is_not_told_to_be_back() {
    let scene = at_rest(|guest| {
        let path = guest.dir().join("../../etc/pve/lxc/9001.conf");
        std::fs::remove_file(path).unwrap();
    });
    scene.play(vec![kill("pre-stop", Moment::End, Victim::Worker)]);
    let mail = scene.mail();
    assert!(mail.contains("died, and the guest is gone"), "{mail}");
    assert!(!mail.contains("is back") && !mail.contains("containers are back"), "{mail}");
}
