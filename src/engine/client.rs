use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use super::container::Container;
use super::engines::Kind;
use super::info::Info;
use super::kept::is_id;
use crate::sys::http::{Answer, Client, Limit, Method, Request};
use crate::sys::text;
use crate::sys::tree::Socket;

/// In bytes: ten thousand running containers of about 1.5 kB each in a list; one container in full;
/// the answer to a stop or start.
const LIST_LIMIT: usize = 16 << 20;
pub(super) const CONTAINER_LIMIT: usize = 1 << 20;
pub(super) const ACTION_LIMIT: usize = 64 << 10;

/// How much of an engine's error is kept, in characters.
const LONGEST_MESSAGE: usize = 300;

/// For every request except stop and start: a healthy engine answers in milliseconds; a start takes
/// seconds.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);

/// Why a request has no successful answer.
#[derive(Debug)]
pub enum Error {
    /// 404: there is no such container.
    Gone,
    /// The engine refused, with this status and error.
    Refused(u16, String),
    /// No answer, or an invalid one.
    Failed(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Gone => f.write_str("there is no such container"),
            Error::Refused(status, reason) => write!(f, "the engine answered {status}: {reason}"),
            Error::Failed(reason) => f.write_str(reason),
        }
    }
}

impl std::error::Error for Error {}

/// A container engine of a guest; [`Engines`](super::Engines) finds it.
#[derive(Clone, Debug)]
pub struct Engine {
    client: Client,
    kind: Kind,
    /// Its path in the guest.
    path: Arc<str>,
}

impl Engine {
    /// The engine that listens on this socket, which is at `path` in the guest.
    pub fn new(socket: Socket, kind: Kind, path: &str) -> Engine {
        let client = Client::unix(path, Box::new(move || socket.connect()));
        Engine { client, kind, path: path.into() }
    }

    #[cfg(test)]
    pub(super) fn of_walk(path: &str) -> Engine {
        let nowhere = || Err(std::io::ErrorKind::NotFound.into());
        let client = Client::unix(path, Box::new(nowhere));
        Engine { client, kind: Kind::Docker, path: path.into() }
    }

    /// Docker or Podman, by the place of its socket.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Where its socket is in the guest: the engine's name in plans, runs and notes.
    pub fn socket(&self) -> &str {
        &self.path
    }

    /// The command to type in the guest for this engine: `docker`, or `podman` with the socket of a
    /// rootless engine.
    pub fn client_command(&self) -> String {
        let (program, option) = match self.kind {
            Kind::Docker => ("docker", "-H"),
            Kind::Podman => ("podman", "--url"),
        };
        match self.path.starts_with("/run/user/") {
            true => format!("{program} {option} unix://{}", self.path),
            false => program.to_string(),
        }
    }

    /// Whether the engine answers at all.
    pub fn ping(&self, deadline: Instant) -> Result<(), Error> {
        match self.get("/_ping", ACTION_LIMIT, deadline) {
            Err(Error::Failed(why)) => Err(Error::Failed(why)),
            Ok(_) | Err(Error::Gone | Error::Refused(..)) => Ok(()),
        }
    }

    /// What the engine reports about itself.
    pub fn info(&self, deadline: Instant) -> Result<Info, Error> {
        Info::parse(&self.get("/info", CONTAINER_LIMIT, deadline)?.body).map_err(not_understood)
    }

    /// The ids of the containers that run, paused ones included.
    pub fn running(&self, deadline: Instant) -> Result<Vec<String>, Error> {
        self.list("/containers/json", deadline)
    }

    /// The ids of all containers of a compose service, running or not.
    pub fn of_service(
        &self,
        project: &str,
        service: &str,
        deadline: Instant,
    ) -> Result<Vec<String>, Error> {
        let filters = serde_json::json!({ "label": [
            format!("com.docker.compose.project={project}"),
            format!("com.docker.compose.service={service}"),
        ]});
        let filters = text::percent_encoded(&filters.to_string());
        self.list(&format!("/containers/json?all=1&filters={filters}"), deadline)
    }

    /// A container with its settings and its present state.
    pub fn inspect(&self, id: &str, deadline: Instant) -> Result<Container, Error> {
        let answer =
            self.get(&format!("/containers/{}/json", checked(id)?), CONTAINER_LIMIT, deadline)?;
        let container = Container::parse(&answer.body).map_err(not_understood)?;
        Ok(Container { engine: self.path.to_string(), ..container })
    }

    /// Stops a container with its own stop timeout; returns when it has stopped. Already stopped is
    /// success.
    pub fn stop(&self, id: &str, deadline: Instant) -> Result<(), Error> {
        self.act(id, "stop", deadline)
    }

    /// Starts a container. Already running is success.
    ///
    /// A 404 is `Refused` here, because it may be about another container whose namespace this one
    /// joins. Engines cancel a start whose client is gone, so it may take until `deadline`.
    pub fn start(&self, id: &str, deadline: Instant) -> Result<(), Error> {
        let path = format!("/containers/{}/start", checked(id)?);
        let request =
            Request { method: Method::Post, path: &path, headers: &[], form: None, json: None };
        let answer = self.exchange(&request, ACTION_LIMIT, deadline)?;
        match answer.status {
            404 => Err(Error::Refused(404, message(&answer.body, LONGEST_MESSAGE))),
            _ => judged(answer).map(drop),
        }
    }

    /// Pauses a container.
    pub fn pause(&self, id: &str, deadline: Instant) -> Result<(), Error> {
        self.act(id, "pause", deadline.min(Instant::now() + REQUEST_LIMIT))
    }

    /// Unpauses a container.
    pub fn unpause(&self, id: &str, deadline: Instant) -> Result<(), Error> {
        self.act(id, "unpause", deadline.min(Instant::now() + REQUEST_LIMIT))
    }

    pub(super) fn list(&self, path: &str, deadline: Instant) -> Result<Vec<String>, Error> {
        Container::parse_list(&self.get(path, LIST_LIMIT, deadline)?.body).map_err(not_understood)
    }

    pub(super) fn get(&self, path: &str, body: usize, deadline: Instant) -> Result<Answer, Error> {
        self.send(Method::Get, path, body, deadline.min(Instant::now() + REQUEST_LIMIT))
    }

    fn act(&self, id: &str, verb: &str, deadline: Instant) -> Result<(), Error> {
        let path = format!("/containers/{}/{verb}", checked(id)?);
        self.send(Method::Post, &path, ACTION_LIMIT, deadline).map(drop)
    }

    pub(super) fn get_json<T: DeserializeOwned>(
        &self,
        path: &str,
        deadline: Instant,
    ) -> Result<T, Error> {
        understood(&self.get(path, ACTION_LIMIT, deadline)?)
    }

    /// As [`Engine::get_json`], for an answer as long as an inspection's.
    pub(super) fn get_json_of_container<T: DeserializeOwned>(
        &self,
        path: &str,
        deadline: Instant,
    ) -> Result<T, Error> {
        understood(&self.get(path, CONTAINER_LIMIT, deadline)?)
    }

    pub(super) fn post_json<T: DeserializeOwned>(
        &self,
        path: &str,
        json: &str,
        deadline: Instant,
    ) -> Result<T, Error> {
        understood(&self.post(path, json, deadline)?)
    }

    pub(super) fn post(&self, path: &str, json: &str, deadline: Instant) -> Result<Answer, Error> {
        let deadline = deadline.min(Instant::now() + REQUEST_LIMIT);
        let request =
            Request { method: Method::Post, path, headers: &[], form: None, json: Some(json) };
        self.ask(&request, ACTION_LIMIT, deadline)
    }

    pub(super) fn send(
        &self,
        method: Method,
        path: &str,
        body: usize,
        deadline: Instant,
    ) -> Result<Answer, Error> {
        let request = Request { method, path, headers: &[], form: None, json: None };
        self.ask(&request, body, deadline)
    }

    fn ask(&self, request: &Request<'_>, body: usize, deadline: Instant) -> Result<Answer, Error> {
        judged(self.exchange(request, body, deadline)?)
    }

    /// The answer, whatever its status.
    pub(super) fn exchange(
        &self,
        request: &Request<'_>,
        body: usize,
        deadline: Instant,
    ) -> Result<Answer, Error> {
        #[cfg(test)]
        if let Some(walk) = crate::sys::walk::current() {
            let method = if request.method == Method::Get { "GET" } else { "POST" };
            let (status, body) = walk
                .engine(method, request.path)
                .map_err(|error| Error::Failed(error.to_string()))?;
            return Ok(Answer::of_walk(status, body));
        }
        self.client
            .send(request, Limit { deadline, body })
            .map_err(|failure| Error::Failed(text::printable(&failure.to_string(), 300)))
    }
}

fn judged(answer: Answer) -> Result<Answer, Error> {
    match answer.status {
        // 304: already in that state.
        200..=299 | 304 => Ok(answer),
        404 => Err(Error::Gone),
        status => Err(Error::Refused(status, message(&answer.body, LONGEST_MESSAGE))),
    }
}

pub(super) fn checked(id: &str) -> Result<&str, Error> {
    if is_id(id) {
        return Ok(id);
    }
    Err(Error::Failed(format!("the engine names a container '{}'", text::printable(id, 80))))
}

fn understood<T: DeserializeOwned>(answer: &Answer) -> Result<T, Error> {
    serde_json::from_slice(&answer.body).map_err(|error| not_understood(text::excerpt(&error, 300)))
}

pub(super) fn not_understood(why: String) -> Error {
    Error::Failed(format!("the engine's answer is not understood: {why}"))
}

/// The engine's errors are `{"message": "..."}`; cut after `longest` characters.
pub(super) fn message(body: &[u8], longest: usize) -> String {
    #[derive(serde::Deserialize)]
    struct Refusal {
        message: String,
    }
    let words = serde_json::from_slice::<Refusal>(body)
        .map(|refusal| refusal.message)
        .unwrap_or_else(|_| String::from_utf8_lossy(body).into_owned());
    text::printable(words.trim(), longest)
}
