use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use chrono::DateTime;
use serde::{Deserialize, Serialize};

use super::appearance::{Appearance, Known};
use super::decide::Recorded;
use crate::pve::{Mac, Net, Place};
use crate::sys::{Root, clock, file, text};
use crate::vzdump::Vmid;

/// The version of the record's shape.
const SCHEMA: u32 = 1;

/// A record has a few hundred bytes; with 32 nets that were changed, some 20 kB.
const LIMIT: u64 = 256 << 10;

/// The identity that a guest owns, for the whole cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owned {
    pub schema: u32,
    pub vmid: Vmid,
    pub macs: BTreeSet<Mac>,
    /// The volume of its root file system.
    pub root_volume: Option<String>,
    /// When the guest was first seen with these, RFC 3339, UTC.
    pub since: String,
    /// The change that gave it this identity, if it was a copy.
    pub changed: Option<Changed>,
}

/// What was changed in a copy, so that it can be undone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// The guest that it is a copy of, if that is known.
    pub original: Option<Vmid>,
    /// RFC 3339, UTC.
    pub time: String,
    pub from: Outward,
    pub to: Outward,
}

/// The settings that were changed, as they are written in the guest's configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outward {
    /// `None` if it was not changed.
    pub hostname: Option<String>,
    /// Only those that were changed.
    pub nets: Vec<NetLine>,
}

/// One `netN` line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetLine {
    pub number: u32,
    pub value: String,
}

/// The records in `/etc/pve/stillpoint/guests`.
#[derive(Clone, Debug)]
pub struct Records {
    root: Root,
}

impl Owned {
    /// The record of a guest as it is now.
    pub fn of(known: &Known) -> Owned {
        Owned {
            schema: SCHEMA,
            vmid: known.member.vmid,
            macs: known.appearance.macs(),
            root_volume: known.root_volume.clone(),
            since: clock::rfc3339(clock::now()),
            changed: None,
        }
    }

    /// The part that a decision needs.
    pub fn recorded(&self) -> Recorded {
        let since = DateTime::parse_from_rfc3339(&self.since).map_or(0, |since| since.timestamp());
        Recorded { macs: self.macs.clone(), since: Some(since) }
    }
}

impl Changed {
    /// Whether a guest still has the identity that it was given then; it may have another disk or
    /// one more net by now.
    pub fn is_of(&self, appearance: &Appearance) -> bool {
        let macs = appearance.macs();
        let given = self.to.nets.iter().filter_map(|line| Net::parse(&line.value).mac());
        let hostname = self.to.hostname.is_none() || self.to.hostname == appearance.hostname;
        hostname && given.into_iter().all(|mac| macs.contains(&mac))
    }
}

impl Records {
    /// The records of the node's cluster.
    pub fn of(root: &Root) -> Records {
        Records { root: root.clone() }
    }

    /// The record of a guest. A damaged one is an error, because then it is unknown who was first.
    pub fn read(&self, vmid: Vmid) -> Result<Option<Owned>> {
        let path = self.path(vmid);
        let bytes = match file::read(&path, LIMIT) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.with_context(|| path.display().to_string())?,
        };
        match serde_json::from_slice::<Owned>(&bytes) {
            Ok(owned) if owned.schema == SCHEMA && owned.vmid == vmid => Ok(Some(owned)),
            Ok(owned) => bail!(
                "{} has schema {} and is of guest {}: remove the file, and it is written again",
                path.display(),
                owned.schema,
                owned.vmid
            ),
            Err(error) => bail!(
                "{} is damaged ({}): remove the file, and it is written again",
                path.display(),
                text::excerpt(&error, 300)
            ),
        }
    }

    /// Writes a record durably.
    ///
    /// # Errors
    /// Also while `/etc/pve` is not mounted: a file written into the empty directory would block
    /// the next mount.
    pub fn write(&self, owned: &Owned) -> Result<()> {
        let is_there = |link: &&str| self.root.path(link).symlink_metadata().is_ok();
        if !["/etc/pve/local", "/etc/pve/lxc"].iter().any(is_there) {
            bail!("/etc/pve is not mounted: systemctl status pve-cluster");
        }
        let path = self.path(owned.vmid);
        let write = || -> Result<()> {
            fs::create_dir_all(self.directory())?;
            let mut bytes = serde_json::to_vec_pretty(owned)?;
            bytes.push(b'\n');
            Ok(file::replace(&path, &bytes, 0o640)?)
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }

    /// Records that a guest owns its identity, if that is not recorded already. Its first time, and
    /// how it got the identity, are kept as long as the identity stays the same.
    pub fn remember(&self, known: &Known) -> Result<()> {
        let new = Owned::of(known);
        let before = match self.read(new.vmid) {
            // An invalid record is of no use.
            Ok(None) | Err(_) => return self.write(&new),
            Ok(Some(before)) => before,
        };
        if before.macs == new.macs && before.root_volume == new.root_volume {
            return Ok(());
        }
        let changed = before.changed.filter(|changed| changed.is_of(&known.appearance));
        self.write(&Owned { changed, ..new })
    }

    /// Removes a record.
    pub fn drop_record(&self, vmid: Vmid) -> Result<()> {
        let path = self.path(vmid);
        file::remove(&path).with_context(|| format!("cannot remove {}", path.display()))
    }

    /// Removes the records of guests that no longer exist in the cluster; `exists` are those that
    /// are known to exist.
    pub fn drop_gone(&self, exists: &BTreeSet<Vmid>) -> Result<()> {
        let directory = self.directory();
        let entries = match fs::read_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.with_context(|| directory.display().to_string())?,
        };
        for entry in entries {
            let name = entry.with_context(|| directory.display().to_string())?.file_name();
            let vmid = name.to_str().and_then(|name| name.strip_suffix(".json")?.parse().ok());
            let Some(vmid) = vmid.filter(|vmid| !exists.contains(vmid)) else { continue };
            // A guest that is just being migrated can be missing from the list.
            if matches!(Place::of(&self.root, vmid)?, Place::Gone) {
                self.drop_record(vmid)?;
            }
        }
        Ok(())
    }

    fn directory(&self) -> PathBuf {
        self.root.path("/etc/pve/stillpoint/guests")
    }

    fn path(&self, vmid: Vmid) -> PathBuf {
        self.directory().join(format!("{vmid}.json"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_written_below_a_directory_that_is_not_mounted() {
        let directory = std::env::temp_dir().join(format!("stillpoint-owner-{}", text::token()));
        let root = Root::at(&directory);
        fs::create_dir_all(root.path("/etc/pve")).unwrap();
        let owned = Owned {
            schema: SCHEMA,
            vmid: Vmid(9001),
            macs: BTreeSet::new(),
            root_volume: None,
            since: clock::rfc3339(clock::now()),
            changed: None,
        };
        let error = Records::of(&root).write(&owned).unwrap_err().to_string();
        assert!(error.contains("not mounted"), "{error}");
        assert_eq!(fs::read_dir(root.path("/etc/pve")).unwrap().count(), 0);
        fs::create_dir(root.path("/etc/pve/lxc")).unwrap();
        Records::of(&root).write(&owned).unwrap();
        assert_eq!(Records::of(&root).read(Vmid(9001)).unwrap(), Some(owned));
        fs::remove_dir_all(directory).unwrap();
    }
}
