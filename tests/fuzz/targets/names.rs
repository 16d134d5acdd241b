//! Names of tasks and snapshots, the hook's call, and text for people.

use std::collections::HashMap;
use std::path::{Component, Path};

use serde_json::{Value, from_value, to_value};
use stillpoint::pbs::{self, Snapshot};
use stillpoint::sys::text::{percent_encoded, printable};
use stillpoint::vzdump::{Call, Phase, Upid, Vmid};

use super::{assert_fit_for_a_terminal, assert_short_words};

/// A worker's command line, or only a UPID.
pub fn vzdump_upid(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let parsed = Upid::parse(&text);
    if let Some(upid) = &parsed {
        assert_eq!(upid.to_string(), text);
        assert!(text.bytes().all(|byte| byte.is_ascii_graphic()));
        assert_log_path(upid);
        assert_eq!(text.split(':').nth(1), Some(upid.node()));
        assert_eq!(Upid::from_command_line(&format!("task {text}  ")).as_ref(), parsed.as_ref());
        assert_eq!(to_value(upid).unwrap(), Value::String(text.to_string()));
    }
    assert_eq!(from_value(Value::String(text.to_string())).ok(), parsed, "read from a file");
    if let Some(upid) = Upid::from_command_line(&text) {
        assert_eq!(format!("task {upid}"), text.trim_end_matches(' '));
        assert_log_path(&upid);
    }
}

/// The log is a file directly in one of the sixteen directories.
pub fn assert_log_path(upid: &Upid) {
    let path = upid.log_path();
    let mut parts = Path::new(&path).components().skip(1);
    for expected in ["var", "log", "pve", "tasks"] {
        assert_eq!(parts.next(), Some(Component::Normal(expected.as_ref())), "{path}");
    }
    let rest: Vec<Component> = parts.collect();
    let [Component::Normal(directory), Component::Normal(name)] = rest.as_slice() else {
        panic!("{path}")
    };
    let directory = directory.to_str().unwrap();
    assert!(directory.len() == 1 && directory.bytes().all(|digit| digit.is_ascii_hexdigit()));
    assert_eq!(*name, upid.to_string().as_str());
    assert_eq!(path.matches('/').count(), 6, "{path}");
}

/// A task id in a backup server's answer.
pub fn pbs_upid(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let parsed = text.parse::<pbs::Upid>().ok();
    if let Some(upid) = &parsed {
        assert_eq!(upid.to_string(), text);
        assert_eq!(text.split(':').nth(1), Some(upid.node()));
        assert!(upid.started() >= 0);
        assert!(!upid.node().is_empty() && !text.contains(char::is_control));
        assert_eq!(to_value(upid).unwrap(), Value::String(text.to_string()));
    }
    assert_eq!(from_value(Value::String(text.to_string())).ok(), parsed, "read from an answer");
}

/// `TARGET` of a backup to a Proxmox Backup Server.
pub fn target(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let Ok(snapshot) = text.parse::<Snapshot>() else { return };
    assert_eq!(snapshot.to_string(), text);
    assert!(snapshot.backup_time > 0 && snapshot.namespace.is_none());
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    assert!(!snapshot.backup_id.is_empty() && snapshot.backup_id.bytes().all(plain));
    assert!(!matches!(snapshot.backup_id.as_str(), "." | ".."), "{snapshot}");
    assert_eq!(from_value::<Snapshot>(to_value(&snapshot).unwrap()).unwrap(), snapshot);
}

/// Each line is an argument, or `NAME=VALUE` of the environment.
pub fn call(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let (environment, arguments): (Vec<&str>, Vec<&str>) =
        text.lines().partition(|line| line.contains('='));
    let arguments: Vec<String> = arguments.into_iter().map(String::from).collect();
    let environment: HashMap<&str, &str> =
        environment.into_iter().filter_map(|line| line.split_once('=')).collect();
    let found = Call::read(&arguments, |name| environment.get(name).map(|value| value.to_string()));
    let Some(call) = found else { return };
    assert_eq!(call.phase.word(), arguments[0]);
    let of_job = [Phase::JobInit, Phase::JobStart, Phase::JobEnd, Phase::JobAbort];
    assert_eq!(call.subject.is_none(), of_job.contains(&call.phase));
    if let Some(subject) = call.subject {
        assert_eq!(subject.mode.to_string(), arguments[1]);
        assert!(subject.vmid >= Vmid(100));
        assert_eq!(arguments[2].trim_start_matches('0'), subject.vmid.to_string());
    }
}

/// The list of a guest's snapshots.
pub fn pbs_snapshots(input: &[u8]) {
    let Ok(entries) = serde_json::from_slice::<Vec<pbs::Entry>>(input) else { return };
    for entry in entries {
        assert!(!entry.is_encrypted() || !entry.files.is_empty());
        if let Some(verification) = entry.verification {
            assert_eq!(verification.upid.as_str().parse(), Ok(verification.upid));
        }
        // Any number can be there as a time, but its name must not be mistaken for another
        // snapshot's.
        if let Ok(snapshot) = entry.snapshot.to_string().parse::<Snapshot>() {
            assert_eq!(snapshot.backup_time, entry.snapshot.backup_time);
        }
    }
}

/// Text for people and for requests.
pub fn text(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let limit = usize::from(input.first().copied().unwrap_or(0));
    let shown = printable(&text, limit);
    assert_fit_for_a_terminal(&shown);
    // The longest escape is \u{10ffff}.
    assert!(shown.chars().count() <= limit * 10 + 1);
    if !text.contains(super::is_hostile) && text.chars().count() <= limit {
        assert_eq!(shown, text);
    }

    let encoded = percent_encoded(&text);
    let mut decoded = Vec::new();
    let mut rest = encoded.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        assert!(byte.is_ascii_alphanumeric() || b"-._~%".contains(byte), "{encoded}");
        rest = tail;
        if *byte == b'%' {
            let (digits, tail) = rest.split_at(2);
            decoded.push(u8::from_str_radix(str::from_utf8(digits).unwrap(), 16).unwrap());
            rest = tail;
        } else {
            decoded.push(*byte);
        }
    }
    assert_eq!(decoded, text.as_bytes());

    match text.parse::<Vmid>() {
        Ok(vmid) => assert_eq!(text.trim_start_matches('0'), vmid.to_string()),
        Err(error) => assert_short_words(&error.to_string()),
    }
    if let Ok(fingerprint) = text.parse::<pbs::tls::Fingerprint>() {
        assert_eq!(fingerprint.to_string(), text.trim().to_ascii_uppercase());
    }
}
