//! What one call of a hook comes to.

mod budget;
mod chain;
mod duties;
mod guest_phases;
mod guest_start;
mod job_phases;

pub use duties::{Duty, duties};

use std::process::ExitCode;
use std::time::Duration;

use self::budget::Budget;

use crate::command;
use crate::config::Settings;
use crate::report::lines::say;
use crate::sys::{Root, failpoint, journald, look, signal};
use crate::vzdump::{Call, Job};

/// A hook waits this long for the guest's lock; who holds it longer is the one that brings the guest back.
const LOCK_LIMIT: Duration = Duration::from_secs(30);

/// The whole of a hook's `main`: `hook` gets the node and the arguments, and gives the exit status. A panic, whose
/// message the caller's log has, is status 0.
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
        // Without systemd a hook starts itself again for what must outlive its caller.
        command::detached(&root, &arguments).unwrap_or_else(|| hook(&root, &arguments))
    });
    ExitCode::from(done.unwrap_or(0))
}

/// Does what is due in a call of vzdump's, `PHASE [MODE VMID]`, and returns the exit status.
///
/// That is 0 but for three deliberate cases: pre-stop with `quiesce.on-error = "fail"` and a guest that could not
/// be brought to rest, job-end with `verify.on-failure = "fail-job"` and a verify that failed, and in both phases a
/// failure of the script that was vzdump's before.
pub fn vzdump(root: &Root, arguments: &[String]) -> u8 {
    chain::vzdump(root, arguments, || called_by_vzdump(root, arguments))
}

/// Does what is due in a call for a guest, `VMID PHASE` from PVE or `VMID PHASE unit` from the drop-in of its unit, and
/// returns the exit status: 0, or what the guest's former hookscript says. That one is PVE's to call, so not for the unit.
pub fn guest(root: &Root, arguments: &[String]) -> u8 {
    match arguments {
        [_, _, by, ..] if by == "unit" => {
            // The unit of a container has no output of its own. Where nothing can be said, all else is done.
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
    if let Some(complaint) =
        settings.complaint.as_ref().filter(|_| due.contains(&Duty::BringBackLeftovers))
    {
        say(complaint);
    }
    match &call.subject {
        Some(subject) => {
            let total = settings.quiesce.budget;
            let budget = Budget::begin(root, total, subject.vmid, &job);
            let settings = &settings;
            guest_phases::GuestCall { root, settings, job, call, subject, budget }.perform(due)
        }
        None => job_phases::perform(root, &settings, &job, due),
    }
}
