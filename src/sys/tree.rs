//! A directory tree that is not trusted: the root of a guest.
//!
//! Every path is resolved by the kernel inside the tree (`openat2` with `RESOLVE_IN_ROOT`): a symlink in it
//! can't lead out. Files are opened without following a last symlink and without blocking on a FIFO.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, setfsgid, setfsuid, unlinkat};

/// An open root directory.
pub struct Tree {
    root: OwnedFd,
}

impl Tree {
    /// The tree below a directory that the caller trusts the path of.
    pub fn open(path: &Path) -> io::Result<Tree> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = nix::fcntl::open(path, flags, Mode::empty())?;
        Ok(Tree { root })
    }

    /// Another handle of the same tree.
    pub fn try_clone(&self) -> io::Result<Tree> {
        Ok(Tree { root: self.root.try_clone()? })
    }

    /// What the root directory is: owner, device, inode.
    pub fn stat(&self) -> io::Result<FileStat> {
        Ok(fstat(&self.root)?)
    }

    /// The socket at `path` as an `O_PATH` descriptor, to be connected through `/proc/self/fd/N`.
    ///
    /// `Ok(None)` where there is nothing at that path; an error where there is something else than a socket.
    pub fn socket(&self, path: &str) -> io::Result<Option<OwnedFd>> {
        let socket = match self.resolve(path, OFlag::O_PATH, Mode::empty()) {
            Err(error) if is_missing(&error) => return Ok(None),
            other => other?,
        };
        match kind(&fstat(&socket)?) {
            SFlag::S_IFSOCK => Ok(Some(socket)),
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a socket")),
        }
    }

    /// The content of the regular file at `path`, at most `limit` bytes; `None` where there is none.
    pub fn read(&self, path: &str, limit: u64) -> io::Result<Option<Vec<u8>>> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let file = match self.resolve(path, flags, Mode::empty()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        if kind(&fstat(&file)?) != SFlag::S_IFREG {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let mut bytes = Vec::new();
        File::from(file).take(limit + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("larger than {limit} bytes"),
            ));
        }
        Ok(Some(bytes))
    }

    /// Whether there is a directory at `path`.
    pub fn is_directory(&self, path: &str) -> bool {
        self.resolve(path, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty()).is_ok()
    }

    /// The names in the directory at `path`, sorted; none where there is no directory. What is not UTF-8 is left out.
    ///
    /// # Errors
    /// Also where there are more than `most`.
    pub fn names(&self, path: &str, most: usize) -> io::Result<Vec<String>> {
        let directory =
            match self.resolve(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty()) {
                Err(error) if is_missing(&error) => return Ok(Vec::new()),
                other => other?,
            };
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
        Ok(names)
    }

    /// Replaces `directory`/`name` durably. The directory is made where missing; it and the file belong to
    /// the owner of the tree's root (the guest's root user) and to nobody else.
    pub fn replace(&self, directory: &str, name: &str, content: &[u8]) -> io::Result<()> {
        let _owner = Owner::of(self)?;
        let directory = self.make_directory(directory)?;
        write(directory.as_fd(), name, content, 0o600)
    }

    /// Replaces a file in a directory that is there, durably. It belongs to the owner of the tree's root.
    pub fn replace_in(
        &self,
        directory: &str,
        name: &str,
        content: &[u8],
        mode: u32,
    ) -> io::Result<()> {
        let _owner = Owner::of(self)?;
        let directory = self.resolve(directory, OFlag::O_DIRECTORY, Mode::empty())?;
        write(directory.as_fd(), name, content, mode)
    }

    /// Removes `directory`/`name`; one that is already gone is no error.
    pub fn remove(&self, directory: &str, name: &str) -> io::Result<()> {
        let _owner = Owner::of(self)?;
        let directory = match self.resolve(directory, OFlag::O_DIRECTORY, Mode::empty()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        unlink(directory.as_fd(), name)?;
        Ok(nix::unistd::fsync(&directory)?)
    }

    fn make_directory(&self, path: &str) -> io::Result<OwnedFd> {
        let (parent, name) = path.trim_matches('/').rsplit_once('/').unwrap_or(("", path));
        let parent = self.resolve(&format!("/{parent}"), OFlag::O_DIRECTORY, Mode::empty())?;
        match mkdirat(parent.as_fd(), name, Mode::from_bits_truncate(0o700)) {
            Ok(()) => nix::unistd::fsync(&parent)?,
            Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        self.resolve(path, OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW, Mode::empty())
    }

    fn resolve(&self, path: &str, flags: OFlag, mode: Mode) -> io::Result<OwnedFd> {
        // Below the descriptor by itself already; the kernel keeps it there whatever is on the way.
        let path = match path.trim_start_matches('/') {
            "" => ".",
            below => below,
        };
        Ok(openat2(self.root.as_fd(), path, how(flags, mode))?)
    }
}

fn how(flags: OFlag, mode: Mode) -> OpenHow {
    OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .mode(mode)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS)
}

/// Nothing is at that path, or what should be a directory on the way there is something else.
fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
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
    Ok(nix::unistd::fsync(directory)?)
}

/// While it lives, this thread has no more rights in file systems than the owner of the tree's root has, and what
/// it makes is the owner's: a directory of the node that is mounted into the guest stays as closed to it as it is
/// to the guest. It is also what a root with mapped ids asks for, where the node's root is nobody.
///
/// Who is not root (tests on a simulated node) stays who they are.
struct Owner {
    before: (Uid, Gid),
}

impl Owner {
    fn of(tree: &Tree) -> io::Result<Owner> {
        let owner = tree.stat()?;
        let (uid, gid) = (Uid::from_raw(owner.st_uid), Gid::from_raw(owner.st_gid));
        let gid = setfsgid(gid);
        let owner = Owner { before: (setfsuid(uid), gid) };
        // The call tells only who it was before; an id that is none changes nothing.
        if setfsuid(Uid::from_raw(u32::MAX)) != uid && nix::unistd::geteuid().is_root() {
            return Err(io::Error::other("the rights of the guest's root can't be taken on"));
        }
        Ok(owner)
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        setfsuid(self.before.0);
        setfsgid(self.before.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;

    struct Guest(PathBuf);

    impl Guest {
        fn new() -> Guest {
            let name = format!("stillpoint-tree-{}", crate::sys::text::token());
            let directory = std::env::temp_dir().join(name);
            std::fs::create_dir_all(directory.join("root/var/lib")).unwrap();
            std::fs::create_dir_all(directory.join("root/run")).unwrap();
            Guest(directory)
        }

        /// Gives it to a guest's root, where we may.
        fn shift(&self) {
            if nix::unistd::geteuid().is_root() {
                for path in ["root", "root/run", "root/var", "root/var/lib"] {
                    let path = self.0.join(path);
                    std::os::unix::fs::chown(path, Some(100_000), Some(100_000)).unwrap();
                }
            }
        }

        fn tree(&self) -> Tree {
            Tree::open(&self.0.join("root")).unwrap()
        }
    }

    impl Drop for Guest {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn a_symlink_does_not_lead_out_of_the_guest() {
        let guest = Guest::new();
        let _host = UnixListener::bind(guest.0.join("host.sock")).unwrap();
        std::fs::write(guest.0.join("secret"), "host").unwrap();
        symlink(guest.0.join("host.sock"), guest.0.join("root/run/docker.sock")).unwrap();
        symlink("../../secret", guest.0.join("root/run/file")).unwrap();
        symlink(&guest.0, guest.0.join("root/var/lib/stillpoint")).unwrap();
        let tree = guest.tree();
        assert!(tree.socket("/run/docker.sock").unwrap().is_none());
        assert!(tree.socket("/../host.sock").unwrap().is_none());
        assert!(tree.read("/run/file", 99).is_err());
        assert!(tree.replace("/var/lib/stillpoint", "quiesced.json", b"{}").is_err());
        assert!(!guest.0.join("quiesced.json").exists());
    }

    #[test]
    fn a_symlink_inside_the_guest_is_followed() {
        let guest = Guest::new();
        let _engine = UnixListener::bind(guest.0.join("root/run/docker.sock")).unwrap();
        symlink("/run", guest.0.join("root/var/run")).unwrap();
        assert!(guest.tree().socket("/var/run/docker.sock").unwrap().is_some());
    }

    #[test]
    fn a_directory_is_listed_within_a_limit() {
        let guest = Guest::new();
        for name in ["2", "1"] {
            std::fs::create_dir_all(guest.0.join("root/run/user").join(name)).unwrap();
        }
        symlink("/run/user", guest.0.join("root/var/users")).unwrap();
        let tree = guest.tree();
        assert_eq!(tree.names("/var/users", 2).unwrap(), ["1", "2"]);
        assert!(tree.names("/run/user", 1).is_err());
        assert!(tree.names("/run/nobody", 1).unwrap().is_empty());
        std::fs::write(guest.0.join("root/run/file"), "").unwrap();
        assert!(tree.names("/run/file", 1).unwrap().is_empty());
        assert!(tree.socket("/run/file/docker.sock").unwrap().is_none());
    }

    #[test]
    fn what_is_no_socket_and_no_file_is_refused() {
        let guest = Guest::new();
        let fifo = guest.0.join("root/run/fifo");
        nix::unistd::mkfifo(&fifo, Mode::from_bits_truncate(0o600)).unwrap();
        let tree = guest.tree();
        assert!(tree.socket("/run/fifo").is_err());
        assert!(tree.socket("/run").is_err());
        assert!(tree.read("/run/fifo", 9).is_err());
        assert!(tree.read("/run", 9).is_err());
    }

    #[test]
    fn a_file_is_replaced_and_belongs_to_the_guests_root() {
        let guest = Guest::new();
        guest.shift();
        let owner = std::fs::metadata(guest.0.join("root")).unwrap().uid();
        let tree = guest.tree();
        tree.replace("/var/lib/stillpoint", "quiesced.json", b"1").unwrap();
        tree.replace("/var/lib/stillpoint", "quiesced.json", b"2").unwrap();
        let path = guest.0.join("root/var/lib/stillpoint/quiesced.json");
        let metadata = std::fs::metadata(&path).unwrap();
        assert_eq!((metadata.uid(), metadata.mode() & 0o777), (owner, 0o600));
        assert_eq!(tree.read("/var/lib/stillpoint/quiesced.json", 9).unwrap().unwrap(), b"2");
        assert!(tree.read("/var/lib/stillpoint/quiesced.json", 0).is_err());
        tree.remove("/var/lib/stillpoint", "quiesced.json").unwrap();
        tree.remove("/var/lib/stillpoint", "quiesced.json").unwrap();
        assert!(!path.exists());
        tree.replace_in("/var", "machine-id", b"3", 0o444).unwrap();
        let metadata = std::fs::metadata(guest.0.join("root/var/machine-id")).unwrap();
        assert_eq!((metadata.uid(), metadata.mode() & 0o777), (owner, 0o444));
        assert!(tree.replace_in("/srv", "machine-id", b"3", 0o444).is_err(), "it is not there");
        assert!(tree.is_directory("/var/lib") && !tree.is_directory("/var/machine-id"));
    }

    #[test]
    fn what_is_closed_to_the_guest_is_closed_to_us() {
        if !nix::unistd::geteuid().is_root() {
            // Who is not root has no rights to lay down.
            return;
        }
        let guest = Guest::new();
        guest.shift();
        // As a directory of the node that is mounted into the guest looks to it.
        std::fs::create_dir(guest.0.join("root/srv")).unwrap();
        std::fs::write(guest.0.join("root/srv/file"), "the node's").unwrap();
        symlink("/srv", guest.0.join("root/etc")).unwrap();
        let tree = guest.tree();
        assert!(tree.replace_in("/etc", "file", b"1", 0o600).is_err());
        assert!(tree.replace("/etc", "new", b"1").is_err());
        assert!(tree.remove("/etc", "file").is_err());
        assert_eq!(std::fs::read(guest.0.join("root/srv/file")).unwrap(), b"the node's");
        std::fs::write(guest.0.join("root/srv/file"), "still as root").unwrap();
    }
}
