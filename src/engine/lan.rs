//! A container's fixed addresses on the guest's own network (macvlan and ipvlan), where other
//! machines may have them too.

use std::time::Instant;

use serde::Deserialize;

use super::client::{Engine, Error, checked};
use super::network::{Endpoint, Endpoints};

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
    networks: Endpoints,
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
    let Endpoints(mut networks) = inspected.network_settings.networks;
    networks.sort_by(|(one, _), (other, _)| one.cmp(other));
    let addresses = |endpoint: Endpoint| -> Vec<String> {
        let own = endpoint.configured_mac().map(String::from).filter(short);
        let own = own.or_else(|| mac.clone());
        endpoint.configured_addresses().into_iter().filter(short).chain(own).collect()
    };
    networks
        .into_iter()
        .filter(|(network, _)| short(network))
        .map(|(network, endpoint)| (network, addresses(endpoint)))
        .filter(|(_, addresses)| !addresses.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::network::is_configured;

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
}
