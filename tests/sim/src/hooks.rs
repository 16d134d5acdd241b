//! Finds Stillpoint's own programs, and makes sure that they exist.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The programs under test.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// Called by vzdump.
    pub vzdump_hook: PathBuf,
    /// Called by PVE when a guest starts or stops.
    pub guest_hook: PathBuf,
    /// The command.
    pub stillpoint: PathBuf,
}

impl Binaries {
    /// A hook and the other programs beside it.
    ///
    /// # Errors
    /// If the hook does not exist.
    pub fn beside(hook: &Path) -> Result<Self> {
        let hook = hook
            .canonicalize()
            .with_context(|| format!("looking for the hook {}", hook.display()))?;
        let dir = hook.parent().context("the hook has no directory")?.to_owned();
        Ok(Self {
            vzdump_hook: hook,
            guest_hook: dir.join("guest-hook"),
            stillpoint: dir.join("stillpoint"),
        })
    }

    /// The programs in the directory of this very program. Under cargo they are built first, so
    /// that they exist and are up to date.
    ///
    /// # Errors
    /// If they cannot be built or do not exist.
    pub fn built() -> Result<Self> {
        let me = std::env::current_exe().context("finding this program")?;
        let dir = me.parent().context("this program has no directory")?;
        if let Some(cargo) = std::env::var_os("CARGO") {
            build(Path::new(&cargo), dir)?;
        }
        let hook = dir.join("vzdump-hook");
        if !hook.exists() {
            bail!(
                "{} is not there: build it with `cargo build --package stillpoint --bins`",
                hook.display()
            );
        }
        Self::beside(&hook)
    }
}

/// Builds into the directory that this program lies in: `TARGET/PROFILE`.
fn build(cargo: &Path, dir: &Path) -> Result<()> {
    let target = dir.parent().context("no target directory above this program")?;
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--package", "stillpoint", "--bins", "--target-dir"]);
    command.arg(target);
    match dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => {}
        Some(profile) => {
            command.args(["--profile", profile]);
        }
    }
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    let status = command.status().context("running cargo")?;
    if !status.success() {
        bail!("the hooks could not be built: cargo ended with {status}");
    }
    Ok(())
}
