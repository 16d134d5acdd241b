//! A simulated PVE node: a directory laid out as `tests/README.md` promises, and the guests in it.

pub mod backups;
mod boot;
pub mod config;
mod guest;
pub mod restore;
mod spec;
mod tools;

use crate::engine::Engine;
use crate::hooks::Binaries;
use crate::process;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

pub use guest::Guest;
use guest::set_marker;
pub use spec::{GuestSpec, Kind};

/// The node's name.
pub const NAME: &str = "sim";

/// A node in a directory. Dropping it kills every process that uses the directory, and removes the
/// directory, unless the caller chose it.
pub struct Node {
    root: PathBuf,
    keep: bool,
    binaries: Binaries,
    guests: BTreeMap<u32, Arc<Guest>>,
    backups: Option<backups::BackupServer>,
}

static NODES: AtomicU32 = AtomicU32::new(0);

/// A directory that was never used before, even if a process number repeats.
fn temporary() -> Result<PathBuf> {
    loop {
        let count = NODES.fetch_add(1, Ordering::SeqCst);
        let name = format!("stillpoint-sim-{}-{count}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        match fs::create_dir(&dir) {
            Ok(()) => return Ok(dir),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("making {}", dir.display())),
        }
    }
}

impl Node {
    /// A node without guests, in `root` (kept) or else in a temporary directory.
    ///
    /// # Errors
    /// When the directory cannot be made or filled.
    pub fn new(root: Option<&Path>, binaries: &Binaries) -> Result<Self> {
        let keep = root.is_some();
        let root = match root {
            Some(root) => root.to_owned(),
            None => temporary()?,
        };
        for dir in [
            "etc/pve/priv/storage",
            "etc/pve/nodes/sim/lxc",
            "etc/pve/nodes/sim/qemu-server",
            "etc/stillpoint",
            "guests",
            "run",
            "tmp",
            "usr/bin",
            "usr/sbin",
            "var/lib/stillpoint",
            "var/log/pve/tasks",
            "var/run",
        ] {
            let dir = root.join(dir);
            fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        }
        let root = root.canonicalize().context("resolving the node's root")?;
        let node =
            Self { root, keep, binaries: binaries.clone(), guests: BTreeMap::new(), backups: None };
        node.link("nodes/sim/lxc", "etc/pve/lxc")?;
        node.link("nodes/sim/qemu-server", "etc/pve/qemu-server")?;
        node.link("nodes/sim", "etc/pve/local")?;
        node.write("etc/hostname", "sim\n")?;
        node.write("etc/pve/storage.cfg", "")?;
        if !node.path("etc/vzdump.conf").exists() {
            node.write("etc/vzdump.conf", "# mode: snapshot\n")?;
        }
        // Started containers are normally watched for a minute; tests need it shorter.
        node.write("failpoint-stays-up", "100")?;
        tools::install(&node)?;
        Ok(node)
    }

    /// The root of the node's file system: the value of `STILLPOINT_ROOT`.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The programs that the node has installed.
    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    /// A path of the node, given without the leading slash.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.join(path)
    }

    /// Writes a file of the node, with the directories above it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        let path = self.path(path);
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        }
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    }

    fn link(&self, target: &str, path: &str) -> Result<()> {
        let path = self.path(path);
        if path.symlink_metadata().is_ok() {
            return Ok(());
        }
        std::os::unix::fs::symlink(target, &path)
            .with_context(|| format!("linking {}", path.display()))
    }

    /// Adds a section to storage.cfg, given as its lines.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn add_storage(&self, kind: &str, id: &str, keys: &[(&str, &str)]) -> Result<()> {
        let path = self.path("etc/pve/storage.cfg");
        let mut text = fs::read_to_string(&path).context("reading storage.cfg")?;
        text.push_str(&format!("{kind}: {id}\n"));
        for (key, value) in keys {
            text.push_str(&format!("\t{key} {value}\n"));
        }
        text.push('\n');
        self.write("etc/pve/storage.cfg", &text)
    }

    /// Makes a guest. One that runs has its engine up when this returns.
    ///
    /// # Errors
    /// When its files cannot be made, or its engine does not come up.
    pub fn add_guest(&mut self, spec: GuestSpec) -> Result<Arc<Guest>> {
        let vmid = spec.vmid;
        let place = match spec.kind {
            Kind::Lxc => "lxc",
            Kind::Qemu => "qemu-server",
        };
        let conf = format!("etc/pve/nodes/{NAME}/{place}/{vmid}.conf");
        self.write(&conf, &config::text(&spec))?;
        let dir = self.path(format!("guests/{vmid}"));
        for inside in ["root/etc", "root/run", "root/var/lib", "root/tmp"] {
            let inside = dir.join(inside);
            fs::create_dir_all(&inside).with_context(|| format!("making {}", inside.display()))?;
        }
        self.link("/run", &format!("guests/{vmid}/root/var/run"))?;
        self.write(&format!("guests/{vmid}/root/etc/hostname"), &format!("{}\n", spec.hostname))?;
        self.write(&format!("guests/{vmid}/root/etc/machine-id"), &format!("{vmid:032x}\n"))?;
        for (marker, there) in [("running", spec.running), ("frozen", false), ("shutdown", false)] {
            set_marker(&dir, marker, there)?;
        }
        let engine = match spec.kind {
            Kind::Lxc => Some(Engine::new(&dir, spec.engine, spec.containers)?),
            Kind::Qemu => None,
        };
        let guest = Arc::new(Guest {
            vmid,
            kind: spec.kind,
            running_before: spec.running,
            engine,
            dir,
            conf: self.path(conf),
        });
        if spec.running && guest.engine.is_some() {
            guest.wait_for_engine(Duration::from_secs(10))?;
        }
        self.guests.insert(vmid, Arc::clone(&guest));
        Ok(guest)
    }

    /// All guests, by number.
    pub fn guests(&self) -> impl Iterator<Item = &Arc<Guest>> {
        self.guests.values()
    }

    /// One guest.
    ///
    /// # Errors
    /// When there is none of that number.
    pub fn guest(&self, vmid: u32) -> Result<&Arc<Guest>> {
        self.guests.get(&vmid).with_context(|| format!("the simulated node has no guest {vmid}"))
    }

    /// The journal's records, oldest first; none while there is no journal.
    ///
    /// # Errors
    /// When it cannot be read, or a line is no JSON.
    pub fn journal(&self) -> Result<Vec<serde_json::Value>> {
        let path = self.path("var/lib/stillpoint/journal.jsonl");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        };
        let lines = text.lines().filter(|line| !line.is_empty());
        lines
            .map(|line| {
                serde_json::from_str(line).with_context(|| format!("journal line {line:?}"))
            })
            .collect()
    }

    /// The names in `var/lib/stillpoint/runs`: backups under way, or left over.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn runs_left(&self) -> Result<Vec<String>> {
        let path = self.path("var/lib/stillpoint/runs");
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.context("reading runs")?.file_name();
            let name = name.to_string_lossy().into_owned();
            if name.ends_with(".json") {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Processes whose environment names this node: the hooks, guards and collectors.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn processes(&self) -> Result<Vec<process::Found>> {
        process::with_environment("STILLPOINT_ROOT", &self.root.to_string_lossy())
    }

    /// Kills all processes of this node.
    ///
    /// # Errors
    /// When one of them cannot be killed, or new ones come faster than they can be killed.
    pub fn kill_processes(&self) -> Result<()> {
        // On a machine with much to do a killed process takes its time to go.
        for _ in 0..6000 {
            let found = self.processes()?;
            if found.is_empty() {
                return Ok(());
            }
            for process in found {
                process::kill(process.pid, nix::sys::signal::Signal::SIGKILL)?;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!("processes of {} cannot be ended", self.root.display())
    }

    /// What a power cut does to the node: every process and every guest is gone, and `/run` empty.
    ///
    /// # Errors
    /// When something of it stays.
    pub fn power_cut(&self) -> Result<()> {
        self.kill_processes()?;
        for guest in self.guests() {
            guest.set_marker("running", false)?;
            guest.set_marker("frozen", false)?;
            guest.wait_down(Duration::from_secs(5))?;
        }
        for dir in ["run", "var/run"] {
            let dir = self.path(dir);
            fs::remove_dir_all(&dir)
                .and_then(|()| fs::create_dir(&dir))
                .with_context(|| format!("emptying {}", dir.display()))?;
        }
        boot::forget_boot(&self.path("var/lib/stillpoint"))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Err(error) = self.kill_processes() {
            eprintln!("{error:#}");
        }
        self.guests.clear();
        if !self.keep
            && let Err(error) = fs::remove_dir_all(&self.root)
        {
            eprintln!("{} stays: {error}", self.root.display());
        }
    }
}
