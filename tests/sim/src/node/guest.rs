//! A guest of the node: its switches, which are files, and its engine.

use super::{Kind, config};
use crate::engine::Engine;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A guest of the node.
pub struct Guest {
    /// Its number.
    pub vmid: u32,
    /// Container or virtual machine.
    pub kind: Kind,
    /// Whether it ran when the simulation began.
    pub running_before: bool,
    /// Its engine; `None` for a virtual machine.
    pub engine: Option<Engine>,
    pub(super) dir: PathBuf,
    pub(super) conf: PathBuf,
}

impl Guest {
    /// Its directory: `guests/VMID`.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether it runs.
    pub fn is_running(&self) -> bool {
        self.dir.join("running").exists()
    }

    /// Whether Stillpoint's hookscript is set for it.
    ///
    /// # Errors
    /// When its config cannot be read.
    pub fn has_hookscript(&self) -> Result<bool> {
        Ok(self.config()?.lines().any(|line| line == "hookscript: local:snippets/stillpoint"))
    }

    /// Whether it is frozen.
    pub fn is_frozen(&self) -> bool {
        self.dir.join("frozen").exists()
    }

    /// Sets or removes one of its marker files, `running` or `frozen`.
    ///
    /// # Errors
    /// When the file can be neither made nor removed.
    pub fn set_marker(&self, name: &str, there: bool) -> Result<()> {
        set_marker(&self.dir, name, there)
    }

    /// The lock in its config.
    ///
    /// # Errors
    /// When the config cannot be read.
    pub fn lock(&self) -> Result<Option<String>> {
        Ok(config::lock(&self.config()?))
    }

    /// Its present configuration.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn config(&self) -> Result<String> {
        fs::read_to_string(&self.conf).with_context(|| format!("reading {}", self.conf.display()))
    }

    /// Replaces its configuration atomically, as pmxcfs does.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn set_config(&self, text: &str) -> Result<()> {
        let temporary = self.conf.with_extension(format!("conf.tmp.{}", std::process::id()));
        fs::write(&temporary, text)
            .and_then(|()| fs::rename(&temporary, &self.conf))
            .with_context(|| format!("writing {}", self.conf.display()))
    }

    /// Sets or removes the lock in its config.
    ///
    /// # Errors
    /// When the config cannot be read or written.
    pub fn set_lock(&self, lock: Option<&str>) -> Result<()> {
        self.set_config(&config::with_lock(&self.config()?, lock))
    }

    /// Shuts it down gracefully; returns when it is off.
    ///
    /// # Errors
    /// When its marker cannot be removed.
    pub fn shut_down(&self) -> Result<()> {
        match &self.engine {
            Some(engine) => engine.shut_down(),
            None => self.set_marker("running", false)?,
        }
        self.wait_down(Duration::from_secs(30))
    }

    /// Waits until its engine answers.
    ///
    /// # Errors
    /// If it does not answer in that time.
    pub fn wait_for_engine(&self, limit: Duration) -> Result<()> {
        self.wait(limit, "its engine did not come up", |engine| engine.is_up())
    }

    pub(super) fn wait_down(&self, limit: Duration) -> Result<()> {
        self.wait(limit, "its engine did not go down", |engine| !engine.is_up())
    }

    fn wait(
        &self,
        limit: Duration,
        complaint: &str,
        until: impl Fn(&Engine) -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + limit;
        while !self.engine.as_ref().is_none_or(&until) {
            if Instant::now() > deadline {
                bail!("guest {}: {complaint}", self.vmid);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

/// Sets or removes a marker file of the guest in that directory.
pub(super) fn set_marker(dir: &Path, name: &str, there: bool) -> Result<()> {
    let path = dir.join(name);
    let changed = if there { fs::write(&path, "") } else { fs::remove_file(&path) };
    match changed {
        Err(error) if there || error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("changing {}", path.display()))
        }
        _ => Ok(()),
    }
}
