use super::super::client::tests::{answering, answering_in_turn, deadline};
use super::super::recorded::{exchange, exchanges};
use super::*;
use crate::sys::http::testserver::answer;

#[test]
fn vzdumps_target_is_read_and_written_back() {
    for text in [
        "ct/9001/2026-11-21T23:22:56Z",
        "vm/100/2024-02-29T00:00:00Z",
        "host/pve-1.x_2/1999-12-31T23:59:59Z",
    ] {
        let snapshot: Snapshot = text.parse().unwrap();
        assert_eq!(snapshot.to_string(), text);
        assert_eq!(snapshot.namespace, None);
    }
    let snapshot: Snapshot = "ct/9001/2026-11-21T23:16:42Z".parse().unwrap();
    assert_eq!(snapshot.backup_type, BackupType::Ct);
    assert_eq!(snapshot.backup_id, "9001");
    assert_eq!(snapshot.backup_time, 1_795_303_002);
    let json = serde_json::to_string(&snapshot).unwrap();
    assert_eq!(serde_json::from_str::<Snapshot>(&json).unwrap(), snapshot);
}

#[test]
fn what_is_no_target_is_not_taken_for_one() {
    for wrong in [
        "",
        "-",
        "/var/lib/vz/dump/vzdump-lxc-9001-2026_11_21-23_15_01.tar.zst",
        "lxc/9001/2026-11-21T23:22:56Z",
        "ct//2026-11-21T23:22:56Z",
        "ct/../2026-11-21T23:22:56Z",
        "ct/90 01/2026-11-21T23:22:56Z",
        "ct/9001/2026-11-21T23:22:56Z/x",
        "ct/9001/2026-11-21T23:22:56",
        "ct/9001/2026-11-21T23:22:56+00:00",
        "ct/9001/2026-11-31T23:22:56Z",
        "ct/9001/2026-1-2T03:04:05Z",
        "ct/9001/1970-01-01T00:00:00Z",
        "ct/9001/1960-01-01T00:00:00Z",
        "ct/9001",
    ] {
        assert_eq!(wrong.parse::<Snapshot>(), Err(NoSnapshot), "{wrong}");
    }
}

#[test]
fn a_list_is_asked_for_as_the_real_server_was() {
    let recorded = exchange("03-snapshots.http", "3d filtered");
    let (server, pbs) = answering(recorded.answer());
    let entries = pbs.list(&asked(), deadline()).unwrap();
    let request = &server.requests()[0];
    assert!(request.starts_with(&format!("{} HTTP/1.1\r\n", recorded.call)), "{request}");

    let times: Vec<i64> = entries.iter().map(|entry| entry.snapshot.backup_time).collect();
    assert_eq!(times, [1_795_302_874, 1_795_302_875]);
    let first = &entries[0];
    assert_eq!(first.snapshot.to_string(), "ct/9001/2026-11-21T23:14:34Z");
    assert_eq!(first.size, Some(9_103_572));
    assert_eq!(first.owner.as_deref(), Some("felhom@pbs!n100"));
    assert!(first.fingerprint.as_ref().unwrap().starts_with("05:53:55:a0:"));
    assert_eq!(first.files.len(), 4);
    assert_eq!(first.files[3].crypt_mode.as_deref(), Some("sign-only"));
    assert!(first.is_finished() && first.is_encrypted() && !first.protected);
    assert_eq!((&first.comment, &first.verification), (&None, &None));
}

#[test]
fn the_namespace_is_that_of_the_snapshot() {
    let recorded = exchange("03-snapshots.http", "3b ns=n100");
    for (namespace, query, named) in [
        (Some("pve/n100"), "&ns=pve%2Fn100", Some("pve/n100")),
        (Some(""), "", None),
        (None, "", None),
    ] {
        let (server, mut pbs) = answering(recorded.answer());
        pbs.set_namespace(Some("another"));
        let of = asked().in_namespace(namespace.map(str::to_owned));
        let entries = pbs.list(&of, deadline()).unwrap();
        assert_eq!(entries[0].snapshot.namespace.as_deref(), named);
        let request = &server.requests()[0];
        let end = format!("?backup-type=ct&backup-id=9001{query} HTTP/1.1");
        assert_eq!(request.lines().next().unwrap().split_once("/snapshots").unwrap().1, end);
    }
}

#[test]
fn every_recorded_list_is_understood() {
    let names = [
        "02-acl.http",
        "03-snapshots.http",
        "04-verify.http",
        "04b-task-status.http",
        "05-corrupt.http",
        "06-verify-errors.http",
    ];
    let lists: Vec<String> = names
        .iter()
        .flat_map(|name| exchanges(name))
        .filter(|recorded| recorded.call.contains("/snapshots") && recorded.status == 200)
        .map(|recorded| recorded.answer())
        .collect();
    let count = lists.len();
    assert!(count > 20);
    let (server, pbs) = answering_in_turn(lists);
    let mut entries = Vec::new();
    for _ in 0..count {
        entries.extend(pbs.list(&asked(), deadline()).unwrap());
    }
    assert_eq!(server.connections(), 1);
    let state = |wanted: VerifyState| {
        entries.iter().any(|entry| {
            let verification = entry.verification.as_ref();
            verification.is_some_and(|verification| verification.state == wanted)
        })
    };
    assert!(state(VerifyState::Ok) && state(VerifyState::Failed));
    assert!(entries.iter().any(|entry| entry.comment.is_some()));
    assert!(entries.iter().any(|entry| !entry.is_finished()));
    for entry in &entries {
        assert_eq!(entry.is_encrypted(), entry.fingerprint.is_some(), "{entry:?}");
    }
}

/// A snapshot's manifest as the client and the server wrote it.
const MANIFEST_TEXT: &str = r#"{
  "backup-id": "9001",
  "backup-time": 1795302874,
  "backup-type": "ct",
  "files": [
    {"crypt-mode": "encrypt", "csum": "00", "filename": "root.pxar.didx", "size": 9101671},
    {"crypt-mode": "encrypt", "csum": "00", "filename": "pct.conf.blob", "size": 126}
  ],
  "signature": "00",
  "unprotected": {
    "chunk_upload_stats": {"count": 4},
    "key-fingerprint": "05:53:55:a0:46:61:81:d8",
    "notes": "a note",
    "verify_state": {
      "state": "failed",
      "upid": "UPID:vm:00005DF6:00029750:00000034:6B022759:verify_snapshot:felhom\\x2dspike\\x3a-ct-9003-6B022757:felhom@pbs!n100:"
    }
  }
}"#;

fn asked() -> Snapshot {
    "ct/9001/2026-11-21T23:14:34Z".parse().unwrap()
}

#[test]
fn the_state_of_one_snapshot_costs_one_request() {
    let (server, pbs) = answering(answer("200 OK", MANIFEST_TEXT));
    let snapshot = asked().in_namespace(Some("pve/n100".to_owned()));
    let state = pbs.state(&snapshot, deadline()).unwrap();
    let verification = state.verification.unwrap();
    assert_eq!(verification.state, VerifyState::Failed);
    assert_eq!(verification.upid.started(), 0x6B02_2759);
    assert_eq!(state.fingerprint.as_deref(), Some("05:53:55:a0:46:61:81:d8"));
    assert!(encrypted(&state.files));
    assert_eq!(server.requests().len(), 1);
    let line = "GET /api2/json/admin/datastore/felhom-spike/download-decoded?backup-type=ct&backup-id=9001\
                &backup-time=1795302874&ns=pve%2Fn100&file-name=index.json.blob HTTP/1.1";
    assert_eq!(server.requests()[0].lines().next(), Some(line));
}

#[test]
fn a_snapshot_that_was_never_verified_has_no_state() {
    let text = r#"{"backup-id":"9001","backup-time":1795302874,"backup-type":"ct","files":[],"unprotected":{}}"#;
    let without = text.replace(r#","unprotected":{}"#, "");
    for text in [text, &without] {
        let (_server, pbs) = answering(answer("200 OK", text));
        let state = pbs.state(&asked(), deadline()).unwrap();
        assert_eq!((state.verification, state.fingerprint), (None, None));
        assert!(!encrypted(&state.files));
    }
}

#[test]
fn the_state_of_another_snapshot_is_no_answer() {
    for (from, to) in [
        ("\"9001\"", "\"9002\""),
        ("1795302874", "1795302875"),
        ("\"ct\"", "\"vm\""),
        ("\"failed\"", "\"fine\""),
    ] {
        let text = MANIFEST_TEXT.replace(from, to);
        let (_server, pbs) = answering(answer("200 OK", &text));
        let result = pbs.state(&asked(), deadline());
        assert!(matches!(result, Err(Error::Invalid(_))), "{result:?}");
    }
}

#[test]
fn one_data_file_in_the_clear_is_not_encrypted() {
    let file = |name: &str, mode: Option<&str>| SnapshotFile {
        filename: name.to_owned(),
        crypt_mode: mode.map(str::to_owned),
        size: None,
    };
    let data = file("root.pxar.didx", Some("encrypt"));
    let manifest = file(MANIFEST, Some("sign-only"));
    let log = file("client.log.blob", None);
    assert!(encrypted(&[data.clone(), manifest.clone(), log.clone()]));
    for mode in [Some("none"), Some("sign-only"), None] {
        assert!(!encrypted(&[data.clone(), file("pct.conf.blob", mode)]));
    }
    assert!(!encrypted(&[manifest, log]));
    assert!(!encrypted(&[]));
}

#[test]
fn a_backup_that_is_being_written_is_not_finished() {
    let text = r#"{"data":[{"backup-type":"ct","backup-id":"9001","backup-time":1795302874,
        "files":[{"filename":"root.pxar.didx"}],"owner":"felhom@pbs!n100","protected":true}]}"#;
    let (_server, pbs) = answering(answer("200 OK", text));
    let entries = pbs.list(&asked(), deadline()).unwrap();
    let entry = &entries[0];
    assert!(!entry.is_finished() && !entry.is_encrypted() && entry.protected);
    assert_eq!(entry.size, None);
}
