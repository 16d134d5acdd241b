//! Which backups are verified, and what counts as verified.

use std::time::Duration;

use serde_json::json;
use stillpoint::journal::{Journal, Record};

use super::world::{FOR_EVER, World, ok};

/// A good verify, this many hours ago.
fn verified_before(world: &World, vmid: u32, hours: i64) {
    world.start(&world.backup(vmid, "offsite").0);
    world.finish_all();
    world.collect();
    let path = world.directory.join("var/lib/stillpoint/journal.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut record: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
    let then = chrono::Utc::now() - chrono::TimeDelta::hours(hours);
    record["time"] = json!(then.to_rfc3339());
    std::fs::write(&path, format!("{record}\n")).unwrap();
}

#[test]
fn a_guest_is_verified_again_only_after_the_time_that_is_set() {
    for (hours, due) in [(47, false), (49, true)] {
        let world = World::new(FOR_EVER);
        verified_before(&world, 9001, hours);
        world.settings("[verify]\nwhen = \"2d\"\n");
        let start = world.start(&world.backup(9001, "offsite").0);
        assert_eq!(start.state == "started", due, "{start:?}");
        if !due {
            let reason = start.reason.unwrap();
            assert!(reason.contains("verified 1 day ago"), "{reason}");
            assert_eq!(world.pending(), 0);
        }
        // A verify of another guest, or on another datastore, does not count.
        assert_ne!(world.start(&world.backup(9002, "offsite").0).state, "not-due");
        assert_ne!(world.start(&world.backup(9001, "other").0).state, "not-due");
        // The same datastore under another storage name.
        assert_eq!(world.start(&world.backup(9001, "again").0).state == "not-due", !due);
    }
}

#[test]
fn a_verify_of_a_time_to_come_makes_nothing_undue() {
    let world = World::new(FOR_EVER);
    verified_before(&world, 9001, -24 * 365);
    world.settings("[verify]\nwhen = \"2d\"\n");
    assert_eq!(world.start(&world.backup(9001, "offsite").0).state, "started");
}

#[test]
fn a_verify_that_was_not_good_makes_nothing_undue() {
    let world = World::new(FOR_EVER);
    verified_before(&world, 9001, 1);
    let mut record: stillpoint::journal::Verify =
        serde_json::from_value(world.verifies()[0].clone()).unwrap();
    std::fs::remove_file(world.directory.join("var/lib/stillpoint/journal.jsonl")).unwrap();
    record.outcome = stillpoint::journal::VerifyOutcome::Unreachable;
    Journal::of(&world.root).append(&Record::Verify(record)).unwrap();
    world.settings("[verify]\nwhen = \"2d\"\n");
    assert_eq!(world.start(&world.backup(9001, "offsite").0).state, "started");
}

#[test]
fn a_guest_or_storage_may_have_a_policy_of_its_own() {
    let world = World::new(FOR_EVER);
    world.settings(
        "[verify]\nparallel = 9\nwhen = \"never\"\n[storage.other]\nverify.when = \"always\"\n\
         [guest.9002]\nverify.when = \"always\"\n",
    );
    let state = |vmid, storage: &str| world.start(&world.backup(vmid, storage).0).state;
    assert_eq!(state(9001, "offsite"), "not-due");
    assert_eq!(state(9001, "other"), "started");
    assert_eq!(state(9002, "offsite"), "started");
}

#[test]
fn data_that_is_not_encrypted_is_a_failure_where_that_is_asked_for() {
    for when in ["always", "never"] {
        let world = World::new(Duration::ZERO);
        world.settings(&format!(
            "[verify]\nwhen = \"{when}\"\n[storage.offsite]\nverify.require-encryption = true\n"
        ));
        for (vmid, storage) in [(9001, "offsite"), (9002, "again")] {
            world.start(&world.backup_in(vmid, storage, "", |backup| backup.unencrypted()).0);
        }
        world.start(&world.backup(9003, "offsite").0);
        let before = world.pbs.requests().len();
        assert_eq!(world.job_end(FOR_EVER), 0);
        let records = world.verifies();
        let failed: Vec<_> =
            records.iter().filter(|record| record["outcome"] == "failed").collect();
        assert_eq!(failed.len(), 1, "{when}: {records:?}");
        assert_eq!(failed[0]["vmid"], 9001);
        let reason = failed[0]["reason"].as_str().unwrap();
        assert!(reason.contains("root.pxar.didx, pct.conf.blob"), "{reason}");
        assert!(reason.contains("pvesm set offsite --encryption-key"), "{reason}");
        assert_eq!(failed[0]["encrypted"], false);
        if when == "never" {
            assert_eq!(records.len(), 1, "what was not verified is not called ok");
            assert_eq!(world.pbs.requests().len() - before, 2, "one request each");
            assert_eq!(world.pbs.tasks().len(), 0);
        } else {
            let good: Vec<_> = world.outcomes().into_iter().filter(|(_, o)| o == "ok").collect();
            let mut good = good;
            good.sort();
            assert_eq!(good, ok(&[9002, 9003]));
        }
    }
}
