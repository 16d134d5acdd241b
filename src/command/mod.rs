//! The `stillpoint` command, for people and for systemd.

mod back;
pub mod cli;
mod config;
mod doctor;
mod journal;
mod plan;
mod restore;
mod setup;
mod snapshots;
mod status;
mod trial;
mod verify;

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use nix::unistd::geteuid;

use self::cli::{Arguments, Command};
use crate::config::Settings;
use crate::sys::text::{json_for_terminal, token, wrapped};
use crate::sys::{Root, clock, detach, look, terminal};
use crate::vzdump::Vmid;
use crate::{quiesce, report};

/// The command's `main`.
pub fn run() -> ExitCode {
    if let Some(looked) = look::serve_if_asked() {
        return looked;
    }
    match perform(&Root::from_env(), Arguments::parse().command) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            let denied = |cause: &std::io::Error| cause.kind() == ErrorKind::PermissionDenied;
            let of_nobody = error.chain().filter_map(|cause| cause.downcast_ref()).any(denied);
            let hint = if of_nobody && !geteuid().is_root() { " (run this as root)" } else { "" };
            eprintln!("stillpoint: {error:#}{hint}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a command that a person gave and returns the exit status.
fn perform(root: &Root, command: Command) -> Result<u8> {
    match command {
        Command::Doctor { storage, json } => return doctor::doctor(root, storage.as_deref(), json),
        Command::Status { form, max_age, refresh } => {
            let looked = if refresh { look_again(root) } else { Ok(()) };
            return status::status(root, &form, max_age, looked);
        }
        Command::Journal(arguments) => return journal::journal(root, &arguments),
        Command::Plan { vmid, json } => plan::plan(root, vmid, json)?,
        Command::Try { vmid } => return trial::trial(root, vmid),
        Command::Snapshots { storage, guest, json } => {
            return snapshots::snapshots(root, storage.as_deref(), guest, json);
        }
        Command::Verify { what, all, wait } => return verify::verify(root, &what, all, wait),
        Command::RestoreCheck { vmid, json } => restore::check(root, vmid, json)?,
        Command::Adopt { vmid } => restore::adopt(root, vmid)?,
        Command::Enable { guests, dry_run } => setup::enable(root, &guests, dry_run)?,
        Command::Disable { guests, dry_run } => setup::disable(root, &guests, dry_run)?,
        Command::Register { all_guests, dry_run } => setup::register(root, all_guests, dry_run)?,
        Command::Unregister { dry_run } => setup::unregister(root, dry_run)?,
        Command::Config { json } => return config::config(root, json),
        Command::Resume { vmid, forget: false } => back::resume(root, vmid)?,
        Command::Resume { vmid, forget: true } => back::forget(root, vmid)?,
        Command::Settle { vmid } => back::settle(root, vmid)?,
        Command::Started { vmid } => back::started(root, vmid)?,
        Command::Recover => back::recover(root)?,
        Command::Guard { vmid } => guard(root, vmid)?,
        Command::Collect => collect(root)?,
        Command::Refresh => look_again(root)?,
    }
    Ok(0)
}

/// Runs the commands of hooks and returns the exit status: `guard VMID`, `started VMID` and
/// `collect`, which must outlive their caller, and `identity VMID` and `kept VMID`, which must not
/// block their caller. `None` for any other arguments.
pub fn detached(root: &Root, arguments: &[String]) -> Option<u8> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["guard", vmid] => vmid.parse().and_then(|vmid| guard(root, vmid)),
        ["started", vmid] => vmid.parse().and_then(|vmid| back::started(root, vmid)),
        ["collect"] => collect(root),
        ["identity", vmid] => vmid.parse().and_then(|vmid| restore::pre_start(root, vmid)),
        ["kept", vmid] => vmid.parse().and_then(|vmid| setup::kept(root, vmid)),
        _ => return None,
    };
    Some(u8::from(done.is_err()))
}

/// Guards a guest's backup until its end.
fn guard(root: &Root, vmid: Vmid) -> Result<()> {
    let guarded = quiesce::guard(root, vmid);
    report::later(root, &Settings::load_bounded(root));
    guarded
}

/// Collects every pending verify.
fn collect(root: &Root) -> Result<()> {
    let began = clock::now();
    let collected = crate::verify::collect_all(root);
    report::after_verifies(root, &Settings::load_bounded(root), began);
    collected
}

/// Checks again what counts as proven. The collector reports a failure, as it does for verifies.
fn look_again(root: &Root) -> Result<()> {
    let began = clock::now();
    let failed = crate::verify::look(root).context("cannot look again at proven backups")?;
    for error in report::tell_later(root, &Settings::load_bounded(root), began) {
        eprintln!("stillpoint: {error:#}");
    }
    if failed {
        detach::start(root, &format!("stillpoint-collect-{}", token()), &["collect"])
            .map(drop)
            .context(
                "the failure is recorded, but the process that reports it could not be started",
            )?;
    }
    Ok(())
}

/// Prints a sentence: wrapped between words on a terminal, otherwise in one line.
fn tell(sentence: &str) -> Result<()> {
    if !terminal::is_read() {
        return print(sentence);
    }
    wrapped(sentence, terminal::width(), 2).iter().try_for_each(|line| print(line))
}

/// Prints JSON; on a terminal, control characters from a guest or a server are escaped.
fn print_json(json: &str) -> Result<()> {
    if terminal::is_read() { print(&json_for_terminal(json)) } else { print(json) }
}

/// It is no error if the reader closes the pipe early (`| head`).
fn print(line: &str) -> Result<()> {
    match writeln!(std::io::stdout(), "{line}") {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => other.context("standard output"),
    }
}
