use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::hung::Watched;
use super::inside::has_ended;
use super::spawn::{self, Child};
use super::wire::{self, Answer, Place, Reply, Request};

/// Time to start the process and take the rights: a few milliseconds, on a node under heavy load
/// some hundred.
const ENTER_LIMIT: Duration = Duration::from_secs(5);

/// Looks into one guest through a separate process, which starts with the first request and ends
/// with this handle. Threads share it, one request at a time.
pub struct Looker {
    place: Place,
    /// The pidfd of the guest's init.
    init: Option<OwnedFd>,
    watched: Watched,
    state: Mutex<State>,
}

enum State {
    /// Not started yet.
    Idle,
    Looking(Child),
    /// It did not answer, with this error, and gets no further requests.
    Hung(String),
}

impl Looker {
    /// `init`: the pidfd of the process that [`Place::Init`] names.
    pub fn new(place: Place, init: Option<OwnedFd>, watched: Watched) -> Looker {
        Looker { place, init, watched, state: Mutex::new(State::Idle) }
    }

    /// Whether another handle of the guest may use it too. One that hangs gets no further requests;
    /// a new looker finds out whether the guest still hangs.
    pub fn is_usable(&self) -> bool {
        // A looker that is in use now has not failed.
        self.state.try_lock().map_or(true, |state| !matches!(*state, State::Hung(_)))
    }

    /// Sends a request and returns the answer within `limit`. Waiting for other threads, and for
    /// other processes, may take as long again each.
    ///
    /// # Errors
    /// `TimedOut` if no answer came, or if an earlier look at this guest still hangs.
    pub fn ask(&self, request: &Request, content: &[u8], limit: Duration) -> io::Result<Answer> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::Hung(why) = &*state {
            return Err(io::Error::new(io::ErrorKind::TimedOut, why.clone()));
        }
        let _alone = self.watched.alone(limit)?;
        let child = match (self.watched.earlier(), std::mem::replace(&mut *state, State::Idle)) {
            (Some(error), _) => Err(error),
            (None, State::Looking(child)) => Ok(child),
            (None, _) => self.enter(),
        };
        let answered = child.and_then(|child| self.exchange(child, request, content, limit));
        match answered {
            Ok((child, answer)) => {
                *state = State::Looking(child);
                match answer.reply {
                    Reply::Failed(failure) => Err(failure.into()),
                    _ => Ok(answer),
                }
            }
            Err(error) => {
                if error.kind() == io::ErrorKind::TimedOut {
                    *state = State::Hung(error.to_string());
                }
                Err(error)
            }
        }
    }

    fn enter(&self) -> io::Result<Child> {
        let apart = matches!(self.place, Place::Init { .. }) && nix::unistd::geteuid().is_root();
        let init = self.init.as_ref().map(AsFd::as_fd);
        let child = spawn::looking(self.watched.name(), init, apart)?;
        let request = Request::Enter(self.place.clone());
        let (child, answer) = self.exchange(child, &request, &[], ENTER_LIMIT)?;
        match answer.reply {
            Reply::Failed(failure) => Err(failure.into()),
            _ => Ok(child),
        }
    }

    /// A child that does not answer is left behind; one that has ended is of no use.
    fn exchange(
        &self,
        child: Child,
        request: &Request,
        content: &[u8],
        limit: Duration,
    ) -> io::Result<(Child, Answer)> {
        let deadline = Instant::now() + limit;
        match exchange(child.channel.as_fd(), request, content, deadline) {
            Ok(answer) => Ok((child, answer)),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                Err(child.leave(&self.watched, limit))
            }
            Err(_) if self.init.as_ref().is_some_and(|init| has_ended(init.as_fd())) => {
                let text = format!("{} is gone: the guest has stopped", self.watched.name());
                Err(io::Error::other(text))
            }
            Err(error) => {
                let text =
                    format!("the process that looks at {} failed: {error}", self.watched.name());
                Err(io::Error::other(text))
            }
        }
    }
}

fn exchange(
    channel: BorrowedFd<'_>,
    request: &Request,
    content: &[u8],
    deadline: Instant,
) -> io::Result<Answer> {
    wire::ask(channel, request, content, deadline)?;
    wire::answer(channel, deadline)
}
