//! Files in directories that may belong to another user of the node, or whose parents may.
//!
//! A path is opened directory by directory from `/`, and a link on the way is followed only if root
//! alone can have made it. A file is written under a random name and then renamed: neither follows
//! a link. In another user's directory a child process with only that user's rights does all this.

use std::collections::VecDeque;
use std::ffi::{CStr, CString, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat, renameat};
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, fstatat, mkdirat};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{
    AccessFlags, ForkResult, Gid, Pid, Uid, UnlinkatFlags, faccessat, fork, geteuid, setgroups,
    setresgid, setresuid, unlinkat,
};

use super::process::{Pidfd, keep_memory_private};
use super::random;

/// As many as the kernel follows.
const MOST_LINKS: usize = 40;

/// Writing some kilobytes takes milliseconds; the limit is for a file system that hangs.
const LIMIT: Duration = Duration::from_secs(10);

/// A name in a directory that is held open.
#[derive(Debug)]
pub struct Place {
    directory: OwnedFd,
    name: CString,
}

impl Place {
    /// The place of an absolute path. If it is a link, the place of the link itself.
    ///
    /// # Errors
    /// Also if a directory on the way is a link that somebody other than root can have made.
    pub fn of(path: &Path) -> io::Result<Place> {
        walk(path, false)
    }

    /// As [`Place::of`], but if the path is root's link in root's directory, the place that it
    /// leads to.
    pub fn behind(path: &Path) -> io::Result<Place> {
        walk(path, true)
    }

    /// The permissions of the file there; `None` if there is none.
    pub fn mode(&self) -> io::Result<Option<u32>> {
        match fstatat(&self.directory, self.name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat.st_mode & 0o7777)),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Writes a file there, durably and independent of the umask.
    pub fn replace(&self, content: &[u8], mode: u32) -> io::Result<()> {
        let token = u64::from_ne_bytes(random::bytes()?);
        let mut temporary = b".".to_vec();
        temporary.extend(self.name.as_bytes());
        temporary.extend(format!(".{token:016x}.tmp").bytes());
        let temporary = CString::new(temporary)?;
        as_owner(&self.directory, || self.put(&temporary, content, mode))
    }

    fn put(&self, temporary: &CStr, content: &[u8], mode: u32) -> io::Result<()> {
        let new = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW;
        let private = Mode::from_bits_truncate(0o600);
        let file = openat(&self.directory, temporary, new | OFlag::O_CLOEXEC, private)?;
        let mut file = File::from(file);
        let done = file
            .write_all(content)
            .and_then(|()| set_mode(&file, mode))
            .and_then(|()| file.sync_all())
            .and_then(|()| {
                let name = self.name.as_c_str();
                Ok(renameat(&self.directory, temporary, &self.directory, name)?)
            });
        if done.is_err() {
            // The returned error says what went wrong; a leftover file does no harm.
            let _ = unlinkat(&self.directory, temporary, UnlinkatFlags::NoRemoveDir);
            return done;
        }
        sync(&self.directory)
    }
}

/// Replaces the file at an absolute path durably; a link there is itself replaced.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    Place::of(path)?.replace(content, mode)
}

/// Makes sure that a directory exists. A new one, and its new parents, get that mode.
pub fn directory(path: &Path, mode: u32) -> io::Result<()> {
    let place = match (Place::of(path), path.parent()) {
        (Err(error), Some(parent)) if error.kind() == io::ErrorKind::NotFound => {
            directory(parent, mode)?;
            Place::of(path)?
        }
        (place, _) => place?,
    };
    if place.mode()?.is_some() {
        return Ok(());
    }
    as_owner(&place.directory, || {
        let name = place.name.as_c_str();
        mkdirat(&place.directory, name, Mode::from_bits_truncate(mode))?;
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        set_mode(openat(&place.directory, name, flags, Mode::empty())?, mode)?;
        sync(&place.directory)
    })
}

/// Whether files can be put into a directory; the error says why not.
pub fn takes_files(directory: &Path) -> io::Result<()> {
    let directory = Place::of(&directory.join("file"))?.directory;
    as_owner(&directory, || {
        let access = AccessFlags::W_OK | AccessFlags::X_OK;
        Ok(faccessat(&directory, c".", access, AtFlags::empty())?)
    })
}

fn walk(path: &Path, follow_last: bool) -> io::Result<Place> {
    let mut left: VecDeque<OsString> = VecDeque::new();
    prepend(&mut left, path);
    let mut directory = step(nix::fcntl::AT_FDCWD, c"/")?;
    let mut links = 0;
    while let Some(part) = left.pop_front() {
        let name = CString::new(part.into_vec())?;
        let is_step = matches!(name.as_bytes(), b"/" | b"..");
        let is_last = left.is_empty() && !is_step;
        if is_last && !follow_last {
            return Ok(Place { directory, name });
        }
        let next = match step(&directory, &name) {
            Err(Errno::ENOENT) if is_last => return Ok(Place { directory, name }),
            other => other?,
        };
        let stat = fstat(&next)?;
        if kind(&stat) == SFlag::S_IFLNK {
            let is_roots =
                !geteuid().is_root() || stat.st_uid == 0 && is_roots_alone(&fstat(&directory)?);
            links += 1;
            match (is_roots, is_last) {
                (true, _) if links > MOST_LINKS => return Err(Errno::ELOOP.into()),
                (true, _) => prepend(&mut left, Path::new(&readlinkat(&next, c"")?)),
                (false, true) => return Ok(Place { directory, name }),
                (false, false) => {
                    let name = name.to_string_lossy();
                    let why = format!("{name} is a link that a user other than root can change");
                    return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
                }
            }
        } else if is_last {
            return Ok(Place { directory, name });
        } else if kind(&stat) == SFlag::S_IFDIR {
            directory = next;
        } else {
            return Err(Errno::ENOTDIR.into());
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file's path"))
}

fn prepend(left: &mut VecDeque<OsString>, path: &Path) {
    let parts = path.components().filter(|part| *part != Component::CurDir);
    let parts: Vec<OsString> = parts.map(|part| part.as_os_str().to_os_string()).collect();
    parts.into_iter().rev().for_each(|part| left.push_front(part));
}

fn step(from: impl AsFd, name: &CStr) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(from, name, flags, Mode::empty())
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

/// An access control list that lets somebody write shows in the group's bit.
fn is_roots_alone(stat: &FileStat) -> bool {
    stat.st_uid == 0 && stat.st_mode & 0o022 == 0
}

/// Skipped if it has the mode already: some file systems, such as `/etc/pve`, do not allow a
/// change.
fn set_mode(file: impl AsFd, mode: u32) -> io::Result<()> {
    match fstat(&file)?.st_mode & 0o7777 {
        now if now == mode => Ok(()),
        _ => Ok(fchmod(&file, Mode::from_bits_truncate(mode))?),
    }
}

fn sync(directory: &OwnedFd) -> io::Result<()> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    File::from(openat(directory, c".", flags, Mode::empty())?).sync_all()
}

/// Runs `work` in a directory with only the rights of the directory's owner. `work` may make system
/// calls; it must not allocate memory or take a lock.
fn as_owner(directory: &OwnedFd, work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let stat = fstat(directory)?;
    // Without root there are no rights to give up.
    if stat.st_uid == 0 || !geteuid().is_root() {
        return work();
    }
    // SAFETY: the child makes only system calls until it ends.
    match unsafe { fork() }? {
        ForkResult::Child => {
            let done = become_owner(directory, &stat).and_then(|()| work());
            let code = done.map_or_else(|error| error.raw_os_error().unwrap_or(libc::EIO), |()| 0);
            // SAFETY: exits the child without running the parent's exit handlers.
            unsafe { libc::_exit(code) }
        }
        ForkResult::Parent { child } => end_of(child).map_err(|error| {
            let uid = stat.st_uid;
            io::Error::new(
                error.kind(),
                format!("{error}, with the rights of its owner (uid {uid})"),
            )
        }),
    }
}

/// The child keeps nothing of ours except the directory: no pipe to vzdump, no lock, no
/// supplementary group.
fn become_owner(directory: &OwnedFd, stat: &FileStat) -> io::Result<()> {
    let kept = directory.as_raw_fd().cast_unsigned();
    for (first, last) in [(0, kept.saturating_sub(1)), (kept + 1, libc::c_uint::MAX)] {
        // SAFETY: plain numbers; no descriptor but the kept one is used in this process any more.
        Errno::result(unsafe { libc::close_range(first, last, 0) })?;
    }
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    setgroups(&[])?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    // Its memory is a copy of ours.
    keep_memory_private()
}

fn end_of(child: Pid) -> io::Result<()> {
    if !Pidfd::open(child.as_raw())?.ended_within(LIMIT) {
        kill(child, Signal::SIGKILL)?;
        waitpid(child, Some(WaitPidFlag::WNOHANG))?;
        return Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("no answer within {} s", LIMIT.as_secs()),
        ));
    }
    match waitpid(child, None)? {
        WaitStatus::Exited(_, 0) => Ok(()),
        WaitStatus::Exited(_, errno) => Err(io::Error::from_raw_os_error(errno)),
        _ => Err(io::Error::other("it was killed")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
    use std::path::PathBuf;

    /// A user id that belongs to nobody.
    const NOBODY: u32 = 65534;

    struct Directory(PathBuf);

    impl Directory {
        fn new() -> Directory {
            let name = format!("stillpoint-outside-{}", crate::sys::text::token());
            let directory = std::env::temp_dir().join(name);
            fs::create_dir(&directory).unwrap();
            fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
            Directory(directory)
        }

        fn nobodys(&self, name: &str) -> PathBuf {
            let path = self.0.join(name);
            fs::create_dir(&path).unwrap();
            chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
            path
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_file_has_its_mode_and_nothing_is_left_beside_it() {
        let directory = Directory::new();
        let path = directory.0.join("file");
        replace(&path, b"old", 0o600).unwrap();
        replace(&path, b"new", 0o666).unwrap();
        assert_eq!((fs::read(&path).unwrap(), mode(&path)), (b"new".to_vec(), 0o666));
        fs::create_dir(directory.0.join("taken")).unwrap();
        assert!(replace(&directory.0.join("taken"), b"new", 0o600).is_err());
        assert_eq!(fs::read_dir(&directory.0).unwrap().count(), 2);
        let deep = directory.0.join("a/b");
        super::directory(&deep, 0o777).unwrap();
        super::directory(&deep, 0o700).unwrap();
        assert_eq!((mode(&deep), mode(&directory.0.join("a"))), (0o777, 0o777));
        assert!(replace(Path::new("/"), b"", 0o600).is_err());
        assert!(Place::of(&directory.0.join("none/file")).is_err());
    }

    #[test]
    fn links_of_root_are_followed_and_a_file_behind_one_where_that_is_meant() {
        let directory = Directory::new();
        fs::create_dir_all(directory.0.join("kept/here")).unwrap();
        symlink("../.././kept/here", directory.0.join("kept/there")).unwrap();
        // Seen from `kept`, `../..` is above the test's own directory.
        let target = format!("../{}/kept/here", directory.0.file_name().unwrap().display());
        symlink(&target, directory.0.join("linked")).unwrap();
        symlink(directory.0.join("kept/here/file"), directory.0.join("file")).unwrap();
        replace(&directory.0.join("linked/file"), b"one", 0o600).unwrap();
        assert_eq!(fs::read(directory.0.join("kept/here/file")).unwrap(), b"one");
        let behind = Place::behind(&directory.0.join("file")).unwrap();
        assert_eq!(behind.mode().unwrap(), Some(0o600));
        behind.replace(b"two", 0o640).unwrap();
        assert_eq!(fs::read(directory.0.join("kept/here/file")).unwrap(), b"two");
        assert!(directory.0.join("file").is_symlink());
        replace(&directory.0.join("file"), b"three", 0o640).unwrap();
        assert!(!directory.0.join("file").is_symlink());
        symlink("loop", directory.0.join("loop")).unwrap();
        assert!(Place::behind(&directory.0.join("loop")).is_err());
    }

    #[test]
    fn in_another_users_directory_we_have_that_users_rights() {
        if !geteuid().is_root() {
            return;
        }
        let directory = Directory::new();
        let (theirs, ours) = (directory.nobodys("theirs"), directory.0.join("ours"));
        fs::create_dir(&ours).unwrap();
        fs::write(ours.join("secret"), "s").unwrap();
        replace(&theirs.join("file"), b"x", 0o644).unwrap();
        let file = fs::metadata(theirs.join("file")).unwrap();
        assert_eq!((file.uid(), file.gid(), file.mode() & 0o7777), (NOBODY, NOBODY, 0o644));
        takes_files(&theirs).unwrap();
        super::directory(&theirs.join("below"), 0o755).unwrap();
        assert_eq!(fs::metadata(theirs.join("below")).unwrap().uid(), NOBODY);

        // A link made by another user is followed neither to a directory nor to a file.
        symlink(&ours, theirs.join("link")).unwrap();
        let error = replace(&theirs.join("link/file"), b"x", 0o644).unwrap_err();
        assert!(error.to_string().starts_with("link is a link that a user"), "{error}");
        assert!(takes_files(&theirs.join("link")).is_err());
        symlink(ours.join("secret"), theirs.join("file2")).unwrap();
        Place::behind(&theirs.join("file2")).unwrap().replace(b"x", 0o644).unwrap();
        assert_eq!(fs::read_to_string(ours.join("secret")).unwrap(), "s");
        assert_eq!(fs::read_dir(&ours).unwrap().count(), 1);

        fs::set_permissions(&theirs, fs::Permissions::from_mode(0o500)).unwrap();
        let error = takes_files(&theirs).unwrap_err().to_string();
        assert!(error.contains("Permission denied") && error.contains("uid 65534"), "{error}");
        assert!(replace(&theirs.join("file"), b"y", 0o644).is_err());
    }
}
