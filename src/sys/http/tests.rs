use std::fs;
use std::io::{BufReader, Read, Write};
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket,
};

use super::testserver::{Identity, TestServer, answer, read_request};
use super::*;
use crate::pbs::tls::{Fingerprint, pinned};

/// A directory that is removed after the test.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Dir {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("stillpoint-http-{}-{number}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(&dir).unwrap();
        Dir(dir)
    }

    fn file(&self) -> PathBuf {
        self.0.join("docker.sock")
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn client_of(path: &Path) -> Client {
    let name = path.display().to_string();
    let path = path.to_path_buf();
    let dial = move || {
        let address = UnixAddr::new(&path)?;
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        connect(socket.as_raw_fd(), &address)?;
        Ok(socket)
    };
    Client::unix(&name, Box::new(dial))
}

/// A server on a Unix socket that handles one connection after the other.
fn unix_server(dir: &Dir, serve: impl Fn(UnixStream) + Send + 'static) -> Client {
    let listener = UnixListener::bind(dir.file()).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            serve(stream);
        }
    });
    client_of(&dir.file())
}

/// A server that reads one request and sends the given text.
fn saying(dir: &Dir, text: impl Into<String>) -> Client {
    let text = text.into();
    unix_server(dir, move |mut stream| {
        read_request(&mut BufReader::new(&stream));
        let _ = stream.write_all(text.as_bytes());
    })
}

/// A server that reads one request, sends `start`, and then `again` until the client is gone.
fn endless(dir: &Dir, start: &'static str, again: &'static str, pause: u64) -> Client {
    unix_server(dir, move |mut stream| {
        read_request(&mut BufReader::new(&stream));
        let mut sent = stream.write_all(start.as_bytes());
        while sent.is_ok() {
            sent = stream.write_all(again.as_bytes());
            thread::sleep(Duration::from_millis(pause));
        }
    })
}

const GET: Request<'_> =
    Request { method: Method::Get, path: "/x?a=%2F", headers: &[], form: None, json: None };

fn within(milliseconds: u64) -> Limit {
    Limit { deadline: Instant::now() + Duration::from_millis(milliseconds), body: 1000 }
}

const PLENTY: u64 = 60_000;
/// Long enough for the work even on a busy machine.
const SHORT: u64 = 1_500;

/// Runs what must end by itself long before this limit, even on a busy machine.
fn promptly<T>(work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    assert!(start.elapsed() < Duration::from_secs(30));
    result
}

#[track_caller]
fn assert_late<T: fmt::Debug>(result: Result<T, Failure>, at: Stage) {
    match result {
        Err(Failure::TimedOut { stage, .. }) => assert_eq!(stage, at),
        other => panic!("expected a timeout at {at}, got {other:?}"),
    }
}

#[track_caller]
fn assert_too_large<T: fmt::Debug>(result: Result<T, Failure>) {
    assert!(matches!(result, Err(Failure::TooLarge { .. })), "{result:?}");
}

#[track_caller]
fn assert_broken<T: fmt::Debug>(result: Result<T, Failure>) {
    assert!(matches!(result, Err(Failure::Broken { .. })), "{result:?}");
}

#[test]
fn a_client_can_be_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Client>();
}

#[test]
fn an_answer_comes_as_it_is_whatever_its_status() {
    for status in ["200 OK", "304 Not Modified", "404 Not Found", "500 Oh no"] {
        let dir = Dir::new();
        let text = format!("HTTP/1.1 {status}\r\nX-Word: yes\r\nContent-Length: 0\r\n\r\n");
        let got = saying(&dir, text).send(&GET, within(PLENTY)).unwrap();
        assert_eq!(got.status.to_string(), status[..3]);
        assert_eq!(got.header("x-word"), Some("yes"));
        assert_eq!(got.body, b"");
    }
}

#[test]
fn requests_say_what_was_asked_and_share_a_connection() {
    let dir = Dir::new();
    let client = unix_server(&dir, |stream| {
        let mut reader = BufReader::new(stream);
        let mut count = 0;
        while let Some(request) = read_request(&mut reader) {
            count += 1;
            let text = answer("200 OK", &format!("{count} {request}"));
            let _ = reader.get_mut().write_all(text.as_bytes());
        }
    });
    let send = |request: &Request<'_>| {
        let got = client.send(request, within(PLENTY)).unwrap();
        String::from_utf8(got.body).unwrap().to_ascii_lowercase()
    };
    let first = send(&Request { headers: &[("Authorization", "PBSAPIToken=a")], ..GET });
    assert!(first.starts_with("1 get /x?a=%2f http/1.1\r\n"), "{first}");
    assert!(first.contains("\r\nhost: localhost\r\n"), "{first}");
    assert!(first.contains("\r\nauthorization: pbsapitoken=a\r\n"));
    assert!(!first.contains("content-type"));

    let post = Request { method: Method::Post, ..GET };
    let empty = send(&post);
    assert!(empty.starts_with("2 post /x?a=%2f http/1.1\r\n"), "{empty}");
    assert!(empty.contains("\r\ncontent-length: 0\r\n"), "{empty}");

    let form = send(&Request { form: Some("a=b"), ..post });
    assert!(form.contains("\r\ncontent-type: application/x-www-form-urlencoded\r\n"));
    assert!(form.starts_with('3') && form.ends_with("\r\n\r\na=b"), "{form}");

    let json = send(&Request { json: Some("{}"), ..post });
    assert!(json.contains("\r\ncontent-type: application/json\r\n"));
    assert!(json.starts_with('4') && json.ends_with("\r\n\r\n{}"), "{json}");
}

#[test]
fn a_connection_that_the_server_closed_is_replaced() {
    let dir = Dir::new();
    let (sender, closed) = mpsc::channel();
    let client = unix_server(&dir, move |mut stream| {
        read_request(&mut BufReader::new(&stream));
        let text = answer("200 OK", "hello");
        stream.write_all(text.as_bytes()).unwrap();
        // It closes without having announced it in TLS.
        drop(stream);
        sender.send(()).unwrap();
    });
    for _ in 0..3 {
        let got = client.send(&GET, within(PLENTY)).unwrap();
        assert_eq!(got.body, b"hello");
        closed.recv().unwrap();
    }
}

#[test]
fn redirects_are_not_followed() {
    let dir = Dir::new();
    let client = unix_server(&dir, |mut stream| {
        let text = match read_request(&mut BufReader::new(&stream)) {
            Some(request) if request.starts_with("GET /elsewhere ") => answer("200 OK", "there"),
            _ => "HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 4\r\n\r\nmove"
                .to_owned(),
        };
        let _ = stream.write_all(text.as_bytes());
    });
    let got = client.send(&GET, within(PLENTY)).unwrap();
    assert_eq!((got.status, got.body.as_slice()), (302, &b"move"[..]));
    assert_eq!(got.header("Location"), Some("/elsewhere"));
}

#[test]
fn a_body_may_have_exactly_the_bytes_that_are_allowed() {
    let sent = |bytes: usize| {
        let dir = Dir::new();
        saying(&dir, answer("200 OK", &"x".repeat(bytes))).send(&GET, within(PLENTY))
    };
    assert_eq!(sent(1000).unwrap().body.len(), 1000);
    assert_too_large(sent(1001));
}

#[test]
fn a_body_that_announces_too_much_is_not_even_read() {
    let dir = Dir::new();
    let client = saying(&dir, "HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n");
    assert_too_large(client.send(&GET, within(PLENTY)));
}

#[test]
fn an_endless_body_is_cut() {
    for (start, again) in [
        ("HTTP/1.1 200 OK\r\n\r\n", "more"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "4\r\nmore\r\n"),
    ] {
        let dir = Dir::new();
        let client = endless(&dir, start, again, 0);
        assert_too_large(promptly(|| client.send(&GET, within(PLENTY))));
    }
}

#[test]
fn endless_headers_are_cut() {
    let dir = Dir::new();
    let client = endless(&dir, "HTTP/1.1 200 OK\r\nX-Start: ", "XXXXXXXXXXXXXXXXXXXXXXXXXXXX", 0);
    assert_too_large(promptly(|| client.send(&GET, within(PLENTY))));

    let dir = Dir::new();
    let client = endless(&dir, "HTTP/1.1 200 OK\r\n", "X-More: and more and more\r\n", 0);
    assert!(promptly(|| client.send(&GET, within(PLENTY))).is_err());
}

#[test]
fn headers_may_have_the_bytes_that_are_allowed() {
    for (bytes, fits) in [(HEADERS - 100, true), (HEADERS, false)] {
        let dir = Dir::new();
        let long = "x".repeat(bytes);
        let text = format!("HTTP/1.1 200 OK\r\nX-Long: {long}\r\nContent-Length: 0\r\n\r\n");
        let result = saying(&dir, text).send(&GET, within(PLENTY));
        assert_eq!(result.is_ok(), fits);
    }
}

#[test]
fn a_silent_server_is_given_up() {
    let dir = Dir::new();
    let client = endless(&dir, "", "", 10);
    assert_late(promptly(|| client.send(&GET, within(SHORT))), Stage::Answer);
}

#[test]
fn a_byte_now_and_then_does_not_extend_the_time() {
    let dir = Dir::new();
    let client = endless(&dir, "HTTP/1.1 200 OK\r\nX-Slow: ", "x", 50);
    assert_late(promptly(|| client.send(&GET, within(SHORT))), Stage::Answer);

    let dir = Dir::new();
    let client = endless(&dir, "HTTP/1.1 200 OK\r\n\r\n", "x", 50);
    assert_late(promptly(|| client.send(&GET, within(SHORT))), Stage::Body);
}

#[test]
fn a_body_is_read_as_it_comes_and_given_up_after_a_pause() {
    let dir = Dir::new();
    let (release, held) = mpsc::channel::<()>();
    let client = unix_server(&dir, move |mut stream| {
        read_request(&mut BufReader::new(&stream));
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nfirst").unwrap();
        // Stays silent but open until the test is over.
        let _ = held.recv();
    });
    let pause = Some(Duration::from_millis(SHORT));
    let mut body = client.open(&GET, within(PLENTY), pause).unwrap().body;
    let mut first = [0; 5];
    body.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"first", "before the rest is there");
    promptly(|| body.read(&mut first).unwrap_err());
    assert_late(Err::<(), _>(body.failure().unwrap()), Stage::Body);
    drop(release);
}

#[test]
fn endless_interim_answers_do_not_extend_the_time() {
    let dir = Dir::new();
    let client = endless(&dir, "", "HTTP/1.1 100 Continue\r\n\r\n", 1);
    assert_late(promptly(|| client.send(&GET, within(SHORT))), Stage::Answer);
}

#[test]
fn a_deadline_that_has_passed_sends_nothing() {
    let dir = Dir::new();
    let client = saying(&dir, answer("200 OK", ""));
    let result = client.send(&GET, within(0));
    assert!(matches!(result, Err(Failure::TimedOut { .. })), "{result:?}");
}

#[test]
fn a_server_that_takes_nothing_is_given_up() {
    let dir = Dir::new();
    let listener = UnixListener::bind(dir.file()).unwrap();
    let big = "x".repeat(8 * 1024 * 1024);
    let post = Request { method: Method::Post, form: Some(&big), ..GET };
    let result = promptly(|| client_of(&dir.file()).send(&post, within(SHORT)));
    assert_late(result, Stage::Send);
    drop(listener);
}

#[test]
fn a_body_that_ends_too_early_is_an_error() {
    for text in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nhalf",
        "HTTP/1.1 200 OK\r\nContent-Le",
        "",
        "SSH-2.0-OpenSSH_9.2p1\r\n",
    ] {
        let dir = Dir::new();
        assert_broken(promptly(|| saying(&dir, text).send(&GET, within(PLENTY))));
    }
}

#[test]
fn what_cannot_be_a_request_is_not_sent() {
    let dir = Dir::new();
    let client = saying(&dir, answer("200 OK", ""));
    for path in ["x", "@example.org/", "/a b", "/a\r\nX: y"] {
        assert_broken(client.send(&Request { path, ..GET }, within(PLENTY)));
    }
    let headers = &[("X", "a\r\nY: b")];
    assert_broken(client.send(&Request { headers, ..GET }, within(PLENTY)));
}

#[test]
fn what_is_no_listening_socket_fails_at_once() {
    let dir = Dir::new();
    fs::write(dir.file(), "").unwrap();
    let fifo = dir.0.join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let abandoned = dir.0.join("abandoned");
    drop(UnixListener::bind(&abandoned).unwrap());
    for path in [dir.file(), fifo, abandoned, dir.0.clone()] {
        let failure = promptly(|| client_of(&path).send(&GET, within(PLENTY))).unwrap_err();
        assert!(matches!(failure, Failure::Connect { .. }), "{failure:?}");
        assert!(failure.unsent());
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(failure.to_string().contains(name), "{failure}");
    }
}

/// A listener whose queue is full: a blocking connect would wait for ever.
fn full(dir: &Dir) -> (OwnedFd, Vec<OwnedFd>) {
    let address = UnixAddr::new(&dir.file()).unwrap();
    let make = || {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        socket(AddressFamily::Unix, SockType::Stream, flags, None).unwrap()
    };
    let listener = make();
    bind(listener.as_raw_fd(), &address).unwrap();
    listen(&listener, Backlog::new(0).unwrap()).unwrap();
    let mut waiting = Vec::new();
    loop {
        let one = make();
        match connect(one.as_raw_fd(), &address) {
            Ok(()) => waiting.push(one),
            Err(error) => {
                assert_eq!(error, nix::errno::Errno::EAGAIN);
                return (listener, waiting);
            }
        }
    }
}

#[test]
fn a_full_backlog_is_waited_for_until_the_deadline() {
    let dir = Dir::new();
    let (_listener, _waiting) = full(&dir);
    let result = promptly(|| client_of(&dir.file()).send(&GET, within(SHORT)));
    assert_late(result, Stage::Connect);
}

#[test]
fn a_backlog_that_clears_in_time_is_no_failure() {
    let dir = Dir::new();
    let (listener, waiting) = full(&dir);
    let serving = thread::spawn(move || {
        let listener = UnixListener::from(listener);
        listener.set_nonblocking(false).unwrap();
        thread::sleep(Duration::from_millis(100));
        for _ in &waiting {
            listener.accept().unwrap();
        }
        let (mut stream, _) = listener.accept().unwrap();
        read_request(&mut BufReader::new(&stream));
        stream.write_all(answer("200 OK", "at last").as_bytes()).unwrap();
        drop(waiting);
    });
    let got = client_of(&dir.file()).send(&GET, within(PLENTY)).unwrap();
    assert_eq!(got.body, b"at last");
    serving.join().unwrap();
}

fn tls_client(identity: &Identity, host: &str, port: u16) -> Client {
    let config = pinned(Fingerprint::of(&identity.certificate)).unwrap();
    Client::tls(host, port, config)
}

#[test]
fn tls_serves_several_requests_on_one_connection() {
    let identity = Identity::self_signed();
    let server = TestServer::start(&identity, |_| answer("200 OK", &"y".repeat(900)));
    let client = tls_client(&identity, "127.0.0.1", server.port);
    for _ in 0..3 {
        let got = client.send(&GET, within(PLENTY)).unwrap();
        assert_eq!(got.body.len(), 900);
    }
    assert_eq!((server.requests().len(), server.connections()), (3, 1));
    let host = format!("host: 127.0.0.1:{}\r\n", server.port);
    assert!(server.requests()[0].to_ascii_lowercase().contains(&host));
}

#[test]
fn a_name_with_several_addresses_is_tried_through() {
    // The test server listens on 127.0.0.1 only; `localhost` may resolve to ::1 first, which
    // refuses.
    let identity = Identity::self_signed();
    let server = TestServer::start(&identity, |_| answer("200 OK", "named"));
    let client = tls_client(&identity, "localhost", server.port);
    assert_eq!(client.send(&GET, within(PLENTY)).unwrap().body, b"named");
    let host = format!("host: localhost:{}\r\n", server.port);
    assert!(server.requests()[0].to_ascii_lowercase().contains(&host));
}

#[test]
fn addresses_of_ipv6_are_taken_with_and_without_brackets() {
    let identity = Identity::self_signed();
    // Nothing listens there: the test checks that the address is understood, and named in the
    // error.
    for host in ["::1", "[::1]", "::1%lo"] {
        let failure = tls_client(&identity, host, 1).send(&GET, within(PLENTY)).unwrap_err();
        assert!(matches!(failure, Failure::Connect { .. }), "{failure:?}");
        assert!(failure.to_string().contains("[::1]:1"), "{failure}");
    }
}

#[test]
fn a_port_where_nobody_listens_fails_at_once() {
    let client = tls_client(&Identity::self_signed(), "127.0.0.1", 1);
    let failure = promptly(|| client.send(&GET, within(PLENTY))).unwrap_err();
    assert!(matches!(failure, Failure::Connect { .. }), "{failure:?}");
    assert!(failure.unsent());
}

#[test]
fn a_name_that_does_not_exist_is_not_sent_to() {
    for host in ["nosuch.invalid", "", "a b", "ex/ample"] {
        let client = tls_client(&Identity::self_signed(), host, 8007);
        assert!(client.send(&GET, within(2000)).is_err());
    }
}

#[test]
fn a_hung_handshake_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let client = tls_client(&Identity::self_signed(), "127.0.0.1", port);
    let failure = promptly(|| client.send(&GET, within(SHORT))).unwrap_err();
    assert!(failure.to_string().contains("TLS handshake took too long"), "{failure}");
    assert!(failure.unsent());
    assert_late(Err::<(), _>(failure), Stage::Handshake);
}

#[test]
fn a_server_that_hangs_up_in_the_handshake_is_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = stream.shutdown(std::net::Shutdown::Write);
            thread::sleep(Duration::from_secs(5));
        }
    });
    let client = tls_client(&Identity::self_signed(), "127.0.0.1", port);
    assert_broken(promptly(|| client.send(&GET, within(PLENTY))));
}

#[test]
fn an_end_that_tls_did_not_announce_is_an_error() {
    let identity = Identity::self_signed();
    let sent = |ending: &'static str| {
        let text = format!("HTTP/1.1 200 OK\r\nconnection: {ending}\r\n\r\nall of it?");
        let server = TestServer::start(&identity, move |_| text.clone());
        tls_client(&identity, "127.0.0.1", server.port).send(&GET, within(PLENTY))
    };
    assert_eq!(sent("close").unwrap().body, b"all of it?");
    let cut = sent("cut");
    let told = cut.as_ref().unwrap_err().to_string();
    assert!(told.ends_with("the connection was cut before the answer was complete"), "{told}");
    assert!(!told.contains("://"), "{told}");
    assert_broken(cut);
}

#[test]
fn a_connection_with_something_left_to_read_is_not_used_again() {
    let identity = Identity::self_signed();
    let server = TestServer::start(&identity, |_| {
        format!("{}{}", answer("200 OK", "one"), answer("200 OK", "smuggled"))
    });
    let client = tls_client(&identity, "127.0.0.1", server.port);
    for _ in 0..2 {
        assert_eq!(client.send(&GET, within(PLENTY)).unwrap().body, b"one");
    }
    assert_eq!(server.connections(), 2);
}
