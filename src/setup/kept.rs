//! The hookscript that a guest had before ours, which calls it:
//! `/etc/pve/stillpoint/chained/VMID.json`, for the whole cluster.
//!
//! It belongs to the guest and not to the VMID: a guest that is destroyed and restored still has
//! it; another guest that gets the VMID does not.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::nodes::write;
use super::storages;
use crate::identity::{Appearance, Changed, Records};
use crate::pve::{Config, Mac, Net, Place};
use crate::sys::{Root, file};
use crate::vzdump::Vmid;

const SCHEMA: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Kept {
    schema: u32,
    /// Its volume.
    hookscript: String,
    /// The guest's appearance then.
    #[serde(default)]
    hostname: Option<String>,
    #[serde(default)]
    macs: BTreeSet<Mac>,
}

impl Kept {
    /// Whether it is this guest's: if nothing of the appearance is the same, it is another guest.
    fn is_of(&self, now: &Appearance, changed: Option<&Changed>) -> bool {
        let is_it = |hostname: Option<&String>, macs: &BTreeSet<Mac>| {
            hostname.is_some() && hostname == self.hostname.as_ref()
                || !macs.is_disjoint(&self.macs)
        };
        // A copy that has got its own identity since.
        let was_it = |changed: &Changed| {
            let nets = changed.from.nets.iter();
            let macs = nets.filter_map(|line| Net::parse(&line.value).mac()).collect();
            changed.is_of(now) && is_it(changed.from.hostname.as_ref(), &macs)
        };
        self.hostname.is_none() && self.macs.is_empty()
            || is_it(now.hostname.as_ref(), &now.macs())
            || changed.is_some_and(was_it)
    }
}

fn path(vmid: Vmid) -> String {
    format!("/etc/pve/stillpoint/chained/{vmid}.json")
}

/// The volume of the stored hookscript for the guest with this configuration.
pub fn volume(root: &Root, vmid: Vmid, config: &Config) -> Result<Option<String>> {
    let path = path(vmid);
    let Some(text) = file::read_text(&root.path(&path), 1 << 20).with_context(|| path.clone())?
    else {
        return Ok(None);
    };
    let kept: Kept = serde_json::from_str(&text).with_context(|| path.clone())?;
    if kept.schema != SCHEMA {
        bail!("{path} was written by another version of Stillpoint");
    }
    // Without a record of changes, its present appearance is compared.
    let changed = Records::of(root).read(vmid).ok().flatten().and_then(|owned| owned.changed);
    let its = kept.is_of(&Appearance::of(config), changed.as_ref());
    Ok(its.then_some(kept.hookscript))
}

/// The file and the volume of the stored hookscript for a guest of this node.
pub fn script(root: &Root, vmid: Vmid) -> Result<Option<(String, PathBuf)>> {
    let Place::Here(config) = Place::of(root, vmid)? else { return Ok(None) };
    let Some(volume) = volume(root, vmid, &config)? else { return Ok(None) };
    let Some(file) = storages::file_of(&storages::directories(root)?, &volume) else {
        bail!("the hookscript {volume} is in no storage of this node");
    };
    Ok(Some((volume, root.path(&file))))
}

/// Stores a hookscript for the guest with this configuration.
pub fn keep(root: &Root, vmid: Vmid, config: &Config, volume: &str) -> Result<()> {
    let Appearance { hostname, nets } = Appearance::of(config);
    let macs = nets.iter().filter_map(|(_, net)| net.mac()).collect();
    let kept = Kept { schema: SCHEMA, hookscript: volume.to_string(), hostname, macs };
    write(root, &path(vmid), &serde_json::to_vec(&kept)?)
}

/// Removes the stored hookscript.
pub fn forget(root: &Root, vmid: Vmid) -> Result<()> {
    let path = path(vmid);
    file::remove(&root.path(&path)).context(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{NetLine, Outward};

    #[test]
    fn it_belongs_to_the_guest_and_not_to_its_number() {
        let net = |mac: &str| format!("name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:00:{mac}");
        let known_by = |hostname: &str, mac: &str| {
            let config = format!("hostname: {hostname}\nnet0: {}\n", net(mac));
            Appearance::of(&Config::parse(&config))
        };
        let text = r#"{"schema": 1, "hookscript": "local:snippets/dns.pl", "hostname": "web",
            "macs": ["BC:24:11:00:00:01"]}"#;
        let kept: Kept = serde_json::from_str(text).unwrap();
        assert!(kept.is_of(&known_by("web", "02"), None), "it got another card");
        assert!(kept.is_of(&known_by("shop", "01"), None), "it got another name");
        assert!(!kept.is_of(&known_by("shop", "02"), None));
        assert!(!kept.is_of(&Appearance::default(), None));
        let outward = |hostname: &str, mac: &str| Outward {
            hostname: Some(hostname.to_string()),
            nets: vec![NetLine { number: 0, value: net(mac) }],
        };
        let changed = Changed {
            original: None,
            time: String::new(),
            from: outward("web", "01"),
            to: outward("web-9002", "02"),
        };
        assert!(kept.is_of(&known_by("web-9002", "02"), Some(&changed)));
        assert!(!kept.is_of(&known_by("shop", "03"), Some(&changed)), "it is another since");
        let older: Kept = serde_json::from_str(r#"{"schema": 1, "hookscript": "x"}"#).unwrap();
        assert!(older.is_of(&Appearance::default(), None));
    }
}
