use std::collections::BTreeSet;
use std::fs;
use std::io;

use anyhow::{Context, Result, bail};

use super::appearance::{Appearance, Known, Rival, rivals};
use super::decide::{Case, Recorded};
use super::doubt;
use super::owner::Records;
use super::restores::{Restored, Restores};
use crate::config::Settings;
use crate::guest::State;
use crate::pve::{members, reported};
use crate::sys::{Root, text};
use crate::vzdump::{GuestType, Vmid};

/// All guests of the cluster at one moment.
pub struct Survey {
    root: Root,
    guests: Vec<Known>,
    restores: Restores,
    alone: bool,
    /// Guests whose configuration could not be read, and why: it is unknown whether they share
    /// anything.
    pub unread: Vec<String>,
}

impl Survey {
    /// Reads every guest's configuration.
    pub fn take(root: &Root) -> Result<Survey> {
        let mut survey = Survey {
            root: root.clone(),
            guests: Vec::new(),
            restores: Restores::read(root)?,
            alone: is_alone(root)?,
            unread: Vec::new(),
        };
        for member in members(root)? {
            match member.config() {
                // Removed or migrated meanwhile.
                Ok(None) => {}
                Ok(Some(config)) => survey.guests.push(Known {
                    appearance: Appearance::of(&config),
                    root_volume: config.root_volume,
                    member,
                }),
                Err(error) => survey.unread.push(text::excerpt(&format!("{error:#}"), 200)),
            }
        }
        Ok(survey)
    }

    /// The LXC guest with that VMID on this node.
    pub fn container(&self, vmid: Vmid) -> Result<&Known> {
        let known = self.guests.iter().find(|known| known.member.vmid == vmid);
        match known.map(|known| (known, known.member.guest_type, &known.member.node)) {
            Some((known, GuestType::Lxc, None)) => Ok(known),
            Some((_, GuestType::Lxc, Some(node))) => {
                bail!("guest {vmid} is on node {node}: run this command there")
            }
            Some(_) => bail!("guest {vmid} is a VM: Stillpoint leaves the identity of VMs alone"),
            None => bail!("there is no guest {vmid} here, or its configuration cannot be read"),
        }
    }

    /// All VMIDs in use.
    pub fn vmids(&self) -> BTreeSet<Vmid> {
        self.guests.iter().map(|known| known.member.vmid).collect()
    }

    /// All guests.
    pub fn guests(&self) -> &[Known] {
        &self.guests
    }

    /// The input of the decision about a guest. Only guests that share something with it are
    /// examined further.
    pub fn case(&self, known: &Known, settings: &Settings) -> Result<Case> {
        let vmid = known.member.vmid;
        let records = Records::of(&self.root);
        let restored = self.restores.of(vmid);
        let mut rivals = rivals(vmid, &known.appearance, &self.guests);
        for rival in &mut rivals {
            rival.restored = self.restores.of(rival.vmid);
            if !rival.shared.is_empty() {
                let record = records.read(rival.vmid).with_context(|| rival.name())?;
                rival.in_doubt = doubt::is_marked(&self.root, rival.vmid);
                rival.claims = record.map(|record| record.macs).unwrap_or_default();
            }
            let is_restored = matches!(restored, Restored::At(_));
            if !rival.shared.is_empty() || is_restored && !rival.addresses.is_empty() {
                rival.running = running(&self.root, rival)?;
            }
        }
        let recorded = records.read(vmid)?.map_or_else(Recorded::default, |owned| owned.recorded());
        Ok(Case {
            vmid,
            setting: settings.restore_of(vmid.0).identity,
            own: known.appearance.clone(),
            recorded,
            restored,
            origin: self.restores.origin(&self.root, vmid),
            alone: self.alone,
            rivals,
        })
    }
}

/// Whether the node is alone: the cluster has no other node, or there is no cluster.
fn is_alone(root: &Root) -> Result<bool> {
    match fs::read_dir(root.path("/etc/pve/nodes")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        other => Ok(other.context("/etc/pve/nodes")?.count() <= 1),
    }
}

/// Whether a guest runs; `None` if that cannot be determined. For a VM, and for a guest on another
/// node, only the cluster's status reports are used.
pub fn running(root: &Root, rival: &Rival) -> Result<Option<bool>> {
    if rival.node.is_none() && rival.guest_type == GuestType::Lxc {
        return Ok(State::of(root, rival.vmid).ok().map(|state| state.is_running()));
    }
    Ok(reported(root)?.get(&rival.vmid).copied())
}
