//! The proof of a backup: what journal and job say about it, whatever the server does.

#[path = "verify/collector.rs"]
mod collector;
#[path = "verify/look.rs"]
mod look;
#[path = "verify/many.rs"]
mod many;
#[path = "verify/outcomes.rs"]
mod outcomes;
#[path = "verify/policy.rs"]
mod policy;
#[path = "verify/queue.rs"]
mod queue;
#[path = "verify/world.rs"]
mod world;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use stillpoint_sim::hooks::Binaries;
use stillpoint_sim::node::Node;
use stillpoint_sim::node::backups::TOKEN;
use stillpoint_sim::pbs::{Backup, Fault, Restart, SnapshotId};
use stillpoint_sim::tls::{Identity, Versions};
use stillpoint_sim::vzdump::replay::{Happening, Options, replay};
use stillpoint_sim::vzdump::report::Report;
use stillpoint_sim::vzdump::stage::stage;
use stillpoint_sim::vzdump::trace::Scenario;

fn scenario() -> Scenario {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/vzdump/traces.json");
    Scenario::load(Path::new(file), "lxc-snapshot-pbs").unwrap()
}

fn node() -> Arc<Node> {
    let binaries = Binaries::beside(Path::new(env!("CARGO_BIN_EXE_vzdump-hook"))).unwrap();
    Arc::new(stage(&scenario(), None, &binaries, &|_| {}).unwrap())
}

/// Replays the backup, and runs `act` when the hook is about to be called in that phase.
fn played(
    node: &Arc<Node>,
    phase: &'static str,
    act: impl Fn(&Node) + Send + Sync + 'static,
) -> Report {
    played_then(node, phase, act, |_| {})
}

/// The same, and another action when job-end is over.
fn played_then(
    node: &Arc<Node>,
    phase: &'static str,
    act: impl Fn(&Node) + Send + Sync + 'static,
    then: impl Fn(&Node) + Send + Sync + 'static,
) -> Report {
    let its = Arc::clone(node);
    let observer = move |happening: &Happening| match happening {
        Happening::Called(argv) if argv[0] == phase => act(&its),
        Happening::Ended(call) if call.argv[0] == "job-end" => then(&its),
        _ => {}
    };
    let options = Options { observer: Some(Arc::new(observer)), ..Options::default() };
    replay(node, &scenario(), &options).unwrap()
}

fn exit_of(report: &Report, phase: &str) -> Option<i32> {
    report.calls.iter().find(|call| call.argv[0] == phase).unwrap().exit
}

/// The only verify record, after a check that the backup itself is good.
fn verify_of(report: &Report) -> &Value {
    let text = report.text();
    assert_eq!(report.records("backup")[0]["outcome"], "ok", "{text}");
    assert_eq!(report.records("verify").len(), 1, "{text}");
    assert_eq!(report.lost(), Vec::<String>::new(), "{text}");
    report.records("verify")[0]
}

fn reason(verify: &Value) -> &str {
    verify["reason"].as_str().unwrap_or_default()
}

fn snapshot() -> SnapshotId {
    SnapshotId::new("backups", "", "ct", "9001", 1_795_303_376)
}

#[test]
fn a_verified_backup_is_journalled_with_what_the_server_says_of_it() {
    let node = node();
    let report = played(&node, "job-init", |_| {});
    let verify = verify_of(&report);
    assert_eq!((&verify["outcome"], &verify["reason"]), (&"ok".into(), &Value::Null));
    assert_eq!(verify["backup_id"], "9001");
    assert_eq!(verify["backup_time"], 1_795_303_376);
    assert_eq!(verify["size"], 9_101_671 + 126 + 1232);
    assert_eq!((&verify["owner"], &verify["protected"]), (&TOKEN.into(), &false.into()));
    assert_eq!(verify["encrypted"], true);
    assert_eq!(verify["verify_state"], "ok");
    assert_eq!(verify["verify_upid"], verify["started_upid"]);
    let fingerprint = node.backup_server().unwrap().pbs.fingerprint().to_lowercase();
    assert_eq!(verify["storage_id"], format!("127.0.0.1:backups#{fingerprint}"));
    assert_eq!(report.records("backup")[0]["verify"]["state"], "started");
    let told = |line: &String| line.contains("clean backup") && line.ends_with(", verified");
    assert!(report.task_log.iter().any(told), "{:?}", report.task_log);
}

#[test]
fn a_corrupt_chunk_is_a_failure_and_fails_the_job_where_that_is_wanted() {
    for (setting, exit) in [("", 0), ("[verify]\non-failure = \"fail-job\"\n", 1)] {
        let node = node();
        node.write("etc/stillpoint/config.toml", setting).unwrap();
        let report = played(&node, "backup-end", |node| {
            node.backup_server().unwrap().pbs.corrupt(&snapshot()).unwrap();
        });
        let verify = verify_of(&report);
        assert_eq!(
            (&verify["outcome"], &verify["verify_state"]),
            (&"failed".into(), &"failed".into())
        );
        assert_eq!(exit_of(&report, "job-end"), Some(exit));
        assert_eq!(exit_of(&report, "backup-end"), Some(0));
    }
}

#[test]
fn a_server_that_is_down_fails_no_backup_and_is_asked_again_when_it_is_up() {
    let node = node();
    node.write("etc/stillpoint/config.toml", "[verify]\non-failure = \"fail-job\"\n").unwrap();
    let report = played_then(
        &node,
        "backup-end",
        |node| node.backup_server().unwrap().pbs.go_down(),
        |node| node.backup_server().unwrap().pbs.come_up().unwrap(),
    );
    assert_eq!(report.records("backup")[0]["verify"]["state"], "unreachable");
    assert_eq!(exit_of(&report, "job-end"), Some(0));
    let verifies = report.records("verify");
    let outcomes: Vec<&Value> = verifies.iter().map(|verify| &verify["outcome"]).collect();
    assert_eq!(outcomes, ["unreachable", "ok"], "{}", report.text());
    assert!(reason(verifies[0]).contains("tried again for 1 day"), "{}", reason(verifies[0]));
    assert_eq!(report.processes_left, Vec::<String>::new(), "{}", report.text());
    let told = |line: &String| line.contains("not verified: server unreachable");
    assert!(report.task_log.iter().any(told), "{:?}", report.task_log);
}

#[test]
fn another_certificate_than_the_pinned_one_is_refused() {
    let node = node();
    let right = node.backup_server().unwrap().pbs.identity();
    let report = played_then(
        &node,
        "backup-end",
        |node| {
            let other = Identity::new(&["localhost", "vm"]).unwrap();
            node.backup_server().unwrap().pbs.use_identity(&other, Versions::Both).unwrap();
        },
        move |node| {
            let pbs = &node.backup_server().unwrap().pbs;
            assert!(!pbs.requests().iter().any(|line| line.contains("/verify")));
            pbs.use_identity(&right, Versions::Both).unwrap();
        },
    );
    let verifies = report.records("verify");
    assert_eq!(verifies[0]["outcome"], "unreachable");
    assert!(reason(verifies[0]).contains("fingerprint"), "{}", reason(verifies[0]));
}

#[test]
fn a_token_that_may_not_verify_is_told_so() {
    let node = node();
    let report = played(&node, "backup-end", |node| {
        node.backup_server().unwrap().pbs.edit(|state| state.access.revoke_all());
    });
    let verify = verify_of(&report);
    assert_eq!(verify["outcome"], "denied");
    assert!(reason(verify).contains("/datastore/backups"), "{}", reason(verify));
}

#[test]
fn a_login_that_is_not_accepted_is_told_so_and_asked_for_once() {
    let node = node();
    let report = played(&node, "backup-end", |node| {
        let pbs = &node.backup_server().unwrap().pbs;
        pbs.edit(|state| state.unauthorized_delay = Duration::ZERO);
        pbs.inject("/", None, Fault::Unauthorized);
    });
    let verify = verify_of(&report);
    assert_eq!(verify["outcome"], "denied");
    let told = "the login is not accepted: backup server denied access (401)";
    assert!(reason(verify).starts_with(told), "{}", reason(verify));
    assert!(reason(verify).contains("stillpoint doctor --storage"), "{}", reason(verify));
    assert!(!reason(verify).contains("right"), "{}", reason(verify));
}

#[test]
fn a_snapshot_that_is_gone_is_not_to_be_verified_again() {
    let node = node();
    let report = played(&node, "backup-end", |node| {
        let pbs = &node.backup_server().unwrap().pbs;
        pbs.add_snapshot(Backup::of(&SnapshotId { time: 1_795_303_000, ..snapshot() }, TOKEN));
        assert!(pbs.edit(|state| state.remove_snapshot(&snapshot())));
    });
    let verify = verify_of(&report);
    assert_eq!(verify["outcome"], "skipped");
    let told = "the snapshot is not on the server: it was pruned or removed";
    assert!(reason(verify).starts_with(told), "{}", reason(verify));
    assert!(!reason(verify).contains("stillpoint verify"), "{}", reason(verify));
}

#[test]
fn a_manifest_that_is_locked_for_long_is_no_damage() {
    let node = node();
    let report = played(&node, "backup-end", |node| {
        let pbs = &node.backup_server().unwrap().pbs;
        pbs.edit(|state| state.add_datastore("backups").manifest_locked = 1);
    });
    let verify = verify_of(&report);
    assert_eq!((&verify["outcome"], &verify["reason"]), (&"ok".into(), &Value::Null));
    assert_eq!(report.pbs_tasks.len(), 2);

    let node = self::node();
    let report = played(&node, "backup-end", |node| {
        let pbs = &node.backup_server().unwrap().pbs;
        pbs.edit(|state| state.add_datastore("backups").manifest_locked = u32::MAX);
    });
    let verify = verify_of(&report);
    assert_eq!(verify["outcome"], "unknown", "{verify}");
    assert!(reason(verify).contains("unable to acquire manifest lock"), "{}", reason(verify));
    assert!(!reason(verify).contains("back the guest up again"), "{}", reason(verify));

    // What it found anyway is reported.
    let node = self::node();
    let report = played(&node, "backup-end", |node| {
        let pbs = &node.backup_server().unwrap().pbs;
        pbs.corrupt(&snapshot()).unwrap();
        pbs.edit(|state| state.add_datastore("backups").manifest_locked = u32::MAX);
    });
    assert_eq!(verify_of(&report)["outcome"], "failed");
}

#[test]
fn a_verify_that_a_restart_of_the_server_ended_is_started_again() {
    for how in [Restart::Killed, Restart::Reloaded] {
        let node = node();
        let report = played(&node, "log-end", move |node| {
            node.backup_server().unwrap().pbs.restart(how);
        });
        assert_eq!(verify_of(&report)["outcome"], "ok", "{how:?}\n{}", report.text());
        assert_eq!(report.pbs_tasks.len(), 2, "{how:?}");
    }
}

#[test]
fn a_verify_that_takes_longer_than_the_job_waits_is_collected_later() {
    let node = node();
    node.write("etc/stillpoint/config.toml", "[verify]\nwait = \"0s\"\n").unwrap();
    let report = played(&node, "job-init", |node| {
        let pbs = &node.backup_server().unwrap().pbs;
        pbs.edit(|state| state.verify_time = Duration::from_secs(8));
    });
    assert_eq!(verify_of(&report)["outcome"], "ok", "{}", report.text());
    let told = |line: &String| line.contains("1 verify will be collected");
    assert!(report.task_log.iter().any(told), "{:?}", report.task_log);
}

#[test]
fn a_verify_of_somebody_else_that_came_later_is_proof_too() {
    let node = node();
    let report = played(&node, "job-end", |node| {
        let pbs = &node.backup_server().unwrap().pbs;
        pbs.edit(|state| state.verify_as("root@pam", &snapshot()));
    });
    assert_eq!(verify_of(&report)["outcome"], "ok", "{}", report.text());
}
