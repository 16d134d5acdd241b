//! The file that `hookscript:` names. PVE refuses to start a guest whose hookscript is missing, and
//! old archives name it for ever, so the file stays when the package is removed, and then does
//! nothing.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::storages::Storage;
use crate::pve::{GUEST_HOOK, SNIPPET};
use crate::sys::look::Watched;
use crate::sys::{Root, bounded, file, outside, process};

/// The hook returns only status 1 on purpose (a previous hookscript refused the start). Any other
/// status, because it was killed, damaged or removed, must not keep a guest from starting.
fn text() -> String {
    format!(
        "#!/bin/sh\n\
         # Installed by Stillpoint, the hookscript of its guests. It does nothing where the package is not installed.\n\
         # Leave it here: a guest restored from an older backup may name it, and does not start without it.\n\
         hook=${{STILLPOINT_ROOT:-}}{GUEST_HOOK}\n\
         [ -x \"$hook\" ] || exit 0\n\
         \"$hook\" \"$@\"\n\
         [ $? -ne 1 ]\n"
    )
}

/// If a server is gone, a look at its files hangs for ever.
const LIMIT: Duration = Duration::from_secs(20);

/// The limit for one look at one file.
const LOOK_LIMIT: Duration = Duration::from_secs(5);

/// The volume of our hookscript in a storage.
pub fn volume(storage: &Storage) -> String {
    format!("{}:snippets/{SNIPPET}", storage.id)
}

/// Whether the file is in the storage and PVE accepts it as a hookscript. `false` also if the
/// storage does not answer.
pub fn is_there(root: &Root, storage: &Storage) -> bool {
    let path = root.path(&storage.directory).join(SNIPPET);
    let look = move || {
        fs::metadata(path)
            .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    bounded::within(&watched(root, storage), LOOK_LIMIT, look).unwrap_or(false)
}

/// Makes sure that the file is in the storage and executable.
pub fn install(root: &Root, storage: &Storage) -> Result<()> {
    if let Some(mount) = storage.mount.as_deref().filter(|_| root.directory().is_none())
        && !process::mounted(mount).context("cannot determine what is mounted")?
    {
        bail!("storage {} is not mounted at {mount}: see pvesm status", storage.id);
    }
    let directory = root.path(&storage.directory);
    let path = directory.join(SNIPPET);
    let write = || -> io::Result<()> {
        let executable =
            |path| fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o111 == 0o111);
        if file::read_text(&path, 1 << 20)?.is_some_and(|there| there == text())
            && executable(&path)
        {
            return Ok(());
        }
        outside::directory(&directory, 0o755)?;
        outside::replace(&path, text().as_bytes(), 0o755)
    };
    let write = || write().map_err(|error| error.to_string());
    bounded::within(&watched(root, storage), LIMIT, write)
        .and_then(|done| done.map_err(io::Error::other))
        .with_context(|| format!("cannot write {}/{SNIPPET}", storage.directory))
}

fn watched(root: &Root, storage: &Storage) -> Watched {
    let (id, directory) = (&storage.id, &storage.directory);
    let advice = format!("See pvesm status and `ls {directory}`.");
    Watched::new(root, &format!("storage-{id}"), &format!("storage {id} ({directory})"), &advice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn only_a_refusal_of_the_hook_keeps_a_guest_from_starting() {
        let name = format!("stillpoint-snippet-{}", crate::sys::text::token());
        let directory = std::env::temp_dir().join(name);
        let root = Root::at(&directory);
        let hook = root.path(GUEST_HOOK);
        fs::create_dir_all(hook.parent().unwrap()).unwrap();
        let storage = Storage {
            id: "local".into(),
            directory: "/var/lib/vz/snippets".into(),
            has_snippets: true,
            content: "snippets".into(),
            shared: false,
            mount: None,
            nodes: Vec::new(),
        };
        install(&root, &storage).unwrap();
        install(&root, &storage).unwrap();
        let start = || {
            Command::new(root.path("/var/lib/vz/snippets/stillpoint"))
                .args(["9001", "pre-start"])
                .env("STILLPOINT_ROOT", &directory)
                .status()
                .unwrap()
                .code()
        };
        assert_eq!(start(), Some(0), "the package is gone");
        for (text, mode, status) in [
            ("#!/bin/sh\nexit 0\n", 0o755, 0),
            ("#!/bin/sh\n[ $1 = 9001 ] && [ $2 = pre-start ] && exit 1\nexit 0", 0o755, 1),
            ("#!/bin/sh\nexit 101\n", 0o755, 0),
            ("#!/bin/sh\nkill -9 $$\n", 0o755, 0),
            ("#!/nowhere/interpreter\n", 0o755, 0),
            ("#!/bin/sh\nexit 1\n", 0o644, 0),
        ] {
            fs::write(&hook, text).unwrap();
            fs::set_permissions(&hook, fs::Permissions::from_mode(mode)).unwrap();
            let executable_for_root = mode & 0o111 != 0;
            assert_eq!(start(), Some(if executable_for_root { status } else { 0 }), "{text}");
        }
        fs::remove_dir_all(directory).unwrap();
    }
}
