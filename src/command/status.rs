use std::time::{Duration, Instant};

use anyhow::Result;

use super::cli::StatusForm;
use super::{print, print_json};
use crate::config::Settings;
use crate::quiesce;
use crate::report;
use crate::report::status::{self, Limits, Paper};
use crate::run::Left;
use crate::sys::{Root, terminal};

/// The exit status of a Nagios plugin for an unknown state.
const UNKNOWN: u8 = 3;

/// A monitoring system waits 10 s for its plugin.
const LOOK_LIMIT: Duration = Duration::from_secs(3);

/// Notices what somebody has started by hand, so that it is no longer reported.
fn look_at_left(root: &Root) {
    let deadline = Instant::now() + LOOK_LIMIT;
    let mut changed = false;
    for vmid in Left::guests(root).unwrap_or_default() {
        let before = Left::load(root, vmid).map_or(0, |left| left.containers.len());
        // Without the right to look or to write, the last known state is shown.
        let seen = quiesce::sight(root, vmid, deadline);
        changed |= seen.is_ok_and(|left| left.len() < before);
        if Instant::now() >= deadline {
            break;
        }
    }
    if changed {
        report::later(root, &Settings::load(root));
    }
}

/// Prints the state of this node's guests, and returns the exit status: 0, except with `--check`.
/// `looked`: the result of a check of proven backups before; if it failed, `--check` gives unknown,
/// and other forms show the last known state.
pub fn status(root: &Root, form: &StatusForm, max_age: Duration, looked: Result<()>) -> Result<u8> {
    let limits = Limits { max_age };
    look_at_left(root);
    let checks = form.check || form.checkmk;
    if let Some(error) = looked.as_ref().err().filter(|_| !checks) {
        eprintln!("stillpoint: {error:#}");
    }
    let looked = if checks { looked } else { Ok(()) };
    let gathered = looked.and_then(|()| status::gather(root, &Settings::load(root), &limits));
    let status = match gathered {
        Ok(status) => status,
        Err(error) if form.check => {
            let error = format!("{error:#}").replace('|', "/");
            print(&format!("UNKNOWN - {error}"))?;
            return Ok(UNKNOWN);
        }
        Err(error) if form.checkmk => {
            print(&format!("{UNKNOWN} Stillpoint - {error:#}"))?;
            return Ok(0);
        }
        Err(error) => return Err(error),
    };
    if form.check {
        let (line, code) = status::check(&status, &limits);
        print(&line)?;
        return Ok(code);
    }
    if form.json {
        print_json(&serde_json::to_string_pretty(&status)?)?;
        return Ok(0);
    }
    let lines = if form.checkmk {
        status::checkmk(&status, &limits)
    } else {
        let paper = Paper { columns: terminal::width(), colours: terminal::takes_colours() };
        status::table(&status, paper)
    };
    for line in lines {
        print(&line)?;
    }
    Ok(0)
}
