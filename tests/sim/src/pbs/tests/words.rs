//! Answers of a real server (4.2.3) in cases where a simulation could easily be more generous.

use super::*;
use crate::pbs::snapshot::MANIFEST;

fn manifest_of(time: i64) -> String {
    let which = format!("backup-type=ct&backup-id=100&backup-time={time}&file-name={MANIFEST}");
    format!("/admin/datastore/tank/download-decoded?{which}")
}

fn text(answer: &str) -> (&str, &str) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap(), body)
}

#[test]
fn a_snapshot_without_its_manifest_is_named_and_no_path_of_the_server() {
    let pbs = pbs();
    let gone = ("400", "manifest not found for snapshot 'ct/100/1970-01-01T03:25:45Z'");
    assert_eq!(text(&get(&pbs, &manifest_of(12_345))), gone);
    let lost = ("400", "manifest not found for snapshot 'ct/100/2026-11-21T23:14:34Z'");
    let damage =
        |how| pbs.edit(|state| state.add_datastore("tank").damage_file(&snapshot(), MANIFEST, how));
    assert!(damage(Some(Damage::Missing)));
    assert_eq!(text(&get(&pbs, &manifest_of(snapshot().time))), lost);
    let files = "/admin/datastore/tank/files?backup-type=ct&backup-id=100&backup-time=1795302874";
    assert_eq!(text(&get(&pbs, files)), lost);
    assert!(damage(Some(Damage::Altered)));
    let altered = get(&pbs, &manifest_of(snapshot().time));
    assert!(altered.contains("unable to load blob"), "{altered}");
}

#[test]
fn a_right_in_a_namespace_shows_that_namespace_and_none_above_it() {
    let pbs = pbs();
    pbs.edit(|state| {
        let namespaces = ["tenant".to_owned(), "tenant/a".to_owned(), "tenant/a/b".to_owned()];
        state.add_datastore("tank").namespaces.extend(namespaces);
        state.access.revoke_all();
        state.access.grant_both("/datastore/tank/tenant/a", TOKEN, "DatastoreBackup");
    });
    let seen = get(&pbs, "/admin/datastore/tank/namespace");
    assert_eq!(text(&seen), ("200", r#"{"data":[{"ns":"tenant/a"},{"ns":"tenant/a/b"}]}"#));
    pbs.edit(|state| state.access.revoke_all());
    let refused = get(&pbs, "/admin/datastore/tank/namespace");
    assert_eq!(text(&refused), ("403", "permission check failed"));
}

#[test]
fn a_running_backup_is_locked_under_its_escaped_name() {
    let pbs = pbs();
    for (ns, place) in [("", "tank"), ("a/b", "tank/a:b")] {
        let id = SnapshotId::new("tank", ns, "ct", "101", 1_795_302_874);
        pbs.add_snapshot(Backup::of(&id, TOKEN).unfinished());
        let upid = pbs.edit(|state| state.verify_as(TOKEN, &id));
        let tasks = pbs.tasks();
        let task = tasks.iter().find(|task| task["upid"] == upid.as_str()).unwrap();
        let lock = format!(
            r#"snapshot lock "/run/proxmox-backup/locks/{place}/ct-101-2026\\x2d11\\x2d21T23\\x3a14\\x3a34Z""#
        );
        assert!(task["log"][0].as_str().unwrap().ends_with(&lock), "{}", task["log"][0]);
    }
}

#[test]
fn only_what_can_be_a_users_name_is_logged_in() {
    let pbs = pbs();
    let log_in = |form: &str| send(&pbs, "POST /api2/json/access/ticket\n", form).unwrap();
    let shape =
        "parameter verification failed - 'username': value does not match the regex pattern";
    for token in ["backup%40pbs!node", "a%20b%40pbs", "a%3Ab%40pbs", "backup", "%40pbs"] {
        let refused = log_in(&format!("username={token}&password=secret"));
        assert_eq!(text(&refused), ("400", shape), "{token}");
    }
    assert_eq!(text(&log_in("username=backup%40pbs")), ("400", "no password provided"));
    let refused = log_in("username=backup%40pbs&password=secret");
    assert_eq!(text(&refused), ("401", "permission check failed."));
    assert!(refused.contains("content-type: application/json;charset=UTF-8\r\n"), "{refused}");
}

#[test]
fn a_list_of_tasks_without_a_limit_is_whole() {
    let pbs = pbs();
    let tasks = |query: &str| {
        let answer = get(&pbs, &format!("/nodes/vm/tasks{query}"));
        answer.matches("\"worker_type\":\"verify_snapshot\"").count()
    };
    for _ in 0..60 {
        verify(&pbs);
    }
    assert_eq!((tasks(""), tasks("?limit=0"), tasks("?start=10&limit=0")), (50, 60, 50));
}

#[test]
fn the_first_line_of_a_log_is_number_one() {
    let pbs = pbs();
    let upid = verify(&pbs);
    assert!(pbs.finish(&upid));
    let lines = |start: &str| {
        let upid = upid.replace('\\', "%5C");
        let answer = get(&pbs, &format!("/nodes/vm/tasks/{upid}/log?limit=2&{start}"));
        let json: Value = serde_json::from_str(text(&answer).1).unwrap();
        let lines = json["data"].as_array().unwrap();
        lines.iter().map(|line| line["n"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(
        (lines(""), lines("start=0"), lines("start=1")),
        (vec![1, 2], vec![1, 2], vec![1, 2])
    );
    assert_eq!((lines("start=2"), lines("start=99")), (vec![2, 3], vec![]));
}

#[test]
fn a_namespace_that_is_not_there_is_easily_taken_for_one() {
    let pbs = pbs();
    pbs.edit(|state| {
        state.access.grant_both("/datastore/tank", TOKEN, "DatastoreBackup");
        let namespaces = ["a".to_owned(), "a/b".to_owned(), "a/b/c".to_owned()];
        state.add_datastore("tank").namespaces.extend(namespaces);
    });
    let asked = |query: &str| {
        let answer = get(&pbs, &format!("/admin/datastore/tank/{query}"));
        let (status, body) = text(&answer);
        // A list comes in chunks.
        let body = body.split("\r\n").find(|line| line.starts_with('{')).unwrap_or(body);
        (status.to_owned(), body.to_owned())
    };
    let gone = ("400".to_owned(), "ENOENT: No such file or directory".to_owned());
    let listed = |body: &str| ("200".to_owned(), format!("{{\"data\":{body}}}"));
    assert_eq!(asked("snapshots?ns=nope"), gone);
    assert_eq!(asked("snapshots?ns=nope&backup-type=ct&backup-id=1"), listed("[]"));
    assert_eq!(asked("snapshots?ns=a&backup-type=host"), gone, "there, but without such a group");
    assert_eq!(asked("groups?ns=nope"), gone);
    assert_eq!(asked("groups?ns=a"), listed("[]"));
    assert_eq!(asked("namespace?parent=nope&max-depth=1"), listed(r#"[{"ns":"nope"}]"#));
    assert_eq!(asked("namespace?parent=a&max-depth=1"), listed(r#"[{"ns":"a"},{"ns":"a/b"}]"#));
    assert_eq!(asked("namespace?max-depth=1"), listed(r#"[{"ns":""},{"ns":"a"}]"#));
}
