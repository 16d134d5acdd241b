use std::time::Duration;

use anyhow::Result;

use super::cli::StatusForm;
use super::{print, print_json};
use crate::config::Settings;
use crate::report::status::{self, Limits, Paper};
use crate::sys::{Root, terminal};

/// A Nagios plugin that can't tell.
const UNKNOWN: u8 = 3;

/// Prints how the guests of this node stand, and returns the exit status: 0, but for `--check`.
pub fn status(root: &Root, form: &StatusForm, max_age: Duration) -> Result<u8> {
    let limits = Limits { max_age };
    let status = match status::gather(root, &Settings::load(root), &limits) {
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
