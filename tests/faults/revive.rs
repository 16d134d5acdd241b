//! A guest that a dead vzdump left frozen or down: revived only if that is allowed.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Result, ensure};
use stillpoint_sim::hooks::Binaries;
use stillpoint_sim::node::Guest;
use stillpoint_sim::vzdump::bystander::{Bystander, Title};
use stillpoint_sim::vzdump::replay::{Moment, Victim};

use super::harness::{Case, Ended};
use super::promise::Promise;
use super::scene::{At, Scene, binaries, kill};

const FAULT: &str = "guest left frozen or down";
const STOP: &str = "lxc-stop-running";
const SUSPEND: &str = "lxc-suspend";

/// How long to check that nothing forbidden is done.
const WATCH: Duration = Duration::from_secs(3);

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (mode, left) in [(SUSPEND, "frozen"), (STOP, "down")] {
        let case = |name: &str, run: fn(&'static str) -> Result<Ended>| {
            Case::always(FAULT, &format!("{name}, {left}"), move || run(mode))
        };
        cases.extend([
            case("under a lock of somebody else", locked_by_another),
            case("another job is at it", another_job_is_at_it),
            case("another job waits", another_job_waits),
            case("another job is at another guest", another_guest),
            case("a process has the title of a worker at it", only_a_title),
            case("a person is to do it", a_person_is_told),
            case("something of vzdump still lives", vzdump_lives_on),
        ]);
    }
    cases
}

fn is_back(guest: &Guest) -> bool {
    guest.is_running() && !guest.is_frozen()
}

/// vzdump dies at work; for a while nothing may be done to the guest; then `release` allows it.
fn not_before(
    scene: &Scene,
    victim: Victim,
    release: impl Fn(&Arc<Guest>) + Send + Sync + 'static,
) -> Result<Ended> {
    let (early, watcher) = (Arc::new(Mutex::new(None)), Arc::new(Mutex::new(None)));
    let (seen, release) = (Arc::clone(&early), Arc::new(release));
    let started = Arc::clone(&watcher);
    let mark = Arc::new(scene.marker());
    scene.when(At::Ended("pre-stop"), move |guest| {
        let (guest, seen) = (Arc::clone(guest), Arc::clone(&seen));
        let (release, mark) = (Arc::clone(&release), Arc::clone(&mark));
        *started.lock().unwrap() = Some(std::thread::spawn(move || {
            while is_back(&guest) {
                std::thread::sleep(Duration::from_millis(5));
            }
            std::thread::sleep(WATCH);
            *seen.lock().unwrap() = Some(is_back(&guest));
            mark();
            release(&guest);
        }));
    });
    let report = scene.play(vec![kill("pre-stop", Moment::Working, victim)]);
    let watched = watcher.lock().unwrap().take().map(std::thread::JoinHandle::join);
    ensure!(matches!(watched, Some(Ok(()))), "who clears the way has failed, see above");
    let early = *early.lock().unwrap();
    ensure!(early == Some(false), "brought back too early: {early:?}\n{}", report.text());
    let kept = Promise::of(scene, &report).booted().kept()?;
    // The time starts at the kill and includes the time in which nothing may be done.
    let watched = WATCH.as_millis() as u64;
    Ok(Ended { back_ms: kept.back_ms.map(|ms| ms.saturating_sub(watched)), ..kept })
}

fn locked_by_another(mode: &'static str) -> Result<Ended> {
    let scene = Scene::new(mode, &|_| {});
    scene.when(At::Ended("pre-stop"), |guest| guest.set_lock(Some("migrate")).unwrap());
    let root = scene.node.root().to_owned();
    not_before(&scene, Victim::Group, move |guest| {
        refuses_a_person(&root, guest, "locked (migrate)");
        guest.set_lock(None).unwrap();
    })
}

/// `resume` does not thaw such a guest either, and says why.
fn refuses_a_person(root: &Path, guest: &Guest, why: &str) {
    if !guest.is_frozen() {
        return;
    }
    let resumed = resume(root, guest);
    let said = String::from_utf8_lossy(&resumed.stderr);
    assert!(!resumed.status.success() && said.contains(why), "{said}");
    assert!(guest.is_frozen());
}

fn resume(root: &Path, guest: &Guest) -> Output {
    let mut resume = Command::new(&binaries().stillpoint);
    resume.args(["resume", &guest.vmid.to_string()]).env("STILLPOINT_ROOT", root);
    resume.output().unwrap()
}

/// The worker of another job, working on that guest or on none.
fn other_job(scene: &Scene, title: Title, at: Option<u32>) -> Result<Bystander> {
    let mut log = String::from("INFO: starting new backup job: vzdump 9001 9003\n");
    if let Some(vmid) = at {
        log += &format!("INFO: Starting Backup of VM {vmid} (lxc)\n");
    }
    Bystander::start(&scene.node, title, &log)
}

fn another_job_is_at_it(mode: &'static str) -> Result<Ended> {
    let scene = Scene::new(mode, &|_| {});
    let job = Mutex::new(Some(other_job(&scene, Title::True, Some(9001))?));
    let root = scene.node.root().to_owned();
    not_before(&scene, Victim::Group, move |guest| {
        refuses_a_person(&root, guest, "by a backup that is under way");
        *job.lock().unwrap() = None;
    })
}

fn at_once_beside(mode: &'static str, title: Title, at: Option<u32>) -> Result<Ended> {
    let scene = Scene::new(mode, &|_| {});
    let mut job = other_job(&scene, title, at)?;
    let report = scene.play(vec![kill("pre-stop", Moment::Working, Victim::Group)]);
    ensure!(job.lives()?, "the other job has ended by itself");
    Promise::of(&scene, &report).booted().kept()
}

fn another_job_waits(mode: &'static str) -> Result<Ended> {
    at_once_beside(mode, Title::True, None)
}

fn another_guest(mode: &'static str) -> Result<Ended> {
    at_once_beside(mode, Title::True, Some(9003))
}

/// Any user can give a process the title of a vzdump worker, even inside a guest.
fn only_a_title(mode: &'static str) -> Result<Ended> {
    at_once_beside(mode, Title::MadeUp, Some(9001))
}

/// A mail to root names the commands, and nothing is done; then the admin runs them.
fn a_person_is_told(mode: &'static str) -> Result<Ended> {
    let scene = Scene::new(mode, &|_| {});
    scene.settings("[resume]\nrevive-guest = false\n");
    scene.keep_mail();
    let root = scene.node.root().to_owned();
    let kept = not_before(&scene, Victim::Group, move |guest| {
        let vmid = guest.vmid.to_string();
        let run = |program: &str, words: &[&str]| {
            let done = Command::new(root.join(program)).args(words).arg(&vmid).status().unwrap();
            assert!(done.success(), "{program} {words:?}");
        };
        if guest.is_running() {
            let said = resume(&root, guest);
            assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
            assert!(String::from_utf8_lossy(&said.stdout).contains("was frozen. It is thawed"));
        } else {
            run("usr/sbin/pct", &["unlock"]);
            run("usr/sbin/pct", &["start"]);
        }
    })?;
    let mail = scene.mail();
    let command = match mode {
        STOP => "pct unlock 9001 && pct start 9001",
        _ => "stillpoint resume 9001",
    };
    ensure!(mail.matches(command).count() == 1, "the mail: {mail}");
    let back = "Subject: Stillpoint: guest 9001 is back after a backup that died";
    // The admin who ran `resume` needs no mail.
    ensure!(mail.matches(back).count() == usize::from(mode == STOP), "the mail: {mail}");
    Ok(kept)
}

/// A process that vzdump had started is still alive in its session, and may have the volumes
/// mounted.
fn vzdump_lives_on(mode: &'static str) -> Result<Ended> {
    let directory = std::env::temp_dir().join("hook-with-a-child");
    std::fs::create_dir_all(&directory)?;
    let (hook, child) = (directory.join("vzdump-hook"), directory.join("child"));
    let real = binaries();
    let script = format!(
        "#!/bin/sh\nif [ \"$1\" = pre-stop ]; then\n\
         /bin/sleep 600 </dev/null >/dev/null 2>&1 &\necho $! >{}\nfi\nexec {} \"$@\"\n",
        child.display(),
        real.vzdump_hook.display()
    );
    std::fs::write(&hook, script)?;
    std::fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let wrapped = Binaries { vzdump_hook: hook, ..real };
    let scene = Scene::with(mode, &wrapped, &|_| {});
    not_before(&scene, Victim::Worker, move |_| {
        let pid: i32 = std::fs::read_to_string(&child).unwrap().trim().parse().unwrap();
        stillpoint_sim::process::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    })
}
