use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::net::UnixStream;

use rustls::version::{TLS12, TLS13};

use super::*;
use crate::pbs::tls::{Fingerprint, pinned};
use crate::sys::http::testserver::{Identity, TestServer, answer};

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

#[test]
fn an_address_that_refuses_does_not_keep_the_next_from_being_tried() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let refusing = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let listening = listener.local_addr().unwrap();
    Socket::tcp(&[refusing, listening], soon()).unwrap();
    let fault = Socket::tcp(&[refusing, refusing], soon()).unwrap_err();
    assert!(matches!(fault, Fault::Io(_)), "{fault:?}");
}

#[test]
fn a_connection_that_something_came_in_on_is_not_idle() {
    for version in [&TLS12, &TLS13] {
        let identity = Identity::self_signed();
        let server = TestServer::start_with(&identity, &[version], |_| answer("200 OK", "unasked"));
        let endpoint = Endpoint::Tls {
            host: "127.0.0.1".to_owned(),
            port: server.port,
            config: pinned(Fingerprint::of(&identity.certificate)).unwrap(),
        };
        let mut stream = endpoint.open(soon()).unwrap();
        // Session tickets, which come with TLS 1.3, change nothing.
        assert!(stream.is_idle());
        stream.write(b"GET / HTTP/1.1\r\n\r\n", soon()).unwrap();
        while stream.is_idle() {
            stream.socket.wait(PollFlags::POLLIN, soon()).unwrap();
        }
        // Closed it is not, and what came is still there.
        assert!(stream.read(&mut [0; 100], soon()).unwrap() > 0);
    }
}

#[test]
fn time_that_is_over_is_over_even_with_something_to_read() {
    let (near, mut far) = UnixStream::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    far.write_all(b"late").unwrap();
    let mut stream = Stream { socket: Socket(near.into()), tls: None };
    let fault = stream.read(&mut [0; 100], Instant::now()).unwrap_err();
    assert!(matches!(fault, Fault::TimedOut), "{fault:?}");
    assert_eq!(stream.read(&mut [0; 100], soon()).unwrap(), 4);
}
