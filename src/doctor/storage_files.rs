//! The files beside storage.cfg: the secret and the encryption key.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

use super::check::Check;
use super::storage_subject::Subject;
use crate::config::Settings;
use crate::pve::storage::{SECRETS, Target};
use crate::sys::Root;

/// Who besides root can read the secret.
pub fn secret(root: &Root, about: Subject<'_>) -> Vec<Check> {
    let path = format!("{SECRETS}/{}.pw", about.id);
    vec![match readers(root, &path) {
        Ok(None) => about.ok("secret", "only root can read the secret"),
        Ok(Some(readers)) => about
            .fail("secret", format!("{readers} can read the secret in {path}"))
            .fix(format!("chown root {path} && chmod 600 {path}")),
        Err(error) => about.fail("secret", format!("{path}: {error}")),
    }]
}

/// The encryption key: it exists, only root can read it, and it is not the only copy.
pub fn key(root: &Root, settings: &Settings, about: Subject<'_>, target: &Target) -> Vec<Check> {
    let id = about.id;
    let path = format!("{SECRETS}/{id}.enc");
    if !target.encryption_key {
        let text = "backups are not encrypted on this node: whoever controls the backup server \
                    can read them";
        return vec![
            about.warn("key", text).fix(format!("pvesm set {id} --encryption-key autogen")).fix(
                "then keep a copy of the key elsewhere: without it no later backup can be restored",
            ),
        ];
    }
    let mut checks = Vec::new();
    match readers(root, &path) {
        Ok(None) => {}
        Ok(Some(readers)) => checks.push(
            about
                .fail("key", format!("{readers} can read the encryption key in {path}"))
                .fix(format!("chown root {path} && chmod 600 {path}")),
        ),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let text = format!("storage.cfg names an encryption key, and {path} is not there");
            return vec![
                about
                    .fail("key", text)
                    .fix(format!("pvesm set {id} --encryption-key FILE   # your copy of the key")),
            ];
        }
        Err(error) => return vec![about.fail("key", format!("{path}: {error}"))],
    }
    checks.push(copy(root, settings, about, &path));
    checks
}

/// A node cannot find out whether a copy exists elsewhere; the admin says so in a setting.
fn copy(root: &Root, settings: &Settings, about: Subject<'_>, path: &str) -> Check {
    let id = about.id;
    if settings.key_is_saved(id) {
        return about
            .ok("key.copy", "a copy of the encryption key is kept elsewhere, as key-saved says");
    }
    let master = root.path(&format!("{SECRETS}/{id}.master.pem")).exists();
    let check = if master {
        let text = "each backup holds its key, encrypted with the master key: if this cluster is \
                    lost, only the master key's private part can restore them";
        about.warn("key.copy", text).fix(
            "keep the master key's private part (master-private.pem) and its password away from this cluster",
        )
    } else {
        let text = "no copy of the encryption key outside this cluster is known: if the cluster \
                    is lost, no backup can be restored";
        about.warn("key.copy", text).fix(format!(
            "proxmox-backup-client key paperkey --output-format text {path}   # print it, keep it elsewhere"
        ))
    };
    check.fix(format!(
        "when that is done, in /etc/pve/stillpoint/config.toml or /etc/stillpoint/config.toml: [storage.{id}] key-saved = true"
    ))
}

/// Who besides root can read a file, in words.
fn readers(root: &Root, path: &str) -> io::Result<Option<String>> {
    let metadata = fs::metadata(root.path(path))?;
    let owner = metadata.uid();
    let ours = nix::unistd::geteuid().as_raw();
    Ok(if metadata.mode() & 0o007 != 0 {
        Some("everybody".to_owned())
    } else if metadata.mode() & 0o070 != 0 {
        Some(format!("the group {}", metadata.gid()))
    } else if owner != 0 && owner != ours {
        Some(format!("the user {owner}"))
    } else {
        None
    })
}
