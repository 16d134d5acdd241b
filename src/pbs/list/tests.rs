use super::super::NotNow;
use super::super::client::tests::{answering, answering_in_turn, deadline};
use super::*;
use crate::sys::http::testserver::{TestServer, answer};

fn entry(time: i64) -> String {
    format!(
        r#"{{"backup-type":"ct","backup-id":"9001","backup-time":{time},"files":[],"owner":"a@pbs","protected":false}}"#
    )
}

/// A chunked answer with the one chunk `body`, followed by `end`.
fn chunked(body: &str, connection: &str, end: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: {connection}\r\n\r\n{length:x}\r\n{body}\r\n{end}"
    )
}

/// The times of the snapshots and the errors that were passed on, and the result of reading.
fn read(pbs: &Pbs) -> (Vec<i64>, Vec<String>, Result<usize, Error>) {
    let (mut times, mut odd) = (Vec::new(), Vec::new());
    let result = pbs.each_snapshot(Choice::default(), deadline(), &mut |entry| {
        match entry {
            Ok(entry) => times.push(entry.snapshot.backup_time),
            Err(reason) => odd.push(reason),
        }
        ControlFlow::Continue(())
    });
    (times, odd, result)
}

fn answered(text: String) -> (Vec<i64>, Vec<String>, Result<usize, Error>) {
    let (_server, pbs): (TestServer, Pbs) = answering(text);
    read(&pbs)
}

#[test]
fn a_list_is_handed_over_in_the_order_of_the_server() {
    let body = format!(r#"{{"total":2,"data":[{},{}],"x":[1]}}"#, entry(7), entry(5));
    let (times, odd, result) = answered(chunked(&body, "keep-alive", "0\r\n\r\n"));
    assert_eq!((times, odd.len(), result.unwrap()), (vec![7, 5], 0, 2));
    let (times, _, result) = answered(answer("200 OK", r#"{"data":[]}"#));
    assert_eq!((times.len(), result.unwrap()), (0, 0));
}

#[test]
fn a_question_names_only_what_is_asked_for() {
    for (choice, query) in [
        (Choice::default(), ""),
        (Choice { backup_id: Some("9001"), ..Choice::default() }, "?backup-id=9001"),
        (
            Choice { backup_type: Some(BackupType::Vm), backup_id: Some("1") },
            "?backup-type=vm&backup-id=1",
        ),
    ] {
        for (namespace, more) in [("", ""), ("pve", "ns=pve")] {
            let (server, mut pbs) = answering(answer("200 OK", r#"{"data":[]}"#));
            pbs.set_namespace(Some(namespace));
            pbs.each_snapshot(choice, deadline(), &mut |_| ControlFlow::Continue(())).unwrap();
            let mark = match (query, more) {
                (_, "") => "",
                ("", _) => "?",
                _ => "&",
            };
            let line = format!(
                "GET /api2/json/admin/datastore/felhom-spike/snapshots{query}{mark}{more} HTTP/1.1\r\n"
            );
            assert!(server.requests()[0].starts_with(&line), "{}", server.requests()[0]);
        }
    }
}

#[test]
fn what_came_before_the_connection_broke_stands_and_is_counted() {
    let part = format!(r#"{{"data":[{},{},{{"backup-"#, entry(1), entry(2));
    for connection in ["cut", "close"] {
        let (times, _, result) = answered(chunked(&part, connection, ""));
        assert_eq!(times, [1, 2]);
        let error = result.unwrap_err();
        assert!(matches!(error, Error::Unreachable { unsent: false, .. }), "{error}");
        assert!(error.to_string().contains("after 2 snapshots were read"), "{error}");
    }
}

#[test]
fn a_list_without_its_end_is_not_whole() {
    let whole = format!(r#"{{"data":[{}]}}"#, entry(1));
    let (times, _, result) = answered(chunked(&whole, "cut", ""));
    assert_eq!(times, [1]);
    assert!(matches!(result, Err(Error::Unreachable { .. })), "{result:?}");
}

#[test]
fn garbage_is_an_error_that_tells_how_far_it_came() {
    for (body, count) in [
        (format!(r#"{{"data":[{},}}"#, entry(1)), 1),
        (format!(r#"{{"data":[{}]}} and more"#, entry(1)), 1),
        (format!(r#"{{"data":[{}{}]}}"#, entry(1), entry(2)), 1),
        (format!(r#"[{}]"#, entry(1)), 0),
        (r#"{"other":[]}"#.to_owned(), 0),
        (r#"{"data":{}}"#.to_owned(), 0),
        (String::new(), 0),
        ("<html>\x1b[2J".to_owned(), 0),
        (format!(r#"{{"data":[{}"#, "[".repeat(300_000)), 0),
    ] {
        let (times, _, result) = answered(answer("200 OK", &body));
        assert_eq!(times.len(), count);
        let error = result.unwrap_err();
        assert!(matches!(error, Error::Invalid(_)), "{error}");
        let text = error.to_string();
        assert_eq!(text.contains("after 1 snapshot was read"), count == 1, "{text}");
        assert!(!text.chars().any(char::is_control), "{text}");
    }
}

#[test]
fn an_entry_that_is_not_understood_is_no_end_of_the_list() {
    let odd = entry(2).replace("ct", "tape");
    let body = format!(r#"{{"data":[{},{odd},7,{}]}}"#, entry(1), entry(3));
    let (server, pbs) = answering(answer("200 OK", &body));
    let (times, odd, result) = read(&pbs);
    assert_eq!((times, result.unwrap()), (vec![1, 3], 4));
    assert!(odd[0].contains("tape"), "{odd:?}");
    assert_eq!(odd.len(), 2);
    // For a question about one guest, a partly valid answer is an error.
    let snapshot: Snapshot = "ct/9001/2026-11-21T23:14:34Z".parse().unwrap();
    assert!(matches!(pbs.list(&snapshot, deadline()), Err(Error::Invalid(_))));
    drop(server);
}

#[test]
fn no_entry_is_longer_than_it_may_be() {
    let long = "x".repeat(ENTRY);
    for body in [
        format!(r#"{{"data":[{},"{long}"]}}"#, entry(1)),
        format!(r#"{{"data":[{}],"more":"{long}"}}"#, entry(1)),
        format!(r#"{{"data":[{}]}}{}"#, entry(1), " ".repeat(ENTRY + 1)),
    ] {
        let (times, _, result) = answered(answer("200 OK", &body));
        assert_eq!(times, [1]);
        let text = result.unwrap_err().to_string();
        assert!(text.contains("more than 1048576 bytes"), "{text}");
    }
    let many: Vec<String> = (1..=20_000).map(entry).collect();
    let (times, _, result) =
        answered(answer("200 OK", &format!(r#"{{"data":[{}]}}"#, many.join(","))));
    assert_eq!((times.len(), result.unwrap()), (20_000, 20_000), "each has its own allowance");
}

#[test]
fn who_has_had_enough_gets_no_more() {
    let body = format!(r#"{{"data":[{},{}]}}"#, entry(1), entry(2));
    let (_server, pbs) = answering(answer("200 OK", &body));
    let mut seen = 0;
    let read = pbs.each_snapshot(Choice::default(), deadline(), &mut |_| {
        seen += 1;
        ControlFlow::Break(())
    });
    assert_eq!((seen, read.unwrap()), (1, 1));
}

#[test]
fn only_what_the_server_does_not_have_is_gone() {
    let snapshot: Snapshot = "ct/9001/2026-11-21T23:14:34Z".parse().unwrap();
    let list = |times: &[i64]| {
        let entries: Vec<String> = times.iter().copied().map(entry).collect();
        answer("200 OK", &format!(r#"{{"data":[{}]}}"#, entries.join(",")))
    };
    let bad = |reason: &str| answer("400 Bad Request", reason);
    let (manifest, entry) =
        ("manifest not found for snapshot", "ENOENT: No such file or directory");
    let owner = "unable to read \"/ds/ct/9001/owner\" - No such file or directory (os error 2)";
    let damaged =
        "unable to load blob '\"/ds/index.json.blob\"' - Data blob has wrong CRC checksum.";
    let status = || answer("200 OK", r#"{"data":{"avail":1,"total":2}}"#);
    let denied = || answer("403 Forbidden", "permission check failed");
    for (answers, gone) in [
        (vec![bad(manifest), bad(entry), status()], true),
        (vec![bad(manifest), bad(entry), denied()], true),
        (vec![bad(manifest), bad(entry), bad(entry)], false),
        (vec![bad(manifest), bad(manifest)], false),
        (vec![bad(manifest), list(&[])], false),
        (vec![bad(damaged)], false),
        // If one small answer does not show it, the list does.
        (vec![bad(owner), bad(owner), list(&[]), status()], true),
        (vec![bad(owner), bad(owner), list(&[1]), status()], true),
        (vec![bad(owner), bad(owner), list(&[1, snapshot.backup_time])], false),
        (vec![bad(owner), bad(owner), denied()], false),
        (vec![bad(owner), bad(owner), answer("200 OK", r#"{"data":[7]}"#)], false),
        (vec![denied()], false),
        (vec![bad("backup owner check failed (a != b)")], false),
        (vec![bad("datastore 'a' is not mounted")], false),
        (vec![answer("503 Unavailable", "later")], false),
    ] {
        let (server, pbs) = answering_in_turn(answers.clone());
        let error = pbs.state(&snapshot, deadline()).unwrap_err();
        assert_eq!(matches!(error, Error::Gone), gone, "{error}");
        assert_eq!(server.requests().len(), answers.len(), "{error}");
        let (_server, pbs) = answering_in_turn(answers);
        let error = pbs.start_verify(&snapshot, deadline()).unwrap_err();
        assert_eq!(matches!(error, Error::Gone), gone, "{error}");
    }
}

#[test]
fn a_datastore_without_its_directory_has_lost_no_snapshot() {
    let snapshot: Snapshot = "ct/9001/2026-11-21T23:14:34Z".parse().unwrap();
    let bad = |reason: &str| answer("400 Bad Request", reason);
    let entry = "ENOENT: No such file or directory";
    for status in [entry, "unable to open chunk store at \"/ds/.chunks\" - No such file"] {
        let answers = vec![bad("manifest not found for snapshot"), bad(entry), bad(status)];
        let (_server, pbs) = answering_in_turn(answers);
        let error = pbs.state(&snapshot, deadline()).unwrap_err();
        assert_eq!(error.not_now(), Some(NotNow::NoDirectory), "{error}");
    }
}
