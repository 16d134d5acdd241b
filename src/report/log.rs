//! The system's log, and mail to root, for what happens when nobody watches a task log.

use std::ffi::CStr;
use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use nix::syslog::{Facility, LogFlags, Severity, openlog, syslog};

use crate::sys::{Root, text};
use crate::vzdump::Vmid;

const IDENT: &CStr = c"stillpoint";

/// Something a person may like to know.
pub fn notice(vmid: Vmid, message: &str) {
    write(Severity::LOG_NOTICE, vmid, message);
}

/// Something a person should look at.
pub fn warning(vmid: Vmid, message: &str) {
    write(Severity::LOG_WARNING, vmid, message);
}

fn write(severity: Severity, vmid: Vmid, message: &str) {
    let line = format!("guest {vmid}: {}", text::printable(message, 2000));
    // A log that can't be written to is no reason to leave anything undone.
    let _ = openlog(Some(IDENT), LogFlags::LOG_PID, Facility::LOG_DAEMON)
        .and_then(|()| syslog(severity, line.as_str()));
}

/// Mails root through the node's `sendmail`, which Proxmox VE forwards to its configured targets. A node
/// without one is no error: the system's log has it.
pub fn mail(root: &Root, subject: &str, body: &str) -> Result<()> {
    let sendmail = root.path("/usr/sbin/sendmail");
    if !sendmail.exists() {
        return Ok(());
    }
    let mut child = Command::new(&sendmail)
        .args(["-i", "root"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| sendmail.display().to_string())?;
    if let Some(mut input) = child.stdin.take() {
        let subject = text::printable(subject, 200);
        write!(input, "To: root\nSubject: {subject}\n\n{body}\n").context("sendmail")?;
    }
    child.wait().context("sendmail").map(drop)
}
