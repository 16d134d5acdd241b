//! What the login of a storage may do on the backup server, and what it should not be able to do.

use std::collections::BTreeSet;

use super::check::Check;
use super::storage_subject::Subject;
use crate::pbs::Error;
use crate::pbs::look::{AUDIT, BACKUP, MODIFY, PRUNE, VERIFY};
use crate::pve::storage::Target;

/// The smallest role with which backups can be made, listed and verified.
const ROLE: &str = "DatastoreBackup";

/// What the login may do: list, verify its own, verify all.
pub fn rights(about: Subject<'_>, target: &Target, held: &BTreeSet<String>) -> Check {
    let has = |privilege| held.contains(privilege);
    let username = &target.username;
    let path = target.acl_path();
    let whose = |all| if has(all) { "all" } else { "its own" };
    let may = match has(BACKUP) {
        true => format!("make backups, list {} and verify {}", whose(AUDIT), whose(VERIFY)),
        false if has(AUDIT) || has(VERIFY) => {
            let rest = [(AUDIT, "list"), (VERIFY, "verify")];
            let rest: Vec<&str> =
                rest.into_iter().filter(|(right, _)| has(right)).map(|(_, word)| word).collect();
            format!("only {} backups, and make none", rest.join(" and "))
        }
        false => "do nothing".to_string(),
    };
    let told = format!("on {path} {username} may {may}");
    if has(BACKUP) {
        return about.ok("rights", told);
    }
    let store = &target.datastore;
    let unknown = match held.is_empty() {
        true => format!(", or the server has no datastore {store}"),
        false => String::new(),
    };
    let inherited = format!(
        "a role given on {path} replaces what a login has there from higher paths: \
         give it only to a login that has no {BACKUP} there yet"
    );
    let mut check = about.fail("rights", format!("{told}{unknown}; {inherited}"));
    if held.is_empty() {
        check = check.fix("on the backup server: proxmox-backup-manager datastore list");
    }
    for login in logins(username) {
        check = check.fix(format!("on the backup server: {}", granting(&path, &login)));
    }
    check.fix(format!(
        "stillpoint doctor --storage {}   # 5 s later: the server takes so long to see a change",
        about.id
    ))
}

/// A failure if the storage's namespace does not exist: backups into it are refused, whatever the
/// rights.
pub fn namespace(about: Subject<'_>, target: &Target, found: Result<bool, Error>) -> Option<Check> {
    let (store, name) = (&target.datastore, target.namespace.as_deref()?);
    match found {
        Ok(true) => None,
        Ok(false) => {
            let text = format!("the datastore {store} has no namespace {name}");
            let create = |level: &str, remark: &str| {
                format!(
                    "on the backup server: proxmox-backup-client namespace create {level} \
                     --repository 'root@pam@localhost:{store}'{remark}"
                )
            };
            // The server creates a namespace only in one that exists.
            let above = name.match_indices('/').filter_map(|(end, _)| name.get(..end));
            let check = above.fold(about.fail("namespace", text), |check, level| {
                check.fix(create(level, "   # unless it exists"))
            });
            Some(check.fix(create(name, "")).fix(format!(
                "pvesm set {} --namespace NAME   # if another one is meant",
                about.id
            )))
        }
        Err(error) => Some(
            about
                .fail("namespace", error)
                .fix("on the backup server: journalctl -u proxmox-backup -u proxmox-backup-proxy"),
        ),
    }
}

/// Warns of a login that can delete backups.
pub fn deleting(about: Subject<'_>, target: &Target, held: &BTreeSet<String>) -> Option<Check> {
    let may: Vec<&str> =
        [PRUNE, MODIFY].into_iter().filter(|privilege| held.contains(*privilege)).collect();
    if may.is_empty() {
        return None;
    }
    let username = &target.username;
    let text = format!(
        "{username} may delete backups ({}): whoever takes over this node, for example \
         ransomware, can delete them all",
        may.join(", ")
    );
    let check = about.warn("delete", text);
    let check = match username.split_once('!') {
        Some(_) => check
            .fix(format!("on the backup server: {}", granting(&target.acl_path(), username)))
            .fix(format!(
                "on the backup server: proxmox-backup-manager acl list   # then for each greater ROLE of '{username}': \
                 proxmox-backup-manager acl update PATH ROLE --auth-id '{username}' --delete true"
            )),
        None => token_instead(about, target, check),
    };
    Some(check.fix(
        "let the backup server prune (a prune job on the datastore), not Proxmox VE (prune-backups keep-all=1)",
    ))
}

/// How to replace a user by a token.
pub fn token_instead(about: Subject<'_>, target: &Target, check: Check) -> Check {
    let (username, id) = (&target.username, about.id);
    let token = format!("{username}!NAME");
    check
        .fix(format!(
            "on the backup server: proxmox-backup-manager user generate-token {username} NAME"
        ))
        .fix(format!("on the backup server: {}", granting(&target.acl_path(), &token)))
        .fix(format!("pvesm set {id} --username '{token}' --password"))
        .fix(
            "give the token the backups that are there (proxmox-backup-client change-owner), \
             else the next backup of each guest is refused",
        )
}

/// A token never has more rights than its user, so both need the role.
fn logins(username: &str) -> Vec<String> {
    let user = username.split('!').next().unwrap_or(username);
    let mut logins = vec![user.to_owned()];
    if user != username {
        logins.push(username.to_owned());
    }
    logins
}

fn granting(path: &str, login: &str) -> String {
    format!("proxmox-backup-manager acl update {path} {ROLE} --auth-id '{login}'")
}

#[cfg(test)]
mod tests {
    use super::super::check::Level;
    use super::*;

    fn target(username: &str) -> Target {
        Target {
            server: "192.0.2.7".into(),
            port: 8007,
            datastore: "tank".into(),
            namespace: Some("pve/n100".into()),
            username: username.into(),
            fingerprint: None,
            encryption_key: false,
        }
    }

    fn held(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    const ABOUT: Subject<'_> = Subject { id: "offsite" };

    #[test]
    fn what_is_missing_is_granted_to_the_user_and_the_token() {
        for names in [&[][..], &[AUDIT], &[AUDIT, VERIFY, "Datastore.Read"]] {
            let check = rights(ABOUT, &target("felhom@pbs!n100"), &held(names));
            assert_eq!(check.level, Level::Fail);
            // Without any right, the datastore may also not exist.
            let list = "on the backup server: proxmox-backup-manager datastore list";
            assert_eq!(check.fix.iter().any(|fix| fix == list), names.is_empty());
            let fix: Vec<&String> = check.fix.iter().filter(|fix| *fix != list).collect();
            assert_eq!(
                fix,
                [
                    "on the backup server: proxmox-backup-manager acl update /datastore/tank/pve/n100 DatastoreBackup --auth-id 'felhom@pbs'",
                    "on the backup server: proxmox-backup-manager acl update /datastore/tank/pve/n100 DatastoreBackup --auth-id 'felhom@pbs!n100'",
                    "stillpoint doctor --storage offsite   # 5 s later: the server takes so long to see a change",
                ]
            );
        }
        let check = rights(ABOUT, &target("felhom@pbs"), &held(&[]));
        assert_eq!(check.fix.len(), 3);
    }

    #[test]
    fn it_is_told_what_can_be_listed_and_verified() {
        for (names, told) in [
            (&[BACKUP][..], "make backups, list its own and verify its own"),
            (&[BACKUP, AUDIT, VERIFY], "make backups, list all and verify all"),
            (&[AUDIT], "only list backups, and make none"),
            (&[AUDIT, VERIFY], "only list and verify backups, and make none"),
            (&[], "do nothing"),
        ] {
            let message = rights(ABOUT, &target("a@pbs!b"), &held(names)).message;
            let told = format!("on /datastore/tank/pve/n100 a@pbs!b may {told}");
            assert!(message.starts_with(&told), "{message}");
        }
    }

    #[test]
    fn who_can_delete_is_warned_of() {
        let of = |username, names: &[&str]| deleting(ABOUT, &target(username), &held(names));
        assert_eq!(of("a@pbs!b", &[BACKUP, AUDIT, VERIFY]), None);
        let check = of("a@pbs!b", &[BACKUP, PRUNE]).unwrap();
        assert_eq!(check.level, Level::Warn);
        assert!(check.message.contains("(Datastore.Prune)"), "{}", check.message);
        assert!(check.message.contains("ransomware"), "{}", check.message);
        let check = of("root@pam", &[BACKUP, PRUNE, MODIFY]).unwrap();
        assert!(check.fix[0].contains("generate-token root@pam"), "{:?}", check.fix);
    }
}
