//! A thousand guests take a thousand times the requests of one, and no more memory.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use stillpoint_sim::pbs::{Backup, Damage, SnapshotId, State};

use super::world::{STORE, TOKEN, World};

const GUESTS: usize = 1000;

/// The peak memory of a collecting process, in KiB: a debug build takes about 25 MiB for one guest.
const MOST_KIB: u64 = 64 * 1024;

#[test]
fn a_thousand_verifies_cost_four_small_requests_each_besides_the_polls() {
    let world = World::new(Duration::ZERO);
    world.settings("[verify]\nparallel = 1000\n");
    // They were queued while the server was down; the others are made after the first.
    world.pbs.go_down();
    let (run, first) = world.backup(10_000, "offsite");
    world.start(&run);
    let place = world.directory.join("var/lib/stillpoint/verifies");
    let file = place.join(format!("10000-{}.json", run.id));
    let written: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    for vmid in 10_001..10_000 + GUESTS {
        let id = SnapshotId::new(STORE, "", "ct", &vmid.to_string(), first.time);
        world.pbs.add_snapshot(Backup::of(&id, TOKEN));
        let mut pending = written.clone();
        pending["vmid"] = json!(vmid);
        pending["snapshot"]["backup-id"] = json!(vmid.to_string());
        let file = place.join(format!("{vmid}-{}.json", run.id));
        std::fs::write(file, pending.to_string()).unwrap();
    }
    world.pbs.come_up().unwrap();
    let before = world.pbs.requests().len();
    let unit = world.unit();
    let peak = peak_of(unit);
    let outcomes = world.outcomes();
    assert_eq!(outcomes.len(), GUESTS);
    assert!(outcomes.iter().all(|(_, outcome)| outcome == "ok"));
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    let requests = world.pbs.requests();
    for line in &requests[before..] {
        let kind = match line.split('?').next().unwrap() {
            path if path.ends_with("/status") => "poll",
            path if path.ends_with("/tasks") => "task list",
            path if path.ends_with("/verify") => "verify",
            path if path.ends_with("/download-decoded") => "state",
            path if path.ends_with("/protected") => "protected",
            _ => "else",
        };
        *kinds.entry(kind).or_default() += 1;
    }
    let polls = kinds.remove("poll").unwrap_or_default();
    // One request finds the tasks that the server has started itself, for all of them.
    assert_eq!(kinds.remove("task list"), Some(1));
    // No list of snapshots, because that grows with the guest's backups.
    let each = BTreeMap::from([("state", 2 * GUESTS), ("verify", GUESTS), ("protected", GUESTS)]);
    assert_eq!(kinds, each, "the snapshot before and after");
    assert!(polls >= GUESTS);
    assert!(peak <= MOST_KIB, "{peak} KiB");
    // One connection is used, or a few if the server closed one.
    let connections = world.pbs.edit(|state| state.connections);
    assert!(connections < GUESTS / 10, "{connections}");
}

#[test]
fn no_list_of_the_group_is_asked_for_where_a_manifest_is_damaged_or_gone_or_the_snapshot_is() {
    let damage: [fn(&mut State, &SnapshotId); 3] = [
        |state, id| {
            let store = state.add_datastore(STORE);
            assert!(store.damage_file(id, "index.json.blob", Some(Damage::Altered)));
        },
        |state, id| {
            let store = state.add_datastore(STORE);
            assert!(store.damage_file(id, "index.json.blob", Some(Damage::Missing)));
        },
        |state, id| assert!(state.remove_snapshot(id)),
    ];
    for (damage, outcome) in damage.into_iter().zip(["failed", "failed", "skipped"]) {
        let world = World::new(Duration::ZERO);
        let (run, id) = world.backup(9001, "offsite");
        let older = SnapshotId::new(STORE, "", "ct", "9001", id.time - 100);
        world.pbs.add_snapshot(Backup::of(&older, TOKEN));
        world.pbs.edit(|state| damage(state, &id));
        world.start(&run);
        world.collect();
        assert_eq!(world.verifies().pop().unwrap()["outcome"], outcome);
        let lists = world.pbs.requests();
        let lists = lists.iter().filter(|line| line.contains("/snapshots?")).count();
        assert_eq!(lists, 0, "{outcome}");
    }
}

/// Waits for a process and returns its peak memory in KiB. The kernel keeps the peak, so the time
/// of reading does not matter.
fn peak_of(mut child: std::process::Child) -> u64 {
    let path = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    loop {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let read = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
        peak = read.unwrap_or(peak);
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success() && peak > 0);
            return peak;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
