//! Writes answers to a stream.

use std::io::{self, Write};

use super::{Answer, Body};

/// Writes one answer; with `head_only` without its body.
pub(super) fn write_answer(
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
        Body::Trickle { bytes, piece, pause } => {
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

/// Writes each piece as one chunk.
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
