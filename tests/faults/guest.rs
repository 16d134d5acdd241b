//! The guest itself goes down while its containers are at rest.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use stillpoint_sim::engine::What;
use stillpoint_sim::node::Guest;
use stillpoint_sim::vzdump::replay::{Moment, Victim};

use super::harness::{Case, Ended};
use super::promise::{Promise, is_crash_consistent};
use super::scene::{At, Scene, kill, wait_for};

const FAULT: &str = "guest down while at rest";

pub fn cases() -> Vec<Case> {
    vec![
        Case::always(FAULT, "rebooted", rebooted),
        Case::always(FAULT, "rebooted, its engine comes up late", || late(Vec::new())),
        Case::always(FAULT, "rebooted, its engine comes up late, and vzdump killed", || {
            late(vec![kill("pre-stop", Moment::End, Victim::Group)])
        }),
        Case::always(FAULT, "stopped by somebody and started later", || stopped(false)),
        Case::always(FAULT, "stopped by somebody and started later, with hookscript", || {
            stopped(true)
        }),
        Case::always(FAULT, "rebooted while locked, from inside", || {
            kept_down("pre-stop", TRIGGER)
        }),
        Case::always(FAULT, "rebooted while locked, in the archive phase", || {
            kept_down("post-restart", TRIGGER)
        }),
        Case::always(FAULT, "rebooted while locked, by pct reboot", || kept_down("pre-stop", TASK)),
        Case::always(FAULT, "rebooted while locked, and vzdump killed", killed_after_reboot),
        Case::always(FAULT, "powered off by pct shutdown", powered_off),
        Case::always(FAULT, "rolled back later, with a stale note", rolled_back),
        Case::always(FAULT, "restored on a node that knows nothing", restored),
    ]
}

fn reboot(guest: &Arc<Guest>) {
    guest.set_marker("running", false).unwrap();
    wait_for("the guest is down", || !guest.engine.as_ref().unwrap().is_up()).unwrap();
    guest.set_marker("running", true).unwrap();
}

fn rebooted() -> Result<Ended> {
    let scene = Scene::new("lxc-snapshot-1vol", &|_| {});
    let mark = scene.marker();
    scene.when(At::Ended("pre-stop"), move |guest| {
        mark();
        reboot(guest);
    });
    let report = scene.play(Vec::new());
    is_crash_consistent(&report, "")?;
    Promise::of(&scene, &report).booted().kept()
}

/// What a real node has after a guest was rebooted while locked: after a reboot from inside, the
/// file of LXC's post-stop hook; after `pct reboot`, a failed task.
type Trace = fn(&Guest, &std::path::Path);
const TRIGGER: Trace = |guest, root| {
    let directory = root.join(format!("var/lib/lxc/{}", guest.vmid));
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("reboot"), "").unwrap();
};
const TASK: Trace = |guest, root| task(root, "vzreboot", guest.vmid);

fn task(root: &std::path::Path, kind: &str, vmid: u32) {
    let time = chrono::Utc::now().timestamp();
    let upid = format!("UPID:sim:0000ABCD:0000ABCD:{time:08X}:{kind}:{vmid}:root@pam:");
    let line = format!("{upid} {time:08X} CT is locked (backup)\n");
    std::fs::create_dir_all(root.join("var/log/pve/tasks")).unwrap();
    let active = root.join("var/log/pve/tasks/active");
    let before = std::fs::read_to_string(&active).unwrap_or_default();
    std::fs::write(active, before + &line).unwrap();
}

/// The guest goes down, and Proxmox VE does not start it while it is locked.
fn go_down(scene: &Scene, at: &'static str, trace: Trace) {
    let (mark, root) = (scene.marker(), scene.node.root().to_owned());
    scene.when(At::Ended(at), move |guest| {
        mark();
        assert_eq!(guest.lock().unwrap().as_deref(), Some("backup"));
        guest.set_marker("running", false).unwrap();
        trace(guest, &root);
    });
}

fn kept_down(at: &'static str, trace: Trace) -> Result<Ended> {
    let scene = Scene::new("lxc-snapshot-1vol", &|_| {});
    go_down(&scene, at, trace);
    let report = scene.play(Vec::new());
    ensure!(report.text().contains("rebooted while the backup had it locked"), "not said");
    // If they were back after the copy, the reboot is an ordinary one: a container without a
    // restart policy stays down.
    let except: &[&str] = if at == "pre-stop" { &[] } else { &["cache"] };
    Promise::of(&scene, &report).except(except).booted().kept()
}

fn killed_after_reboot() -> Result<Ended> {
    let scene = Scene::new("lxc-snapshot-1vol", &|_| {});
    go_down(&scene, "pre-stop", TRIGGER);
    let report = scene.play(vec![kill("post-restart", Moment::End, Victim::Group)]);
    Promise::of(&scene, &report).booted().kept()
}

/// It stays down and is named with the command that starts it; its containers come back at its next
/// start.
fn powered_off() -> Result<Ended> {
    let scene = Scene::new("lxc-snapshot-1vol", &|_| {});
    go_down(&scene, "pre-stop", |guest, root| task(root, "vzshutdown", guest.vmid));
    let stayed_down = start_later(&scene);
    let report = scene.play(Vec::new());
    ensure!(stayed_down.load(Ordering::SeqCst), "it was started");
    let said = report.text();
    ensure!(said.contains("powered off during the backup and stays so"), "{said}");
    ensure!(said.contains("pct start 9001"), "{said}");
    Promise::of(&scene, &report).booted().kept()
}

fn late(kills: Vec<stillpoint_sim::vzdump::replay::Kill>) -> Result<Ended> {
    let boot_takes = Duration::from_secs(3);
    let scene = Scene::new("lxc-snapshot-1vol", &move |guest| guest.engine.boot_takes = boot_takes);
    let mark = scene.marker();
    scene.when(At::Ended("pre-stop"), move |guest| {
        mark();
        reboot(guest);
    });
    let report = scene.play(kills);
    let kept = Promise::of(&scene, &report).booted().kept()?;
    Ok(Ended { own_ms: kept.own_ms.map(|ms| ms - 150 + 3000), ..kept })
}

/// The run stays open and guarded until the guest runs again.
fn stopped(hookscript: bool) -> Result<Ended> {
    let scene = Scene::new("lxc-snapshot-1vol", &|guest| guest.hookscript = hookscript);
    scene.when(At::Ended("pre-stop"), |guest| guest.set_marker("running", false).unwrap());
    start_later(&scene);
    let report = scene.play(Vec::new());
    Promise::of(&scene, &report).booted().kept()
}

/// Somebody starts the guest some time after the job; returns whether it was down until then.
fn start_later(scene: &Scene) -> Arc<AtomicBool> {
    let stayed_down = Arc::new(AtomicBool::new(false));
    let (mark, root) = (Arc::new(scene.marker()), scene.node.root().to_owned());
    let seen = Arc::clone(&stayed_down);
    scene.when(At::Ended("job-end"), move |guest| {
        let (guest, mark, root) = (Arc::clone(guest), Arc::clone(&mark), root.clone());
        let seen = Arc::clone(&seen);
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(1500));
            seen.store(!guest.is_running(), Ordering::SeqCst);
            mark();
            let mut pct = std::process::Command::new(root.join("usr/sbin/pct"));
            let done = pct.args(["start", &guest.vmid.to_string()]).status().unwrap();
            assert!(done.success(), "the guest could not be started");
        });
    });
    stayed_down
}

/// A rollback brings back an old note: containers that were started since are not touched.
fn rolled_back() -> Result<Ended> {
    let scene = Scene::new("lxc-snapshot-1vol", &|_| {});
    let note = scene.guest().dir().join("root/var/lib/stillpoint/quiesced.json");
    let kept = scene.node.path("tmp/note");
    let from = note.clone();
    scene.when(At::Ended("pre-stop"), move |_| {
        std::fs::copy(&from, &kept).unwrap();
    });
    let report = scene.play(Vec::new());
    ensure!(!note.exists(), "the note is still in the guest");
    std::fs::copy(scene.node.path("tmp/note"), &note)?;
    assert!(scene.engine().modify("cache", |cache| cache.status = ended()));
    let settled = scene.stillpoint(&["settle", "9001"]);
    ensure!(settled.status.success(), "{settled:?}");
    ensure!(scene.engine().count("cache", What::StartAsked) == 1, "cache was started again");
    ensure!(!note.exists(), "the stale note is still in the guest");
    let report = scene.report(report);
    Promise::of(&scene, &report).except(&["cache"]).kept()
}

fn ended() -> stillpoint_sim::engine::container::Status {
    stillpoint_sim::engine::container::Status::Exited
}

/// A guest restored from its backup, on a node without any record of it.
fn restored() -> Result<Ended> {
    let scene = Scene::new("lxc-snapshot-1vol", &|guest| guest.hookscript = true);
    let nothing = kill("pre-stop", Moment::End, Victim::Everything);
    let mut options = scene.options();
    (options.kills, options.settle) = (vec![nothing], Duration::ZERO);
    let report = scene.play_with(options);
    std::fs::remove_dir_all(scene.node.path("var/lib/stillpoint")).context("the node's state")?;
    scene.node.power_cut()?;
    scene.mark_again();
    scene.node.boot()?;
    scene.wait_until_quiet()?;
    let report = scene.report(report);
    let settled = report.records("settled").len();
    ensure!(settled == 1, "{settled} records\n{}", report.text());
    let mut promise = Promise::of(&scene, &report).booted();
    promise.begun = false;
    promise.kept()
}
