//! HTTP/1.1 requests to servers that may be slow, broken or hostile.
//!
//! Every exchange has an absolute deadline and a limit in bytes, and uses our own connections (see
//! `stream`). There are no redirects, no proxy from the environment, no decompression. ureq does
//! the protocol; its transport API, which may change between releases, is used in this file only.

mod body;

use std::error::Error;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use ureq::http::{self, HeaderMap, Uri};
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport,
};
use ureq::{Agent, AsSendBody};

pub use self::body::Body;
pub use super::stream::{Dial, Stage};
use super::stream::{Endpoint, Fault, STEP, Stream, without_zone};

/// The longest status line and headers of an answer, in bytes.
const HEADERS: usize = 64 * 1024;

/// How long an unused connection is kept: a little more than the longest pause between two polls of
/// a task.
const IDLE: Duration = Duration::from_secs(45);

/// A client of one server. It keeps one connection open between requests if the server allows it;
/// several threads may use it at once.
#[derive(Debug, Clone)]
pub struct Client {
    agent: Agent,
    peer: String,
    /// Scheme and authority, to which the path of a request is appended.
    base: String,
}

impl Client {
    /// A client of the server that listens on a Unix socket; `path` is where, for messages.
    pub fn unix(path: &str, dial: Dial) -> Client {
        let peer = format!("the socket {}", path.escape_debug());
        Client::new(Endpoint::Unix(dial), peer, "http://localhost".to_owned())
    }

    /// A client of a TLS server. `host` is a name or an address, an IPv6 address with or without
    /// brackets. `config` alone decides which certificates are accepted.
    pub fn tls(host: &str, port: u16, config: Arc<ClientConfig>) -> Client {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let authority = authority(host, port);
        let base = format!("https://{authority}");
        let host = host.to_owned();
        Client::new(Endpoint::Tls { host, port, config }, authority, base)
    }

    /// A client of a server without TLS, for data that is not secret. `host` as in [`Client::tls`].
    pub fn plain(host: &str, port: u16) -> Client {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let authority = authority(host, port);
        let base = format!("http://{authority}");
        Client::new(Endpoint::Tcp { host: host.to_owned(), port }, authority, base)
    }

    fn new(endpoint: Endpoint, peer: String, base: String) -> Client {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .user_agent(concat!("stillpoint/", env!("CARGO_PKG_VERSION")))
            .max_response_header_size(HEADERS)
            .max_idle_connections(1)
            .max_idle_connections_per_host(1)
            .max_idle_age(IDLE)
            .build();
        Client { agent: Agent::with_parts(config, Door(endpoint), NoResolver), peer, base }
    }

    /// Sends a request and reads the whole answer, whatever its status. Never repeats a request.
    ///
    /// # Errors
    /// See [`Failure`]; [`Failure::unsent`] tells whether the server can have acted on the request.
    pub fn send(&self, request: &Request<'_>, limit: Limit) -> Result<Answer, Failure> {
        let Incoming { status, headers, body } = self.open(request, limit, None)?;
        Ok(Answer { status, headers, body: body.whole()? })
    }

    /// Sends a request and returns as soon as the headers are there, so that the body can be read
    /// piece by piece. `pause`: the longest time without a byte of the answer; `None` means until
    /// the deadline.
    ///
    /// # Errors
    /// As [`Client::send`] until the headers are complete; then see [`Body`].
    pub fn open(
        &self,
        request: &Request<'_>,
        limit: Limit,
        pause: Option<Duration>,
    ) -> Result<Incoming, Failure> {
        if !request.path.starts_with('/') {
            return Err(self.broken("the path of a request starts with /"));
        }
        let mut builder = http::Request::builder().uri(format!("{}{}", self.base, request.path));
        for (name, value) in request.headers {
            builder = builder.header(*name, *value);
        }
        let (content_type, body) = match (request.form, request.json) {
            (Some(form), _) => (Some("application/x-www-form-urlencoded"), form),
            (None, Some(json)) => (Some("application/json"), json),
            (None, None) => (None, ""),
        };
        if let Some(content_type) = content_type {
            builder = builder.header("Content-Type", content_type);
        }
        match request.method {
            Method::Get => self.exchange(builder.method("GET").body(()), limit, pause),
            Method::Post => self.exchange(builder.method("POST").body(body), limit, pause),
            Method::Delete => self.exchange(builder.method("DELETE").body(()), limit, pause),
        }
    }

    fn exchange<B: AsSendBody>(
        &self,
        request: http::Result<http::Request<B>>,
        limit: Limit,
        pause: Option<Duration>,
    ) -> Result<Incoming, Failure> {
        let request = request.map_err(|error| self.broken(error))?;
        let left = limit.deadline.saturating_duration_since(Instant::now());
        let request = self.agent.configure_request(request).timeout_global(Some(left));
        let request = request.timeout_per_read(pause).build();
        let response =
            self.agent.run(request).map_err(|error| self.failure(error, Stage::Answer))?;
        let (parts, body) = response.into_parts();
        let announced = body.content_length().unwrap_or_default();
        if announced > limit.body as u64 {
            return Err(self.too_large(limit.body));
        }
        let body = Body::new(self.clone(), body.into_reader(), limit.body);
        Ok(Incoming { status: parts.status.as_u16(), headers: parts.headers, body })
    }

    fn failure(&self, error: ureq::Error, stage: Stage) -> Failure {
        match error {
            ureq::Error::Other(error) => match error.downcast::<Tripped>() {
                Ok(tripped) => self.fault(tripped.stage.unwrap_or(stage), tripped.fault),
                Err(error) => self.broken(error),
            },
            ureq::Error::Timeout(_) => self.fault(stage, Fault::TimedOut),
            ureq::Error::LargeResponseHeader(..) => self.too_large(HEADERS),
            ureq::Error::Io(error) => self.fault(stage, Fault::Io(error)),
            other => self.broken(format_args!("{stage}: {other}")),
        }
    }

    fn fault(&self, stage: Stage, fault: Fault) -> Failure {
        let peer = self.peer.clone();
        match (fault, stage) {
            (Fault::TimedOut, stage) => Failure::TimedOut { peer, stage },
            (Fault::Tls(error), stage) => Failure::Tls { peer, stage, error },
            (Fault::Io(error), Stage::Resolve | Stage::Connect) => Failure::Connect { peer, error },
            (Fault::Io(error), stage) => self.broken(format_args!("{stage}: {error}")),
        }
    }

    fn too_large(&self, limit: usize) -> Failure {
        let peer = self.peer.clone();
        Failure::TooLarge { peer, limit }
    }

    fn broken(&self, reason: impl fmt::Display) -> Failure {
        Failure::Broken { peer: self.peer.clone(), reason: reason.to_string() }
    }
}

fn authority(host: &str, port: u16) -> String {
    match without_zone(host) {
        address if address.contains(':') => format!("[{address}]:{port}"),
        name => format!("{name}:{port}"),
    }
}

/// The methods in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Get,
    Post,
    Delete,
}

/// One request. A POST with neither `form` nor `json` has an empty body; the others have none.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    pub method: Method,
    /// Path and query, already percent-encoded.
    pub path: &'a str,
    pub headers: &'a [(&'a str, &'a str)],
    /// A body of type `application/x-www-form-urlencoded`, already encoded.
    pub form: Option<&'a str>,
    /// A body of type `application/json`.
    pub json: Option<&'a str>,
}

/// The limits of one exchange.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    /// When the answer must be complete. Steps before the answer (name resolution, connect, TLS
    /// handshake, sending) end after 10 s each, if that is earlier.
    pub deadline: Instant,
    /// The longest body of an answer, in bytes.
    pub body: usize,
}

/// An answer, complete.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    #[cfg(test)]
    pub fn of_walk(status: u16, body: Vec<u8>) -> Answer {
        Answer { status, headers: HeaderMap::new(), body }
    }

    /// The first value of a header, if it is plain text. `name` is not case-sensitive.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// An answer whose body is still to be read.
#[derive(Debug)]
pub struct Incoming {
    pub status: u16,
    headers: HeaderMap,
    pub body: Body,
}

impl Incoming {
    /// As [`Answer::header`].
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Why there is no answer. The message names the peer and the step.
#[derive(Debug)]
pub enum Failure {
    /// No connection: the name or address is not reachable, or nothing listens there.
    Connect { peer: String, error: io::Error },
    /// The time for a step, or for the whole exchange, is over.
    TimedOut { peer: String, stage: Stage },
    /// The server has the wrong certificate, or its TLS does not match ours.
    Tls { peer: String, stage: Stage, error: rustls::Error },
    /// The headers or the body of the answer have more than `limit` bytes.
    TooLarge { peer: String, limit: usize },
    /// The connection was lost, or the answer is not HTTP.
    Broken { peer: String, reason: String },
}

impl Failure {
    /// Whether it is certain that no part of the request has reached the server.
    pub fn unsent(&self) -> bool {
        match self {
            Failure::Connect { .. } => true,
            Failure::TimedOut { stage, .. } | Failure::Tls { stage, .. } => {
                matches!(stage, Stage::Resolve | Stage::Connect | Stage::Handshake)
            }
            Failure::TooLarge { .. } | Failure::Broken { .. } => false,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Connect { peer, error } => write!(f, "cannot connect to {peer}: {error}"),
            Failure::TimedOut { peer, stage } => write!(f, "{peer}: {stage} took too long"),
            Failure::Tls { peer, error, .. } => write!(f, "{peer}: TLS failed: {error}"),
            Failure::TooLarge { peer, limit } => {
                write!(f, "{peer}: the answer is longer than {limit} bytes")
            }
            Failure::Broken { peer, reason } => write!(f, "{peer}: the exchange broke: {reason}"),
        }
    }
}

impl Error for Failure {}

/// One of our errors while ureq passes it on unchanged.
#[derive(Debug)]
struct Tripped {
    /// `None` if only the reader knows whether it was reading the headers or the body.
    stage: Option<Stage>,
    fault: Fault,
}

impl fmt::Display for Tripped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.fault)
    }
}

impl Error for Tripped {}

fn trip(stage: Option<Stage>, fault: Fault) -> ureq::Error {
    ureq::Error::Other(Box::new(Tripped { stage, fault }))
}

fn deadline(timeout: NextTimeout) -> Instant {
    Instant::now() + (*timeout.after).min(Duration::from_secs(u32::MAX.into()))
}

/// Makes the connections to a client's server.
struct Door(Endpoint);

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Door")
    }
}

impl Connector for Door {
    type Out = Wire;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        _chained: Option<()>,
    ) -> Result<Option<Wire>, ureq::Error> {
        let stream = self
            .0
            .open(deadline(details.timeout))
            .map_err(|(stage, fault)| trip(Some(stage), fault))?;
        let buffers = LazyBuffers::new(
            details.config.input_buffer_size(),
            details.config.output_buffer_size(),
        );
        Ok(Some(Wire { stream, buffers, tls: matches!(self.0, Endpoint::Tls { .. }) }))
    }
}

/// A connection in the form that ureq needs.
#[derive(Debug)]
struct Wire {
    stream: Stream,
    buffers: LazyBuffers,
    tls: bool,
}

impl Transport for Wire {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        let deadline = deadline(timeout).min(Instant::now() + STEP);
        let bytes = self.buffers.output().get(..amount).unwrap_or_default();
        self.stream.write(bytes, deadline).map_err(|fault| trip(Some(Stage::Send), fault))
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        let buffer = self.buffers.input_append_buf();
        match self.stream.read(buffer, deadline(timeout.for_read())) {
            Ok(read) => {
                self.buffers.input_appended(read);
                Ok(read > 0)
            }
            Err(fault) => Err(trip(None, fault)),
        }
    }

    fn is_open(&mut self) -> bool {
        self.stream.is_idle()
    }

    fn is_tls(&self) -> bool {
        self.tls
    }
}

/// Names are resolved when a connection is made, not before each request.
#[derive(Debug)]
struct NoResolver;

impl Resolver for NoResolver {
    fn resolve(
        &self,
        _uri: &Uri,
        _config: &ureq::config::Config,
        _timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let mut addresses = self.empty();
        addresses.push(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
        Ok(addresses)
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod testserver;
