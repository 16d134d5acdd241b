//! vzdump is stopped, delayed, or killed alone.

use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use stillpoint::journal::Actor;
use stillpoint::quiesce::{BroughtBack, Errand, bring_back};
use stillpoint::sys::Root;
use stillpoint::vzdump::Vmid;
use stillpoint_sim::engine::container::Restart;
use stillpoint_sim::engine::{Hostile, What};
use stillpoint_sim::hooks::Binaries;
use stillpoint_sim::node::{Guest, Node};
use stillpoint_sim::vzdump::replay::{Moment, Options, Victim};

use super::harness::{Case, Ended};
use super::promise::{Promise, backup, is_crash_consistent};
use super::scene::{At, PATIENCE, Scene, VMID, binaries, kill, runs, wait_for};

const FAULT: &str = "vzdump interrupted or held up";

pub fn cases() -> Vec<Case> {
    vec![
        Case::always(FAULT, "backup-abort beside a pre-stop that hangs", beside_one_that_hangs),
        Case::always(FAULT, "backup-abort beside a pre-stop that goes on", beside_one_that_goes_on),
        Case::always(FAULT, "held longer than the hold limit", held_too_long),
        Case::always(FAULT, "bringing to rest takes too long", rest_takes_too_long),
        Case::always(FAULT, "bringing to rest takes too long and that fails", too_long_is_an_error),
        Case::always(FAULT, "a stop outlives its client", stop_outlives_its_client),
        Case::always(FAULT, "a stop that may yet come is waited for only once", waited_for_once),
        Case::always(FAULT, "guard killed, and its guest not back at the job's end", guard_anew),
        Case::always(
            FAULT,
            "guard killed, and what was started has to stay up",
            guard_for_the_look,
        ),
        Case::always(FAULT, "many resumers at once", many_resumers),
        Case::always(FAULT, "a resumer beside post-restart", resumer_beside_the_hook),
        Case::always(FAULT, "killed, and killed again by the next", killed_twice),
        Case::always(FAULT, "called by a script of somebody's own", called_by_a_script),
    ]
}

fn halting(scene: &Scene, point: &str) -> Options {
    let env = [("STILLPOINT_FAILPOINT".to_owned(), format!("{point}=halt"))];
    Options { env: env.into(), ..scene.options() }
}

/// It is called by a script of somebody's, which ends after each phase without being vzdump.
fn called_by_a_script() -> Result<Ended> {
    let real = binaries();
    let script = std::env::temp_dir().join("own-script");
    let text = format!("#!/bin/sh\n{} \"$@\"\nexit $?\n", real.vzdump_hook.display());
    std::fs::write(&script, text)?;
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755))?;
    let called = Binaries { vzdump_hook: script, ..real };
    let scene = Scene::with("lxc-snapshot-1vol", &called, &|_| {});
    let report = scene.play(Vec::new());
    ensure!(backup(&report)?["grade"] == "clean", "{}", report.text());
    ensure!(report.records("recovered").is_empty(), "the guard took it for dead");
    Promise::of(&scene, &report).kept()
}

fn beside_one_that_hangs() -> Result<Ended> {
    let scene = Scene::new("lxc-snapshot-1vol", &|_| {});
    let stop = kill("pre-stop", Moment::Actions(1), Victim::StopButton);
    let options = Options { kills: vec![stop], ..halting(&scene, "stop-confirmed") };
    let report = scene.play_with(options);
    let abort = report.calls.iter().any(|call| call.argv[0] == "backup-abort");
    ensure!(abort, "there was no backup-abort");
    Promise::of(&scene, &report).kept()
}

fn beside_one_that_goes_on() -> Result<Ended> {
    let scene = Scene::new("lxc-snapshot-1vol", &|_| {});
    let release = scene.node.path("failpoint-release");
    scene.when(At::Called("backup-abort"), move |_| {
        let release = release.clone();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            std::fs::write(release, "").unwrap();
        });
    });
    let stop = kill("pre-stop", Moment::Actions(1), Victim::StopButton);
    let options = Options { kills: vec![stop], ..halting(&scene, "stop-confirmed") };
    let report = scene.play_with(Options { grace: Duration::from_secs(5), ..options });
    Promise::of(&scene, &report).kept()
}

/// vzdump hangs between pre-stop and the snapshot, and then still makes the backup.
fn held_too_long() -> Result<Ended> {
    let scene = Scene::new("lxc-snapshot-1vol", &|_| {});
    scene.settings("[quiesce]\nhold-limit = \"2s\"\n");
    let mark = scene.marker();
    scene.when(At::Ended("pre-stop"), move |guest| {
        assert!(!runs(guest, "db"), "the guest was not brought to rest");
        mark();
        wait_for("the containers run again", || all_run(guest)).unwrap();
    });
    let report = scene.play(Vec::new());
    is_crash_consistent(&report, "held for 2 s")?;
    let recovered = report.records("recovered");
    ensure!(recovered.iter().any(|record| record["by"] == "guard"), "{recovered:?}");
    let kept = Promise::of(&scene, &report).kept()?;
    // The hold limit itself is not counted.
    Ok(Ended { back_ms: kept.back_ms.map(|ms| ms.saturating_sub(2000)), ..kept })
}

fn all_run(guest: &Guest) -> bool {
    ["db", "cache", "web"].into_iter().all(|name| runs(guest, name))
}

fn slow(node: &Scene) {
    let slow = |stop_takes| {
        node.engine().modify("db", |db| {
            db.spec.stop_timeout = Some(600);
            db.spec.stop_takes = stop_takes;
        })
    };
    assert!(slow(Duration::from_secs(4)));
    node.engine().configure(|engine| engine.time_scale = 1.0);
    node.settings("[quiesce]\ntime-limit = \"1s\"\nhold-limit = \"2s\"\n");
}

fn rest_takes_too_long() -> Result<Ended> {
    let scene = Scene::new("lxc-snapshot-1vol", &|_| {});
    slow(&scene);
    let mark = scene.marker();
    scene.when(At::Called("pre-stop"), move |_| mark());
    let report = scene.play(Vec::new());
    is_crash_consistent(&report, "long")?;
    Promise::of(&scene, &report).kept()
}

fn too_long_is_an_error() -> Result<Ended> {
    let scene = Scene::new("lxc-snapshot-1vol", &|_| {});
    slow(&scene);
    let settings = "[quiesce]\ntime-limit = \"1s\"\nhold-limit = \"2s\"\non-error = \"fail\"\n";
    scene.settings(settings);
    let mark = scene.marker();
    scene.when(At::Called("pre-stop"), move |_| mark());
    let mut report = scene.play(Vec::new());
    let refused = report.calls.iter_mut().find(|call| call.argv[0] == "pre-stop");
    let refused = refused.context("there was no pre-stop")?;
    ensure!(refused.exit.take() == Some(1), "the backup was not refused");
    ensure!(backup(&report)?["outcome"] == "failed", "{}", report.text());
    Promise::of(&scene, &report).kept()
}

fn stop_outlives_its_client() -> Result<Ended> {
    let scene = Scene::new("lxc-snapshot-1vol", &|_| {});
    scene.engine().configure(|engine| engine.time_scale = 1.0);
    assert!(scene.engine().modify("db", |db| db.spec.stop_takes = Duration::from_secs(4)));
    let report = scene.play(vec![kill("pre-stop", Moment::Actions(3), Victim::Group)]);
    ensure!(scene.engine().count("db", What::Stopped(0)) == 1, "db was never stopped");
    Promise::of(&scene, &report).kept()
}

/// It is unknown whether the hook had requested the stop of a container that takes longer than the
/// next process has time.
fn waited_for_once() -> Result<Ended> {
    let scene = Scene::new("lxc-snapshot-1vol", &|guest| {
        for container in &mut guest.containers {
            container.stop_timeout = Some(600);
        }
    });
    let all = kill("", Moment::Failpoint, Victim::Everything);
    let options = Options { kills: vec![all], ..halting(&scene, "noted") };
    scene.play_with(Options { settle: Duration::ZERO, ..options });
    let root = Root::at(scene.node.root());
    let since = || -> Result<u64> {
        let errand = Errand { by: Actor::Recover, reason: "a test", close: true, run: None };
        let deadline = Instant::now() + Duration::from_secs(1);
        let back = bring_back(&root, Vmid(VMID), deadline, errand)?;
        ensure!(matches!(back, BroughtBack::NotYet(_)), "it was not waited for: {back:?}");
        let run: serde_json::Value = serde_json::from_slice(&std::fs::read(scene.run_file())?)?;
        run["quiesce"]["resuming"]["begun"]["requests_ended_ms"]
            .as_u64()
            .context("nobody knows since when")
    };
    let (first, later) = (since()?, since()?);
    ensure!(first == later, "waited for from {first} on, and then from {later} on");
    Ok(Ended::default())
}

/// The guest's engine does not answer during the job's last phases, and the guard is dead.
fn guard_anew() -> Result<Ended> {
    let scene = Scene::new("lxc-snapshot-1vol", &|_| {});
    let answers = |guest: &Guest, answers: bool| {
        let hostile = (!answers).then_some(Hostile::Hangup);
        guest.engine.as_ref().unwrap().configure(|engine| engine.hostile = hostile);
    };
    scene.when(At::Called("post-restart"), move |guest| answers(guest, false));
    scene.when(At::Ended("job-end"), move |guest| answers(guest, true));
    let report = scene.play(vec![kill("pre-stop", Moment::End, Victim::Guard)]);
    Promise::of(&scene, &report).kept()
}

/// A container that only Stillpoint would start again is watched for longer than the job lasts, and
/// the guard is dead.
fn guard_for_the_look() -> Result<Ended> {
    let scene = Scene::new("lxc-snapshot-1vol", &|guest| {
        guest.containers.iter_mut().for_each(|spec| spec.restart = Restart::No);
    });
    scene.node.write("failpoint-stays-up", "5000")?;
    let report = scene.play(vec![kill("pre-stop", Moment::End, Victim::Guard)]);
    Promise::of(&scene, &report).kept()
}

/// Several people run `resume`, and the guard works too, all at the same time.
fn many_resumers() -> Result<Ended> {
    let scene = Scene::new("lxc-snapshot-1vol", &|_| {});
    let persons = Persons::default();
    let started = persons.clone();
    let node = NodePaths::of(&scene.node);
    scene.when(At::Ended("pre-stop"), move |_| started.resume(&node, 4));
    let report = scene.play(vec![kill("pre-stop", Moment::End, Victim::Group)]);
    persons.wait()?;
    once_each(&scene)?;
    Promise::of(&scene, &report).kept()
}

fn resumer_beside_the_hook() -> Result<Ended> {
    let scene = Scene::new("lxc-snapshot-1vol", &|_| {});
    let persons = Persons::default();
    let started = persons.clone();
    let node = NodePaths::of(&scene.node);
    let mark = scene.marker();
    scene.when(At::Called("post-restart"), move |_| {
        mark();
        started.resume(&node, 3);
    });
    let report = scene.play(Vec::new());
    persons.wait()?;
    once_each(&scene)?;
    Promise::of(&scene, &report).kept()
}

fn once_each(scene: &Scene) -> Result<()> {
    for name in ["db", "cache", "web"] {
        // One that lets go of the guest for a hook may have asked already: an engine starts it once.
        let starts = scene.engine().count(name, What::Started);
        ensure!(starts == 1, "{name} was started {starts} times");
    }
    Ok(())
}

/// Everything dies at rest; the next job starts to bring the guest back and dies; so does the one
/// after.
fn killed_twice() -> Result<Ended> {
    let scene = Scene::new("lxc-snapshot-1vol", &|_| {});
    let all = |phase, moment| vec![kill(phase, moment, Victim::Everything)];
    let cut = |kills| Options { kills, settle: Duration::ZERO, ..scene.options() };
    scene.play_with(cut(all("pre-stop", Moment::End)));
    scene.play_with(cut(all("job-start", Moment::Actions(1))));
    scene.mark_again();
    scene.node.recover()?;
    scene.wait_until_quiet()?;
    let report = scene.play_with(Options { settle: PATIENCE, ..scene.options() });
    let mut report = scene.report(report);
    // The third backup succeeded and is journalled beside the first.
    report.journal.retain(|record| record["kind"] != "backup" || record["outcome"] != "ok");
    Promise::of(&scene, &report).kept()
}

#[derive(Clone)]
struct NodePaths {
    root: std::path::PathBuf,
    program: std::path::PathBuf,
}

impl NodePaths {
    fn of(node: &Node) -> Self {
        Self { root: node.root().to_owned(), program: node.path("usr/bin/stillpoint") }
    }
}

/// Programs that call `resume` without pause.
#[derive(Clone, Default)]
struct Persons(std::sync::Arc<Mutex<Vec<Child>>>);

impl Persons {
    fn resume(&self, node: &NodePaths, count: usize) {
        for _ in 0..count {
            let mut command = Command::new(&node.program);
            command.args(["resume", "9001"]).env_clear().env("STILLPOINT_ROOT", &node.root);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            self.0.lock().unwrap().push(command.spawn().unwrap());
        }
    }

    fn wait(&self) -> Result<()> {
        let mut persons = self.0.lock().unwrap();
        ensure!(!persons.is_empty(), "nobody was in a hurry");
        for mut person in persons.drain(..) {
            person.wait()?;
        }
        Ok(())
    }
}
