use super::super::client::tests::{answering, answering_in_turn, deadline};
use super::super::recorded::{Exchange, exchange, exchanges};
use super::*;
use crate::sys::http::testserver::answer;

const TEXT: &str = r"UPID:vm:00005DF6:00029750:00000004:6B02265A:verify_snapshot:felhom\x2dspike\x3a-ct-9001-6B0225DA:felhom@pbs!n100:";

fn upid() -> Upid {
    TEXT.parse().unwrap()
}

#[test]
fn a_upid_is_read_and_written_verbatim() {
    let upid = upid();
    assert_eq!(upid.node(), "vm");
    // The recording was made at 2026-11-21T23:16:42Z.
    assert_eq!(upid.started(), 1_795_303_002);
    assert_eq!(upid.to_string(), TEXT);
    let json = serde_json::to_string(&upid).unwrap();
    assert_eq!(serde_json::from_str::<Upid>(&json).unwrap(), upid);
}

#[test]
fn a_task_names_the_datastore_that_it_was_about() {
    assert_eq!(upid().datastore(), Some("felhom-spike"));
    let of = |id: &str| {
        let text = TEXT.replace(r"felhom\x2dspike\x3a-ct-9001-6B0225DA", id);
        text.parse::<Upid>().unwrap().datastore().map(str::to_owned)
    };
    assert_eq!(of(r"office\x3arecv").as_deref(), Some("office"));
    assert_eq!(of("cellar").as_deref(), Some("cellar"));
    assert_eq!(of(r"a.b_c\x3ans-pve-ct-1").as_deref(), Some("a.b_c"));
    assert_eq!(of(r"\x"), Some(r"\x".to_owned()));
    assert_eq!(of(""), None);
}

#[test]
fn what_is_no_upid_is_not_taken_for_one() {
    for wrong in [
        "",
        "UPID:garbage",
        &TEXT[1..],
        TEXT.trim_end_matches(':'),
        &format!("{TEXT}x"),
        &TEXT.replace("6B02265A", "6B02265"),
        &TEXT.replace("6B02265A", "6B02265Z"),
        &TEXT.replace("6B02265A", "+B02265A"),
        &TEXT.replace(":vm:", "::"),
        &TEXT.replace(":vm:", ":v\x1bm:"),
    ] {
        assert_eq!(wrong.parse::<Upid>(), Err(NoUpid), "{wrong}");
        assert!(serde_json::from_value::<Upid>(wrong.into()).is_err());
    }
}

#[test]
fn a_verify_is_started_as_the_real_server_was_asked() {
    let recorded = exchange("04-verify.http", "4b form, ignore-verified=0");
    let (server, pbs) = answering(recorded.answer());
    let snapshot: Snapshot = "ct/9001/2026-11-21T23:14:34Z".parse().unwrap();
    let upid = pbs.start_verify(&snapshot, deadline()).unwrap();
    assert!(recorded.body.contains(&upid.to_string().replace('\\', r"\\")));
    let request = &server.requests()[0];
    assert!(request.starts_with(&format!("{} HTTP/1.1\r\n", recorded.call)), "{request}");
    assert!(request.contains("\r\ncontent-type: application/x-www-form-urlencoded\r\n"));
    assert!(request.ends_with(&format!("\r\n\r\n{}", recorded.form)), "{request}");
}

#[test]
fn a_verify_names_its_namespace_and_nothing_else() {
    let recorded = exchange("04-verify.http", "4l in ns n100");
    let (server, pbs) = answering(recorded.answer());
    let snapshot: Snapshot = "ct/9001/2026-11-21T23:14:36Z".parse().unwrap();
    let nested = snapshot.clone().in_namespace(Some("pve/n100".to_owned()));
    pbs.start_verify(&nested, deadline()).unwrap();
    let root = snapshot.in_namespace(Some(String::new()));
    pbs.start_verify(&root, deadline()).unwrap();
    let body = "\r\n\r\nbackup-type=ct&backup-id=9001&backup-time=1795302876";
    let expected =
        [format!("{body}&ns=pve%2Fn100&ignore-verified=0"), format!("{body}&ignore-verified=0")];
    for (request, expected) in server.requests().iter().zip(expected) {
        assert!(request.ends_with(&expected), "{request}");
    }
}

#[test]
fn a_verify_without_all_three_fields_is_never_sent() {
    let (server, pbs) = answering(answer("200 OK", "{}"));
    let whole: Snapshot = "ct/9001/2026-11-21T23:14:34Z".parse().unwrap();
    let no_id = Snapshot { backup_id: String::new(), ..whole.clone() };
    let no_time = Snapshot { backup_time: 0, ..whole };
    for snapshot in [no_id, no_time] {
        let result = pbs.start_verify(&snapshot, deadline());
        assert!(matches!(result, Err(Error::Misconfigured(_))), "{result:?}");
    }
    assert_eq!(server.requests().len(), 0);
}

#[test]
fn a_task_is_asked_for_on_its_own_node() {
    let text = answer("200 OK", r#"{"data":{"status":"running"}}"#);
    let (server, pbs) = answering(text);
    pbs.status(&upid(), deadline()).unwrap();
    let dotted = TEXT.replace(":vm:", ":pbs.example.org:").parse().unwrap();
    pbs.status(&dotted, deadline()).unwrap();
    let requests = server.requests();
    let recorded =
        exchanges("04-verify.http").into_iter().find(|exchange| exchange.title == "poll").unwrap();
    assert!(requests[0].starts_with(&format!("{} HTTP", recorded.call)), "{}", requests[0]);
    assert!(
        requests[1].starts_with("GET /api2/json/nodes/localhost/tasks/UPID%3Apbs.example.org%3A")
    );
}

#[test]
fn every_recorded_task_status_is_understood() {
    let recorded: Vec<_> = ["04-verify.http", "04b-task-status.http", "05-corrupt.http"]
        .iter()
        .flat_map(|name| exchanges(name))
        .filter(|recorded| recorded.call.contains("/status") && recorded.status == 200)
        .collect();
    let (_server, pbs) = answering_in_turn(recorded.iter().map(Exchange::answer).collect());
    let mut seen = Vec::new();
    for text in recorded.iter().map(|recorded| &recorded.body) {
        let status = pbs.status(&upid(), deadline()).unwrap();
        match &status {
            TaskStatus::Running => assert!(text.contains(r#""status":"running""#), "{text}"),
            TaskStatus::Stopped(ending) => {
                assert!(text.contains(r#""status":"stopped""#), "{text}");
                assert!(text.contains(&format!(r#""exitstatus":"{ending}""#)), "{text}");
            }
        }
        seen.push(status);
    }
    assert!(seen.contains(&TaskStatus::Running));
    for text in ["OK", "unknown", "verification failed - please check the log for details"] {
        assert!(seen.contains(&TaskStatus::Stopped(text.to_owned().into())), "{text}");
    }
}

#[test]
fn a_status_that_is_not_known_is_neither_running_nor_stopped() {
    let (_server, pbs) = answering(answer("200 OK", r#"{"data":{"status":"paused"}}"#));
    assert!(matches!(pbs.status(&upid(), deadline()), Err(Error::Invalid(_))));
    let (_server, pbs) = answering(answer("200 OK", r#"{"data":{"status":"stopped"}}"#));
    assert_eq!(pbs.status(&upid(), deadline()).unwrap(), TaskStatus::Stopped(Ending::Unknown));
}

#[test]
fn a_log_tells_when_nothing_was_verified() {
    let mut outcomes = Vec::new();
    for recorded in exchanges("04-verify.http") {
        if recorded.title != "task log" {
            continue;
        }
        let (server, pbs) = answering(recorded.answer());
        let log = pbs.telling_log(&upid(), deadline()).unwrap();
        assert!(server.requests()[0].contains("/log?start=1&limit=1000 HTTP"));
        let is_skipped = recorded.body.contains("SKIPPED");
        assert_eq!(log.len(), recorded.body.matches("SKIPPED").count(), "{log:?}");
        outcomes.push(is_skipped);
    }
    assert!(outcomes.contains(&true) && outcomes.contains(&false));
}
