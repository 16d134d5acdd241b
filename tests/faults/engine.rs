//! Changes by others to the containers while they are at rest, and containers that Stillpoint must
//! not touch.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use chrono::Utc;
use serde_json::Value;
use stillpoint_sim::engine::container::{Restart, Spec, Status};
use stillpoint_sim::engine::stack::throwaway;
use stillpoint_sim::engine::{Engine, What};
use stillpoint_sim::node::Guest;
use stillpoint_sim::vzdump::replay::{Moment, Victim};
use stillpoint_sim::vzdump::report::Report;

use super::harness::{Case, Ended, Weight};
use super::promise::{Promise, backup, is_crash_consistent};
use super::scene::{At, Scene, docker, kill, runs};

const FAULT: &str = "containers changed by others";

pub fn cases() -> Vec<Case> {
    vec![
        Case::always(FAULT, "started while at rest", started),
        Case::always(FAULT, "started and ended while at rest", started_and_ended),
        Case::always(FAULT, "made anew, not running", made_anew),
        Case::always(FAULT, "made anew, not running, and vzdump killed", made_anew_and_killed),
        Case::always(FAULT, "made anew and running", made_anew_and_running),
        Case::always(FAULT, "removed", removed),
        Case::always(FAULT, "made with --rm", with_rm),
        Case::always(FAULT, "made with --rm, and vzdump killed", with_rm_and_killed),
        Case::always(FAULT, "paused, restarting, exited or created before", others_before),
        Case::always(FAULT, "paused by somebody before", paused_before),
        Case::always(FAULT, "restarting again and again", restarting),
        Case::always(FAULT, "killed by their guest's shutdown", killed_by_the_shutdown),
        Case::always(FAULT, "a removal without end", removed_for_ever).weighing(Weight::Long),
        Case::always("start fails", "a few times", start_fails),
        Case::always("start fails", "a few times, and vzdump killed", start_fails_and_killed),
        Case::always("start fails", "for ever", start_always_fails).weighing(Weight::Long),
        Case::always("start fails", "for ever, and vzdump killed", start_always_fails_and_killed)
            .weighing(Weight::Long),
    ]
}

fn engine(guest: &Arc<Guest>) -> &Engine {
    guest.engine.as_ref().unwrap()
}

/// A scene with this action on the guest while it is at rest.
fn meanwhile(act: impl Fn(&Arc<Guest>) + Send + Sync + 'static) -> Scene {
    let scene = Scene::new("lxc-snapshot-1vol", &|_| {});
    let mark = scene.marker();
    scene.when(At::Ended("pre-stop"), move |guest| {
        assert!(!runs(guest, "db"), "the guest was not brought to rest");
        act(guest);
        mark();
    });
    scene
}

fn at_rest(victim: Victim) -> Vec<stillpoint_sim::vzdump::replay::Kill> {
    vec![kill("pre-stop", Moment::End, victim)]
}

fn started() -> Result<Ended> {
    let scene = meanwhile(|guest| docker(guest, "/containers/db/start").unwrap());
    let report = scene.play(Vec::new());
    is_crash_consistent(&report, "db was started by somebody else")?;
    Promise::of(&scene, &report).kept()
}

/// It ran at the snapshot's instant, or near it, and has ended when it is inspected.
fn started_and_ended() -> Result<Ended> {
    let scene = meanwhile(|guest| {
        docker(guest, "/containers/db/start").unwrap();
        docker(guest, "/containers/db/stop").unwrap();
    });
    let report = scene.play(Vec::new());
    is_crash_consistent(&report, "db")?;
    // Somebody stopped it on purpose.
    Promise::of(&scene, &report).except(&["db"]).kept()
}

fn made_anew() -> Result<Ended> {
    let scene = meanwhile(|guest| assert!(engine(guest).recreate("db", false)));
    let report = scene.play(Vec::new());
    is_crash_consistent(&report, "db")?;
    Promise::of(&scene, &report).kept()
}

fn made_anew_and_killed() -> Result<Ended> {
    let scene = meanwhile(|guest| assert!(engine(guest).recreate("db", false)));
    let report = scene.play(at_rest(Victim::Group));
    Promise::of(&scene, &report).kept()
}

fn made_anew_and_running() -> Result<Ended> {
    let scene = meanwhile(|guest| assert!(engine(guest).recreate("db", true)));
    let report = scene.play(Vec::new());
    is_crash_consistent(&report, "db")?;
    Promise::of(&scene, &report).kept()
}

fn removed() -> Result<Ended> {
    let scene = meanwhile(|guest| assert!(engine(guest).remove("cache").is_some()));
    let report = scene.play(Vec::new());
    is_crash_consistent(&report, "cache")?;
    ensure!(fate(&report, "cache")? == "gone", "{}", report.text());
    Promise::of(&scene, &report).except(&["cache"]).kept()
}

fn fate(report: &Report, name: &str) -> Result<String> {
    let containers = &backup(report)?["containers"];
    let its = containers.as_array().into_iter().flatten().find(|it| it["name"] == name);
    let fate = its.map(|it| &it["fate"]).and_then(Value::as_str);
    fate.map(str::to_owned).with_context(|| format!("{name} is not journalled"))
}

fn throwaways() -> Scene {
    Scene::new("lxc-snapshot-1vol", &|guest| guest.containers.push(throwaway()))
}

fn is_only_paused(scene: &Scene, paused: usize) -> Result<()> {
    let count = |what| scene.engine().count("import", what);
    ensure!(count(What::StopAsked) == 0, "a container made with --rm was stopped");
    ensure!(count(What::Paused) == paused && count(What::Removed) == 0, "it was not paused");
    Ok(())
}

fn with_rm() -> Result<Ended> {
    let scene = throwaways();
    let report = scene.play(Vec::new());
    is_only_paused(&scene, 1)?;
    ensure!(backup(&report)?["grade"] == "mixed", "{}", report.text());
    Promise::of(&scene, &report).kept()
}

fn with_rm_and_killed() -> Result<Ended> {
    let scene = throwaways();
    let report = scene.play(at_rest(Victim::Group));
    is_only_paused(&scene, 1)?;
    Promise::of(&scene, &report).kept()
}

fn others_before() -> Result<Ended> {
    let others = [
        ("paused", Status::Paused),
        ("restarting", Status::Restarting),
        ("exited", Status::Exited),
        ("created", Status::Created),
    ];
    let scene = Scene::new("lxc-snapshot-1vol", &|guest| {
        for (name, status) in others {
            let spec = Spec::service("other", name).restart(Restart::No).status(status);
            guest.containers.push(spec);
        }
    });
    let report = scene.play(at_rest(Victim::Group));
    for (name, status) in others {
        let container = scene.engine().containers().into_iter().find(|it| it.spec.name == name);
        let container = container.with_context(|| format!("{name} is gone"))?;
        ensure!(container.status == status, "{name} is {:?} now", container.status);
        for what in [What::StopAsked, What::StartAsked, What::Paused, What::Unpaused] {
            ensure!(scene.engine().count(name, what) == 0, "{name} was touched: {what:?}");
        }
    }
    Promise::of(&scene, &report).kept()
}

fn with_another(status: Status) -> Scene {
    Scene::new("lxc-snapshot-1vol", &|guest| {
        let spec = Spec::service("other", "another").restart(Restart::No).status(status);
        guest.containers.push(spec);
    })
}

/// A paused container is not shut down.
fn paused_before() -> Result<Ended> {
    let scene = with_another(Status::Paused);
    let report = scene.play(Vec::new());
    ensure!(backup(&report)?["grade"] == "mixed", "{}", report.text());
    ensure!(scene.engine().count("another", What::Unpaused) == 0, "it was unpaused");
    Promise::of(&scene, &report).except(&["another"]).kept()
}

/// It may have run at the snapshot's instant, unless it ended before.
fn restarting() -> Result<Ended> {
    let scene = with_another(Status::Restarting);
    let report = scene.play(Vec::new());
    ensure!(backup(&report)?["grade"] == "clean", "{}", report.text());
    let scene = with_another(Status::Restarting);
    scene.when(At::Ended("pre-stop"), |guest| {
        assert!(engine(guest).modify("another", |it| it.finished_at = Some(Utc::now())));
    });
    let report = scene.play(Vec::new());
    // It is found between two of its restarts, or during one.
    is_crash_consistent(&report, "another was ")?;
    for what in [What::StopAsked, What::StartAsked, What::Paused] {
        ensure!(scene.engine().count("another", what) == 0, "another was touched: {what:?}");
    }
    Promise::of(&scene, &report).except(&["another"]).kept()
}

/// An engine with live-restore leaves its containers running when it ends.
fn killed_by_the_shutdown() -> Result<Ended> {
    let scene = Scene::new("lxc-stop-running", &|guest| guest.engine.live_restore = true);
    let report = scene.play(Vec::new());
    is_crash_consistent(&report, "live-restore")?;
    Promise::of(&scene, &report).booted().kept()
}

fn failing(starts: u32) -> Scene {
    meanwhile(move |guest| {
        assert!(engine(guest).modify("db", |db| db.spec.failing_starts = starts));
    })
}

fn start_fails() -> Result<Ended> {
    let scene = failing(3);
    let report = scene.play(Vec::new());
    Promise::of(&scene, &report).kept()
}

fn start_fails_and_killed() -> Result<Ended> {
    let scene = failing(5);
    let report = scene.play(at_rest(Victim::Group));
    Promise::of(&scene, &report).kept()
}

/// A container that cannot start does not keep others down, and does not keep the run open for
/// ever.
fn start_always_fails() -> Result<Ended> {
    gives_up(Vec::new())
}

fn start_always_fails_and_killed() -> Result<Ended> {
    gives_up(at_rest(Victim::Group))
}

fn removed_for_ever() -> Result<Ended> {
    let scene = meanwhile(|guest| {
        assert!(engine(guest).modify("db", |db| db.status = Status::Removing));
    });
    is_given_up(&scene, Vec::new(), "Removing")
}

fn gives_up(kills: Vec<stillpoint_sim::vzdump::replay::Kill>) -> Result<Ended> {
    is_given_up(&failing(u32::MAX), kills, "allocated")
}

fn is_given_up(
    scene: &Scene,
    kills: Vec<stillpoint_sim::vzdump::replay::Kill>,
    why: &str,
) -> Result<Ended> {
    let report = scene.play(kills);
    let told = |record: &Value| {
        let containers = record["containers"].as_array().cloned().unwrap_or_default();
        let failed = |it: &Value| it["name"] == "db" && it["fate"] == "failed";
        containers.iter().any(|it| failed(it) && it["error"].to_string().contains(why))
    };
    ensure!(report.journal.iter().any(told), "it is not said that db failed\n{}", report.text());
    let kept = Promise::of(scene, &report).except(&["db"]).kept()?;
    // How long Stillpoint tries is a choice, and no measure of its speed.
    Ok(Ended { back_ms: None, own_ms: None, ..kept })
}
