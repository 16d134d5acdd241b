//! What is behind a volume or a network of an engine: another directory, a server, the guest's own
//! network.

use std::collections::HashMap;
use std::time::Instant;

use serde::Deserialize;

use super::client::{Engine, Error, checked};
use crate::sys::text::percent_encoded;

/// The kernel's limit for a path.
const LONGEST: usize = 4096;

/// Where the data of a volume is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backing {
    /// In the path that the engine reports.
    Itself,
    /// In this directory of the guest, which is mounted only while a container uses the volume.
    Directory(String),
    /// On a server, in the notation of a mount: `192.0.2.10:/media` or `//nas/media`; or with the
    /// driver of this name.
    Elsewhere(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Volume {
    #[serde(default)]
    driver: String,
    #[serde(default)]
    options: Option<HashMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Network {
    #[serde(default)]
    driver: String,
}

impl Engine {
    /// What is behind a volume.
    ///
    /// # Errors
    /// If the engine does not answer. A volume that it does not know counts as an ordinary one.
    pub fn backing(&self, volume: &str, deadline: Instant) -> Result<Backing, Error> {
        match self.get_json::<Volume>(&format!("/volumes/{}", checked(volume)?), deadline) {
            Ok(volume) => Ok(backing(volume)),
            Err(Error::Gone) => Ok(Backing::Itself),
            Err(error) => Err(error),
        }
    }

    /// Whether a network puts its containers into the guest's own network, each with an address
    /// there (macvlan, ipvlan).
    ///
    /// # Errors
    /// If the engine does not answer. A network that it does not know counts as an ordinary one.
    pub fn is_on_lan(&self, network: &str, deadline: Instant) -> Result<bool, Error> {
        let path = format!("/networks/{}", percent_encoded(network));
        match self.get_json::<Network>(&path, deadline) {
            Ok(network) => Ok(matches!(network.driver.as_str(), "macvlan" | "ipvlan")),
            Err(Error::Gone) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn backing(volume: Volume) -> Backing {
    // Podman says "local" too; older engines leave it out.
    if !matches!(volume.driver.as_str(), "" | "local") {
        return Backing::Elsewhere(volume.driver.chars().take(100).collect());
    }
    let options = volume.options.unwrap_or_default();
    let option = |name: &str| options.get(name).map(String::as_str).unwrap_or_default();
    let (kind, device) = (option("type"), option("device"));
    let flags: Vec<&str> = option("o").split(',').map(str::trim).collect();
    if device.is_empty() || device.len() > LONGEST {
        return Backing::Itself;
    }
    let is_bind = flags.iter().any(|flag| matches!(*flag, "bind" | "rbind"));
    match kind {
        "nfs" | "nfs4" | "cifs" | "smb3" | "smbfs" | "ceph" | "glusterfs" => {
            let address = flags.iter().find_map(|flag| flag.strip_prefix("addr="));
            let source = match (address, device.starts_with(':')) {
                (Some(address), true) => format!("{address}{device}"),
                _ => device.to_string(),
            };
            Backing::Elsewhere(source)
        }
        _ if is_bind && device.starts_with('/') => Backing::Directory(device.to_string()),
        _ => Backing::Itself,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_the_local_driver_lead_elsewhere() {
        let of = |text: &str| backing(serde_json::from_str(text).unwrap());
        let elsewhere = |source: &str| Backing::Elsewhere(source.to_string());
        for (volume, expected) in [
            (r#"{"Driver":"local","Options":null}"#, Backing::Itself),
            (r#"{"Driver":"local","Options":{}}"#, Backing::Itself),
            (
                r#"{"Driver":"local","Options":{"type":"nfs","o":"addr=192.0.2.10,rw","device":":/media"}}"#,
                elsewhere("192.0.2.10:/media"),
            ),
            (
                r#"{"Driver":"local","Options":{"type":"nfs4","o":"rw","device":"nas:/media"}}"#,
                elsewhere("nas:/media"),
            ),
            (
                r#"{"Driver":"local","Options":{"type":"cifs","o":"username=x","device":"//nas/media"}}"#,
                elsewhere("//nas/media"),
            ),
            (
                r#"{"Driver":"local","Options":{"type":"none","o":"bind","device":"/srv/pg"}}"#,
                Backing::Directory("/srv/pg".to_string()),
            ),
            (
                r#"{"Driver":"local","Options":{"type":"tmpfs","o":"size=1g","device":"tmpfs"}}"#,
                Backing::Itself,
            ),
            (r#"{"Driver":"vieux/sshfs"}"#, elsewhere("vieux/sshfs")),
        ] {
            assert_eq!(of(volume), expected, "{volume}");
        }
    }
}
