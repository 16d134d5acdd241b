use anyhow::{Error, Result};
use chrono::{DateTime, Utc};

use super::history::{History, Past, Proof};
use super::lines::say;
use super::{mail, metrics, ping};
use crate::config::Settings;
use crate::journal::{Outcome, VerifyOutcome};
use crate::run::Left;
use crate::sys::Root;

/// Reports the end of a job to monitoring: the metrics and the ping. Called last; a failure is only
/// a line in the task log.
pub fn after_job(root: &Root, settings: &Settings, job: &str) {
    later(root, settings);
    let Some(url) = &settings.report.ping_url else { return };
    let pinged = went_well(root, job).and_then(|well| ping::send(url, well));
    if let Err(error) = pinged {
        say(&format!("{error:#}"));
    }
}

/// Reports verifies that ended after their jobs, since `began`: the metrics, and a ping if one
/// failed.
pub fn after_verifies(root: &Root, settings: &Settings, began: DateTime<Utc>) {
    for error in tell_later(root, settings, began) {
        say(&format!("{error:#}"));
    }
}

/// The same without a task log: returns what could not be done.
pub fn tell_later(root: &Root, settings: &Settings, began: DateTime<Utc>) -> Vec<Error> {
    let written = metrics::write(root, settings);
    let pinged = settings.report.ping_url.as_ref().map_or(Ok(()), |url| {
        let history = History::read(root)?;
        let since = |past: &Past| {
            matches!(past.proof, Some(Proof::Known(time, VerifyOutcome::Failed, _)) if time >= began)
        };
        if history.guests.values().any(since) { ping::send(url, false) } else { Ok(()) }
    });
    written.err().into_iter().chain(pinged.err()).collect()
}

/// Writes the metrics again after an event that follows a job, and sends the mails that had to
/// wait.
pub fn later(root: &Root, settings: &Settings) {
    if let Err(error) = mail::tell_of_held_back(root) {
        say(&format!("cannot send the mails that were held back: {error:#}"));
    }
    if let Err(error) = metrics::write(root, settings) {
        say(&format!("{error:#}"));
    }
}

/// Whether each backup of a job was made, none failed to verify, and all containers are back.
fn went_well(root: &Root, job: &str) -> Result<bool> {
    let history = History::read(root)?;
    let mut of_job = history
        .guests
        .values()
        .filter_map(|past| Some((past, past.last.as_ref().filter(|last| last.record.job == job)?)));
    Ok(of_job.all(|(past, last)| {
        let left = Left::load(root, last.record.vmid).map_or(1, |left| left.containers.len());
        let failed = matches!(past.proof, Some(Proof::Known(_, VerifyOutcome::Failed, _)));
        last.record.outcome == Outcome::Ok && !failed && last.not_back.is_empty() && left == 0
    }))
}
