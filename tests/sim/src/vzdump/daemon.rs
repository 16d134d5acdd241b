//! The workers' parent: starts workers as pvedaemon does, and reaps their leftover processes, as
//! init does.

use super::wire::{Ended, News, Order, SOCKET, Wire};
use crate::process::ROLE;
use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Environment variable with a worker's job, as JSON.
pub const JOB: &str = "STILLPOINT_SIM_JOB";

/// Runs as the daemon until the director is gone.
///
/// # Errors
/// If it cannot do its work.
pub fn run() -> Result<i32> {
    nix::sys::prctl::set_child_subreaper(true).context("becoming the reaper")?;
    let mut wire = Wire::to_director()?;
    wire.send(&News::Daemon)?;
    let socket = std::env::var_os(SOCKET).context("the socket has no name")?;
    loop {
        match wire.receive(Duration::from_millis(5)) {
            Ok(Some(Order::Spawn(job))) => {
                let job = serde_json::to_string(&job).context("writing the job")?;
                // The worker is reaped below, with all the others.
                Command::new("/proc/self/exe")
                    .arg0("pvedaemon worker")
                    .env_clear()
                    .env(ROLE, "worker")
                    .env(SOCKET, &socket)
                    .env(JOB, job)
                    .current_dir("/")
                    .stdin(Stdio::null())
                    .spawn()
                    .context("starting a worker")?;
            }
            Ok(Some(Order::Exit(code))) => return Ok(code),
            Ok(Some(_)) => anyhow::bail!("an order for a worker"),
            Ok(None) => {}
            // The director has ended, so everything ends.
            Err(_) => return Ok(0),
        }
        while let Some((pid, ended)) = reap()? {
            wire.send(&News::Reaped(pid, ended))?;
        }
    }
}

/// Reaps one child that has ended, if there is one.
///
/// # Errors
/// If the system call fails.
pub fn reap() -> Result<Option<(i32, Ended)>> {
    match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
        Ok(WaitStatus::Exited(pid, code)) => {
            let ended = Ended { exit: Some(code), signal: None };
            Ok(Some((pid.as_raw(), ended)))
        }
        Ok(WaitStatus::Signaled(pid, signal, _)) => {
            let ended = Ended { exit: None, signal: Some(signal as i32) };
            Ok(Some((pid.as_raw(), ended)))
        }
        Ok(_) | Err(Errno::ECHILD) => Ok(None),
        Err(error) => Err(error).context("waiting for children"),
    }
}
