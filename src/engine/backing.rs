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
    /// In this directory or file of the guest, which is mounted only while a container uses the
    /// volume.
    Directory(String),
    /// On a server, in the notation of a mount: `192.0.2.10:/media` or `//nas/media`; or with the
    /// driver of this name.
    Elsewhere(String),
}

/// What matters about a volume for a copy of its guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    pub backing: Backing,
    /// It is mounted so that nobody can write to it, whatever its containers ask for.
    pub read_only: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
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
    pub fn volume(&self, name: &str, deadline: Instant) -> Result<Volume, Error> {
        match self.get_json::<Inspected>(&format!("/volumes/{}", checked(name)?), deadline) {
            Ok(inspected) => Ok(inspected.into()),
            Err(Error::Gone) => Ok(Volume { backing: Backing::Itself, read_only: false }),
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

impl From<Inspected> for Volume {
    fn from(inspected: Inspected) -> Volume {
        // Podman says "local" too; older engines leave it out.
        if !matches!(inspected.driver.as_str(), "" | "local") {
            let driver = inspected.driver.chars().take(100).collect();
            return Volume { backing: Backing::Elsewhere(driver), read_only: false };
        }
        let options = inspected.options.unwrap_or_default();
        let option = |name: &str| options.get(name).map(String::as_str).unwrap_or_default();
        let flags: Vec<&str> = option("o").split(',').map(str::trim).collect();
        Volume {
            backing: local(option("type"), option("device"), &flags),
            read_only: flags.contains(&"ro"),
        }
    }
}

/// What the local driver mounts.
fn local(kind: &str, device: &str, flags: &[&str]) -> Backing {
    if device.is_empty() || device.len() > LONGEST {
        return Backing::Itself;
    }
    match kind {
        "nfs" | "nfs4" | "cifs" | "smb3" | "smbfs" | "ceph" | "glusterfs" => {
            let address = flags.iter().find_map(|flag| flag.strip_prefix("addr="));
            let source = match (address, device.starts_with(':')) {
                (Some(address), true) => format!("{address}{device}"),
                _ => device.to_string(),
            };
            Backing::Elsewhere(source)
        }
        "tmpfs" | "overlay" => Backing::Itself,
        // A directory, a file with a file system, or a device: only its place matters.
        _ if device.starts_with('/') => Backing::Directory(device.to_string()),
        _ => Backing::Itself,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_the_local_driver_lead_elsewhere() {
        let of = |text: &str| Volume::from(serde_json::from_str::<Inspected>(text).unwrap());
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
            (
                r#"{"Driver":"local","Options":{"type":"ext4","o":"loop","device":"/srv/pg.img"}}"#,
                Backing::Directory("/srv/pg.img".to_string()),
            ),
            (r#"{"Driver":"vieux/sshfs"}"#, elsewhere("vieux/sshfs")),
        ] {
            assert_eq!(of(volume), Volume { backing: expected, read_only: false }, "{volume}");
        }
        let volume = r#"{"Driver":"local","Options":{"type":"nfs","o":"addr=192.0.2.10,ro","device":":/media"}}"#;
        assert_eq!(of(volume), Volume { backing: elsewhere("192.0.2.10:/media"), read_only: true });
    }
}
