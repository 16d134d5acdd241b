//! The drop-in that makes systemd call the guest hook at every start of every LXC guest of this
//! node, also after a reboot from inside, without a line in any guest's configuration.

use std::fs;
use std::io;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::pve::{DROP_INS, GUEST_HOOK};
use crate::sys::{Root, file, outside, program};

/// `-` ignores a failure and a missing program, but not a time-out of the unit itself
/// (`TimeoutStartSec`, 90 s by default), which would fail the start. So the limits are here, and
/// far below that. The argument `unit` tells the hook who calls.
fn text() -> String {
    format!(
        "# Written by `stillpoint register --all-guests`, taken away by `stillpoint unregister`.\n\
         [Service]\n\
         ExecStartPre=-/usr/bin/timeout --kill-after=5 20 {GUEST_HOOK} %i pre-start unit\n\
         ExecStartPost=-/usr/bin/timeout --kill-after=5 10 {GUEST_HOOK} %i post-start unit\n"
    )
}

const SYSTEMCTL_LIMIT: Duration = Duration::from_secs(60);

/// Whether the drop-ins have the right content.
pub fn installed(root: &Root) -> bool {
    DROP_INS.iter().all(|path| {
        file::read_text(&root.path(path), 1 << 20).is_ok_and(|there| there == Some(text()))
    })
}

/// Whether any of them exists.
pub fn any(root: &Root) -> bool {
    DROP_INS.iter().any(|path| root.path(path).exists())
}

/// Writes the drop-ins and makes systemd reload.
pub fn install(root: &Root) -> Result<()> {
    for path in DROP_INS {
        let place = root.path(path);
        if let Some(directory) = place.parent() {
            outside::directory(directory, 0o755)
                .with_context(|| directory.display().to_string())?;
        }
        outside::replace(&place, text().as_bytes(), 0o644).context(path)?;
    }
    reload(root)
}

/// Removes the drop-ins and makes systemd reload.
pub fn remove(root: &Root) -> Result<()> {
    for path in DROP_INS {
        let place = root.path(path);
        file::remove(&place).context(path)?;
        if let Some(directory) = place.parent() {
            match fs::remove_dir(directory) {
                Err(error) if !is_left(error.kind()) => {
                    return Err(error).with_context(|| directory.display().to_string());
                }
                _ => {}
            }
        }
    }
    reload(root)
}

/// A directory with other drop-ins in it is not removed.
fn is_left(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty)
}

fn reload(root: &Root) -> Result<()> {
    systemctl(root, &["daemon-reload"]).map(drop)
}

/// Calls `systemctl` if systemd runs; otherwise does nothing.
pub fn systemctl(root: &Root, arguments: &[&str]) -> Result<()> {
    if !root.path("/run/systemd/system").is_dir() {
        return Ok(());
    }
    let mut systemctl = Command::new(root.path("/usr/bin/systemctl"));
    program::run(systemctl.args(arguments), SYSTEMCTL_LIMIT)
        .map(drop)
        .with_context(|| format!("systemctl {}", arguments.join(" ")))
}
