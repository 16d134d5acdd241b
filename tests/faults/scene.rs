//! A node with a guest, a backup that is replayed on it, and events during it.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use stillpoint_sim::engine::{Engine, What};
use stillpoint_sim::hooks::Binaries;
use stillpoint_sim::node::{Guest, GuestSpec, Kind, Node};
use stillpoint_sim::vzdump::replay::{Happening, Kill, Moment, Options, Victim, replay};
use stillpoint_sim::vzdump::report::Report;
use stillpoint_sim::vzdump::result;
use stillpoint_sim::vzdump::stage::stage;
use stillpoint_sim::vzdump::trace::Scenario;

/// The guest that is backed up.
pub const VMID: u32 = 9001;

/// How long everything may take until it is back and quiet on a slow machine; not a measure of
/// speed.
pub const PATIENCE: Duration = Duration::from_secs(200);

/// When something happens to the guest.
#[derive(Clone, Copy)]
pub enum At {
    /// The hook is about to be called in this phase.
    Called(&'static str),
    /// The hook has returned from this phase.
    Ended(&'static str),
}

type Act = Box<dyn Fn() + Send + Sync>;

/// One node and one backup.
pub struct Scene {
    pub node: Node,
    pub scenario: Scenario,
    begin: Instant,
    before: result::Before,
    lock_before: Option<String>,
    fault: Arc<Mutex<Option<Instant>>>,
    acts: Arc<Mutex<Vec<(At, Act)>>>,
}

/// A recorded run of the real vzdump.
pub fn recording(name: &str) -> Scenario {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/vzdump/traces.json");
    Scenario::load(Path::new(file), name).unwrap()
}

/// The programs under test.
pub fn binaries() -> Binaries {
    Binaries::beside(Path::new(env!("CARGO_BIN_EXE_vzdump-hook"))).unwrap()
}

impl Scene {
    /// The node that the recording needs, and another guest, which is down, for a later job.
    pub fn new(recorded: &str, adjust: &dyn Fn(&mut GuestSpec)) -> Self {
        Self::with(recorded, &binaries(), adjust)
    }

    /// The same with other programs.
    pub fn with(recorded: &str, binaries: &Binaries, adjust: &dyn Fn(&mut GuestSpec)) -> Self {
        let scenario = recording(recorded);
        let mut node = stage(&scenario, None, binaries, adjust).unwrap();
        node.add_guest(GuestSpec { running: false, ..GuestSpec::lxc(9003) }).unwrap();
        let before = result::running(&node);
        let lock_before = node.guest(VMID).unwrap().lock().unwrap();
        let (fault, acts) = (Arc::default(), Arc::default());
        Self { node, scenario, begin: Instant::now(), before, lock_before, fault, acts }
    }

    /// The lock that the guest had before the backup.
    pub fn lock_before(&self) -> Option<&str> {
        self.lock_before.as_deref()
    }

    pub fn guest(&self) -> &Arc<Guest> {
        self.node.guest(VMID).unwrap()
    }

    pub fn engine(&self) -> &Engine {
        self.guest().engine.as_ref().unwrap()
    }

    /// Writes the node's settings.
    pub fn settings(&self, text: &str) {
        self.node.write("etc/stillpoint/config.toml", text).unwrap();
    }

    /// Keeps mails to root, for [`mail`](Self::mail).
    pub fn keep_mail(&self) {
        let (sendmail, mail) = (self.node.path("usr/sbin/sendmail"), self.node.path("mail"));
        std::fs::create_dir_all(sendmail.parent().unwrap()).unwrap();
        let script = format!("#!/bin/sh\nexec /bin/cat >>{}\n", mail.display());
        std::fs::write(&sendmail, script).unwrap();
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&sendmail, executable).unwrap();
    }

    /// The mails so far.
    pub fn mail(&self) -> String {
        std::fs::read_to_string(self.node.path("mail")).unwrap_or_default()
    }

    /// Runs `act` in the middle of the backup, while vzdump waits.
    pub fn when(&self, at: At, act: impl Fn(&Arc<Guest>) + Send + Sync + 'static) {
        let guest = Arc::clone(self.guest());
        self.acts.lock().unwrap().push((at, Box::new(move || act(&guest))));
    }

    /// A function that marks its call as the moment of the fault.
    pub fn marker(&self) -> impl Fn() + Send + Sync + use<> {
        let fault = Arc::clone(&self.fault);
        move || mark(&fault)
    }

    /// Measures from now on.
    pub fn mark_again(&self) {
        *self.fault.lock().unwrap() = Some(Instant::now());
    }

    /// Plays the backup with these kills.
    pub fn play(&self, kills: Vec<Kill>) -> Report {
        self.play_with(Options { kills, ..self.options() })
    }

    /// The options that [`play`](Self::play) uses.
    pub fn options(&self) -> Options {
        let (fault, acts) = (Arc::clone(&self.fault), Arc::clone(&self.acts));
        let observer = move |happening: &Happening| {
            if matches!(happening, Happening::Kills(_)) {
                mark(&fault);
            }
            for (at, act) in acts.lock().unwrap().iter() {
                let due = match (at, happening) {
                    (At::Called(phase), Happening::Called(argv)) => argv[0] == **phase,
                    (At::Ended(phase), Happening::Ended(call)) => call.argv[0] == **phase,
                    _ => false,
                };
                if due {
                    act();
                }
            }
        };
        Options {
            settle: PATIENCE,
            grace: Duration::from_secs(1),
            observer: Some(Arc::new(observer)),
            ..Options::default()
        }
    }

    /// Plays the backup.
    pub fn play_with(&self, options: Options) -> Report {
        replay(&self.node, &self.scenario, &options).unwrap()
    }

    /// The present state, compared with the state before the backup.
    pub fn report(&self, calls: Report) -> Report {
        let (begin, before) = (self.begin, &self.before);
        let (calls, instants) = (calls.calls, calls.instants);
        result::report(&self.node, &self.scenario, begin, before, calls, instants, None).unwrap()
    }

    /// Runs the command on the node.
    pub fn stillpoint(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(self.node.path("usr/bin/stillpoint"));
        command.args(arguments).env_clear().env("STILLPOINT_ROOT", self.node.root());
        command.stdin(Stdio::null()).output().unwrap()
    }

    /// Waits until no run is left and no process of Stillpoint works.
    pub fn wait_until_quiet(&self) -> Result<()> {
        let busy = || -> Result<bool> {
            Ok(!self.node.runs_left()?.is_empty() || !self.node.processes()?.is_empty())
        };
        let deadline = Instant::now() + PATIENCE;
        while busy()? && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Whether a run says that this container must still be started.
    pub fn owes(&self, name: &str) -> bool {
        let run = std::fs::read(self.run_file()).ok();
        let run: Option<serde_json::Value> = run.and_then(|run| serde_json::from_slice(&run).ok());
        let steps = run.and_then(|run| run["quiesce"]["steps"].as_array().cloned());
        let open = |step: &serde_json::Value| step["name"] == name && step["fate"] == "open";
        steps.is_some_and(|steps| steps.iter().any(open))
    }

    /// The file of the run.
    pub fn run_file(&self) -> PathBuf {
        self.node.path(format!("var/lib/stillpoint/runs/{VMID}.json"))
    }

    /// The moment of the fault.
    pub fn fault(&self) -> Result<Instant> {
        self.fault.lock().unwrap().context("the fault never came")
    }

    /// Milliseconds from the fault to the last start, if there was one.
    pub fn back_ms(&self) -> Option<u64> {
        let fault = (*self.fault.lock().unwrap())?;
        let starts =
            |what: What| matches!(what, What::Started | What::StartedByPolicy | What::Unpaused);
        let guests = self.node.guests().filter(|guest| guest.kind == Kind::Lxc);
        let events = guests.flat_map(|guest| guest.engine.iter().flat_map(Engine::events));
        let last = events.filter(|event| starts(event.what)).map(|event| event.at).max()?;
        let back = last.checked_duration_since(fault)?;
        u64::try_from(back.as_millis()).ok()
    }
}

fn mark(fault: &Mutex<Option<Instant>>) {
    fault.lock().unwrap().get_or_insert_with(Instant::now);
}

/// A kill in a phase.
pub fn kill(phase: &str, moment: Moment, victim: Victim) -> Kill {
    Kill { phase: phase.to_owned(), vmid: None, moment, victim }
}

/// Waits for something that must happen, however long it takes on a slow machine.
pub fn wait_for(what: &str, is_so: impl Fn() -> bool) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        ensure!(Instant::now() < deadline, "it never came that {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Whether that container runs.
pub fn runs(guest: &Guest, name: &str) -> bool {
    let containers = guest.engine.as_ref().map(Engine::containers).unwrap_or_default();
    let runs = |status: &str| status == "running";
    containers.iter().any(|container| container.spec.name == name && runs(container.status.name()))
}

/// A request by somebody in the guest to its engine: `POST` to that path.
pub fn docker(guest: &Guest, path: &str) -> Result<()> {
    let socket = guest.dir().join("root/run/docker.sock");
    let mut stream = UnixStream::connect(socket).context("the guest's engine")?;
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let mut status = [0; 12];
    stream.read_exact(&mut status)?;
    let status = String::from_utf8_lossy(&status).into_owned();
    ensure!(status.contains(" 204") || status.contains(" 304"), "{path}: {status}");
    Ok(())
}
