use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::guest::Guest;
use crate::sys::tree::Tree;
use crate::sys::{Root, failpoint, file, program};
use crate::vzdump::Vmid;

const DIRECTORY: &str = "/etc/ssh";

/// The types that sshd has keys of by default.
const TYPES: [&str; 3] = ["ed25519", "ecdsa", "rsa"];

/// Longer than any key.
const LIMIT: u64 = 64 << 10;

/// An RSA key is the slowest: a second or two, and longer on a busy node.
const KEYGEN_LIMIT: Duration = Duration::from_secs(60);

/// A new key and its public half.
struct Key {
    name: String,
    private: Vec<u8>,
    public: Vec<u8>,
}

/// Gives the guest a new SSH host key of each type that it has; returns whether it has any.
///
/// The keys are made on the node, as Proxmox VE does for a new guest, so no program of the guest is
/// needed. All are ready before the first old one is replaced, and each is replaced by a rename:
/// the guest is never without keys.
pub fn renew(root: &Root, vmid: Vmid, guest: &Guest, hostname: &str) -> Result<bool> {
    let types = types_in(&guest.tree)?;
    if types.is_empty() {
        return Ok(false);
    }
    let scratch = Scratch::new(root.path(&format!("/run/stillpoint/keys-{vmid}")))?;
    let comment = format!("root@{hostname}");
    let keys = types
        .iter()
        .map(|kind| make(root, &scratch.0, kind, &comment))
        .collect::<Result<Vec<Key>>>()?;
    for key in keys {
        key.put_into(&guest.tree)?;
        failpoint::reach(root, "host-key");
    }
    Ok(true)
}

fn types_in(tree: &Tree) -> Result<Vec<&'static str>> {
    let mut types = Vec::new();
    for kind in TYPES {
        let path = format!("{DIRECTORY}/{}", name_of(kind));
        let key = tree.read(&path, LIMIT).with_context(|| format!("{path} in the guest"))?;
        types.extend(key.map(|_| kind));
    }
    Ok(types)
}

fn name_of(kind: &str) -> String {
    format!("ssh_host_{kind}_key")
}

fn make(root: &Root, scratch: &Path, kind: &str, comment: &str) -> Result<Key> {
    let name = name_of(kind);
    let path = scratch.join(&name);
    let mut keygen = Command::new(root.path("/usr/bin/ssh-keygen"));
    keygen.args(["-q", "-t", kind, "-N", "", "-C", comment, "-f"]).arg(&path);
    program::run(&mut keygen, KEYGEN_LIMIT)
        .with_context(|| format!("cannot make a new {kind} key: /usr/bin/ssh-keygen"))?;
    let read = |path: &Path| file::read(path, LIMIT).with_context(|| path.display().to_string());
    let (private, public) = (read(&path)?, read(&scratch.join(format!("{name}.pub")))?);
    Ok(Key { name, private, public })
}

impl Key {
    fn put_into(&self, tree: &Tree) -> Result<()> {
        let public = format!("{}.pub", self.name);
        tree.replace_in(DIRECTORY, &self.name, &self.private, 0o600)
            .and_then(|()| tree.replace_in(DIRECTORY, &public, &self.public, 0o644))
            .with_context(|| format!("{DIRECTORY}/{} in the guest", self.name))
    }
}

/// A directory for unfinished keys, removed with this value. The next process with the same name
/// removes what a killed one left.
struct Scratch(PathBuf);

impl Scratch {
    fn new(path: PathBuf) -> Result<Scratch> {
        let make = || {
            match fs::remove_dir_all(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            DirBuilder::new().mode(0o700).create(&path)
        };
        make().with_context(|| path.display().to_string())?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // It is in memory, and is removed before its next use.
        let _ = fs::remove_dir_all(&self.0);
    }
}
