//! Makes vzdump, and systemd for guest starts, call Stillpoint.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result, bail};

use super::enable::Which;
use super::{drop_in, nodes, snippet, storages};
use crate::identity;
use crate::pve::{DROP_INS, VZDUMP_HOOK, is_vzdump_hook, vzdump_conf};
use crate::sys::Root;
use crate::sys::outside::Place;

const RECOVER: &str = "stillpoint-recover.service";

/// Registers the hook; with `all_guests` the drop-in too. Returns what was done, or with `dry_run`
/// what would be done, in sentences.
pub fn register(root: &Root, all_guests: bool, dry_run: bool) -> Result<Vec<String>> {
    let mut said = Vec::new();
    let hook = root.path(VZDUMP_HOOK);
    if !fs::metadata(&hook).is_ok_and(|hook| hook.permissions().mode() & 0o111 != 0) {
        bail!(
            "{} is missing, and vzdump would fail without its script: install the package",
            VZDUMP_HOOK
        );
    }
    let text = read(root)?;
    match vzdump_conf::register(&text, |path| is_vzdump_hook(root, path))
        .context(vzdump_conf::PATH)?
    {
        None => said.push(format!("{}: vzdump calls Stillpoint already.", vzdump_conf::PATH)),
        Some(written) => {
            if !dry_run {
                write(root, &written)?;
            }
            said.push(format!(
                "{}: vzdump {} Stillpoint in every backup of this node.",
                vzdump_conf::PATH,
                verb(dry_run, "calls")
            ));
            if let Some(script) = vzdump_conf::chained(&written, |path| is_vzdump_hook(root, path))
            {
                said.push(format!("{script} is kept: Stillpoint calls it in each phase."));
                if !root.path(&script).exists() {
                    said.push(format!("{script} does not exist; Stillpoint goes on without it."));
                }
            }
        }
    }
    if all_guests {
        let installed = drop_in::installed(root);
        if !dry_run && !installed {
            drop_in::install(root)?;
        }
        said.push(match installed {
            true => "systemd calls Stillpoint on every start of a container already.".to_string(),
            false => format!(
                "{}: systemd {} Stillpoint on every start of a container.",
                DROP_INS[0],
                verb(dry_run, "calls")
            ),
        });
    }
    if !dry_run {
        said.extend(drop_in::systemctl(root, &["enable", "--quiet", RECOVER]).err().map(|error| {
            format!(
                "Nothing will start at boot what an interrupted backup leaves stopped: {error:#}"
            )
        }));
        said.extend(prepare(root));
        if all_guests {
            said.extend(record_owners(root).err().map(|error| {
                format!(
                    "Guests' hardware addresses cannot be recorded as their own before a guest \
                     starts: {error:#}"
                )
            }));
        }
    }
    Ok(said)
}

/// Installs the hookscript where guests that move here from other nodes need it, and writes this
/// node's file for the others. Returns the failures: backups do not depend on them.
fn prepare(root: &Root) -> Vec<String> {
    let mut failures = Vec::new();
    let mut attempt = |done: Result<()>| {
        failures
            .extend(done.err().map(|error| format!("`stillpoint enable` would fail: {error:#}")));
    };
    if nodes::others(root).is_ok_and(|others| !others.is_empty()) {
        match storages::directories(root) {
            Ok(storages) => {
                let with_snippets = storages.iter().filter(|storage| storage.has_snippets);
                with_snippets.for_each(|storage| attempt(snippet::install(root, storage)));
            }
            Err(error) => attempt(Err(error)),
        }
    }
    attempt(nodes::leave_note(root));
    failures
}

/// Guests that exist now existed before every future copy of them, so they own their addresses.
fn record_owners(root: &Root) -> Result<()> {
    let failed = identity::remember_all(root, &Which::All.vmids(root)?)?;
    failed
        .into_iter()
        .next()
        .map_or(Ok(()), |(vmid, error)| Err(error.context(format!("guest {vmid}"))))
}

/// Undoes [`register`].
pub fn unregister(root: &Root, dry_run: bool) -> Result<Vec<String>> {
    let mut said = Vec::new();
    let text = read(root)?;
    match vzdump_conf::unregister(&text, |path| is_vzdump_hook(root, path)) {
        None => said.push(format!("{}: vzdump does not call Stillpoint.", vzdump_conf::PATH)),
        Some(written) => {
            if !dry_run {
                write(root, &written)?;
            }
            said.push(format!(
                "{}: vzdump no longer {} Stillpoint.",
                vzdump_conf::PATH,
                verb(dry_run, "calls")
            ));
            if let Some(script) = vzdump_conf::script(&written) {
                said.push(format!("Its script is {script} again."));
            }
        }
    }
    if drop_in::any(root) {
        if !dry_run {
            drop_in::remove(root)?;
        }
        said.push(format!(
            "systemd no longer {} Stillpoint on the start of a container.",
            verb(dry_run, "calls")
        ));
    }
    Ok(said)
}

fn verb(dry_run: bool, verb: &str) -> String {
    if dry_run { format!("would {}", verb.trim_end_matches('s')) } else { verb.to_string() }
}

fn read(root: &Root) -> Result<Vec<u8>> {
    vzdump_conf::text(root).context(vzdump_conf::PATH)
}

fn write(root: &Root, text: &[u8]) -> Result<()> {
    // The file may be a link to another file.
    let write = || -> io::Result<()> {
        let place = Place::behind(&root.path(vzdump_conf::PATH))?;
        place.replace(text, place.mode()?.unwrap_or(0o644))
    };
    write().context(vzdump_conf::PATH)
}

/// The script that was configured in `/etc/vzdump.conf` before ours.
pub fn chained_script(root: &Root) -> Result<Option<String>> {
    Ok(vzdump_conf::chained(&read(root)?, |path| is_vzdump_hook(root, path)))
}
