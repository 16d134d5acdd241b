//! Whether a guest that is down was asked to reboot.
//!
//! Proxmox VE does not start a locked guest, so after a reboot during a backup the guest is down.
//! After a reboot from inside, LXC's post-stop hook leaves a file, and the guest's unit is started
//! again and fails; `pct reboot` leaves a task. A poweroff, from inside or by `pct shutdown`,
//! leaves none of these.

use std::fs;
use std::process::Command;
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::sys::{Root, program};
use crate::vzdump::{Vmid, tasks};

/// systemd answers in milliseconds.
const SYSTEMCTL_LIMIT: Duration = Duration::from_secs(5);

/// Whether a guest was asked to reboot at or after that time, as far as this node can tell.
pub fn asked_to_reboot(root: &Root, vmid: Vmid, since: DateTime<Utc>) -> bool {
    // UPIDs and units have times in whole seconds.
    let second = since.timestamp();
    has_trigger(root, vmid, since)
        || has_task(root, vmid, second)
        || unit_says(root, vmid).is_some_and(|text| failed_to_start_since(&text, second))
}

/// The file by which LXC's post-stop hook makes the guest's unit start again.
fn has_trigger(root: &Root, vmid: Vmid, since: DateTime<Utc>) -> bool {
    let path = root.path("/var/lib/lxc").join(vmid.to_string()).join("reboot");
    let written = fs::symlink_metadata(path).and_then(|metadata| metadata.modified());
    written.is_ok_and(|written| DateTime::<Utc>::from(written) >= since)
}

fn has_task(root: &Root, vmid: Vmid, since: i64) -> bool {
    let subject = vmid.to_string();
    let tasks = tasks(root).ok().flatten().unwrap_or_default();
    tasks.iter().any(|task| {
        task.upid.kind() == "vzreboot"
            && task.upid.subject() == subject
            && task.upid.started() >= since
    })
}

fn unit_says(root: &Root, vmid: Vmid) -> Option<String> {
    let mut systemctl = Command::new(root.path("/usr/bin/systemctl"));
    systemctl
        .args(["show", "--timestamp=unix"])
        .args(["--property", "ActiveState", "--property", "ExecMainStartTimestamp"])
        .arg(format!("pve-container@{vmid}.service"));
    program::run(&mut systemctl, SYSTEMCTL_LIMIT).ok()
}

/// `pct start` refuses a locked guest before it starts the unit, so only a reboot starts the unit
/// of a locked guest.
fn failed_to_start_since(text: &str, since: i64) -> bool {
    let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    let started = value("ExecMainStartTimestamp=@").and_then(|time| time.parse::<i64>().ok());
    value("ActiveState=") == Some("failed") && started.is_some_and(|started| started >= since)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_start_that_failed_during_the_backup_is_a_reboot() {
        let text =
            |state: &str, at: &str| format!("ActiveState={state}\nExecMainStartTimestamp={at}\n");
        assert!(failed_to_start_since(&text("failed", "@1000"), 1000));
        assert!(!failed_to_start_since(&text("failed", "@999"), 1000), "that of the guest itself");
        assert!(!failed_to_start_since(&text("inactive", "@1000"), 1000));
        assert!(!failed_to_start_since(&text("failed", ""), 1000));
        assert!(!failed_to_start_since("", 1000));
    }
}
