//! A byte stream to a server, over a Unix socket or over TLS on TCP, in which nothing waits longer
//! than an absolute deadline: one non-blocking socket and `poll`.
//!
//! Limits per read or write (`SO_RCVTIMEO`, `SO_SNDTIMEO`) start again with every byte, and the
//! standard library's connect to a Unix socket waits for ever if the listener's backlog is full.

mod unix;

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv, send};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use unix::UnixSocket;

/// The limit of each step before the answer (name resolution, connect, TLS handshake, sending). The
/// answer itself may take until the caller's deadline, because stopping a container may take
/// minutes.
pub(super) const STEP: Duration = Duration::from_secs(10);

/// How long to wait before connecting again to a Unix socket whose backlog was full.
const BACKLOG_PAUSE: Duration = Duration::from_millis(10);

/// The step at which an exchange ran out of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Resolve,
    Connect,
    Handshake,
    Send,
    /// Until the status and headers of the answer are complete.
    Answer,
    Body,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::Resolve => "name resolution",
            Stage::Connect => "connect",
            Stage::Handshake => "TLS handshake",
            Stage::Send => "sending the request",
            Stage::Answer => "waiting for the answer",
            Stage::Body => "reading the answer",
        })
    }
}

/// Why a step failed; the caller knows which step and which peer it was.
#[derive(Debug)]
pub(super) enum Fault {
    TimedOut,
    Io(io::Error),
    Tls(rustls::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Fault {
        Fault::Io(error)
    }
}

impl From<Errno> for Fault {
    fn from(error: Errno) -> Fault {
        Fault::Io(error.into())
    }
}

impl From<rustls::Error> for Fault {
    fn from(error: rustls::Error) -> Fault {
        Fault::Tls(error)
    }
}

/// Makes a new non-blocking connection to one Unix socket; `WouldBlock` while the listener's
/// backlog is full.
pub type Dial = Box<dyn Fn() -> io::Result<OwnedFd> + Send + Sync>;

/// The target of a connection.
pub(super) enum Endpoint {
    /// A Unix socket; the function connects to it.
    Unix(Dial),
    /// TCP without TLS.
    Tcp {
        /// Name or address, without brackets.
        host: String,
        port: u16,
    },
    Tls {
        /// As above.
        host: String,
        port: u16,
        config: Arc<ClientConfig>,
    },
}

impl Endpoint {
    /// Connects, for TLS including the handshake. Each step ends at `deadline`, or after [`STEP`]
    /// if that is earlier.
    pub fn open(&self, deadline: Instant) -> Result<Stream, (Stage, Fault)> {
        match self {
            Endpoint::Unix(dial) => {
                let socket = Socket::unix(dial, soonest(deadline))
                    .map_err(|fault| (Stage::Connect, fault))?;
                Ok(Stream { socket, tls: None })
            }
            Endpoint::Tcp { host, port } => {
                let socket = connected(host, *port, deadline)?;
                Ok(Stream { socket, tls: None })
            }
            Endpoint::Tls { host, port, config } => {
                let socket = connected(host, *port, deadline)?;
                Stream::handshake(socket, host, config, soonest(deadline))
                    .map_err(|fault| (Stage::Handshake, fault))
            }
        }
    }
}

/// A TCP connection to a host.
fn connected(host: &str, port: u16, deadline: Instant) -> Result<Socket, (Stage, Fault)> {
    let addresses =
        resolve(host, port, soonest(deadline)).map_err(|fault| (Stage::Resolve, fault))?;
    Socket::tcp(&addresses, deadline).map_err(|fault| (Stage::Connect, fault))
}

fn soonest(deadline: Instant) -> Instant {
    deadline.min(Instant::now() + STEP)
}

/// An IP address without the zone of a link-local one (`fe80::1%eth0`).
pub(super) fn without_zone(host: &str) -> &str {
    host.split_once('%').map_or(host, |(address, _)| address)
}

/// The addresses of a host. The system's resolver has no time limit, so it runs in a thread that is
/// left behind if it takes too long; IP addresses need no thread.
fn resolve(host: &str, port: u16, deadline: Instant) -> Result<Vec<SocketAddr>, Fault> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let (sender, receiver) = mpsc::channel();
    let name = host.to_owned();
    thread::Builder::new().spawn(move || {
        let found = (name.as_str(), port).to_socket_addrs();
        // The receiver is gone if the answer came too late.
        let _ = sender.send(found.map(Iterator::collect::<Vec<_>>));
    })?;
    let left = deadline.saturating_duration_since(Instant::now());
    let addresses = receiver.recv_timeout(left).map_err(|_| Fault::TimedOut)??;
    if addresses.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address").into());
    }
    Ok(addresses)
}

/// A connected, non-blocking stream socket.
#[derive(Debug)]
enum Socket {
    Tcp(OwnedFd),
    Unix(UnixSocket),
}

impl Socket {
    fn unix(dial: &Dial, deadline: Instant) -> Result<Socket, Fault> {
        loop {
            match dial() {
                Ok(socket) => return Ok(Socket::Unix(socket.into())),
                // The backlog is full: poll cannot tell when there is room again.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    thread::sleep(BACKLOG_PAUSE.min(left(deadline)?));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Connects to the first address that answers; each gets an equal share of the remaining time.
    fn tcp(addresses: &[SocketAddr], deadline: Instant) -> Result<Socket, Fault> {
        let mut fault = Fault::TimedOut;
        for (tried, address) in addresses.iter().enumerate() {
            let shares = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
            let time = (left(deadline)? / shares).clamp(Duration::from_millis(1), STEP);
            match TcpStream::connect_timeout(address, time) {
                Ok(stream) => {
                    stream.set_nonblocking(true)?;
                    stream.set_nodelay(true)?;
                    return Ok(Socket::Tcp(stream.into()));
                }
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
                Err(error) => fault = Fault::Io(error),
            }
        }
        Err(fault)
    }

    /// Waits until the socket can be read or written (`events`), or has failed.
    fn wait(&self, events: PollFlags, deadline: Instant) -> Result<(), Fault> {
        loop {
            // One more millisecond, because poll rounds down and would spin at the end.
            let time = left(deadline)? + Duration::from_millis(1);
            let time = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.as_fd(), events)], time) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// The time until `deadline`, never zero.
fn left(deadline: Instant) -> Result<Duration, Fault> {
    match deadline.checked_duration_since(Instant::now()) {
        Some(left) if !left.is_zero() => Ok(left),
        _ => Err(Fault::TimedOut),
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Socket::Tcp(socket) => socket.as_fd(),
            Socket::Unix(socket) => socket.as_fd(),
        }
    }
}

/// Never waits: `WouldBlock` means that there is nothing to read yet.
impl Read for &Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(socket) => Ok(recv(socket.as_raw_fd(), buffer, MsgFlags::empty())?),
            Socket::Unix(socket) => socket.read(buffer),
        }
    }
}

/// Never waits: `WouldBlock` means that the peer accepts nothing now.
impl Write for &Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(send(self.as_fd().as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A connection that bytes can be read from and written to until a deadline.
#[derive(Debug)]
pub(super) struct Stream {
    socket: Socket,
    tls: Option<ClientConnection>,
}

impl Stream {
    fn handshake(
        socket: Socket,
        host: &str,
        config: &Arc<ClientConfig>,
        deadline: Instant,
    ) -> Result<Stream, Fault> {
        let name = ServerName::try_from(without_zone(host).to_owned())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let mut tls = ClientConnection::new(config.clone(), name)?;
        while tls.is_handshaking() {
            flush(&mut tls, &socket, deadline)?;
            if tls.is_handshaking() && receive(&mut tls, &socket, deadline)? == 0 {
                let text = "the server closed the connection during the TLS handshake";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text).into());
            }
        }
        flush(&mut tls, &socket, deadline)?;
        let tls = Some(tls);
        Ok(Stream { socket, tls })
    }

    /// Sends all of `bytes`.
    pub fn write(&mut self, mut bytes: &[u8], deadline: Instant) -> Result<(), Fault> {
        while !bytes.is_empty() {
            left(deadline)?;
            let sent = match &mut self.tls {
                Some(tls) => {
                    let taken = tls.writer().write(bytes)?;
                    flush(tls, &self.socket, deadline)?;
                    taken
                }
                None => match (&self.socket).write(bytes) {
                    Err(error) => self.retry(error, PollFlags::POLLOUT, deadline)?,
                    Ok(sent) => sent,
                },
            };
            bytes = bytes.get(sent..).unwrap_or_default();
        }
        Ok(())
    }

    /// Reads at least one byte; 0 is the end of the stream. Over TLS, an end that the server did
    /// not announce is an error, because anybody on the way can cut a connection.
    pub fn read(&mut self, buffer: &mut [u8], deadline: Instant) -> Result<usize, Fault> {
        loop {
            left(deadline)?;
            match &mut self.tls {
                Some(tls) => {
                    match tls.reader().read(buffer) {
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        // The TLS library's own error text is for programmers.
                        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                            let text = "the connection was cut before the answer was complete";
                            return Err(io::Error::new(error.kind(), text).into());
                        }
                        other => return Ok(other?),
                    }
                    flush(tls, &self.socket, deadline)?;
                    receive(tls, &self.socket, deadline)?;
                }
                None => match (&self.socket).read(buffer) {
                    Err(error) => {
                        self.retry(error, PollFlags::POLLIN, deadline)?;
                    }
                    Ok(read) => return Ok(read),
                },
            }
        }
    }

    fn retry(
        &self,
        error: io::Error,
        events: PollFlags,
        deadline: Instant,
    ) -> Result<usize, Fault> {
        match error.kind() {
            io::ErrorKind::Interrupted => Ok(0),
            io::ErrorKind::WouldBlock => self.socket.wait(events, deadline).map(|()| 0),
            _ => Err(error.into()),
        }
    }

    /// Whether the connection is open with nothing to read, so that another request can use it.
    /// Never waits.
    pub fn is_idle(&mut self) -> bool {
        let Some(tls) = &mut self.tls else {
            let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
            return recv(self.socket.as_fd().as_raw_fd(), &mut [0], flags) == Err(Errno::EAGAIN);
        };
        // Session tickets may arrive at any time; a server that sends more than a few such records
        // is not idle.
        for _ in 0..8 {
            match tls.read_tls(&mut &self.socket) {
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
                Ok(0) => return false,
                Ok(_) => match tls.process_new_packets() {
                    Ok(state)
                        if state.plaintext_bytes_to_read() == 0 && !state.peer_has_closed() => {}
                    _ => return false,
                },
            }
        }
        false
    }
}

/// Sends everything that TLS has queued.
fn flush(tls: &mut ClientConnection, socket: &Socket, deadline: Instant) -> Result<(), Fault> {
    while tls.wants_write() {
        left(deadline)?;
        match tls.write_tls(&mut &*socket) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                socket.wait(PollFlags::POLLOUT, deadline)?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
            Ok(_) => {}
        }
    }
    Ok(())
}

/// Waits for data from the server and reads it; returns the number of bytes, 0 if the server has
/// closed.
fn receive(tls: &mut ClientConnection, socket: &Socket, deadline: Instant) -> Result<usize, Fault> {
    loop {
        left(deadline)?;
        match tls.read_tls(&mut &*socket) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                socket.wait(PollFlags::POLLIN, deadline)?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
            Ok(received) => {
                if let Err(error) = tls.process_new_packets() {
                    // Tells the server the reason; whether that arrives does not matter.
                    let _ = tls.write_tls(&mut &*socket);
                    return Err(error.into());
                }
                return Ok(received);
            }
        }
    }
}

#[cfg(test)]
mod tests;
