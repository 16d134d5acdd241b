//! A node that is only a directory.

// Not every test that includes this module uses all of it.
#![allow(dead_code)]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

pub struct Directory(pub PathBuf);

impl Directory {
    pub fn new() -> Directory {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::SeqCst);
        let name = format!("stillpoint-node-{}-{count}", std::process::id());
        let directory = Directory(std::env::temp_dir().join(name));
        fs::create_dir_all(&directory.0).unwrap();
        directory
    }

    pub fn write(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.0.join(path)).unwrap()
    }

    /// Adds a record to the journal, this many seconds old.
    pub fn journal(&self, age_s: i64, kind: &str, fields: Value) {
        let time = chrono::Utc::now() - chrono::TimeDelta::seconds(age_s);
        let mut record = json!({ "schema": 1, "time": time.to_rfc3339(), "kind": kind });
        let fields = fields.as_object().unwrap().clone();
        record.as_object_mut().unwrap().extend(fields);
        let path = "var/lib/stillpoint/journal.jsonl";
        let text = fs::read_to_string(self.0.join(path)).unwrap_or_default();
        self.write(path, &format!("{text}{record}\n"));
    }

    /// Adds a successful backup of an LXC guest, with the given differences.
    pub fn backup(&self, vmid: u32, age_s: i64, run: &str, different: Value) {
        let mut fields = json!({
            "run": run, "job": "UPID:pve1:00006B5F:00A1B2C3:6B02265C:vzdump::root@pam:",
            "vmid": vmid, "guest_type": "lxc", "hostname": null, "storage": "offsite",
            "target": "ct/9001/2026-11-21T23:22:56Z", "mode_asked": "snapshot",
            "mode_used": "snapshot", "started": "2026-11-21T23:22:50.000Z", "outcome": "ok",
            "error": null, "grade": "clean", "reasons": [], "notes": [], "containers": [],
            "downtime_ms": 760, "verify": { "state": "started", "upid": null, "reason": null },
        });
        let different = different.as_object().unwrap().clone();
        fields.as_object_mut().unwrap().extend(different);
        self.journal(age_s, "backup", fields);
    }

    /// Adds the result of verifying a run's backup.
    pub fn verify(&self, vmid: u32, age_s: i64, run: &str, outcome: &str, reason: Option<&str>) {
        let fields = json!({
            "run": run, "job": null, "vmid": vmid, "storage": "offsite", "storage_id": "s",
            "outcome": outcome, "reason": reason, "namespace": null, "backup_type": "ct",
            "backup_id": vmid.to_string(), "backup_time": 1, "size": null, "owner": null,
            "protected": null, "encrypted": null, "key_fingerprint": null, "verify_state": null,
            "verify_upid": null, "started_upid": null,
        });
        self.journal(age_s, "verify", fields);
    }

    pub fn stillpoint(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_stillpoint"))
            .args(arguments)
            .env("STILLPOINT_ROOT", &self.0)
            .env("TZ", "UTC")
            .output()
            .unwrap()
    }

    /// Exit status and standard output.
    pub fn said(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.stillpoint(arguments);
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    }

    pub fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_slice(&self.stillpoint(arguments).stdout).unwrap()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}
