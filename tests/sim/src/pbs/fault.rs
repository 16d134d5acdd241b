//! Misbehaviour on demand.

use std::io::{self, Write};
use std::time::Duration;

use super::state::State;
use crate::http::{Answer, Body, Request};

/// What goes wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The answer is delayed.
    Delay(Duration),
    /// The server refuses every such request with this status and text.
    Refuse(u16, String),
    /// 401, with the delay and the text of a real one.
    Unauthorized,
    /// The connection breaks before any byte of an answer.
    NoAnswer,
    /// The connection breaks in the middle of the body.
    CutOff,
    /// The body comes in pieces of that many bytes with a pause between them.
    Trickle(usize, Duration),
}

/// A fault and the requests that it applies to.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Applies to requests whose `METHOD /target` contains this.
    pub contains: String,
    /// How many more requests it applies to; `None` means all.
    pub left: Option<u32>,
    /// What goes wrong.
    pub fault: Fault,
}

impl State {
    /// The first fault that applies to this request; counts it.
    pub fn take_fault(&mut self, line: &str) -> Option<Fault> {
        let rule = self
            .rules
            .iter_mut()
            .find(|rule| rule.left != Some(0) && line.contains(&rule.contains))?;
        if let Some(left) = &mut rule.left {
            *left -= 1;
        }
        Some(rule.fault.clone())
    }
}

/// Applies the fault to the answer.
pub fn apply(
    fault: Option<Fault>,
    request: &Request,
    unauthorized: impl FnOnce() -> Answer,
    answer: impl FnOnce(&Request) -> Answer,
) -> Answer {
    match fault {
        None => answer(request),
        Some(Fault::Delay(time)) => {
            std::thread::sleep(time);
            answer(request)
        }
        Some(Fault::Refuse(status, text)) => {
            let content_type = "application/json;charset=UTF-8";
            Answer::new(status, Body::Fixed(text.into_bytes()))
                .with_header("content-type", content_type)
        }
        Some(Fault::Unauthorized) => unauthorized(),
        Some(Fault::NoAnswer) => Answer::new(200, Body::Nothing),
        Some(Fault::CutOff) => {
            let mut answer = answer(request);
            answer.body = cut_off(answer.body);
            answer
        }
        Some(Fault::Trickle(piece, pause)) => {
            let mut answer = answer(request);
            if let Body::Fixed(bytes) | Body::Chunked(bytes) = answer.body {
                answer.body = Body::Trickle { bytes, piece, pause };
            }
            answer
        }
    }
}

fn cut_off(body: Body) -> Body {
    match body {
        Body::Fixed(bytes) => {
            Body::CutOff { promised: bytes.len(), sent: bytes[..bytes.len() / 2].to_vec() }
        }
        Body::Stream(write) => Body::Stream(Box::new(move |out: &mut dyn Write| {
            write(&mut FirstBytes { out, left: 200 })
        })),
        other => other,
    }
}

/// Passes on a number of bytes and then fails.
struct FirstBytes<'a> {
    out: &'a mut dyn Write,
    left: usize,
}

impl Write for FirstBytes<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.left == 0 {
            self.out.flush()?;
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let count = bytes.len().min(self.left);
        self.left -= count;
        self.out.write(&bytes[..count])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
