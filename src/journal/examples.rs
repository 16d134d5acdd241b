use serde_json::{Value, json};

use super::Record;

/// A record of every kind; a new kind has to be added here.
pub fn examples() -> Vec<Record> {
    let mut all = Vec::new();
    while let Some(record) = after(all.last()) {
        all.push(record);
    }
    all
}

fn after(record: Option<&Record>) -> Option<Record> {
    let next = match record {
        None => json!({
            "kind": "backup", "run": "a", "job": "UPID:x", "vmid": 9001, "guest_type": "lxc",
            "hostname": "prod", "storage": "offsite", "target": "ct/9001/2026-11-21T23:22:56Z",
            "mode_asked": "snapshot", "mode_used": "suspend",
            "started": "2026-11-21T23:22:50.000Z", "outcome": "ok", "error": null,
            "grade": "crash-consistent", "reasons": ["db was started by somebody"],
            "notes": ["cache is left running by its settings"], "containers": [container("failed")],
            "downtime_ms": 760, "verify": { "state": "queued", "upid": null, "reason": null },
        }),
        Some(Record::Backup(_)) => json!({
            "kind": "verify", "run": "a", "job": "UPID:x", "vmid": 9001, "storage": "offsite",
            "storage_id": "pbs:tank", "outcome": "unreachable", "reason": "connection refused",
            "namespace": null, "backup_type": "ct", "backup_id": "9001",
            "backup_time": 1_795_303_376, "size": null, "owner": null, "protected": null,
            "encrypted": null, "key_fingerprint": null, "verify_state": null, "verify_upid": null,
            "started_upid": null, "by": null,
        }),
        Some(Record::Verify(_)) => json!({
            "kind": "recovered", "run": "a", "job": "UPID:x", "vmid": 9001, "by": "guard",
            "reason": "vzdump is dead", "containers": [container("back")],
            "guest": ["thawed", "unlocked"], "downtime_ms": 4000,
        }),
        Some(Record::Recovered(_)) => json!({
            "kind": "settled", "run": "a", "vmid": 9002, "quiesced": "2026-11-21T23:22:50.000Z",
            "containers": [container("back")], "notes": ["db runs and is not healthy"],
            "engine_ms": 100, "took_ms": 1500, "left": "web could not be started",
        }),
        Some(Record::Settled(_)) => json!({
            "kind": "identity", "vmid": 9002, "outcome": "changed", "original": 9001,
            "reason": "guest 9001 has its MAC",
            "changes": [{ "key": "hostname", "from": "prod", "to": "prod-9002" }],
        }),
        Some(Record::Identity(_)) => json!({
            "kind": "renewed", "vmid": 9002, "original": 9001,
            "copied": "2026-11-21T23:22:50.000Z", "done": ["machine-id"],
            "failed": ["ssh-host-keys: no space left"], "took_ms": 20,
        }),
        Some(Record::Renewed(_)) => json!({
            "kind": "left-out", "vmid": 9002, "since": "2026-11-21T23:22:50.000Z", "records": 12,
        }),
        Some(Record::LeftOut(_)) => json!({
            "kind": "removed", "file": "000001.jsonl", "until": "2026-11-21T23:22:50.000Z",
            "last": "0".repeat(64), "reason": "all of it is older than journal.keep",
        }),
        Some(Record::Removed(_)) => return None,
    };
    Some(serde_json::from_value(next).unwrap())
}

fn container(fate: &str) -> Value {
    json!({
        "name": "db", "id": "0", "stack": "shop", "service": "db", "action": "stop",
        "stop_ms": 1, "start_ms": 2, "fate": fate, "error": null, "not_in_backup": [],
    })
}
