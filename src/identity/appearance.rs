use std::collections::BTreeSet;
use std::net::IpAddr;

use super::restores::Restored;
use crate::pve::{Config, Family, Mac, Member, Net};
use crate::sys::text::printable;
use crate::vzdump::{GuestType, Vmid};

/// What identifies a guest on the network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Appearance {
    pub hostname: Option<String>,
    /// The nets with their numbers.
    pub nets: Vec<(u32, Net)>,
}

/// A guest of the cluster and its appearance.
#[derive(Clone, Debug)]
pub struct Known {
    pub member: Member,
    pub root_volume: Option<String>,
    pub appearance: Appearance,
}

/// Another guest that has a part of this guest's appearance.
#[derive(Clone, Debug)]
pub struct Rival {
    pub vmid: Vmid,
    pub guest_type: GuestType,
    /// Its node; `None` for this one.
    pub node: Option<String>,
    pub hostname: Option<String>,
    /// The hardware addresses that both have.
    pub shared: BTreeSet<Mac>,
    /// The guest's nets with a static address that the other has on the same network, as it is
    /// written.
    pub addresses: Vec<(u32, String)>,
    pub same_hostname: bool,
    /// Everything known of both is the same, except the hardware addresses.
    pub is_alike: bool,
    /// It was last started on this node in doubt about its identity, so that it runs proves
    /// nothing.
    pub in_doubt: bool,
    /// `None` if it cannot be determined.
    pub running: Option<bool>,
    /// The hardware addresses recorded for it.
    pub claims: BTreeSet<Mac>,
    pub restored: Restored,
}

impl Appearance {
    /// The appearance of a guest with this configuration.
    pub fn of(config: &Config) -> Appearance {
        let nets = config.nets.iter().map(|(number, value)| (*number, Net::parse(value))).collect();
        Appearance { hostname: config.hostname.clone(), nets }
    }

    /// Its hardware addresses.
    pub fn macs(&self) -> BTreeSet<Mac> {
        self.nets.iter().filter_map(|(_, net)| net.mac()).collect()
    }

    /// The hardware address of a net.
    pub fn mac_of(&self, number: u32) -> Option<Mac> {
        self.net(number)?.mac()
    }

    /// Whether a net has a static address.
    pub fn has_address(&self, number: u32) -> bool {
        self.net(number).is_some_and(|net| !net.written_addresses().is_empty())
    }

    /// A net by its number.
    pub fn net(&self, number: u32) -> Option<&Net> {
        self.nets.iter().find(|(other, _)| *other == number).map(|(_, net)| net)
    }

    fn has_hostname_of(&self, other: &Appearance) -> bool {
        match (&self.hostname, &other.hostname) {
            (Some(one), Some(other)) => one.eq_ignore_ascii_case(other),
            _ => false,
        }
    }

    /// The nets with an address that `other` has on the same network.
    fn addresses_shared_with(&self, other: &Appearance) -> Vec<(u32, String)> {
        let has = |net: &Net, family: Family, address: IpAddr| {
            other.nets.iter().any(|(_, theirs)| {
                theirs.address(family) == Some(address)
                    && theirs.segment() == net.segment()
                    && !theirs.is_down()
            })
        };
        let mut shared = Vec::new();
        for (number, net) in self.nets.iter().filter(|(_, net)| !net.is_down()) {
            let clash = Family::BOTH.into_iter().find_map(|family| {
                let address = net.address(family)?;
                has(net, family, address).then_some(address)
            });
            shared.extend(clash.map(|address| (*number, address.to_string())));
        }
        shared
    }

    fn is_alike(&self, other: &Appearance) -> bool {
        let nets = |one: &Appearance| -> Vec<(u32, Vec<String>)> {
            let mut nets: Vec<_> = one
                .nets
                .iter()
                .map(|(number, net)| {
                    (*number, net.without_mac().into_iter().map(String::from).collect())
                })
                .collect();
            nets.sort();
            nets
        };
        self.has_hostname_of(other) && nets(self) == nets(other)
    }
}

impl Rival {
    /// `guest 9001 (web)`
    pub fn name(&self) -> String {
        match &self.hostname {
            Some(hostname) => format!("guest {} ({})", self.vmid, printable(hostname, 63)),
            None => format!("guest {}", self.vmid),
        }
    }

    /// The first hardware address that both have.
    pub fn mac(&self) -> String {
        self.shared.first().map_or_else(String::new, Mac::to_string)
    }

    /// `is stopped, on node two`
    pub fn state(&self) -> String {
        let state = match self.running {
            Some(true) => "runs",
            Some(false) => "is stopped",
            None => "is not known to run",
        };
        match &self.node {
            Some(node) => format!("{state}, on node {}", printable(node, 63)),
            None => state.to_string(),
        }
    }

    /// Whether it was restored here after the time of `restored`.
    pub fn came_after(&self, restored: Restored) -> bool {
        match (self.restored, restored) {
            (Restored::At(its), Restored::At(ours)) => its > ours,
            (Restored::At(_), Restored::NotHere) => true,
            _ => false,
        }
    }
}

/// The guests that have a part of a guest's appearance. Whether they run, and their records, are
/// not filled in here.
///
/// Hostname and addresses count only between LXC guests: a backup of one is never restored as a VM.
pub fn rivals<'a>(
    vmid: Vmid,
    own: &Appearance,
    others: impl IntoIterator<Item = &'a Known>,
) -> Vec<Rival> {
    let macs = own.macs();
    let mut rivals = Vec::new();
    for other in others.into_iter().filter(|other| other.member.vmid != vmid) {
        let theirs = &other.appearance;
        let shared: BTreeSet<Mac> = theirs
            .nets
            .iter()
            .filter_map(|(_, net)| net.mac())
            .filter(|mac| macs.contains(mac))
            .collect();
        let container = other.member.guest_type == GuestType::Lxc;
        let same_hostname = container && own.has_hostname_of(theirs);
        let addresses = if container { own.addresses_shared_with(theirs) } else { Vec::new() };
        if shared.is_empty() && addresses.is_empty() && !same_hostname {
            continue;
        }
        rivals.push(Rival {
            vmid: other.member.vmid,
            guest_type: other.member.guest_type,
            node: other.member.node.clone(),
            hostname: theirs.hostname.clone(),
            is_alike: container && own.is_alike(theirs),
            shared,
            addresses,
            same_hostname,
            in_doubt: false,
            running: None,
            claims: BTreeSet::new(),
            restored: Restored::Unknown,
        });
    }
    rivals
}
