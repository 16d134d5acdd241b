//! The addresses and ports that a container asks for, and those that it has.

use std::net::Ipv4Addr;

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// How many networks of one container are read; people use a handful.
const MOST_NETWORKS: usize = 64;

/// How many published ports of one container are read. A range has one entry for each port.
const MOST_PORTS: usize = 1024;

/// The longest network name or address in an answer, in bytes.
const LONGEST: usize = 255;

/// A network that a container is in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    pub name: String,
    /// The addresses in its configuration, IPv4 and IPv6: it cannot start with any other.
    pub fixed: Vec<String>,
    /// The addresses that it has now; empty while it is down.
    pub assigned: Vec<String>,
    /// The configuration of the endpoint names a hardware address.
    pub fixed_mac: bool,
    /// It may name one: it is not what engines before Docker 28 make of an IPv4 address.
    pub odd_mac: bool,
}

/// A published port: a port of the guest that leads to a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// The address of the guest that it is bound to; empty means all.
    pub address: String,
    /// The engine chooses one port from this range; any port is `1..=65535`.
    pub first: u16,
    pub last: u16,
}

impl HostPort {
    /// The size of the range, less one.
    pub fn spread(&self) -> u16 {
        self.last.saturating_sub(self.first)
    }

    /// Whether both may get the same port of the guest.
    pub fn overlaps(&self, other: &HostPort) -> bool {
        let anywhere = |port: &HostPort| matches!(port.address.as_str(), "" | "0.0.0.0" | "::");
        self.protocol == other.protocol
            && self.first <= other.last
            && other.first <= self.last
            && (self.address == other.address || anywhere(self) || anywhere(other))
    }

    /// From `80/tcp` and its binding; `None` if it is not a port.
    fn new(container_port: &str, binding: &Binding) -> Option<HostPort> {
        let protocol = container_port.split_once('/').map_or("tcp", |(_, protocol)| protocol);
        let (first, last) = match binding.host_port.split_once('-') {
            _ if binding.host_port.is_empty() => (1, u16::MAX),
            Some((first, last)) => (first.parse().ok()?, last.parse().ok()?),
            None => {
                let port: u16 = binding.host_port.parse().ok()?;
                // Port 0, or none, means any port.
                if port == 0 { (1, u16::MAX) } else { (port, port) }
            }
        };
        (first <= last).then(|| HostPort {
            protocol: short(protocol),
            address: short(&binding.host_ip),
            first,
            last,
        })
    }
}

fn short(text: &str) -> String {
    text.chars().take(LONGEST).collect()
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Binding {
    #[serde(default)]
    host_ip: String,
    #[serde(default)]
    host_port: String,
}

/// Published ports, configured or in use: `{"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}`.
#[derive(Default)]
pub struct Ports(pub Vec<HostPort>);

impl<'de> Deserialize<'de> for Ports {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Ports, D::Error> {
        let mut ports = Vec::new();
        each(deserializer, |port, bindings: Option<Vec<Binding>>| {
            for binding in bindings.iter().flatten() {
                if ports.len() < MOST_PORTS {
                    ports.extend(HostPort::new(port, binding));
                }
            }
        })?;
        Ok(Ports(ports))
    }
}

/// The networks of a container, as `NetworkSettings` has them.
#[derive(Default)]
pub struct Networks(pub Vec<Network>);

impl<'de> Deserialize<'de> for Networks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Networks, D::Error> {
        let Endpoints(endpoints) = Endpoints::deserialize(deserializer)?;
        Ok(Networks(endpoints.into_iter().map(|(name, endpoint)| endpoint.of(name)).collect()))
    }
}

/// The same as the engine has them, by the names of the networks.
#[derive(Default)]
pub struct Endpoints(pub Vec<(String, Endpoint)>);

impl<'de> Deserialize<'de> for Endpoints {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Endpoints, D::Error> {
        let mut endpoints = Vec::new();
        each(deserializer, |name, endpoint: Option<Endpoint>| {
            if endpoints.len() < MOST_NETWORKS && name.len() <= LONGEST {
                endpoints.push((name.to_string(), endpoint.unwrap_or_default()));
            }
        })?;
        Ok(Endpoints(endpoints))
    }
}

/// A container's place in a network.
#[derive(Default, Deserialize)]
pub struct Endpoint {
    #[serde(rename = "IPAMConfig", default)]
    ipam: Option<Ipam>,
    #[serde(rename = "IPAddress", default)]
    ipv4: String,
    #[serde(rename = "GlobalIPv6Address", default)]
    ipv6: String,
    #[serde(rename = "MacAddress", default)]
    mac: String,
    #[serde(rename = "EndpointID", default)]
    id: String,
}

#[derive(Default, Deserialize)]
struct Ipam {
    #[serde(rename = "IPv4Address", default)]
    ipv4: String,
    #[serde(rename = "IPv6Address", default)]
    ipv6: String,
}

impl Endpoint {
    /// The addresses that the container's configuration names, IPv4 and IPv6.
    pub fn configured_addresses(&self) -> Vec<String> {
        let ipam = self.ipam.iter().flat_map(|ipam| [&ipam.ipv4, &ipam.ipv6]);
        ipam.filter(|address| !address.is_empty()).cloned().collect()
    }

    /// Its hardware address, if that comes from the container's configuration.
    pub fn configured_mac(&self) -> Option<&str> {
        let up = [&self.id, &self.ipv4, &self.ipv6].iter().any(|text| !text.is_empty());
        Some(self.mac.as_str()).filter(|mac| is_configured(mac, up))
    }

    fn of(self, name: String) -> Network {
        let said = |addresses: &[String]| {
            addresses.iter().filter(|address| !address.is_empty()).map(|text| short(text)).collect()
        };
        let configured = self.configured_addresses();
        Network {
            fixed_mac: self.configured_mac().is_some(),
            odd_mac: !self.mac.is_empty() && !is_made_of(&self.mac, &self.ipv4),
            name,
            fixed: said(&configured),
            assigned: said(&[self.ipv4, self.ipv6]),
        }
    }
}

/// `02:42:ac:1e:00:02` is made of 172.30.0.2.
fn is_made_of(mac: &str, ipv4: &str) -> bool {
    let Ok(address) = ipv4.parse::<Ipv4Addr>() else { return false };
    let [a, b, c, d] = address.octets();
    mac.eq_ignore_ascii_case(&format!("02:42:{a:02x}:{b:02x}:{c:02x}:{d:02x}"))
}

/// Whether the hardware address of an endpoint comes from the container's configuration. One that
/// is not `up` has no other; those that engines make up are locally administered.
pub(super) fn is_configured(mac: &str, up: bool) -> bool {
    let first = mac.split([':', '-']).next().and_then(|octet| u8::from_str_radix(octet, 16).ok());
    first.is_some_and(|octet| !up || octet & 2 == 0) && mac != "00:00:00:00:00:00"
}

/// Passes each entry of a map to `take`; `null` has none.
fn each<'de, D, V>(deserializer: D, take: impl FnMut(&str, V)) -> Result<(), D::Error>
where
    D: Deserializer<'de>,
    V: Deserialize<'de>,
{
    struct Each<F, V>(F, std::marker::PhantomData<V>);
    impl<'de, F: FnMut(&str, V), V: Deserialize<'de>> Visitor<'de> for Each<F, V> {
        type Value = ();

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a map")
        }

        fn visit_unit<E>(self) -> Result<(), E> {
            Ok(())
        }

        fn visit_map<M: MapAccess<'de>>(mut self, mut map: M) -> Result<(), M::Error> {
            while let Some(key) = map.next_key::<String>()? {
                if key.len() > LONGEST {
                    map.next_value::<IgnoredAny>()?;
                } else {
                    (self.0)(&key, map.next_value()?);
                }
            }
            Ok(())
        }
    }
    deserializer.deserialize_any(Each(take, std::marker::PhantomData))
}

/// The memory for what this file keeps of a container, in bytes.
pub fn weight(networks: &[Network], ports: &[HostPort]) -> usize {
    let texts = |texts: &[String]| texts.iter().map(|text| 24 + text.len()).sum::<usize>();
    let networks = networks.iter().map(|network| {
        size_of::<Network>() + network.name.len() + texts(&network.fixed) + texts(&network.assigned)
    });
    let ports =
        ports.iter().map(|port| size_of::<HostPort>() + port.protocol.len() + port.address.len());
    networks.sum::<usize>() + ports.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configured_address_is_told_from_an_assigned_one() {
        let json = r#"{"edge":{"IPAMConfig":{"IPv4Address":"172.30.0.2","IPv6Address":""},"IPAddress":"172.30.0.2"},
            "shop":{"IPAMConfig":null,"IPAddress":"172.18.0.5","GlobalIPv6Address":"fd00::5"},"odd":null}"#;
        let Networks(networks) = serde_json::from_str(json).unwrap();
        assert_eq!(networks[0].fixed, ["172.30.0.2"]);
        assert!(
            networks[1].fixed.is_empty()
                && networks[2] == Network { name: "odd".into(), ..Network::default() }
        );
        assert_eq!(networks[1].assigned, ["172.18.0.5", "fd00::5"]);
        assert!(serde_json::from_str::<Networks>("null").unwrap().0.is_empty());
        let json = r#"{"a":{"IPAddress":"172.30.0.2","MacAddress":"02:42:ac:1e:00:02"},
            "b":{"IPAddress":"172.30.0.2","MacAddress":"02:42:ac:1e:00:77"},"c":{"MacAddress":"02:42:ac:1e:00:02"},"d":{}}"#;
        let Networks(networks) = serde_json::from_str(json).unwrap();
        let macs = networks.iter().map(|network| (network.fixed_mac, network.odd_mac));
        assert_eq!(
            macs.collect::<Vec<_>>(),
            [(false, false), (false, true), (true, true), (false, false)]
        );
    }

    #[test]
    fn ports_are_read_with_their_ranges() {
        let json = r#"{"80/tcp":[{"HostIp":"","HostPort":"8080"}],"53/udp":[{"HostIp":"127.0.0.1","HostPort":"5300-5310"}],
            "1/tcp":[{"HostPort":""}],"2/tcp":null,"3/tcp":[{"HostPort":"x"},{"HostPort":"9-8"},{"HostPort":"0"}]}"#;
        let Ports(ports) = serde_json::from_str(json).unwrap();
        let spans: Vec<_> = ports.iter().map(|port| (port.first, port.last)).collect();
        assert_eq!(spans, [(8080, 8080), (5300, 5310), (1, u16::MAX), (1, u16::MAX)]);
        assert!(ports[0].overlaps(&ports[2]) && !ports[0].overlaps(&ports[1]));
    }
}
