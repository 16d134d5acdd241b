//! The scripts that were configured before ours: ours calls them, as PVE would.
//!
//! A script gets the same arguments, environment, standard input and descriptors, and writes into
//! the caller's log itself. It has no time limit, as under PVE, and is in the caller's process
//! group, so that the Stop button reaches it.

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

/// A guest's start waits no longer than this to find its previous hookscript.
const LOOK_LIMIT: Duration = Duration::from_secs(5);

/// How many ancestors to check: a call of ours within a call of ours is not deeper, and above that
/// is PVE.
const GENERATIONS: usize = 8;

/// Calls vzdump's previous script before or after ours, if there is one, and returns the exit
/// status.
///
/// In pre-stop theirs comes first: it may need running containers (a dump), and nothing is stopped
/// yet when it fails. In all other phases ours comes first, so that theirs never keeps a stack
/// down, however long it runs.
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

/// Whether to pass on the status of vzdump's previous script: only in phases where a failure does
/// only the intended harm. In pre-restart it would leave a guest frozen or down, in backup-end
/// spoil a complete archive.
fn counts(phase: &str) -> bool {
    matches!(phase, "pre-stop" | "job-end")
}

/// Calls ours and then the guest's previous hookscript, and returns the exit status: theirs counts
/// as it does for PVE.
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

/// The volume and the file of a guest's previous hookscript. Looked up in a separate process,
/// because the guest must start even if `/etc/pve` hangs.
fn kept_for(vmid: Vmid) -> Result<Option<(String, String)>> {
    let mut look = Command::new("/proc/self/exe");
    let kept = program::run_or_leave(look.args(["kept", &vmid.to_string()]), LOOK_LIMIT)?;
    match kept.lines().collect::<Vec<_>>().as_slice() {
        [] => Ok(None),
        [volume, script] => Ok(Some(((*volume).to_string(), (*script).to_string()))),
        reason => bail!("{}", reason.concat()),
    }
}

/// A panic of ours must not keep theirs from being called.
fn caught(ours: impl FnOnce() -> u8) -> u8 {
    catch_unwind(AssertUnwindSafe(ours)).unwrap_or(0)
}

/// Runs a script to its end: 0 if it succeeded or could not be run at all, else 1.
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

/// Whether an ancestor of this process is this very program with the same arguments. Then a
/// previous script itself calls Stillpoint, as a handwritten one may, and must not be called again.
/// If it starts another guest, that guest's hook has other arguments and is called normally.
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

/// If it cannot be determined, it counts as the same call, because a call within a call would never
/// end.
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
