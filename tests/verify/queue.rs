//! No datastore runs more of our verifies than allowed, and none is lost or doubled.

use std::time::Duration;

use serde_json::json;
use stillpoint_sim::pbs::Fault;

use super::world::{FOR_EVER, TOKEN, World, dead, ok};

#[test]
fn the_verify_of_the_next_guest_waits_and_is_started_by_a_later_backup_end() {
    let world = World::new(FOR_EVER);
    let first = world.start(&world.backup(9001, "offsite").0);
    assert_eq!(first.state, "started");
    // Another storage name for the same datastore.
    let second = world.start(&world.backup(9002, "again").0);
    assert_eq!((second.state.as_str(), &second.upid), ("queued", &None));
    assert_eq!(second.reason.as_deref(), Some("behind that of guest 9001"));
    assert_eq!(world.start(&world.backup(9003, "other").0).state, "started");
    world.finish_all();
    let fourth = world.start(&world.backup(9004, "offsite").0);
    assert_eq!(fourth.reason.as_deref(), Some("behind that of guest 9002"));
    assert_eq!(world.outcomes(), ok(&[9001]));
    let running: Vec<_> =
        world.pbs.tasks().iter().filter(|task| task["status"] == "running").cloned().collect();
    assert_eq!(running.len(), 1);
    assert!(running[0]["id"].as_str().unwrap().contains("/ct/9002/"), "{}", running[0]["id"]);
    assert_eq!(world.pbs.edit(|state| state.most_running), 2, "one of each datastore");
}

#[test]
fn as_many_run_at_once_as_the_setting_says() {
    let world = World::new(FOR_EVER);
    world.settings("[verify]\nparallel = 2\n");
    let states: Vec<String> =
        (9001..9005).map(|vmid| world.start(&world.backup(vmid, "offsite").0).state).collect();
    assert_eq!(states, ["started", "started", "queued", "queued"]);
    // A changed setting applies at once.
    world.settings("[verify]\nparallel = 3\n");
    assert_eq!(world.job_end(Duration::ZERO), 4);
    assert_eq!(world.pbs.edit(|state| state.most_running), 3);
}

#[test]
fn two_collectors_at_once_start_each_verify_once_and_one_at_a_time() {
    let world = World::new(Duration::from_millis(5));
    let guests: Vec<u64> = (9001..9013).collect();
    for vmid in &guests {
        world.start(&world.backup(u32::try_from(*vmid).unwrap(), "offsite").0);
    }
    let mut unit = world.unit();
    world.job_end(Duration::from_secs(60));
    assert!(unit.wait().unwrap().success());
    let mut outcomes = world.outcomes();
    outcomes.sort();
    assert_eq!(outcomes, ok(&guests));
    assert_eq!(world.pbs.tasks().len(), guests.len());
    assert_eq!(world.pbs.edit(|state| state.most_running), 1);
    assert_eq!(world.pending(), 0);
}

#[test]
fn an_order_whose_answer_nobody_learnt_is_found_and_not_given_twice() {
    for taken in [true, false] {
        let world = World::new(Duration::ZERO);
        world.pbs.go_down();
        let (run, id) = world.backup(9001, "offsite");
        world.start(&run);
        world.pbs.come_up().unwrap();
        if taken {
            world.pbs.edit(|state| state.verify_as(TOKEN, &id));
        }
        // Killed between ordering the verify and recording the task.
        world.change_pending(|pending| {
            pending["ordering"] = dead();
            pending["trouble"] = json!(null);
            pending["asked"] = json!(true);
        });
        world.collect();
        assert_eq!(world.outcomes(), ok(&[9001]), "{taken}");
        assert_eq!(world.pbs.tasks().len(), 1, "{taken}");
    }
}

#[test]
fn an_answer_that_is_lost_on_its_way_leads_to_no_second_verify() {
    let world = World::new(Duration::ZERO);
    // The whole request reaches the server; only half of its answer arrives.
    world.pbs.inject("POST /api2/json/admin/datastore/backups/verify", Some(1), Fault::CutOff);
    let start = world.start(&world.backup(9001, "offsite").0);
    assert_eq!(start.state, "unreachable");
    world.collect();
    assert_eq!(world.outcomes(), ok(&[9001]));
    assert_eq!(world.pbs.tasks().len(), 1);
}

#[test]
fn a_collector_that_is_killed_at_any_point_loses_nothing() {
    let world = World::new(Duration::from_millis(2));
    let guests: Vec<u64> = (9001..9007).collect();
    for vmid in &guests {
        world.start(&world.backup(u32::try_from(*vmid).unwrap(), "offsite").0);
    }
    let mut kills = 0;
    while world.pending() > 0 {
        let seen = world.pbs.requests().len();
        let mut unit = world.unit();
        // One more request each time, so that it is late enough at some point on any machine.
        while world.pbs.requests().len() < seen + 1 + kills % 3 + kills / 20 && world.pending() > 0
        {
            std::thread::sleep(Duration::from_millis(1));
        }
        unit.kill().unwrap();
        unit.wait().unwrap();
        kills += 1;
        assert!(kills < 200);
    }
    let mut outcomes = world.outcomes();
    outcomes.sort();
    // If a process is killed between the journal and the removal of the pending verify, an outcome
    // is journalled twice.
    outcomes.dedup();
    assert_eq!(outcomes, ok(&guests));
    assert!(kills > 2, "{kills}");
    assert_eq!(world.pbs.edit(|state| state.most_running), 1);
    assert_eq!(world.pbs.tasks().len(), guests.len());
}

#[test]
fn what_verify_new_has_started_is_followed_and_not_doubled() {
    for (namespace, over) in [("", false), ("", true), ("tenants/north", false)] {
        let world = World::new(if over { Duration::ZERO } else { FOR_EVER });
        world.write_storages(&world.pbs.fingerprint(), namespace);
        world.pbs.edit(|state| state.add_datastore("backups").verify_new = true);
        let storage = "offsite";
        let (first, _) = world.backup_in(9001, storage, namespace, |backup| backup);
        let (second, _) = world.backup_in(9002, storage, namespace, |backup| backup);
        for run in [&first, &second] {
            let start = world.start(run);
            assert_eq!(start.state, "started");
            assert!(start.reason.unwrap().contains("by itself"));
        }
        world.finish_all();
        world.collect();
        let mut outcomes = world.outcomes();
        outcomes.sort();
        assert_eq!(outcomes, ok(&[9001, 9002]));
        let tasks = world.pbs.tasks();
        assert_eq!(tasks.len(), 2);
        assert!(tasks.iter().all(|task| task["type"] == "verify"), "{tasks:?}");
    }
}

#[test]
fn what_verify_new_finds_damaged_is_a_failure() {
    let world = World::new(FOR_EVER);
    world.pbs.edit(|state| state.add_datastore("backups").verify_new = true);
    let (run, id) = world.backup(9001, "offsite");
    world.pbs.corrupt(&id).unwrap();
    world.start(&run);
    world.finish_all();
    world.collect();
    assert_eq!(world.outcomes(), [(9001, "failed".to_string())]);
    assert!(world.reason().contains("root.pxar.didx"), "{}", world.reason());
    assert_eq!(world.pbs.tasks().len(), 1);
}

#[test]
fn a_login_that_is_not_accepted_is_tried_once_in_a_round() {
    for starting in [true, false] {
        let world = World::new(if starting { Duration::ZERO } else { FOR_EVER });
        world.settings("[verify]\nparallel = 9\n");
        if starting {
            world.pbs.go_down();
        }
        for vmid in 9001..9006 {
            world.start(&world.backup(vmid, "offsite").0);
        }
        world.start(&world.backup(9006, "again").0);
        if starting {
            world.pbs.come_up().unwrap();
        } else {
            world.finish_all();
        }
        world.write("etc/pve/priv/storage/offsite.pw", "wrong\n");
        let before = world.pbs.requests().len();
        world.collect();
        let mut outcomes = world.outcomes();
        outcomes.sort();
        let denied = (9001..9006).map(|vmid| (vmid, "denied".to_string()));
        assert_eq!(outcomes, denied.chain(ok(&[9006])).collect::<Vec<_>>());
        let requests = world.pbs.requests().split_off(before);
        let others =
            requests.iter().filter(|line| line.contains("/9006/") || line.contains("9006"));
        let others = others.count();
        assert!(requests.len() - others <= 3, "{requests:#?}");
    }
}
