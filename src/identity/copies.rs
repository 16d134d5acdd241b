//! What is still to be replaced inside a copy once it runs.
//!
//! It is at `/var/lib/stillpoint/copies/VMID.json`, from the copy's start until the work is done,
//! so that it goes on at the guest's next start if the node goes down in between.

use std::io;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::pve::Config;
use crate::sys::{Root, file, text};
use crate::vzdump::Vmid;

/// The version of the record's shape.
pub const SCHEMA: u32 = 1;

/// A record has a few hundred bytes.
const LIMIT: u64 = 64 << 10;

/// A guest whose configuration was given its own identity; the inside is still to be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copy {
    pub schema: u32,
    pub vmid: Vmid,
    /// The guest that it is a copy of, if that is known.
    pub original: Option<Vmid>,
    /// When the identity was given, RFC 3339, UTC.
    pub time: String,
    /// A new machine-id is due.
    pub machine_id: bool,
    /// New SSH host keys are due.
    pub ssh_host_keys: bool,
    /// The interfaces in the guest (`eth0`) whose MAC was changed.
    pub nets: Vec<String>,
    /// Those new MACs, or if none was changed, all that it has: a guest of the same VMID without
    /// any of them is another guest.
    pub macs: Vec<String>,
    /// Only due if the guest turns out to have what the original has.
    #[serde(default)]
    pub if_shared: bool,
    /// The last failure that was reported: the same one is not reported again.
    #[serde(default)]
    pub told: Option<String>,
}

impl Copy {
    /// Whether the guest with this configuration is still the one that was given the identity.
    pub fn is_of(&self, config: &Config) -> bool {
        let nets: Vec<String> =
            config.nets.iter().map(|(_, net)| net.to_ascii_uppercase()).collect();
        self.macs.is_empty()
            || self.macs.iter().any(|mac| {
                let mac = mac.to_ascii_uppercase();
                nets.iter().any(|net| net.contains(&mac))
            })
    }
}

/// Records durably what the guest's settling has to do.
pub fn leave(root: &Root, copy: &Copy) -> Result<()> {
    let path = path(root, copy.vmid);
    let write = || -> Result<()> {
        if let Some(directory) = path.parent() {
            file::own_directory(directory)?;
        }
        Ok(file::replace(&path, &serde_json::to_vec_pretty(copy)?, 0o600)?)
    };
    write().with_context(|| path.display().to_string())
}

/// The record for a guest, if there is one.
pub fn find(root: &Root, vmid: Vmid) -> Result<Option<Copy>> {
    let path = path(root, vmid);
    let bytes = match file::read(&path, LIMIT) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.with_context(|| path.display().to_string())?,
    };
    match serde_json::from_slice::<Copy>(&bytes) {
        Ok(copy) if copy.schema == SCHEMA && copy.vmid == vmid => Ok(Some(copy)),
        Ok(copy) => bail!(
            "{} has schema {} and is of guest {}: remove the file to end this message",
            path.display(),
            copy.schema,
            copy.vmid
        ),
        Err(error) => bail!(
            "{} is damaged ({}): remove the file to end this message",
            path.display(),
            text::excerpt(&error, 300)
        ),
    }
}

/// Removes a guest's record: nothing is left to do.
pub fn forget(root: &Root, vmid: Vmid) -> Result<()> {
    let path = path(root, vmid);
    file::remove(&path).with_context(|| path.display().to_string())
}

fn path(root: &Root, vmid: Vmid) -> PathBuf {
    root.path(&format!("/var/lib/stillpoint/copies/{vmid}.json"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn copy() -> Copy {
        Copy {
            schema: SCHEMA,
            vmid: Vmid(9002),
            original: Some(Vmid(9001)),
            time: "2026-11-21T23:22:56.000Z".to_string(),
            machine_id: true,
            ssh_host_keys: true,
            nets: vec!["eth0".to_string()],
            macs: vec!["BC:24:11:00:00:02".to_string()],
            if_shared: false,
            told: None,
        }
    }

    #[test]
    fn what_is_left_is_found_until_it_is_forgotten() {
        let directory = std::env::temp_dir().join(format!("stillpoint-copies-{}", text::token()));
        let root = Root::at(&directory);
        assert_eq!(find(&root, Vmid(9002)).unwrap(), None);
        leave(&root, &copy()).unwrap();
        assert_eq!(find(&root, Vmid(9002)).unwrap(), Some(copy()));
        fs::write(path(&root, Vmid(9003)), serde_json::to_vec(&copy()).unwrap()).unwrap();
        assert!(find(&root, Vmid(9003)).is_err(), "it is another guest's");
        fs::write(path(&root, Vmid(9003)), b"{").unwrap();
        assert!(find(&root, Vmid(9003)).unwrap_err().to_string().contains("remove the file"));
        forget(&root, Vmid(9002)).unwrap();
        forget(&root, Vmid(9002)).unwrap();
        assert_eq!(find(&root, Vmid(9002)).unwrap(), None);
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn another_guest_of_the_same_vmid_is_not_the_copy() {
        let net = |mac: &str| Config {
            nets: vec![(0, format!("name=eth0,bridge=vmbr0,hwaddr={mac},type=veth"))],
            ..Config::default()
        };
        assert!(copy().is_of(&net("bc:24:11:00:00:02")));
        assert!(!copy().is_of(&net("BC:24:11:00:00:01")));
        assert!(Copy { macs: Vec::new(), ..copy() }.is_of(&net("BC:24:11:00:00:01")));
    }
}
