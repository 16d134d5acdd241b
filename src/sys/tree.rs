//! A directory tree that is not trusted: the root of a guest.
//!
//! Every path is resolved by the kernel inside the tree (`openat2` with `RESOLVE_IN_ROOT`): a symlink in it
//! can't lead out. Files are opened without following a last symlink and without blocking on a FIFO.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, unlinkat};

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
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
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

    /// Replaces `directory`/`name` durably. The directory is made where missing; it and the file belong to
    /// the owner of the tree's root (the guest's root user) and to nobody else.
    pub fn replace(&self, directory: &str, name: &str, content: &[u8]) -> io::Result<()> {
        let owner = self.stat()?;
        let owner = (Uid::from_raw(owner.st_uid), Gid::from_raw(owner.st_gid));
        let directory = self.make_directory(directory, owner)?;
        let temporary = format!(".{name}.tmp");
        unlink(directory.as_fd(), &temporary)?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW;
        let how = how(flags, Mode::from_bits_truncate(0o600));
        let mut file = File::from(openat2(directory.as_fd(), temporary.as_str(), how)?);
        chown(&file, owner)?;
        file.write_all(content)?;
        file.sync_all()?;
        renameat(directory.as_fd(), temporary.as_str(), directory.as_fd(), name)?;
        Ok(nix::unistd::fsync(&directory)?)
    }

    /// Removes `directory`/`name`; one that is already gone is no error.
    pub fn remove(&self, directory: &str, name: &str) -> io::Result<()> {
        let directory = match self.resolve(directory, OFlag::O_DIRECTORY, Mode::empty()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        unlink(directory.as_fd(), name)?;
        Ok(nix::unistd::fsync(&directory)?)
    }

    fn make_directory(&self, path: &str, owner: (Uid, Gid)) -> io::Result<OwnedFd> {
        let (parent, name) = path.trim_matches('/').rsplit_once('/').unwrap_or(("", path));
        let parent = self.resolve(&format!("/{parent}"), OFlag::O_DIRECTORY, Mode::empty())?;
        match mkdirat(parent.as_fd(), name, Mode::from_bits_truncate(0o700)) {
            Ok(()) => {
                fchownat(
                    parent.as_fd(),
                    name,
                    Some(owner.0),
                    Some(owner.1),
                    AtFlags::AT_SYMLINK_NOFOLLOW,
                )
                .or_else(unprivileged)?;
                nix::unistd::fsync(&parent)?;
            }
            Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        self.resolve(path, OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW, Mode::empty())
    }

    fn resolve(&self, path: &str, flags: OFlag, mode: Mode) -> io::Result<OwnedFd> {
        Ok(openat2(self.root.as_fd(), path, how(flags, mode))?)
    }
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

fn unlink(directory: std::os::fd::BorrowedFd<'_>, name: &str) -> io::Result<()> {
    match unlinkat(directory, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn chown(file: &File, owner: (Uid, Gid)) -> io::Result<()> {
    fchown(file, Some(owner.0), Some(owner.1)).or_else(unprivileged)?;
    Ok(fchmod(file, Mode::from_bits_truncate(0o600))?)
}

/// Only root can give a file away; anybody else (tests on a simulated node) keeps it.
fn unprivileged(errno: Errno) -> nix::Result<()> {
    if errno == Errno::EPERM && !nix::unistd::geteuid().is_root() { Ok(()) } else { Err(errno) }
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
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::chown(guest.0.join("root"), Some(100_000), Some(100_000)).unwrap();
        }
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
    }
}
