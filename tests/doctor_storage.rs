//! `stillpoint doctor` about a storage of a backup server.

use serde_json::json;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use stillpoint::config::Settings;
use stillpoint::doctor::{self, Check, Level};
use stillpoint::sys::Root;
use stillpoint_sim::hooks::Binaries;
use stillpoint_sim::node::backups::{DATASTORE, SECRET, TOKEN};
use stillpoint_sim::node::{GuestSpec, Node};
use stillpoint_sim::pbs::{Backup, Fault, Maintenance, SimPbs, SnapshotId};
use stillpoint_sim::tls::{Identity, Impostor, OldServer, Versions};

const ENC: &str = "etc/pve/priv/storage/offsite.enc";

/// A node whose storage `offsite` has no problem.
fn node() -> Node {
    let binaries = Binaries::beside(Path::new(env!("CARGO_BIN_EXE_vzdump-hook"))).unwrap();
    let mut node = Node::new(None, &binaries).unwrap();
    node.add_backup_server("offsite", Some("pve")).unwrap();
    pbs(&node).edit(|state| state.add_datastore(DATASTORE).namespaces.insert("pve".to_owned()));
    key(&node, 0o600);
    node.write("etc/stillpoint/config.toml", "[storage.offsite]\nkey-saved = true\n").unwrap();
    pbs(&node).edit(|state| state.unauthorized_delay = std::time::Duration::ZERO);
    node
}

fn key(node: &Node, mode: u32) {
    node.write(ENC, "{}").unwrap();
    std::fs::set_permissions(node.path(ENC), Permissions::from_mode(mode)).unwrap();
}

fn pbs(node: &Node) -> &SimPbs {
    &node.backup_server().unwrap().pbs
}

/// Changes a line of storage.cfg; an empty value removes it.
fn edit(node: &Node, key: &str, value: &str) {
    let path = node.path("etc/pve/storage.cfg");
    let text = std::fs::read_to_string(&path).unwrap();
    let lines = text.lines().filter_map(|line| match line.trim_start().starts_with(key) {
        true if value.is_empty() => None,
        true => Some(format!("\t{key} {value}\n")),
        false => Some(format!("{line}\n")),
    });
    std::fs::write(path, lines.collect::<String>()).unwrap();
}

fn checks(node: &Node) -> Vec<Check> {
    let root = Root::at(node.root());
    doctor::storage(&root, &Settings::load(&root), "offsite")
}

/// The only check of that name, which must have that level.
#[track_caller]
fn check(node: &Node, what: &str, level: Level) -> Check {
    let all = checks(node);
    let about = format!("storage.offsite.{what}");
    let found: Vec<&Check> = all.iter().filter(|check| check.about == about).collect();
    let [one] = found[..] else { panic!("{about} in {all:#?}") };
    assert_eq!(one.level, level, "{one:?}");
    assert_eq!(level == Level::Ok, one.fix.is_empty(), "{one:?}");
    one.clone()
}

#[track_caller]
fn assert_says(check: &Check, parts: &[&str]) {
    let text = format!("{}\n{}", check.message, check.fix.join("\n"));
    for part in parts {
        assert!(text.contains(part), "no '{part}' in: {text}");
    }
}

#[test]
fn a_storage_as_it_should_be_has_nothing_to_mend() {
    let node = node();
    let all = checks(&node);
    assert!(all.iter().all(|check| check.level == Level::Ok), "{all:#?}");
    let about: Vec<&str> = all.iter().map(|check| check.about.as_str()).collect();
    let names = ["secret", "key.copy", "fingerprint", "login", "clock", "rights"];
    assert_eq!(about, names.map(|name| format!("storage.offsite.{name}")));
}

#[test]
fn a_storage_that_is_not_whole_is_mended_with_what_proxmox_ve_takes() {
    let node = node();
    std::fs::remove_file(node.path("etc/pve/priv/storage/offsite.pw")).unwrap();
    let config = check(&node, "config", Level::Fail);
    assert_eq!(config.fix, ["pvesm set offsite --password   # asks for the secret"]);
    node.write("etc/pve/priv/storage/offsite.pw", SECRET).unwrap();
    // Proxmox VE does not allow a change of either afterwards.
    edit(&node, "datastore", "");
    let config = check(&node, "config", Level::Fail);
    assert_says(&config, &["a datastore", "'/^pbs: offsite$/,/^$/p' /etc/pve/storage.cfg"]);
}

#[test]
fn a_missing_right_is_told_with_the_commands_that_give_it() {
    let node = node();
    pbs(&node).edit(|state| state.access.revoke_all());
    let missing = check(&node, "rights", Level::Fail);
    let path = format!("/datastore/{DATASTORE}/pve DatastoreBackup --auth-id");
    assert_says(&missing, &["may do nothing", "5 s later"]);
    let on_the_server = |fix: &&String| fix.starts_with("on the backup server: ");
    assert_eq!(missing.fix.iter().filter(on_the_server).count(), missing.fix.len() - 1);
    assert_says(&missing, &[&format!("{path} 'stillpoint@pbs'"), &format!("{path} '{TOKEN}'")]);
    // Granted to the token only.
    let place = format!("/datastore/{DATASTORE}");
    pbs(&node).edit(|state| state.access.grant(&place, TOKEN, "DatastoreBackup"));
    check(&node, "rights", Level::Fail);
    pbs(&node).edit(|state| state.access.grant_both(&place, TOKEN, "DatastoreAdmin"));
    assert_says(&check(&node, "rights", Level::Ok), &["make backups, list all and verify all"]);
    let delete = check(&node, "delete", Level::Warn);
    assert_says(&delete, &["Datastore.Prune, Datastore.Modify", "ransomware", "--delete true"]);
}

#[test]
fn backups_of_another_owner_are_named_with_the_command_that_hands_them_over() {
    let mut node = node();
    node.add_guest(GuestSpec::lxc(9001)).unwrap();
    let snapshot = SnapshotId::new(DATASTORE, "pve", "ct", "9001", 1_795_817_617);
    pbs(&node).add_snapshot(Backup::of(&snapshot, "ot@pbs!t"));
    let owner = check(&node, "owner.ct/9001", Level::Fail);
    assert_says(&owner, &["belongs to ot@pbs!t", &format!("not to {TOKEN}")]);
    let command = format!(
        "proxmox-backup-client change-owner ct/9001 '{TOKEN}' \
         --repository 'root@pam@localhost:{DATASTORE}' --ns pve"
    );
    assert_says(&owner, &[&format!("on the backup server: {command}")]);
}

#[test]
fn pruning_without_the_right_is_named_and_taken_away_not_allowed() {
    let node = node();
    edit(&node, "content", "backup\n\tprune-backups keep-last=3");
    let job = |more: &str| format!("vzdump: nightly\n\tall 1\n\tstorage offsite\n{more}\n");
    node.write("etc/pve/jobs.cfg", &job("\tprune-backups keep-daily=7")).unwrap();
    let prune = check(&node, "prune", Level::Fail);
    assert_says(
        &prune,
        &[
            "403",
            "pvesm set offsite --delete prune-backups",
            "pvesh set /cluster/backup/nightly --delete prune-backups",
            "proxmox-backup-manager prune-job create",
        ],
    );
    assert!(!prune.fix.iter().any(|fix| fix.contains("acl update")), "{prune:?}");
    edit(&node, "prune-backups", "keep-all=1");
    for quiet in ["", "\tprune-backups keep-all=1", "\tprune-backups keep-last=1\n\tremove 0"] {
        node.write("etc/pve/jobs.cfg", &job(quiet)).unwrap();
        assert!(checks(&node).iter().all(|check| check.level == Level::Ok), "{quiet}");
    }
    edit(&node, "prune-backups", "");
    node.write("etc/vzdump.conf", "prune-backups: keep-last=2\n").unwrap();
    assert_says(&check(&node, "prune", Level::Fail), &["/etc/vzdump.conf"]);
}

#[test]
fn a_datastore_without_room_is_warned_of() {
    let node = node();
    let space = |total, free| {
        pbs(&node).edit(|state| state.add_datastore(DATASTORE).space = [total, 0, free]);
    };
    space(1000 << 30, 40 << 30);
    assert_says(&check(&node, "space", Level::Warn), &["(4 %)", "prune there"]);
    space(1000 << 30, 60 << 30);
    assert!(checks(&node).iter().all(|check| check.level == Level::Ok));
    let record = json!({
        "schema": 1, "time": "2026-11-21T23:24:00.000Z", "kind": "verify", "run": null, "job": null,
        "vmid": 9001, "storage": "offsite", "storage_id": "", "outcome": "ok", "reason": null,
        "namespace": null, "backup_type": "ct", "backup_id": "9001", "backup_time": 0,
        "size": 61_u64 << 30, "owner": null, "protected": null, "encrypted": null,
        "key_fingerprint": null, "verify_state": null, "verify_upid": null, "started_upid": null,
    });
    let record = format!("{record}\n");
    node.write("var/lib/stillpoint/journal.jsonl", &record).unwrap();
    assert_says(&check(&node, "space", Level::Warn), &["less than the last backup took"]);
}

#[test]
fn an_object_store_is_warned_of_for_what_a_verify_costs() {
    let node = node();
    pbs(&node).edit(|state| state.add_datastore(DATASTORE).backend = "s3");
    assert_says(&check(&node, "s3", Level::Warn), &["downloads the whole backup", "when = "]);
}

#[test]
fn a_storage_of_root_is_warned_of() {
    let node = node();
    edit(&node, "username", "");
    pbs(&node).edit(|state| state.access.add_user("root@pam", SECRET));
    let delete = check(&node, "delete", Level::Warn);
    assert_says(&delete, &["root@pam may delete", "generate-token root@pam", "change-owner"]);
}

#[test]
fn a_secret_that_others_can_read_is_a_failure() {
    let node = node();
    let path = "etc/pve/priv/storage/offsite.pw";
    std::fs::set_permissions(node.path(path), Permissions::from_mode(0o640)).unwrap();
    assert_says(
        &check(&node, "secret", Level::Fail),
        &["the group", &format!("chmod 600 /{path}")],
    );
    key(&node, 0o604);
    assert_says(&check(&node, "key", Level::Fail), &["everybody", &format!("chmod 600 /{ENC}")]);
}

#[test]
fn a_key_that_is_nowhere_else_is_asked_for_until_a_person_has_seen_to_it() {
    let node = node();
    node.write("etc/stillpoint/config.toml", "").unwrap();
    let copy = check(&node, "key.copy", Level::Warn);
    assert_says(&copy, &["key paperkey", "/etc/pve/priv/storage/offsite.enc", "key-saved = true"]);
    node.write("etc/pve/priv/storage/offsite.master.pem", "x").unwrap();
    assert_says(&check(&node, "key.copy", Level::Warn), &["master key", "key-saved = true"]);

    std::fs::remove_file(node.path(ENC)).unwrap();
    assert_says(&check(&node, "key", Level::Warn), &["not encrypted", "--encryption-key autogen"]);
    edit(&node, "content", "backup\n\tencryption-key 05:53");
    assert_says(&check(&node, "key", Level::Fail), &["offsite.enc is not there"]);
}

#[test]
fn a_wrong_fingerprint_is_told_before_anything_is_said() {
    let node = node();
    let (before, other) = (pbs(&node).fingerprint(), Identity::new(&["localhost"]).unwrap());
    pbs(&node).use_identity(&other, Versions::Both).unwrap();
    let wrong = check(&node, "fingerprint", Level::Fail);
    assert_says(
        &wrong,
        &[
            &before,
            &other.fingerprint(),
            "cert info | grep Fingerprint",
            "pvesm set offsite --fingerprint",
        ],
    );
    assert_eq!(pbs(&node).requests(), Vec::<String>::new());
    let last = checks(&node).pop().unwrap();
    assert_eq!(last, wrong, "there is no more to ask");

    edit(&node, "fingerprint", "");
    assert_says(
        &check(&node, "fingerprint", Level::Warn),
        &["no fingerprint", "pvesm set offsite"],
    );
    assert_says(&check(&node, "server", Level::Fail), &["set the storage's fingerprint"]);
    edit(&node, "content", "backup\n\tfingerprint AA:BB");
    assert_says(&check(&node, "config", Level::Fail), &["32 pairs"]);
}

#[test]
fn a_certificate_that_ends_soon_or_has_ended_is_warned_of() {
    let node = node();
    for (days, text) in [(29, "expires on"), (-2, "has expired on")] {
        let identity = Identity::valid_for_days(&["localhost"], days).unwrap();
        pbs(&node).use_identity(&identity, Versions::Both).unwrap();
        edit(&node, "fingerprint", &identity.fingerprint());
        let check_of = check(&node, "certificate", Level::Warn);
        let renewed = ["cert update --force true", "systemctl reload proxmox-backup-proxy"];
        assert_says(&check_of, &[text, renewed[0], renewed[1]]);
        let fixes = check_of.fix.join("\n");
        let at = |part: &str| fixes.find(part).unwrap();
        let (reload, read, set) = (at(renewed[1]), at("cert info"), at("pvesm set"));
        assert!(at(renewed[0]) < reload && reload < read && read < set, "{fixes}");
        check(&node, "login", Level::Ok);
    }
    let identity = Identity::valid_for_days(&["localhost"], 32).unwrap();
    pbs(&node).use_identity(&identity, Versions::Both).unwrap();
    edit(&node, "fingerprint", &identity.fingerprint());
    assert!(checks(&node).iter().all(|check| check.level == Level::Ok));
}

#[test]
fn a_certificate_by_somebody_else_is_not_replaced_by_a_self_signed_one() {
    let node = node();
    // The warning comes below 20 days or a quarter of its lifetime, whichever is less.
    for (lifetime, left, warned) in
        [(365, 19, true), (365, 22, false), (40, 9, true), (40, 12, false), (90, -2, true)]
    {
        let identity = Identity::issued(&["localhost"], lifetime, left).unwrap();
        pbs(&node).use_identity(&identity, Versions::Both).unwrap();
        edit(&node, "fingerprint", &identity.fingerprint());
        let all = checks(&node);
        let its = all.iter().find(|check| check.about == "storage.offsite.certificate");
        assert_eq!(its.is_some(), warned, "{left} of {lifetime} days: {all:#?}");
        if let Some(its) = its {
            assert_says(its, &["acme cert order", "have its issuer renew it"]);
            let updates = |fix: &&String| fix.contains("cert update --force");
            assert_eq!(its.fix.iter().filter(updates).count(), 0, "{its:?}");
        }
    }
}

#[test]
fn who_is_not_the_server_is_told_and_hears_nothing() {
    let node = node();
    let impostor = Impostor::start(&pbs(&node).identity(), Versions::Both).unwrap();
    edit(&node, "port", &impostor.port().to_string());
    assert_says(&check(&node, "server", Level::Fail), &["without holding its key"]);
    assert!(!impostor.heard_request());

    let old = OldServer::start().unwrap();
    edit(&node, "port", &old.port().to_string());
    assert_says(&check(&node, "server", Level::Fail), &["TLS 1.2 or 1.3"]);

    edit(&node, "port", "1");
    assert_says(
        &check(&node, "server", Level::Fail),
        &["cannot connect", "openssl s_client -brief -connect 127.0.0.1:1 "],
    );
}

#[test]
fn a_login_that_is_refused_is_told() {
    let node = node();
    pbs(&node).edit(|state| state.access.enable(TOKEN, false));
    let login = check(&node, "login", Level::Fail);
    assert_says(&login, &[TOKEN, "list-tokens stillpoint@pbs", "pvesm set offsite --password"]);
}

#[test]
fn a_clock_that_differs_is_warned_of() {
    let node = node();
    for (ahead, text) in [(90, " s ahead of"), (-90, " s behind")] {
        pbs(&node).edit(|state| state.clock_ahead = ahead * 1000);
        assert_says(&check(&node, "clock", Level::Warn), &[text, "timedatectl"]);
    }
}

#[test]
fn a_datastore_that_cannot_be_used_is_told() {
    let node = node();
    pbs(&node).edit(|state| {
        let message = Maintenance::Offline("new disks".into());
        state.add_datastore(DATASTORE).maintenance = Some(message);
    });
    assert_says(&check(&node, "datastore", Level::Fail), &["new disks", "datastore show"]);
    pbs(&node).edit(|state| {
        state.add_datastore(DATASTORE).maintenance = Some(Maintenance::NotMounted);
    });
    let command = format!("proxmox-backup-manager datastore mount {DATASTORE}");
    assert_says(&check(&node, "datastore", Level::Fail), &["is not mounted", &command]);
    pbs(&node).inject("/permissions", None, Fault::Refuse(500, "oh\x1b[2J".into()));
    let rights = check(&node, "rights", Level::Fail);
    assert!(!rights.message.chars().any(char::is_control), "{rights:?}");
}

#[test]
fn a_namespace_that_is_not_there_is_a_failure_whatever_the_rights_are() {
    let node = node();
    edit(&node, "namespace", "pve/n100");
    let missing = check(&node, "namespace", Level::Fail);
    assert_says(
        &missing,
        &["no namespace pve/n100", "proxmox-backup-client namespace create pve/n100"],
    );
    // The server creates a namespace only in one that exists.
    let create = |fix: &&String| fix.contains("namespace create");
    let created: Vec<&String> = missing.fix.iter().filter(create).collect();
    assert!(created.len() == 2 && created[0].contains("namespace create pve "), "{created:?}");
    check(&node, "rights", Level::Ok);
    // Rights in the namespace only, so that the one above it is not visible.
    pbs(&node).edit(|state| {
        state.add_datastore(DATASTORE).namespaces.insert("pve/n100".to_owned());
        state.access.revoke_all();
        let place = format!("/datastore/{DATASTORE}/pve/n100");
        state.access.grant_both(&place, TOKEN, "DatastoreBackup");
    });
    assert!(checks(&node).iter().all(|check| check.level == Level::Ok), "{:#?}", checks(&node));
    edit(&node, "namespace", "nope");
    pbs(&node).edit(|state| {
        state.access.grant_both(&format!("/datastore/{DATASTORE}"), TOKEN, "DatastoreBackup");
    });
    check(&node, "namespace", Level::Fail);
    edit(&node, "namespace", "");
    assert!(checks(&node).iter().all(|check| check.level == Level::Ok));
}

#[test]
fn a_login_that_cannot_be_one_is_told_as_that() {
    let node = node();
    for name in ["backup", "backup!node"] {
        edit(&node, "username", name);
        assert_says(&check(&node, "login", Level::Fail), &[name, "no realm", "USER@REALM!TOKEN"]);
    }
    let node = self::node();
    edit(&node, "username", "root@pam");
    pbs(&node).edit(|state| {
        state.access.add_user("root@pam", SECRET);
        state.access.second_factors.insert("root@pam".to_owned());
    });
    let login = check(&node, "login", Level::Fail);
    assert_says(&login, &["second factor", "generate-token root@pam NAME", "root@pam!NAME"]);
    assert!(!login.fix.iter().any(|fix| fix.contains("asks for the secret")), "{login:?}");
}

#[test]
fn a_datastore_that_may_not_be_there_is_told_so() {
    let node = node();
    edit(&node, "datastore", "nope");
    let rights = check(&node, "rights", Level::Fail);
    let parts = ["or the server has no datastore nope", "proxmox-backup-manager datastore list"];
    assert_says(&rights, &parts);
    assert_says(&rights, &["replaces what a login has there from higher paths"]);
}
