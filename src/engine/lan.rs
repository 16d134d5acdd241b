//! A container's fixed addresses on the guest's own network (macvlan and ipvlan), where other
//! machines may have them too.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::Deserialize;

use super::client::{Engine, Error, checked};

/// How many networks of one container are read; people use a handful.
const MOST_NETWORKS: usize = 64;

/// The longest address or network name.
const LONGEST: usize = 255;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    #[serde(default)]
    config: Config,
    #[serde(default)]
    network_settings: Settings,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    #[serde(default)]
    mac_address: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Settings {
    #[serde(default)]
    networks: Option<BTreeMap<String, Endpoint>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Endpoint {
    #[serde(default, rename = "IPAMConfig")]
    ipam_config: Option<Addresses>,
    #[serde(default)]
    mac_address: String,
    #[serde(default, rename = "EndpointID")]
    id: String,
    #[serde(default, rename = "IPAddress")]
    ip_address: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Addresses {
    #[serde(default, rename = "IPv4Address")]
    v4: String,
    #[serde(default, rename = "IPv6Address")]
    v6: String,
}

impl Engine {
    /// The addresses on the guest's own network in a container's configuration, such as
    /// `192.0.2.50 on lan`.
    ///
    /// # Errors
    /// If the engine does not answer, or has no such container.
    pub fn fixed_on_lan(&self, id: &str, deadline: Instant) -> Result<Vec<String>, Error> {
        let path = format!("/containers/{}/json", checked(id)?);
        let inspected: Inspected = self.get_json_of_container(&path, deadline)?;
        let mut found = Vec::new();
        for (network, addresses) in fixed(inspected) {
            if self.is_on_lan(&network, deadline)? {
                found.extend(addresses.iter().map(|address| format!("{address} on {network}")));
            }
        }
        Ok(found)
    }
}

/// The networks for which a container's configuration names an address, hardware addresses
/// included.
fn fixed(inspected: Inspected) -> Vec<(String, Vec<String>)> {
    let short = |text: &String| !text.is_empty() && text.len() <= LONGEST;
    let mac = inspected.config.mac_address.filter(short);
    let networks = inspected.network_settings.networks.unwrap_or_default();
    let addresses = |endpoint: Endpoint| -> Vec<String> {
        let named = endpoint.ipam_config.map(|ipam| [ipam.v4, ipam.v6]).unwrap_or_default();
        let up = !endpoint.id.is_empty() || !endpoint.ip_address.is_empty();
        let own = Some(endpoint.mac_address).filter(|mac| is_configured(mac, up));
        let own = own.filter(short).or_else(|| mac.clone());
        named.into_iter().filter(short).chain(own).collect()
    };
    networks
        .into_iter()
        .filter(|(network, _)| short(network))
        .take(MOST_NETWORKS)
        .map(|(network, endpoint)| (network, addresses(endpoint)))
        .filter(|(_, addresses)| !addresses.is_empty())
        .collect()
}

/// Whether the hardware address of an endpoint comes from the container's configuration. One that
/// is not `up` has no other; those that engines make up are locally administered.
pub fn is_configured(mac: &str, up: bool) -> bool {
    let first = mac.split([':', '-']).next().and_then(|octet| u8::from_str_radix(octet, 16).ok());
    first.is_some_and(|octet| !up || octet & 2 == 0) && mac != "00:00:00:00:00:00"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hardware_address_of_one_endpoint_is_fixed_unless_the_engine_made_it_up() {
        for (mac, up, fixed) in [
            ("00:11:22:33:44:55", true, true),
            ("00:11:22:33:44:55", false, true),
            ("02:42:ac:1e:00:02", true, false),
            ("02:42:ac:1e:00:02", false, true),
            ("", true, false),
            ("", false, false),
            ("00:00:00:00:00:00", false, false),
        ] {
            assert_eq!(is_configured(mac, up), fixed, "{mac} {up}");
        }
        let lan = r#"{"NetworkSettings":{"Networks":{"lan":{"MacAddress":"02:00:00:00:00:07"}}}}"#;
        let found = fixed(serde_json::from_str(lan).unwrap());
        assert_eq!(found[0].1, ["02:00:00:00:00:07"]);
    }

    #[test]
    fn only_what_the_configuration_names_is_fixed() {
        let of = |text: &str| fixed(serde_json::from_str(text).unwrap());
        let settings = r#""NetworkSettings":{"Networks":{
            "lan":{"IPAMConfig":{"IPv4Address":"192.0.2.50","IPv6Address":""},"IPAddress":"192.0.2.50"},
            "shop":{"IPAMConfig":null,"IPAddress":"172.18.0.2","MacAddress":"02:42:ac:12:00:02"}}}"#;
        let lan = ("lan".to_string(), vec!["192.0.2.50".to_string()]);
        assert_eq!(of(&format!("{{{settings}}}")), [lan]);
        let mac = of(&format!(r#"{{"Config":{{"MacAddress":"02:00:00:00:00:01"}},{settings}}}"#));
        assert_eq!(mac[0].1, ["192.0.2.50", "02:00:00:00:00:01"]);
        assert_eq!(mac[1].1, ["02:00:00:00:00:01"]);
        assert!(of(r#"{"Config":{},"NetworkSettings":{"Networks":null}}"#).is_empty());
    }
}
