//! Processes in `/proc`, and the other roles that this program can be started in.

#![allow(unsafe_code, reason = "processes of their own, as vzdump has them")]

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::fs;
use std::os::unix::ffi::OsStrExt;

/// A process found in `/proc`.
#[derive(Debug, Clone)]
pub struct Found {
    /// Its number.
    pub pid: i32,
    /// Its command line, its words joined by blanks.
    pub command: String,
}

/// Processes with `name=value` in their environment; zombies have none.
///
/// # Errors
/// If `/proc` cannot be read.
pub fn with_environment(name: &str, value: &str) -> Result<Vec<Found>> {
    let wanted = format!("{name}={value}");
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("reading /proc")? {
        let entry = entry.context("reading /proc")?;
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else {
            continue;
        };
        // A process may end, or belong to another user.
        let Ok(environment) = fs::read(entry.path().join("environ")) else {
            continue;
        };
        let has = environment.split(|byte| *byte == 0);
        if pid != std::process::id() as i32 && has.into_iter().any(|pair| pair == wanted.as_bytes())
        {
            let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            let command = command.trim_end().to_owned();
            found.push(Found { pid, command });
        }
    }
    Ok(found)
}

/// Sends a signal; it is no error if the process is gone. A negative number is a group.
///
/// # Errors
/// If the signal cannot be sent.
pub fn kill(pid: i32, signal: Signal) -> Result<()> {
    match nix::sys::signal::kill(Pid::from_raw(pid), signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("sending {signal} to {pid}")),
    }
}

/// When a process started, in clock ticks since boot: field 22 of its stat file.
///
/// # Errors
/// When the file cannot be read or understood.
pub fn start_time(pid: u32) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("reading a stat file")?;
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let field = after_name.split_whitespace().nth(19);
    field.and_then(|field| field.parse().ok()).with_context(|| format!("no start time in {stat:?}"))
}

/// The environment variable with the role of this program.
pub const ROLE: &str = "STILLPOINT_SIM_ROLE";

/// Any program that links this library can be started as vzdump's worker or as the worker's parent.
/// A worker's command line must be nothing but its task id, so the role is not an argument. This
/// runs before `main`, because a test's `main` is the test harness's.
extern "C" fn enter_role() {
    let Some(role) = std::env::var_os(ROLE) else {
        return;
    };
    let ended = match role.as_bytes() {
        b"daemon" => crate::vzdump::daemon::run(),
        b"worker" => crate::vzdump::worker::run(),
        _ => Err(anyhow::anyhow!("{ROLE}={} is no role", role.display())),
    };
    let code = ended.unwrap_or_else(|error| {
        eprintln!("stillpoint-sim as {}: {error:#}", role.display());
        1
    });
    std::process::exit(code);
}

// SAFETY: the section holds pointers to functions of this very type, which the loader calls once,
// after the C library's own initialisation and before `main`.
#[used]
#[unsafe(link_section = ".init_array")]
static ENTER_ROLE: extern "C" fn() = enter_role;
