//! The identity that a copy gets, and the matching lines of its configuration files.

use std::collections::BTreeSet;

use super::appearance::Appearance;
use super::decide::Due;
use super::owner::{NetLine, Outward};
use crate::config::{Address, Restore};
use crate::pve::edit::Edit;
use crate::pve::{Family, Mac, Net};
use crate::vzdump::Vmid;

/// Proxmox VE's own prefix, if the datacenter sets no other.
const MAC_PREFIX: &str = "BC:24:11";

/// The kernel's limit of a hostname, including the domain.
const HOSTNAME_LIMIT: usize = 64;

/// The limit of a DNS label.
const LABEL_LIMIT: usize = 63;

/// The new settings of a copy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    pub from: Outward,
    pub to: Outward,
}

impl Change {
    /// Makes the changes that the settings ask for. `mac` returns a new hardware address each time.
    pub fn plan<E>(
        vmid: Vmid,
        own: &Appearance,
        due: &Due,
        settings: &Restore,
        mut mac: impl FnMut() -> Result<Mac, E>,
    ) -> Result<Change, E> {
        let mut change = Change::default();
        if let Some(old) = own.hostname.as_deref().filter(|_| due.hostname) {
            let new = hostname(&settings.hostname, old, vmid);
            if new != old {
                change.from.hostname = Some(old.to_string());
                change.to.hostname = Some(new);
            }
        }
        for (number, net) in &own.nets {
            let mut new = net.clone();
            if due.macs.contains(number) && net.mac().is_some() {
                new.set("hwaddr", &mac()?.to_string());
            }
            if due.addresses.contains(number) {
                readdress(&mut new, settings.address);
            }
            if new != *net {
                change.from.nets.push(NetLine { number: *number, value: net.to_string() });
                change.to.nets.push(NetLine { number: *number, value: new.to_string() });
            }
        }
        Ok(change)
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.to == Outward::default()
    }

    /// The nets that change: number, before, after.
    pub fn nets(&self) -> impl Iterator<Item = (u32, Net, Net)> {
        let pairs = self.from.nets.iter().zip(&self.to.nets);
        pairs.map(|(from, to)| (to.number, Net::parse(&from.value), Net::parse(&to.value)))
    }

    /// The guest's appearance after the change.
    pub fn applied_to(&self, own: &Appearance) -> Appearance {
        let mut after = own.clone();
        if let Some(hostname) = &self.to.hostname {
            after.hostname = Some(hostname.clone());
        }
        for (number, net) in &mut after.nets {
            if let Some((_, _, to)) = self.nets().find(|(changed, ..)| changed == number) {
                *net = to;
            }
        }
        after
    }

    /// Whether a guest has everything that it was given.
    pub fn is_in(&self, own: &Appearance) -> bool {
        let hostname = self.to.hostname.is_none() || self.to.hostname == own.hostname;
        let has = |line: &NetLine| {
            own.net(line.number).is_some_and(|net| net.is_same(&Net::parse(&line.value)))
        };
        hostname && self.to.nets.iter().all(has)
    }

    /// For `/etc/pve/lxc/VMID.conf`.
    pub fn pve_edits(&self) -> Vec<Edit> {
        let hostname = self.from.hostname.iter().zip(&self.to.hostname);
        let mut edits: Vec<Edit> =
            hostname.map(|(from, to)| edit("hostname", from, Some(to))).collect();
        for (from, to) in self.from.nets.iter().zip(&self.to.nets) {
            edits.push(edit(&format!("net{}", to.number), &from.value, Some(&to.value)));
        }
        edits
    }

    /// For `/var/lib/lxc/VMID/config`, which Proxmox VE has already written for this start. The
    /// link's state and the guest's own network files are taken from the other file, later on.
    pub fn lxc_edits(&self) -> Vec<Edit> {
        let hostname = self.from.hostname.iter().zip(&self.to.hostname);
        let mut edits: Vec<Edit> =
            hostname.map(|(from, to)| edit("lxc.uts.name", from, Some(to))).collect();
        for (number, from, to) in self.nets() {
            let key = |name: &str| format!("lxc.net.{number}.{name}");
            if let (Some(from), Some(to)) = (from.mac(), to.mac())
                && from != to
            {
                edits.push(edit(&key("hwaddr"), &from.to_string(), Some(&to.to_string())));
            }
            if from.is_host_managed() && to.is_down() && !from.is_down() {
                edits.push(edit(&key("flags"), "up", None));
            }
            for family in Family::BOTH.into_iter().filter(|_| from.is_host_managed()) {
                let version = match family {
                    Family::V4 => "ipv4",
                    Family::V6 => "ipv6",
                };
                for (name, of) in
                    [("address", family.address_key()), ("gateway", family.gateway_key())]
                {
                    if let Some(old) = from.get(of)
                        && (to.is_down() || to.get(of) != Some(old))
                    {
                        edits.push(edit(&key(&format!("{version}.{name}")), old, None));
                    }
                }
            }
        }
        edits
    }
}

fn edit(key: &str, from: &str, to: Option<&str>) -> Edit {
    Edit { key: key.to_string(), from: from.to_string(), to: to.map(String::from) }
}

fn readdress(net: &mut Net, setting: Address) {
    let has_static: Vec<Family> =
        net.written_addresses().into_iter().map(|(family, _)| family).collect();
    match setting {
        Address::Keep => {}
        Address::LinkDown if has_static.is_empty() => {}
        Address::LinkDown => net.set("link_down", "1"),
        Address::Dhcp => {
            for family in has_static {
                net.set(family.address_key(), "dhcp");
                net.remove(family.gateway_key());
            }
        }
    }
}

/// The hostname of a copy: the filled-in template as one DNS label, followed by the domain of the
/// old name.
///
/// The old name is cut if the whole would be too long, and characters that a label may not contain
/// become hyphens.
pub fn hostname(template: &str, old: &str, vmid: Vmid) -> String {
    let (label, domain) = old.split_once('.').unwrap_or((old, ""));
    let vmid_text = vmid.to_string();
    let fill = |label: &str| {
        let filled = template.replace("{vmid}", &vmid_text).replace("{hostname}", label);
        let valid: String = filled
            .chars()
            .map(|character| if character.is_ascii_alphanumeric() { character } else { '-' })
            .collect();
        valid.trim_matches('-').to_string()
    };
    let room = |domain: &str| match domain.len() {
        0 => LABEL_LIMIT,
        length => HOSTNAME_LIMIT.saturating_sub(length + 1).min(LABEL_LIMIT),
    };
    // A domain that leaves no room for the name is dropped.
    let domain = if room(domain) > vmid_text.len() + 1 { domain } else { "" };
    let mut kept: Vec<char> = label.chars().take(LABEL_LIMIT).collect();
    let mut name = fill(&kept.iter().collect::<String>());
    while name.len() > room(domain) && kept.pop().is_some() {
        name = fill(kept.iter().collect::<String>().trim_end_matches('-'));
    }
    // The template itself is too long, or contains no character that a label may have.
    name.truncate(room(domain));
    let name = name.trim_matches('-');
    let name = if name.is_empty() { format!("CT{vmid}") } else { name.to_string() };
    if domain.is_empty() { name } else { format!("{name}.{domain}") }
}

/// A random hardware address with the datacenter's prefix that is not in `taken`.
pub fn new_mac<E>(
    prefix: Option<&str>,
    taken: &BTreeSet<Mac>,
    mut random: impl FnMut() -> Result<[u8; 6], E>,
) -> Result<Mac, E> {
    let prefix = prefix.and_then(prefix_digits).or_else(|| prefix_digits(MAC_PREFIX));
    let prefix = prefix.unwrap_or_default();
    loop {
        let mut bytes = random()?;
        for (number, digit) in prefix.iter().enumerate() {
            let byte = &mut bytes[number / 2];
            *byte = if number % 2 == 0 { digit << 4 | *byte & 15 } else { *byte & 0xf0 | digit };
        }
        // Clears the multicast bit.
        bytes[0] &= 0xfe;
        let mac = Mac(bytes);
        if !taken.contains(&mac) {
            return Ok(mac);
        }
    }
}

/// The hexadecimal digits of `mac_prefix`: at least one whole byte, at most seven digits (as
/// Proxmox VE accepts it).
fn prefix_digits(prefix: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = prefix
        .trim()
        .split(':')
        .flat_map(str::chars)
        .map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect();
    let digits = digits.filter(|digits| (2..=7).contains(&digits.len()))?;
    (digits[1] % 2 == 0).then_some(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostnames_are_dns_labels() {
        let of = |template: &str, old: &str| hostname(template, old, Vmid(9002));
        const DEFAULT: &str = "{hostname}-{vmid}";
        assert_eq!(of(DEFAULT, "web"), "web-9002");
        assert_eq!(of(DEFAULT, "web.example.org"), "web-9002.example.org");
        assert_eq!(of("copy of {hostname}!", "web"), "copy-of-web");
        assert_eq!(of("-{vmid}_", "web"), "9002");
        assert_eq!(of("", "web"), "CT9002");
        assert_eq!(of(&"x".repeat(99), "web"), "x".repeat(63));
        let long = of(DEFAULT, &"w".repeat(63));
        assert_eq!(long, format!("{}-9002", "w".repeat(58)));
        let cut_at_a_hyphen = format!("{}-{}", "w".repeat(57), "v".repeat(5));
        assert_eq!(of(DEFAULT, &cut_at_a_hyphen), format!("{}-9002", "w".repeat(57)));
        // The kernel accepts 64 bytes; a longer name keeps the guest from starting.
        for domain in [20, 55, 57, 58, 60, 200] {
            let name = of(DEFAULT, &format!("web.{}", "d".repeat(domain)));
            assert!(name.len() <= 64 && name.contains("9002"), "{name}");
            assert_eq!(name.contains('.'), domain <= 57, "{name}");
        }
    }

    #[test]
    fn hardware_addresses_have_the_datacenters_prefix_and_are_new() {
        let of = |prefix| new_mac::<()>(prefix, &BTreeSet::new(), || Ok([0xff; 6])).unwrap();
        assert_eq!(of(None).to_string(), "BC:24:11:FF:FF:FF");
        assert_eq!(of(Some("02")).to_string(), "02:FF:FF:FF:FF:FF");
        assert_eq!(of(Some("aa:bb:cc:d")).to_string(), "AA:BB:CC:DF:FF:FF");
        assert_eq!(of(Some("AA:BB:")).to_string(), "AA:BB:FF:FF:FF:FF");
        for invalid in ["", "A", "01", "zz:zz", "aa:bb:cc:dd"] {
            assert_eq!(of(Some(invalid)), of(None), "{invalid}");
        }
        let mut draws = [[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1], [2, 2, 2, 2, 2, 2]].into_iter();
        let taken = BTreeSet::from(["BC:24:11:01:01:01".parse().unwrap()]);
        let mac = new_mac(None, &taken, || draws.next().ok_or(())).unwrap();
        assert_eq!(mac.to_string(), "BC:24:11:02:02:02");
    }

    const STATIC: &str = "name=eth0,bridge=vmbr0,gw=192.0.2.1,hwaddr=BC:24:11:00:00:01,ip=192.0.2.7/24,\
        gw6=2001:db8::1,ip6=2001:db8::7/64,tag=7,firewall=1,type=veth";

    fn planned(value: &str, address: Address) -> Change {
        let own = Appearance { hostname: Some("web".into()), nets: vec![(3, Net::parse(value))] };
        let due = Due { original: None, macs: vec![3], addresses: vec![3], hostname: true };
        let settings = Restore { address, ..crate::config::Settings::default().restore };
        let mac = || "BC:24:11:00:00:02".parse();
        Change::plan(Vmid(9002), &own, &due, &settings, mac).unwrap()
    }

    #[test]
    fn static_addresses_become_what_the_setting_says() {
        let moved = STATIC.replace(":01,", ":02,");
        let value = |change: &Change| change.to.nets[0].value.clone();
        assert_eq!(value(&planned(STATIC, Address::Keep)), moved);
        assert_eq!(value(&planned(STATIC, Address::LinkDown)), format!("{moved},link_down=1"));
        assert_eq!(
            value(&planned(STATIC, Address::Dhcp)),
            "name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:00:02,ip=dhcp,ip6=dhcp,tag=7,firewall=1,type=veth"
        );
        let auto = "name=eth0,hwaddr=BC:24:11:00:00:01,ip=dhcp,ip6=auto";
        for address in [Address::Keep, Address::LinkDown, Address::Dhcp] {
            assert_eq!(value(&planned(auto, address)), auto.replace(":01,", ":02,"));
        }
        // Without a hardware address in the line, Proxmox VE chooses a new one at each start.
        assert_eq!(planned("name=eth0,ip=dhcp", Address::LinkDown).to.nets, []);
    }

    #[test]
    fn both_files_get_the_same_identity() {
        let change = planned(STATIC, Address::LinkDown);
        let of = |edits: Vec<Edit>| -> Vec<(String, Option<String>)> {
            edits.into_iter().map(|edit| (edit.key, edit.to)).collect()
        };
        let pve = of(change.pve_edits());
        assert_eq!(pve[0], ("hostname".into(), Some("web-9002".into())));
        assert_eq!(pve[1].0, "net3");
        assert_eq!(
            of(change.lxc_edits()),
            [
                ("lxc.uts.name".into(), Some("web-9002".into())),
                ("lxc.net.3.hwaddr".into(), Some("BC:24:11:00:00:02".into())),
            ]
        );
    }

    #[test]
    fn what_the_node_itself_would_give_the_interface_is_taken_back() {
        let managed = format!("{STATIC},host-managed=1");
        let keys = |address| -> Vec<String> {
            let edits = planned(&managed, address).lxc_edits();
            edits.into_iter().filter(|edit| edit.to.is_none()).map(|edit| edit.key).collect()
        };
        let addresses = [
            "lxc.net.3.ipv4.address",
            "lxc.net.3.ipv4.gateway",
            "lxc.net.3.ipv6.address",
            "lxc.net.3.ipv6.gateway",
        ];
        assert_eq!(keys(Address::Dhcp), addresses);
        assert_eq!(keys(Address::LinkDown), [&["lxc.net.3.flags"][..], &addresses[..]].concat());
        assert_eq!(keys(Address::Keep), [""; 0]);
    }
}
