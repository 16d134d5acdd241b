//! Cases without a recording: logins with a password, faults, TLS, and concurrent verifies.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use serde_json::Value;

use super::*;

mod handshake;
mod words;

const TOKEN: &str = "backup@pbs!node";
const AUTH: &str = "Authorization: PBSAPIToken=backup@pbs!node:secret\r\n";

fn snapshot() -> SnapshotId {
    SnapshotId::new("tank", "", "ct", "100", 1_795_302_874)
}

fn pbs() -> SimPbs {
    let pbs = SimPbs::start(Config {
        unauthorized_delay: Duration::from_millis(20),
        verify_time: Duration::from_secs(600),
        ..Config::default()
    })
    .unwrap();
    pbs.edit(|state| {
        state.access.add_user("backup@pbs", "password");
        state.access.add_token(TOKEN, "secret");
        state.access.grant_both("/datastore/tank", TOKEN, "DatastoreBackup");
    });
    pbs.add_snapshot(Backup::of(&snapshot(), TOKEN));
    pbs
}

fn client(identity: &Identity) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(identity.certificate().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

fn talk(port: u16, config: ClientConfig, request: &str) -> io::Result<Vec<u8>> {
    let tcp = TcpStream::connect(("127.0.0.1", port))?;
    tcp.set_read_timeout(Some(Duration::from_millis(1500)))?;
    let name = ServerName::try_from("localhost").unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = rustls::StreamOwned::new(connection, tcp);
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

fn send(pbs: &SimPbs, head: &str, body: &str) -> io::Result<String> {
    let (line, headers) = head.split_once('\n').unwrap_or((head, AUTH));
    let length = body.len();
    let request = format!(
        "{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
    );
    let answer = talk(pbs.port(), client(&pbs.identity()), &request)?;
    Ok(String::from_utf8(answer).unwrap())
}

fn get(pbs: &SimPbs, path: &str) -> String {
    send(pbs, &format!("GET /api2/json{path}"), "").unwrap()
}

fn verify(pbs: &SimPbs) -> String {
    let form = "backup-type=ct&backup-id=100&backup-time=1795302874&ignore-verified=0";
    let answer = send(pbs, "POST /api2/json/admin/datastore/tank/verify", form).unwrap();
    let json = answer.split("\r\n\r\n").nth(1).unwrap();
    let json: Value = serde_json::from_str(json).unwrap();
    json["data"].as_str().unwrap().to_owned()
}

fn verification(pbs: &SimPbs) -> Option<(String, &'static str)> {
    pbs.edit(|state| {
        let (_, found) = state.datastores["tank"].snapshot(&snapshot()).unwrap();
        let last = found.verification.as_ref();
        last.map(|last| (last.upid.clone(), last.state))
    })
}

#[test]
fn a_password_buys_a_ticket_that_needs_its_csrf_token_for_changes() {
    let pbs = pbs();
    pbs.edit(|state| {
        state.access.add_user("root@pam", "toor");
    });
    let wrong = "username=root%40pam&password=nope";
    let refused = send(&pbs, "POST /api2/json/access/ticket\n", wrong).unwrap();
    assert!(refused.starts_with("HTTP/1.1 401"));
    let right = "username=root%40pam&password=toor";
    let granted = send(&pbs, "POST /api2/json/access/ticket\n", right).unwrap();
    let json: Value = serde_json::from_str(granted.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    let ticket = json["data"]["ticket"].as_str().unwrap().replace(':', "%3A");
    let csrf = json["data"]["CSRFPreventionToken"].as_str().unwrap();
    let cookie = format!("Cookie: PBSAuthCookie={ticket}\r\n");
    let version = send(&pbs, &format!("GET /api2/json/version\n{cookie}"), "").unwrap();
    assert!(version.starts_with("HTTP/1.1 200"));
    let path = "POST /api2/json/admin/datastore/tank/verify";
    let form = "backup-type=ct&backup-id=100&backup-time=1795302874";
    let without = send(&pbs, &format!("{path}\n{cookie}"), form).unwrap();
    assert!(without.starts_with("HTTP/1.1 401"));
    let headers = format!("{cookie}CSRFPreventionToken: {csrf}\r\n");
    let with = send(&pbs, &format!("{path}\n{headers}"), form).unwrap();
    assert!(with.starts_with("HTTP/1.1 200"), "{with}");
    assert!(with.contains(":root@pam:"));
}

#[test]
fn the_manifest_shows_the_verify_state() {
    let pbs = pbs();
    let upid = verify(&pbs);
    let path = "/admin/datastore/tank/download-decoded?backup-type=ct&backup-id=100\
                &backup-time=1795302874&file-name=index.json.blob";
    assert!(!get(&pbs, path).contains("verify_state"));
    assert!(pbs.finish(&upid));
    let answer = get(&pbs, path);
    assert!(answer.contains("content-type: application/octet-stream"));
    assert!(answer.contains("\"state\": \"ok\""));
    assert!(answer.contains(&upid.replace('\\', "\\\\")));
}

#[test]
fn the_last_of_two_verifies_wins_the_field() {
    let pbs = pbs();
    let ours = verify(&pbs);
    let other = pbs.edit(|state| state.verify_as("root@pam", &snapshot()));
    assert!(pbs.finish(&ours));
    assert_eq!(verification(&pbs), Some((ours, "ok")));
    assert!(pbs.finish(&other));
    assert_eq!(verification(&pbs), Some((other, "ok")));
}

#[test]
fn a_verify_finds_the_corrupt_chunk() {
    let pbs = pbs();
    assert!(pbs.corrupt(&snapshot()).is_some());
    let upid = verify(&pbs);
    assert!(pbs.finish(&upid));
    assert_eq!(verification(&pbs), Some((upid, "failed")));
    let exitstatus = pbs.tasks()[0]["exitstatus"].clone();
    assert_eq!(exitstatus, "verification failed - please check the log for details");
}

#[test]
fn a_restart_leaves_the_field_and_a_task_without_a_result() {
    for (how, exitstatus) in [
        (Restart::Killed, "unknown"),
        (Restart::Reloaded, "Server shutdown requested - aborting task"),
    ] {
        let pbs = pbs();
        let before = verify(&pbs);
        assert!(pbs.finish(&before));
        let upid = verify(&pbs);
        pbs.restart(how);
        let path = upid.replace('\\', "%5C");
        let status = get(&pbs, &format!("/nodes/vm/tasks/{path}/status"));
        assert!(status.contains(&format!("\"exitstatus\":\"{exitstatus}\"")), "{status}");
        assert_eq!(verification(&pbs), Some((before, "ok")));
        assert_ne!(verify(&pbs).split(':').nth(2), upid.split(':').nth(2));
    }
}

#[test]
fn a_backup_that_still_runs_is_skipped_and_its_end_starts_a_verify_where_set() {
    let pbs = pbs();
    pbs.edit(|state| state.add_datastore("tank").verify_new = true);
    pbs.add_snapshot(Backup::of(&snapshot(), TOKEN).unfinished());
    let list = get(&pbs, "/admin/datastore/tank/snapshots");
    assert!(!list.contains("\"size\"") && !list.contains("index.json.blob"), "{list}");
    verify(&pbs);
    let task = &pbs.tasks()[0];
    assert_eq!(task["exitstatus"], "OK");
    assert!(task["log"][0].as_str().unwrap().starts_with("SKIPPED: verify tank:ct/100/"));
    pbs.add_snapshot(Backup::of(&snapshot(), TOKEN));
    let task = &pbs.tasks()[1];
    assert_eq!(task["type"], "verify");
    assert_eq!(task["status"], "running");
    assert_eq!(task["user"], TOKEN);
}

#[test]
fn maintenance_stops_what_it_says() {
    let pbs = pbs();
    let maintain = |how| pbs.edit(|state| state.add_datastore("tank").maintenance = Some(how));
    maintain(Maintenance::ReadOnly("disks".to_owned()));
    assert!(!verify(&pbs).is_empty());
    maintain(Maintenance::Offline("disks".to_owned()));
    let refused = get(&pbs, "/admin/datastore/tank/snapshots");
    assert!(refused.starts_with("HTTP/1.1 400"));
    let text = "datastore 'tank' is unavailable: offline maintenance mode: disks";
    assert!(refused.ends_with(text));
}

#[test]
fn faults_meet_the_requests_they_are_meant_for() {
    let pbs = pbs();
    let list = "/admin/datastore/tank/snapshots";
    pbs.inject("/snapshots", Some(1), Fault::NoAnswer);
    assert!(send(&pbs, &format!("GET /api2/json{list}"), "").is_err());
    pbs.inject("/snapshots", Some(1), Fault::CutOff);
    assert!(send(&pbs, &format!("GET /api2/json{list}"), "").is_err());
    pbs.inject("/version", Some(1), Fault::CutOff);
    assert!(send(&pbs, "GET /api2/json/version", "").is_err());
    pbs.inject("GET", Some(1), Fault::Refuse(403, "permission check failed".to_owned()));
    assert!(get(&pbs, list).starts_with("HTTP/1.1 403"));
    pbs.inject("GET", Some(1), Fault::Unauthorized);
    assert!(get(&pbs, list).ends_with("authentication failed"));
    pbs.inject("GET", Some(1), Fault::Delay(Duration::from_millis(200)));
    let started = Instant::now();
    assert!(get(&pbs, list).starts_with("HTTP/1.1 200"));
    assert!(started.elapsed() >= Duration::from_millis(200));
    pbs.inject("GET", Some(1), Fault::Trickle(20, Duration::from_millis(5)));
    assert!(get(&pbs, list).contains("\"backup-id\":\"100\""));
    assert_eq!(pbs.requests().len(), 7);
}

#[test]
fn a_server_that_is_down_refuses_and_comes_back_on_its_port() {
    let pbs = pbs();
    pbs.go_down();
    let refused = TcpStream::connect(("127.0.0.1", pbs.port())).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    pbs.come_up().unwrap();
    assert!(get(&pbs, "/version").contains("\"version\":\"4.2\""));
}

#[test]
fn a_hung_server_accepts_and_says_nothing() {
    let pbs = pbs();
    pbs.hang_handshakes(true);
    let error = send(&pbs, "GET /api2/json/version", "").unwrap_err();
    assert!(matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut));
    pbs.heal();
    assert!(get(&pbs, "/version").starts_with("HTTP/1.1 200"));
}

#[test]
fn a_hundred_thousand_snapshots_are_listed() {
    let pbs = pbs();
    pbs.edit(|state| state.add_datastore("tank").made_up = 100_000);
    let list = get(&pbs, "/admin/datastore/tank/snapshots");
    assert_eq!(list.matches("\"backup-time\"").count(), 100_001);
}
