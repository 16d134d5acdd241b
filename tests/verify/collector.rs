//! Collecting goes on until there is an outcome, or the time is over.

use std::time::{Duration, Instant};

use serde_json::json;
use stillpoint_sim::pbs::{Damage, Fault, Maintenance, Restart};

use super::world::{FOR_EVER, World, job, ok};

const YESTERDAY: &str = "2020-01-01T00:00:00.000Z";
const TOMORROW: &str = "2090-01-01T00:00:00.000Z";

#[test]
fn a_dead_server_is_asked_once_by_job_end_and_again_by_the_unit() {
    let world = World::new(Duration::ZERO);
    world.pbs.inject("/api2/json/", None, Fault::NoAnswer);
    for vmid in 9001..9006 {
        let start = world.start(&world.backup(vmid, "offsite").0);
        assert!(matches!(start.state.as_str(), "unreachable" | "queued"), "{start:?}");
    }
    let asked = world.pbs.requests().len();
    assert_eq!(world.job_end(FOR_EVER), 5, "it does not wait for the server");
    assert_eq!(world.pbs.requests().len() - asked, 1);
    let unreachable: Vec<(u64, String)> =
        (9001..9006).map(|vmid| (vmid, "unreachable".to_string())).collect();
    assert_eq!(world.outcomes(), unreachable);
    world.pbs.heal();
    world.collect();
    let mut later = world.outcomes().split_off(5);
    later.sort();
    assert_eq!(later, ok(&[9001, 9002, 9003, 9004, 9005]));
}

#[test]
fn a_datastore_under_maintenance_is_waited_for() {
    let world = World::new(Duration::ZERO);
    let offline = Maintenance::Offline("new disks".to_string());
    world.pbs.edit(|state| state.add_datastore("backups").maintenance = Some(offline));
    assert_eq!(world.start(&world.backup(9001, "offsite").0).state, "unreachable");
    assert_eq!(world.job_end(FOR_EVER), 1);
    assert!(world.reason().contains("new disks"), "{}", world.reason());
    world.pbs.edit(|state| state.add_datastore("backups").maintenance = None);
    world.collect();
    assert_eq!(world.outcomes().last(), ok(&[9001]).last());
}

#[test]
fn a_disk_that_is_not_mounted_is_waited_for() {
    let world = World::new(Duration::ZERO);
    let set = |maintenance| {
        world.pbs.edit(|state| state.add_datastore("backups").maintenance = maintenance);
    };
    let (run, _) = world.backup(9001, "offsite");
    set(Some(Maintenance::NotMounted));
    assert_eq!(world.start(&run).state, "unreachable");
    assert_eq!(world.job_end(FOR_EVER), 1);
    let reason = world.reason();
    assert!(reason.contains("tried again for 1 day"), "{reason}");
    assert!(reason.contains("`proxmox-backup-manager datastore mount backups`"), "{reason}");
    for more in [Maintenance::Unmounting, Maintenance::Deleting] {
        set(Some(more));
        assert_eq!(world.job_end(Duration::ZERO), 1);
    }
    set(None);
    world.collect();
    assert_eq!(world.outcomes().last(), ok(&[9001]).last());
    assert_eq!(world.pbs.tasks().len(), 1);
}

#[test]
fn a_snapshot_that_somebody_holds_for_long_is_waited_for() {
    let world = World::new(Duration::ZERO);
    let (run, id) = world.backup(9001, "offsite");
    let lock = |locked| {
        let store = |state: &mut stillpoint_sim::pbs::State| {
            state.add_datastore("backups").snapshot_mut(&id).unwrap().locked = locked;
        };
        world.pbs.edit(store);
    };
    lock(true);
    world.start(&run);
    // More often than a verify without a result is repeated.
    for _ in 0..6 {
        world.job_end(Duration::ZERO);
    }
    assert!(world.pbs.tasks().len() > 3, "{:?}", world.pbs.tasks());
    assert_eq!(world.outcomes(), [], "it has no outcome yet");
    lock(false);
    world.collect();
    assert_eq!(world.outcomes(), ok(&[9001]));
}

#[test]
fn a_verdict_from_before_is_no_proof_though_the_clock_was_ahead() {
    for how in [Restart::Killed, Restart::Reloaded] {
        let world = World::new(Duration::ZERO);
        world.settings("[verify]\nwait = \"0s\"\n");
        let (run, id) = world.backup(9001, "offsite");
        // By a clock that was an hour ahead, and a process of the server that is gone.
        world.pbs.edit(|state| {
            state.clock_ahead = 3_600_000;
            let task = state.verify_as("root@pam", &id);
            assert!(state.finish(&task));
            state.clock_ahead = 0;
            state.restart(Restart::Killed);
            state.verify_time = FOR_EVER;
        });
        world.pbs.corrupt(&id).unwrap();
        assert_eq!(world.start(&run).state, "started");
        world.pbs.restart(how);
        world.job_end(Duration::ZERO);
        assert_eq!(world.outcomes(), [], "it is not proven, and is started again");
        world.finish_all();
        world.collect();
        assert_eq!(world.outcomes(), [(9001, "failed".to_string())], "{}", world.reason());
    }
}

#[test]
fn a_full_disk_is_no_damage_and_hides_none() {
    for damaged in [false, true] {
        let world = World::new(Duration::ZERO);
        let (run, id) = world.backup(9001, "offsite");
        world.pbs.edit(|state| state.add_datastore("backups").space[2] = 0);
        if damaged {
            world.pbs.corrupt(&id).unwrap();
        }
        world.start(&run);
        world.collect();
        let outcome = if damaged { "failed" } else { "unknown" };
        assert_eq!(world.outcomes(), [(9001, outcome.to_string())], "{}", world.reason());
        let reason = world.reason();
        assert_eq!(reason.contains("No space left on device"), !damaged, "{reason}");
        assert_eq!(reason.contains("make room"), !damaged, "{reason}");
        assert_eq!(reason.contains("back the guest up again"), damaged, "{reason}");
    }
}

#[test]
fn a_damaged_manifest_has_to_be_forgotten() {
    let world = World::new(FOR_EVER);
    let (run, id) = world.backup(9001, "offsite");
    let manifest = "index.json.blob";
    world.pbs.edit(|state| {
        let store = state.add_datastore("backups");
        assert!(store.damage_file(&id, manifest, Some(Damage::Altered)));
    });
    world.start(&run);
    world.finish_all();
    world.collect();
    assert_eq!(world.outcomes(), [(9001, "failed".to_string())]);
    let reason = world.reason();
    let port = world.pbs.port();
    let command = format!(
        "`proxmox-backup-client snapshot forget {id} --repository root@pam@127.0.0.1:{port}:backups`"
    );
    assert!(reason.contains(&command), "{reason}");
    assert!(
        reason.contains("wrong CRC") && reason.contains("every backup of it fails"),
        "{reason}"
    );
    assert_eq!(world.verifies()[0]["encrypted"], json!(null));
}

#[test]
fn a_clock_that_was_set_back_makes_nothing_wait_for_years() {
    let world = World::new(Duration::ZERO);
    world.pbs.go_down();
    world.start(&world.backup(9001, "offsite").0);
    world.change_pending(|pending| {
        pending["since"] = json!(TOMORROW);
        pending["trouble"]["at"] = json!(TOMORROW);
    });
    world.pbs.come_up().unwrap();
    // A new verify does not wait for it either.
    assert_eq!(world.start(&world.backup(9002, "offsite").0).state, "started");
    world.collect();
    let mut outcomes = world.outcomes();
    outcomes.sort();
    assert_eq!(outcomes, ok(&[9001, 9002]));
}

#[test]
fn what_the_server_refused_to_begin_is_no_attempt_that_proved_nothing() {
    let world = World::new(FOR_EVER);
    world.pbs.inject("/verify", None, Fault::Refuse(503, "busy".to_string()));
    world.start(&world.backup(9001, "offsite").0);
    for _ in 0..4 {
        world.job_end(Duration::ZERO);
    }
    world.pbs.heal();
    world.job_end(Duration::ZERO);
    assert_eq!(world.pbs.tasks().len(), 1);
    // The restart ends the first task; another follows, as usual.
    world.pbs.restart(Restart::Killed);
    world.job_end(Duration::ZERO);
    assert_eq!(world.pbs.tasks().len(), 2);
    world.finish_all();
    world.collect();
    assert_eq!(world.outcomes().last(), ok(&[9001]).last());
}

#[test]
fn a_storage_that_is_mended_meanwhile_is_used_as_it_is_then() {
    let world = World::new(Duration::ZERO);
    let right = world.pbs.fingerprint();
    world.write_storages(&right.replace(|digit: char| digit.is_ascii_digit(), "0"), "");
    assert_eq!(world.start(&world.backup(9001, "offsite").0).state, "unreachable");
    world.job_end(Duration::ZERO);
    assert!(world.reason().contains("fingerprint"), "{}", world.reason());
    let mut unit = world.unit();
    world.write_storages(&right, "");
    assert!(unit.wait().unwrap().success());
    assert_eq!(world.outcomes().last(), ok(&[9001]).last());
}

#[test]
fn an_outcome_that_can_not_be_written_down_is_kept_until_it_can() {
    let world = World::new(Duration::ZERO);
    world.start(&world.backup(9001, "offsite").0);
    // Nothing can be written instead of the journal, as on a full disk.
    let journal = world.directory.join("var/lib/stillpoint/journal.jsonl");
    std::fs::create_dir_all(&journal).unwrap();
    let mut unit = world.unit();
    let asked = || {
        let requests = world.pbs.requests();
        requests.iter().filter(|line| line.contains("/download-decoded")).count()
    };
    while asked() < 2 {
        assert_eq!(unit.try_wait().unwrap(), None, "it goes on");
        std::thread::sleep(Duration::from_millis(5));
    }
    std::fs::remove_dir(&journal).unwrap();
    assert!(unit.wait().unwrap().success());
    assert_eq!(world.outcomes(), ok(&[9001]));
    assert_eq!((world.pending(), world.pbs.tasks().len()), (0, 1));
}

#[test]
fn a_verify_that_is_not_over_after_a_day_is_unknown_and_root_hears_of_it() {
    let world = World::new(FOR_EVER);
    world.with_sendmail();
    for vmid in [9001, 9002] {
        world.start(&world.backup(vmid, "offsite").0);
    }
    world.change_pending(|pending| pending["since"] = json!(YESTERDAY));
    world.collect();
    let unknown = |vmid| (vmid, "unknown".to_string());
    assert_eq!(world.outcomes(), [unknown(9001), unknown(9002)]);
    let reasons: Vec<String> = world
        .verifies()
        .iter()
        .map(|record| record["reason"].as_str().unwrap().to_string())
        .collect();
    assert!(reasons[0].contains("longer than 1 day: UPID:"), "{}", reasons[0]);
    assert!(reasons[0].contains("stillpoint verify offsite:backup/ct/9001/"), "{}", reasons[0]);
    assert!(reasons[1].contains("verify.parallel"), "{}", reasons[1]);
    let mail = world.mails();
    assert_eq!(mail.matches("Subject: ").count(), 1, "{mail}");
    assert!(mail.contains("guest 9001") && mail.contains("guest 9002"), "{mail}");
    assert_eq!(world.pending(), 0);
    assert_eq!(world.pbs.tasks().len(), 1, "it is too late to start another");
}

#[test]
fn a_server_that_stays_down_is_unreachable_after_a_day() {
    let world = World::new(Duration::ZERO);
    world.with_sendmail();
    let (started, _) = world.backup(9001, "offsite");
    let (never, _) = world.backup(9002, "offsite");
    world.pbs.edit(|state| state.verify_time = FOR_EVER);
    world.start(&started);
    world.start(&never);
    world.pbs.go_down();
    world.change_pending(|pending| pending["since"] = json!(YESTERDAY));
    world.collect();
    let outcomes = world.outcomes();
    assert_eq!(outcomes[0], (9001, "unreachable".to_string()));
    assert_eq!(world.mails().matches("Subject: ").count(), 1);
    assert_eq!(world.pending(), 0);
}

#[test]
fn a_day_is_over_only_after_the_server_was_asked_once_more() {
    let world = World::new(FOR_EVER);
    world.start(&world.backup(9001, "offsite").0);
    world.finish_all();
    // The node was off for a year.
    world.change_pending(|pending| pending["since"] = json!(YESTERDAY));
    world.collect();
    assert_eq!(world.outcomes(), ok(&[9001]));
}

#[test]
fn a_skipped_verify_is_tried_again_and_a_snapshot_that_is_gone_is_not() {
    let world = World::new(Duration::ZERO);
    let (run, id) = world.backup_in(9001, "offsite", "", |backup| backup.unfinished());
    world.start(&run);
    let finished = stillpoint_sim::pbs::Backup::of(&id, super::world::TOKEN);
    world.pbs.add_snapshot(finished);
    world.collect();
    assert_eq!(world.outcomes(), ok(&[9001]));
    assert_eq!(world.pbs.tasks().len(), 2);
    let (run, id) = world.backup(9002, "offsite");
    world.pbs.edit(|state| assert!(state.remove_snapshot(&id)));
    world.start(&run);
    world.collect();
    assert_eq!(world.outcomes()[1], (9002, "skipped".to_string()));
    assert!(world.reason().contains("pruned or removed"), "{}", world.reason());
    assert_eq!(world.pbs.tasks().len(), 2, "a snapshot that is not there is not verified");
}

/// When a snapshot is removed, relative to its verify.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Removed {
    BeforeStart,
    UnderWay,
    AfterEnd,
}

#[test]
fn a_snapshot_that_was_removed_at_any_time_is_no_damage() {
    for when in [Removed::BeforeStart, Removed::UnderWay, Removed::AfterEnd] {
        // With the last snapshot of a guest, the guest's directory is removed too, and the server's
        // answer differs.
        for last in [true, false] {
            let world = World::new(FOR_EVER);
            let (run, id) = world.backup(9001, "offsite");
            if !last {
                world.backup(9001, "offsite");
            }
            let remove = || world.pbs.edit(|state| assert!(state.remove_snapshot(&id)));
            if when == Removed::BeforeStart {
                remove();
            }
            world.start(&run);
            if when == Removed::UnderWay {
                remove();
            }
            world.finish_all();
            if when == Removed::AfterEnd {
                remove();
            }
            world.collect();
            let why = format!("{when:?} {last}: {}", world.reason());
            assert_eq!(world.outcomes(), [(9001, "skipped".to_string())], "{why}");
            assert!(world.reason().contains("pruned or removed"), "{why}");
            let begun = usize::from(when != Removed::BeforeStart);
            assert_eq!(world.pbs.tasks().len(), begun, "{why}");
        }
    }
}

#[test]
fn damage_that_was_found_before_a_snapshot_was_removed_is_told() {
    let world = World::new(FOR_EVER);
    let (run, id) = world.backup(9001, "offsite");
    world.pbs.corrupt(&id).unwrap();
    world.start(&run);
    world.finish_all();
    world.pbs.edit(|state| assert!(state.remove_snapshot(&id)));
    world.collect();
    assert_eq!(world.outcomes(), [(9001, "failed".to_string())]);
    let reason = world.reason();
    assert!(reason.contains("root.pxar.didx") && reason.contains("removed since"), "{reason}");
}

#[test]
fn a_snapshot_is_looked_for_in_its_own_namespace() {
    let world = World::new(FOR_EVER);
    world.write_storages(&world.pbs.fingerprint(), "tenants/north");
    let (run, id) = world.backup_in(9001, "offsite", "tenants/north", |backup| backup);
    world.start(&run);
    // Meanwhile the storage uses another namespace, and the manifest cannot be read.
    world.write_storages(&world.pbs.fingerprint(), "");
    world.finish_all();
    let manifest = "index.json.blob";
    world.pbs.edit(|state| {
        assert!(state.add_datastore("backups").damage_file(&id, manifest, Some(Damage::Altered)))
    });
    world.collect();
    assert_eq!(world.outcomes(), [(9001, "failed".to_string())], "{}", world.reason());
}

#[test]
fn root_gets_one_mail_about_a_collection_and_none_about_a_good_one() {
    let world = World::new(FOR_EVER);
    world.with_sendmail();
    world.settings("[verify]\nparallel = 9\n");
    let mut ids = Vec::new();
    for vmid in 9001..9005 {
        let (run, id) = world.backup(vmid, "offsite");
        world.start(&run);
        ids.push(id);
    }
    for id in &ids[1..] {
        world.pbs.corrupt(id).unwrap();
    }
    world.finish_all();
    world.collect();
    let mail = world.mails();
    assert_eq!(mail.matches("Subject: Stillpoint: 3 backups did not verify").count(), 1, "{mail}");
    assert!(!mail.contains("9001") && mail.contains("9004"), "{mail}");
    world.start(&world.backup(9001, "offsite").0);
    world.finish_all();
    world.collect();
    assert_eq!(world.mails(), mail);
}

#[test]
fn what_the_summary_tells_is_not_mailed_and_what_a_later_job_finds_is() {
    let world = World::new(FOR_EVER);
    world.with_sendmail();
    let (run, id) = world.backup(9001, "offsite");
    world.start(&run);
    world.pbs.corrupt(&id).unwrap();
    world.finish_all();
    assert_eq!(world.job_end(FOR_EVER), 0);
    world.collect();
    assert_eq!(world.mails(), "");
    let (run, id) = world.backup(9002, "offsite");
    world.start(&run);
    world.pbs.corrupt(&id).unwrap();
    world.finish_all();
    world.change_pending(|pending| pending["job"]["session"] = json!(1));
    // The backup-end of another job finds it.
    world.start(&world.backup(9003, "offsite").0);
    assert_eq!(world.outcomes().len(), 2);
    world.finish_all();
    world.collect();
    assert!(world.mails().contains("guest 9002"), "{}", world.mails());
}

/// What a backup-end found is reported in the summary of its job, or by mail if the job is stopped
/// before that.
#[test]
fn a_failure_is_told_whatever_becomes_of_its_job() {
    for stopped in [false, true] {
        let world = World::new(FOR_EVER);
        world.with_sendmail();
        let (run, id) = world.backup(9001, "offsite");
        world.start(&run);
        world.pbs.corrupt(&id).unwrap();
        world.finish_all();
        world.start(&world.backup(9002, "offsite").0);
        assert_eq!(world.outcomes(), [(9001, "failed".to_string())]);
        world.finish_all();
        if !stopped {
            assert_eq!(world.job_end(FOR_EVER), 0);
            assert_eq!(world.pending(), 0);
        }
        world.collect();
        assert_eq!(world.mails().contains("guest 9001"), stopped, "{}", world.mails());
        assert_eq!(world.outcomes().len(), 2, "each is journalled once");
    }
}

#[test]
fn a_job_whose_time_is_long_over_asks_of_no_more_verifies() {
    let world = World::new(Duration::ZERO);
    world.start(&world.backup(9001, "offsite").0);
    let asked = world.pbs.requests().len();
    let long_ago = Instant::now().checked_sub(Duration::from_secs(60)).unwrap();
    let collected = stillpoint::verify::collect_job(&world.root, &job(), long_ago).unwrap();
    assert_eq!((collected.left, world.pbs.requests().len()), (1, asked));
    assert_eq!(world.job_end(Duration::ZERO), 0, "what has no time at all is looked at once");
}
