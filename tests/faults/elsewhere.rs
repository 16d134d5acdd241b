//! The guest was replaced by another, or moved to another node.

use std::sync::Arc;

use anyhow::{Result, ensure};
use stillpoint_sim::engine::What;
use stillpoint_sim::engine::container::Status;
use stillpoint_sim::node::Guest;
use stillpoint_sim::vzdump::replay::{Moment, Victim};
use stillpoint_sim::vzdump::report::Report;

use super::harness::{Case, Ended};
use super::scene::{At, Scene, VMID, kill};

const FAULT: &str = "guest gone or another";

pub fn cases() -> Vec<Case> {
    vec![
        Case::always(FAULT, "migrated", || gone("moved to node other", migrate)),
        Case::always(FAULT, "destroyed", || gone("the guest is gone", destroy)),
        Case::always(FAULT, "replaced by another of the same number", replaced),
        Case::always(FAULT, "replaced by another of the same number, next backup", next_backup),
    ]
}

fn conf(guest: &Guest) -> std::path::PathBuf {
    guest.dir().join(format!("../../etc/pve/nodes/sim/lxc/{VMID}.conf"))
}

fn migrate(guest: &Arc<Guest>) {
    guest.set_marker("running", false).unwrap();
    let other = guest.dir().join("../../etc/pve/nodes/other/lxc");
    std::fs::create_dir_all(&other).unwrap();
    std::fs::rename(conf(guest), other.join(format!("{VMID}.conf"))).unwrap();
}

fn destroy(guest: &Arc<Guest>) {
    guest.set_marker("running", false).unwrap();
    std::fs::remove_file(conf(guest)).unwrap();
}

fn closed(report: &Report, because: &str) -> Result<()> {
    ensure!(report.runs_left.is_empty(), "a run is left\n{}", report.text());
    ensure!(report.processes_left.is_empty(), "somebody is left\n{}", report.text());
    let told = |record: &serde_json::Value| record.to_string().contains(because);
    ensure!(report.journal.iter().any(told), "nothing says: {because}\n{}", report.text());
    Ok(())
}

fn gone(because: &str, act: fn(&Arc<Guest>)) -> Result<Ended> {
    let scene = Scene::new("lxc-snapshot-1vol", &|_| {});
    scene.when(At::Ended("pre-stop"), act);
    let report = scene.play(vec![kill("pre-stop", Moment::End, Victim::Group)]);
    closed(&report, because)?;
    Ok(Ended::default())
}

/// The new guest's containers have the same names, and are stopped because their owner wants that.
fn replace(guest: &Arc<Guest>) {
    let text = guest.config().unwrap().replace("disk-0", "disk-7").replace("lock: backup\n", "");
    guest.set_config(&text).unwrap();
    let engine = guest.engine.as_ref().unwrap();
    for container in engine.containers() {
        let name = container.spec.name;
        assert!(engine.recreate(&name, false));
        assert!(engine.modify(&name, |container| container.status = Status::Exited));
    }
}

fn replaced() -> Result<Ended> {
    let scene = Scene::new("lxc-snapshot-1vol", &|_| {});
    scene.when(At::Ended("pre-stop"), replace);
    let report = scene.play(vec![kill("pre-stop", Moment::End, Victim::Group)]);
    untouched(&scene)?;
    closed(&report, "replaced by another")?;
    Ok(Ended::default())
}

fn next_backup() -> Result<Ended> {
    let scene = Scene::new("lxc-snapshot-1vol", &|_| {});
    scene.when(At::Ended("pre-stop"), replace);
    let mut options = scene.options();
    options.kills = vec![kill("pre-stop", Moment::End, Victim::Everything)];
    options.settle = std::time::Duration::ZERO;
    scene.play_with(options);
    let report = scene.play(Vec::new());
    untouched(&scene)?;
    closed(&report, "replaced by another")?;
    ensure!(report.records("backup").len() == 2, "{}", report.text());
    Ok(Ended::default())
}

fn untouched(scene: &Scene) -> Result<()> {
    for name in ["db", "cache", "web"] {
        let starts = scene.engine().count(name, What::StartAsked);
        ensure!(starts == 0, "{name} of another guest was started");
    }
    Ok(())
}
