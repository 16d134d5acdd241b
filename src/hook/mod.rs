//! What one call of a hook comes to.

mod duties;
mod guest_phases;
mod job_phases;

pub use duties::{Duty, duties};

use std::time::Duration;

use crate::config::Settings;
use crate::report::lines::say;
use crate::sys::{Root, detach, text};
use crate::vzdump::{Call, Job, Vmid};

/// A hook waits this long for the guest's lock; who holds it longer is the one that brings the guest back.
const LOCK_LIMIT: Duration = Duration::from_secs(30);

/// Does what is due in a call and returns the exit status for vzdump.
///
/// That is 0 but for two deliberate cases: pre-stop with `quiesce.on-error = "fail"` and a guest that could not
/// be brought to rest, and job-end with `verify.on-failure = "fail-job"` and a verify that failed.
pub fn vzdump(root: &Root, call: &Call) -> u8 {
    let due = duties(call);
    if due.is_empty() {
        return 0;
    }
    let settings = Settings::load(root);
    let job = match Job::of_parent() {
        Ok(job) => job,
        Err(error) => {
            say(&format!("nothing is done, for the calling vzdump is not known: {error}"));
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
            guest_phases::GuestCall { root, settings: &settings, job, call, subject }.perform(due)
        }
        None => job_phases::perform(root, &settings, &job, due),
    }
}

/// Does what is due in a call of the guest hookscript, `VMID PHASE`: after each start, what the guest says was
/// running when it was backed up is brought up.
pub fn guest(root: &Root, arguments: &[String]) {
    let [vmid, phase, ..] = arguments else { return };
    let (Ok(vmid), "post-start") = (vmid.parse::<Vmid>(), phase.as_str()) else { return };
    let unit = format!("stillpoint-settle-{vmid}-{}", text::token());
    if let Err(error) = detach::start(root, &unit, &["settle", &vmid.to_string()]) {
        say(&format!("what was running in guest {vmid} is not brought up: {error:#}"));
    }
}
