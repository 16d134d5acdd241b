use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A hardware address, in capitals as Proxmox VE writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

/// The value of a `netN` line, kept word for word: what is not changed stays as it is, in its
/// place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Net {
    parts: Vec<String>,
}

/// IPv4 or IPv6, with its keys in a net line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    V4,
    V6,
}

/// The network of an interface: bridge and VLAN tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    pub bridge: Option<&'a str>,
    pub tag: Option<&'a str>,
}

impl Family {
    pub const BOTH: [Family; 2] = [Family::V4, Family::V6];

    /// The key of the address.
    pub fn address_key(self) -> &'static str {
        match self {
            Family::V4 => "ip",
            Family::V6 => "ip6",
        }
    }

    /// The key of the gateway.
    pub fn gateway_key(self) -> &'static str {
        match self {
            Family::V4 => "gw",
            Family::V6 => "gw6",
        }
    }
}

impl Net {
    /// Any text is a net line; missing parts are `None`.
    pub fn parse(value: &str) -> Net {
        Net { parts: value.split(',').map(String::from).collect() }
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.parts.iter().find_map(|part| value_of(part, key))
    }

    /// Changes the value of a key in its place; a new key is added at the end.
    pub fn set(&mut self, key: &str, value: &str) {
        let whole = format!("{key}={value}");
        match self.parts.iter_mut().find(|part| value_of(part, key).is_some()) {
            Some(part) => *part = whole,
            None => self.parts.push(whole),
        }
    }

    /// Removes a key.
    pub fn remove(&mut self, key: &str) {
        self.parts.retain(|part| value_of(part, key).is_none());
    }

    /// Its hardware address: `hwaddr` of a container; for a VM the value after the model
    /// (`virtio=...`).
    pub fn mac(&self) -> Option<Mac> {
        self.parts.iter().find_map(|part| part.split_once('=')?.1.trim().parse().ok())
    }

    /// The interface's name in a container, such as `eth0`.
    pub fn name(&self) -> Option<&str> {
        self.get("name")
    }

    /// Whether its link is down.
    pub fn is_down(&self) -> bool {
        self.is_on("link_down")
    }

    /// Whether the node, not the guest, sets the interface's addresses.
    pub fn is_host_managed(&self) -> bool {
        self.is_on("host-managed")
    }

    fn is_on(&self, key: &str) -> bool {
        self.get(key).is_some_and(|value| matches!(value, "1" | "yes" | "on" | "true"))
    }

    /// The network that it is connected to.
    pub fn segment(&self) -> Segment<'_> {
        Segment { bridge: self.get("bridge"), tag: self.get("tag") }
    }

    /// The static address of a family, without its prefix length.
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        let text = self.get(family.address_key())?.trim();
        let address = text.split(['/', '%']).next().unwrap_or_default();
        match family {
            Family::V4 => address.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            Family::V6 => address.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        }
    }

    /// Its static addresses as they are written: `192.0.2.7/24`.
    pub fn written_addresses(&self) -> Vec<(Family, &str)> {
        Family::BOTH
            .into_iter()
            .filter(|family| self.address(*family).is_some())
            .filter_map(|family| Some((family, self.get(family.address_key())?)))
            .collect()
    }

    /// Whether the other has the same parts, in any order.
    pub fn is_same(&self, other: &Net) -> bool {
        self.mac() == other.mac() && self.without_mac() == other.without_mac()
    }

    /// Everything except the hardware address: equal for an original and a copy with a new address.
    pub fn without_mac(&self) -> Vec<&str> {
        let is_mac = |part: &&str| {
            part.split_once('=').is_some_and(|(_, value)| value.parse::<Mac>().is_ok())
        };
        let mut parts: Vec<&str> =
            self.parts.iter().map(String::as_str).filter(|part| !is_mac(part)).collect();
        // Proxmox VE may rewrite a net line in another order.
        parts.sort_unstable();
        parts
    }
}

fn value_of<'a>(part: &'a str, key: &str) -> Option<&'a str> {
    part.trim().strip_prefix(key)?.strip_prefix('=')
}

impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.parts.join(","))
    }
}

impl FromStr for Mac {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Mac, Self::Err> {
        const WRONG: &str = "not a hardware address";
        let mut bytes = [0; 6];
        let mut groups = text.split(':');
        for byte in &mut bytes {
            let group = groups.next().filter(|group| group.len() == 2).ok_or(WRONG)?;
            if !group.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(WRONG);
            }
            *byte = u8::from_str_radix(group, 16).map_err(|_| WRONG)?;
        }
        if groups.next().is_some() { Err(WRONG) } else { Ok(Mac(bytes)) }
    }
}

impl TryFrom<String> for Mac {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Mac, Self::Error> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> String {
        mac.to_string()
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02X}:{b:02X}:{c:02X}:{d:02X}:{e:02X}:{g:02X}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "name=eth0,bridge=vmbr0,firewall=1,gw=192.0.2.1,hwaddr=bc:24:11:0a:0b:0c,\
        ip=192.0.2.7/24,ip6=2001:db8::7/64,tag=12,type=veth,x-new=7";

    #[test]
    fn what_is_not_changed_stays_word_for_word() {
        let mut net = Net::parse(LINE);
        assert_eq!(net.to_string(), LINE);
        assert_eq!(net.mac(), Some(Mac([0xbc, 0x24, 0x11, 0x0a, 0x0b, 0x0c])));
        net.set("hwaddr", "BC:24:11:00:00:01");
        net.set("link_down", "1");
        net.remove("gw");
        let expected =
            LINE.replace("bc:24:11:0a:0b:0c", "BC:24:11:00:00:01").replace("gw=192.0.2.1,", "")
                + ",link_down=1";
        assert_eq!(net.to_string(), expected);
        assert!(net.is_down());
        for odd in ["", ",", "eth0", "name=eth0,,bridge=vmbr0,"] {
            assert_eq!(Net::parse(odd).to_string(), odd);
            assert_eq!(Net::parse(odd).mac(), None);
        }
    }

    #[test]
    fn static_addresses_are_told_from_the_others() {
        let net = Net::parse(LINE);
        assert_eq!(net.address(Family::V4), "192.0.2.7".parse().ok());
        assert_eq!(net.address(Family::V6), "2001:db8::7".parse().ok());
        let local = Net::parse("name=eth0,ip=manual,ip6=fe80::1%eth0");
        assert_eq!(local.written_addresses(), [(Family::V6, "fe80::1%eth0")]);
        for other in ["ip=dhcp,ip6=auto", "ip=manual,ip6=dhcp", "name=eth0"] {
            assert_eq!(Net::parse(other).written_addresses(), []);
        }
    }

    #[test]
    fn a_vms_hardware_address_stands_behind_its_model() {
        let net = Net::parse("virtio=BC:24:11:00:00:64,bridge=vmbr0,firewall=1");
        assert_eq!(net.mac().unwrap().to_string(), "BC:24:11:00:00:64");
        let given = Net::parse("model=virtio,macaddr=BC:24:11:00:00:64");
        assert_eq!(given.mac(), net.mac());
        for wrong in
            ["BC:24:11:00:00", "BC:24:11:00:00:64:01", "+C:24:11:00:00:64", "BC24.1100.0064"]
        {
            assert!(wrong.parse::<Mac>().is_err(), "{wrong}");
        }
    }
}
