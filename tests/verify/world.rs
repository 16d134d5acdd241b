//! A node's files and a backup server, without a vzdump: backups that have just been made, and
//! their collectors.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use stillpoint::config::Settings;
use stillpoint::journal::{Entry, Journal};
use stillpoint::run::Run;
use stillpoint::sys::Root;
use stillpoint::sys::process::Process;
use stillpoint::verify;
use stillpoint::vzdump::{GuestType, Job, Mode, Vmid};
use stillpoint_sim::pbs::{Backup, Config, SimPbs, SnapshotId};

pub const STORE: &str = "backups";
pub const TOKEN: &str = "stillpoint@pbs!node";
const SECRET: &str = "2c6f7e6d-0000-4000-8000-5111b01d0000";

/// The duration of verifies that run until a test ends them.
pub const FOR_EVER: Duration = Duration::from_secs(100 * 24 * 3600);

static NEXT_TIME: AtomicI64 = AtomicI64::new(1_795_300_000);

/// How a verify begins, in the words of the journal.
#[derive(Debug, Deserialize)]
pub struct Begun {
    pub state: String,
    pub upid: Option<String>,
    pub reason: Option<String>,
}

pub struct World {
    pub directory: PathBuf,
    pub root: Root,
    pub pbs: SimPbs,
}

impl World {
    /// With two storages, `offsite` and `again`, of the same datastore, and `other` of another one.
    pub fn new(verify_time: Duration) -> World {
        let unauthorized_delay = Duration::ZERO;
        let config = Config { verify_time, unauthorized_delay, ..Config::default() };
        let pbs = SimPbs::start(config).unwrap();
        pbs.edit(|state| {
            state.access.add_token(TOKEN, SECRET);
            for store in [STORE, "second"] {
                state.add_datastore(store);
                let path = format!("/datastore/{store}");
                state.access.grant_both(&path, TOKEN, "DatastoreBackup");
            }
        });
        let name = format!("stillpoint-verify-{}", stillpoint::sys::text::token());
        let directory = std::env::temp_dir().join(name);
        let root = Root::at(&directory);
        let world = World { directory, root, pbs };
        world.write_storages(&world.pbs.fingerprint(), "");
        world
    }

    /// Writes storage.cfg with that fingerprint, and a namespace for `offsite`.
    pub fn write_storages(&self, fingerprint: &str, namespace: &str) {
        let port = self.pbs.port();
        let mut text = String::new();
        for (id, store) in [("offsite", STORE), ("again", STORE), ("other", "second")] {
            text += &format!(
                "pbs: {id}\n\tdatastore {store}\n\tserver 127.0.0.1\n\tport {port}\n\tcontent backup\n\
                 \tfingerprint {fingerprint}\n\tusername {TOKEN}\n"
            );
            if id == "offsite" && !namespace.is_empty() {
                text += &format!("\tnamespace {namespace}\n");
            }
            text += "\n";
            self.write(&format!("etc/pve/priv/storage/{id}.pw"), &format!("{SECRET}\n"));
        }
        self.write("etc/pve/storage.cfg", &text);
    }

    pub fn write(&self, path: &str, text: &str) {
        let path = self.directory.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub fn settings(&self, text: &str) {
        self.write("etc/stillpoint/config.toml", text);
    }

    /// Mails are written to `mail` in the node's directory.
    pub fn with_sendmail(&self) {
        let mail = self.directory.join("mail");
        let script = format!("#!/bin/sh\ncat >> '{}'\n", mail.display());
        self.write("usr/sbin/sendmail", &script);
        let program = self.directory.join("usr/sbin/sendmail");
        fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
    }

    pub fn mails(&self) -> String {
        fs::read_to_string(self.directory.join("mail")).unwrap_or_default()
    }

    /// A backup of that guest that is complete on the server.
    pub fn backup(&self, vmid: u32, storage: &str) -> (Run, SnapshotId) {
        self.backup_in(vmid, storage, "", |backup| backup)
    }

    pub fn backup_in(
        &self,
        vmid: u32,
        storage: &str,
        namespace: &str,
        change: impl FnOnce(Backup) -> Backup,
    ) -> (Run, SnapshotId) {
        let time = NEXT_TIME.fetch_add(1, Ordering::SeqCst);
        let store = if storage == "other" { "second" } else { STORE };
        let id = SnapshotId::new(store, namespace, "ct", &vmid.to_string(), time);
        self.pbs.add_snapshot(change(Backup::of(&id, TOKEN)));
        let mut run = Run::new(Vmid(vmid), GuestType::Lxc, job(), Mode::Snapshot);
        run.storage = Some(storage.to_string());
        run.target = Some(id.to_string());
        (run, id)
    }

    /// What log-end does: journals the backup of a run.
    pub fn journal_backup(&self, run: &Run) {
        let record = json!({
            "kind": "backup", "run": run.id, "job": "x", "vmid": run.vmid.0, "guest_type": "lxc",
            "hostname": "prod", "storage": run.storage, "target": run.target,
            "mode_asked": "snapshot", "mode_used": "snapshot",
            "started": "2026-11-21T23:22:50.000Z", "outcome": "ok", "error": null, "grade": "clean",
            "reasons": [], "notes": [], "containers": [], "downtime_ms": 760,
            "verify": { "state": "started", "upid": null, "reason": null },
        });
        Journal::of(&self.root).append(&serde_json::from_value(record).unwrap()).unwrap();
    }

    /// Exit status and standard output of the command.
    pub fn said(&self, arguments: &[&str]) -> (i32, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_stillpoint"))
            .args(arguments)
            .env("STILLPOINT_ROOT", &self.directory)
            .output()
            .unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(errors, "", "{arguments:?}");
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    }

    /// The entry of a guest in `status --json`.
    pub fn status_of(&self, vmid: u32) -> Value {
        let (_, text) = self.said(&["status", "--json"]);
        let status: Value = serde_json::from_str(&text).unwrap();
        let guests = status["guests"].as_array().unwrap();
        guests.iter().find(|guest| guest["vmid"] == vmid).unwrap().clone()
    }

    /// What backup-end does.
    pub fn start(&self, run: &Run) -> Begun {
        let settings = Settings::load(&self.root);
        let begun = verify::start(&self.root, &settings, run).unwrap().unwrap();
        serde_json::from_value(serde_json::to_value(begun).unwrap()).unwrap()
    }

    /// What job-end does; returns how many verifies are left.
    pub fn job_end(&self, wait: Duration) -> usize {
        let deadline = std::time::Instant::now() + wait;
        verify::collect_job(&self.root, &job(), deadline).unwrap().left
    }

    /// Starts the collect unit as a process.
    pub fn unit(&self) -> Child {
        Command::new(env!("CARGO_BIN_EXE_stillpoint"))
            .arg("collect")
            .env("STILLPOINT_ROOT", &self.directory)
            .stdin(Stdio::null())
            .spawn()
            .unwrap()
    }

    pub fn collect(&self) {
        assert!(self.unit().wait().unwrap().success());
    }

    /// The records of verifies, oldest first.
    pub fn verifies(&self) -> Vec<Value> {
        let mut records = Vec::new();
        Journal::of(&self.root)
            .read(|entry| {
                let Entry::Record(record) = entry else { panic!("{entry:?}") };
                records.push(record.json);
                true
            })
            .unwrap();
        records.retain(|record| record["kind"] == "verify");
        records
    }

    /// Guest and outcome of each journalled verify.
    pub fn outcomes(&self) -> Vec<(u64, String)> {
        let text = |value: &Value| value.as_str().unwrap().to_string();
        let records = self.verifies();
        records.iter().map(|one| (one["vmid"].as_u64().unwrap(), text(&one["outcome"]))).collect()
    }

    pub fn reason(&self) -> String {
        let records = self.verifies();
        records.last().unwrap()["reason"].as_str().unwrap_or_default().to_string()
    }

    /// Changes the files of all pending verifies.
    pub fn change_pending(&self, change: impl Fn(&mut Value)) {
        for entry in fs::read_dir(self.directory.join("var/lib/stillpoint/verifies")).unwrap() {
            let path = entry.unwrap().path();
            let mut value: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            change(&mut value);
            fs::write(&path, serde_json::to_vec(&value).unwrap()).unwrap();
        }
    }

    pub fn pending(&self) -> usize {
        fs::read_dir(self.directory.join("var/lib/stillpoint/verifies")).map_or(0, Iterator::count)
    }

    /// Completes all running tasks of the server.
    pub fn finish_all(&self) {
        for task in self.pbs.tasks().iter().filter(|task| task["status"] == "running") {
            self.pbs.finish(task["upid"].as_str().unwrap());
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            fs::remove_dir_all(&self.directory).unwrap();
        }
    }
}

/// The job of all backups.
pub fn job() -> Job {
    let worker = Process::find(std::process::id().cast_signed()).unwrap();
    Job { upid: None, session: 0, worker }
}

/// A process that no longer exists.
pub fn dead() -> Value {
    let mut child = Command::new("/bin/true").spawn().unwrap();
    let process = Process::find(child.id().cast_signed()).unwrap();
    child.wait().unwrap();
    json!(process)
}

pub fn ok(guests: &[u64]) -> Vec<(u64, String)> {
    guests.iter().map(|vmid| (*vmid, "ok".to_string())).collect()
}
