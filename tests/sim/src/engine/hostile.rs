//! A malicious or broken engine: the guest is not trusted.

use super::{Inner, actions, json};
use crate::http::{Answer, Body, Request};
use std::io::Write;
use std::time::Duration;

/// What the engine does instead of answering properly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hostile {
    /// Takes the request and never answers.
    Silent,
    /// Sends every answer one byte a second.
    Trickle,
    /// The list of containers never ends.
    EndlessList,
    /// Every answer is JSON nested this deep.
    Deep(usize),
    /// No answer is valid JSON.
    Garbage,
    /// Closes every connection without an answer.
    Hangup,
    /// Answers requests that change something with this status.
    Fails(u16),
    /// Answers stops with "done" and stops nothing.
    Liar,
    /// Lists containers normally, accepts stop requests, never answers them and stops nothing.
    DeafToStop,
    /// The same for start requests.
    DeafToStart,
    /// Never answers `/info`.
    Secretive,
}

/// The hostile answer, if this request gets one.
pub fn answer(inner: &Inner, hostile: Hostile, request: &Request) -> Option<Answer> {
    let changes = matches!(request.method.as_str(), "POST" | "DELETE");
    let lists = request.path.ends_with("/containers/json");
    let stops = changes && request.path.ends_with("/stop");
    match hostile {
        Hostile::Silent => Some(never(inner)),
        Hostile::DeafToStop => stops.then(|| never(inner)),
        Hostile::DeafToStart => (changes && request.path.ends_with("/start")).then(|| never(inner)),
        Hostile::Secretive => request.path.ends_with("/info").then(|| never(inner)),
        Hostile::Trickle => {
            let list = inner.lock().containers.iter().map(json::entry).collect();
            let bytes = serde_json::Value::Array(list).to_string().into_bytes();
            let pause = Duration::from_secs(1);
            Some(Answer::new(200, Body::Trickle { bytes, piece: 1, pause }))
        }
        Hostile::EndlessList if lists => {
            let entry = inner.lock().containers.first().map(json::entry)?;
            let entry = format!("{entry},");
            let body = Body::Stream(Box::new(move |output: &mut dyn Write| {
                output.write_all(b"[")?;
                loop {
                    output.write_all(entry.as_bytes())?;
                }
            }));
            Some(Answer::new(200, body).with_header("content-type", "application/json"))
        }
        Hostile::EndlessList => None,
        Hostile::Deep(levels) => {
            let body = "[".repeat(levels) + &"]".repeat(levels);
            Some(Answer::new(200, Body::Fixed(body.into_bytes())))
        }
        Hostile::Garbage => {
            let body = b"\x1b[2J\xff\xfe{\"not\": json".to_vec();
            Some(Answer::new(200, Body::Fixed(body)))
        }
        Hostile::Hangup => Some(Answer::new(500, Body::Nothing)),
        Hostile::Fails(status) => {
            changes.then(|| actions::refuse(status, "no such thing today".to_owned()))
        }
        Hostile::Liar => stops.then(|| Answer::new(204, Body::Fixed(Vec::new()))),
    }
}

/// Waits until the guest is off or the simulation ends.
fn never(inner: &Inner) -> Answer {
    let boot = inner.lock().boots;
    actions::pass(inner, Duration::MAX, |inner| {
        let state = inner.lock();
        state.up && state.boots == boot
    });
    Answer::new(500, Body::Nothing)
}
