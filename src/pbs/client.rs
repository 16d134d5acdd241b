//! Requests to a backup server (FACTS-PBS.md, Requests): bodies are forms only, because with a JSON
//! content type the server ignores the query string. Error bodies are plain text, whatever their
//! content type says.

use std::fmt;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{fields, tls};
use crate::pve::storage::{self, Secret, Target};
use crate::sys::Root;
use crate::sys::http::{Body, Client, Failure, Incoming, Limit, Method, Request};
use crate::sys::text;

/// The largest answer about a single thing, in bytes. A manifest has 1 kB, and more with long
/// notes.
pub(super) const SMALL: usize = 1024 * 1024;

/// The longest server error that is passed on, in characters, and the most bytes that are read for
/// it.
const REASON: usize = 300;
const REASON_BYTES: u64 = 64 * 1024;

/// The beginning of the reason if a login needs more than a password.
pub const SECOND_FACTOR: &str = "the login needs a second factor";

/// A backup server as one storage sees it: a datastore, a namespace and a login. It keeps its
/// connection open; several threads may use it at once.
#[derive(Debug)]
pub struct Pbs {
    http: Client,
    login: Login,
    target: Target,
}

#[derive(Debug)]
enum Login {
    /// The whole value of the Authorization header.
    Token(Secret),
    Password {
        password: Secret,
        ticket: Mutex<Option<Arc<Ticket>>>,
    },
}

/// The ticket of a login with a password; it is valid for two hours.
#[derive(Debug)]
struct Ticket {
    cookie: Secret,
    csrf: Secret,
}

/// Why a request to the backup server failed.
#[derive(Debug)]
pub enum Error {
    /// The storage cannot be used as it is configured; nothing was sent.
    Misconfigured(String),
    /// The server did not answer, or has the wrong certificate. `unsent`: it has certainly not seen
    /// the request.
    Unreachable { reason: String, unsent: bool },
    /// The login is refused, or has no right. A wrong owner is a 400, everything else a 401 or 403.
    Denied { status: u16, reason: String },
    /// The server answers that it cannot do this.
    Refused { status: u16, reason: String },
    /// The server does not have the snapshot that it was asked about.
    Gone,
    /// The answer does not match the request.
    Invalid(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Misconfigured(reason) => write!(f, "{reason}"),
            Error::Unreachable { reason, .. } => {
                write!(f, "backup server not reachable: {reason}")
            }
            Error::Denied { status, reason } => {
                write!(f, "backup server denied access ({status}): {reason}")
            }
            Error::Refused { status, reason } => {
                write!(f, "backup server refused ({status}): {reason}")
            }
            Error::Gone => f.write_str(
                "the snapshot is not on the server: it was pruned or removed, its group was moved to another namespace, \
                 its datastore's disk is not mounted, or the storage leads elsewhere now",
            ),
            Error::Invalid(reason) => {
                write!(f, "answer of the backup server not understood: {reason}")
            }
        }
    }
}

impl std::error::Error for Error {}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        let unsent = failure.unsent();
        let reason = match &failure {
            Failure::Tls { peer, error, .. } => format!("{peer}: {}", tls::explain(error)),
            Failure::TooLarge { .. } => return Error::Invalid(failure.to_string()),
            _ => failure.to_string(),
        };
        Error::Unreachable { reason, unsent }
    }
}

impl Pbs {
    /// The backup server of a storage of the node. Nothing is sent yet.
    ///
    /// # Errors
    /// [`Error::Misconfigured`] if there is no such storage, it is not of type pbs, it has no
    /// secret, or its fingerprint is invalid.
    pub fn open(root: &Root, storage: &str) -> Result<Pbs, Error> {
        let wrong = |reason: String| Error::Misconfigured(format!("storage {storage}: {reason}"));
        let found = storage::find(root, storage)
            .map_err(|error| wrong(format!("/etc/pve/storage.cfg: {error}")))?
            .ok_or_else(|| wrong("not in /etc/pve/storage.cfg".to_owned()))?;
        if found.kind != "pbs" {
            return Err(wrong(format!("of type {}, not pbs", found.kind)));
        }
        let target = found
            .target
            .ok_or_else(|| wrong("needs a server, a datastore and a valid port".to_owned()))?;
        let secret = storage::secret(root, storage)
            .map_err(|error| wrong(format!("/etc/pve/priv/storage/{storage}.pw: {error}")))?;
        let config = match &target.fingerprint {
            Some(text) => tls::pinned(text.parse().map_err(|error| wrong(format!("{error}")))?),
            None => tls::system_roots(),
        };
        let config = config.map_err(|error| wrong(error.to_string()))?;
        Ok(Pbs::new(target, &secret, config))
    }

    /// A backup server from another source. `secret` is the token's if the target's user name
    /// contains a `!`, else the user's password.
    pub fn new(target: Target, secret: &Secret, config: Arc<ClientConfig>) -> Pbs {
        let login = if target.username.contains('!') {
            let header = format!("PBSAPIToken={}:{}", target.username, secret.expose());
            Login::Token(header.into())
        } else {
            Login::Password { password: secret.clone(), ticket: Mutex::new(None) }
        };
        Pbs { http: Client::tls(&target.server, target.port, config), login, target }
    }

    /// The storage's settings.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The path of a call on this storage's datastore.
    pub(super) fn datastore(&self, call: &str) -> String {
        let store = text::percent_encoded(&self.target.datastore);
        format!("/api2/json/admin/datastore/{store}/{call}")
    }

    /// GET; returns `data` of the answer.
    pub(super) fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
        limit: Limit,
    ) -> Result<T, Error> {
        data(&self.get_raw(path, query, limit)?)
    }

    /// GET; also returns the header Date of the answer.
    pub(super) fn get_dated<T: DeserializeOwned>(
        &self,
        path: &str,
        deadline: Instant,
    ) -> Result<(Option<String>, T), Error> {
        let answer = self.call(Method::Get, path, None, small(deadline), None)?;
        let date = answer.header("date").map(str::to_owned);
        Ok((date, data(&answer.body.whole()?)?))
    }

    /// GET; returns the raw body.
    pub(super) fn get_raw(
        &self,
        path: &str,
        query: &[(&str, &str)],
        limit: Limit,
    ) -> Result<Vec<u8>, Error> {
        let answer = self.call(Method::Get, &asking(path, query), None, limit, None)?;
        Ok(answer.body.whole()?)
    }

    /// GET; returns the body for reading piece by piece, with no pause longer than `pause`.
    pub(super) fn open_body(
        &self,
        path: &str,
        query: &[(&str, &str)],
        limit: Limit,
        pause: Duration,
    ) -> Result<Body, Error> {
        let answer = self.call(Method::Get, &asking(path, query), None, limit, Some(pause))?;
        Ok(answer.body)
    }

    /// POST of a form; returns `data` of the answer. It is sent once, or a second time after an
    /// expired login.
    pub(super) fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        form: &[(&str, &str)],
        limit: Limit,
    ) -> Result<T, Error> {
        data(&self.call(Method::Post, path, Some(&fields(form)), limit, None)?.body.whole()?)
    }

    /// DELETE, sent like a POST.
    pub(super) fn delete(&self, path: &str, limit: Limit) -> Result<(), Error> {
        self.call(Method::Delete, path, None, limit, None)?.body.whole()?;
        Ok(())
    }

    fn call(
        &self,
        method: Method,
        path: &str,
        form: Option<&str>,
        limit: Limit,
        pause: Option<Duration>,
    ) -> Result<Incoming, Error> {
        let send = |headers: &[(&str, &str)]| {
            self.http.open(&Request { method, path, headers, form, json: None }, limit, pause)
        };
        let (password, cache) = match &self.login {
            Login::Token(header) => {
                return accept(send(&[("Authorization", header.expose())])?);
            }
            Login::Password { password, ticket } => (password, ticket),
        };
        let with = |ticket: &Ticket| {
            let cookie = ("Cookie", ticket.cookie.expose());
            match method {
                Method::Get => send(&[cookie]),
                Method::Post | Method::Delete => {
                    send(&[cookie, ("CSRFPreventionToken", ticket.csrf.expose())])
                }
            }
        };
        let cached = cache.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(ticket) = cached {
            let answer = with(&ticket)?;
            if answer.status != 401 {
                return accept(answer);
            }
        }
        let ticket = Arc::new(self.log_in(password, limit)?);
        *cache.lock().unwrap_or_else(PoisonError::into_inner) = Some(ticket.clone());
        accept(with(&ticket)?)
    }

    fn log_in(&self, password: &Secret, limit: Limit) -> Result<Ticket, Error> {
        #[derive(Deserialize)]
        struct Granted {
            ticket: String,
            #[serde(rename = "CSRFPreventionToken")]
            csrf: Option<String>,
        }
        let username = ("username", self.target.username.as_str());
        let form = fields(&[username, ("password", password.expose())]);
        let request = Request {
            method: Method::Post,
            path: "/api2/json/access/ticket",
            headers: &[],
            form: Some(&form),
            json: None,
        };
        let body = SMALL.min(limit.body);
        let answer = self.http.open(&request, Limit { body, ..limit }, None)?;
        let granted: Granted = data(&accept(answer)?.body.whole()?)?;
        match granted.csrf {
            Some(csrf) if !granted.ticket.starts_with("PBS:!tfa!") => Ok(Ticket {
                cookie: format!("PBSAuthCookie={}", text::percent_encoded(&granted.ticket)).into(),
                csrf: csrf.into(),
            }),
            _ => Err(Error::Denied {
                status: 401,
                reason: format!("{SECOND_FACTOR}: use an API token"),
            }),
        }
    }
}

fn asking(path: &str, query: &[(&str, &str)]) -> String {
    let mark = if query.is_empty() { "" } else { "?" };
    format!("{path}{mark}{}", fields(query))
}

/// A successful answer unchanged, or the error that another status means.
fn accept(answer: Incoming) -> Result<Incoming, Error> {
    let Incoming { status, mut body, .. } = match answer {
        success if (200..300).contains(&success.status) => return Ok(success),
        other => other,
    };
    let mut text = Vec::new();
    if body.by_ref().take(REASON_BYTES).read_to_end(&mut text).is_err()
        && let Some(failure) = body.failure()
    {
        return Err(failure.into());
    }
    let reason = printable(&text);
    // These two errors are about rights, although they are a 400.
    let owner =
        reason.starts_with("backup owner check failed") || reason == "task access not allowed";
    Err(match status {
        401 | 403 => Error::Denied { status, reason },
        400 if owner => Error::Denied { status, reason },
        _ => Error::Refused { status, reason },
    })
}

fn data<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    #[derive(Deserialize)]
    struct Envelope<T> {
        data: T,
    }
    json(body).map(|envelope: Envelope<T>| envelope.data)
}

pub(super) fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    // serde would accept a list as an object, by the order of the fields.
    if body.trim_ascii_start().first() != Some(&b'{') {
        let text = format!("expected an object: {}", printable(body));
        return Err(Error::Invalid(text));
    }
    serde_json::from_slice(body).map_err(|error| {
        let text = error.to_string();
        Error::Invalid(printable(text.as_bytes()))
    })
}

/// A server's text for a terminal and a journal: one line, with a length limit and escaped control
/// characters.
pub(super) fn printable(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text::printable(&text.trim().replace(['\n', '\t'], " "), REASON)
}

/// The limits for a request with a short answer.
pub(super) fn small(deadline: Instant) -> Limit {
    Limit { deadline, body: SMALL }
}

#[cfg(test)]
pub(super) mod tests;
