//! Proven backups are checked again: the server verifies by itself, prunes, and may not answer.

use std::time::Duration;

use serde_json::{Value, json};
use stillpoint::run::Run;
use stillpoint_sim::pbs::snapshot::Verification;
use stillpoint_sim::pbs::{Damage, Fault, Maintenance, SnapshotId};

use super::world::{STORE, World};

/// A guest whose last backup is proven, with a metrics directory and mail.
fn proven() -> (World, Run, SnapshotId) {
    let world = World::new(Duration::ZERO);
    world.with_sendmail();
    std::fs::create_dir_all(world.directory.join("metrics")).unwrap();
    world.settings("[report]\ntextfile-directory = \"/metrics\"\n");
    let (run, id) = proven_backup(&world, 9001);
    (world, run, id)
}

fn proven_backup(world: &World, vmid: u32) -> (Run, SnapshotId) {
    let (run, id) = world.backup(vmid, "offsite");
    world.journal_backup(&run);
    world.start(&run);
    world.collect();
    assert_eq!(world.status_of(vmid)["verify"]["state"], "ok");
    (run, id)
}

/// Writes into a snapshot what the server's own verify job writes.
fn own_job_says(world: &World, id: &SnapshotId, state: &'static str) {
    let starttime = 1_795_817_865;
    let upid = format!(
        r"UPID:vm:00000B7B:0005CCB7:000000C5:{starttime:08X}:verificationjob:{STORE}\x3arecv:root@pam:"
    );
    world.pbs.edit(|server| {
        let snapshot = server.add_datastore(STORE).snapshot_mut(id).unwrap();
        snapshot.verification = Some(Verification { state, upid, starttime });
    });
}

fn refresh(world: &World) -> (i32, String) {
    let said = world.said(&["refresh"]);
    // The process that sends the mail may still be running; one that waits for it finds nothing
    // left to do.
    world.collect();
    said
}

fn check(world: &World) -> (i32, String) {
    world.said(&["status", "--check"])
}

#[test]
fn a_datastore_whose_directory_is_gone_has_lost_no_backup() {
    let (world, ..) = proven();
    world.pbs.edit(|server| {
        let store = server.add_datastore(STORE);
        store.maintenance = Some(Maintenance::Vanished);
        store.groups.clear();
    });
    refresh(&world);
    assert_eq!((world.verifies().len(), world.mails()), (1, String::new()));
    assert_eq!(world.status_of(9001)["verify"]["state"], "ok");
    let (code, said) = world.said(&["status"]);
    assert!(code == 0 && said.contains("the directory of the datastore"), "{said}");
}

#[test]
fn what_the_servers_own_job_finds_damaged_is_reported_like_a_failure_of_our_own() {
    let (world, _, id) = proven();
    assert_eq!(check(&world).0, 0);
    own_job_says(&world, &id, "failed");
    assert_eq!(check(&world).0, 0, "nobody has looked yet");
    let asked = world.pbs.requests().len();
    assert_eq!(refresh(&world), (0, String::new()));
    assert_eq!(world.pbs.requests().len() - asked, 2, "about the snapshot, and the datastore");
    let record = world.verifies().pop().unwrap();
    assert_eq!((&record["outcome"], &record["by"]), (&json!("failed"), &json!("server")));
    assert_eq!((&record["run"], &record["verify_state"]), (&Value::Null, &json!("failed")));
    let reason = world.reason();
    assert!(reason.contains("a verify of its own: UPID:vm:"), "{reason}");
    assert!(reason.contains("back the guest up again"), "{reason}");
    let (code, line) = check(&world);
    assert!(code == 2 && line.contains("FAILED to verify"), "{code} {line}");
    assert_eq!(world.status_of(9001)["last_verified"], Value::Null);
    let metrics = std::fs::read_to_string(world.directory.join("metrics/stillpoint.prom")).unwrap();
    let told = "stillpoint_verify_last_outcome{vmid=\"9001\",outcome=\"failed\"} 1";
    assert!(metrics.contains(told), "{metrics}");
    let mail = world.mails();
    assert!(mail.contains("guest 9001") && mail.contains("verificationjob"), "{mail}");
    // Reported once.
    refresh(&world);
    assert_eq!((world.verifies().len(), world.mails()), (2, mail.clone()));
    // The data was uploaded again, and the server has verified that.
    own_job_says(&world, &id, "ok");
    refresh(&world);
    assert_eq!(
        (check(&world).0, world.status_of(9001)["verify"]["state"].clone()),
        (0, json!("ok"))
    );
    assert_eq!(world.mails(), mail, "good news is no mail");
}

#[test]
fn a_datastore_without_room_is_warned_of_until_there_is_some() {
    let (world, ..) = proven();
    let free = |bytes| {
        world.pbs.edit(|server| server.add_datastore(STORE).space = [1000 << 30, 0, bytes]);
    };
    free(40 << 30);
    refresh(&world);
    let (code, line) = check(&world);
    assert!(code == 1 && line.contains("storage offsite: 40.0 GiB of"), "{code} {line}");
    free(60 << 30);
    refresh(&world);
    assert_eq!(check(&world).0, 0);
}

#[test]
fn a_person_can_have_it_looked_at_now() {
    let (world, _, id) = proven();
    own_job_says(&world, &id, "failed");
    let (code, line) = world.said(&["status", "--check", "--refresh"]);
    assert!(code == 2 && line.contains("FAILED to verify"), "{code} {line}");
    world.collect();
    let (code, text) = world.said(&["status", "--refresh"]);
    assert!(code == 0 && text.contains("failed"), "{text}");
}

#[test]
fn what_cannot_be_seen_is_shown_and_nothing_else() {
    let (world, _, id) = proven();
    let quiet = |world: &World, what: &str| {
        assert_eq!(refresh(world), (0, String::new()), "{what}");
        assert_eq!((world.verifies().len(), world.mails()), (1, String::new()), "{what}");
        assert_eq!(check(world).0, 0, "{what}");
        let (_, text) = world.said(&["status"]);
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let told = text.contains("cannot be checked again: ");
        assert!(told, "{what}: {text}");
        text
    };
    world.pbs.inject("/download-decoded", None, Fault::Refuse(403, "no right".into()));
    assert!(quiet(&world, "denied").contains("no right"));
    world.pbs.heal();
    world.pbs.go_down();
    quiet(&world, "down");
    world.pbs.come_up().unwrap();
    world.pbs.inject("/", None, Fault::Refuse(400, "datastore 'backups' is not mounted".into()));
    assert!(quiet(&world, "not mounted").contains("datastore mount backups"));
    world.pbs.heal();
    // A sync overwrites the copy's verify state by that of its source.
    let starttime = 1_795_817_865;
    let upid =
        "UPID:vm:00000B7B:0005CCB7:000000C5:6B0A0189:verificationjob:office\\x3arecv:root@pam:";
    world.pbs.edit(|server| {
        let snapshot = server.add_datastore(STORE).snapshot_mut(&id).unwrap();
        snapshot.verification =
            Some(Verification { state: "failed", upid: upid.into(), starttime });
    });
    assert!(quiet(&world, "synced").contains("a sync has replaced"));
    own_job_says(&world, &id, "ok");
    refresh(&world);
    assert!(!world.said(&["status"]).1.contains("looked at again"));
    assert!(!world.directory.join("var/lib/stillpoint/looks.json").exists());
}

#[test]
fn a_manifest_that_is_damaged_since_is_a_failure() {
    let (world, _, id) = proven();
    world.pbs.edit(|server| {
        let store = server.add_datastore(STORE);
        assert!(store.damage_file(&id, "index.json.blob", Some(Damage::Altered)));
    });
    refresh(&world);
    assert_eq!(check(&world).0, 2);
    assert!(world.reason().contains("snapshot forget ct/9001/"), "{}", world.reason());
    assert!(world.mails().contains("snapshot forget"), "{}", world.mails());
}

#[test]
fn the_newest_backup_that_is_gone_is_reported_once() {
    for another in [false, true] {
        let (world, _, _) = proven();
        let (_, newest) = proven_backup(&world, 9001);
        world.pbs.edit(|server| assert!(server.remove_snapshot(&newest)));
        if another {
            // Made by another node, whose journal is not here.
            world.backup(9001, "offsite");
        }
        for _ in 0..2 {
            refresh(&world);
        }
        let mails = world.mails().matches("Subject: ").count();
        assert_eq!(mails, usize::from(!another), "{}", world.mails());
        assert_eq!(check(&world).0, i32::from(!another));
        let state = world.status_of(9001)["verify"]["state"].clone();
        assert_eq!(state, if another { "ok" } else { "skipped" });
        if !another {
            assert!(world.reason().contains("pruned or removed"), "{}", world.reason());
        }
    }
}

#[test]
fn of_pruned_backups_the_newest_that_is_proven_counts_while_a_newer_one_is_there() {
    let (world, _, oldest) = proven();
    let (_, middle) = proven_backup(&world, 9001);
    // For the last one no verify was due.
    let (run, last) = world.backup(9001, "offsite");
    world.journal_backup(&run);
    let proven_at = |world: &World| world.status_of(9001)["last_verified"]["time"].clone();
    let before = proven_at(&world);
    world.pbs.edit(|server| assert!(server.remove_snapshot(&middle)));
    refresh(&world);
    assert!(proven_at(&world).as_str() < before.as_str(), "that of the oldest one");
    assert_eq!((world.mails().as_str(), check(&world).0), ("", 0));
    assert_eq!(world.status_of(9001)["verify"]["state"], "pending", "that of the last one");
    // No proven backup is left.
    world.pbs.edit(|server| assert!(server.remove_snapshot(&oldest)));
    for _ in 0..2 {
        refresh(&world);
    }
    assert_eq!(proven_at(&world), Value::Null);
    assert_eq!(world.mails().matches("Subject: ").count(), 1, "{}", world.mails());
    assert!(world.pbs.edit(|server| server.remove_snapshot(&last)));
}

#[test]
fn where_nothing_is_proven_nobody_is_asked() {
    let world = World::new(Duration::ZERO);
    assert_eq!(world.said(&["refresh"]), (0, String::new()));
    let (run, _) = world.backup(9001, "offsite");
    world.journal_backup(&run);
    assert_eq!(world.said(&["refresh"]), (0, String::new()));
    assert_eq!(world.pbs.requests(), Vec::<String>::new());
}
