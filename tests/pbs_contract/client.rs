//! Sends recorded bytes over TLS and reads the answer, without any library that could hide a
//! difference.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use stillpoint_sim::pbs::SimPbs;

/// An answer as it was received.
#[derive(Debug)]
pub struct Answer {
    pub seconds: f64,
    pub status: String,
    pub headers: Vec<(String, String)>,
    /// The body without its transfer encoding.
    pub body: Vec<u8>,
}

/// Sends one request on its own connection and reads until the server closes.
pub fn send(pbs: &SimPbs, request: &[u8]) -> Answer {
    let started = Instant::now();
    let mut roots = RootCertStore::empty();
    let identity = pbs.identity();
    let certificate = identity.certificate().clone();
    roots.add(certificate).expect("the certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("TLS versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").expect("a name");
    let connection = ClientConnection::new(Arc::new(config), name).expect("a TLS client");
    let tcp = TcpStream::connect(("127.0.0.1", pbs.port())).expect("connect");
    tcp.set_read_timeout(Some(Duration::from_secs(10))).expect("a time limit");
    let mut stream = StreamOwned::new(connection, tcp);
    stream.write_all(request).expect("send");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("read to the end");
    parse(&bytes, started.elapsed().as_secs_f64())
}

fn parse(bytes: &[u8], seconds: f64) -> Answer {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("the end of the head");
    let head = std::str::from_utf8(&bytes[..end]).expect("a head in UTF-8");
    let mut lines = head.split("\r\n");
    let status = lines.next().expect("a status line").to_owned();
    let headers: Vec<(String, String)> = lines
        .map(|line| {
            let (name, value) = line.split_once(": ").expect("a header");
            (name.to_owned(), value.to_owned())
        })
        .collect();
    let raw = &bytes[end + 4..];
    let chunked =
        headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked");
    let body = if chunked { unchunk(raw) } else { raw.to_vec() };
    Answer { seconds, status, headers, body }
}

fn unchunk(mut raw: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let end = raw.windows(2).position(|two| two == b"\r\n");
        let end = end.expect("the end of a chunk's size");
        let size = std::str::from_utf8(&raw[..end]).expect("a chunk's size");
        let size = usize::from_str_radix(size, 16).expect("a chunk's size in hex");
        raw = &raw[end + 2..];
        if size == 0 {
            assert_eq!(raw, b"\r\n", "nothing follows the last chunk");
            return body;
        }
        body.extend_from_slice(&raw[..size]);
        assert_eq!(&raw[size..size + 2], b"\r\n", "the end of a chunk");
        raw = &raw[size + 2..];
    }
}

/// Unpacks a zlib stream of stored blocks.
pub fn inflate_stored(stream: &[u8]) -> Vec<u8> {
    let (head, mut rest) = stream.split_at(2);
    assert_eq!(head[0] & 0x0f, 8, "a zlib header");
    assert_eq!((u32::from(head[0]) << 8 | u32::from(head[1])) % 31, 0, "its check bits");
    let mut plain = Vec::new();
    loop {
        let last = rest[0] == 1;
        assert!(rest[0] <= 1, "a stored block");
        let length = usize::from(u16::from_le_bytes([rest[1], rest[2]]));
        plain.extend_from_slice(&rest[5..5 + length]);
        rest = &rest[5 + length..];
        if last {
            assert_eq!(rest.len(), 4, "the checksum ends the stream");
            return plain;
        }
    }
}
