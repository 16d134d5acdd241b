//! Work that must outlive the hook, vzdump and its process group: a transient systemd unit, or where there is
//! no systemd a process of its own session.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};

use super::{Root, program};

/// How the work was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detached {
    /// As a transient systemd unit.
    Unit,
    /// As a process in its own session.
    Process,
}

/// systemd-run answers in some 20 ms; on a node under heavy load this is still no reason to wait for ever.
const UNIT_LIMIT: Duration = Duration::from_secs(5);

/// Whatever the work is at, it may die: what it has written down is gone on with. One that waits for an `/etc/pve` that does not
/// answer gets no signal, and a shutdown of the node waits twice as long for it.
const STOP_LIMIT: &str = "TimeoutStopSec=10s";

/// Starts the `stillpoint` command with `arguments` where nothing of vzdump reaches it.
///
/// `unit` names the transient unit. The work has no standard streams and no descriptor of ours, so that it
/// holds up nobody who waits for a pipe to close.
pub fn start(root: &Root, unit: &str, arguments: &[&str]) -> Result<Detached> {
    if root.path("/run/systemd/system").is_dir() {
        match start_unit(root, unit, arguments) {
            Ok(()) => return Ok(Detached::Unit),
            Err(error) => start_process(arguments).with_context(|| {
                format!(
                    "neither a transient systemd unit ({error:#}) nor a process could be started"
                )
            })?,
        }
    } else {
        start_process(arguments).context("cannot start a process in a session of its own")?;
    }
    Ok(Detached::Process)
}

fn start_unit(root: &Root, unit: &str, arguments: &[&str]) -> Result<()> {
    let program = root.path("/usr/bin/stillpoint");
    let mut systemd_run = Command::new(root.path("/usr/bin/systemd-run"));
    systemd_run
        .args(["--quiet", "--collect", "--no-ask-password", "--unit", unit])
        .args(["--property", "Type=exec", "--property", "OOMScoreAdjust=-500"])
        .args(["--property", STOP_LIMIT])
        .args(root.directory().map(|dir| format!("--setenv=STILLPOINT_ROOT={}", dir.display())))
        .arg("--")
        .arg(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    program::run(&mut systemd_run, UNIT_LIMIT).map(drop).context("systemd-run")
}

/// Only where no unit can be had: unlike a unit, this process is in the cgroup of the service that vzdump runs in,
/// and a restart of that service may end it.
///
/// The running binary itself is started again: during an upgrade that is still the one that fits.
fn start_process(arguments: &[&str]) -> io::Result<()> {
    let namespace = pid_1_mount_namespace();
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("stillpoint")
        .args(arguments)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // SAFETY: between fork and exec only system calls are made, no memory is allocated, no lock is taken.
    unsafe {
        command.pre_exec(move || {
            nix::unistd::setsid()?;
            if let Some(namespace) = &namespace {
                setns(namespace, CloneFlags::CLONE_NEWNS)?;
            }
            Ok(())
        });
    }
    // Never waited for: it outlives us and PID 1 takes it over.
    program::shielded(&mut command).spawn().map(drop)
}

/// The namespace to enter so as not to hold vzdump's private one; `None` where we are in it already or may
/// not enter it (not root: then there is no vzdump above us either).
fn pid_1_mount_namespace() -> Option<std::fs::File> {
    if !nix::unistd::geteuid().is_root() {
        return None;
    }
    let its = std::fs::read_link("/proc/1/ns/mnt").ok()?;
    let ours = std::fs::read_link("/proc/self/ns/mnt").ok()?;
    (its != ours).then(|| std::fs::File::open("/proc/1/ns/mnt").ok()).flatten()
}
