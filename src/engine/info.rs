use serde::Deserialize;

use crate::sys::text;

/// What an engine reports about itself, as far as backups need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Such as `29.0.1`.
    pub version: String,
    /// Containers keep running while the engine is down.
    pub live_restore: bool,
    /// The directory in the guest of containers, images and volumes; at most 4096 bytes.
    pub data_root: Option<String>,
    /// The file systems of containers are with a containerd that Docker does not run itself (the
    /// default of new installations since Docker 29).
    pub uses_containerd: bool,
    /// How many containers there are, running or not.
    pub containers: u64,
    /// The engine's own id, which survives its restarts; Podman makes a new one for each answer.
    pub id: String,
    /// The runtime for containers that name none.
    pub default_runtime: String,
}

/// The data directory of containerd as packaged by distributions and Docker.
pub const CONTAINERD: &str = "/var/lib/containerd";

/// If containerd's socket is in one of these, dockerd runs it itself, with its data below Docker's.
const OWN_CONTAINERD: [&str; 2] = ["/var/run/docker/", "/run/docker/"];

impl Info {
    /// Reads the engine's answer to `GET /info`.
    pub fn parse(answer: &[u8]) -> Result<Info, String> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Answer {
            #[serde(default)]
            server_version: String,
            #[serde(default)]
            live_restore_enabled: bool,
            #[serde(default)]
            docker_root_dir: String,
            #[serde(default)]
            driver_status: Option<Vec<(String, String)>>,
            #[serde(default)]
            containerd: Option<Containerd>,
            #[serde(default)]
            containers: u64,
            #[serde(default, rename = "ID")]
            id: String,
            #[serde(default)]
            default_runtime: String,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Containerd {
            #[serde(default)]
            address: String,
        }
        let answer: Answer =
            serde_json::from_slice(answer).map_err(|error| text::excerpt(&error, 300))?;
        Ok(Info {
            version: answer.server_version.chars().take(40).collect(),
            live_restore: answer.live_restore_enabled,
            data_root: Some(answer.docker_root_dir).filter(|path| is_path(path)),
            uses_containerd: answer.driver_status.iter().flatten().any(|(key, value)| {
                key == "driver-type" && value.starts_with("io.containerd.snapshotter.")
            }) && !answer.containerd.is_some_and(|containerd| {
                OWN_CONTAINERD.iter().any(|own| containerd.address.starts_with(own))
            }),
            containers: answer.containers,
            id: answer.id.chars().take(80).collect(),
            default_runtime: answer.default_runtime.chars().take(80).collect(),
        })
    }

    /// The parts of such a directory. The containers need all of them, and each can be a mount point
    /// of its own.
    pub fn parts(directory: &str) -> impl Iterator<Item = String> {
        /// Docker's and containerd's, then Podman's.
        const PARTS: [&str; 12] = [
            "containers",
            "image",
            "overlay2",
            "fuse-overlayfs",
            "btrfs",
            "vfs",
            "containerd",
            "overlay",
            "overlay-containers",
            "overlay-images",
            "overlay-layers",
            "io.containerd.snapshotter.v1.overlayfs",
        ];
        PARTS.into_iter().map(move |part| format!("{directory}/{part}"))
    }

    /// The directories in the guest that a backup needs to contain its containers.
    pub fn directories(&self) -> impl Iterator<Item = &str> {
        self.data_root.as_deref().into_iter().chain(self.uses_containerd.then_some(CONTAINERD))
    }
}

/// At most as long as the kernel allows.
fn is_path(text: &str) -> bool {
    text.starts_with('/') && text.len() <= 4096
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_engine_leaves_out_is_not_so() {
        let info = Info::parse(b"{}").unwrap();
        assert_eq!((info.live_restore, info.data_root), (false, None));
        let answer =
            br#"{"ServerVersion":"29.0.1","LiveRestoreEnabled":true,"DockerRootDir":"/srv"}"#;
        let info = Info::parse(answer).unwrap();
        assert!(info.live_restore && info.data_root.as_deref() == Some("/srv"));
        assert!(Info::parse(b"[").is_err());
    }

    #[test]
    fn containers_may_lie_with_containerd() {
        let of = |containerd: &str| {
            let answer = format!(
                r#"{{"DockerRootDir":"/d","DriverStatus":[["driver-type","io.containerd.snapshotter.v1"]]{containerd}}}"#
            );
            Info::parse(answer.as_bytes()).unwrap().directories().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(of(""), "/d /var/lib/containerd");
        let address = r#","Containerd":{"Address":"/run/containerd/containerd.sock"}"#;
        assert_eq!(of(address), "/d /var/lib/containerd");
        let own = r#","Containerd":{"Address":"/var/run/docker/containerd/containerd.sock"}"#;
        assert_eq!(of(own), "/d");
        let old = Info::parse(br#"{"DriverStatus":null,"Containerd":null}"#).unwrap();
        assert!(!old.uses_containerd);
    }
}
