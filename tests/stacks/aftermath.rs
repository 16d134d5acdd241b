//! What is reported and left after a backup, or after a killed one.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use serde_json::Value;
use stillpoint_sim::engine::container::Spec;
use stillpoint_sim::vzdump::bystander::{Bystander, Title};
use stillpoint_sim::vzdump::replay::{Moment, Victim};
use stillpoint_sim::vzdump::report::Report;

use crate::scene::{At, Scene, kill, wait_for};

fn record(scene: &Scene, kind: &str) -> Value {
    let records = scene.node.journal().unwrap();
    records.into_iter().find(|record| record["kind"] == kind).unwrap()
}

/// The hook's lines in the task log.
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
fn in_stop_mode_the_downtime_is_known_of_a_guest_in_which_nothing_ran() {
    let scene = Scene::new("lxc-stop-running", &|guest| guest.containers.clear());
    let report = scene.play(Vec::new());
    assert!(record(&scene, "backup")["downtime_ms"].is_u64(), "{}", report.text());
    assert!(said_in(&report).contains(", guest down for "), "{}", said_in(&report));
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

/// A backup of that kind whose vzdump and hook are killed in pre-stop.
fn killed_in(recorded: &str, settings: &str) -> Scene {
    let scene = Scene::new(recorded, &|_| {});
    scene.keep_mail();
    scene.settings(settings);
    scene.play(vec![kill("pre-stop", Moment::End, Victim::Group)]);
    scene
}

fn lock(scene: &Scene) -> Option<String> {
    scene.guest().lock().unwrap()
}

fn output_of(scene: &Scene, arguments: &[&str]) -> String {
    let output = scene.stillpoint(arguments);
    String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
}

#[test]
fn a_kill_leaves_no_lock_and_the_mail_says_what_was_done() {
    let scene = killed_in("lxc-snapshot-1vol", "");
    assert_eq!(lock(&scene), None);
    let mail = scene.mail();
    assert_eq!(mail.matches("Subject: Stillpoint: guest 9001 is back after").count(), 1, "{mail}");
    assert!(mail.contains("died; the guest was unlocked; all 3 containers are back"), "{mail}");
}

#[test]
fn a_kill_in_stop_mode_is_told_as_it_was() {
    let scene = Scene::new("lxc-stop-running", &|_| {});
    scene.keep_mail();
    scene.play(vec![kill("pre-stop", Moment::Working, Victim::Group)]);
    let mail = scene.mail();
    assert!(mail.contains("the guest was unlocked and started; all 3 containers"), "{mail}");
    assert!(!mail.contains(" 0 containers"), "{mail}");
}

#[test]
fn a_person_may_keep_the_lock_and_is_given_the_command() {
    let scene = killed_in("lxc-snapshot-1vol", "[resume]\nunlock = false\n");
    assert_eq!(lock(&scene).as_deref(), Some("backup"));
    let mail = scene.mail();
    assert!(mail.contains("all 3 containers are back; 3 were started again. Guest 9001"), "{mail}");
    assert!(mail.contains("is locked (backup)") && mail.contains("pct unlock 9001"), "{mail}");
    let said = output_of(&scene, &["status", "--check"]);
    assert!(said.contains("it is locked (backup)") && said.contains("pct unlock 9001"), "{said}");
    let said = output_of(&scene, &["resume", "9001"]);
    assert!(said.contains("is locked (backup)") && said.contains("pct unlock 9001"), "{said}");
    // A lock other than a backup's is never removed.
    scene.guest().set_lock(Some("migrate")).unwrap();
    let said = output_of(&scene, &["resume", "9001"]);
    assert!(said.contains("is locked (migrate)") && said.contains("pct unlock 9001"), "{said}");
    assert_eq!(lock(&scene).as_deref(), Some("migrate"));
}

#[test]
fn a_lock_that_is_no_backups_is_in_the_mail_with_the_command() {
    let scene = Scene::new("lxc-snapshot-1vol", &|_| {});
    scene.keep_mail();
    scene.when(At::Ended("pre-stop"), |guest| guest.set_lock(Some("snapshot-delete")).unwrap());
    scene.play(vec![kill("pre-stop", Moment::End, Victim::Group)]);
    assert_eq!(lock(&scene).as_deref(), Some("snapshot-delete"));
    let mail = scene.mail();
    assert!(mail.contains("Guest 9001 is locked (snapshot-delete)"), "{mail}");
    assert!(mail.contains("pct unlock 9001"), "{mail}");
}

#[test]
fn the_lock_stays_while_another_vzdump_has_the_node() {
    let scene = Scene::new("lxc-snapshot-1vol", &|_| {});
    let path = scene.node.path("var/run/vzdump.lock");
    let held = Arc::new(Mutex::new(None));
    let holder = Arc::clone(&held);
    let run = scene.run_file();
    scene.when(At::Ended("pre-stop"), move |guest| {
        let (guest, holder) = (Arc::clone(guest), Arc::clone(&holder));
        let (path, run) = (path.clone(), run.clone());
        std::thread::spawn(move || {
            // vzdump's own lock, until vzdump is killed.
            let file = std::fs::File::open(&path).unwrap();
            let file = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, no)| no).unwrap();
            wait_for("the containers are back", || {
                let text = std::fs::read_to_string(&run).unwrap_or_default();
                text.contains(r#""journalled": "yes""#)
            })
            .unwrap();
            *holder.lock().unwrap() = guest.lock().unwrap();
            drop(file);
        });
    });
    scene.play(vec![kill("pre-stop", Moment::End, Victim::Group)]);
    assert_eq!(held.lock().unwrap().as_deref(), Some("backup"));
    assert_eq!(lock(&scene), None);
}

#[test]
fn a_guest_that_is_down_is_told_with_the_command_that_starts_it() {
    let scene = Scene::new("lxc-snapshot-1vol", &|_| {});
    let mut options = scene.options();
    options.kills = vec![kill("pre-stop", Moment::End, Victim::Everything)];
    options.settle = Duration::ZERO;
    scene.play_with(options);
    scene.guest().set_marker("running", false).unwrap();
    scene.guest().set_lock(None).unwrap();
    for arguments in [&["resume", "9001"][..], &["status"], &["status", "--check"]] {
        let said = output_of(&scene, arguments).split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(said.contains("pct start 9001"), "{arguments:?}: {said}");
        assert!(!said.contains("stillpoint resume 9001"), "{arguments:?}: {said}");
    }
}

#[test]
fn after_a_power_cut_a_guest_that_comes_first_is_mailed_with_the_true_reason() {
    let scene = Scene::new("lxc-snapshot-1vol", &|_| {});
    scene.keep_mail();
    let mut options = scene.options();
    options.kills = vec![kill("pre-stop", Moment::End, Victim::Everything)];
    options.settle = Duration::ZERO;
    scene.play_with(options);
    let text = std::fs::read_to_string(scene.run_file()).unwrap();
    let mut run: Value = serde_json::from_str(&text).unwrap();
    run["job"]["worker"]["boot"] = "an earlier one".into();
    std::fs::write(scene.run_file(), run.to_string()).unwrap();
    scene.guest().set_lock(None).unwrap();
    let settled = scene.stillpoint(&["settle", "9001"]);
    assert!(settled.status.success(), "{settled:?}");
    assert_eq!(record(&scene, "recovered")["reason"], "the node went down during the backup");
    assert_eq!(record(&scene, "backup")["error"], "the node went down during the backup");
    let mail = scene.mail();
    let subject = "Subject: Stillpoint: guest 9001 is back after an interrupted backup";
    assert_eq!(mail.matches(subject).count(), 1, "{mail}");
    assert!(mail.contains("the node went down during the backup; all 3 containers"), "{mail}");
}

/// What a vzdump leaves that is killed between its lock of the guest and its first call of the hook for it: the lock, and a
/// task whose log ends in the middle of the guest.
fn dies_before_its_first_call(scene: &Scene, lock: &str) {
    scene.guest().set_lock(Some(lock)).unwrap();
    let started = chrono::Utc::now().timestamp() - 60;
    let upid = format!("UPID:sim:003FFFFF:0000ABCD:{started:08X}:vzdump:9001:root@pam:");
    scene.node.write("var/log/pve/tasks/active", &format!("{upid} 0\n")).unwrap();
    let log = "INFO: starting new backup job: vzdump 9001\n\
               INFO: Starting Backup of VM 9001 (lxc)\nINFO: status = running\n";
    let directory = upid.split(':').nth(4).unwrap().chars().last().unwrap();
    scene.node.write(&format!("var/log/pve/tasks/{directory}/{upid}"), log).unwrap();
}

#[test]
fn a_lock_from_before_the_first_call_is_taken_away_by_the_next_job() {
    let scene = Scene::new("lxc-snapshot-1vol", &|_| {});
    dies_before_its_first_call(&scene, "backup");
    let said = output_of(&scene, &["status"]).split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(said.contains("the next backup takes the lock away"), "{said}");
    assert!(!said.contains("the next one fails"), "{said}");
    let seen = Arc::new(Mutex::new(None));
    let its = Arc::clone(&seen);
    scene.when(At::Ended("job-start"), move |guest| *its.lock().unwrap() = Some(guest.lock()));
    let report = scene.play(Vec::new());
    let seen = seen.lock().unwrap().take().unwrap().unwrap();
    assert_eq!(seen, None, "{}", report.text());
    assert!(
        said_in(&report).contains("a vzdump that died had left it locked"),
        "{}",
        report.text()
    );
}

#[test]
fn a_lock_from_before_the_first_call_is_taken_away_by_a_person_and_at_boot() {
    for arguments in [&["resume", "9001"][..], &["recover"]] {
        let scene = Scene::new("lxc-snapshot-1vol", &|_| {});
        dies_before_its_first_call(&scene, "backup");
        let said = output_of(&scene, arguments);
        assert_eq!(lock(&scene), None, "{arguments:?}: {said}");
        assert!(said.contains("it was unlocked"), "{arguments:?}: {said}");
    }
}

/// A power cut while containers were down for a backup, and a lock that no boot takes away.
#[test]
fn after_a_power_cut_a_lock_that_stays_is_in_the_mail() {
    for first in [&["settle", "9001"][..], &["recover"]] {
        let scene = Scene::new("lxc-snapshot-1vol", &|_| {});
        scene.keep_mail();
        let mut options = scene.options();
        options.kills = vec![kill("pre-stop", Moment::End, Victim::Everything)];
        options.settle = Duration::ZERO;
        scene.play_with(options);
        let text = std::fs::read_to_string(scene.run_file()).unwrap();
        let mut run: Value = serde_json::from_str(&text).unwrap();
        run["job"]["worker"]["boot"] = "an earlier one".into();
        std::fs::write(scene.run_file(), run.to_string()).unwrap();
        scene.guest().set_lock(Some("snapshot-delete")).unwrap();
        let done = scene.stillpoint(first);
        assert!(done.status.success(), "{done:?}");
        let mail = scene.mail();
        assert_eq!(mail.matches("Subject:").count(), 1, "{mail}");
        assert!(mail.contains("is locked (snapshot-delete)"), "{first:?}: {mail}");
        assert!(mail.contains("pct unlock 9001"), "{first:?}: {mail}");
    }
}

#[test]
fn a_lock_without_a_dead_vzdump_or_of_another_kind_stays() {
    let stays = |scene: &Scene, which: &str| {
        let before = lock(scene);
        for arguments in [&["resume", "9001"][..], &["recover"]] {
            output_of(scene, arguments);
            assert_eq!(lock(scene), before, "{which}: {arguments:?}");
        }
    };
    let scene = Scene::new("lxc-snapshot-1vol", &|_| {});
    scene.guest().set_lock(Some("backup")).unwrap();
    stays(&scene, "nobody knows whose it is");
    for other in ["snapshot", "migrate"] {
        let scene = Scene::new("lxc-snapshot-1vol", &|_| {});
        dies_before_its_first_call(&scene, other);
        stays(&scene, other);
    }
    let scene = Scene::new("lxc-snapshot-1vol", &|_| {});
    dies_before_its_first_call(&scene, "backup");
    scene.settings("[resume]\nunlock = false\n");
    stays(&scene, "a person takes it away");
    let scene = Scene::new("lxc-snapshot-1vol", &|_| {});
    dies_before_its_first_call(&scene, "backup");
    let log =
        "INFO: starting new backup job: vzdump 9001\nINFO: Starting Backup of VM 9001 (lxc)\n";
    let another = Bystander::start(&scene.node, Title::True, log).unwrap();
    stays(&scene, "another vzdump is at it");
    drop(another);
}

/// A backup of which nothing lives any more, and no guard either.
fn all_killed(recorded: &str, phase: &str) -> Scene {
    let scene = Scene::new(recorded, &|_| {});
    let mut options = scene.options();
    options.kills = vec![kill(phase, Moment::End, Victim::Everything)];
    options.settle = Duration::ZERO;
    scene.play_with(options);
    scene
}

#[test]
fn a_frozen_guest_is_thawed_and_unlocked_before_the_next_job_comes_to_it() {
    let scene = all_killed("lxc-suspend", "pre-stop");
    scene.guest().set_marker("frozen", true).unwrap();
    assert_eq!(lock(&scene).as_deref(), Some("backup"));
    let seen = Arc::new(Mutex::new(None));
    let its = Arc::clone(&seen);
    scene.when(At::Ended("job-start"), move |guest| {
        *its.lock().unwrap() = Some((guest.is_frozen(), guest.lock().unwrap()));
    });
    let report = scene.play(Vec::new());
    let seen = seen.lock().unwrap().take().unwrap();
    assert_eq!(seen, (false, None), "{}", report.text());
    let said = said_in(&report);
    assert!(said.contains("guest 9001: started 3 containers of an interrupted backup"), "{said}");
}

#[test]
fn nobody_says_that_containers_were_started_which_ran() {
    let scene = all_killed("lxc-snapshot-1vol", "post-restart");
    let said = output_of(&scene, &["recover"]);
    assert_eq!(lock(&scene), None, "{said}");
    assert!(!said.contains("started 3 containers"), "{said}");
}

#[test]
fn after_a_power_cut_the_guard_tells_the_true_reason() {
    let scene = all_killed("lxc-snapshot-1vol", "pre-stop");
    scene.keep_mail();
    let text = std::fs::read_to_string(scene.run_file()).unwrap();
    let mut run: Value = serde_json::from_str(&text).unwrap();
    run["job"]["worker"]["boot"] = "an earlier one".into();
    std::fs::write(scene.run_file(), run.to_string()).unwrap();
    scene.guest().set_lock(None).unwrap();
    let guarded = scene.stillpoint(&["guard", "9001"]);
    assert!(guarded.status.success(), "{guarded:?}");
    assert_eq!(record(&scene, "recovered")["reason"], "the node went down during the backup");
    let mail = scene.mail();
    assert!(mail.contains("the node went down during the backup; all 3 containers"), "{mail}");
    assert!(!mail.contains("vzdump (process"), "{mail}");
}

#[test]
fn a_boot_tries_what_an_earlier_backup_could_not_bring_back() {
    let scene = Scene::new("lxc-snapshot-1vol", &|_| {});
    let refuse = |scene: &Scene, refusal: Option<(u16, String)>| {
        assert!(scene.engine().modify("db", |db| db.spec.refuses = refusal));
    };
    refuse(&scene, Some((500, "no such device".to_string())));
    let report = scene.play(Vec::new());
    assert!(report.runs_left.is_empty(), "{}", report.text());
    refuse(&scene, None);
    scene.node.recover().unwrap();
    assert!(crate::scene::runs(scene.guest(), "db"));
}
