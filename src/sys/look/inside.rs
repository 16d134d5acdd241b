//! An untrusted directory tree, as seen by the process that looks into it.
//!
//! The kernel resolves every path inside the tree (`openat2` with `RESOLVE_IN_ROOT`): a symlink
//! cannot lead out. What is found is inspected before it is opened (`O_PATH`): only regular files,
//! directories and sockets are opened, so that no device driver sees an open.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat, renameat};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, mkdirat};
use nix::unistd::{UnlinkatFlags, fchdir, fsync, unlinkat};

use super::links::followed;
use super::rights;
use super::wire::{Identity, Place};

/// What tells a file from one that is put in its place under the same name.
pub fn mark(path: &str, inode: u64, size: i64, (seconds, nanoseconds): (i64, i64)) -> String {
    format!("{path} {inode} {size} {seconds}.{nanoseconds:09}")
}

/// A socket that was found.
struct Found {
    inode: (u64, u64),
    socket: OwnedFd,
}

/// The root of a guest, held open by a process that has the rights of its owner.
pub struct Inside {
    root: OwnedFd,
    /// `/proc/self/fd` of the node, through which an `O_PATH` descriptor is opened or connected to.
    /// It is also the working directory, because a socket's address cannot be relative to a
    /// descriptor in any other way.
    own: OwnedFd,
    /// The user id of the guest's root on the node.
    owner: u32,
    users: Vec<[u32; 3]>,
    sockets: Vec<Found>,
}

impl Inside {
    /// Opens the root, makes sure that it is not the node's, and takes the rights of its owner.
    /// `init` is the pidfd of a guest's init.
    pub fn enter(place: Place, init: Option<BorrowedFd<'_>>) -> io::Result<Inside> {
        rights::prepare()?;
        if init.is_some() {
            rights::leave_mounts_of_the_caller();
        }
        let own = directory(Path::new("/proc/self/fd"))?;
        let (root, owner, users) = match (place, init) {
            (Place::Directory(path), _) => {
                let root = directory(&path)?;
                let owner = fstat(&root)?;
                rights::of_owner(owner.st_uid, owner.st_gid)?;
                (root, owner.st_uid, Vec::new())
            }
            (Place::Init { pid, users }, Some(init)) => {
                let root = root_of(pid, init)?;
                let own_users = namespace("self")? != namespace(&pid.to_string())?;
                rights::of_guest(init, own_users)?;
                (root, on_node(&users, 0), users)
            }
            (Place::Init { .. }, None) => return Err(invalid("no pidfd of the guest's init")),
        };
        fchdir(&own)?;
        Ok(Inside { root, own, owner, users, sockets: Vec::new() })
    }

    /// The user id of the guest's root on the node.
    pub fn owner(&self) -> u32 {
        self.owner
    }

    /// Keeps the socket at `path` and returns its number; `None` if nothing is there.
    pub fn socket(&mut self, path: &str) -> io::Result<Option<(usize, Identity)>> {
        let Some(socket) = found(self.resolve(path, OFlag::O_PATH))? else { return Ok(None) };
        let stat = fstat(&socket)?;
        if kind(&stat) != SFlag::S_IFSOCK {
            return Err(invalid("not a socket"));
        }
        let inode = (stat.st_dev, stat.st_ino);
        // Held open, so that no other socket can get its inode number.
        let known = self.sockets.iter().position(|found| found.inode == inode);
        let place = known.unwrap_or_else(|| {
            self.sockets.push(Found { inode, socket });
            self.sockets.len() - 1
        });
        let owner = on_node(&self.users, stat.st_uid);
        Ok(Some((first_number() + place, Identity { inode, owner })))
    }

    /// The path that `path` leads to after following its links in the tree. Paths at or below one of
    /// `around` are taken as they are.
    pub fn followed(&self, path: &str, around: &[String]) -> io::Result<String> {
        followed(path, |path| {
            if around.iter().any(|point| Path::new(path).starts_with(point)) {
                return Ok(None);
            }
            let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW;
            // A path that is missing, or closed to the guest itself, counts as no link.
            let Ok(here) = self.resolve(path, flags) else { return Ok(None) };
            if kind(&fstat(&here)?) != SFlag::S_IFLNK {
                return Ok(None);
            }
            let target = readlinkat(&here, "")?;
            target.into_string().map(Some).map_err(|_| invalid("a link that is not UTF-8"))
        })
    }

    /// What tells the file at `path`, which is behind its links, from one that is put in its place;
    /// `None` where there is none to be seen.
    pub fn mark(&self, path: &str) -> Option<String> {
        let stat = fstat(self.resolve(path, OFlag::O_PATH).ok()?).ok()?;
        Some(mark(path, stat.st_ino, stat.st_size, (stat.st_mtime, stat.st_mtime_nsec)))
    }

    /// The names in the directory at `path`, sorted; `None` if there is no directory. Names that
    /// are not UTF-8 are left out. An error if there are more than `most`.
    pub fn names(&self, path: &str, most: usize) -> io::Result<Option<Vec<String>>> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let Some(directory) = found(self.resolve(path, flags))? else { return Ok(None) };
        let mut names = Vec::new();
        for entry in Dir::from_fd(directory)?.iter() {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if matches!(name, "." | "..") {
                continue;
            }
            if names.len() == most {
                let reason = format!("more than {most} entries");
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, reason));
            }
            names.push(name.to_string());
        }
        names.sort();
        Ok(Some(names))
    }

    /// Connects to a socket that was found; fails at once if its backlog is full.
    pub fn connect(&self, number: usize) -> io::Result<OwnedFd> {
        let place = number.checked_sub(first_number());
        let found = place.and_then(|place| self.sockets.get(place));
        let Found { socket: found, .. } = found.ok_or_else(|| invalid("an unknown socket"))?;
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        let address = UnixAddr::new(found.as_raw_fd().to_string().as_str())?;
        loop {
            match connect(socket.as_raw_fd(), &address) {
                Ok(()) => return Ok(socket),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// The content of the regular file at `path`, at most `limit` bytes; `None` if there is none.
    pub fn read(&self, path: &str, limit: u64) -> io::Result<Option<Vec<u8>>> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW;
        let Some(file) = found(self.resolve(path, flags))? else { return Ok(None) };
        match kind(&fstat(&file)?) {
            SFlag::S_IFREG => {}
            SFlag::S_IFLNK => return Err(Errno::ELOOP.into()),
            _ => return Err(invalid("not a regular file")),
        }
        let name = file.as_raw_fd().to_string();
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = File::from(openat(&self.own, name.as_str(), flags, Mode::empty())?);
        let mut bytes = Vec::new();
        file.take(limit + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            let text = format!("larger than {limit} bytes");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
        }
        Ok(Some(bytes))
    }

    /// Whether there is a directory at `path`.
    pub fn is_directory(&self, path: &str) -> bool {
        self.resolve(path, OFlag::O_PATH | OFlag::O_DIRECTORY).is_ok()
    }

    /// Replaces `directory`/`name` durably. `make`: create the directory if it is missing.
    pub fn replace(
        &self,
        directory: &str,
        name: &str,
        content: &[u8],
        mode: u32,
        make: bool,
    ) -> io::Result<()> {
        let directory = match make {
            true => self.make_directory(directory)?,
            false => self.resolve(directory, OFlag::O_DIRECTORY)?,
        };
        write(directory.as_fd(), name, content, mode)
    }

    /// Removes `directory`/`name`; it is no error if it does not exist.
    pub fn remove(&self, directory: &str, name: &str) -> io::Result<()> {
        let Some(directory) = found(self.resolve(directory, OFlag::O_DIRECTORY))? else {
            return Ok(());
        };
        unlink(directory.as_fd(), name)?;
        Ok(fsync(&directory)?)
    }

    fn make_directory(&self, path: &str) -> io::Result<OwnedFd> {
        let (parent, name) = path.trim_matches('/').rsplit_once('/').unwrap_or(("", path));
        let parent = self.resolve(&format!("/{parent}"), OFlag::O_DIRECTORY)?;
        match mkdirat(parent.as_fd(), name, Mode::from_bits_truncate(0o700)) {
            Ok(()) => fsync(&parent)?,
            Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        self.resolve(path, OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW)
    }

    fn resolve(&self, path: &str, flags: OFlag) -> io::Result<OwnedFd> {
        // A relative path: the kernel keeps the result inside the tree anyway.
        let path = match path.trim_start_matches('/') {
            "" => ".",
            below => below,
        };
        Ok(openat2(self.root.as_fd(), path, how(flags, Mode::empty()))?)
    }
}

/// The root of a guest's init. The init must still be that very process and must not have the
/// node's own root.
fn root_of(pid: i32, init: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let root = directory(Path::new(&format!("/proc/{pid}/root")))?;
    if has_ended(init) {
        return Err(io::Error::other("the guest's init has ended"));
    }
    let (node, guest) = (nix::sys::stat::stat("/")?, fstat(&root)?);
    if (node.st_dev, node.st_ino) == (guest.st_dev, guest.st_ino) {
        return Err(invalid("the guest's init has the root directory of the node"));
    }
    Ok(root)
}

/// A guest's user id, translated to the node.
fn on_node(users: &[[u32; 3]], user: u32) -> u32 {
    let within = |[first, on_node, count]: &[u32; 3]| {
        let offset = user.checked_sub(*first).filter(|offset| offset < count)?;
        on_node.checked_add(offset)
    };
    users.iter().find_map(within).unwrap_or(user)
}

/// A pidfd is readable once its process has ended.
pub fn has_ended(init: BorrowedFd<'_>) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    poll(&mut [PollFd::new(init, PollFlags::POLLIN)], PollTimeout::ZERO) != Ok(0)
}

/// Numbers of sockets count within this process only: if it is replaced, the new process does not
/// know them.
fn first_number() -> usize {
    (std::process::id() as usize) << 16
}

fn namespace(pid: &str) -> io::Result<std::path::PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/ns/user"))
}

fn directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    Ok(nix::fcntl::open(path, flags, Mode::empty())?)
}

fn how(flags: OFlag, mode: Mode) -> OpenHow {
    OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .mode(mode)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS)
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

/// Nothing is at that path, or a part of it that should be a directory is something else.
fn found(resolved: io::Result<OwnedFd>) -> io::Result<Option<OwnedFd>> {
    match resolved {
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            Ok(None)
        }
        other => other.map(Some),
    }
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

fn unlink(directory: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    match unlinkat(directory, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn write(directory: BorrowedFd<'_>, name: &str, content: &[u8], mode: u32) -> io::Result<()> {
    let temporary = format!(".{name}.tmp");
    unlink(directory, &temporary)?;
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW;
    let how = how(flags, Mode::from_bits_truncate(0o600));
    let mut file = File::from(openat2(directory, temporary.as_str(), how)?);
    file.write_all(content)?;
    fchmod(&file, Mode::from_bits_truncate(mode))?;
    file.sync_all()?;
    renameat(directory, temporary.as_str(), directory, name)?;
    Ok(fsync(directory)?)
}
