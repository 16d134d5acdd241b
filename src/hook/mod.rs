//! One call of a hook.

mod budget;
mod chain;
mod duties;
mod guest_phases;
mod guest_start;
mod job_phases;
#[cfg(test)]
mod walks;

pub use duties::{Due, GuestDuty, JobDuty, duties};

use std::process::ExitCode;
use std::time::Duration;

use self::budget::Budget;

use crate::command;
use crate::config::Settings;
use crate::report::lines::say;
use crate::sys::{Root, failpoint, journald, look, signal};
use crate::vzdump::{Call, Job};

/// How long a hook waits for the guest's lock; a process that holds it longer is bringing the guest
/// back itself.
const LOCK_LIMIT: Duration = Duration::from_secs(30);

/// The `main` of a hook: `hook` gets the node and the arguments, and returns the exit status. After
/// a panic the status is 0; the caller's log has the message.
pub fn run(hook: fn(&Root, &[String]) -> u8) -> ExitCode {
    if let Some(looked) = look::serve_if_asked() {
        return looked;
    }
    let done = std::panic::catch_unwind(|| {
        let arguments: Vec<String> = std::env::args_os()
            .skip(1)
            .map(|argument| argument.to_string_lossy().into_owned())
            .collect();
        let root = Root::from_env();
        // Without systemd, a hook starts itself again as the process that must outlive its caller.
        command::detached(&root, &arguments).unwrap_or_else(|| hook(&root, &arguments))
    });
    ExitCode::from(done.unwrap_or(0))
}

/// Does what is due in a call by vzdump, `PHASE [MODE VMID]`, and returns the exit status.
///
/// That is 0, except in three cases, all on purpose: pre-stop with `quiesce.on-error = "fail"` if
/// containers could not be stopped or paused; job-end with `verify.on-failure = "fail-job"` if a
/// verify failed; and in both phases a failure of vzdump's previous script.
pub fn vzdump(root: &Root, arguments: &[String]) -> u8 {
    chain::vzdump(root, arguments, || called_by_vzdump(root, arguments))
}

/// Does what is due in a call for a guest, `VMID PHASE` from PVE or `VMID PHASE unit` from the
/// drop-in of its unit, and returns the exit status: 0, or that of the guest's previous hookscript.
/// Only PVE's call runs that one, the unit's does not.
pub fn guest(root: &Root, arguments: &[String]) -> u8 {
    match arguments {
        [_, _, by, ..] if by == "unit" => {
            // The unit of a guest has no output of its own. If the log cannot be opened, the work
            // is done anyway.
            let _ = journald::take_output(root, "stillpoint");
            guest_start::guest(root, &arguments[..2])
        }
        _ => chain::guest(arguments, || guest_start::guest(root, arguments)),
    }
}

fn called_by_vzdump(root: &Root, arguments: &[String]) -> u8 {
    let environment =
        |name: &str| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    let Some(call) = &Call::read(arguments, environment) else { return 0 };
    if let Err(error) = signal::watch() {
        say(&format!("cannot watch for signals, so an interruption will not be noticed: {error}"));
    }
    let due = duties(call);
    if due.is_empty() {
        return 0;
    }
    let settings = Settings::load(root);
    arguments.iter().take(1).for_each(|phase| failpoint::reach(root, phase));
    let job = match Job::of_parent(root) {
        Ok(job) => job,
        Err(error) => {
            say(&format!("nothing is done, because the vzdump that called is unknown: {error}"));
            return 0;
        }
    };
    match due {
        Due::Guest(subject, due) => {
            let total = settings.quiesce.budget;
            let budget = Budget::begin(root, total, subject.vmid, &job);
            let settings = &settings;
            guest_phases::GuestCall { root, settings, job, call, subject, budget }.perform(due)
        }
        Due::Job(due) => job_phases::perform(root, &settings, &job, due),
    }
}
