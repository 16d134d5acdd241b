//! The scripts that stood where ours stand now: called by ours, as PVE would call them.
//!
//! A script gets the same arguments, environment, standard input and descriptors, and writes into the caller's log itself;
//! it has no time limit, as PVE gives it none, and is in the caller's process group, so that the Stop button reaches it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::report::lines::say;
use crate::setup::chained_script;
use crate::sys::{Root, process, program, text};
use crate::vzdump::Vmid;

/// A guest's start waits no longer than this to know its former hookscript.
const LOOK_LIMIT: Duration = Duration::from_secs(5);

/// A call of ours within a call of ours is this deep at most; more than a few generations up is PVE.
const GENERATIONS: usize = 8;

/// Calls vzdump's former script around ours, where there is one, and gives the exit status.
///
/// In pre-stop theirs comes first: what it does there may need running containers (a dump), and nothing is stopped yet
/// when it fails. Everywhere else ours comes first: nothing that theirs does, however long, keeps a stack down.
pub fn vzdump(root: &Root, arguments: &[String], ours: impl FnOnce() -> u8) -> u8 {
    let script = match chained_script(root) {
        Ok(None) => return ours(),
        Ok(Some(script)) => script,
        Err(error) => {
            say(&format!("cannot determine whether there is another script to call: {error:#}"));
            return ours();
        }
    };
    if within_the_same_call(arguments) {
        return 0;
    }
    let phase = arguments.first().map(String::as_str).unwrap_or_default();
    if phase == "pre-stop" {
        match call(&root.path(&script), &script, arguments) {
            0 => ours(),
            status => {
                say(&format!("{script} failed in pre-stop, so this guest is not backed up"));
                status
            }
        }
    } else {
        let own = caught(ours);
        let status = call(&root.path(&script), &script, arguments);
        if status != 0 && !counts(phase) {
            say(&format!("{script} failed in {phase}; the backup goes on"));
        }
        if counts(phase) { own.max(status) } else { own }
    }
}

/// Whether the status of vzdump's former script is passed on: only where a failure does no harm but the one that is
/// meant. In pre-restart it would leave a guest frozen or down, in backup-end spoil a complete archive.
fn counts(phase: &str) -> bool {
    matches!(phase, "pre-stop" | "job-end")
}

/// Calls ours and then the hookscript that the guest had before it, and gives the exit status: theirs counts as PVE
/// counts it.
pub fn guest(arguments: &[String], ours: impl FnOnce() -> u8) -> u8 {
    let Some(vmid) = arguments.first().and_then(|vmid| vmid.parse::<Vmid>().ok()) else {
        return ours();
    };
    let (volume, script) = match kept_for(vmid) {
        Ok(None) => return ours(),
        Ok(Some(kept)) => kept,
        Err(error) => {
            say(&format!(
                "cannot determine whether guest {vmid} has another hookscript: {error:#}"
            ));
            return ours();
        }
    };
    if within_the_same_call(arguments) {
        return 0;
    }
    caught(ours);
    call(Path::new(&script), &volume, arguments)
}

/// The volume and the file of a guest's former hookscript. Looked up in a process of its own: when `/etc/pve` hangs, the
/// guest has to start all the same.
fn kept_for(vmid: Vmid) -> Result<Option<(String, String)>> {
    let mut look = Command::new("/proc/self/exe");
    let kept = program::run_or_leave(look.args(["kept", &vmid.to_string()]), LOOK_LIMIT)?;
    match kept.lines().collect::<Vec<_>>().as_slice() {
        [] => Ok(None),
        [volume, script] => Ok(Some(((*volume).to_string(), (*script).to_string()))),
        reason => bail!("{}", reason.concat()),
    }
}

/// Ours must not keep theirs from being called.
fn caught(ours: impl FnOnce() -> u8) -> u8 {
    catch_unwind(AssertUnwindSafe(ours)).unwrap_or(0)
}

/// Runs a script to its end: 0 where it succeeded or can't be run at all, else 1.
fn call(script: &Path, name: &str, arguments: &[String]) -> u8 {
    let name = text::printable(name, 300);
    if is_own_program(&fs::metadata(script).ok()) {
        say(&format!("{name} is Stillpoint itself and is not called again"));
        return 0;
    }
    match Command::new(script).args(arguments).status() {
        Ok(status) if status.success() => 0,
        Ok(status) => {
            say(&format!("{name} ended with {status}"));
            1
        }
        Err(error) => {
            say(&format!("cannot call {name}, so it is left out: {error}"));
            0
        }
    }
}

/// Whether an ancestor of this process is this very program with the same arguments: a former script that itself calls
/// Stillpoint, as one written by hand may do, has been called by it. One that starts another guest is another matter: that
/// guest's hook is called for itself.
fn within_the_same_call(arguments: &[String]) -> bool {
    let mut pid = i32::try_from(std::os::unix::process::parent_id()).unwrap_or(1);
    for _ in 0..GENERATIONS {
        if pid <= 1 {
            return false;
        }
        if is_own_program(&fs::metadata(format!("/proc/{pid}/exe")).ok())
            && has_arguments(pid, arguments)
        {
            return true;
        }
        let Ok(parent) = process::parent_of(pid) else { return false };
        pid = parent;
    }
    false
}

/// As far as it can be told: one that can't be looked at is taken for the same, for a call within a call has no end.
fn has_arguments(pid: i32, arguments: &[String]) -> bool {
    let Ok(bytes) = fs::read(format!("/proc/{pid}/cmdline")) else { return true };
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let theirs: Vec<&str> = text.trim_end_matches('\0').split('\0').skip(1).collect();
    theirs == arguments
}

fn is_own_program(file: &Option<fs::Metadata>) -> bool {
    let own = fs::metadata("/proc/self/exe").ok();
    let identity = |file: &fs::Metadata| (file.dev(), file.ino());
    file.is_some() && own.as_ref().map(identity) == file.as_ref().map(identity)
}
