//! A small HTTP/1.1 server for the simulated engine and backup server.
//!
//! One thread serves one connection, over any stream (Unix socket, TCP, TLS), with keep-alive. It
//! writes head and body exactly as the handler says, broken ones included, because a simulation
//! must be able to misbehave.

mod read;
#[cfg(test)]
mod tests;
mod write;

use std::io::{self, Read, Write};
use std::time::Duration;

use read::read_request;
use write::write_answer;

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Request {
    /// The method, as sent.
    pub method: String,
    /// The path as sent: still percent-encoded, without the query.
    pub path: String,
    /// The query as sent, without the question mark.
    pub raw_query: String,
    /// The query's names and values, percent-decoded, in order.
    pub query: Vec<(String, String)>,
    /// Header names and values, in order.
    pub headers: Vec<(String, String)>,
    /// The body, its transfer encoding removed.
    pub body: Vec<u8>,
}

impl Request {
    /// The first header of that name; not case-sensitive.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The body read as a form, percent-decoded.
    pub fn form(&self) -> Vec<(String, String)> {
        parse_form(&String::from_utf8_lossy(&self.body))
    }

    /// A parameter, from the query or else from the form.
    pub fn param(&self, name: &str) -> Option<String> {
        self.query
            .iter()
            .cloned()
            .chain(self.form())
            .find(|(key, _)| key == name)
            .map(|(_, value)| value)
    }

    /// The path's segments, percent-decoded; empty ones are left out.
    pub fn segments(&self) -> Vec<String> {
        self.path
            .split('/')
            .filter(|segment| !segment.is_empty())
            .map(|segment| percent_decode(segment, false))
            .collect()
    }

    fn wants_close(&self) -> bool {
        self.header("connection")
            .is_some_and(|value| value.split(',').any(|v| v.trim().eq_ignore_ascii_case("close")))
    }
}

/// An answer.
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Headers, in order. Length, `connection: close` and, if missing, `date` are added.
    pub headers: Vec<(String, String)>,
    /// The body, and how it is sent.
    pub body: Body,
}

/// Writes a body piece by piece.
pub type BodyWriter = Box<dyn FnOnce(&mut dyn Write) -> io::Result<()>>;

/// A body, and how it is sent.
pub enum Body {
    /// With a `content-length`.
    Fixed(Vec<u8>),
    /// In chunks, without a length.
    Chunked(Vec<u8>),
    /// In chunks, one for each write, so that a long list need not be held in memory.
    Stream(BodyWriter),
    /// Without a length: it ends when the connection is closed.
    UntilClose(Vec<u8>),
    /// In pieces of this many bytes with a pause between them.
    Trickle {
        /// The whole body.
        bytes: Vec<u8>,
        /// Bytes at a time.
        piece: usize,
        /// Time between two pieces.
        pause: Duration,
    },
    /// A length is announced, less is sent, then the connection is dropped.
    CutOff {
        /// The value of `content-length`.
        promised: usize,
        /// The bytes that are sent.
        sent: Vec<u8>,
    },
    /// Nothing at all is sent: the connection is dropped.
    Nothing,
}

impl Answer {
    /// An answer without headers of its own.
    pub fn new(status: u16, body: Body) -> Self {
        Self { status, headers: Vec::new(), body }
    }

    /// The same answer with one more header.
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// Answers requests until the peer closes, asks to close, or an answer ends the connection.
///
/// # Errors
/// Errors of the stream, and `ConnectionAborted` after an answer that breaks off on purpose: the
/// caller then drops the stream without a proper close.
pub fn serve_connection<S: Read + Write>(
    mut stream: S,
    handler: &dyn Fn(&Request) -> Answer,
) -> io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        let request = match read_request(&mut stream, &mut buffer) {
            Ok(Some(request)) => request,
            Ok(None) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let answer = Answer::new(400, Body::Fixed(Vec::new()));
                write_answer(&mut stream, answer, false, true)?;
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let close = request.wants_close();
        let answer = handler(&request);
        let until_close = matches!(answer.body, Body::UntilClose(_));
        write_answer(&mut stream, answer, request.method == "HEAD", close)?;
        if close || until_close {
            return Ok(());
        }
    }
}

/// Parses `a=b&c=d`, percent-decoded, with `+` as a blank.
pub fn parse_form(text: &str) -> Vec<(String, String)> {
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (percent_decode(key, true), percent_decode(value, true))
        })
        .collect()
}

/// Decodes `%XX`, and with `plus` also `+` as a blank; anything else stays unchanged.
pub fn percent_decode(text: &str, plus: bool) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escape = bytes.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        let hex = escape
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match hex {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                let blank = plus && bytes[at] == b'+';
                decoded.push(if blank { b' ' } else { bytes[at] });
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}
