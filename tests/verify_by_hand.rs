//! `stillpoint verify`: its output, its journal records, and its requests to the server.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;
use stillpoint_sim::hooks::Binaries;
use stillpoint_sim::node::Node;
use stillpoint_sim::node::backups::{DATASTORE, TOKEN};
use stillpoint_sim::pbs::{Backup, Fault, Restart, SimPbs, SnapshotId};

const OLD: i64 = 1_795_302_874;
const NEW: i64 = 1_795_303_376;
const VOLID: &str = "offsite:backup/ct/9001/2026-11-21T23:22:56Z";

/// A node whose storage `offsite` has two finished snapshots of guest 9001, and an unfinished one.
fn node(namespace: Option<&str>) -> Node {
    let binaries = Binaries::beside(Path::new(env!("CARGO_BIN_EXE_vzdump-hook"))).unwrap();
    let mut node = Node::new(None, &binaries).unwrap();
    node.add_backup_server("offsite", namespace).unwrap();
    let ns = namespace.unwrap_or_default();
    for time in [NEW, OLD] {
        pbs(&node).add_snapshot(Backup::of(&snapshot(ns, time), TOKEN));
    }
    pbs(&node).add_snapshot(Backup::of(&snapshot(ns, NEW + 100), TOKEN).unfinished());
    node
}

fn snapshot(ns: &str, time: i64) -> SnapshotId {
    SnapshotId::new(DATASTORE, ns, "ct", "9001", time)
}

fn pbs(node: &Node) -> &SimPbs {
    &node.backup_server().unwrap().pbs
}

fn run(node: &Node, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stillpoint"));
    command.arg("verify").args(arguments).env("STILLPOINT_ROOT", node.root());
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// The verify records of the journal.
fn records(node: &Node) -> Vec<Value> {
    let path = node.path("var/lib/stillpoint/journal.jsonl");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let records = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    records.filter(|record| record["kind"] == "verify").collect()
}

#[test]
fn the_latest_finished_snapshot_of_a_guest_is_verified_and_waited_for() {
    for namespace in [None, Some("pve/n100")] {
        let node = node(namespace);
        let (code, stdout, stderr) = run(&node, &["9001", "--wait"]);
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{stdout}");
        assert!(stdout.contains(&format!("{VOLID}: verify started, UPID:vm:")), "{stdout}");
        assert!(stdout.contains("TASK OK"), "the task's log: {stdout}");
        assert!(stdout.ends_with(&format!("{VOLID}: verified\n")), "{stdout}");
        let records = records(&node);
        assert_eq!(records.len(), 1, "{records:?}");
        let record = &records[0];
        assert_eq!((&record["run"], &record["job"]), (&Value::Null, &Value::Null));
        assert_eq!((&record["outcome"], &record["vmid"]), (&"ok".into(), &9001.into()));
        assert_eq!((&record["backup_time"], &record["storage"]), (&NEW.into(), &"offsite".into()));
        assert_eq!(record["namespace"].as_str(), namespace);
        assert_eq!(pbs(&node).tasks().len(), 1);
    }
}

#[test]
fn a_snapshot_that_is_named_is_verified_again_whatever_was_known_of_it() {
    let node = node(None);
    for _ in 0..2 {
        let (code, stdout, _) = run(&node, &[VOLID, "--wait"]);
        assert_eq!(code, Some(0), "{stdout}");
    }
    pbs(&node).corrupt(&snapshot("", NEW)).unwrap();
    let (code, stdout, _) = run(&node, &[VOLID, "--wait"]);
    assert_eq!(code, Some(1), "{stdout}");
    assert!(stdout.contains(&format!("{VOLID}: FAILED to verify: ")), "{stdout}");
    let outcomes: Vec<Value> = records(&node).iter().map(|one| one["outcome"].clone()).collect();
    assert_eq!(outcomes, ["ok", "ok", "failed"]);
}

#[test]
fn all_snapshots_of_a_guest_can_be_verified() {
    let node = node(None);
    let (code, stdout, _) = run(&node, &["9001", "--all", "--wait"]);
    assert_eq!(code, Some(0), "{stdout}");
    let mut times: Vec<i64> =
        records(&node).iter().map(|one| one["backup_time"].as_i64().unwrap()).collect();
    times.sort_unstable();
    assert_eq!(times, [OLD, NEW], "and not the one that is being written");
}

/// A node with ten finished snapshots of guest 9001, and the command that verifies all of them.
fn ten(namespace: Option<&str>) -> Node {
    let node = node(namespace);
    for more in 1..=8 {
        let ns = namespace.unwrap_or_default();
        pbs(&node).add_snapshot(Backup::of(&snapshot(ns, OLD + more), TOKEN));
    }
    node
}

fn waiting(node: &Node, arguments: &[&str]) -> std::process::Child {
    Command::new(env!("CARGO_BIN_EXE_stillpoint"))
        .arg("verify")
        .args(arguments)
        .env("STILLPOINT_ROOT", node.root())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap()
}

fn outcomes(node: &Node) -> Vec<String> {
    records(node).iter().map(|one| one["outcome"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn one_verify_of_the_group_proves_all_snapshots_of_a_guest() {
    for namespace in [None, Some("pve/n100")] {
        let node = ten(namespace);
        let (code, stdout, _) = run(&node, &["9001", "--all", "--wait"]);
        assert_eq!(code, Some(0), "{stdout}");
        let tasks = pbs(&node).tasks();
        assert_eq!(tasks.len(), 1, "{tasks:?}");
        assert_eq!(tasks[0]["type"], "verify_group");
        let of_group = format!("{}/ct/9001", namespace.map_or("", |_| "ns/pve/ns/n100"));
        assert_eq!(tasks[0]["id"], format!("{DATASTORE}:{of_group}"));
        assert_eq!(outcomes(&node), ["ok"; 10]);
        let upid = &records(&node)[0]["verify_upid"];
        assert!(records(&node).iter().all(|one| one["verify_upid"] == *upid), "{upid}");
        assert_eq!(stdout.matches("verify started, UPID").count(), 1, "{stdout}");
        assert_eq!(stdout.matches("TASK OK").count(), 1, "its log is shown once: {stdout}");
        assert_eq!(stdout.matches(": verified\n").count(), 10, "{stdout}");
        let asked = pbs(&node).requests();
        let polls = asked.iter().filter(|line| line.contains("/status")).count();
        assert!(asked.len() - polls < 40, "{asked:#?}");
    }
}

#[test]
fn damage_that_all_snapshots_share_fails_all_of_them() {
    let node = ten(None);
    pbs(&node).edit(|state| {
        let store = state.add_datastore(DATASTORE);
        let damage = stillpoint_sim::pbs::ChunkDamage::Altered;
        assert!(store.damage_chunk(&snapshot("", NEW), true, damage).is_some());
    });
    let (code, stdout, _) = run(&node, &["9001", "--all", "--wait"]);
    assert_eq!(code, Some(1), "{stdout}");
    assert_eq!(outcomes(&node), ["failed"; 10]);
    let named = |one: &Value| one["reason"].as_str().unwrap().contains("root.pxar.didx failed");
    assert!(records(&node).iter().all(named), "{:?}", records(&node));
    assert_eq!(pbs(&node).tasks().len(), 1);
}

#[test]
fn a_snapshot_that_the_verify_of_a_group_passed_over_is_asked_again() {
    let node = ten(None);
    let lock = |locked| {
        pbs(&node).edit(|state| {
            let store = state.add_datastore(DATASTORE);
            store.snapshot_mut(&snapshot("", OLD)).unwrap().locked = locked;
        });
    };
    lock(true);
    let child = waiting(&node, &["9001", "--all", "--wait"]);
    // It is verified by itself, and is still locked.
    while pbs(&node).tasks().len() < 2 {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(!outcomes(&node).contains(&"skipped".to_owned()));
    lock(false);
    let output = child.wait_with_output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stdout}");
    assert_eq!(outcomes(&node), ["ok"; 10]);
    let kinds: Vec<Value> = pbs(&node).tasks().iter().map(|task| task["type"].clone()).collect();
    assert_eq!(kinds[0], "verify_group");
    assert!(kinds[1..].iter().all(|kind| kind == "verify_snapshot"), "{kinds:?}");
}

#[test]
fn a_server_that_begins_more_than_the_group_is_stopped_at_once() {
    let node = ten(None);
    pbs(&node).edit(|state| {
        state.forgets_groups = true;
        state.verify_time = Duration::from_secs(3600);
    });
    let (code, stdout, _) = run(&node, &["9001", "--all", "--wait"]);
    assert_eq!(code, Some(1), "{stdout}");
    let tasks = pbs(&node).tasks();
    assert_eq!(tasks.len(), 1, "{tasks:?}");
    assert_eq!((&tasks[0]["type"], &tasks[0]["status"]), (&"verify".into(), &"stopped".into()));
    assert_eq!(outcomes(&node), ["unknown"; 10]);
    let reason = records(&node)[0]["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("began something else (UPID:vm:"), "{reason}");
    assert!(reason.contains("; it was stopped"), "{reason}");
}

#[test]
fn the_same_command_twice_orders_nothing_twice() {
    for arguments in [&["9001", "--all", "--wait"][..], &[VOLID, "--wait"]] {
        let node = ten(None);
        pbs(&node).edit(|state| state.verify_time = Duration::from_secs(3600));
        let first = waiting(&node, arguments);
        let second = waiting(&node, arguments);
        while pbs(&node).tasks().is_empty() {
            std::thread::sleep(Duration::from_millis(20));
        }
        let mut third = waiting(&node, arguments);
        let mut lines = BufReader::new(third.stdout.take().unwrap()).lines();
        assert!(lines.next().unwrap().unwrap().contains(" started, UPID"));
        let upid = pbs(&node).tasks()[0]["upid"].as_str().unwrap().to_owned();
        assert!(pbs(&node).finish(&upid));
        // The two others wait for the same verify.
        assert!(lines.map(|line| line.unwrap()).any(|line| line.ends_with(": verified")));
        assert_eq!(third.wait().unwrap().code(), Some(0));
        for child in [first, second] {
            let output = child.wait_with_output().unwrap();
            let stdout = String::from_utf8(output.stdout).unwrap();
            assert_eq!(output.status.code(), Some(0), "{stdout}");
        }
        assert_eq!(pbs(&node).tasks().len(), 1, "{:?}", pbs(&node).tasks());
    }
}

#[test]
fn who_waits_no_longer_is_told_what_goes_on() {
    let node = ten(None);
    pbs(&node).edit(|state| state.verify_time = Duration::from_secs(3600));
    let mut child = waiting(&node, &["9001", "--all", "--wait"]);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let started = lines.next().unwrap().unwrap();
    let (_, upid) = started.split_once(" started, ").expect("it is started");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let rest: Vec<String> = lines.map(|line| line.unwrap()).collect();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let rest = rest.join("\n");
    assert!(rest.contains("10 verifies not over"), "{rest}");
    assert!(rest.contains("`stillpoint status` shows the progress"), "{rest}");
    let cancel = format!("proxmox-backup-manager task stop '{upid}'");
    assert!(rest.contains(&cancel), "{rest}");
    let status = Command::new(env!("CARGO_BIN_EXE_stillpoint"))
        .args(["status", "--json"])
        .env("STILLPOINT_ROOT", node.root())
        .output()
        .unwrap();
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    let message = status["now"][0]["message"].as_str().unwrap();
    assert!(message.starts_with("10 backups on storage offsite being verified"), "{message}");
    assert!(message.contains("10 running, 0 waiting"), "{message}");
    // It continues.
    assert!(pbs(&node).finish(upid));
    while records(&node).len() < 10 {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(outcomes(&node), ["ok"; 10]);
}

#[test]
fn a_group_whose_collector_was_killed_at_any_point_is_verified_once() {
    let node = ten(None);
    pbs(&node).edit(|state| state.verify_time = Duration::from_millis(50));
    let child = waiting(&node, &["9001", "--all", "--wait"]);
    let (mut kills, mut started) = (0, Vec::new());
    while kills < 8 && records(&node).len() < 10 {
        let asked = pbs(&node).requests().len();
        while pbs(&node).requests().len() <= asked + kills && records(&node).len() < 10 {
            std::thread::sleep(Duration::from_millis(1));
        }
        for pid in collectors(&node) {
            let pid = nix::unistd::Pid::from_raw(pid);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
        kills += 1;
        // A waiting command checks for a collector only now and then.
        let next = Command::new(env!("CARGO_BIN_EXE_stillpoint"))
            .arg("collect")
            .env("STILLPOINT_ROOT", node.root())
            .stdin(std::process::Stdio::null())
            .spawn();
        started.push(next.unwrap());
    }
    for mut collector in started {
        collector.wait().unwrap();
    }
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let mut times: Vec<i64> =
        records(&node).iter().map(|one| one["backup_time"].as_i64().unwrap()).collect();
    times.sort_unstable();
    times.dedup();
    assert_eq!(times.len(), 10, "each has its outcome");
    assert!(outcomes(&node).iter().all(|outcome| outcome == "ok"));
    let tasks = pbs(&node).tasks();
    assert!(tasks.iter().all(|task| task["type"] == "verify_group"), "{tasks:?}");
}

#[test]
fn who_does_not_wait_finds_the_outcome_in_the_journal() {
    let node = node(None);
    pbs(&node).edit(|state| state.verify_time = Duration::from_secs(3600));
    let (code, stdout, _) = run(&node, &["9001"]);
    assert_eq!(code, Some(0), "{stdout}");
    assert!(
        stdout.contains("verify started, UPID:") && stdout.contains("1 verify running"),
        "{stdout}"
    );
    assert_eq!(records(&node), Vec::<Value>::new());
    let upid = pbs(&node).tasks()[0]["upid"].as_str().unwrap().to_owned();
    assert!(pbs(&node).finish(&upid));
    while records(&node).is_empty() {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(records(&node)[0]["outcome"], "ok");
}

#[test]
fn a_verify_that_the_server_lost_is_started_again_and_followed() {
    let node = node(None);
    pbs(&node).edit(|state| state.verify_time = Duration::from_secs(3600));
    let child = Command::new(env!("CARGO_BIN_EXE_stillpoint"))
        .args(["verify", VOLID, "--wait"])
        .env("STILLPOINT_ROOT", node.root())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    while pbs(&node).tasks().is_empty() {
        std::thread::sleep(Duration::from_millis(20));
    }
    pbs(&node).edit(|state| state.verify_time = Duration::from_millis(100));
    pbs(&node).restart(Restart::Killed);
    let output = child.wait_with_output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stdout}");
    assert_eq!(pbs(&node).tasks().len(), 2, "{stdout}");
}

/// The collectors of a node.
fn collectors(node: &Node) -> Vec<i32> {
    let root = format!("STILLPOINT_ROOT={}", node.root().display());
    let has = |pid: &i32, file: &str, word: &str| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        text.split('\0').any(|each| each == word)
    };
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| has(pid, "cmdline", "collect") && has(pid, "environ", &root)).collect()
}

#[test]
fn a_collector_that_is_killed_is_replaced_by_who_waits() {
    let node = node(None);
    pbs(&node).edit(|state| state.verify_time = Duration::from_secs(3600));
    let mut child = Command::new(env!("CARGO_BIN_EXE_stillpoint"))
        .args(["verify", VOLID, "--wait"])
        .env("STILLPOINT_ROOT", node.root())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    // If it was killed before it recorded the task, the verify is ordered again.
    let written = || {
        let files = std::fs::read_dir(node.path("var/lib/stillpoint/verifies"));
        files.into_iter().flatten().any(|file| {
            let path = file.unwrap().path();
            // Not a temporary file that is still to be renamed.
            path.extension().is_some_and(|extension| extension == "json")
                && std::fs::read_to_string(path)
                    .is_ok_and(|text| text.contains("\"upid\": \"UPID:"))
        })
    };
    while !written() {
        std::thread::sleep(Duration::from_millis(20));
    }
    let killed = collectors(&node);
    assert_eq!(killed.len(), 1);
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(killed[0]),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    let upid = pbs(&node).tasks()[0]["upid"].as_str().unwrap().to_owned();
    assert!(pbs(&node).finish(&upid));
    // Longer than any load of the machine explains: nothing else would end it within a day.
    for _ in 0..1200 {
        if let Some(status) = child.try_wait().unwrap() {
            assert_eq!(status.code(), Some(0));
            assert_eq!(records(&node)[0]["outcome"], "ok");
            assert_eq!(pbs(&node).tasks().len(), 1, "it was not started again");
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    child.kill().unwrap();
    panic!("nobody collects; on the server: {:?}", pbs(&node).tasks());
}

#[test]
fn who_waits_is_told_why_the_server_does_not_begin() {
    let node = node(None);
    pbs(&node).inject("/verify", None, Fault::Refuse(503, "busy".into()));
    let mut child = Command::new(env!("CARGO_BIN_EXE_stillpoint"))
        .args(["verify", VOLID, "--wait"])
        .env("STILLPOINT_ROOT", node.root())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(lines.next().unwrap().unwrap()));
    let told = receiver.recv_timeout(Duration::from_secs(120));
    child.kill().unwrap();
    child.wait().unwrap();
    let told = told.expect("nothing is told");
    assert!(told.starts_with(&format!("{VOLID}: not started yet: ")), "{told}");
    pbs(&node).heal();
    while records(&node).is_empty() {
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn what_cannot_be_verified_is_told_at_once() {
    let node = node(None);
    for (arguments, told) in [
        (&["offsite:backup/ct/9001/2026-11-21T23:22:57Z"][..], "the snapshot is not on the server"),
        (&["offsite:backup/host/9001/2026-11-21T23:22:56Z"], "is named STORAGE:backup/"),
        (&["local:backup/vzdump-lxc-9001.tar"], "is named STORAGE:backup/"),
        (&["nosuch:backup/ct/9001/2026-11-21T23:22:56Z"], "nosuch"),
        (&["100"], "guest 100 has no snapshot"),
        (&["x\x1b[2J"], "neither a guest (VMID) nor a volume"),
        (&[VOLID, "--all"], "--all needs a guest"),
    ] {
        let (code, stdout, stderr) = run(&node, arguments);
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{arguments:?}");
        assert!(stderr.contains(told), "{stderr}");
        assert!(!stderr.trim_end().chars().any(char::is_control), "{stderr:?}");
    }
    assert_eq!(pbs(&node).tasks(), Vec::<Value>::new());
    assert!(!node.path("var/lib/stillpoint/verifies").exists());
}

#[test]
fn backups_of_another_owner_are_told_of_with_the_command_that_gives_them() {
    for (namespace, suffix) in [(None, ""), (Some("pve/n100"), " --ns pve/n100")] {
        let node = node(namespace);
        pbs(&node).edit(|state| {
            for group in &mut state.add_datastore(DATASTORE).groups {
                "ot@pbs!t".clone_into(&mut group.owner);
            }
        });
        let (code, stdout, stderr) = run(&node, &["9001"]);
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
        let told = format!("ct/9001 belongs to ot@pbs!t and not to {TOKEN}");
        let command = format!(
            "`proxmox-backup-client change-owner ct/9001 '{TOKEN}' --repository 'root@pam@localhost:{DATASTORE}'{suffix}`"
        );
        assert!(stderr.contains(&told) && stderr.contains(&command), "{stderr}");
        assert!(!stderr.contains("no snapshot"), "{stderr}");
    }
}

#[test]
fn a_storage_that_fails_stops_no_other() {
    let mut node = node(None);
    node.add_storage(
        "pbs",
        "broken",
        &[("server", "127.0.0.1"), ("datastore", "x"), ("port", "1")],
    )
    .unwrap();
    node.write("etc/pve/priv/storage/broken.pw", "x\n").unwrap();
    // The same datastore under another storage name is not asked twice.
    node.add_backup_server("again", None).unwrap();
    let (code, stdout, stderr) = run(&node, &["9001", "--wait"]);
    assert_eq!(code, Some(1), "{stdout}");
    assert!(stderr.starts_with("stillpoint: broken: "), "{stderr}");
    assert_eq!(records(&node).len(), 1);
    assert_eq!(records(&node)[0]["outcome"], "ok");
}

#[test]
fn a_token_that_may_not_verify_is_told_so() {
    let node = node(None);
    let place = format!("/datastore/{DATASTORE}");
    pbs(&node).edit(|state| {
        state.access.revoke_all();
        state.access.grant_both(&place, TOKEN, "DatastoreAudit");
    });
    let (code, stdout, _) = run(&node, &["9001"]);
    assert_eq!(code, Some(1), "{stdout}");
    assert!(stdout.contains("not verified: denied"), "{stdout}");
}

#[test]
fn what_was_found_before_is_no_answer_even_where_the_order_is_lost() {
    for lost in [false, true] {
        let node = node(None);
        // By the server's clock everything has just happened.
        let before = pbs(&node).edit(|state| {
            state.clock_ahead = 60_000;
            state.verify_as(TOKEN, &snapshot("", NEW))
        });
        assert!(pbs(&node).finish(&before));
        pbs(&node).corrupt(&snapshot("", NEW)).unwrap();
        if lost {
            pbs(&node).inject("/verify", Some(1), Fault::NoAnswer);
        }
        let (code, stdout, _) = run(&node, &[VOLID, "--wait"]);
        assert_eq!(code, Some(1), "{stdout}");
        assert!(stdout.contains(&format!("{VOLID}: FAILED to verify: ")), "{stdout}");
        assert_eq!(pbs(&node).tasks().len(), 2, "{stdout}");
        // Only after a lost order there is something to look for.
        let looked = pbs(&node).requests().iter().any(|line| line.contains("/tasks?"));
        assert_eq!(looked, lost);
    }
}

#[test]
fn a_lost_order_that_the_server_works_on_is_not_given_twice() {
    let node = node(None);
    pbs(&node).edit(|state| state.verify_time = Duration::from_secs(8));
    pbs(&node).inject("/verify", Some(1), Fault::CutOff);
    let (code, stdout, _) = run(&node, &[VOLID, "--wait"]);
    assert_eq!(code, Some(0), "{stdout}");
    assert_eq!(pbs(&node).tasks().len(), 1, "{stdout}");
}

#[test]
fn a_login_that_is_not_accepted_is_told_so_and_not_that_nothing_is_there() {
    let node = node(None);
    node.write("etc/pve/priv/storage/offsite.pw", "wrong\n").unwrap();
    let (code, stdout, stderr) = run(&node, &["9001"]);
    assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
    assert!(stderr.contains("offsite: ") && stderr.contains("(401)"), "{stderr}");
    assert!(!stderr.contains("no snapshot"), "{stderr}");
}
