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
        // Session tickets, which come with TLS 1.3, do not matter.
        assert!(stream.is_idle());
        stream.write(b"GET / HTTP/1.1\r\n\r\n", soon()).unwrap();
        while stream.is_idle() {
            stream.socket.wait(PollFlags::POLLIN, soon()).unwrap();
        }
        // The connection is not closed, and the data is still there.
        assert!(stream.read(&mut [0; 100], soon()).unwrap() > 0);
    }
}

#[test]
fn time_that_is_over_is_over_even_with_something_to_read() {
    let (near, mut far) = UnixStream::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    far.write_all(b"late").unwrap();
    let mut stream = Stream { socket: Socket::Unix(OwnedFd::from(near).into()), tls: None };
    let fault = stream.read(&mut [0; 100], Instant::now()).unwrap_err();
    assert!(matches!(fault, Fault::TimedOut), "{fault:?}");
    assert_eq!(stream.read(&mut [0; 100], soon()).unwrap(), 4);
}

/// A TCP connection whose last holder, when it lets go of it, waits ten minutes for its peer to
/// take what was sent.
fn lingering() -> (std::net::TcpStream, std::net::TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let connection = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (peer, _) = listener.accept().unwrap();
    let linger = nix::libc::linger { l_onoff: 1, l_linger: 600 };
    nix::sys::socket::setsockopt(&connection, nix::sys::socket::sockopt::Linger, &linger).unwrap();
    connection.set_nonblocking(true).unwrap();
    while (&connection).write(&[0; 1 << 16]).is_ok() {}
    (connection, peer)
}

/// Sends bytes with a file that takes long to be let go of, which then is in the receiver's hands
/// alone.
fn send_with_file(far: &UnixStream, bytes: &[u8]) -> std::net::TcpStream {
    use nix::sys::socket::{ControlMessage, sendmsg};
    let (connection, peer) = lingering();
    let files = [connection.as_raw_fd()];
    let (bytes, files) = ([std::io::IoSlice::new(bytes)], [ControlMessage::ScmRights(&files)]);
    sendmsg::<()>(far.as_raw_fd(), &bytes, &files, MsgFlags::empty(), None).unwrap();
    peer
}

#[test]
fn open_files_that_a_peer_sends_hold_up_nobody() {
    let (sender, ended) = mpsc::channel();
    thread::spawn(move || {
        let (near, far) = UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        let mut stream = Stream { socket: Socket::Unix(OwnedFd::from(near).into()), tls: None };
        (&far).write_all(b"HTTP/1.1").unwrap();
        let _peer = send_with_file(&far, b" 200 OK");
        let mut buffer = [0; 100];
        let mut said = Vec::new();
        let fault = loop {
            match stream.read(&mut buffer, soon()) {
                Ok(read) => said.extend(&buffer[..read]),
                Err(fault) => break fault,
            }
        };
        // What came before them may have been read.
        assert!(b"HTTP/1.1".starts_with(&said), "{said:?}");
        assert!(
            matches!(&fault, Fault::Io(error) if error.to_string() == "it sends open files"),
            "{fault:?}"
        );
        drop(stream);

        // Neither do those that were never read.
        let (near, far) = UnixStream::pair().unwrap();
        let unread = UnixSocket::from(OwnedFd::from(near));
        (&far).write_all(&[0; 10_000]).unwrap();
        let _peer = send_with_file(&far, b"unasked");
        drop(unread);
        sender.send(()).unwrap();
    });
    ended.recv_timeout(Duration::from_secs(60)).expect("it waits for the files' own peer");
}

#[test]
fn a_socket_without_open_files_is_closed() {
    let (near, far) = UnixStream::pair().unwrap();
    (&far).write_all(&[0; 100_000]).unwrap();
    drop(UnixSocket::from(OwnedFd::from(near)));
    assert_eq!((&far).read(&mut [0]).unwrap(), 0);
}
