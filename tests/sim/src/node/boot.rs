//! The node's boot: what PVE does, and what systemd starts then.

use super::Node;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// The packaged unit, for its command.
const UNIT: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../packaging/systemd/stillpoint-recover.service"
));

impl Node {
    /// What PVE does at boot before a unit may run `stillpoint recover`: left-over backup locks are
    /// removed, others stay, and the guests that ran when the simulation began are started, unless
    /// a lock prevents it.
    ///
    /// # Errors
    /// If a guest's files cannot be changed.
    pub fn boot(&self) -> Result<()> {
        for guest in self.guests() {
            if guest.lock()?.as_deref() == Some("backup") {
                guest.set_lock(None)?;
            }
            if guest.running_before && guest.lock()?.is_none() {
                guest.set_marker("running", true)?;
                self.started(guest.vmid)?;
            }
        }
        Ok(())
    }

    /// What systemd does after the guests have been started: it runs the packaged unit, with its
    /// condition and its command.
    ///
    /// # Errors
    /// If the command cannot be run or fails.
    pub fn recover(&self) -> Result<()> {
        let condition = |line: &'static str| line.strip_prefix("ConditionDirectoryNotEmpty=|/");
        let is_filled = |directory: &str| {
            fs::read_dir(self.path(directory)).is_ok_and(|mut entries| entries.next().is_some())
        };
        if !UNIT.lines().filter_map(condition).any(is_filled) {
            return Ok(());
        }
        let line = UNIT.lines().find_map(|line| line.strip_prefix("ExecStart=/"));
        let mut words = line.context("the unit has no command")?.split_whitespace();
        let program = self.path(words.next().context("the unit's command is empty")?);
        self.run(Command::new(program).args(words))
    }

    /// What PVE does when a guest has started: it calls its hookscript.
    ///
    /// # Errors
    /// If the hookscript cannot be run or fails.
    pub fn started(&self, vmid: u32) -> Result<()> {
        if !self.guest(vmid)?.has_hookscript()? {
            return Ok(());
        }
        let hook = self.path("usr/libexec/stillpoint/guest-hook");
        self.run(Command::new(hook).args([&vmid.to_string(), "post-start"]))
    }

    fn run(&self, command: &mut Command) -> Result<()> {
        let status = command
            .env_clear()
            .env("STILLPOINT_ROOT", self.root())
            .current_dir("/")
            .stdin(Stdio::null())
            .status()
            .with_context(|| format!("running {command:?}"))?;
        if !status.success() {
            bail!("{command:?} ended with {status}");
        }
        Ok(())
    }
}

/// Each boot has its own id, which the simulation cannot change in the kernel: so the boot id in
/// Stillpoint's files is changed instead.
pub(super) fn forget_boot(dir: &Path) -> Result<()> {
    let now =
        fs::read_to_string("/proc/sys/kernel/random/boot_id").context("reading the boot's id")?;
    let then = "00000000-0000-4000-8000-000000000000";
    let Ok(entries) = fs::read_dir(dir) else {
        return Ok(());
    };
    for entry in entries {
        let path = entry.context("reading what was written down")?.path();
        if path.is_dir() {
            forget_boot(&path)?;
        } else if let Ok(text) = fs::read_to_string(&path)
            && text.contains(now.trim())
        {
            fs::write(&path, text.replace(now.trim(), then))
                .with_context(|| format!("writing {}", path.display()))?;
        }
    }
    Ok(())
}
