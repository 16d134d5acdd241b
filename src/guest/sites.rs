//! Where a path of a node really is, so that two guests with the same data can be recognised: in a
//! directory of one node, on a storage that all nodes have, or on a server.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::mounts::{Medium, Mounted, Mounts};
use crate::pve::{node_name, storage};
use crate::sys::look::Watched;
use crate::sys::{Root, bounded, file};

/// Resolving the links in a path takes microseconds, unless it leads to a server that does not
/// answer.
const RESOLVE_LIMIT: Duration = Duration::from_secs(2);

/// A node with a thousand mounts has about 200 kB of them.
const MOUNTS_LIMIT: u64 = 16 << 20;

/// The holder of the data.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holder {
    /// The node with this name.
    Node(String),
    /// A storage that every node has, by its name in storage.cfg.
    Storage(String),
    /// A file server, by the name or address that its clients use.
    Server(String),
}

/// A directory, device or volume.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Site {
    pub holder: Holder,
    /// Absolute, and without links as far as they are known; for a volume its name in the storage.
    pub path: String,
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.holder {
            Holder::Node(_) => f.write_str(&self.path),
            Holder::Storage(holder) | Holder::Server(holder) => write!(f, "{holder}:{}", self.path),
        }
    }
}

impl Site {
    /// Whether they are equal, or one is inside the other.
    pub fn overlaps(&self, other: &Site) -> bool {
        self.is_in(other) || other.is_in(self)
    }

    /// Whether it is equal to the other or inside it.
    pub fn is_in(&self, other: &Site) -> bool {
        self.holder == other.holder && Path::new(&self.path).starts_with(&other.path)
    }

    /// The place of a relative path below it.
    pub fn below(&self, rest: &Path) -> Site {
        if rest.as_os_str().is_empty() {
            return self.clone();
        }
        let path = Path::new(&self.path).join(rest);
        Site { holder: self.holder.clone(), path: path.to_string_lossy().into_owned() }
    }
}

/// What the node knows about the places of data.
#[derive(Clone, Debug)]
pub struct Sites {
    root: Root,
    node: String,
    mounts: Mounts,
    storages: Vec<Shared>,
    /// The addresses of servers that the node knows by a name.
    addresses: BTreeMap<String, String>,
}

/// A storage that every node has.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shared {
    id: String,
    /// Where it is mounted on each node.
    path: String,
    /// The server and the directory there, if they are known.
    server: Option<(String, String)>,
}

impl Sites {
    /// Reads storage.cfg and the node's mounts. What cannot be read counts as empty.
    pub fn of(root: &Root) -> Sites {
        let mounts = file::read_text(&root.path("/proc/self/mountinfo"), MOUNTS_LIMIT);
        let mounts =
            mounts.ok().flatten().map_or_else(Mounts::default, |text| Mounts::parse(&text));
        let storages = storage::read(root).map(shared).unwrap_or_default();
        let addresses = addresses(&mounts);
        Sites { root: root.clone(), node: node_name(root), mounts, storages, addresses }
    }

    /// The same place with the server's address instead of its name, if the node knows it, because
    /// either may be used for one server.
    pub fn known(&self, site: Site) -> Site {
        match &site.holder {
            Holder::Server(name) => match self.addresses.get(name) {
                Some(address) => Site { holder: Holder::Server(address.clone()), ..site },
                None => site,
            },
            Holder::Node(_) | Holder::Storage(_) => site,
        }
    }

    /// The place of what a guest's configuration mounts: a path of its node, or a volume. `node` is
    /// the guest's; `None` means this one.
    pub fn of_source(&self, source: &str, node: Option<&str>) -> Site {
        self.known(self.named(source, node))
    }

    fn named(&self, source: &str, node: Option<&str>) -> Site {
        if !source.starts_with('/') {
            let (storage, volume) = source.split_once(':').unwrap_or(("", source));
            let holder = Holder::Storage(storage.to_string());
            return Site { holder, path: format!("/{volume}") };
        }
        let on_server = |(_, mounted): (&str, &Mounted)| mounted.medium() == Medium::Elsewhere;
        let path = match plain(source) {
            // A server that does not answer must not be accessed.
            path if node.is_some() || self.mounts.at(&path).is_some_and(on_server) => path,
            path => self.resolved(&path),
        };
        self.of_path(&path, node)
    }

    /// The site of a path without links.
    fn of_path(&self, path: &str, node: Option<&str>) -> Site {
        let storage =
            self.storages.iter().filter(|storage| Path::new(path).starts_with(&storage.path));
        let storage = storage.max_by_key(|storage| storage.path.len());
        if let Some(storage) = storage
            && let Ok(rest) = Path::new(path).strip_prefix(&storage.path)
        {
            let (holder, directory) = match &storage.server {
                Some((server, directory)) => (Holder::Server(server.clone()), directory.as_str()),
                None => (Holder::Storage(storage.id.clone()), "/"),
            };
            return Site { holder, path: directory.to_string() }.below(rest);
        }
        // Usually every node mounts a server in the same place.
        if let Some((point, mounted)) = self.mounts.at(path)
            && let Some(site) = of_mounted(mounted)
            && let Ok(rest) = Path::new(path).strip_prefix(point)
        {
            return site.below(rest);
        }
        let node = node.unwrap_or(&self.node);
        Site { holder: Holder::Node(node.to_string()), path: path.to_string() }
    }

    /// A path of this node with its links resolved, as far as it exists.
    fn resolved(&self, path: &str) -> String {
        let place = self.root.path(path);
        let top = self.root.directory().map(Path::to_path_buf);
        let resolve = || -> Option<String> {
            let resolved = place.canonicalize().ok()?;
            let resolved = match top {
                Some(top) => {
                    let below = resolved.strip_prefix(top.canonicalize().ok()?).ok()?;
                    Path::new("/").join(below)
                }
                None => resolved,
            };
            resolved.to_str().map(String::from)
        };
        let name = format!("the directory {path}");
        let advice = "A guest's configuration mounts it: make its server answer, or unmount it.";
        // It becomes the name of a file.
        let key: String = format!("directory{path}").chars().take(150).collect();
        let watched = Watched::new(&self.root, &key, &name, advice);
        let resolved = bounded::within(&watched, RESOLVE_LIMIT, resolve);
        resolved.ok().flatten().unwrap_or_else(|| path.to_string())
    }
}

/// The server of a mount, and the directory there; `None` if it is on no server, or on one without
/// a name.
pub fn of_mounted(mounted: &Mounted) -> Option<Site> {
    if mounted.medium() != Medium::Elsewhere {
        return None;
    }
    let (server, directory) = server(&mounted.source)?;
    let site = Site { holder: Holder::Server(server), path: plain(&directory) };
    Some(site.below(Path::new(mounted.directory.trim_start_matches('/'))))
}

/// Splits `192.0.2.10:/media` or `//nas/media` into server and directory.
pub fn server(source: &str) -> Option<(String, String)> {
    let (server, directory) = match source.strip_prefix("//") {
        Some(share) => share.split_once('/').unwrap_or((share, "")),
        None => {
            let (server, directory) = source.rsplit_once(":/")?;
            (server, directory)
        }
    };
    (!server.is_empty()).then(|| (plain_server(server), plain(directory)))
}

/// A server's name without the dot at its end, or its address without brackets.
fn plain_server(server: &str) -> String {
    let bare = server.strip_prefix('[').and_then(|server| server.strip_suffix(']'));
    bare.unwrap_or(server).trim_end_matches('.').to_ascii_lowercase()
}

/// What the kernel tells of the addresses behind the names of the servers that are mounted.
fn addresses(mounts: &Mounts) -> BTreeMap<String, String> {
    let named = mounts.servers().filter_map(|(source, address)| Some((server(source)?.0, address)));
    named.map(|(name, address)| (name, plain_server(address))).collect()
}

/// The storages that are a directory which every node has.
fn shared(storages: Vec<storage::Storage>) -> Vec<Shared> {
    let of = |storage: storage::Storage| {
        let directory = storage.directory.filter(|directory| directory.shared)?;
        let server = directory.served.map(|(server, path)| (plain_server(&server), plain(&path)));
        Some(Shared { id: storage.id, path: plain(&directory.path), server })
    };
    storages.into_iter().filter_map(of).collect()
}

/// A path without `.`, `..` and superfluous slashes.
fn plain(path: &str) -> String {
    let mut plain = PathBuf::from("/");
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => plain.push(name),
            Component::ParentDir => {
                plain.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    plain.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORAGES: &str = "dir: local\n\tpath /var/lib/vz\n\nnfs: nas\n\tserver NAS.example.org\n\texport /volume1/pve\n\n\
        cifs: win\n\tserver 192.0.2.9\n\tshare data\n\tsubdir /pve\n\npath /mnt/win\n\ncephfs: ceph\n\tpath /mnt/pve/ceph\n\n\
        dir: both\n\tpath /srv/both\n\tshared 1\n";

    const MOUNTS: &str = "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 0:9 / /mnt/media rw - nfs4 nas.example.org:/media rw\n\
        3 1 0:9 /films /srv/films rw - nfs4 nas.example.org:/media rw\n4 1 0:8 / /mnt/far rw - fuse.sshfs me@far:/home rw\n";

    fn sites() -> Sites {
        Sites {
            root: Root::at(Path::new("/nowhere/at/all")),
            node: "one".to_string(),
            mounts: Mounts::parse(MOUNTS),
            storages: shared(storage::parse(STORAGES)),
            addresses: BTreeMap::new(),
        }
    }

    #[test]
    fn a_path_lies_on_a_node_a_storage_or_a_server() {
        let sites = sites();
        let at = |source: &str, node: Option<&str>| sites.of_source(source, node).to_string();
        assert_eq!(at("/tank/pg/", None), "/tank/pg");
        assert_eq!(at("/tank/../srv//x", None), "/srv/x");
        assert_eq!(at("/mnt/pve/nas/pg", Some("two")), "nas.example.org:/volume1/pve/pg");
        assert_eq!(at("/mnt/pve/ceph/pg", Some("two")), "ceph:/pg");
        assert_eq!(at("/srv/both/x", None), "both:/x");
        assert_eq!(at("/mnt/media/films/a", None), "nas.example.org:/media/films/a");
        assert_eq!(at("/srv/films/a", None), "nas.example.org:/media/films/a");
        assert_eq!(at("/mnt/far/x", None), "me@far:/home/x");
        assert_eq!(at("local-lvm:vm-9001-disk-1", Some("two")), "local-lvm:/vm-9001-disk-1");
        assert_eq!(at("/var/lib/vz/x", None), "/var/lib/vz/x", "each node has its own");
    }

    #[test]
    fn a_server_is_known_by_its_name_and_by_its_address() {
        let mounts = Mounts::parse(
            "1 0 0:9 / /mnt/media rw - nfs4 nas.example.org:/media rw,vers=4.2,addr=192.0.2.10\n",
        );
        let sites = Sites { addresses: addresses(&mounts), mounts, ..sites() };
        assert_eq!(sites.of_source("/mnt/media/a", None).to_string(), "192.0.2.10:/media/a");
        let by_storage = sites.of_source("/mnt/pve/nas/a", Some("two"));
        assert_eq!(by_storage.to_string(), "192.0.2.10:/volume1/pve/a");
        let holder = Holder::Server("nas.example.org".to_string());
        assert_eq!(sites.known(Site { holder, path: "/".into() }).to_string(), "192.0.2.10:/");
        assert_eq!(server("NAS.example.org.:/m/"), Some(("nas.example.org".into(), "/m".into())));
        assert_eq!(server("[2001:db8::9]:/m"), Some(("2001:db8::9".into(), "/m".into())));
        assert_eq!(server("//nas/m/../n"), Some(("nas".into(), "/n".into())));
    }

    #[test]
    fn one_in_the_other_is_shared_and_only_on_the_same_node() {
        let sites = sites();
        let overlaps = |one: (&str, Option<&str>), other: (&str, Option<&str>)| {
            let (one, other) = (sites.of_source(one.0, one.1), sites.of_source(other.0, other.1));
            assert_eq!(one.overlaps(&other), other.overlaps(&one));
            one.overlaps(&other)
        };
        assert!(overlaps(("/tank/pg", None), ("/tank/pg", None)));
        assert!(overlaps(("/tank/pg/data", None), ("/tank", None)));
        assert!(!overlaps(("/tank/pg", None), ("/tank/pg2", None)));
        assert!(!overlaps(("/tank/pg", None), ("/tank/pg", Some("two"))));
        assert!(overlaps(("/mnt/pve/nas/pg", None), ("/mnt/pve/nas", Some("two"))));
        assert!(overlaps(("/mnt/media/films", None), ("/srv/films", Some("two"))));
    }

    #[test]
    fn links_of_the_node_are_resolved() {
        let directory =
            std::env::temp_dir().join(format!("stillpoint-sites-{}", crate::sys::text::token()));
        std::fs::create_dir_all(directory.join("tank/pg")).unwrap();
        std::os::unix::fs::symlink("tank/pg", directory.join("pg")).unwrap();
        let sites = Sites { root: Root::at(&directory), ..sites() };
        assert_eq!(sites.of_source("/pg", None).to_string(), "/tank/pg");
        std::fs::remove_dir_all(directory).unwrap();
    }
}
