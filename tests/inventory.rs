//! The snapshots on backup servers, in `stillpoint snapshots`.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use stillpoint_sim::hooks::Binaries;
use stillpoint_sim::node::Node;
use stillpoint_sim::node::backups::{DATASTORE, TOKEN};
use stillpoint_sim::pbs::{Backup, Fault, SimPbs, SnapshotId};

const STILLPOINT: &str = env!("CARGO_BIN_EXE_stillpoint");

/// A node with a storage `offsite`, in that namespace.
fn node(namespace: Option<&str>) -> Node {
    let binaries = Binaries::beside(Path::new(env!("CARGO_BIN_EXE_vzdump-hook"))).unwrap();
    let mut node = Node::new(None, &binaries).unwrap();
    node.add_backup_server("offsite", namespace).unwrap();
    node
}

fn pbs(node: &Node) -> &SimPbs {
    &node.backup_server().unwrap().pbs
}

fn command(node: &Node, arguments: &[&str]) -> Command {
    let mut command = Command::new(STILLPOINT);
    command.args(arguments).env("STILLPOINT_ROOT", node.root());
    command
}

fn run(node: &Node, arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command(node, arguments).output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

fn snapshot(ns: &str, kind: &str, id: &str, time: i64) -> SnapshotId {
    SnapshotId::new(DATASTORE, ns, kind, id, time)
}

/// Three guests, a host with a guest's name, a snapshot of another owner, and an unfinished one.
fn fill(pbs: &SimPbs, ns: &str) {
    let first = snapshot(ns, "ct", "9001", 1_795_302_874);
    pbs.add_snapshot(Backup {
        comment: Some("web, daily".into()),
        protected: true,
        ..Backup::of(&first, TOKEN)
    });
    pbs.edit(|state| {
        let upid = state.verify_as(TOKEN, &first);
        assert!(state.finish(&upid));
    });
    pbs.add_snapshot(Backup::of(&snapshot(ns, "ct", "9001", 1_795_303_376), TOKEN).unfinished());
    pbs.add_snapshot(Backup::of(&snapshot(ns, "vm", "100", 1_795_300_000), TOKEN).unencrypted());
    pbs.add_snapshot(Backup::of(&snapshot(ns, "host", "9001", 1_795_300_001), TOKEN));
    pbs.add_snapshot(Backup::of(&snapshot(ns, "ct", "7", 1_795_300_002), "else@pbs!x"));
}

fn objects(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn everything_that_is_known_of_a_snapshot_is_told() {
    for namespace in [None, Some("pve/n100")] {
        let node = node(namespace);
        fill(pbs(&node), namespace.unwrap_or_default());
        let (code, stdout, stderr) = run(&node, &["snapshots", "--json", "--guest", "9001"]);
        assert_eq!((code, stderr.as_str()), (Some(0), ""));
        let found = objects(&stdout);
        assert_eq!(found.len(), 2, "{stdout}");
        let task = &pbs(&node).tasks()[0];
        let one = found.iter().find(|one| one["backup_time"] == 1_795_302_874).unwrap();
        assert_eq!(one["namespace"].as_str(), namespace);
        assert_eq!((&one["backup_type"], &one["backup_id"]), (&"ct".into(), &"9001".into()));
        assert_eq!(one["volid"], "offsite:backup/ct/9001/2026-11-21T23:14:34Z");
        assert_eq!((&one["owner"], &one["comment"]), (&TOKEN.into(), &"web, daily".into()));
        assert_eq!((&one["protected"], &one["encrypted"]), (&true.into(), &true.into()));
        assert!(one["key_fingerprint"].as_str().unwrap().starts_with("05:53:55:a0"));
        assert_eq!((&one["verify_state"], &one["verify_upid"]), (&"ok".into(), &task["upid"]));
        assert!(one["verified_at"].as_str().unwrap().ends_with('Z'));
        let fingerprint = pbs(&node).fingerprint().to_lowercase();
        assert_eq!(one["storage_id"], format!("127.0.0.1:{DATASTORE}#{fingerprint}"));
        let other = found.iter().find(|one| one["backup_time"] == 1_795_303_376).unwrap();
        assert_eq!((&other["finished"], &other["size"]), (&false.into(), &Value::Null));
    }
}

#[test]
fn the_table_names_the_storage_and_marks_what_is_unfinished() {
    let node = node(Some("pve"));
    fill(pbs(&node), "pve");
    let (code, stdout, _) = run(&node, &["snapshots"]);
    assert_eq!(code, Some(0), "{stdout}");
    let fingerprint = pbs(&node).fingerprint().to_lowercase();
    let first =
        format!("Storage offsite, enabled, namespace pve: 127.0.0.1:{DATASTORE}#{fingerprint}\n");
    assert!(stdout.starts_with(&first), "{stdout}");
    let line =
        |start: &str| stdout.lines().find(|line| line.starts_with(start)).unwrap_or_default();
    assert!(line("ct/9001/2026-11-21T23:22:56Z").contains(" unfinished "), "{stdout}");
    let verified = line("ct/9001/2026-11-21T23:14:34Z");
    assert!(verified.contains(" ok ") && verified.contains(" pe 05:53:55:a0 "), "{stdout}");
    assert!(line("vm/100/").contains(" -- "), "{stdout}");
    assert!(stdout.ends_with("4 snapshots.\n"), "what another owns is not listed: {stdout}");
}

#[test]
fn a_storage_that_fails_is_named_and_stops_no_other() {
    let mut node = node(None);
    fill(pbs(&node), "");
    for (id, line) in [("broken", ""), ("off", "disable"), ("far", "nodes elsewhere")] {
        let (key, value) = line.split_once(' ').unwrap_or((line, ""));
        let mut keys = vec![("server", "127.0.0.1"), ("datastore", DATASTORE), ("port", "1")];
        keys.extend((!line.is_empty()).then_some((key, value)));
        node.add_storage("pbs", id, &keys).unwrap();
        node.write(&format!("etc/pve/priv/storage/{id}.pw"), "x\n").unwrap();
    }
    node.add_backup_server("again", None).unwrap();
    let (code, stdout, stderr) = run(&node, &["snapshots"]);
    assert_eq!(code, Some(1));
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(
        stderr.starts_with("stillpoint: broken: ") && stderr.contains("127.0.0.1:1"),
        "{stderr}"
    );
    assert_eq!(stdout.matches("4 snapshots.").count(), 2, "{stdout}");
    assert!(stdout.contains("Storage off, disabled: "), "{stdout}");
    assert!(stdout.contains("Storage far, only on other nodes: "), "{stdout}");

    let (code, _, stderr) = run(&node, &["snapshots", "--storage", "off"]);
    assert_eq!(code, Some(1), "it was asked for by name");
    assert!(stderr.contains("off: "), "{stderr}");
    let (code, _, stderr) = run(&node, &["snapshots", "--storage", "nosuch"]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("nosuch"), "{stderr}");
}

#[test]
fn a_hundred_thousand_snapshots_are_printed_as_they_come_in_little_memory() {
    let node = node(None);
    pbs(&node).edit(|state| state.add_datastore(DATASTORE).made_up = 100_000);
    let mut child =
        command(&node, &["snapshots", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    let mut lines = 0;
    let mut peak = 0;
    while stdout.read_line(&mut line).unwrap() > 0 {
        lines += 1;
        // The last ones are not printed yet: the pipe holds a few hundred at most.
        if lines == 99_000 {
            peak = peak_memory(child.id());
        }
        line.clear();
    }
    assert!(child.wait().unwrap().success());
    assert_eq!(lines, 100_000);
    println!("peak: {peak} KiB");
    assert!((1..=64 * 1024).contains(&peak), "{peak} KiB");
}

/// The peak memory of a process so far, in KiB.
fn peak_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let node = node(None);
    pbs(&node).edit(|state| state.add_datastore(DATASTORE).made_up = 5_000);
    let mut child = command(&node, &["snapshots"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 100];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
}

#[test]
fn a_list_that_breaks_off_is_an_error_after_what_was_read() {
    let node = node(None);
    fill(pbs(&node), "");
    pbs(&node).inject("/snapshots", Some(1), Fault::CutOff);
    let (code, stdout, stderr) = run(&node, &["snapshots"]);
    assert_eq!(code, Some(1), "{stdout}");
    assert!(stderr.contains("offsite: backup server not reachable"), "{stderr}");
    assert!(!stdout.contains("snapshots."), "{stdout}");

    pbs(&node).inject("/snapshots", Some(1), Fault::Refuse(200, "{\"data\":[\x1b[2J".into()));
    let (code, _, stderr) = run(&node, &["snapshots"]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("not understood"), "{stderr}");
    assert!(!stderr.trim_end().chars().any(char::is_control), "{stderr:?}");
}
