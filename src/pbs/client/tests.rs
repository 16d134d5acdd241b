use std::fs;
use std::sync::Mutex;
use std::time::Duration;

use super::super::recorded::exchange;
use super::*;
use crate::pbs::tls::Fingerprint;
use crate::sys::http::testserver::{Identity, TestServer, answer};

pub fn deadline() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// A client of a test server, as the user `username` with the secret `s3cret`.
pub fn client_as(username: &str, identity: &Identity, server: &TestServer) -> Pbs {
    let target = Target {
        server: "127.0.0.1".to_owned(),
        port: server.port,
        datastore: "felhom-spike".to_owned(),
        namespace: None,
        username: username.to_owned(),
        fingerprint: None,
        encryption_key: false,
    };
    let config = tls::pinned(Fingerprint::of(&identity.certificate)).unwrap();
    Pbs::new(target, &"s3cret".to_owned().into(), config)
}

/// A server that always gives the same answer, and a client with a token.
pub fn answering(text: impl Into<String>) -> (TestServer, Pbs) {
    let text = text.into();
    let identity = Identity::self_signed();
    let server = TestServer::start(&identity, move |_| text.clone());
    let pbs = client_as("felhom@pbs!n100", &identity, &server);
    (server, pbs)
}

impl Pbs {
    pub fn set_namespace(&mut self, namespace: Option<&str>) {
        self.target.namespace = namespace.map(str::to_owned);
    }
}

/// A server that gives these answers in turn, and a client with a token.
pub fn answering_in_turn(answers: Vec<String>) -> (TestServer, Pbs) {
    let identity = Identity::self_signed();
    let answers = Mutex::new(answers.into_iter());
    let server = TestServer::start(&identity, move |_| answers.lock().unwrap().next().unwrap());
    let pbs = client_as("felhom@pbs!n100", &identity, &server);
    (server, pbs)
}

fn version(pbs: &Pbs) -> Result<serde_json::Value, Error> {
    pbs.get("/api2/json/version", &[], small(deadline()))
}

#[test]
fn a_token_is_sent_as_the_server_wants_it() {
    let recorded = exchange("01-version-auth.http", "1a version, good token (sep \":\")");
    let (server, pbs) = answering(recorded.answer());
    assert_eq!(version(&pbs).unwrap()["version"], "4.2");
    let request = &server.requests()[0];
    assert!(request.starts_with("GET /api2/json/version HTTP/1.1\r\n"));
    let header = "\r\nauthorization: PBSAPIToken=felhom@pbs!n100:s3cret\r\n";
    assert!(request.contains(header), "{request}");
    for unwanted in ["content-type", "accept-encoding", "cookie"] {
        assert!(!request.to_lowercase().contains(unwanted), "{request}");
    }
}

#[test]
fn what_is_denied_and_what_is_refused_are_told_apart() {
    let owner = "DatastoreBackup: files of other owner";
    let sister = "sibling token reads the task of n100";
    let cases = [
        ("01-version-auth.http", "1c wrong secret", true, 401),
        ("02-acl.http", "no ACL at all | snapshots (root ns)", true, 403),
        ("06-verify-errors.http", owner, true, 400),
        ("06-verify-errors.http", sister, true, 400),
        ("01-version-auth.http", "1l unknown path, good token", false, 404),
        ("03-snapshots.http", "3h bad backup-type", false, 400),
    ];
    for (name, title, denied, status) in cases {
        let recorded = exchange(name, title);
        let (server, pbs) = answering(recorded.answer());
        let got = match version(&pbs).unwrap_err() {
            Error::Denied { status, reason } => (true, status, reason),
            Error::Refused { status, reason } => (false, status, reason),
            other => panic!("{title}: {other}"),
        };
        assert_eq!(got, (denied, status, recorded.body), "{title}");
        assert_eq!(server.requests().len(), 1, "a refusal is not asked for again");
    }
}

#[test]
fn what_a_server_writes_cannot_reach_the_terminal() {
    let nasty = format!("\x1b[2Jgone\u{9b}\u{202e}\n{}", "x".repeat(9999));
    let (_server, pbs) = answering(answer("500 Oh", &nasty));
    let text = version(&pbs).unwrap_err().to_string();
    assert!(text.contains("gone"), "{text}");
    assert!(text.chars().count() < 400, "{text}");
    assert!(!text.chars().any(char::is_control), "{text}");
    assert!(!text.contains('\u{202e}'), "{text}");
}

#[test]
fn an_answer_that_is_none_is_no_success() {
    for body in ["", "{}", "<html>", "{\"data\":", "[1]"] {
        let (_server, pbs) = answering(answer("200 OK", body));
        assert!(matches!(version(&pbs), Err(Error::Invalid(_))), "{body}");
    }
    let (_server, pbs) = answering(answer("200 OK", &" ".repeat(SMALL + 1)));
    assert!(matches!(version(&pbs), Err(Error::Invalid(_))));
}

/// A server with passwords: tickets are numbered, and `valid` says which are accepted.
fn with_passwords(valid: impl Fn(usize) -> bool + Send + Sync + 'static) -> (TestServer, Pbs) {
    let identity = Identity::self_signed();
    let issued = Mutex::new(0);
    let server = TestServer::start(&identity, move |request| {
        let mut issued = issued.lock().unwrap();
        if request.starts_with("POST /api2/json/access/ticket ") {
            *issued += 1;
            let ticket = format!("PBS:root@pam:{issued}::a+/=");
            return answer(
                "200 OK",
                &format!(
                    r#"{{"data":{{"CSRFPreventionToken":"CSRF{issued}","ticket":"{ticket}","username":"root@pam"}}}}"#
                ),
            );
        }
        let cookie =
            format!("\r\ncookie: PBSAuthCookie=PBS%3Aroot%40pam%3A{issued}%3A%3Aa%2B%2F%3D\r\n");
        if request.contains(&cookie) && valid(*issued) {
            answer("200 OK", r#"{"data":1}"#)
        } else {
            answer("401 Unauthorized", "authentication failed")
        }
    });
    let pbs = client_as("root@pam", &identity, &server);
    (server, pbs)
}

#[test]
fn a_password_is_sent_once_and_its_ticket_from_then_on() {
    let (server, pbs) = with_passwords(|_| true);
    version(&pbs).unwrap();
    let _: i32 = pbs.post("/x", &[("a", "b c")], small(deadline())).unwrap();
    let requests = server.requests();
    assert_eq!(requests.len(), 3);
    assert!(requests[0].ends_with("\r\n\r\nusername=root%40pam&password=s3cret"));
    assert!(!requests[1].contains("csrfpreventiontoken"));
    assert!(requests[2].contains("\r\ncsrfpreventiontoken: CSRF1\r\n"), "{}", requests[2]);
    assert!(requests[2].ends_with("\r\n\r\na=b%20c"));
    assert!(!requests[1..].iter().any(|request| request.contains("s3cret")));
}

#[test]
fn an_expired_ticket_is_renewed_once() {
    let expired = Arc::new(Mutex::new(false));
    let is_expired = expired.clone();
    let (server, pbs) = with_passwords(move |issued| issued > 1 || !*is_expired.lock().unwrap());
    version(&pbs).unwrap();
    *expired.lock().unwrap() = true;
    version(&pbs).unwrap();
    version(&pbs).unwrap();
    // Login, call; call refused, login, call; call.
    assert_eq!(server.requests().len(), 6);
}

#[test]
fn a_ticket_that_is_never_accepted_is_a_denial() {
    let (server, pbs) = with_passwords(|_| false);
    for _ in 0..2 {
        assert!(matches!(version(&pbs), Err(Error::Denied { status: 401, .. })));
    }
    assert!(server.requests().len() <= 5);
}

#[test]
fn a_login_that_wants_a_second_factor_says_so() {
    let identity = Identity::self_signed();
    let server = TestServer::start(&identity, |_| {
        answer("200 OK", r#"{"data":{"CSRFPreventionToken":"x","ticket":"PBS:!tfa!x"}}"#)
    });
    let error = version(&client_as("root@pam", &identity, &server)).unwrap_err();
    assert!(error.to_string().contains("API token"), "{error}");
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_server_that_is_down_was_not_told_anything() {
    let (server, mut pbs) = answering("");
    drop(server);
    pbs.http = Client::tls("127.0.0.1", 1, tls::system_roots().unwrap());
    let error = version(&pbs).unwrap_err();
    assert!(matches!(error, Error::Unreachable { unsent: true, .. }), "{error}");
    assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
}

#[test]
fn an_answer_that_is_lost_leaves_open_whether_it_was_acted_upon() {
    let (_server, pbs) =
        answering("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 9\r\n\r\n");
    let error = version(&pbs).unwrap_err();
    assert!(matches!(error, Error::Unreachable { unsent: false, .. }), "{error}");
}

#[test]
fn secrets_do_not_show_in_debug_output() {
    let (server, pbs) = with_passwords(|_| true);
    version(&pbs).unwrap();
    let (_other, token) = answering("");
    let text = format!("{pbs:?} {token:?}");
    for secret in ["s3cret", "PBSAuthCookie", "CSRF1"] {
        assert!(!text.contains(secret), "{text}");
    }
    drop(server);
}

#[test]
fn a_storage_that_cannot_be_used_says_why() {
    let dir = std::env::temp_dir().join(format!("stillpoint-client-{}", std::process::id()));
    let root = Root::at(&dir);
    fs::create_dir_all(root.path("/etc/pve/priv/storage")).unwrap();
    let no_file = Pbs::open(&root, "good").unwrap_err().to_string();
    assert!(no_file.contains("/etc/pve/storage.cfg"), "{no_file}");

    let pin = Fingerprint::of(&Identity::self_signed().certificate);
    let text = format!(
        "dir: local\n\tpath /x\n\n\
         pbs: good\n\tserver ::1\n\tdatastore d\n\tfingerprint {pin}\n\n\
         pbs: rooted\n\tserver h\n\tdatastore d\n\n\
         pbs: half\n\tserver h\n\n\
         pbs: keyless\n\tserver h\n\tdatastore d\n\n\
         pbs: mispinned\n\tserver h\n\tdatastore d\n\tfingerprint AA:BB\n\n"
    );
    fs::write(root.path("/etc/pve/storage.cfg"), text).unwrap();
    for id in ["good", "rooted", "half", "mispinned"] {
        fs::write(root.path(&format!("/etc/pve/priv/storage/{id}.pw")), "s\n").unwrap();
    }
    assert_eq!(Pbs::open(&root, "good").unwrap().target().server, "::1");
    assert_eq!(Pbs::open(&root, "rooted").unwrap().target().server, "h");
    for (id, why) in [
        ("local", "type dir"),
        ("half", "needs a server, a datastore"),
        ("keyless", "/etc/pve/priv/storage/keyless.pw"),
        ("mispinned", "32 pairs"),
        ("nosuch", "not in /etc/pve/storage.cfg"),
    ] {
        let error = Pbs::open(&root, id).unwrap_err();
        assert!(matches!(error, Error::Misconfigured(_)), "{error}");
        let text = error.to_string();
        assert!(text.contains(why) && text.contains(id), "{text}");
    }
    fs::remove_dir_all(&dir).unwrap();
}
