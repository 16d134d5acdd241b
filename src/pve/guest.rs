use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::options::is_on;
use crate::sys::{Root, file};
use crate::vzdump::Vmid;

/// The largest file in pmxcfs is 1 MiB.
pub(super) const LIMIT: u64 = 1 << 20;

/// The section of the snapshot that vzdump makes of a container.
const VZDUMP_SNAPSHOT: &str = "[vzdump]";

/// Where the cluster has a guest.
#[derive(Debug)]
pub enum Place {
    /// On this node.
    Here(Config),
    /// On the named node.
    Elsewhere(String),
    /// Nowhere.
    Gone,
}

/// The current settings of a guest, without its snapshots' sections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// `hostname` of a container, `name` of a VM.
    pub hostname: Option<String>,
    /// What PVE is doing with the guest: `backup`, `snapshot`, `migrate`, ...
    pub lock: Option<String>,
    /// Proxmox VE starts it at boot, unless a lock prevents it.
    pub onboot: bool,
    /// The volume of the root file system (a VM's first disk): a different one means a different
    /// guest.
    pub root_volume: Option<String>,
    /// Mount points besides the root file system.
    pub mounts: Vec<Mount>,
    /// The volume of the guest's hookscript, such as `local:snippets/stillpoint`.
    pub hookscript: Option<String>,
    /// Whether the guest's root has no rights on the node.
    pub unprivileged: bool,
    /// Additional features of the container, as written: `nesting=1,fuse=1`.
    pub features: Option<String>,
    /// The values of `net0`, `net1`, ..., with their numbers.
    pub nets: Vec<(u32, String)>,
    /// It has a snapshot with the name that vzdump uses.
    pub vzdump_snapshot: bool,
}

/// A mount point of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Such as `mp0`; `None` for a mount of LXC's own setting `lxc.mount.entry`.
    pub key: Option<String>,
    /// The value as it is written.
    pub value: String,
    /// Its path in the guest.
    pub path: String,
    /// Whether vzdump archives it: `backup=1`, and neither a bind mount nor a device.
    pub in_backup: bool,
    /// The guest may not write there.
    pub read_only: bool,
    /// What is mounted: a volume such as `local-lvm:vm-9001-disk-1`, or a directory or device of
    /// the node.
    pub source: String,
}

impl Place {
    /// Looks a guest up in `/etc/pve`.
    pub fn of(root: &Root, vmid: Vmid) -> Result<Place> {
        for directory in ["/etc/pve/lxc", "/etc/pve/qemu-server"] {
            if let Some(config) = read(&root.path(directory).join(format!("{vmid}.conf")))? {
                return Ok(Place::Here(config));
            }
        }
        let nodes = match fs::read_dir(root.path("/etc/pve/nodes")) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Place::Gone),
            other => other.context("/etc/pve/nodes")?,
        };
        for node in nodes {
            let node = node.context("/etc/pve/nodes")?;
            for kind in ["lxc", "qemu-server"] {
                let path = node.path().join(kind).join(format!("{vmid}.conf"));
                if path.exists() {
                    return Ok(Place::Elsewhere(node.file_name().to_string_lossy().into_owned()));
                }
            }
        }
        Ok(Place::Gone)
    }
}

pub(super) fn read(path: &Path) -> Result<Option<Config>> {
    let text = file::read_text(path, LIMIT).with_context(|| path.display().to_string())?;
    Ok(text.map(|text| Config::parse(&text)))
}

impl Config {
    /// Parses a guest's configuration. As in Proxmox VE, invalid lines are ignored, and the last of
    /// two lines with the same key counts. Pending changes and snapshots are sections below the
    /// current settings.
    pub fn parse(text: &str) -> Config {
        let mut config = Config::default();
        let mut disks: Vec<(&str, &str)> = Vec::new();
        for line in text.lines().take_while(|line| !line.starts_with('[')) {
            // LXC's own settings are also written with an equals sign.
            config.mounts.extend(line.strip_prefix("lxc.mount.entry").and_then(entry));
            let Some((key, value)) = line.split_once(':') else { continue };
            // A key without a value is no setting.
            let value = Some(value.trim()).filter(|value| !value.is_empty());
            let Some(value) = value else { continue };
            match key {
                "hostname" | "name" => config.hostname = Some(value.to_string()),
                "onboot" => config.onboot = is_on(value),
                "lock" => config.lock = Some(value.to_string()),
                "rootfs" => config.root_volume = volume(value),
                "hookscript" => config.hookscript = Some(value.to_string()),
                "unprivileged" => config.unprivileged = is_on(value),
                "features" => config.features = Some(value.to_string()),
                _ if is_numbered(key, "net") => {
                    let Ok(number) = key[3..].parse::<u32>() else { continue };
                    config.nets.retain(|(other, _)| *other != number);
                    config.nets.push((number, value.to_string()));
                }
                _ if is_numbered(key, "mp") => {
                    config.mounts.retain(|mount| mount.key.as_deref() != Some(key));
                    config.mounts.extend(mount(key, value));
                }
                _ if is_disk(key) => match disks.iter_mut().find(|(other, _)| *other == key) {
                    Some(disk) => disk.1 = value,
                    None => disks.push((key, value)),
                },
                _ => {}
            }
        }
        let mut volumes = disks.iter().filter_map(|(_, value)| volume(value));
        let first = volumes.find(|volume| volume != "none");
        config.root_volume = config.root_volume.or(first);
        config.vzdump_snapshot = text.lines().any(|line| line.trim_end() == VZDUMP_SNAPSHOT);
        config
    }

    /// Whether a container may use a feature, such as `fuse`.
    pub fn has_feature(&self, name: &str) -> bool {
        self.feature_parts().any(|part| feature(part) == Some((name, true)))
    }

    /// `features` without one of them; `None` if nothing remains.
    pub fn features_without(&self, name: &str) -> Option<String> {
        let is_it = |part: &&str| feature(part).is_some_and(|(other, _)| other == name);
        let left: Vec<&str> = self.feature_parts().filter(|part| !is_it(part)).collect();
        (!left.is_empty()).then(|| left.join(","))
    }

    fn feature_parts(&self) -> impl Iterator<Item = &str> {
        self.features.iter().flat_map(|features| features.split(','))
    }

    /// The mount point that contains `path` in the guest; `None` if it is on the root file system.
    pub fn mount_of(&self, path: &str) -> Option<&Mount> {
        self.mounts
            .iter()
            .filter(|mount| Path::new(path).starts_with(&mount.path))
            .max_by_key(|mount| Path::new(&mount.path).components().count())
    }

    /// Whether `path` in the guest is on a volume that is not in the backup.
    pub fn left_out(&self, path: &str) -> bool {
        self.mount_of(path).is_some_and(|mount| !mount.in_backup)
    }
}

fn volume(value: &str) -> Option<String> {
    let first = value.split(',').next()?;
    Some(first.strip_prefix("volume=").unwrap_or(first).to_string())
}

/// `nesting=1` as name and value.
fn feature(part: &str) -> Option<(&str, bool)> {
    part.split_once('=').map(|(name, value)| (name, is_on(value)))
}

fn mount(key: &str, value: &str) -> Option<Mount> {
    let option =
        |name: &str| value.split(',').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
    let path = option("mp")?.trim_end_matches('/').to_string();
    let source = volume(value)?;
    let in_backup = !source.starts_with('/') && option("backup").is_some_and(is_on);
    let (key, value) = (Some(key.to_string()), value.to_string());
    Some(Mount { key, value, path, in_backup, read_only: option("ro").is_some_and(is_on), source })
}

/// A mount of LXC besides Proxmox VE's mount points, in fstab's format:
/// `/tank/media mnt/media none bind,create=dir 0 0`. Devices, and mounts in the guest's `/proc`,
/// `/sys` and `/run`, are no data.
fn entry(setting: &str) -> Option<Mount> {
    let value = match setting.strip_prefix(':') {
        Some(value) => value,
        None => setting.trim_start().strip_prefix('=')?,
    };
    let mut fields = value.split_whitespace().map(|field| field.replace("\\040", " "));
    let (source, target) = (fields.next()?, fields.next()?);
    let read_only = fields.nth(1).is_some_and(|options| options.split(',').any(|it| it == "ro"));
    // Relative to the guest's root, or with the path under which LXC mounts the root.
    let target = target.split_once("/rootfs/").map_or(target.as_str(), |(_, target)| target);
    let path = format!("/{}", target.trim_matches('/'));
    let is_data =
        !["/dev", "/proc", "/sys", "/run"].iter().any(|no| Path::new(&path).starts_with(no));
    let value = value.to_string();
    let mount = Mount { key: None, value, path, in_backup: false, read_only, source };
    (mount.source.starts_with('/') && is_data).then_some(mount)
}

fn is_numbered(key: &str, prefix: &str) -> bool {
    key.strip_prefix(prefix).is_some_and(|number| {
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

fn is_disk(key: &str) -> bool {
    ["scsi", "virtio", "sata", "ide"].iter().any(|prefix| is_numbered(key, prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "#web: not this\narch: amd64\nhostname: prod-docker\nlock: backup\n\
        mp0: local:subvol-9001-disk-1,mp=/data,backup=1,size=8G\n\
        mp1: /mnt/bulk,mp=/data/bulk,backup=1\n\
        mp2: local:subvol-9001-disk-2,mp=/srv/\n\
        rootfs: volume=local:subvol-9001-disk-0,size=8G\nunparsable\n\
        [before-upgrade]\nhostname: old\nlock: snapshot\nrootfs: local:old\n";

    #[test]
    fn only_the_current_section_counts() {
        let config = Config::parse(CONFIG);
        assert_eq!(config.hostname.as_deref(), Some("prod-docker"));
        assert_eq!(config.lock.as_deref(), Some("backup"));
        assert_eq!(config.root_volume.as_deref(), Some("local:subvol-9001-disk-0"));
    }

    #[test]
    fn of_two_lines_with_the_same_key_the_last_counts() {
        let config = Config::parse(
            "hostname: a\nhostname: b\nlock: backup\nlock:\nonboot: 1\nonboot: 0\nunprivileged: Yes\n\
            mp0: local:a,mp=/srv,backup=1\nmp1: local:b,mp=/data\nmp0: local:a,mp=/srv\n hostname: c\n\
            rootfs: local:x\nrootfs: local:y\nfeatures: fuse=1\nfeatures: nesting=1,keyctl=0,fuse=0\n",
        );
        assert_eq!(config.hostname.as_deref(), Some("b"));
        assert_eq!(config.lock.as_deref(), Some("backup"), "a key without a value says nothing");
        assert_eq!(config.root_volume.as_deref(), Some("local:y"));
        assert!(!config.onboot && config.unprivileged);
        assert_eq!(config.mounts.len(), 2);
        assert!(config.left_out("/srv/pg"), "its last line is without backup=1");
        assert!(config.has_feature("nesting") && !config.has_feature("fuse"));
        assert!(!config.has_feature("keyctl"));
        let vm = Config::parse("scsi0: local:a\nsata0: local:b\nscsi0: local:c,size=4G\n");
        assert_eq!(vm.root_volume.as_deref(), Some("local:c"));
    }

    #[test]
    fn what_is_pending_and_the_snapshots_do_not_count() {
        let config = Config::parse(
            "hostname: a\n# [vzdump]\n\n[pve:pending]\nhostname: b\ndelete: lock\n[vzdump]\nlock: x\n",
        );
        assert_eq!((config.hostname.as_deref(), config.lock), (Some("a"), None));
        assert!(config.vzdump_snapshot);
        let other = Config::parse("#[vzdump]\n[vzdump-2]\n");
        assert!(!other.vzdump_snapshot);
    }

    #[test]
    fn the_other_features_stay() {
        let config = Config::parse("features: fuse=1,mount=nfs;cifs,nesting=1\n");
        assert_eq!(config.features_without("fuse").unwrap(), "mount=nfs;cifs,nesting=1");
        assert_eq!(Config::parse("features: fuse=1\n").features_without("fuse"), None);
    }

    #[test]
    fn volumes_that_are_not_in_the_backup_are_known() {
        let config = Config::parse(CONFIG);
        assert!(!config.left_out("/var/lib/docker/volumes/pg"));
        assert!(!config.left_out("/data/pg"));
        assert!(!config.left_out("/datadir"));
        assert!(config.left_out("/data/bulk/pg"), "a bind mount never is");
        assert!(config.left_out("/srv/pg"), "backup=0 is the default");
    }

    #[test]
    fn what_lxc_mounts_is_a_mount_point_of_the_node() {
        let config = Config::parse(
            "lxc.mount.entry: /tank/the\\040media mnt/media none bind,create=dir 0 0\n\
            lxc.mount.entry = /tank/www /var/lib/lxc/9001/rootfs/srv/www none bind 0 0\n\
            lxc.mount.entry: /dev/net/tun dev/net/tun none bind,create=file\n\
            lxc.mount.entry: tmpfs tmp tmpfs defaults\nlxc.mount.entry:\nlxc.mount.entryx: /a b\n",
        );
        let found: Vec<(&str, &str)> =
            config.mounts.iter().map(|mount| (&*mount.source, &*mount.path)).collect();
        assert_eq!(found, [("/tank/the media", "/mnt/media"), ("/tank/www", "/srv/www")]);
        assert!(config.left_out("/mnt/media/films"));
    }

    #[test]
    fn a_vm_is_known_by_its_first_disk() {
        let text = "name: win\nide2: none,media=cdrom\nscsi0: local-lvm:vm-100-disk-0,size=32G\n";
        assert_eq!(Config::parse(text).root_volume.as_deref(), Some("local-lvm:vm-100-disk-0"));
    }
}
