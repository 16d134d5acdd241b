//! Stored files are cut off, garbage, or of another version.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use stillpoint::journal::Actor;
use stillpoint::quiesce::{Errand, bring_back};
use stillpoint::sys::Root;
use stillpoint::vzdump::Vmid;
use stillpoint_sim::engine::container::{Restart, Status};
use stillpoint_sim::node::Guest;
use stillpoint_sim::vzdump::replay::{Moment, Victim};

use super::harness::{Case, Ended, Weight};
use super::promise::Promise;
use super::scene::{At, Scene, VMID, kill, runs};

const FAULT: &str = "state damaged";

/// A file can be cut off at many lengths; the short run tests every so many.
const STEP: usize = 61;

pub fn cases() -> Vec<Case> {
    vec![
        Case::always(FAULT, "the run cut off anywhere", || cut_off(STEP)),
        Case::always(FAULT, "the run cut off at every byte", || cut_off(1)).weighing(Weight::Long),
        Case::always(FAULT, "the run is garbage", || becomes(b"\x00\xff\x1b[2J garbage")),
        Case::always(FAULT, "the run is empty", || becomes(b"")),
        Case::always(FAULT, "the run is of another version", || becomes(b"{\"schema\": 99}")),
        Case::always(FAULT, "the run is a thousand deep", || becomes(&[b'['; 1000])),
        Case::always(FAULT, "the run is of 20 MB", || becomes(&[b' '; 20 << 20])),
        Case::always(FAULT, "the run cut off while vzdump lives", cut_off_while_vzdump_lives),
        Case::always(FAULT, "the journal is torn", torn_journal),
    ]
}

const NAMES: [&str; 3] = ["db", "cache", "web"];

/// The files of guest and node at rest: the run, and the note in the guest.
struct AtRest {
    scene: Scene,
    run: Vec<u8>,
    note: Vec<u8>,
}

impl AtRest {
    fn new() -> Result<Self> {
        let scene = Scene::new("lxc-snapshot-1vol", &|guest| {
            for container in &mut guest.containers {
                (container.stop_takes, container.start_takes) = (Duration::ZERO, Duration::ZERO);
                // Otherwise a guard would watch for a while whether it stays up.
                container.restart = Restart::UnlessStopped;
            }
        });
        let mut options = scene.options();
        options.kills = vec![kill("pre-stop", Moment::End, Victim::Everything)];
        options.settle = Duration::ZERO;
        scene.play_with(options);
        let run = std::fs::read(scene.run_file())?;
        let note = std::fs::read(Self::note(&scene))?;
        Ok(Self { scene, run, note })
    }

    fn note(scene: &Scene) -> std::path::PathBuf {
        scene.guest().dir().join("root/var/lib/stillpoint/quiesced.json")
    }

    /// Puts the guest into the state at rest again, with this content of the run's file, and checks
    /// that it comes back.
    fn comes_back_from(&self, run: &[u8]) -> Result<()> {
        let guest = self.scene.guest();
        for name in NAMES {
            self.scene.engine().modify(name, |container| container.status = Status::Exited);
        }
        std::fs::write(self.scene.run_file(), run)?;
        std::fs::write(Self::note(&self.scene), &self.note)?;
        let errand = Errand { by: Actor::Recover, reason: "a test", close: true, run: None };
        let deadline = Instant::now() + Duration::from_secs(60);
        let root = Root::at(self.scene.node.root());
        let back = bring_back(&root, Vmid(VMID), deadline, errand)?;
        let down: Vec<&str> = NAMES.into_iter().filter(|name| !runs(guest, name)).collect();
        ensure!(down.is_empty(), "down: {down:?}, {back:?}");
        ensure!(!self.scene.run_file().exists(), "the run is left: {back:?}");
        Ok(())
    }
}

fn cut_off(step: usize) -> Result<Ended> {
    let at_rest = AtRest::new()?;
    for length in (0..at_rest.run.len()).step_by(step) {
        at_rest
            .comes_back_from(&at_rest.run[..length])
            .map_err(|error| error.context(format!("cut off at byte {length}")))?;
        // The restart has changed their start times, which must match the note.
        at_rest.start_as_noted()?;
    }
    Ok(Ended::default())
}

impl AtRest {
    fn start_as_noted(&self) -> Result<()> {
        let note: serde_json::Value = serde_json::from_slice(&self.note)?;
        for noted in note["containers"].as_array().into_iter().flatten() {
            let time = noted["started_at"].as_str().unwrap_or_default().parse()?;
            let name = noted["name"].as_str().unwrap_or_default();
            self.scene.engine().modify(name, |container| container.started_at = Some(time));
        }
        Ok(())
    }
}

fn becomes(content: &'static [u8]) -> Result<Ended> {
    AtRest::new()?.comes_back_from(content)?;
    Ok(Ended::default())
}

fn damage(scene: &Scene) {
    let run = scene.run_file();
    scene.when(At::Ended("pre-stop"), move |_: &Arc<Guest>| {
        let text = std::fs::read(&run).unwrap();
        std::fs::write(&run, &text[..text.len() / 2]).unwrap();
    });
}

/// The note in the guest must be enough, and the grade is not better than what is known.
fn cut_off_while_vzdump_lives() -> Result<Ended> {
    let scene = Scene::new("lxc-snapshot-1vol", &|_| {});
    damage(&scene);
    let mark = scene.marker();
    scene.when(At::Ended("pre-stop"), move |_| mark());
    let report = scene.play(Vec::new());
    let clean = report.journal.iter().any(|record| record["grade"] == "clean");
    ensure!(!clean, "a backup nobody knows anything of is called clean\n{}", report.text());
    Promise::of(&scene, &report).kept()
}

/// A power cut in the middle of a journal line.
fn torn_journal() -> Result<Ended> {
    let scene = Scene::new("lxc-snapshot-1vol", &|_| {});
    let mut options = scene.options();
    options.kills = vec![kill("pre-stop", Moment::End, Victim::Everything)];
    options.settle = Duration::ZERO;
    scene.play_with(options);
    let path = scene.node.path("var/lib/stillpoint/journal.jsonl");
    std::fs::write(&path, "{\"schema\":1,\"kind\":\"backup\",\"ti")?;
    scene.mark_again();
    scene.node.recover()?;
    scene.wait_until_quiet()?;
    let told = std::fs::read_to_string(&path)?;
    let whole = |line: &&str| serde_json::from_str::<serde_json::Value>(line).is_ok();
    let recovered = told.lines().filter(whole).any(|line| line.contains("\"recovered\""));
    ensure!(recovered, "the recovery is not journalled: {told}");
    ensure!(NAMES.into_iter().all(|name| runs(scene.guest(), name)), "not all are back");
    Ok(Ended { back_ms: scene.back_ms(), own_ms: Some(200), skipped: None })
}
