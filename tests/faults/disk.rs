//! The node's disk is full or read-only, the journal cannot be written, the cluster has no quorum.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::mount::{MsFlags, mount, umount};
use stillpoint_sim::engine::What;
use stillpoint_sim::node::Guest;
use stillpoint_sim::vzdump::replay::{Kill, Moment, Victim};

use super::harness::{Case, Ended, may_mount};
use super::promise::Promise;
use super::scene::{At, Scene, kill, runs, wait_for};

const FAULT: &str = "nothing can be written";

/// How long the disk stays in that state after everything is back.
const LATER: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, PartialEq)]
enum Trouble {
    Full,
    ReadOnly,
    NoJournal,
}

const TROUBLES: [(&str, Trouble); 3] = [
    ("the disk is full", Trouble::Full),
    ("the disk is read-only", Trouble::ReadOnly),
    ("the journal can't be written", Trouble::NoJournal),
];

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, trouble) in TROUBLES {
        cases.push(Case::always(FAULT, &format!("{name}, from the start"), move || {
            mounted(|scene| from_the_start(scene, trouble))
        }));
        for (way, victim) in [
            ("", None),
            (", and vzdump killed", Some(Victim::Group)),
            (", and everything killed", Some(Victim::Everything)),
        ] {
            let name = format!("{name}, from pre-stop on{way}");
            cases.push(Case::always(FAULT, &name, move || {
                mounted(|scene| while_at_rest(scene, trouble, victim))
            }));
        }
    }
    cases.push(Case::always(FAULT, "no quorum, at rest", || no_quorum("lxc-snapshot-1vol")));
    cases.push(Case::always(FAULT, "no quorum, guest frozen", || no_quorum("lxc-suspend")));
    cases.push(Case::always(FAULT, "no quorum, guest down", || no_quorum("lxc-stop-running")));
    cases
}

fn skipped(why: &str) -> Result<Ended> {
    Ok(Ended { skipped: Some(why.to_owned()), ..Ended::default() })
}

fn state(scene: &Scene) -> PathBuf {
    scene.node.path("var/lib/stillpoint")
}

/// Runs it with a disk of its own, of 256 kB, for the node's state. A disk is a mount, which needs
/// a namespace.
fn mounted(run: impl Fn(&Scene) -> Result<Ended>) -> Result<Ended> {
    if !may_mount() {
        return skipped("it takes a mount namespace of its own (unshare)");
    }
    let scene = Scene::new("lxc-snapshot-1vol", &|_| {});
    let none: Option<&Path> = None;
    let size: Option<&Path> = Some(Path::new("size=256k"));
    mount(none, &state(&scene), Some("tmpfs"), MsFlags::empty(), size)?;
    let ended = run(&scene);
    let mended = mend(&state(&scene));
    scene.node.kill_processes()?;
    umount(&state(&scene))?;
    ended.and_then(|ended| mended.map(|()| ended))
}

fn remount(at: &Path, flags: MsFlags) -> Result<()> {
    let none: Option<&Path> = None;
    Ok(mount(none, at, none, MsFlags::MS_REMOUNT | flags, none)?)
}

fn begin(trouble: Trouble, state: &Path) -> Result<()> {
    match trouble {
        Trouble::Full => {
            let ballast = std::fs::File::create(state.join("ballast"))?;
            let mut written = 0;
            let page = [0_u8; 4096];
            while std::os::unix::fs::FileExt::write_at(&ballast, &page, written).is_ok() {
                written += page.len() as u64;
            }
            ensure!(written > 0, "the disk was full before");
        }
        Trouble::ReadOnly => remount(state, MsFlags::MS_RDONLY)?,
        Trouble::NoJournal => {
            let journal = state.join("journal.jsonl");
            if journal.exists() {
                std::fs::rename(&journal, state.join("journal.jsonl.1"))?;
            }
            // A link into a directory that does not exist.
            std::os::unix::fs::symlink("missing/journal.jsonl", journal)?;
        }
    }
    Ok(())
}

fn mend(state: &Path) -> Result<()> {
    remount(state, MsFlags::empty())?;
    if state.join("ballast").exists() {
        std::fs::remove_file(state.join("ballast"))?;
    }
    if state.join("journal.jsonl").is_symlink() {
        std::fs::remove_file(state.join("journal.jsonl"))?;
    }
    Ok(())
}

/// Nothing is stopped if it cannot be recorded, and the task log says so; the backup is made.
fn from_the_start(scene: &Scene, trouble: Trouble) -> Result<Ended> {
    begin(trouble, &state(scene))?;
    // There is room again when the job is over.
    let at = state(scene);
    scene.when(At::Ended("job-end"), move |_| mend(&at).unwrap());
    let report = scene.play(Vec::new());
    let said: Vec<&String> = report.calls.iter().flat_map(|call| &call.said).collect();
    if trouble != Trouble::NoJournal {
        for name in ["db", "cache", "web"] {
            let stops = scene.engine().count(name, What::StopAsked);
            ensure!(stops == 0, "{name} was stopped\n{}", report.text());
        }
        let honest = said.iter().any(|line| line.contains("crash-consistent"));
        ensure!(honest, "the task log does not say it: {said:?}");
    }
    let mut promise = Promise::of(scene, &report);
    // With such a disk there may be no record.
    promise.begun = false;
    promise.kept()
}

fn all_run(guest: &Guest) -> bool {
    ["db", "cache", "web"].into_iter().all(|name| runs(guest, name))
}

/// What is stopped is started again although nothing can be written; the run is removed when there
/// is room again.
fn while_at_rest(scene: &Scene, trouble: Trouble, victim: Option<Victim>) -> Result<Ended> {
    let at = state(scene);
    let mark = scene.marker();
    let later = at.clone();
    scene.when(At::Ended("pre-stop"), move |guest| {
        begin(trouble, &at).unwrap();
        mark();
        let (guest, later) = (Arc::clone(guest), later.clone());
        std::thread::spawn(move || {
            while !all_run(&guest) {
                std::thread::sleep(Duration::from_millis(20));
            }
            std::thread::sleep(LATER);
            mend(&later).unwrap();
        });
    });
    let kills: Vec<Kill> =
        victim.into_iter().map(|victim| kill("pre-stop", Moment::End, victim)).collect();
    let mut options = scene.options();
    let everything = victim == Some(Victim::Everything);
    if everything {
        options.settle = Duration::ZERO;
    }
    let mut report = scene.play_with({
        options.kills = kills;
        options
    });
    if everything {
        scene.mark_again();
        scene.node.recover()?;
        scene.wait_until_quiet()?;
        report = scene.report(report);
    }
    let mut promise = Promise::of(scene, &report);
    promise.begun = victim.is_some();
    promise.kept()
}

/// Without quorum `/etc/pve` is read-only: nobody can unlock, but containers are started and a
/// guest is thawed. The lock is removed once there is quorum again.
fn no_quorum(mode: &'static str) -> Result<Ended> {
    if !may_mount() {
        return skipped("it takes a mount namespace of its own (unshare)");
    }
    let scene = Scene::new(mode, &|_| {});
    let pve = scene.node.path("etc/pve");
    let none: Option<&Path> = None;
    mount(Some(&pve), &pve, none, MsFlags::MS_BIND, none)?;
    let (lost, mark) = (pve.clone(), Arc::new(scene.marker()));
    scene.when(At::Ended("pre-stop"), move |guest| {
        let (guest, mark, lost) = (Arc::clone(guest), Arc::clone(&mark), lost.clone());
        let (is_lost, seen) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            if mode != "lxc-snapshot-1vol" {
                while guest.is_running() && !guest.is_frozen() {
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
            remount(&lost, MsFlags::MS_BIND | MsFlags::MS_RDONLY).unwrap();
            // Only one of the modes waits for this.
            let _ = is_lost.send(());
            if mode == "lxc-stop-running" {
                // A guest cannot be started without quorum.
                std::thread::sleep(Duration::from_secs(3));
                mark();
            } else {
                wait_for("web runs again", || runs(&guest, "web")).unwrap();
                assert_eq!(guest.lock().unwrap().as_deref(), Some("backup"));
            }
            remount(&lost, MsFlags::MS_BIND).unwrap();
        });
        if mode == "lxc-snapshot-1vol" {
            seen.recv().unwrap();
        }
    });
    let moment = if mode == "lxc-snapshot-1vol" { Moment::End } else { Moment::Working };
    let report = scene.play(vec![kill("pre-stop", moment, Victim::Group)]);
    umount(&pve)?;
    Promise::of(&scene, &report).booted().kept()
}
