//! The system's log, and mail to root, for what happens when nobody watches a task log.

use std::ffi::CStr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::syslog::{Facility, LogFlags, Severity, openlog, syslog};

use crate::sys::{Root, program, text};
use crate::vzdump::Vmid;

const IDENT: &CStr = c"stillpoint";

/// A mail system with a full spool tries for ever.
const MAIL_LIMIT: Duration = Duration::from_secs(30);

/// The longest line of a mail, in characters.
const LINE: usize = 10_000;

/// Something a person may like to know.
pub fn notice(vmid: Vmid, message: &str) {
    write(Severity::LOG_NOTICE, vmid, message);
}

/// Something a person should look at.
pub fn warning(vmid: Vmid, message: &str) {
    write(Severity::LOG_WARNING, vmid, message);
}

/// Something that happened when nobody watched a task log: a warning in the system's log, and a mail to root. A mail that
/// can't be sent is a warning of its own.
pub fn alarm(root: &Root, vmid: Vmid, subject: &str, message: &str) {
    warning(vmid, message);
    let body = format!("guest {vmid}: {message}\n\nHow the guests stand: stillpoint status");
    if let Err(error) = super::mail::about(root, vmid, subject, &body) {
        warning(vmid, &format!("no mail could be sent: {error:#}"));
    }
}

fn write(severity: Severity, vmid: Vmid, message: &str) {
    let line = format!("guest {vmid}: {}", text::printable(message, 2000));
    // A log that can't be written to is no reason to leave anything undone.
    let _ = openlog(Some(IDENT), LogFlags::LOG_PID, Facility::LOG_DAEMON)
        .and_then(|()| syslog(severity, line.as_str()));
}

/// Mails root, for what is not about one guest ([`super::mail::about`] is), through the node's `sendmail`, which Proxmox VE forwards to its configured targets. A node
/// without one is no error: the system's log has it.
pub fn mail(root: &Root, subject: &str, body: &str) -> Result<()> {
    let sendmail = root.path("/usr/sbin/sendmail");
    if !sendmail.exists() {
        return Ok(());
    }
    let subject = text::printable(subject, 200);
    let body: Vec<String> = body.lines().map(|line| text::printable(line, LINE)).collect();
    let letter = format!("To: root\nSubject: {subject}\n\n{}\n", body.join("\n"));
    let mut command = Command::new(&sendmail);
    command.args(["-i", "root"]);
    program::run_with_input(&mut command, letter.as_bytes(), MAIL_LIMIT)
        .map(drop)
        .with_context(|| sendmail.display().to_string())
}
