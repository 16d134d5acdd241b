//! The messages between the looking process and its parent: a header of two lengths, a word in
//! JSON, and bytes.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, send, sendmsg};
use serde::{Deserialize, Serialize};

/// Two 32-bit numbers: the length of the word and of the bytes.
const HEAD: usize = 8;

/// The longest word: a path has at most 4,096 bytes, and in JSON a byte becomes up to six.
const WORD: usize = 64 << 10;

/// The most bytes with a word: more than the largest file that is read in a guest (16 MiB).
const BYTES: usize = 32 << 20;

/// The place to look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// A directory that stands in for a guest's root (tests/README.md).
    Directory(PathBuf),
    /// The root of the process with that pid, whose pidfd the child has. `users` is its uid_map:
    /// first id in the guest, first id on the node, count; empty if they are the same.
    Init { pid: i32, users: Vec<[u32; 3]> },
}

/// A request. Paths are those in the tree.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// Comes first, and once: opens the root directory and takes the rights of its owner.
    Enter(Place),
    /// The user id of the guest's root on the node.
    Owner,
    IsDirectory {
        path: String,
    },
    Names {
        path: String,
        most: usize,
    },
    /// Where the path leads after following its links, without looking at or below `around`.
    Followed {
        path: String,
        around: Vec<String>,
    },
    /// What tells each of these files from one that is put in its place.
    Marks {
        paths: Vec<String>,
    },
    Read {
        path: String,
        limit: u64,
    },
    /// With the new content.
    Replace {
        directory: String,
        name: String,
        mode: u32,
        make: bool,
    },
    Remove {
        directory: String,
        name: String,
    },
    Socket {
        path: String,
    },
    /// The number is from an earlier [`Reply::Socket`].
    Connect {
        number: usize,
    },
}

/// An answer.
#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    Done,
    /// There is nothing at that path.
    Nothing,
    Is(bool),
    /// With the content of the file, the names or marks in JSON, or the path.
    Content,
    /// A user id on the node.
    User(u32),
    /// There is a socket; this number identifies it from now on.
    Socket(usize, Identity),
    /// With the connected socket.
    Connected,
    Failed(Failure),
}

/// Identifies a socket.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Identity {
    /// Device and inode: two sockets with the same values are one.
    pub inode: (u64, u64),
    /// The user id of its owner on the node.
    pub owner: u32,
}

/// An answer with its descriptor and bytes.
pub struct Answer {
    pub reply: Reply,
    pub content: Vec<u8>,
    pub descriptor: Option<OwnedFd>,
}

impl From<Reply> for Answer {
    fn from(reply: Reply) -> Answer {
        Answer { reply, content: Vec::new(), descriptor: None }
    }
}

/// An error in the form that is sent to another process.
#[derive(Debug, Serialize, Deserialize)]
pub enum Failure {
    Os(i32),
    InvalidInput(String),
    TooLarge(String),
    Other(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        match (error.raw_os_error(), error.kind()) {
            (Some(number), _) => Failure::Os(number),
            (None, io::ErrorKind::InvalidInput) => Failure::InvalidInput(error.to_string()),
            (None, io::ErrorKind::FileTooLarge) => Failure::TooLarge(error.to_string()),
            (None, _) => Failure::Other(error.to_string()),
        }
    }
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> io::Error {
        match failure {
            Failure::Os(number) => io::Error::from_raw_os_error(number),
            Failure::InvalidInput(text) => io::Error::new(io::ErrorKind::InvalidInput, text),
            Failure::TooLarge(text) => io::Error::new(io::ErrorKind::FileTooLarge, text),
            Failure::Other(text) => io::Error::other(text),
        }
    }
}

fn framed(word: &impl Serialize, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let word = serde_json::to_vec(word)?;
    let length = |length: usize| u32::try_from(length).map_err(io::Error::other);
    let mut frame = Vec::with_capacity(HEAD + word.len() + bytes.len());
    frame.extend(length(word.len())?.to_le_bytes());
    frame.extend(length(bytes.len())?.to_le_bytes());
    frame.extend(word);
    frame.extend(bytes);
    Ok(frame)
}

fn lengths(head: [u8; HEAD]) -> io::Result<(usize, usize)> {
    let [a, b, c, d, e, f, g, h] = head;
    let number = |bytes| u32::from_le_bytes(bytes) as usize;
    let (word, bytes) = (number([a, b, c, d]), number([e, f, g, h]));
    if word > WORD || bytes > BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a length that cannot be"));
    }
    Ok((word, bytes))
}

/// The next request; `None` if the other end is closed. Waits without a limit.
pub fn take(channel: &mut UnixStream) -> io::Result<Option<(Request, Vec<u8>)>> {
    let mut head = [0; HEAD];
    match channel.read_exact(&mut head) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let (word, bytes) = lengths(head)?;
    let (mut word, mut bytes) = (vec![0; word], vec![0; bytes]);
    channel.read_exact(&mut word)?;
    channel.read_exact(&mut bytes)?;
    Ok(Some((serde_json::from_slice(&word)?, bytes)))
}

/// Sends the answer. Waits without a limit.
pub fn give(channel: &mut UnixStream, answer: &Answer) -> io::Result<()> {
    let frame = framed(&answer.reply, &answer.content)?;
    let sent = match &answer.descriptor {
        Some(descriptor) => {
            let descriptors = [descriptor.as_raw_fd()];
            let rights = [ControlMessage::ScmRights(&descriptors)];
            let frame = [IoSlice::new(&frame)];
            sendmsg::<()>(channel.as_raw_fd(), &frame, &rights, MsgFlags::MSG_NOSIGNAL, None)?
        }
        None => 0,
    };
    channel.write_all(frame.get(sent..).unwrap_or_default())
}

/// Sends a request until `deadline`.
pub fn ask(
    channel: BorrowedFd<'_>,
    request: &Request,
    content: &[u8],
    deadline: Instant,
) -> io::Result<()> {
    let frame = framed(request, content)?;
    let mut left = frame.as_slice();
    while !left.is_empty() {
        wait(channel, PollFlags::POLLOUT, deadline)?;
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        match send(channel.as_raw_fd(), left, flags) {
            Ok(sent) => left = left.get(sent..).unwrap_or_default(),
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// The answer to a request.
pub fn answer(channel: BorrowedFd<'_>, deadline: Instant) -> io::Result<Answer> {
    let mut descriptor = None;
    let mut head = [0; HEAD];
    fill(channel, &mut head, &mut descriptor, deadline)?;
    let (word, bytes) = lengths(head)?;
    let (mut word, mut content) = (vec![0; word], vec![0; bytes]);
    fill(channel, &mut word, &mut descriptor, deadline)?;
    fill(channel, &mut content, &mut descriptor, deadline)?;
    Ok(Answer { reply: serde_json::from_slice(&word)?, content, descriptor })
}

fn fill(
    channel: BorrowedFd<'_>,
    buffer: &mut [u8],
    descriptor: &mut Option<OwnedFd>,
    deadline: Instant,
) -> io::Result<()> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match receive(channel, rest, descriptor, deadline)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => filled += read,
        }
    }
    Ok(())
}

/// Reads what is there, waiting until `deadline`; nothing means the end.
fn receive(
    channel: BorrowedFd<'_>,
    buffer: &mut [u8],
    descriptor: &mut Option<OwnedFd>,
    deadline: Instant,
) -> io::Result<usize> {
    loop {
        wait(channel, PollFlags::POLLIN, deadline)?;
        let mut space = nix::cmsg_space!([RawFd; 1]);
        let mut place = [IoSliceMut::new(buffer)];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        match recvmsg::<()>(channel.as_raw_fd(), &mut place, Some(&mut space), flags) {
            Ok(message) => {
                for word in message.cmsgs()? {
                    if let ControlMessageOwned::ScmRights(descriptors) = word {
                        // SAFETY: the kernel has just given us these descriptors; nobody else owns
                        // them.
                        let owned = |fd: &RawFd| unsafe { OwnedFd::from_raw_fd(*fd) };
                        *descriptor = descriptors.iter().map(owned).next_back();
                    }
                }
                return Ok(message.bytes);
            }
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Everything until the other end is closed, until `deadline`.
pub fn deadline_read(channel: BorrowedFd<'_>, deadline: Instant) -> io::Result<Vec<u8>> {
    let (mut all, mut piece) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        match receive(channel, &mut piece, &mut None, deadline)? {
            0 => return Ok(all),
            read if all.len() + read > BYTES => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "an answer without an end"));
            }
            read => all.extend(piece.iter().take(read)),
        }
    }
}

fn wait(channel: BorrowedFd<'_>, events: PollFlags, deadline: Instant) -> io::Result<()> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        // One more millisecond, because poll rounds down and would spin at the end.
        let left = left + std::time::Duration::from_millis(1);
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(channel.as_fd(), events)], timeout) {
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
}
