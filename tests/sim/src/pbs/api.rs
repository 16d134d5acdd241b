//! From a request to an answer: format, login, routing, and the shape of errors.

use std::io::Write;

use serde_json::{Value, json};

use super::params::{Kind, Params, optional, required};
use super::state::State;
use super::{datastore, snapshots, start, tasks};
use crate::http::{Answer, Body, BodyWriter, Request};

/// A refusal: status and plain text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    status: u16,
    text: String,
}

impl Failure {
    /// A refusal with this status and text.
    pub fn new(status: u16, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }
}

/// The result of a call.
pub enum Reply {
    /// JSON data, sent with a length.
    Data(Value),
    /// A whole JSON document, written piece by piece.
    List(BodyWriter),
    /// Something with a content type of its own.
    Other(Answer),
}

/// The outcome of a call.
pub type Outcome = Result<Reply, Failure>;

/// Queries longer than this are a 414.
const MAX_QUERY: usize = 3072;
const JSON: &str = "application/json;charset=UTF-8";

/// The answer to a request; a 401 is sent after a delay.
pub enum Verdict {
    /// Send this.
    Answer(Answer),
    /// Wait, then send this.
    Unauthorized(Answer),
}

/// The answer to a login that failed, whatever the reason.
pub fn unauthorized(text: &str) -> Answer {
    let cookie = "__Host-PBSAuthCookie=; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Secure; \
                  SameSite=Lax; HttpOnly; Path=/;";
    Answer::new(401, Body::Fixed(text.as_bytes().to_vec())).with_header("set-cookie", cookie)
}

/// Answers one request.
pub fn respond(state: &mut State, request: &Request) -> Verdict {
    if request.raw_query.len() > MAX_QUERY {
        return Verdict::Answer(Answer::new(414, Body::Fixed(Vec::new())));
    }
    state.advance();
    let segments = request.segments();
    let parts: Vec<&str> = segments.iter().map(String::as_str).collect();
    let [api, format, call @ ..] = &parts[..] else {
        return Verdict::Answer(not_found(request, &segments));
    };
    if *api != "api2" {
        return Verdict::Answer(not_found(request, &segments));
    }
    if !matches!(*format, "json" | "extjs") {
        let text = format!("Unsupported output format '{format}'.");
        return Verdict::Answer(Answer::new(400, Body::Fixed(text.into_bytes())));
    }
    let method = request.method.as_str();
    let outcome = match (method, call) {
        ("GET", ["ping"]) => Ok(Reply::Data(json!({ "pong": true }))),
        ("POST", ["access", "ticket"]) => match log_in(state, request) {
            Ok(Some(data)) => Ok(Reply::Data(data)),
            Ok(None) => {
                let refused = unauthorized("permission check failed.");
                return Verdict::Unauthorized(refused.with_header("content-type", JSON));
            }
            Err(failure) => Err(failure),
        },
        _ => {
            let now = state.now();
            let Some(auth_id) = state.access.authenticate(request, now) else {
                return Verdict::Unauthorized(unauthorized("authentication failed"));
            };
            match route(state, request, &auth_id, call) {
                Some(outcome) => outcome,
                None => return Verdict::Answer(not_found(request, &segments)),
            }
        }
    };
    Verdict::Answer(format_outcome(outcome, *format == "extjs", request))
}

fn route(state: &mut State, request: &Request, auth_id: &str, call: &[&str]) -> Option<Outcome> {
    let outcome = match (request.method.as_str(), call) {
        ("GET", ["version"]) => Params::read(request, &[], &[]).map(|_| {
            Reply::Data(json!({
                "release": "3",
                "repoid": "bc863d45e7fbadb3690143613ea70600535f23a1",
                "version": "4.2",
            }))
        }),
        ("GET", ["access", "permissions"]) => permissions(state, request, auth_id),
        ("GET", ["admin", "datastore"]) => datastore::list(state, request, auth_id),
        ("GET", ["admin", "datastore", store, what]) => {
            let call = match *what {
                "status" => datastore::status,
                "snapshots" => snapshots::snapshots,
                "groups" => snapshots::groups,
                "namespace" => datastore::namespaces,
                "files" => snapshots::files,
                "notes" => snapshots::notes,
                "group-notes" => snapshots::group_notes,
                "protected" => snapshots::protected,
                "download-decoded" => snapshots::download_decoded,
                _ => return None,
            };
            call(state, request, auth_id, store)
        }
        ("DELETE", ["admin", "datastore", store, "snapshots"]) => {
            snapshots::forget(state, request, auth_id, store)
        }
        ("POST", ["admin", "datastore", store, "verify"]) => {
            start::verify(state, request, auth_id, store)
        }
        ("GET", ["nodes", node, "tasks"]) => tasks::list(state, request, auth_id, node),
        ("GET", ["nodes", node, "tasks", upid, "status"]) => {
            tasks::status(state, request, auth_id, node, upid)
        }
        ("GET", ["nodes", node, "tasks", upid, "log"]) => {
            tasks::log(state, request, auth_id, node, upid)
        }
        ("DELETE", ["nodes", node, "tasks", upid]) => {
            tasks::stop(state, request, auth_id, node, upid)
        }
        _ => return None,
    };
    Some(outcome)
}

fn log_in(state: &State, request: &Request) -> Result<Option<Value>, Failure> {
    let known = [
        required("username", Kind::User),
        optional("password", Kind::Text),
        optional("path", Kind::Text),
        optional("privs", Kind::Text),
        optional("port", Kind::Int(0)),
        optional("tfa-challenge", Kind::Text),
    ];
    let params = Params::read(request, &[], &known)?;
    let user = params.text("username").unwrap_or_default();
    let Some(password) = params.text("password") else {
        return Err(Failure::new(400, "no password provided"));
    };
    Ok(state.access.log_in(user, password, state.now()))
}

fn permissions(state: &State, request: &Request, auth_id: &str) -> Outcome {
    let known = [optional("auth-id", Kind::Text), optional("path", Kind::Text)];
    let params = Params::read(request, &[], &known)?;
    let stores: Vec<String> = state.datastores.keys().cloned().collect();
    let access = &state.access;
    Ok(Reply::Data(access.permissions(auth_id, params.text("path"), &stores)))
}

fn not_found(request: &Request, segments: &[String]) -> Answer {
    let text = format!("Path '/{}' not found.", segments.join("/"));
    let answer = Answer::new(404, Body::Fixed(text.into_bytes()));
    if request.path.starts_with("/api2/") {
        answer.with_header("content-type", JSON)
    } else {
        answer
    }
}

fn format_outcome(outcome: Outcome, extjs: bool, request: &Request) -> Answer {
    let data = match outcome {
        Ok(Reply::Other(answer)) => return answer,
        Ok(Reply::List(write)) => {
            let answer = Answer::new(200, Body::Stream(write));
            return deflated(answer.with_header("content-type", JSON), request);
        }
        Ok(Reply::Data(data)) if extjs => json!({"data": data, "status": 200, "success": true}),
        Ok(Reply::Data(data)) => json!({ "data": data }),
        Err(Failure { status, text }) if extjs => {
            json!({"message": text, "status": status, "success": false})
        }
        Err(Failure { status, text }) => {
            return Answer::new(status, Body::Fixed(text.into_bytes()))
                .with_header("content-type", JSON);
        }
    };
    let answer = Answer::new(200, Body::Fixed(data.to_string().into_bytes()));
    deflated(answer.with_header("content-type", JSON), request)
}

/// Encodes the body for a client that accepts `deflate`. Nothing is really compressed: stored
/// blocks are valid too.
fn deflated(answer: Answer, request: &Request) -> Answer {
    let accepted = request.header("accept-encoding").unwrap_or_default();
    if !accepted.split(',').any(|name| name.trim() == "deflate") {
        return answer;
    }
    let mut answer = answer.with_header("content-encoding", "deflate");
    answer.body = match answer.body {
        Body::Fixed(bytes) => Body::Chunked(zlib_stored(&bytes)),
        Body::Stream(write) => Body::Stream(Box::new(move |out: &mut dyn Write| {
            let mut bytes = Vec::new();
            write(&mut bytes)?;
            out.write_all(&zlib_stored(&bytes))
        })),
        other => other,
    };
    answer
}

fn zlib_stored(bytes: &[u8]) -> Vec<u8> {
    let mut stream = vec![0x78, 0x01];
    let blocks = bytes.len().div_ceil(0xffff).max(1);
    for at in 0..blocks {
        let block = &bytes[at * 0xffff..bytes.len().min((at + 1) * 0xffff)];
        let length = block.len() as u16;
        stream.push(u8::from(at + 1 == blocks));
        stream.extend_from_slice(&length.to_le_bytes());
        stream.extend_from_slice(&(!length).to_le_bytes());
        stream.extend_from_slice(block);
    }
    let (a, b) = bytes.iter().fold((1_u32, 0_u32), |(a, b), byte| {
        let a = (a + u32::from(*byte)) % 65_521;
        (a, (b + a) % 65_521)
    });
    stream.extend_from_slice(&((b << 16) | a).to_be_bytes());
    stream
}
