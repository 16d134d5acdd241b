//! The table of situations in `grades-and-outcomes.md`, row by row: the journal record, and that
//! status, check, metrics and mail agree with it.

use std::time::Duration;

use serde_json::json;
use stillpoint_sim::pbs::snapshot::Verification;
use stillpoint_sim::pbs::{Damage, Maintenance, SnapshotId, State};

use super::world::{STORE, World};

const YESTERDAY: &str = "2020-01-01T00:00:00.000Z";

/// When a situation arises, and what happens then.
#[derive(Clone, Copy, PartialEq)]
enum When {
    /// Before the verify.
    Before,
    /// Before the verify, and it lasts for the day in which the server is asked again.
    ForADay,
    /// After the backup was proven; then it is checked again.
    Later,
}

struct Row {
    /// The first column of that table.
    situation: &'static str,
    when: When,
    arrange: fn(&mut State, &SnapshotId),
    outcome: &'static str,
    /// A part of the reason, and of the advice, as on the page.
    reason: &'static str,
    advice: &'static str,
}

fn damage_manifest(state: &mut State, id: &SnapshotId, damage: Damage) {
    assert!(state.add_datastore(STORE).damage_file(id, "index.json.blob", Some(damage)));
}

fn maintain(state: &mut State, maintenance: Maintenance) {
    state.add_datastore(STORE).maintenance = Some(maintenance);
}

fn vanish(state: &mut State) {
    maintain(state, Maintenance::Vanished);
    state.add_datastore(STORE).groups.clear();
}

const ROWS: [Row; 17] = [
    Row {
        situation: "all is well",
        when: When::Before,
        arrange: |_, _| (),
        outcome: "ok",
        reason: "",
        advice: "",
    },
    Row {
        situation: "data is damaged",
        when: When::Before,
        arrange: |state, id| drop(state.corrupt(id).unwrap()),
        outcome: "failed",
        reason: "chunks could not be verified",
        advice: "back the guest up again",
    },
    Row {
        situation: "the manifest is damaged",
        when: When::Before,
        arrange: |state, id| damage_manifest(state, id, Damage::Altered),
        outcome: "failed",
        reason: "wrong CRC checksum",
        advice: "proxmox-backup-client snapshot forget",
    },
    Row {
        situation: "the manifest is gone",
        when: When::Before,
        arrange: |state, id| damage_manifest(state, id, Damage::Missing),
        outcome: "failed",
        reason: "the snapshot has no manifest",
        advice: "back the guest up again",
    },
    Row {
        situation: "the datastore is full",
        when: When::Before,
        arrange: |state, _| state.add_datastore(STORE).space[2] = 0,
        outcome: "unknown",
        reason: "No space left on device",
        advice: "make room on the datastore",
    },
    Row {
        situation: "the datastore is full and data is damaged",
        when: When::Before,
        arrange: |state, id| {
            state.corrupt(id).unwrap();
            state.add_datastore(STORE).space[2] = 0;
        },
        outcome: "failed",
        reason: "chunks could not be verified",
        advice: "back the guest up again",
    },
    Row {
        situation: "the datastore is not mounted",
        when: When::ForADay,
        arrange: |state, _| maintain(state, Maintenance::NotMounted),
        outcome: "unreachable",
        reason: "is not mounted",
        advice: "proxmox-backup-manager datastore mount",
    },
    Row {
        situation: "the datastore is being unmounted",
        when: When::ForADay,
        arrange: |state, _| maintain(state, Maintenance::Unmounting),
        outcome: "unreachable",
        reason: "is being unmounted",
        advice: "",
    },
    Row {
        situation: "the datastore is under maintenance",
        when: When::ForADay,
        arrange: |state, _| maintain(state, Maintenance::Offline("new disks".to_owned())),
        outcome: "unreachable",
        reason: "maintenance mode",
        advice: "",
    },
    Row {
        situation: "the datastore is read anew from S3",
        when: When::ForADay,
        arrange: |state, _| maintain(state, Maintenance::Refresh("new cache".to_owned())),
        outcome: "unreachable",
        reason: "maintenance mode",
        advice: "",
    },
    Row {
        situation: "the directory of the datastore is not there",
        when: When::ForADay,
        arrange: |state, _| maintain(state, Maintenance::NoDirectory),
        outcome: "unreachable",
        reason: "unable to open chunk store",
        advice: "proxmox-backup-manager datastore show",
    },
    Row {
        situation: "the directory of a datastore in use goes away",
        when: When::ForADay,
        arrange: |state, _| vanish(state),
        outcome: "unreachable",
        reason: "the directory of the datastore is not there",
        advice: "proxmox-backup-manager datastore show",
    },
    Row {
        situation: "somebody holds the snapshot's lock",
        when: When::ForADay,
        arrange: |state, id| {
            state.add_datastore(STORE).snapshot_mut(id).unwrap().locked = true;
        },
        outcome: "skipped",
        reason: "could not acquire snapshot lock",
        advice: "stillpoint verify",
    },
    Row {
        situation: "the backup belongs to another owner",
        when: When::Before,
        arrange: |state, id| {
            let groups = state.add_datastore(STORE).groups.iter_mut();
            for group in groups.filter(|group| group.id == id.id) {
                "ot@pbs!t".clone_into(&mut group.owner);
            }
        },
        outcome: "denied",
        reason: "backup owner check failed",
        advice: "proxmox-backup-client change-owner",
    },
    Row {
        situation: "the snapshot was removed, or its group was moved",
        when: When::Before,
        arrange: |state, id| assert!(state.remove_snapshot(id)),
        outcome: "skipped",
        reason: "the snapshot is not on the server",
        advice: "back the guest up again",
    },
    Row {
        situation: "the server's own verify finds damage later",
        when: When::Later,
        arrange: |state, id| {
            let starttime = 1_795_817_865;
            let upid = format!(
                r"UPID:vm:00000B7B:0005CCB7:000000C5:6B0A0189:verificationjob:{STORE}\x3arecv:root@pam:"
            );
            let snapshot = state.add_datastore(STORE).snapshot_mut(id).unwrap();
            snapshot.verification = Some(Verification { state: "failed", upid, starttime });
        },
        outcome: "failed",
        reason: "in a verify of its own",
        advice: "back the guest up again",
    },
    Row {
        situation: "the newest backup is removed later",
        when: When::Later,
        arrange: |state, id| assert!(state.remove_snapshot(id)),
        outcome: "skipped",
        reason: "the snapshot is not on the server",
        advice: "back the guest up again",
    },
];

fn happened(row: &Row) -> World {
    let world = World::new(Duration::ZERO);
    world.with_sendmail();
    std::fs::create_dir_all(world.directory.join("metrics")).unwrap();
    world.settings("[report]\ntextfile-directory = \"/metrics\"\n");
    let (run, id) = world.backup(9001, "offsite");
    world.journal_backup(&run);
    if row.when == When::Later {
        world.start(&run);
        world.collect();
    }
    world.pbs.edit(|state| (row.arrange)(state, &id));
    if row.when == When::Later {
        world.said(&["refresh"]);
    } else {
        world.start(&run);
    }
    if row.when == When::ForADay {
        world.change_pending(|pending| pending["since"] = json!(YESTERDAY));
    }
    world.collect();
    world
}

#[test]
fn status_check_metrics_and_mail_agree_on_every_situation() {
    for row in &ROWS {
        let world = happened(row);
        let (what, outcome) = (row.situation, row.outcome);
        let record = world.verifies().pop().unwrap();
        assert_eq!(record["outcome"], outcome, "{what}: {record}");
        let reason = world.reason();
        assert!(reason.contains(row.reason) && reason.contains(row.advice), "{what}: {reason}");
        let verify = world.status_of(9001)["verify"].clone();
        assert_eq!(verify["state"], outcome, "{what}: {verify}");
        let expected = match outcome {
            "ok" => 0,
            "failed" => 2,
            _ => 1,
        };
        let (code, line) = world.said(&["status", "--check"]);
        assert_eq!(code, expected, "{what}: {line}");
        assert!(line.contains(row.reason), "{what}: {line}");
        let metrics = world.directory.join("metrics/stillpoint.prom");
        let metrics = std::fs::read_to_string(metrics).unwrap();
        let of_it = "stillpoint_verify_last_outcome{vmid=\"9001\",outcome=\"";
        assert!(metrics.contains(&format!("{of_it}{outcome}\"}} 1")), "{what}: {metrics}");
        let mail = world.mails();
        assert_eq!(mail.is_empty(), outcome == "ok", "{what}: {mail}");
        assert!(mail.contains(row.reason) && mail.contains(row.advice), "{what}: {mail}");
    }
}

#[test]
fn every_situation_is_in_the_page_with_its_outcome_reason_and_advice() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/doc/grades-and-outcomes.md");
    let page = std::fs::read_to_string(page).unwrap();
    let (_, section) = page.split_once("\n## Situations on the server\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    for row in &ROWS {
        let begin = format!("| {} | `{}` | ", row.situation, row.outcome);
        let line = section.lines().find(|line| line.starts_with(&begin));
        let line = line.unwrap_or_else(|| panic!("no row {begin}"));
        assert!(line.contains(row.reason) && line.contains(row.advice), "{line}");
    }
    let rows = section.lines().filter(|line| line.starts_with("| ")).count();
    assert_eq!(rows, ROWS.len() + 1, "each row of the page is tried");
}
