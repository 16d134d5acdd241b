//! A malicious guest, with the hook limited to 256 MiB of address space: the backup goes on and the
//! node is not affected.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use stillpoint_sim::engine::container::{DEPENDS_ON, Spec};
use stillpoint_sim::engine::{Hostile, What};
use stillpoint_sim::hooks::Binaries;
use stillpoint_sim::node::GuestSpec;
use stillpoint_sim::vzdump::replay::{Moment, Victim};
use stillpoint_sim::vzdump::report::Report;

use super::harness::{Case, Ended, Weight};
use super::promise::{Promise, backup, is_crash_consistent};
use super::scene::{At, Scene, binaries, kill};

const FAULT: &str = "hostile guest";

/// The limit for all phases of one backup: the survey, a stop, and the sum of the limits.
const BOUND: Duration = Duration::from_secs(180);

/// What is at the path of the engine's socket in the guest.
const SOCKETS: [(&str, Thing); 6] = [
    ("a FIFO", Thing::Fifo),
    ("a directory", Thing::Directory),
    ("a file", Thing::Sparse),
    ("a symlink out of the guest", Thing::LinkOut),
    ("a symlink up and out of the guest", Thing::LinkUp),
    ("a symlink to itself", Thing::Loop),
];

/// What is at the path of the note in the guest.
const NOTES: [(&str, Thing); 6] = [
    ("a FIFO", Thing::Fifo),
    ("a directory", Thing::Directory),
    ("a file of 1 GB", Thing::Sparse),
    ("a symlink out of the guest", Thing::LinkOut),
    ("JSON a thousand deep", Thing::Deep),
    ("a plan that names what is not there", Thing::WildPlan),
];

#[derive(Clone, Copy, PartialEq)]
enum Thing {
    Fifo,
    Directory,
    Sparse,
    LinkOut,
    LinkUp,
    Loop,
    Deep,
    WildPlan,
}

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, hostile) in [
        ("an engine that is silent", Hostile::Silent),
        ("an engine that trickles", Hostile::Trickle),
        ("an endless list", Hostile::EndlessList),
        ("answers a thousand deep", Hostile::Deep(1000)),
        ("answers a million deep", Hostile::Deep(1_000_000)),
        ("answers that are garbage", Hostile::Garbage),
        ("an engine that hangs up", Hostile::Hangup),
        ("an engine that fails", Hostile::Fails(500)),
        ("an engine that knows nothing", Hostile::Fails(404)),
        ("an engine that lies", Hostile::Liar),
        ("an engine deaf to stops", Hostile::DeafToStop),
    ] {
        let slow = matches!(hostile, Hostile::Silent | Hostile::Trickle);
        let (before, later) = (hostile.clone(), hostile);
        let case = Case::always(FAULT, name, move || from_the_start(before.clone()));
        cases.push(case.weighing(if slow { Weight::Long } else { Weight::Always }));
        let name = format!("{name}, once it is at rest");
        let case = Case::always(FAULT, &name, move || while_at_rest(later.clone()));
        cases.push(case.weighing(Weight::Long));
    }
    for (name, thing) in SOCKETS {
        let name = format!("the socket is {name}");
        cases.push(Case::always(FAULT, &name, move || socket_is(thing)));
    }
    for (name, thing) in NOTES {
        let written = format!("the note is {name}");
        cases.push(Case::always(FAULT, &written, move || note_is(thing)));
        let read = format!("the note is {name} when it is needed");
        cases.push(Case::always(FAULT, &read, move || note_is_needed(thing)));
    }
    cases.push(Case::always(FAULT, "names and labels with escape codes", escape_codes));
    cases.push(Case::always(FAULT, "dependencies in circles", circles));
    cases.push(Case::always(FAULT, "five hundred containers", many).weighing(Weight::Long));
    cases.push(Case::always(FAULT, "ten thousand containers", crowd).weighing(Weight::Long));
    cases
}

/// The real programs, with the hook limited to 256 MiB.
fn confined() -> Result<Binaries> {
    let real = binaries();
    let hook = std::env::temp_dir().join("confined-hook");
    let script = format!(
        "#!/bin/sh\nulimit -v 262144 || exit 99\nexec {} \"$@\"\n",
        real.vzdump_hook.display()
    );
    std::fs::write(&hook, script)?;
    std::fs::set_permissions(&hook, PermissionsExt::from_mode(0o755))?;
    Ok(Binaries { vzdump_hook: hook, ..real })
}

fn scene(adjust: &dyn Fn(&mut GuestSpec)) -> Result<Scene> {
    Ok(Scene::with("lxc-snapshot-1vol", &confined()?, adjust))
}

/// What a malicious guest would like to reach on the node: the node's own engine, and a secret.
struct Bait {
    listener: UnixListener,
    secret: PathBuf,
}

impl Bait {
    fn of(scene: &Scene) -> Result<Self> {
        let listener = UnixListener::bind(scene.node.path("run/docker.sock"))?;
        listener.set_nonblocking(true)?;
        let secret = scene.node.path("etc/pve/priv/secret");
        std::fs::write(&secret, "secret")?;
        Ok(Self { listener, secret })
    }

    fn is_untouched(&self) -> Result<()> {
        ensure!(self.listener.accept().is_err(), "the node's own engine was called");
        let secret = std::fs::read_to_string(&self.secret).context("the secret")?;
        ensure!(secret == "secret", "the node's file was written: {secret}");
        Ok(())
    }
}

fn put(thing: Thing, at: &Path, target: &Path) -> Result<()> {
    let parent = at.parent().context("no directory")?;
    std::fs::create_dir_all(parent)?;
    match std::fs::remove_file(at) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    match thing {
        Thing::Fifo => nix::unistd::mkfifo(at, nix::sys::stat::Mode::from_bits_truncate(0o600))?,
        Thing::Directory => std::fs::create_dir_all(at.join("full"))?,
        Thing::Sparse => std::fs::File::create(at)?.set_len(1 << 30)?,
        Thing::LinkOut => symlink(target, at)?,
        // From guests/VMID/root/run to the node's root.
        Thing::LinkUp => symlink("../../../../run/docker.sock", at)?,
        Thing::Loop => symlink(at.file_name().context("no name")?, at)?,
        Thing::Deep => std::fs::write(at, "[".repeat(1000))?,
        Thing::WildPlan => std::fs::write(at, WILD_PLAN)?,
    }
    Ok(())
}

const WILD_PLAN: &str = r#"{"schema": 1, "run": "../../../etc", "vmid": 9001, "time": "\u001b[2J",
"containers": [{"id": "../../../containers/json?all=1#", "name": "\u001b]0;x\u0007", "project": null,
"service": null, "action": "stop", "started_at": "", "after": [7, 4294967295]}]}"#;

fn bounded(scene: &Scene, kills: Vec<stillpoint_sim::vzdump::replay::Kill>) -> Result<Report> {
    let report = scene.play(kills);
    let longest = report.calls.iter().map(|call| Duration::from_millis(call.ms)).max();
    let longest = longest.unwrap_or_default();
    ensure!(longest < BOUND, "vzdump waited for {longest:?}\n{}", report.text());
    Ok(report)
}

fn from_the_start(hostile: Hostile) -> Result<Ended> {
    let scene = scene(&|_| {})?;
    scene.settings("[quiesce]\ntime-limit = \"3s\"\n");
    scene.engine().configure(|engine| engine.hostile = Some(hostile));
    let report = bounded(&scene, Vec::new())?;
    is_crash_consistent(&report, "")?;
    Promise::of(&scene, &report).kept()
}

/// It becomes malicious while its containers are down; when it is normal again, everything comes
/// back.
fn while_at_rest(hostile: Hostile) -> Result<Ended> {
    let scene = scene(&|_| {})?;
    scene.when(At::Ended("pre-stop"), move |guest| {
        let guest = Arc::clone(guest);
        let engine = guest.engine.as_ref().unwrap();
        engine.configure(|engine| engine.hostile = Some(hostile.clone()));
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_secs(20));
            let engine = guest.engine.as_ref().unwrap();
            engine.configure(|engine| engine.hostile = None);
        });
    });
    let report = bounded(&scene, Vec::new())?;
    Promise::of(&scene, &report).kept()
}

fn socket_is(thing: Thing) -> Result<Ended> {
    let scene = scene(&|_| {})?;
    let bait = Bait::of(&scene)?;
    let socket = scene.guest().dir().join("root/run/docker.sock");
    put(thing, &socket, &scene.node.path("run/docker.sock"))?;
    let report = bounded(&scene, Vec::new())?;
    bait.is_untouched()?;
    for name in ["db", "cache", "web"] {
        ensure!(scene.engine().count(name, What::StopAsked) == 0, "{name} was stopped");
    }
    // A link that leads nowhere inside the guest counts as no engine.
    if thing == Thing::LinkOut {
        ensure!(backup(&report)?["grade"] == "none", "{}", report.text());
    } else {
        is_crash_consistent(&report, "run/docker.sock")?;
    }
    Promise::of(&scene, &report).kept()
}

fn note(scene: &Scene) -> PathBuf {
    scene.guest().dir().join("root/var/lib/stillpoint/quiesced.json")
}

/// The note replaces whatever was there, or a message says that it could not be written.
fn note_is(thing: Thing) -> Result<Ended> {
    let scene = scene(&|_| {})?;
    let bait = Bait::of(&scene)?;
    put(thing, &note(&scene), &bait.secret)?;
    let report = bounded(&scene, Vec::new())?;
    bait.is_untouched()?;
    let record = backup(&report)?;
    ensure!(record["grade"] == "clean", "{record}");
    let said = record["notes"].to_string().contains("a restore will not start its stacks");
    ensure!(said == (thing == Thing::Directory), "{record}");
    Promise::of(&scene, &report).kept()
}

/// The node has lost its own record, and the guest's note is invalid: a message says so, and
/// nothing hangs.
fn note_is_needed(thing: Thing) -> Result<Ended> {
    let scene = scene(&|_| {})?;
    let bait = Bait::of(&scene)?;
    let (run, at, secret) = (scene.run_file(), note(&scene), bait.secret.clone());
    scene.when(At::Ended("pre-stop"), move |_| {
        std::fs::write(&run, "{\"schema\": 1,").unwrap();
        put(thing, &at, &secret).unwrap();
    });
    let report = bounded(&scene, vec![kill("pre-stop", Moment::End, Victim::Group)])?;
    bait.is_untouched()?;
    let told = |record: &serde_json::Value| {
        record["kind"] == "recovered" && record.to_string().contains("is damaged")
    };
    let wild = thing == Thing::WildPlan;
    ensure!(wild || report.journal.iter().any(told), "nothing is said\n{}", report.text());
    ensure!(report.runs_left.is_empty() || wild, "a run is left\n{}", report.text());
    let settled = scene.stillpoint(&["settle", "9001"]);
    ensure!(settled.status.code().is_some(), "{settled:?}");
    bait.is_untouched()?;
    Ok(Ended::default())
}

fn escape_codes() -> Result<Ended> {
    let scene = scene(&|guest| {
        let mut spec = Spec::service("\x1b[2Jshop", "\x1b]0;x\x07").label("a\x1b[31m", "\r\n\x08");
        spec.name = "evil\x1b[2J\nINFO: Finished Backup of VM 9001".to_owned();
        spec.stop_timeout = Some(1);
        guest.containers.push(spec);
    })?;
    let report = bounded(&scene, Vec::new())?;
    let said = report.calls.iter().flat_map(|call| &call.said);
    let raw = |line: &&String| line.contains('\x1b') || line.starts_with("INFO: Finished");
    let raw: Vec<&String> = said.filter(raw).collect();
    ensure!(raw.is_empty(), "printed as they came: {raw:?}");
    Promise::of(&scene, &report).kept()
}

fn circles() -> Result<Ended> {
    let scene = scene(&|guest| {
        for container in &mut guest.containers {
            let all = "db:service_healthy:false,cache:x:y,web:service_started:true,none";
            container.labels.insert(DEPENDS_ON.to_owned(), all.to_owned());
        }
    })?;
    let report = bounded(&scene, Vec::new())?;
    ensure!(backup(&report)?["grade"] == "clean", "{}", report.text());
    Promise::of(&scene, &report).kept()
}

/// More containers than anybody really has: they are not touched.
fn crowd() -> Result<Ended> {
    let scene = scene(&|guest| {
        for number in 0..10_100 {
            let spec = Spec::service("crowd", &format!("one-{number}")).takes(0, 0);
            guest.containers.push(spec);
        }
    })?;
    let report = bounded(&scene, Vec::new())?;
    is_crash_consistent(&report, "more containers than 10000")?;
    Promise::of(&scene, &report).kept()
}

fn many() -> Result<Ended> {
    let scene = scene(&|guest| {
        for number in 0..500 {
            let spec = Spec::service("crowd", &format!("one-{number}")).takes(0, 0);
            guest.containers.push(spec);
        }
    })?;
    let report = bounded(&scene, Vec::new())?;
    ensure!(backup(&report)?["grade"] == "clean", "{}", report.text());
    Promise::of(&scene, &report).kept()
}
