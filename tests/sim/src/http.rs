//! A small HTTP/1.1 server for the simulated engine and backup server.
//!
//! One thread serves one connection, over any stream (Unix socket, TCP, TLS), with keep-alive. It
//! writes head and body exactly as the handler says, broken ones included: a simulation has to be
//! able to misbehave.

use std::io::{self, Read, Write};
use std::time::Duration;

const MAX_HEAD: usize = 64 * 1024;
const MAX_BODY: usize = 64 * 1024 * 1024;

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
    /// The first header of that name, in whatever case it came.
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
        self.header("connection").is_some_and(|value| {
            value
                .split(',')
                .any(|v| v.trim().eq_ignore_ascii_case("close"))
        })
    }
}

/// What is sent back.
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Headers, in order; length, `connection: close` and, where missing, `date` follow them.
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
    /// Without a length: it ends where the connection ends.
    UntilClose(Vec<u8>),
    /// In pieces of that many bytes with a pause between them.
    Trickle {
        /// The whole body.
        bytes: Vec<u8>,
        /// Bytes at a time.
        piece: usize,
        /// Time between two pieces.
        pause: Duration,
    },
    /// A length is promised, less is sent, then the connection is dropped.
    CutOff {
        /// What `content-length` says.
        promised: usize,
        /// What is sent of it.
        sent: Vec<u8>,
    },
    /// Not even a status line: the connection is dropped.
    Nothing,
}

impl Answer {
    /// An answer without headers of its own.
    pub fn new(status: u16, body: Body) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body,
        }
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
/// Whatever the stream reports, and `ConnectionAborted` after an answer that breaks off on purpose:
/// the caller then drops the stream without a farewell.
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

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

fn fill(stream: &mut impl Read, buffer: &mut Vec<u8>) -> io::Result<usize> {
    let mut piece = [0; 16 * 1024];
    loop {
        match stream.read(&mut piece) {
            Ok(count) => {
                buffer.extend_from_slice(&piece[..count]);
                return Ok(count);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn read_request<S: Read + Write>(
    stream: &mut S,
    buffer: &mut Vec<u8>,
) -> io::Result<Option<Request>> {
    let (mut request, head_length) = loop {
        if let Some(parsed) = parse_head(buffer)? {
            break parsed;
        }
        if buffer.len() > MAX_HEAD {
            return Err(invalid("request head too long"));
        }
        match fill(stream, buffer) {
            Ok(0) if buffer.is_empty() => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            // Clients drop idle TLS connections without a close_notify.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && buffer.is_empty() => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
    };
    buffer.drain(..head_length);
    let chunked = request
        .header("transfer-encoding")
        .is_some_and(|value| value.eq_ignore_ascii_case("chunked"));
    let length = match request.header("content-length") {
        Some(text) => text.parse().map_err(|_| invalid("bad content-length"))?,
        None => 0,
    };
    if length > MAX_BODY {
        return Err(invalid("request body too long"));
    }
    if (chunked || length > 0) && request.header("expect").is_some() {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        stream.flush()?;
    }
    request.body = if chunked {
        read_chunks(stream, buffer)?
    } else {
        take(stream, buffer, length)?
    };
    Ok(Some(request))
}

fn parse_head(buffer: &[u8]) -> io::Result<Option<(Request, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; 128];
    let mut parsed = httparse::Request::new(&mut headers);
    let status = parsed
        .parse(buffer)
        .map_err(|error| invalid(&error.to_string()))?;
    let httparse::Status::Complete(length) = status else {
        return Ok(None);
    };
    let target = parsed.path.unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let request = Request {
        method: parsed.method.unwrap_or_default().to_owned(),
        path: path.to_owned(),
        raw_query: query.to_owned(),
        query: parse_form(query),
        headers: parsed
            .headers
            .iter()
            .map(|header| {
                let value = String::from_utf8_lossy(header.value).into_owned();
                (header.name.to_owned(), value)
            })
            .collect(),
        body: Vec::new(),
    };
    Ok(Some((request, length)))
}

fn take(stream: &mut impl Read, buffer: &mut Vec<u8>, length: usize) -> io::Result<Vec<u8>> {
    while buffer.len() < length {
        if fill(stream, buffer)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(buffer.drain(..length).collect())
}

fn take_line(stream: &mut impl Read, buffer: &mut Vec<u8>) -> io::Result<String> {
    loop {
        if let Some(end) = buffer.windows(2).position(|pair| pair == b"\r\n") {
            let line = buffer.drain(..end + 2).take(end).collect::<Vec<_>>();
            return Ok(String::from_utf8_lossy(&line).into_owned());
        }
        if buffer.len() > MAX_HEAD {
            return Err(invalid("chunk head too long"));
        }
        if fill(stream, buffer)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn read_chunks(stream: &mut impl Read, buffer: &mut Vec<u8>) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = take_line(stream, buffer)?;
        let size = line.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16).map_err(|_| invalid("bad chunk size"))?;
        if size > MAX_BODY - body.len() {
            return Err(invalid("request body too long"));
        }
        body.extend(take(stream, buffer, size)?);
        let mut trailer = take_line(stream, buffer)?;
        if size == 0 {
            while !trailer.is_empty() {
                trailer = take_line(stream, buffer)?;
            }
            return Ok(body);
        }
    }
}

fn write_answer(
    stream: &mut impl Write,
    answer: Answer,
    head_only: bool,
    close: bool,
) -> io::Result<()> {
    if matches!(answer.body, Body::Nothing) {
        return Err(io::ErrorKind::ConnectionAborted.into());
    }
    let without_body = matches!(answer.status, 100..=199 | 204 | 304);
    let close = close || matches!(answer.body, Body::UntilClose(_));
    let mut head = format!("HTTP/1.1 {} {}\r\n", answer.status, reason(answer.status));
    let mut date = None;
    for (name, value) in &answer.headers {
        if name == "date" {
            date = Some(value.clone());
        } else {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    if close {
        head.push_str("connection: close\r\n");
    }
    if !without_body {
        match &answer.body {
            Body::Fixed(bytes) | Body::Trickle { bytes, .. } => {
                head.push_str(&format!("content-length: {}\r\n", bytes.len()));
            }
            Body::CutOff { promised, .. } => {
                head.push_str(&format!("content-length: {promised}\r\n"));
            }
            Body::Chunked(_) | Body::Stream(_) => {
                head.push_str("transfer-encoding: chunked\r\n");
            }
            Body::UntilClose(_) | Body::Nothing => {}
        }
    }
    let now = || chrono::Utc::now().format("%a, %d %b %Y %H:%M:%S GMT");
    let date = date.unwrap_or_else(|| now().to_string());
    head.push_str(&format!("date: {date}\r\n\r\n"));
    stream.write_all(head.as_bytes())?;
    if head_only || without_body {
        return stream.flush();
    }
    match answer.body {
        Body::Fixed(bytes) | Body::UntilClose(bytes) => stream.write_all(&bytes)?,
        Body::Chunked(bytes) => {
            let mut chunks = Chunks(stream);
            for piece in bytes.chunks(16 * 1024) {
                chunks.write_all(piece)?;
            }
            chunks.end()?;
        }
        Body::Stream(write) => {
            let mut chunks = Chunks(stream);
            write(&mut chunks)?;
            chunks.end()?;
        }
        Body::Trickle {
            bytes,
            piece,
            pause,
        } => {
            for part in bytes.chunks(piece.max(1)) {
                stream.write_all(part)?;
                stream.flush()?;
                std::thread::sleep(pause);
            }
        }
        Body::CutOff { sent, .. } => {
            stream.write_all(&sent)?;
            stream.flush()?;
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Body::Nothing => {}
    }
    stream.flush()
}

/// Frames each write as one chunk.
struct Chunks<'a, W: Write>(&'a mut W);

impl<W: Write> Chunks<'_, W> {
    fn end(&mut self) -> io::Result<()> {
        self.0.write_all(b"0\r\n\r\n")
    }
}

impl<W: Write> Write for Chunks<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !bytes.is_empty() {
            let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
            chunk.extend_from_slice(bytes);
            chunk.extend_from_slice(b"\r\n");
            self.0.write_all(&chunk)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        101 => "Switching Protocols",
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        409 => "Conflict",
        414 => "URI Too Long",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        _ => "Unknown",
    }
}

/// Reads `a=b&c=d`, percent-decoded, `+` as a blank.
pub fn parse_form(text: &str) -> Vec<(String, String)> {
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (percent_decode(key, true), percent_decode(value, true))
        })
        .collect()
}

/// Decodes `%XX`, and `+` as a blank where `plus` says so; what is no escape stays as it is.
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    fn exchange(input: &[u8], handler: &(dyn Fn(&Request) -> Answer + Sync)) -> String {
        let (mut client, server) = UnixStream::pair().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || serve_connection(server, handler));
            client.write_all(input).unwrap();
            client.shutdown(std::net::Shutdown::Write).unwrap();
            let mut output = String::new();
            client.read_to_string(&mut output).unwrap();
            output
        })
    }

    #[test]
    fn two_requests_share_a_connection() {
        let output = exchange(
            b"GET /a%20b/c?x=1%2b&y HTTP/1.1\r\nHost: h\r\n\r\n\
              POST /d HTTP/1.1\r\nContent-Length: 5\r\nConnection: close\r\n\r\nz=3+4",
            &|request| {
                let x = request.param("x").or_else(|| request.param("z"));
                let body = format!("{:?} {}", request.segments(), x.unwrap_or_default());
                Answer::new(200, Body::Fixed(body.into_bytes()))
            },
        );
        assert!(output.contains("[\"a b\", \"c\"] 1+HTTP/1.1 200 OK"));
        assert!(output.contains("connection: close"));
        assert!(output.ends_with("[\"d\"] 3 4"));
    }

    #[test]
    fn chunks_are_read_and_written() {
        let output = exchange(
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
            &|request| Answer::new(200, Body::Chunked(request.body.clone())),
        );
        assert!(output.ends_with("5\r\nabcde\r\n0\r\n\r\n"), "{output}");
    }

    #[test]
    fn a_cut_off_answer_ends_the_connection() {
        let output = exchange(b"GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n", &|_| {
            let sent = b"ab".to_vec();
            Answer::new(200, Body::CutOff { promised: 9, sent })
        });
        assert!(output.contains("content-length: 9"));
        assert!(output.ends_with("\r\n\r\nab"));
    }
}
