//! An untrusted directory tree: the root of a guest. A process with the rights of the guest's own
//! root, which can be left behind, does all the access ([`look`](super::look)).

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::look::{Answer, Identity, Looker, Place, Reply, Request, Watched, looker};

/// Looking up a name takes microseconds, unless the guest makes it hang.
const LOOK_LIMIT: Duration = Duration::from_secs(5);

/// For reading, writing or removing one file.
const FILE_LIMIT: Duration = Duration::from_secs(10);

/// A guest's root directory. Clones share one process, which starts with the first request; so do
/// all trees that are made within one piece of work ([`keep`](super::look::keep)).
#[derive(Clone)]
pub struct Tree {
    looker: Arc<Looker>,
    deadline: Option<Instant>,
}

impl Tree {
    /// The tree at that place. `init` is the pidfd of the process that it names, `watched` its name
    /// in messages and its marker, `start` identifies the guest's start and root.
    pub fn new(place: Place, init: Option<OwnedFd>, watched: Watched, start: &str) -> Tree {
        Tree { looker: looker(place, init, watched, start), deadline: None }
    }

    /// The same tree for several looks that take no longer than `limit` together.
    pub fn within(&self, limit: Duration) -> Tree {
        Tree { looker: self.looker.clone(), deadline: Some(Instant::now() + limit) }
    }

    /// Checks that the tree can be looked into.
    pub fn reach(&self) -> io::Result<()> {
        self.is_directory("/").map(drop)
    }

    /// The user id of the guest's root on the node.
    pub fn owner(&self) -> io::Result<u32> {
        match self.ask(&Request::Owner, LOOK_LIMIT)?.reply {
            Reply::User(user) => Ok(user),
            other => Err(unexpected(&other)),
        }
    }

    /// The socket at `path`; it stays the same socket even if the path changes later.
    ///
    /// `Ok(None)` if nothing is at that path; an error if something else than a socket is there.
    pub fn socket(&self, path: &str) -> io::Result<Option<Socket>> {
        match self.ask(&Request::Socket { path: path.to_string() }, LOOK_LIMIT)?.reply {
            Reply::Nothing => Ok(None),
            Reply::Socket(number, identity) => {
                Ok(Some(Socket { looker: self.looker.clone(), number, identity }))
            }
            other => Err(unexpected(&other)),
        }
    }

    /// The content of the regular file at `path`, at most `limit` bytes; `None` if there is none.
    pub fn read(&self, path: &str, limit: u64) -> io::Result<Option<Vec<u8>>> {
        let answer = self.ask(&Request::Read { path: path.to_string(), limit }, FILE_LIMIT)?;
        match answer.reply {
            Reply::Nothing => Ok(None),
            Reply::Content => Ok(Some(answer.content)),
            other => Err(unexpected(&other)),
        }
    }

    /// Where an absolute path leads after following its symbolic links, as the guest sees it. A
    /// path that does not exist is returned unchanged, and so is one at or below `around`: a file
    /// system whose server is off would hang.
    ///
    /// # Errors
    /// If the tree does not answer, or if the links form a circle.
    pub fn followed(&self, path: &str, around: &[String]) -> io::Result<String> {
        let (path, around) = (path.to_string(), around.to_vec());
        let answer = self.ask(&Request::Followed { path, around }, LOOK_LIMIT)?;
        match answer.reply {
            Reply::Content => String::from_utf8(answer.content).map_err(io::Error::other),
            other => Err(unexpected(&other)),
        }
    }

    /// What tells each of those files that are there from one that is put in its place.
    ///
    /// # Errors
    /// When the tree does not answer.
    pub fn marks(&self, paths: Vec<String>) -> io::Result<Vec<String>> {
        let answer = self.ask(&Request::Marks { paths }, LOOK_LIMIT)?;
        match answer.reply {
            Reply::Content => Ok(serde_json::from_slice(&answer.content)?),
            other => Err(unexpected(&other)),
        }
    }

    /// Whether there is a directory at `path`.
    ///
    /// # Errors
    /// If the tree does not answer.
    pub fn is_directory(&self, path: &str) -> io::Result<bool> {
        match self.ask(&Request::IsDirectory { path: path.to_string() }, LOOK_LIMIT)?.reply {
            Reply::Is(is) => Ok(is),
            other => Err(unexpected(&other)),
        }
    }

    /// The names in the directory at `path`, sorted; empty if there is no directory. Names that are
    /// not UTF-8 are left out.
    ///
    /// # Errors
    /// Also if there are more than `most`.
    pub fn names(&self, path: &str, most: usize) -> io::Result<Vec<String>> {
        let answer = self.ask(&Request::Names { path: path.to_string(), most }, LOOK_LIMIT)?;
        match answer.reply {
            Reply::Nothing => Ok(Vec::new()),
            Reply::Content => Ok(serde_json::from_slice(&answer.content)?),
            other => Err(unexpected(&other)),
        }
    }

    /// Replaces `directory`/`name` durably. The directory is created if missing. It and the file
    /// belong to the owner of the tree's root (the guest's root user), and nobody else can read
    /// them.
    pub fn replace(&self, directory: &str, name: &str, content: &[u8]) -> io::Result<()> {
        self.put(directory, name, content, 0o600, true)
    }

    /// Replaces a file in an existing directory durably. It belongs to the owner of the tree's
    /// root.
    pub fn replace_in(
        &self,
        directory: &str,
        name: &str,
        content: &[u8],
        mode: u32,
    ) -> io::Result<()> {
        self.put(directory, name, content, mode, false)
    }

    fn put(
        &self,
        directory: &str,
        name: &str,
        content: &[u8],
        mode: u32,
        make: bool,
    ) -> io::Result<()> {
        #[cfg(test)]
        if let Some(walk) = crate::sys::walk::current() {
            walk.give(content);
            return Ok(());
        }
        let (directory, name) = (directory.to_string(), name.to_string());
        let request = Request::Replace { directory, name, mode, make };
        self.looker.ask(&request, content, self.left(FILE_LIMIT)?).map(drop)
    }

    /// Removes `directory`/`name`; it is no error if it does not exist.
    pub fn remove(&self, directory: &str, name: &str) -> io::Result<()> {
        let (directory, name) = (directory.to_string(), name.to_string());
        self.ask(&Request::Remove { directory, name }, FILE_LIMIT).map(drop)
    }

    fn ask(&self, request: &Request, limit: Duration) -> io::Result<Answer> {
        #[cfg(test)]
        if let Some(walk) = crate::sys::walk::current() {
            return walk.ask(request);
        }
        self.looker.ask(request, &[], self.left(limit)?)
    }

    fn left(&self, limit: Duration) -> io::Result<Duration> {
        let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        match left {
            Some(left) if left.is_zero() => {
                Err(io::Error::new(io::ErrorKind::TimedOut, "the guest's file system is too slow"))
            }
            Some(left) => Ok(left.min(limit)),
            None => Ok(limit),
        }
    }
}

/// A socket in a tree, which can be connected to any number of times.
pub struct Socket {
    looker: Arc<Looker>,
    number: usize,
    identity: Identity,
}

impl Socket {
    /// Device and inode: two sockets with the same values are one.
    pub fn inode(&self) -> (u64, u64) {
        self.identity.inode
    }

    /// The user id of its owner on the node.
    pub fn owner(&self) -> u32 {
        self.identity.owner
    }

    /// A new connection, which does not block.
    ///
    /// # Errors
    /// `WouldBlock` while the listener's backlog is full.
    pub fn connect(&self) -> io::Result<OwnedFd> {
        let request = Request::Connect { number: self.number };
        let answer = self.looker.ask(&request, &[], LOOK_LIMIT)?;
        answer.descriptor.ok_or_else(|| unexpected(&answer.reply))
    }
}

fn unexpected(reply: &Reply) -> io::Error {
    io::Error::other(format!("an answer to another question: {reply:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::Root;
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
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

        /// Gives everything to a guest's root, if we are root.
        fn shift(&self) {
            if nix::unistd::geteuid().is_root() {
                for path in ["root", "root/run", "root/var", "root/var/lib"] {
                    let path = self.0.join(path);
                    std::os::unix::fs::chown(path, Some(100_000), Some(100_000)).unwrap();
                }
            }
        }

        fn tree(&self) -> Tree {
            let watched = Watched::new(&Root::at(&self.0), "guest-1", "guest 1", "Restart it.");
            Tree::new(Place::Directory(self.0.join("root")), None, watched, "")
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

    /// Most guests of a node have the same user ids there.
    #[test]
    fn what_another_guest_has_on_its_way_keeps_no_socket_from_being_handed_back() {
        let guest = Guest::new();
        let engine = guest.0.join("root/run/docker.sock");
        let _engine = UnixListener::bind(&engine).unwrap();
        guest.shift();
        std::fs::set_permissions(&engine, PermissionsExt::from_mode(0o666)).unwrap();
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        // The limits that most programs are started with, vzdump among them.
        let mut limit = nix::libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: these write and read the structure, which outlives them.
        unsafe {
            assert_eq!(nix::libc::getrlimit(nix::libc::RLIMIT_NOFILE, &raw mut limit), 0);
            limit.rlim_cur = 1024;
            assert_eq!(nix::libc::setrlimit(nix::libc::RLIMIT_NOFILE, &raw const limit), 0);
        }
        // A process of that user with 8000 descriptors in sockets that nobody reads.
        let script = "import os, resource, socket, sys\n\
            resource.setrlimit(resource.RLIMIT_NOFILE, (8192, 8192)); os.setgid(100000); os.setuid(100000)\n\
            pairs = [socket.socketpair() for _ in range(100)]; file = os.open('/dev/null', os.O_RDONLY)\n\
            for pair in pairs: socket.send_fds(pair[0], [b'x'], [file] * 80)\n\
            print('sent', flush=True); sys.stdin.read()";
        let mut neighbour = std::process::Command::new("/usr/bin/python3");
        neighbour.args(["-c", script]).stdin(std::process::Stdio::piped());
        let Ok(mut neighbour) = neighbour.stdout(std::process::Stdio::piped()).spawn() else {
            return;
        };
        let mut said = String::new();
        let output = neighbour.stdout.take().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut said).unwrap();
        assert_eq!(said, "sent\n");
        let socket = guest.tree().socket("/run/docker.sock").unwrap().unwrap();
        let connected = socket.connect();
        drop(neighbour.stdin.take());
        neighbour.wait().unwrap();
        connected.unwrap();
    }

    #[test]
    fn a_symlink_inside_the_guest_is_followed() {
        let guest = Guest::new();
        let engine = UnixListener::bind(guest.0.join("root/run/docker.sock")).unwrap();
        symlink("/run", guest.0.join("root/var/run")).unwrap();
        let socket = guest.tree().socket("/var/run/docker.sock").unwrap().unwrap();
        for _ in 0..2 {
            let connected = socket.connect().unwrap();
            engine.accept().unwrap();
            let flags = nix::fcntl::fcntl(&connected, nix::fcntl::FcntlArg::F_GETFL).unwrap();
            assert!(flags & nix::fcntl::OFlag::O_NONBLOCK.bits() != 0, "it never blocks");
        }
    }

    #[test]
    fn a_socket_stays_the_one_that_was_found() {
        let guest = Guest::new();
        let path = guest.0.join("root/run/docker.sock");
        let engine = UnixListener::bind(&path).unwrap();
        let socket = guest.tree().socket("/run/docker.sock").unwrap().unwrap();
        std::fs::rename(&path, guest.0.join("root/run/old.sock")).unwrap();
        let other = UnixListener::bind(&path).unwrap();
        other.set_nonblocking(true).unwrap();
        socket.connect().unwrap();
        engine.accept().unwrap();
        assert_eq!(other.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
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
        symlink("fifo", guest.0.join("root/run/link")).unwrap();
        let error = tree.read("/run/link", 9).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(nix::errno::Errno::ELOOP as i32));
    }

    #[test]
    fn a_device_is_not_opened() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let guest = Guest::new();
        // Opening it gives ENXIO: no device has that number.
        let (path, mode) = (guest.0.join("root/run/device"), Mode::from_bits_truncate(0o666));
        mknod(&path, SFlag::S_IFCHR, mode, makedev(240, 4095)).unwrap();
        assert_eq!(std::fs::read(&path).unwrap_err().raw_os_error(), Some(6), "ENXIO");
        let error = guest.tree().read("/run/device", 9).unwrap_err();
        assert_eq!(error.to_string(), "not a regular file");
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
        assert!(tree.is_directory("/var/lib").unwrap());
        assert!(!tree.is_directory("/var/machine-id").unwrap());
    }

    #[test]
    fn a_large_file_comes_and_goes_whole() {
        let guest = Guest::new();
        let content: Vec<u8> = (0..16 << 20).map(|number: u32| number.to_le_bytes()[1]).collect();
        let tree = guest.tree();
        tree.replace("/var/lib/stillpoint", "large", &content).unwrap();
        let read = tree.read("/var/lib/stillpoint/large", 16 << 20).unwrap().unwrap();
        assert!(read == content);
        let error = tree.read("/var/lib/stillpoint/large", (16 << 20) - 1).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn what_is_closed_to_the_guest_is_closed_to_us() {
        if !nix::unistd::geteuid().is_root() {
            // Without root there are no rights to drop.
            return;
        }
        let guest = Guest::new();
        guest.shift();
        // A directory of the node that is mounted into the guest looks like this.
        std::fs::create_dir(guest.0.join("root/srv")).unwrap();
        std::fs::write(guest.0.join("root/srv/file"), "the node's").unwrap();
        symlink("/srv", guest.0.join("root/etc")).unwrap();
        let tree = guest.tree();
        assert!(tree.replace_in("/etc", "file", b"1", 0o600).is_err());
        assert!(tree.replace("/etc", "new", b"1").is_err());
        assert!(tree.remove("/etc", "file").is_err());
        assert_eq!(std::fs::read(guest.0.join("root/srv/file")).unwrap(), b"the node's");
        // Only the node's group root may read it: that is one of our supplementary groups.
        let path = guest.0.join("root/srv/file");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = tree.read("/srv/file", 99).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        let engine = UnixListener::bind(guest.0.join("root/srv/sock")).unwrap();
        let closed = std::fs::Permissions::from_mode(0o660);
        std::fs::set_permissions(guest.0.join("root/srv/sock"), closed).unwrap();
        let socket = tree.socket("/srv/sock").unwrap().unwrap();
        assert_eq!(socket.connect().unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        drop(engine);
        std::fs::write(path, "still as root").unwrap();
    }

    #[test]
    fn many_threads_share_one_process() {
        let guest = Guest::new();
        std::fs::write(guest.0.join("root/run/file"), "here").unwrap();
        let tree = guest.tree();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        assert_eq!(tree.read("/run/file", 9).unwrap().unwrap(), b"here");
                    }
                });
            }
        });
    }
}
