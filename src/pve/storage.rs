//! Which backup server a PVE storage stands for: `/etc/pve/storage.cfg` and the secrets beside it.

use std::fmt;
use std::fs;
use std::io;

use serde::Serialize;

use crate::sys::{Root, process};

const CONFIG: &str = "/etc/pve/storage.cfg";
/// Here PVE keeps `ID.pw` (password or token secret) and `ID.enc` (the key of client-side encryption).
const SECRETS: &str = "/etc/pve/priv/storage";
/// The port of the PBS API where storage.cfg names none.
const PORT: u16 = 8007;

/// One storage of storage.cfg.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Storage {
    pub id: String,
    /// `pbs`, `dir`, `zfspool`, ...
    pub kind: String,
    pub disabled: bool,
    /// The nodes of the cluster that use it; empty is all.
    pub nodes: Vec<String>,
    /// For kind `pbs`: what it points at. None for other kinds, and where server or datastore are missing.
    pub target: Option<Target>,
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

/// A datastore on a backup server, and how to get in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Name or address, as written.
    pub server: String,
    pub port: u16,
    pub datastore: String,
    /// None is the root namespace.
    pub namespace: Option<String>,
    /// `user@realm`, or `user@realm!token` for an API token.
    pub username: String,
    /// The SHA-256 of the server's certificate, as written: `AA:BB:...`.
    pub fingerprint: Option<String>,
    /// Whether backups to this storage are encrypted before they leave the node.
    pub encryption_key: bool,
}

impl Target {
    /// A name for the datastore that stays the same when the storage is renamed or attached to another node:
    /// `server:datastore#fingerprint`, without `#...` where no fingerprint is set.
    pub fn durable_id(&self) -> String {
        let name = format!("{}:{}", self.server, self.datastore);
        match &self.fingerprint {
            Some(fingerprint) => format!("{name}#{}", fingerprint.to_ascii_lowercase()),
            None => name,
        }
    }

    /// What the backup server's access control calls it: `/datastore/STORE[/NAMESPACE]`.
    pub fn acl_path(&self) -> String {
        let path = format!("/datastore/{}", self.datastore);
        match &self.namespace {
            Some(namespace) => format!("{path}/{namespace}"),
            None => path,
        }
    }
}

/// A password or token secret. Its `Debug` shows nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The secret itself, for a request and nothing else.
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
/// Only when storage.cfg cannot be read. What cannot be understood in it is left out.
pub fn read(root: &Root) -> io::Result<Vec<Storage>> {
    let mut storages = parse(&text(root)?);
    for storage in &mut storages {
        if let Some(target) = &mut storage.target {
            let key = root.path(&format!("{SECRETS}/{}.enc", storage.id));
            target.encryption_key |= key.exists();
        }
    }
    Ok(storages)
}

/// The storage with this id, None if there is none.
///
/// # Errors
/// As [`read`].
pub fn find(root: &Root, id: &str) -> io::Result<Option<Storage>> {
    Ok(read(root)?.into_iter().find(|storage| storage.id == id))
}

/// The password or token secret of a storage: the first line of `/etc/pve/priv/storage/ID.pw`. From then on no other
/// process but root's can look into our memory.
///
/// # Errors
/// When the file cannot be read, is empty, or is not text.
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

/// An id names files, so it must not lead out of their directory.
fn is_id(id: &str) -> bool {
    !id.is_empty() && !id.starts_with('.') && !id.contains('/')
}

fn parse(text: &str) -> Vec<Storage> {
    sections(text).into_iter().map(Section::storage).collect()
}

/// The text of storage.cfg.
///
/// # Errors
/// As [`read`].
pub fn text(root: &Root) -> io::Result<String> {
    Ok(String::from_utf8_lossy(&fs::read(root.path(CONFIG))?).into_owned())
}

/// Reads the section format that PVE writes: `KIND: ID`, then indented `key value` lines, until an empty line.
pub fn sections(text: &str) -> Vec<Section<'_>> {
    let mut sections: Vec<Section<'_>> = Vec::new();
    let mut section: Option<Section<'_>> = None;
    for line in text.lines() {
        if line.trim_start().starts_with('#') {
            continue;
        }
        let indented = line.starts_with(char::is_whitespace);
        if !indented || line.trim().is_empty() {
            sections.extend(section.take());
        }
        if !indented {
            section = Section::header(line);
        } else if let Some(section) = &mut section {
            let line = line.trim();
            let (key, value) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            if !key.is_empty() {
                section.properties.push((key, value.trim_start()));
            }
        }
    }
    sections.extend(section);
    sections
}

/// One storage as it is written.
pub struct Section<'a> {
    /// `pbs`, `dir`, `zfspool`, ...
    pub kind: &'a str,
    pub id: &'a str,
    properties: Vec<(&'a str, &'a str)>,
}

impl<'a> Section<'a> {
    fn header(line: &'a str) -> Option<Section<'a>> {
        let (kind, id) = line.split_once(':')?;
        let (kind, id) = (kind.trim(), id.trim());
        let one_word = |text: &str| !text.is_empty() && !text.contains(char::is_whitespace);
        (one_word(kind) && one_word(id) && is_id(id)).then(|| Section {
            kind,
            id,
            properties: Vec::new(),
        })
    }

    /// The value of a property.
    pub fn get(&self, key: &str) -> Option<&'a str> {
        let found = self.properties.iter().find(|(name, _)| *name == key);
        found.map(|(_, value)| *value)
    }

    /// The value of a property, None if it is empty.
    fn text(&self, key: &str) -> Option<String> {
        self.get(key).filter(|value| !value.is_empty()).map(str::to_owned)
    }

    /// Whether the storage is switched off.
    pub fn disabled(&self) -> bool {
        self.get("disable").is_some_and(|value| value != "0")
    }

    fn storage(self) -> Storage {
        Storage {
            id: self.id.to_owned(),
            kind: self.kind.to_owned(),
            disabled: self.disabled(),
            nodes: self.nodes(),
            target: self.target(),
        }
    }

    /// The nodes of the cluster that use it; empty is all.
    pub fn nodes(&self) -> Vec<String> {
        let text = self.get("nodes").unwrap_or_default();
        let names = text.split([',', ';', ' ', '\t']).filter(|name| !name.is_empty());
        names.map(str::to_owned).collect()
    }

    fn target(&self) -> Option<Target> {
        if self.kind != "pbs" {
            return None;
        }
        Some(Target {
            server: self.text("server")?,
            port: self.port()?,
            datastore: self.text("datastore")?,
            namespace: self.text("namespace"),
            username: self.text("username").unwrap_or_else(|| "root@pam".to_owned()),
            fingerprint: self.text("fingerprint"),
            encryption_key: self.text("encryption-key").is_some(),
        })
    }

    /// A port that is written but is none must not silently become another one.
    fn port(&self) -> Option<u16> {
        match self.text("port") {
            Some(port) => port.parse().ok(),
            None => Some(PORT),
        }
    }
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
