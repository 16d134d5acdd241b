//! The backup servers behind PVE storages: `/etc/pve/storage.cfg` and the secrets beside it.

use std::fmt;
use std::fs;
use std::io;

use serde::Serialize;

use super::options::{is_on, prunes};
use super::sections::{Section, Sections};
use crate::sys::{Root, process};

const CONFIG: &str = "/etc/pve/storage.cfg";
/// PVE's directory for `ID.pw` (password or token secret) and `ID.enc` (the key of client-side
/// encryption).
pub const SECRETS: &str = "/etc/pve/priv/storage";
/// The default port of the PBS API.
const PORT: u16 = 8007;

/// Proxmox VE's own storage, which storage.cfg need not name, and its directory.
pub const LOCAL: &str = "local";
pub const LOCAL_PATH: &str = "/var/lib/vz";

/// The types of storages that are a directory: on the node, or mounted from a server.
const DIRECTORIES: [&str; 2] = ["dir", "btrfs"];
const MOUNTED: [&str; 4] = ["nfs", "cifs", "cephfs", "glusterfs"];

/// One storage of storage.cfg.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Storage {
    pub id: String,
    /// `pbs`, `dir`, `zfspool`, ...
    pub kind: String,
    pub disabled: bool,
    /// The nodes of the cluster that use it; empty means all.
    pub nodes: Vec<String>,
    /// Whether Proxmox VE prunes it after each backup; `None` if it does not say.
    pub prunes: Option<bool>,
    /// For a storage that is a directory: its place.
    pub directory: Option<Directory>,
    /// For kind `pbs`: its target. `None` for other kinds, and if server or datastore are missing.
    pub target: Option<Target>,
}

/// The place of a storage that is a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    /// An absolute path on each node that has it.
    pub path: String,
    /// The directory of its snippets, as an absolute path.
    pub snippets: String,
    /// Its `content` setting in storage.cfg.
    pub content: String,
    /// Every node that has it sees the same files.
    pub shared: bool,
    /// Where it has to be mounted, if it has to be.
    pub mount: Option<String>,
    /// For NFS and CIFS: the server and the directory there.
    pub served: Option<(String, String)>,
}

/// Whether a node uses a storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Attached {
    Enabled,
    Disabled,
    /// Only other nodes of the cluster use it.
    Elsewhere,
}

impl Storage {
    /// Whether the node of that name uses it.
    pub fn attached(&self, node: &str) -> Attached {
        if self.disabled {
            Attached::Disabled
        } else if self.nodes.is_empty() || self.nodes.iter().any(|name| name == node) {
            Attached::Enabled
        } else {
            Attached::Elsewhere
        }
    }
}

/// A datastore on a backup server, and its login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Name or address, as written.
    pub server: String,
    pub port: u16,
    pub datastore: String,
    /// `None` is the root namespace.
    pub namespace: Option<String>,
    /// `user@realm`, or `user@realm!token` for an API token.
    pub username: String,
    /// The SHA-256 of the server's certificate, as written: `AA:BB:...`.
    pub fingerprint: Option<String>,
    /// Whether backups to this storage are encrypted before they leave the node.
    pub encryption_key: bool,
}

impl Target {
    /// A name for the datastore that stays the same if the storage is renamed or attached to
    /// another node: `server:datastore#fingerprint`, without `#...` if no fingerprint is set.
    pub fn durable_id(&self) -> String {
        let name = format!("{}:{}", self.server, self.datastore);
        match &self.fingerprint {
            Some(fingerprint) => format!("{name}#{}", fingerprint.to_ascii_lowercase()),
            None => name,
        }
    }

    /// Its path in the backup server's access control: `/datastore/STORE[/NAMESPACE]`.
    pub fn acl_path(&self) -> String {
        let path = format!("/datastore/{}", self.datastore);
        match &self.namespace {
            Some(namespace) => format!("{path}/{namespace}"),
            None => path,
        }
    }
}

/// A password or token secret. Its `Debug` output hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The secret itself, only for a request.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Secret {
        Secret(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// All storages of the node, in the order of the file.
///
/// # Errors
/// Only if storage.cfg cannot be read. Invalid parts of it are left out.
pub fn read(root: &Root) -> io::Result<Vec<Storage>> {
    let text = fs::read(root.path(CONFIG))?;
    let mut storages = parse(&String::from_utf8_lossy(&text));
    for storage in &mut storages {
        if let Some(target) = &mut storage.target {
            let key = root.path(&format!("{SECRETS}/{}.enc", storage.id));
            target.encryption_key |= key.exists();
        }
    }
    Ok(storages)
}

/// The storage with this id; `None` if there is none.
///
/// # Errors
/// As [`read`].
pub fn find(root: &Root, id: &str) -> io::Result<Option<Storage>> {
    Ok(read(root)?.into_iter().find(|storage| storage.id == id))
}

/// The password or token secret of a storage: the first line of `/etc/pve/priv/storage/ID.pw`. From
/// then on only root's processes can look into our memory.
///
/// # Errors
/// If the file cannot be read, is empty, or is not text.
pub fn secret(root: &Root, id: &str) -> io::Result<Secret> {
    process::keep_memory_private()?;
    if !is_id(id) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let text = fs::read_to_string(root.path(&format!("{SECRETS}/{id}.pw")))?;
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(Secret(line.to_owned())),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the file is empty")),
    }
}

/// An id becomes part of a file name, so it must not lead out of the directory.
fn is_id(id: &str) -> bool {
    !id.is_empty() && !id.starts_with('.') && !id.contains('/')
}

/// Parses the text of storage.cfg. Of several storages with one id the last counts.
pub fn parse(text: &str) -> Vec<Storage> {
    let mut storages: Vec<Storage> = Vec::new();
    for section in Sections::parse(text).sections.iter().filter(|section| is_id(&section.id)) {
        storages.retain(|storage| storage.id != section.id);
        storages.push(storage(section));
    }
    storages
}

fn storage(section: &Section) -> Storage {
    let kind = section.kind.to_ascii_lowercase();
    let separators = [',', ';', ' ', '\t'];
    let nodes = section.value("nodes").unwrap_or_default().split(separators);
    Storage {
        id: section.id.clone(),
        disabled: section.flag("disable") == Some(true),
        nodes: nodes.filter(|name| !name.is_empty()).map(str::to_owned).collect(),
        prunes: section.value("prune-backups").map(prunes),
        directory: directory(section, &kind),
        target: target(section, &kind),
        kind,
    }
}

fn directory(section: &Section, kind: &str) -> Option<Directory> {
    let mounted = MOUNTED.contains(&kind);
    if !mounted && !DIRECTORIES.contains(&kind) {
        return None;
    }
    let path = match (section.text("path"), section.id.as_str()) {
        (Some(path), _) => path.trim_end_matches('/').to_string(),
        (None, LOCAL) => LOCAL_PATH.to_string(),
        (None, id) if mounted => format!("/mnt/pve/{id}"),
        (None, _) => return None,
    };
    let below = section.text("content-dirs").and_then(|dirs| named(dirs, "snippets"));
    let mount = match section.text("is_mountpoint") {
        Some(place) if place.starts_with('/') => Some(place.to_string()),
        Some(value) if is_on(value) => Some(path.clone()),
        _ => mounted.then(|| path.clone()),
    };
    let server = |directory: &str| {
        Some((section.value("server")?.to_ascii_lowercase(), directory.to_string()))
    };
    let served = match kind {
        "nfs" => section.value("export").and_then(server),
        "cifs" => section.value("share").and_then(|share| {
            server(&format!("/{share}/{}", section.value("subdir").unwrap_or_default()))
        }),
        _ => None,
    };
    Some(Directory {
        snippets: format!("{path}/{}", below.unwrap_or("snippets").trim_matches('/')),
        content: section.text("content").unwrap_or("images").to_string(),
        shared: mounted || section.flag("shared") == Some(true),
        path,
        mount,
        served,
    })
}

/// The value of `name` in `a=b,c=d`.
fn named<'a>(list: &'a str, name: &str) -> Option<&'a str> {
    let mut pairs = list.split(',').filter_map(|pair| pair.split_once('='));
    pairs.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim())
}

fn target(section: &Section, kind: &str) -> Option<Target> {
    let text = |key: &str| section.text(key).map(str::to_owned);
    if kind != "pbs" {
        return None;
    }
    Some(Target {
        server: text("server")?,
        // An invalid port must not silently become another one.
        port: section.text("port").map_or(Ok(PORT), str::parse).ok()?,
        datastore: text("datastore")?,
        namespace: text("namespace"),
        username: text("username").unwrap_or_else(|| "root@pam".to_owned()),
        fingerprint: text("fingerprint"),
        encryption_key: section.text("encryption-key").is_some(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
dir: local
\tpath /var/lib/vz
\tcontent iso,vztmpl,backup
\tprune-backups keep-all=1

# the one in the cellar
pbs: cellar
\tdatastore tank
\tserver 192.0.2.7
\t# a comment inside
\tcontent backup
\tencryption-key 05:53:55:a0
\tfingerprint AA:BB:CC
\tnamespace pve/n100
\tnodes one,two
\tport 8443
\tusername felhom@pbs!n100
\tsome-new-key with words

pbs: bare
        datastore   main
        server pbs.example.org
        disable

pbs: nowhere
\tserver 192.0.2.9

this line is damaged
\tserver 192.0.2.66

pbs: odd
\tdatastore d
\tserver s
\tport 99999

future-type: x
\tdatastore y

pbs: ../../shadow
\tdatastore d
\tserver s";

    fn parsed(id: &str) -> Option<Storage> {
        parse(TEXT).into_iter().find(|storage| storage.id == id)
    }

    #[test]
    fn every_key_of_a_pbs_storage_is_read() {
        let cellar = parsed("cellar").unwrap();
        assert_eq!(cellar.kind, "pbs");
        assert_eq!(cellar.attached("two"), Attached::Enabled);
        assert_eq!(cellar.attached("three"), Attached::Elsewhere);
        let target = cellar.target.unwrap();
        assert_eq!(
            target,
            Target {
                server: "192.0.2.7".into(),
                port: 8443,
                datastore: "tank".into(),
                namespace: Some("pve/n100".into()),
                username: "felhom@pbs!n100".into(),
                fingerprint: Some("AA:BB:CC".into()),
                encryption_key: true,
            }
        );
        assert_eq!(target.durable_id(), "192.0.2.7:tank#aa:bb:cc");
    }

    #[test]
    fn what_is_not_written_has_pves_defaults() {
        let bare = parsed("bare").unwrap();
        assert_eq!(bare.attached("one"), Attached::Disabled);
        let target = bare.target.unwrap();
        assert_eq!((target.port, target.username.as_str()), (8007, "root@pam"));
        assert_eq!((target.namespace.as_ref(), target.fingerprint.as_ref()), (None, None));
        assert!(!target.encryption_key);
        assert_eq!(target.durable_id(), "pbs.example.org:main");
    }

    #[test]
    fn a_section_that_is_not_understood_harms_no_other() {
        let ids: Vec<String> = parse(TEXT).into_iter().map(|storage| storage.id).collect();
        assert_eq!(ids, ["local", "cellar", "bare", "nowhere", "odd", "x"]);
        assert_eq!(parsed("local").unwrap().target, None);
        assert_eq!(parsed("local").unwrap().attached("one"), Attached::Enabled);
        assert_eq!(parsed("nowhere").unwrap().target, None);
        assert_eq!(parsed("odd").unwrap().target, None);
        assert_eq!(parsed("x").unwrap().kind, "future-type");
    }

    #[test]
    fn secret_and_key_are_found_beside_the_configuration() {
        let dir = std::env::temp_dir().join(format!("stillpoint-storage-{}", std::process::id()));
        let root = Root::at(&dir);
        fs::create_dir_all(root.path(SECRETS)).unwrap();
        fs::write(root.path(CONFIG), TEXT).unwrap();
        fs::write(root.path(&format!("{SECRETS}/bare.pw")), "s3cret \nmore\n").unwrap();
        fs::write(root.path(&format!("{SECRETS}/bare.enc")), "{}").unwrap();
        fs::write(root.path(&format!("{SECRETS}/cellar.pw")), "\n").unwrap();

        let bare = find(&root, "bare").unwrap().unwrap();
        assert!(bare.target.unwrap().encryption_key);
        let found = secret(&root, "bare").unwrap();
        assert!(!nix::sys::prctl::get_dumpable().unwrap(), "what was read can be looked at");
        assert_eq!(found.expose(), "s3cret ");
        assert!(!format!("{found:?}").contains("s3cret"));
        assert!(secret(&root, "cellar").is_err());
        assert!(secret(&root, "../storage/bare").is_err());
        assert!(find(&root, "nosuch").unwrap().is_none());
        fs::remove_dir_all(&dir).unwrap();
    }
}
