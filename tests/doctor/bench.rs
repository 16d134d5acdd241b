//! A node without any problem, and doctor called on it.

use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use stillpoint::doctor::{Check, Level};
use stillpoint_sim::engine::container::Restart;
use stillpoint_sim::hooks::Binaries;
use stillpoint_sim::node::{GuestSpec, Node};

/// The output of doctor.
pub struct Said {
    pub checks: Vec<Check>,
    pub status: i32,
    pub raw: String,
}

/// A node with guest 9001, which runs a stack, and a storage of a backup server.
pub fn sound() -> Node {
    let binaries = Binaries::beside(Path::new(env!("CARGO_BIN_EXE_vzdump-hook"))).unwrap();
    let mut node = Node::new(None, &binaries).unwrap();
    node.write("etc/vzdump.conf", "script: /usr/libexec/stillpoint/vzdump-hook\n").unwrap();
    node.write("etc/pve/jobs.cfg", "vzdump: nightly\n\tall 1\n\tstorage offsite\n").unwrap();
    node.write("run/systemd/timesync/synchronized", "").unwrap();
    std::fs::create_dir_all(node.path("run/systemd/system")).unwrap();
    std::fs::create_dir_all(node.path("var/tmp")).unwrap();
    for wanted in [
        "multi-user.target.wants/stillpoint-recover.service",
        "timers.target.wants/stillpoint-refresh.timer",
    ] {
        node.write(&format!("etc/systemd/system/{wanted}"), "").unwrap();
    }
    for program in ["usr/sbin/sendmail", "usr/bin/systemd-run", "var/lib/vz/snippets/stillpoint"] {
        executable(&node, program);
    }
    let mut guest = GuestSpec { hookscript: true, ..GuestSpec::lxc(9001) };
    for container in &mut guest.containers {
        container.restart = Restart::UnlessStopped;
    }
    node.add_guest(guest).unwrap();
    node.add_backup_server("offsite", None).unwrap();
    let key = "etc/pve/priv/storage/offsite.enc";
    node.write(key, "{}").unwrap();
    set_permissions(node.path(key), Permissions::from_mode(0o600)).unwrap();
    node.write("etc/stillpoint/config.toml", "[storage.offsite]\nkey-saved = true\n").unwrap();
    node
}

/// Makes a program of the node that does nothing.
pub fn executable(node: &Node, path: &str) {
    node.write(path, "#!/bin/sh\n").unwrap();
    set_permissions(node.path(path), Permissions::from_mode(0o755)).unwrap();
}

/// The command as a person calls it.
pub fn command(node: &Node, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stillpoint"));
    command.arg("doctor").args(arguments).env("STILLPOINT_ROOT", node.root());
    command.env_remove("COLUMNS").stdin(Stdio::null());
    command
}

pub fn doctor(node: &Node, arguments: &[&str]) -> Output {
    command(node, arguments).output().unwrap()
}

/// Its JSON output.
pub fn told(node: &Node, arguments: &[&str]) -> Said {
    let output = doctor(node, &[&["--json"], arguments].concat());
    let raw = String::from_utf8(output.stdout).unwrap();
    let report: Value = serde_json::from_str(&raw).unwrap_or_else(|error| panic!("{error}: {raw}"));
    let text = |value: &Value| value.as_str().unwrap().to_string();
    let read = |check: &Value| Check {
        level: match check["level"].as_str().unwrap() {
            "ok" => Level::Ok,
            "warn" => Level::Warn,
            "fail" => Level::Fail,
            other => panic!("{other}"),
        },
        about: text(&check["about"]),
        message: text(&check["message"]),
        fix: check["fix"].as_array().unwrap().iter().map(text).collect(),
    };
    let checks = report["checks"].as_array().unwrap().iter().map(read).collect();
    Said { checks, status: output.status.code().unwrap(), raw }
}
