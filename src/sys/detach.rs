//! Work that must outlive the hook, vzdump and its process group: a transient systemd unit, or
//! without systemd a process in its own session.

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

/// systemd-run answers within about 20 ms. The limit only keeps a node under heavy load from
/// waiting for ever.
const UNIT_LIMIT: Duration = Duration::from_secs(5);

/// The work may be killed at any point: others continue from what it has written down. A process
/// that waits for an `/etc/pve` that does not answer gets no signal, and a shutdown of the node
/// waits twice this time for it.
const STOP_LIMIT: &str = "TimeoutStopSec=10s";

/// Starts the `stillpoint` command with `arguments` outside of vzdump's process group.
///
/// `unit` names the transient unit. The process has no standard streams and none of our
/// descriptors, so it does not delay anybody who waits for a pipe to close.
pub fn start(root: &Root, unit: &str, arguments: &[&str]) -> Result<Detached> {
    #[cfg(test)]
    if let Some(walk) = super::walk::current() {
        return Ok(walk.start(arguments).map(|()| Detached::Unit)?);
    }
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

/// Only used if no unit can be started: unlike a unit, this process is in the control group of the
/// service that vzdump runs in, and a restart of that service may end it.
///
/// It runs the same binary as this process: during an upgrade that is still the matching version.
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
    // SAFETY: between fork and exec only system calls are made, no memory is allocated, no lock is
    // taken.
    unsafe {
        command.pre_exec(move || {
            nix::unistd::setsid()?;
            if let Some(namespace) = &namespace {
                setns(namespace, CloneFlags::CLONE_NEWNS)?;
            }
            Ok(())
        });
    }
    // Not waited for: it outlives us, and PID 1 becomes its parent.
    program::shielded(&mut command).spawn().map(drop)
}

/// The mount namespace to enter so that vzdump's private one is not kept alive; `None` if we are in
/// it already or may not enter it (without root there is no vzdump above us either).
fn pid_1_mount_namespace() -> Option<std::fs::File> {
    if !nix::unistd::geteuid().is_root() {
        return None;
    }
    let its = std::fs::read_link("/proc/1/ns/mnt").ok()?;
    let ours = std::fs::read_link("/proc/self/ns/mnt").ok()?;
    (its != ours).then(|| std::fs::File::open("/proc/1/ns/mnt").ok()).flatten()
}
