//! What an admin can do about an outcome, as commands that work on the node where they are printed.

use serde::{Deserialize, Serialize};

use super::pending::Pending;
use crate::pve::storage::Target;

/// The advice for an admin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Advice {
    /// Nothing, or the reason already says it.
    #[default]
    Nothing,
    /// Back up again: data is damaged.
    BackUp,
    /// Have the snapshot removed: its manifest is damaged.
    Forget,
    /// Make room on the datastore.
    Room,
    /// Mount the datastore.
    Mount,
    /// Mount the file system on which the datastore lies.
    FileSystem,
    /// Find out who removed the snapshot.
    LookThere,
    /// Have the group given to the login of the storage.
    ChangeOwner,
    /// Ask doctor.
    Doctor,
    /// Verify once more.
    VerifyAgain,
}

/// The user that every backup server has, with all rights.
const ADMINISTRATOR: &str = "root@pam";

/// The default port of `proxmox-backup-client`.
const PORT: u16 = 8007;

impl Advice {
    /// The advice in words, for that verify; `target` is where the server was asked, if it was.
    pub fn words(self, pending: &Pending, target: Option<&Target>) -> Option<String> {
        let (storage, snapshot, vmid) = (&pending.storage, &pending.snapshot, pending.vmid);
        let again = format!("`stillpoint verify {storage}:backup/{snapshot}`");
        Some(match self {
            Advice::Nothing => return None,
            Advice::BackUp => format!(
                "back the guest up again: that uploads what is damaged, if the guest still has it; \
                 `stillpoint verify {vmid} --all` finds the older backups that share it"
            ),
            Advice::Forget => format!(
                "an administrator of the backup server has to forget this snapshot (the storage's own token may not): \
                 `{}`; then back the guest up again: while this is its latest snapshot, every backup of it fails",
                target.map_or("proxmox-backup-client snapshot forget".to_owned(), |target| {
                    forget(pending, target)
                })
            ),
            Advice::Room => format!(
                "make room on the datastore (prune, then collect garbage there), and {again} starts another"
            ),
            Advice::Mount => format!(
                "on the backup server: `proxmox-backup-manager datastore mount {}`",
                target.map_or_else(|| datastore(pending), |target| &target.datastore)
            ),
            Advice::FileSystem => format!(
                "on the backup server: mount the file system on which the datastore lies; \
                 `proxmox-backup-manager datastore show {}` names its path",
                target.map_or_else(|| datastore(pending), |target| &target.datastore)
            ),
            Advice::LookThere => {
                "if nobody meant that, look there, and back the guest up again".to_owned()
            }
            Advice::ChangeOwner => {
                let snapshot = &pending.snapshot;
                let group = format!("{}/{}", snapshot.backup_type.as_str(), snapshot.backup_id);
                match target {
                    Some(target) => {
                        format!("on the backup server: `{}`", change_owner(target, &group))
                    }
                    None => format!("`stillpoint doctor --storage {storage}` has the command"),
                }
            }
            Advice::Doctor => format!("`stillpoint doctor --storage {storage}` tells more"),
            Advice::VerifyAgain => format!("{again} starts another"),
        })
    }
}

/// How an administrator gives a group to the login of a storage, on the server itself.
pub fn change_owner(target: &Target, group: &str) -> String {
    let namespace = target.namespace.as_ref().filter(|name| !name.is_empty());
    let namespace = namespace.map_or(String::new(), |name| format!(" --ns {name}"));
    format!(
        "proxmox-backup-client change-owner {group} '{}' --repository '{ADMINISTRATOR}@localhost:{}'{namespace}",
        target.username, target.datastore
    )
}

/// The datastore in `server:datastore`.
fn datastore(pending: &Pending) -> &str {
    pending.datastore.rsplit_once(':').map_or(&pending.datastore, |(_, name)| name)
}

/// `proxmox-backup-client snapshot forget ct/9001/2026-11-27T22:13:13Z --repository
/// root@pam@192.0.2.7:office --ns pve`
fn forget(pending: &Pending, target: &Target) -> String {
    let server = match target.server.contains(':') {
        true => format!("[{}]", target.server.trim_matches(['[', ']'])),
        false => target.server.clone(),
    };
    let port = if target.port == PORT { String::new() } else { format!(":{}", target.port) };
    let namespace = pending.snapshot.namespace.as_ref();
    let namespace = namespace.map_or(String::new(), |name| format!(" --ns {name}"));
    format!(
        "proxmox-backup-client snapshot forget {} --repository {ADMINISTRATOR}@{server}{port}:{}{namespace}",
        pending.snapshot, target.datastore
    )
}
