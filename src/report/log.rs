//! The system's log, and mail to root, for events outside a task log.

use std::ffi::CStr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::syslog::{Facility, LogFlags, Severity, openlog, syslog};

use crate::sys::{Root, program, text};
use crate::vzdump::Vmid;

const IDENT: &CStr = c"stillpoint";

/// A mail system with a full spool would try for ever.
const MAIL_LIMIT: Duration = Duration::from_secs(30);

/// The longest line of a mail, in characters.
const LINE: usize = 10_000;

/// Logs something that is good to know.
pub fn notice(vmid: Vmid, message: &str) {
    write(Severity::LOG_NOTICE, vmid, message);
}

/// Logs something that an admin should look at.
pub fn warning(vmid: Vmid, message: &str) {
    write(Severity::LOG_WARNING, vmid, message);
}

/// Reports an event outside a task log: a warning in the system's log, and a mail to root. If the
/// mail cannot be sent, that is logged as a second warning.
pub fn alarm(root: &Root, vmid: Vmid, subject: &str, message: &str) {
    warning(vmid, message);
    let body = format!("guest {vmid}: {message}\n\nHow the guests stand: stillpoint status");
    if let Err(error) = super::mail::about(root, vmid, subject, &body) {
        warning(vmid, &format!("no mail could be sent: {error:#}"));
    }
}

fn write(severity: Severity, vmid: Vmid, message: &str) {
    #[cfg(test)]
    if crate::sys::walk::current().is_some() {
        return;
    }
    let line = format!("guest {vmid}: {}", text::printable(message, 2000));
    // A log that cannot be written must not stop anything.
    let _ = openlog(Some(IDENT), LogFlags::LOG_PID, Facility::LOG_DAEMON)
        .and_then(|()| syslog(severity, line.as_str()));
}

/// Mails root about the node ([`super::mail::about`] is for one guest), through the node's
/// `sendmail`, which Proxmox VE forwards to its configured targets. A node without `sendmail` is no
/// error: the system's log has the message.
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
