//! The process that looks: reads requests from its end of the socket pair, and exits when the other
//! end is closed.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::inside::{Inside, has_ended};
use super::spawn;
use super::wire::{self, Answer, Reply, Request};

/// The descriptors of its end of the pair, and of the pidfd of a guest's init.
pub const CHANNEL: i32 = 0;
pub const INIT: i32 = 3;

/// Called first in every `main`. If the program was started to look, it does that, and this is its
/// exit status. Otherwise `None`; from now on a look is started by running this program again.
pub fn serve_if_asked() -> Option<ExitCode> {
    if std::env::args_os().next().as_deref() != Some(OsStr::new(spawn::TITLE)) {
        spawn::this_program_looks();
        return None;
    }
    if let Some(channel) = given(CHANNEL) {
        serve(channel, given(INIT));
    }
    Some(ExitCode::SUCCESS)
}

/// A descriptor from the process that started this program.
fn given(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: only queries a descriptor number.
    let open = unsafe { nix::libc::fcntl(number, nix::libc::F_GETFD) } >= 0;
    // SAFETY: it is open, and nothing else in this program, which has just begun, uses it.
    open.then(|| unsafe { OwnedFd::from_raw_fd(number) })
}

/// Waits for something to read; `false` once the guest has stopped, because a process in its mount
/// namespace would keep its volumes mounted.
fn is_needed(channel: &UnixStream, init: Option<&OwnedFd>) -> bool {
    let on = |fd| PollFd::new(fd, PollFlags::POLLIN);
    let mut fds: Vec<PollFd<'_>> = init.map(|init| on(init.as_fd())).into_iter().collect();
    fds.push(on(channel.as_fd()));
    loop {
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => {}
            Err(_) => return false,
            Ok(_) => return !init.is_some_and(|init| has_ended(init.as_fd())),
        }
    }
}

/// Answers until the other end is closed, or the guest's init has ended.
pub fn serve(channel: OwnedFd, init: Option<OwnedFd>) {
    let mut channel = UnixStream::from(channel);
    let mut inside = None;
    while is_needed(&channel, init.as_ref())
        && let Ok(Some((request, content))) = wire::take(&mut channel)
    {
        let answer = match request {
            Request::Enter(place) => {
                Inside::enter(place, init.as_ref().map(AsFd::as_fd)).map(|entered| {
                    inside = Some(entered);
                    Answer::from(Reply::Done)
                })
            }
            request => match &mut inside {
                Some(inside) => answer(inside, request, &content),
                None => Err(io::Error::other("nothing was entered")),
            },
        };
        let answer = answer.unwrap_or_else(|error| Answer::from(Reply::Failed(error.into())));
        if wire::give(&mut channel, &answer).is_err() {
            return;
        }
    }
}

fn answer(inside: &mut Inside, request: Request, content: &[u8]) -> io::Result<Answer> {
    Ok(match request {
        Request::Enter(_) => return Err(io::Error::other("entered already")),
        Request::Owner => Answer::from(Reply::User(inside.owner())),
        Request::IsDirectory { path } => Answer::from(Reply::Is(inside.is_directory(&path))),
        Request::Followed { path, around } => {
            let content = inside.followed(&path, &around)?.into_bytes();
            Answer { content, ..Answer::from(Reply::Content) }
        }
        Request::Marks { paths } => {
            let marks: Vec<String> = paths.iter().filter_map(|path| inside.mark(path)).collect();
            let content = serde_json::to_vec(&marks)?;
            Answer { content, ..Answer::from(Reply::Content) }
        }
        Request::Read { path, limit } => match inside.read(&path, limit)? {
            Some(content) => Answer { content, ..Answer::from(Reply::Content) },
            None => Answer::from(Reply::Nothing),
        },
        Request::Replace { directory, name, mode, make } => {
            inside.replace(&directory, &name, content, mode, make)?;
            Answer::from(Reply::Done)
        }
        Request::Remove { directory, name } => {
            inside.remove(&directory, &name)?;
            Answer::from(Reply::Done)
        }
        Request::Names { path, most } => match inside.names(&path, most)? {
            Some(names) => {
                let content = serde_json::to_vec(&names)?;
                Answer { content, ..Answer::from(Reply::Content) }
            }
            None => Answer::from(Reply::Nothing),
        },
        Request::Socket { path } => match inside.socket(&path)? {
            Some((number, identity)) => Answer::from(Reply::Socket(number, identity)),
            None => Answer::from(Reply::Nothing),
        },
        Request::Connect { number } => {
            let descriptor = Some(inside.connect(number)?);
            Answer { descriptor, ..Answer::from(Reply::Connected) }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::process::Pidfd;
    use std::process::Command;
    use std::time::{Duration, Instant};

    #[test]
    fn who_looks_ends_with_the_guests_init() {
        let mut init = Command::new("sleep").arg("600").spawn().unwrap();
        let pidfd = OwnedFd::from(Pidfd::open(init.id().cast_signed()).unwrap());
        let child = spawn::looking("guest 9001", Some(pidfd.as_fd()), false).unwrap();
        let soon = Instant::now() + Duration::from_secs(60);
        wire::ask(child.channel.as_fd(), &Request::Owner, &[], soon).unwrap();
        let answer = wire::answer(child.channel.as_fd(), soon).unwrap();
        assert!(matches!(answer.reply, Reply::Failed(_)), "nothing was entered, but it answers");
        init.kill().unwrap();
        init.wait().unwrap();
        let rest = wire::deadline_read(child.channel.as_fd(), soon).unwrap();
        assert!(rest.is_empty());
    }
}
